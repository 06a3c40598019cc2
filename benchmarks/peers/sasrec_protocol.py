"""What every peer in the comparison of training shares: the clock, when to stop, and the form of its answer.

A side learns from `Log.items`, and after every epoch lists the best items for the validation histories; these lists are
scored by regard's evaluator. The measure here decides when to stop, and of which epoch the test lists are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from din_protocol import machine
from sasrec_log import Cases, K, Log
from torch import Tensor

ANSWER = "answer.json"
ROWS = 256  # histories scored at once
Score = Callable[[Tensor], Tensor]
"""Histories (b, L) of item codes, oldest first, zeros before them -> scores (b, n_items + 1), by item code."""


def best_of(cases: Cases, score: Score, length: int, known: np.ndarray | None = None) -> np.ndarray:
    """Return the best K items (C, K) that are not in the history, best first.

    `known` (n_items + 1,): items that the library can read; others are left out of what it reads. Ties in float32
    fall as they fall.
    """
    readable = cases if known is None else cases.of(known)
    found = []
    with torch.inference_mode():
        for start in range(0, len(cases), ROWS):
            rows = slice(start, min(start + ROWS, len(cases)))
            scores = score(torch.from_numpy(readable.table(rows, length))).float()
            scores[:, 0] = -torch.inf
            at, seen = (torch.from_numpy(part.astype(np.int64)) for part in cases.entries(rows))
            scores[at.to(scores.device), seen.to(scores.device)] = -torch.inf
            found.append(scores.topk(K).indices.cpu().numpy().astype(np.int32))
    return np.concatenate(found)


def ndcg(lists: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of 1 / log2(1 + rank) of targets (C,) in lists (C, K), 0 where they are in none."""
    hit = lists == targets[:, None]
    return float((hit / np.log2(np.arange(2, lists.shape[1] + 2))).sum(1).mean())


@dataclass
class Course:
    """The course of a training: seconds of learning, quality after every epoch, and whether it is over.

    `--speed`: nothing is scored; steps are timed, those of the warm-up apart.
    """

    log: Log
    options: argparse.Namespace
    epochs: list[dict[str, Any]] = field(default_factory=list)
    marks: list[tuple[float, float, int]] = field(default_factory=list)
    _begun: tuple[float, float] = (0.0, 0.0)
    _targets: int = 0

    def start(self) -> None:
        """Begin an epoch of learning."""
        self._begun, self._targets = (time.perf_counter(), time.process_time()), 0

    def step(self, targets: int) -> None:
        """Note a step that had so many events in the loss."""
        self._targets += targets
        if self.options.speed:
            self.marks.append((time.perf_counter(), time.process_time(), targets))

    @property
    def timed(self) -> bool:
        """Whether all steps that were to be timed are done."""
        return bool(self.options.speed) and len(self.marks) >= self.options.speed + self.options.warm_up

    def stop(self) -> None:
        """End an epoch of learning; what comes now is not counted."""
        now, worked = time.perf_counter(), time.process_time()
        row = {"epoch": len(self.epochs) + 1, "targets": self._targets}
        row |= {"seconds": round(now - self._begun[0], 3), "processor_seconds": round(worked - self._begun[1], 3)}
        self.epochs.append(row)

    def look(self, score: Score, length: int, known: np.ndarray | None = None) -> bool:
        """Keep what the side recommends now; return whether the training is over."""
        if self.options.speed:
            return self.timed
        row = self.epochs[-1]
        lists = best_of(self.log.validation, score, length, known)
        before = [one["ndcg"] for one in self.epochs[:-1]]
        row["ndcg"] = round(ndcg(lists, self.log.validation.targets), 6)
        np.save(self.options.out / f"validation-{row['epoch']:03}.npy", lists)
        if row["ndcg"] > max(before, default=-1.0):
            np.save(self.options.out / "test.npy", best_of(self.log.test, score, length, known))
        print(f"{self.options.name} {row}", flush=True)
        best = max(self.epochs, key=lambda one: float(one["ndcg"]))
        waited = row["epoch"] - best["epoch"] >= self.options.patience
        return waited or row["epoch"] >= self.options.epochs or row["ndcg"] >= self.options.until

    def answer(self, libraries: tuple[str, ...], settings: dict[str, Any], notes: tuple[str, ...] = ()) -> None:
        """Write what the side did as JSON; the driver takes its presence as the end."""
        told = {
            "side": self.options.name,
            "versions": {name: version(name) for name in (*libraries, "torch", "numpy")},
            "options": {name: value for name, value in vars(self.options).items() if name not in ("log", "out")},
            "settings": settings,
            "notes": notes,
            "epochs": [] if self.options.speed else self.epochs,
            "machine": machine(self.options),
        }
        if self.options.speed:
            told["rate"] = self._rate()
        aside = self.options.out / (ANSWER + ".part")
        aside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        aside.replace(aside.with_suffix(""))

    def _rate(self) -> dict[str, Any]:
        """Return targets per second of the steps after the warm-up; between epochs the clock goes on."""
        begun, timed = self.marks[self.options.warm_up - 1], self.marks[self.options.warm_up :]
        targets, seconds, worked = sum(mark[2] for mark in timed), timed[-1][0] - begun[0], timed[-1][1] - begun[1]
        return {
            "steps": len(timed),
            "targets": targets,
            "seconds": round(seconds, 3),
            "targets_per_second": round(targets / seconds, 1),
            "targets_per_core_second": round(targets / worked, 1),
        }


class Watching:
    """The methods of a Lightning callback that keep a `Course`; both Lightnings have these hooks.

    `targets_of` counts the events of a batch that enter the loss; `score_of` turns the module into a `Score`.
    """

    def __init__(
        self,
        course: Course,
        targets_of: Callable[[Any], int],
        score_of: Callable[[Any], Score],
        known: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.course, self.targets_of, self.score_of, self.known = course, targets_of, score_of, known

    def __deepcopy__(self, memo: dict[int, Any]) -> Watching:
        return self  # RecTools copies its trainer; the course is one

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - the hooks' signatures
        self.course.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.course.step(self.targets_of(batch))
        trainer.should_stop = trainer.should_stop or self.course.timed

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.course.stop()
        pl_module.eval()
        over = self.course.look(self.score_of(pl_module), self.course.options.length, self.known())
        pl_module.train()
        trainer.should_stop = trainer.should_stop or over


def trainer_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the Trainer of either Lightning is told: no noise, the asked precision, as long as the course wants."""
    return {
        "max_epochs": -1 if options.speed else options.epochs,
        "accelerator": "gpu" if torch.device(options.device).type == "cuda" else "cpu",
        "devices": 1,
        "precision": "bf16-mixed" if options.precision == "bfloat16" else "32-true",
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
    }


def options_of(name: str, more: Callable[[argparse.ArgumentParser], Any] | None = None) -> argparse.Namespace:
    """Read the command line of a side, `more` options of its own too; seed it, and bound its threads."""
    parser = argparse.ArgumentParser(description=f"Train the SASRec of {name} on a log of benchmarks/train.py")
    parser.add_argument("log", type=Path, help="the .npz of benchmarks/train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for answer.json and the lists")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--length", type=int, default=200, help="newest events that are read")
    parser.add_argument("--batch", type=int, default=128, help="histories of a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation NDCG@10")
    parser.add_argument("--until", type=float, default=2.0, help="stop at this validation NDCG@10")
    parser.add_argument("--speed", type=int, default=0, help="time so many steps and stop; nothing is scored")
    parser.add_argument("--warm-up", type=int, default=20, help="steps before those that are timed, 1 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    if more:
        more(parser)
    options = parser.parse_args()
    if options.warm_up < 1:
        parser.error(f"--warm-up: expected at least 1, as the clock starts at the end of a step; got {options.warm_up}")
    options.name = name
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - what these libraries draw from
    return options
