"""One cell of the road: a log prepared, or a model trained and measured on it.

Each runs in a process of its own, so that seconds and peak memory are its own; `road.py` starts them:

    python benchmarks/road_cell.py '{"do": "measure", "dataset": …, "settings": {…}, "run": …, "out": …, …}'
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from regard import pipeline
from regard.config import Settings
from regard.data.store import Dataset
from regard.errors import DivergenceError, ProtocolError
from regard.evaluate.protocol import processor
from regard.manifest import write_json
from regard.recommend.run import PROGRESS, Run
from regard.train.loop import autocast_type, choose_device

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Turn the recipe into a dataset."""
    began = time.perf_counter()
    found = pipeline.prepare([], Path(task["dataset"]), config=Path(task["recipe_file"]))
    seconds = round(time.perf_counter() - began, 2)
    return {"seconds": seconds, "fingerprint": Dataset.open(task["dataset"]).fingerprint, "found": found}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; a refusal is a result too. A training that was killed goes on where it was."""
    settings = Settings.of(task["settings"])
    resumed = (Path(task["run"]) / PROGRESS).is_dir()
    console = Console(stderr=True) if sys.stderr.isatty() else None
    known = {name: task[name] for name in ("vectors", "start") if task.get(name)}
    began = time.perf_counter()
    try:
        run = pipeline.train(task["dataset"], settings, task["run"], resume=True, console=console, **known)
        seconds = round(time.perf_counter() - began, 2)
        result = pipeline.evaluate(run, baselines="none").result
    except (ProtocolError, DivergenceError) as error:
        return {"refused": str(error)}
    return {"training": {"seconds": seconds, "resumed": resumed, **learned(run)}, **result.to_json()}


def learned(run: Run) -> dict[str, Any]:
    """Say what a training chose and how fast it was; `seconds` beside it includes validation, these rates do not."""
    told: dict[str, Any] = {"choice": run.manifest["choice"], "validation": run.manifest["validation"]}
    epochs = run.manifest["epochs"]
    if not epochs:
        return told
    seconds = sum(row["seconds"] for row in epochs)
    targets = sum(row["targets_per_second"] * row["seconds"] for row in epochs)
    return told | {
        "epochs": len(epochs),
        "best_epoch": max(row["epoch"] for row in epochs if row["best"] or not row["validation"]),
        "learning_seconds": round(seconds, 2),
        "targets_per_second": round(targets / max(seconds, 1e-9)),
    }


def machine(settings: Settings) -> dict[str, Any]:
    """Name what the seconds depend on."""
    device = choose_device(settings.train.device)
    precision = autocast_type(settings.train.precision, device)
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "precision": str(precision or torch.float32).removeprefix("torch."),
    }


def peak_gb() -> float:
    """Return the most resident memory this process had; `ru_maxrss` would inherit that of its parent."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)  # no cell outlives its walk
    task = json.loads(sys.argv[1])
    found = prepare(task) if task["do"] == "prepare" else measure(task)
    around = {"machine": machine(Settings.of(task.get("settings", {}))), "peak_gb": round(peak_gb(), 2)}
    places = ("dataset", "run", "out", "recipe_file", "start")
    told = {name: value for name, value in task.items() if name not in places}
    write_json(task["out"], {**told, **found, **around})


if __name__ == "__main__":
    main()
