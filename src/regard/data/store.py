"""Histories on disk: one row per event in memory-mapped arrays, grouped by user, with offsets and a manifest.

Index convention everywhere: 0 = unknown, real users, items, behaviours and context values are 1..n. The events of user
`u` are the rows `offsets[u]:offsets[u + 1]`, sorted by part (train first), time and original row; ties stay in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from regard.data.events import EventLog
from regard.data.times import TimeKind
from regard.data.vocabulary import Vocabulary
from regard.errors import StorageError
from regard.manifest import new_folder, read_manifest, write_manifest

KIND = "dataset"
_BATCH = 1_000_000


class Dataset:
    """Histories of users over a catalogue of items.

    With N events, U users and V items: `offsets` int64 (U+2,), `item` int32 (N,), `time` int64 (N,) or None
    (microseconds since 1970 UTC for `timestamp`, the integers for `order`), `behaviour` uint8 (N,) or None (code b is
    `behaviours[b - 1]`, 0 = not given), `label` float32 (N,) or None (NaN = not given), `part` uint8 (N,) or None
    (0 = train, 1 = test), `context` int32 (N,) by name (codes of `context_values[name]`, 0 = not given).
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        vocabularies: dict[str, Vocabulary],
        manifest: dict[str, Any],
        item_table: pa.Table | None = None,
        path: Path | None = None,
    ) -> None:
        """Wrap arrays and vocabularies by file stem; use `Dataset.build` or `Dataset.open`."""
        self.path = path
        self.manifest = manifest
        self.users, self.items = vocabularies["users"], vocabularies["items"]
        self.offsets, self.item = arrays["offsets"], arrays["item"]
        self.time, self.behaviour = arrays.get("time"), arrays.get("behaviour")
        self.label, self.part = arrays.get("label"), arrays.get("part")
        self.behaviours: tuple[str, ...] = tuple(manifest["behaviours"])
        names: list[str] = manifest["context"]
        self.context = {name: arrays[f"context-{i}"] for i, name in enumerate(names)}
        self.context_values = {name: vocabularies[f"context-{i}-values"] for i, name in enumerate(names)}
        self.item_table = item_table
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
    def build(cls, log: EventLog, out: str | Path | None, items: pa.Table | None = None) -> Dataset:
        """Sort a log into histories, with an item table beside; in memory where `out` is None, else as a folder.

        The catalogue is the items of events in order of first appearance, then those only in the item table. An
        earlier dataset at `out` is replaced only once the new one is complete; `StorageError` where it cannot be written.
        """
        if out is None:
            return _build(log, items, None)
        with new_folder(out, KIND) as folder:
            dataset = _build(log, items, folder)
            write_manifest(folder, KIND, dataset.manifest)
        return cls.open(out)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset folder without reading it: arrays and ids are memory-mapped."""
        path = Path(path)
        manifest = read_manifest(path, KIND)
        try:
            arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in manifest["arrays"]}
            vocabularies = {name: Vocabulary(_map(path / f"{name}.arrow")["id"]) for name in manifest["vocabularies"]}
            table = _map(path / "item-table.arrow") if manifest["item_table"] else None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise StorageError(f"dataset {path} is damaged ({error}); make it again with `regard prepare`") from None
        return cls(arrays, vocabularies, manifest, table, path)


def _build(log: EventLog, items: pa.Table | None, folder: Path | None) -> Dataset:
    catalogue, table = _catalogue(log.items, items)
    context = {f"context-{i}-values": values for i, values in enumerate(log.context_values.values())}
    vocabularies = {"users": log.users, "items": catalogue, **context}
    arrays = _arrays(log, folder)
    if folder is not None:
        for name, vocabulary in vocabularies.items():
            _write_table(folder / f"{name}.arrow", pa.table({"id": vocabulary.array}))
        if table is not None:
            _write_table(folder / "item-table.arrow", table)
    manifest: dict[str, Any] = {
        "made_by": {"regard": version("regard"), "columns": vars(log.columns)},
        "time_kind": log.time_kind,
        "counts": {"users": len(log.users), "items": len(catalogue), "events": len(arrays["item"])},
        "behaviours": list(log.behaviours),
        "context": list(log.context_values),
        "arrays": list(arrays),
        "vocabularies": list(vocabularies),
        "item_table": table is not None,
        "report": log.report,
        "fingerprint": _fingerprint(arrays, vocabularies, table),
    }
    return Dataset(arrays, vocabularies, manifest, table, folder)


def _catalogue(seen: Vocabulary, items: pa.Table | None) -> tuple[Vocabulary, pa.Table | None]:
    """Append items known only from the table, and align the table: row `i - 1` describes item `i`."""
    if items is None:
        return seen, None
    catalogue = seen.grown(items.column("id").to_pylist())
    row = np.full(len(catalogue) + 1, -1, np.int64)
    index = catalogue.index(items.column("id").to_pylist())
    row[index[::-1]] = np.arange(len(index))[::-1]  # of rows with the same id the first counts
    aligned = items.take(pa.array(row[1:], mask=row[1:] < 0)).combine_chunks()
    return catalogue, aligned.set_column(aligned.column_names.index("id"), "id", catalogue.array)


def _arrays(log: EventLog, folder: Path | None) -> dict[str, np.ndarray]:
    """Write the sorted columns, batch by batch, into memory-mapped files or plain arrays."""
    connection = log.connection
    count, parts = connection.execute("SELECT count(*), count(part) FROM events").fetchall()[0]
    chosen: dict[str, tuple[str, type]] = {"item": ("item", np.int32)}
    if log.time_kind != "none":
        chosen["time"] = ("time", np.int64)
    if log.behaviours:
        chosen["behaviour"] = ("behaviour", np.uint8)
    if log.columns.label:
        chosen["label"] = ("coalesce(label, 'nan'::FLOAT)", np.float32)
    if parts:
        chosen["part"] = ("part", np.uint8)
    for i in range(len(log.context_values)):
        chosen[f"context-{i}"] = (f"c{i}", np.int32)
    arrays = {name: _new_array(folder, name, dtype, count) for name, (_, dtype) in chosen.items()}
    listed = ", ".join(f'{sql} AS "{name}"' for name, (sql, _) in chosen.items())
    ordered = connection.sql(f'SELECT {listed} FROM events ORDER BY "user", part, time, row')
    done = 0
    for batch in ordered.to_arrow_reader(_BATCH):
        for name, array in arrays.items():
            array[done : done + batch.num_rows] = batch.column(name).to_numpy(zero_copy_only=False)
        done += batch.num_rows
    assert done == count
    per_user = connection.sql('SELECT "user" AS u, count(*) AS n FROM events GROUP BY "user"').fetchnumpy()
    counts = np.zeros(len(log.users) + 2, np.int64)
    counts[np.asarray(per_user["u"]) + 1] = per_user["n"]
    arrays["offsets"] = _new_array(folder, "offsets", np.int64, len(counts))
    np.cumsum(counts, out=arrays["offsets"])
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    return arrays


def _new_array(folder: Path | None, name: str, dtype: type, length: int) -> np.ndarray:
    if folder is None or length == 0:
        return np.zeros(length, dtype)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(length,))


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _map(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _fingerprint(arrays: dict[str, np.ndarray], vocabularies: dict[str, Vocabulary], table: pa.Table | None) -> str:
    """Hash the content: the same events, ids and item table have the same fingerprint wherever they lie."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _content(arrays, vocabularies, table):
        digest.update(part)
    return digest.hexdigest()


def _content(
    arrays: dict[str, np.ndarray], vocabularies: dict[str, Vocabulary], table: pa.Table | None
) -> Iterator[bytes | memoryview]:
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype} {array.shape}".encode()
        yield np.ascontiguousarray(array).view(np.uint8).data
    tables = {name: pa.table({"id": vocabulary.array}) for name, vocabulary in vocabularies.items()}
    for name, content in sorted((tables | ({"item-table": table} if table is not None else {})).items()):
        yield name.encode()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content.combine_chunks())
        yield memoryview(sink.getvalue())
