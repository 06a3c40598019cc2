"""How much memory does training take, and how fast is it, as the catalogue grows?

Bar: at 10k, 100k and 1M items a peak of 1.0, 1.5 and 4 GB of resident memory, and no less than half of the targets/s at
10k items; width 64, about 14,000 targets a step, the same loss and optimiser in all. Events are generated: every item
occurs, and a few often. Each catalogue has a process of its own, which trains by `regard.train.loop.fit` as
`regard train` does: two epochs, each with a look at validation that keeps the best weights, and a checkpoint. Memory is
VmHWM, the most that was ever resident in the process, libraries and data included; beside it what was resident before
the model was built. Speed is that of the second epoch without validation, per second that the processor worked.

    python benchmarks/memory.py [--items 10000,100000,1000000] [--threads 2] [--set model.negatives=1024] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from regard.config import Settings
from regard.data.batches import Histories, TrainingBatches
from regard.data.shape import Shape
from regard.model import topk
from regard.model.retriever import Retriever
from regard.model.scorer import top_for
from regard.train.loop import fit

BARS = {10_000: 1.0, 100_000: 1.5, 1_000_000: 4.0}  # GB
LENGTH = 140  # of a user's history
TOLD = (
    "model.width=64",
    "model.negatives=1024",
    "model.negative_sampling=mixed",
    "train.table_optimizer=rowwise",
    "train.batch_tokens=14000",
    "train.epochs=2",
    "train.metric=ndcg@10",
)


class Timed:
    """Batches of so many steps an epoch; notes the seconds of each."""

    def __init__(self, batches: TrainingBatches, steps: int) -> None:
        self.batches, self.steps = batches, steps
        self.noted: list[dict[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def steps_per_epoch(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        begun, worked, targets = time.perf_counter(), time.process_time(), 0
        for _, batch in zip(range(self.steps), self.batches, strict=False):
            targets += int((batch.targets > 0).sum() + (batch.first_targets > 0).sum())
            yield batch
        spent, worked = time.perf_counter() - begun, time.process_time() - worked
        self.noted.append({"targets": targets, "seconds": spent, "core_seconds": worked})


def generated(items: int, events: int) -> Any:
    """Histories of equal length in which every item occurs, and the popular ones by a power law; shuffled."""
    rng = np.random.default_rng(1)
    often = np.minimum(items * rng.random(events) ** 3, items - 1).astype(np.int32) + 1
    often[: min(items, events)] = rng.permutation(items)[:events] + 1
    rng.shuffle(often)
    return SimpleNamespace(item=often, behaviour=None, time=None, ends=np.arange(0, events + 1, LENGTH))


def cell(items: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Train on a catalogue in this process."""
    torch.set_num_threads(asked.threads)
    torch.manual_seed(1)
    settings = Settings().changed([*TOLD, *asked.set])
    users = max(2_000, -(-items // LENGTH))
    dataset = generated(items, users * LENGTH)
    split: Any = SimpleNamespace(
        order=None, training=lambda _: (dataset.ends[:-1], dataset.ends[1:]), target_events=lambda _: None
    )
    batches = TrainingBatches(
        dataset, split, window=settings.model.window, batch_tokens=settings.train.batch_tokens, seed=1
    )
    before = resident("VmRSS")
    model = Retriever(Shape(items), settings.model)
    counts = torch.from_numpy(np.bincount(dataset.item, minlength=items + 1))
    model.known, model.trained = counts > 0, counts > 0
    if model.negatives is not None:
        model.negatives.take(counts)
    some = Histories(torch.from_numpy(dataset.item[:LENGTH].astype(np.int64)), torch.tensor([0, LENGTH]))

    def validate() -> dict[str, float]:
        for _ in range(4):
            top_for(model, some, 10)
        return {"ndcg@10": float(len(timed.noted))}

    timed = Timed(batches, asked.steps)
    with tempfile.TemporaryDirectory() as folder:
        rows = fit(model, timed, settings.train, Path(folder), validate=validate)  # type: ignore[arg-type]
    last = timed.noted[-1]
    return {
        "items": items,
        "peak_gb": resident("VmHWM"),
        "before_gb": before,
        "targets_per_step": last["targets"] / asked.steps,
        "targets_per_second": last["targets"] / last["seconds"],
        "targets_per_core_second": last["targets"] / last["core_seconds"],
        "loss": [row["loss"] for row in rows],
        "rows_per_block": topk.rows_per_block(items + 1),
    }


def resident(name: str) -> float:
    """A figure of this process in GB: VmRSS, or VmHWM, its peak."""
    (line,) = [one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith(name)]
    return int(line.split()[1]) * 1024 / 1e9


def table(cells: list[dict[str, Any]]) -> str:
    """A row for each catalogue, and whether the bars are met."""
    lines = [
        "| items | peak GB | before the model | bar | targets/s | targets/core-s | of the first | verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for found in cells:
        share = found["targets_per_core_second"] / cells[0]["targets_per_core_second"]
        bar = BARS.get(found["items"])
        met = share >= 0.5 and (bar is None or found["peak_gb"] <= bar)
        lines.append(
            f"| {found['items']:,} | {found['peak_gb']:.2f} | {found['before_gb']:.2f} | {bar or '-'} "
            f"| {found['targets_per_second']:,.0f} | {found['targets_per_core_second']:,.0f} | {share:.2f} "
            f"| {'met' if met else '**missed**'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default=",".join(map(str, BARS)), help="catalogues; ratios are to the first")
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="raw numbers")
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(cell(asked.cell, asked)))
        return
    cells = []
    for items in asked.items.split(","):
        passed = [f"--steps={asked.steps}", f"--threads={asked.threads}", *(f"--set={one}" for one in asked.set)]
        command = [sys.executable, __file__, f"--cell={items}", *passed]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        cells.append(json.loads(done.stdout))
    print(json.dumps(cells, indent=1) if asked.json else table(cells))


if __name__ == "__main__":
    main()
