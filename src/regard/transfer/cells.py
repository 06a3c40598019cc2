"""Cells: what is kept of one way at one share and one seed, so that a walk that was stopped goes on.

A cell is two files in the folder `cells`: `NAME.npz` has the ranks, `NAME.json` all else; it is finished once the
second is there. The name ends in a hash of dataset, vectors and settings, so other settings make other cells.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.config import Settings
from regard.errors import StorageError
from regard.manifest import new_file, read_json, write_json

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """Ranks of one way: `ranks` (T,) of all test targets, `cold` (T',) of the cases with targets nobody has met.

    Cold targets are ranked among items without training events. `told`: `protocol`, `coverage`, `validation`,
    `seconds` of training and `epochs`, fit for JSON.
    """

    ranks: Int64
    cold: Int64
    told: dict[str, Any]


def cell_name(way: str, share: float, seed: int, dataset: str, vectors: str | None, settings: Settings) -> str:
    """Name a cell; `dataset` and `vectors` are fingerprints, `settings` complete, as the size of the data asks."""
    body = {"dataset": dataset, "vectors": vectors, "settings": settings.model_dump(mode="json")}
    key = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=6).hexdigest()
    return f"{way.replace(' ', '-')}-{share:g}-{seed}-{key}"


def kept(folder: Path, name: str) -> Cell | None:
    """Return a finished cell, None where there is none.

    Raises:
        StorageError: its files are damaged.
    """
    told = folder / f"{name}.json"
    if not told.exists():
        return None
    try:
        with np.load(told.with_suffix(".npz"), allow_pickle=False) as arrays:
            return Cell(arrays["ranks"], arrays["cold"], read_json(told))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"{folder / name}.npz is damaged ({error}); remove {told} and call it again") from None


def keep(folder: Path, name: str, cell: Cell) -> Cell:
    """Write a cell, and return it."""
    with new_file(folder / f"{name}.npz") as aside, aside.open("wb") as stream:
        np.savez_compressed(stream, ranks=cell.ranks, cold=cell.cold)
    write_json(folder / f"{name}.json", cell.told)
    return cell
