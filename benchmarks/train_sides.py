"""Who takes part in the comparison of training, on which logs, with which settings; and their cells.

A cell is one training of a side: for its quality, for its rate, or a short trial of a precision. It runs in a process
of its own and is kept in the work folder under a key of the log and of all that it was told.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ranking_cells import key_of
from regard.config import Settings
from regard.evaluate.result import Result
from regard.manifest import read_json, write_json
from regard.training.protocol import Protocol
from road import code, read_by, settings_for, told_of
from train_log import KEY, SPLIT, tested, validated

HERE = Path(__file__).absolute().parent
OURS = "regard"
FREE = "without counts"
"""Said of the curves of ours in whose scores are no counts of pairs beside what is learned."""
ANSWER, DONE, TEST = "answer.json", "found.json", "evaluation-test"
Words = tuple[str, ...]

SHAPE: dict[str, Any] = {"length": 200, "width": 64, "blocks": 2, "dropout": 0.1}
"""What peers are told of their architecture where a log asks for nothing else."""

RATE_SHAPE = {**SHAPE, "dropout": 0.0}
"""What all sides are told where rates are taken: peers also drop attention weights, which is work that ours has not."""

OF_OURS = {"length": "window"}
"""What ours call it, where the name differs."""

SETS: dict[str, dict[str, Any]] = {
    "ml-1m": {"epochs": 40},
    "ml-100k": {"epochs": 100},
    "amazon-beauty": {"epochs": 60, "length": 50, "width": 256, "blocks": 3, "dropout": 0.3},
    "amazon-sports": {"epochs": 60, "length": 50, "width": 256, "blocks": 2, "dropout": 0.5},
}
"""What peers are told of a log; on the Amazon logs the best published setting of a SASRec with full softmax
(time-to-split)."""

TARGETS = {"ml-1m": 0.150, "ml-100k": 0.060}
"""The validation NDCG@10 whose seconds are asked for."""

PEERS: dict[str, tuple[str, tuple[Words, ...]]] = {
    "rectools": ("sasrec_rectools.py", ((),)),
    "replay": ("sasrec_replay.py", ((), ("--bucket", "32"))),
    "recbole": ("sasrec_recbole.py", ((),)),
}
"""Script, and the ways of its own in which a library may be fastest."""

EQUAL = {
    "model.name": "self-attention",
    "model.width": 64,
    "model.blocks": 2,
    "model.heads": 1,
    "model.feed_forward": "plain",
    "model.residual": "plain",
    "model.expansion": 1.0,
    "model.dropout": 0.0,
    "model.window": 200,
    "model.positions": "learned",
    "model.temperature": 0.0,
    "model.covisit_weight": 0.0,
    "model.negatives": 0,
}
"""The architecture of the rates: that of the peers' SASRec, whose feed-forward is as wide as the model, undropped."""


def equal_settings(changes: Sequence[str]) -> list[str]:
    """Return the changes that make ours equal in architecture; `changes` go on top."""
    plain = Settings().model_dump()
    known = [(name, value) for name, value in EQUAL.items() if name.split(".")[1] in plain[name.split(".")[0]]]
    return [*(f"{name}={json.dumps(value)}" for name, value in known), *changes]


@dataclass(frozen=True)
class Cell:
    """One training in a process of its own: `command` writes `answer.json` into `folder`; `found.json` is the end."""

    side: str
    command: list[str]
    folder: Path

    def kept(self) -> dict[str, Any] | None:
        """Return what was found before, if it is all there."""
        file = self.folder / DONE
        return read_json(file) if file.exists() else None

    def forget(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, protocol: Protocol) -> dict[str, Any] | None:
        """Return what is kept, or train now; None where it broke, and its traceback is on the screen."""
        found, kept = self.kept(), True
        if found is None:
            kept = False
            self.forget()
            self.folder.mkdir(parents=True)
            load = round(os.getloadavg()[0], 2)
            quiet = {"TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            place = self.folder  # RecBole writes where it stands
            done = subprocess.run(self.command, check=False, cwd=place, env={**os.environ, **quiet})
            if done.returncode == 0:
                found = self._measured(protocol) | {"code": code(), "load": [load, round(os.getloadavg()[0], 2)]}
                write_json(self.folder / DONE, found)
        print(f"{self.folder.name:60} {front(found)}{' (kept)' * (kept and found is not None)}", flush=True)
        return found

    def _measured(self, protocol: Protocol) -> dict[str, Any]:
        """Score what a peer recommended; ours did so itself, by the same evaluator."""
        found = dict(read_json(self.folder / ANSWER))
        if self.side != OURS and found["epochs"]:
            for row in found["epochs"]:
                row["validation"] = validated(protocol, np.load(self.folder / f"validation-{row['epoch']:03}.npy"))
            tested(protocol, np.load(self.folder / "test.npy")).save(self.folder, TEST)
        return found

    @cached_property
    def result(self) -> Result:
        """What the side reached on test, with the epoch that validation likes best."""
        return Result.load(self.folder, TEST)


def front(found: Mapping[str, Any] | None) -> str:
    """Say in a few words what came of a cell."""
    if found is None:
        return "broke: see above; the next walk tries it again"
    if "rate" in found:
        return f"{found['rate']['targets_per_second']:,.0f} targets/s"
    best = max(found["epochs"], key=lambda row: float(row["validation"][KEY]))
    seconds = sum(row["seconds"] for row in found["epochs"])
    return f"validation {KEY} {best['validation'][KEY]:.4f} at epoch {best['epoch']}; {seconds:,.0f} s of learning"


def peer_cell(work: Path, python: Path, log: Path, name: str, about: Mapping[str, Any]) -> Cell:
    """Name the cell of a peer; `about`: its fingerprint, kind, and what its script is told."""
    script = PEERS[name][0]
    words = [*about["own"]]
    for option, value in about["options"].items():
        words += [f"--{option}", str(value)]
    key = key_of(about["fingerprint"], words, about.get("round", 0))
    folder = work / _label(about["kind"], name, *about["own"], about["options"]["precision"], key)
    return Cell(name, [str(python), str(HERE / "peers" / script), str(log), "--out", str(folder), *words], folder)


def our_cell(work: Path, dataset: Path, about: Mapping[str, Any]) -> Cell:
    """Name a cell of ours; `about`: its fingerprint, kind, settings as changes, and whether only its rate is asked."""
    settings = settings_for(SPLIT, "self-attention", about["seed"], about["changes"])
    key = key_of(about["fingerprint"], read_by(settings), about.get("round", 0))
    folder = work / _label(about["kind"], OURS, f"seed-{about['seed']}", key)
    task = {"dataset": str(dataset), "settings": told_of(settings), "folder": str(folder), "speed": about["speed"]}
    return Cell(OURS, [sys.executable, str(HERE / "train_ours.py"), json.dumps(task)], folder)


def _label(*parts: str) -> str:
    return re.sub(r"[^\w.]+", "-", "-".join(parts))
