"""Histories on disk: one row per event in memory-mapped arrays, grouped by user, with offsets and a manifest.

Index convention everywhere: 0 = unknown, real users, items, behaviours and context values are 1..n. The events of user
`u` are the rows `offsets[u]:offsets[u + 1]`, sorted by part (train first), time and original row; ties stay in place.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from regard.data.build import ITEM_TABLE, USER_TABLE, Content, lay_out
from regard.data.events import EventLog
from regard.data.times import TimeKind
from regard.data.vocabulary import Vocabulary
from regard.errors import StorageError
from regard.manifest import new_folder, read_manifest, write_manifest

KIND = "dataset"


class Dataset:
    """Histories of users over a catalogue of items.

    With N events, U users and V items: `offsets` int64 (U+2,), `item` int32 (N,), `time` int64 (N,) or None
    (microseconds since 1970 UTC for `timestamp`, the integers for `order`), `behaviour` uint8 (N,) or None (code b is
    `behaviours[b - 1]`, 0 = not given), `label` float32 (N,) or None (NaN = not given), `part` uint8 (N,) or None
    (0 = train, 1 = test), `context` int32 (N,) by name (codes of `context_values[name]`, 0 = not given).
    `item_table`, `user_table`: what is told of items and users, row i - 1 of index i, null where nothing is; or None.
    """

    def __init__(self, content: Content, path: Path | None = None) -> None:
        arrays, vocabularies, manifest = content.arrays, content.vocabularies, content.manifest
        self.path = path
        self.manifest: dict[str, Any] = manifest
        self.users, self.items = vocabularies["users"], vocabularies["items"]
        self.offsets, self.item = arrays["offsets"], arrays["item"]
        self.time, self.behaviour = arrays.get("time"), arrays.get("behaviour")
        self.label, self.part = arrays.get("label"), arrays.get("part")
        self.behaviours: tuple[str, ...] = tuple(manifest["behaviours"])
        names: list[str] = manifest["context"]
        self.context: dict[str, np.ndarray] = {name: arrays[f"context-{i}"] for i, name in enumerate(names)}
        self.context_values = {name: vocabularies[f"context-{i}-values"] for i, name in enumerate(names)}
        self.item_table: pa.Table | None = content.item_table
        self.user_table: pa.Table | None = content.user_table
        self.time_kind: TimeKind = manifest["time_kind"]
        self.fingerprint: str = manifest["fingerprint"]

    @property
    def n_users(self) -> int:
        """Number of real users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of real items, those only in the item table included."""
        return len(self.items)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.item)

    def title(self, item: int) -> str | None:
        """Return the title of an item index, or None where it has none."""
        title = self._titles
        return None if title is None or not 1 <= item <= self.n_items else title[item - 1].as_py()

    @cached_property
    def _titles(self) -> pa.ChunkedArray | None:
        table = self.item_table
        return None if table is None or "title" not in table.column_names else table.column("title")

    @classmethod
    def build(
        cls, log: EventLog, out: str | Path | None, items: pa.Table | None = None, users: pa.Table | None = None
    ) -> Dataset:
        """Sort a log into histories, tables of items and users beside; in memory where `out` is None, else as a folder.

        The catalogue is the items of events in order of first appearance, then those only in the item table. Users are
        those of events; others in the user table are left out and counted. An earlier dataset at `out` is replaced only
        once the new one is complete; `StorageError` where that fails.
        """
        if out is None:
            return cls(lay_out(log, items, None, users))
        with new_folder(out, KIND) as folder:
            write_manifest(folder, KIND, lay_out(log, items, folder, users).manifest)
        return cls.open(out)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset folder without reading it: arrays and ids are memory-mapped."""
        path = Path(path)
        manifest = read_manifest(path, KIND)
        try:
            arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in manifest["arrays"]}
            vocabularies = {name: Vocabulary(_map(path / f"{name}.arrow")["id"]) for name in manifest["vocabularies"]}
            table = _map(path / f"{ITEM_TABLE}.arrow") if manifest["item_table"] else None
            told = manifest.get("user_table", False)  # datasets of before there were any do not say
            people = _map(path / f"{USER_TABLE}.arrow") if told else None
            return cls(Content(arrays, vocabularies, table, manifest, people), path)
        except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
            raise StorageError(f"dataset {path} is damaged ({error}); make it again with `regard prepare`") from None


def _map(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
