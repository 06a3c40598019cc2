"""What every side of the DIN comparison shares: the samples, the measures of validation, and the form of its answer.

Needs numpy and torch only, so that it runs in the environment of the peers as well as in regard's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

PARTS = ("train", "validation", "test")
DETAILS = ("user", "start", "end", "candidates", "labels")


@dataclass(frozen=True)
class Part:
    """P requests of C candidates: request p reads `events[start[p]:end[p]]`, oldest first; labels are 0 or 1 (P, C)."""

    user: np.ndarray
    start: np.ndarray
    end: np.ndarray
    candidates: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def rows(self) -> int:
        """How many rows a library sees that has a row for every candidate."""
        return self.candidates.size

    @property
    def lengths(self) -> np.ndarray:
        return self.end - self.start

    def take(self, requests: np.ndarray) -> Part:
        return Part(*(getattr(self, name)[requests] for name in DETAILS))


@dataclass(frozen=True)
class Samples:
    """Histories and candidates drawn once for all sides; items are 1 to `n_items`, 0 is padding.

    `events` (N,) are the items that histories are made of, user by user at `offsets` (U + 1,). `item_ids` and
    `user_ids` lead back to the log: code n of an item is `item_ids[n - 1]`. `length` is the longest history.
    """

    about: dict[str, Any]
    events: np.ndarray
    offsets: np.ndarray
    item_ids: np.ndarray
    user_ids: np.ndarray
    parts: dict[str, Part] = field(repr=False)

    @property
    def length(self) -> int:
        return int(self.about["length"])

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def write(self, path: Path) -> None:
        arrays = {f"{part}_{name}": getattr(self.parts[part], name) for part in PARTS for name in DETAILS}
        for name in ("events", "offsets", "item_ids", "user_ids"):
            arrays[name] = getattr(self, name)
        np.savez(path, about=np.array(json.dumps(self.about)), **arrays)

    @classmethod
    def read(cls, path: str | Path) -> Samples:
        with np.load(path) as found:
            parts = {part: Part(*(found[f"{part}_{name}"] for name in DETAILS)) for part in PARTS}
            rest = (found[name] for name in ("events", "offsets", "item_ids", "user_ids"))
            return cls(json.loads(str(found["about"])), *rest, parts)

    def table(self, part: Part, padding: Literal["before", "after"]) -> tuple[np.ndarray, ...]:
        """Return a row per candidate: history (R, length) with zeros, its length (R,), candidate (R,), label (R,)."""
        lengths, place = part.lengths[:, None], np.arange(self.length)[None]
        first = self.length - lengths if padding == "before" else 0
        real = (place >= first) & (place < first + lengths)
        history = np.zeros(real.shape, np.int32)
        history[real] = self.events[(part.start[:, None] + place - first)[real]]
        repeats = part.candidates.shape[1]
        return (
            np.repeat(history, repeats, axis=0),
            np.repeat(part.lengths.astype(np.int32), repeats),
            part.candidates.ravel(),
            part.labels.ravel().astype(np.float32),
        )

    def watched(self, requests: int) -> Part:
        """Return the validation requests that decide when to stop: so many of them, or all where 0."""
        part = self.parts["validation"]
        if not requests or requests >= len(part):
            return part
        return part.take(np.sort(np.random.default_rng(0).permutation(len(part))[:requests]))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the chance that a positive is above a negative; ties count one half."""
    return gauc(np.zeros(labels.size, np.int64), labels, scores)


def gauc(users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean AUC of users, weighted by their examples; users with one class are left out. All (R,)."""
    order = np.lexsort((scores, users))
    user, label, score = users[order], labels[order] > 0, scores[order]
    other = np.append(True, user[1:] != user[:-1])
    tied = np.flatnonzero(other | np.append(True, score[1:] != score[:-1]))
    ends = np.append(tied[1:], len(user))
    rank = np.repeat((tied + 1 + ends) / 2, ends - tied)
    first = np.flatnonzero(other)
    size = np.diff(np.append(first, len(user)))
    positives = np.add.reduceat(label.astype(np.int64), first)
    ranks = np.add.reduceat(np.where(label, rank, 0.0), first) - positives * first
    pairs = positives * (size - positives)
    both = pairs > 0
    areas = (ranks - positives * (positives + 1) / 2)[both] / pairs[both]
    return float(np.average(areas, weights=size[both]))


@dataclass
class Clock:
    """Adds up the seconds in which a library trains, and notes what it reached after every epoch.

    Beside the seconds of the wall stand those of the processor, all threads together: they say how busy a machine was.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    _begun: tuple[float, float] = (0.0, 0.0)
    _seconds: float = 0.0
    _worked: float = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self._seconds += time.perf_counter() - self._begun[0]
        self._worked += time.process_time() - self._begun[1]

    def note(self, validation_auc: float) -> None:
        """Close an epoch; the clock must be stopped."""
        seconds = {"seconds": round(self._seconds, 3), "processor_seconds": round(self._worked, 3)}
        self.epochs.append({**seconds, "validation_auc": round(float(validation_auc), 6)})
        self._seconds = self._worked = 0.0
        print(f"epoch {len(self.epochs)}: {self.epochs[-1]}", flush=True)


def in_precision(model: torch.nn.Module, options: argparse.Namespace) -> None:
    """Let a model compute in the asked precision, and answer in float32 as its library expects."""
    if options.precision == "float32":
        return
    forward = model.forward

    def mixed(*inputs: Any) -> Any:
        with torch.autocast(torch.device(options.device).type, dtype=getattr(torch, options.precision)):
            found = forward(*inputs)
        return {name: value.float() for name, value in found.items()} if isinstance(found, dict) else found.float()

    model.forward = mixed


def options_of(
    library: str, trials: int, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Read the command line of a side, `more` options of its own too; seed it, and bound its threads."""
    parser = argparse.ArgumentParser(description=f"Train the DIN of {library} on samples of din_data.py")
    parser.add_argument("samples", type=Path, help="the .npz of din_data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for SIDE_DATASET_trialN_seedS.json and .npy")
    parser.add_argument("--trial", type=int, choices=range(1, trials + 1), default=1, help="which declared setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1024, help="rows of a step")
    parser.add_argument("--epochs", type=int, default=10, help="at most")
    parser.add_argument("--patience", type=int, default=2, help="epochs without a better validation AUC")
    parser.add_argument("--watch", type=int, default=0, help="validation requests that decide when to stop; 0 = all")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--workers", type=int, default=0, help="processes that load batches, where the library can")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--speed", action="store_true", help="one epoch for its seconds; nothing is scored")
    if more:
        more(parser)
    options = parser.parse_args()
    if options.speed:
        options.epochs, options.watch = 1, 100
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - what these libraries draw from
    return options


@dataclass(frozen=True)
class Side:
    """One library: how it is called, what it was told, and how it scores a part (R,) once trained."""

    library: str
    settings: dict[str, Any]
    score: Callable[[Part], np.ndarray]
    clock: Clock
    notes: tuple[str, ...] = ()
    form: str = ""

    def report(self, samples: Samples, options: argparse.Namespace, began: float) -> None:
        """Write validation measures and speed as JSON, and the probabilities of the test part (P, C) beside them."""
        learned, worked = (sum(epoch[kind] for epoch in self.clock.epochs) for kind in ("seconds", "processor_seconds"))
        trained = samples.parts["train"].rows * len(self.clock.epochs)
        side = "-".join(filter(None, (self.library, self.form)))
        name = f"{side}_{samples.about['dataset']}_trial{options.trial}_seed{options.seed}"
        options.out.mkdir(parents=True, exist_ok=True)
        scored = {} if options.speed else self._scored(samples, options.out / f"{name}.npy")
        told = {
            "library": self.library,
            "side": side,
            "versions": {package: version(package) for package in (self.library, "torch", "numpy")},
            "samples": samples.about,
            "options": {key: value for key, value in vars(options).items() if key not in ("samples", "out")},
            "settings": self.settings,
            "notes": self.notes,
            "epochs": self.clock.epochs,
            "best_epoch": 1 + int(np.argmax([epoch["validation_auc"] for epoch in self.clock.epochs])),
            "training_rows": samples.parts["train"].rows,
            "training_rows_per_second": round(trained / learned, 1),
            "training_rows_per_core_second": round(trained / worked, 1),
            "learning_seconds": round(learned, 2),
            "seconds": round(time.perf_counter() - began, 2),
            **scored,
            "machine": machine(options),
        }
        aside = options.out / f"{name}.part"
        aside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        aside.replace(aside.with_suffix(".json"))
        shown = ("library", "training_rows_per_second", "validation", "seconds")
        print(json.dumps({key: told[key] for key in shown if key in told}))

    def _scored(self, samples: Samples, file: Path) -> dict[str, Any]:
        """Return the measures of all of validation; the probabilities of test (P, C) go into `file`."""
        part, test = samples.parts["validation"], samples.parts["test"]
        scores = np.asarray(self.score(part), np.float64).ravel()
        users, labels = np.repeat(part.user, part.candidates.shape[1]), part.labels.ravel()
        np.save(file, np.asarray(self.score(test), np.float32).reshape(test.candidates.shape))
        measured = {"auc": auc(labels, scores), "gauc": gauc(users, labels, scores), "gauc_weights": "examples"}
        return {"validation": measured, "probabilities": file.name}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Name what the seconds depend on."""
    device = torch.device(options.device)
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": options.precision,
        "torch": str(torch.__version__),
        "load": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """Name the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
