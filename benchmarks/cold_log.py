"""A log in which a tenth of the items are new: nobody has met them before the event that is asked about.

Of a held-out item only those events stay that are the last of their user, which is what leave-one-out asks on test: it
is as if these items had come after everything that trains, chooses or is remembered. They stay in the item table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from regard.data.store import Dataset
from regard.errors import RegardError
from regard.manifest import new_file
from road import prepared
from road_sets import SETS, RealSet

SPLIT = "leave-one-out"
LEAST = 3  # events of a user whom leave-one-out asks
AMAZON = {"title": 'id = "item_id"\ntitle = "title"', "keywords": 'id = "item_id"\ntext = "keywords"'}
TABLES = {
    "amazon-beauty": ("items.csv", AMAZON),
    "amazon-sports": ("items.csv", {"keywords": AMAZON["keywords"]}),  # its titles are empty
    "ml-1m": ("movies.dat", {"title": "id = 1\ntitle = 2"}),
    "ml-100k": ("u.item", {"title": "id = 1\ntitle = 2"}),
    "ml-latest-small": ("movies.csv", {"title": 'id = "movieId"\ntitle = "title"'}),
}
"""Item tables with words, by log: the file, and how a column of it is read."""

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ColdLog:
    """A prepared log without the events of held-out items: its folder, what preparing it gave, and what was done."""

    name: str
    folder: Path
    log: dict[str, Any]
    items: tuple[str, ...]
    """The held-out items, by id."""
    facts: dict[str, int]

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    def held(self, dataset: Dataset) -> Bool:
        """Which items of the dataset are held out, (n_items + 1,)."""
        found = np.zeros(dataset.n_items + 1, bool)
        found[1:] = pa.compute.is_in(dataset.items.array, pa.array(self.items, dataset.items.array.type)).to_numpy(
            zero_copy_only=False
        )
        return found


def drawn(dataset: Dataset, share: float, seed: int) -> Bool:
    """Draw a share of the items that have events, (n_items + 1,)."""
    there = np.unique(dataset.item[:])
    there = there[there > 0]
    held = np.zeros(dataset.n_items + 1, bool)
    held[np.random.default_rng(seed).permutation(there)[: max(round(share * len(there)), 1)]] = True
    return held


def left(dataset: Dataset, held: Bool) -> tuple[Bool, dict[str, int]]:
    """Mark the events (N,) that stay, and count what went.

    Events of held-out items go, but for the last one of each user whom leave-one-out asks. Where that leaves a user
    with fewer than three events, nothing is asked of them: then it would train, so it goes too.
    """
    item = np.asarray(dataset.item)
    many = np.diff(dataset.offsets)
    asked = many >= LEAST
    owner = np.repeat(np.arange(len(many)), many)
    last = np.zeros(len(item), bool)
    last[np.asarray(dataset.offsets)[1:][asked] - 1] = True
    stays = ~held[item] | last
    lost = asked & (np.bincount(owner[stays], minlength=len(many)) < LEAST)
    stays &= ~(held[item] & lost[owner])
    facts = {
        "items_held_out": int(held.sum()),
        "items_with_events": len(np.unique(item)),
        "events_taken_out": int((~stays).sum()),
        "users_no_longer_asked": int(lost.sum()),
    }
    return stays, facts


def events_table(dataset: Dataset, stays: Bool) -> pa.Table:
    """The events that stay, by the ids of the log."""
    many = np.diff(dataset.offsets)
    user = np.repeat(np.arange(len(many)), many)[stays]
    assert dataset.time is not None, "leave-one-out needs an order"
    time = np.asarray(dataset.time)[stays]
    return pa.table(
        {
            "user": dataset.users.array.take(pa.array(user - 1)),
            "item": dataset.items.array.take(pa.array(np.asarray(dataset.item)[stays].astype(np.int64) - 1)),
            "time": pa.array(time, pa.timestamp("us") if dataset.time_kind == "timestamp" else pa.int64()),
        }
    )


def hold_out(work: Path, name: str, column: str, share: float, seed: int) -> ColdLog:
    """Prepare a log without the events of a share of its items; what is there already is not made again.

    Raises:
        RegardError: the log has no item table with this column, or could not be read.
    """
    file, columns = TABLES.get(name, ("", {}))
    if column not in columns:
        known = "; ".join(f"{log}: {', '.join(each)}" for log, (_, each) in TABLES.items())
        raise RegardError(f"--set {name} --column {column}: expected an item table with that column ({known})")
    whole = prepared(work, name, SETS[name])
    if whole is None:
        raise RegardError(f"{name} could not be prepared; see above")
    dataset = Dataset.open(work / name / "dataset")
    held = drawn(dataset, share, seed)
    stays, facts = left(dataset, held)
    label = f"{name}-without-{share:g}-draw-{seed}"
    folder = work / label
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / "events.parquet") as aside:
        pq.write_table(events_table(dataset, stays), aside)
    log = prepared(work, label, _recipe(name, file, columns[column], dataset))
    if log is None:
        raise RegardError(f"{label} could not be prepared; see above")
    ids = dataset.items.array.take(pa.array(np.flatnonzero(held) - 1)).to_pylist()
    return ColdLog(name, folder, log, tuple(map(str, ids)), facts)


def _recipe(name: str, file: str, columns: str, whole: Dataset) -> RealSet:
    """How the rest of a log is read; the first line tells it from that of a log that has changed since."""
    lines = (
        f"# of {whole.fingerprint}",
        f"time_kind = {json.dumps(whole.time_kind)}",
        '[[source]]\npath = "events.parquet"\ncolumns = { user = "user", item = "item", time = "time" }\n',
        f'[items]\npath = "DATA/{name}/{file}"\n{columns}\n',
    )
    return replace(SETS[name], split=SPLIT, recipe="\n".join(lines))
