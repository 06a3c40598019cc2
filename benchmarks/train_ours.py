"""One cell of ours in the comparison of training: a run of `regard train`, its seconds, and what it does on test.

Runs in a process of its own; `train.py` starts it:

    python benchmarks/train_ours.py '{"dataset": …, "settings": {…}, "folder": …, "speed": false}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from regard import pipeline
from regard.config import Settings
from regard.data.split import Cases
from regard.evaluate.protocol import Scorer
from regard.manifest import write_json
from regard.recommend.run import Run
from regard.training.protocol import Protocol
from road_cell import machine, peak_gb

ANSWER = "answer.json"


class Marks:
    """The processor's seconds around each look at validation; what lies between two looks is learning."""

    def __init__(self) -> None:
        self.begun = time.process_time()
        self.learned: list[float] = []
        marks, look = self, Protocol.validation

        def timed(self: Protocol, scorer: Scorer, cases: Cases) -> dict[str, float]:
            marks.learned.append(time.process_time() - marks.begun)
            found = look(self, scorer, cases)
            marks.begun = time.process_time()
            return found

        Protocol.validation = timed  # type: ignore[method-assign]  # the public way to train has no hook for it


def epochs_of(run: Run, marks: Marks) -> list[dict[str, Any]]:
    """Return a row per look at validation: seconds of learning since the last one, targets, figures."""
    rows: list[dict[str, Any]] = []
    seconds = targets = 0.0
    for row in run.manifest["epochs"]:
        seconds += row["seconds"]
        targets += row["targets_per_second"] * row["seconds"]
        if row["validation"]:
            told = {"epoch": row["epoch"], "step": row["step"], "targets": round(targets), "seconds": round(seconds, 3)}
            worked = round(marks.learned[len(rows)], 3) if len(rows) < len(marks.learned) else None
            rows.append({**told, "processor_seconds": worked, "validation": row["validation"]})
            seconds = targets = 0.0
    return rows


def rate_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return targets per second, the first epoch left out: it is the warm-up."""
    before, *rows = rows
    targets, seconds, worked = (sum(row[name] for row in rows) for name in ("targets", "seconds", "processor_seconds"))
    return {
        "steps": rows[-1]["step"] - before["step"],
        "targets": targets,
        "seconds": round(seconds, 3),
        "targets_per_second": round(targets / seconds, 1),
        "targets_per_core_second": round(targets / worked, 1),
    }


def main() -> None:
    task = json.loads(sys.argv[1])
    settings, folder = Settings.of(task["settings"]), Path(task["folder"])
    marks, began = Marks(), time.perf_counter()
    run = pipeline.train(task["dataset"], settings, folder / "run")
    told: dict[str, Any] = {
        "side": "regard",
        "versions": {"regard": run.manifest["made_by"]["regard"], "torch": str(torch.__version__)},
        "settings": run.manifest["settings"],
        "seconds": round(time.perf_counter() - began, 2),
        "machine": machine(settings),
        "peak_gb": round(peak_gb(), 2),
    }
    if task["speed"]:
        told["rate"] = rate_of(epochs_of(run, marks))
    else:
        pipeline.evaluate(run, baselines="none").result.save(folder, "evaluation-test")
        told["epochs"] = epochs_of(run, marks)
    write_json(folder / ANSWER, told)


if __name__ == "__main__":
    main()
