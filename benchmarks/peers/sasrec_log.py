"""The log of the comparison of training, as peers are given it: item codes 1 to n, histories, and cases.

Needs numpy only, so that it is read in the environment of the peers as well as in regard's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

K = 10
_PARTS = ("validation", "test")


@dataclass(frozen=True)
class Cases:
    """C histories, oldest first: `items[offsets[c]:offsets[c + 1]]`; `targets` (C,) came next, 0 = not told."""

    items: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def of(self, known: np.ndarray) -> Cases:
        """Return the histories without the items that are not `known` (n_items + 1,)."""
        kept = known[self.items]
        before = np.concatenate([[0], np.cumsum(kept)])
        return Cases(self.items[kept], before[self.offsets], self.targets)

    def table(self, rows: slice, length: int) -> np.ndarray:
        """Return the newest `length` items of some histories (b, length), zeros before them."""
        starts, ends = self.offsets[:-1][rows, None], self.offsets[1:][rows, None]
        places = ends - length + np.arange(length)[None]
        real = places >= starts
        found = np.zeros(real.shape, np.int64)
        found[real] = self.items[places[real]]
        return found

    def entries(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, item) of every event of some histories; rows are counted from the first of them."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        lengths = np.diff(offsets)
        return np.repeat(np.arange(len(lengths)), lengths), self.items[offsets[0] : offsets[-1]]


@dataclass(frozen=True)
class Log:
    """Training events of U users, oldest first: `items[offsets[u]:offsets[u + 1]]`, codes 1 to `n_items`; and cases."""

    about: dict[str, Any]
    items: np.ndarray
    offsets: np.ndarray
    validation: Cases
    test: Cases

    @property
    def n_items(self) -> int:
        return int(self.about["items"])

    @property
    def user(self) -> np.ndarray:
        """The user (N,) of each training event."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def order(self) -> np.ndarray:
        """The place (N,) of each training event in its history."""
        return np.arange(len(self.items)) - self.offsets[self.user]

    def rows(self, length: int) -> list[np.ndarray]:
        """Return the newest `length` training events of each user that has at least two of them."""
        pairs = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [self.items[max(start, end - length) : end] for start, end in pairs if end - start > 1]

    def write(self, stream: BinaryIO) -> None:
        arrays = {"items": self.items, "offsets": self.offsets, "about": np.array(json.dumps(self.about))}
        for part in _PARTS:
            arrays |= {f"{part}_{name}": array for name, array in vars(getattr(self, part)).items()}
        np.savez(stream, **arrays)

    @classmethod
    def read(cls, path: Path) -> Log:
        with np.load(path) as found:
            parts = (Cases(*(found[f"{part}_{name}"] for name in ("items", "offsets", "targets"))) for part in _PARTS)
            return cls(json.loads(str(found["about"])), found["items"], found["offsets"], *parts)
