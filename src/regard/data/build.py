"""An event log becomes histories: sorted arrays, vocabularies and aligned tables, in memory or in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from regard.data.events import EventLog
from regard.data.items import checked_items, item_report
from regard.data.repeats import count_repeats, count_ties
from regard.data.sql import batches
from regard.data.users import checked_users, user_report
from regard.data.vocabulary import Vocabulary

ITEM_TABLE, USER_TABLE = "item-table", "user-table"


@dataclass(frozen=True)
class Content:
    """All there is in a dataset; arrays and vocabularies by the stem of their file."""

    arrays: dict[str, np.ndarray]
    vocabularies: dict[str, Vocabulary]
    item_table: pa.Table | None
    manifest: dict[str, Any]
    user_table: pa.Table | None = None


def lay_out(log: EventLog, items: pa.Table | None, folder: Path | None, users: pa.Table | None = None) -> Content:
    """Sort the events by user, part, time and row; all but the manifest goes to `folder` if there is one."""
    arrays = _arrays(log, folder)
    items = None if items is None else checked_items(items)
    catalogue, table = _catalogue(log.items, items)
    users = None if users is None else checked_users(users)
    people = None if users is None else _people(log.users, users)
    context = {f"context-{i}-values": values for i, values in enumerate(log.context_values.values())}
    vocabularies = {"users": log.users, "items": catalogue, **context}
    tables = {name: pa.table({"id": vocabulary.array}) for name, vocabulary in vocabularies.items()}
    tables |= {name: one for name, one in ((ITEM_TABLE, table), (USER_TABLE, people)) if one is not None}
    if folder is not None:
        for name, content in tables.items():
            with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, content.schema) as out:
                out.write_table(content.combine_chunks())
    meaning = {"time_kind": log.time_kind, "behaviours": list(log.behaviours), "context": list(log.context_values)}
    manifest = {
        "made_by": {"regard": version("regard"), "sources": [source.described() for source in log.sources]},
        **meaning,
        "counts": {"users": len(log.users), "items": len(catalogue), "events": len(arrays["item"])},
        "arrays": list(arrays),
        "vocabularies": list(vocabularies),
        "item_table": table is not None,
        "user_table": people is not None,
        "report": log.report
        | _repeats(arrays)
        | _coverage(log.items, catalogue, items)
        | _user_coverage(log.users, users)
        | {
            "notes": [
                *log.report["notes"],
                *_strangers("item", log.items, items),
                *_strangers("user", log.users, users),
            ]
        },
        "fingerprint": _fingerprint(meaning, arrays, tables),
    }
    return Content(arrays, vocabularies, table, manifest, people)


def _arrays(log: EventLog, folder: Path | None) -> dict[str, np.ndarray]:
    """Write the sorted columns batch by batch to files, which are then mapped, or to plain arrays."""
    chosen = _columns(log)
    count = log.connection.execute("SELECT count(*) FROM events").fetchall()[0][0]
    sinks = {name: _Sink(folder, name, dtype, count) for name, (_, dtype) in chosen.items()}
    listed = ", ".join(f'{sql} AS "{name}"' for name, (sql, _) in chosen.items())
    query = f'SELECT {listed} FROM events ORDER BY "user", part, time, row'
    for batch in batches(log.connection, query, "the events"):
        for name, sink in sinks.items():
            sink.append(batch.column(name).to_numpy(zero_copy_only=False))
    per_user = log.connection.execute('SELECT "user", count(*) AS events FROM events GROUP BY "user"').fetchnumpy()
    offsets = np.zeros(len(log.users) + 2, np.int64)
    offsets[np.asarray(per_user["user"]) + 1] = per_user["events"]
    sinks["offsets"] = _Sink(folder, "offsets", np.int64, len(offsets))
    sinks["offsets"].append(np.cumsum(offsets))
    return {name: sink.done() for name, sink in sinks.items()}


def _columns(log: EventLog) -> dict[str, tuple[str, type]]:
    """Name each array with its SQL over `events` and its type."""
    fields: dict[str, tuple[str, type]] = {
        "time": ("time", np.int64),
        "behaviour": ("behaviour", np.uint8),
        "label": ("coalesce(label, 'nan'::FLOAT)", np.float32),
        "part": ("part", np.uint8),
    }
    context = {f"context-{i}": (f"c{i}", np.int32) for i in range(len(log.context_values))}
    return {"item": ("item", np.int32), **{field: fields[field] for field in log.fields}, **context}


class _Sink:
    """A `.npy` file written front to back, or an array. Writing to a mapped file would crash where the disk is full."""

    def __init__(self, folder: Path | None, name: str, dtype: type, length: int) -> None:
        self.path = folder / f"{name}.npy" if folder else None
        self.array: np.ndarray = np.empty(0 if folder else length, dtype)
        self.length, self.filled = length, 0
        if self.path:
            described = np.lib.format.dtype_to_descr(self.array.dtype)
            with self.path.open("wb") as file:
                shape = {"descr": described, "fortran_order": False, "shape": (length,)}
                np.lib.format.write_array_header_1_0(file, shape)

    def append(self, values: np.ndarray) -> None:
        if self.path:
            with self.path.open("ab") as file:
                file.write(np.ascontiguousarray(values, self.array.dtype).data)
        else:
            self.array[self.filled : self.filled + len(values)] = values
        self.filled += len(values)

    def done(self) -> np.ndarray:
        assert self.filled == self.length
        return np.load(self.path, mmap_mode="r") if self.path else self.array


def _catalogue(seen: Vocabulary, items: pa.Table | None) -> tuple[Vocabulary, pa.Table | None]:
    """Append items known only from the table, and align the table: row `i - 1` describes item `i`."""
    if items is None:
        return seen, None
    ids = items.column("id").to_pylist()
    catalogue = seen.grown(ids)
    return catalogue, _aligned(items, catalogue)


def _people(seen: Vocabulary, users: pa.Table) -> pa.Table:
    """Align the user table to the users of events: row `u - 1` describes user `u`; nobody else has a row.

    What was counted while reading is left out: it also tells of people who are not here.
    """
    return _aligned(users, seen).replace_schema_metadata(None)


def _aligned(table: pa.Table, vocabulary: Vocabulary) -> pa.Table:
    """Put the rows of a table in the order of a vocabulary, by id; nulls stand where an id has no row."""
    row = np.full(len(vocabulary) + 1, -1, np.int64)
    row[vocabulary.index(table.column("id").to_pylist())] = np.arange(table.num_rows)
    aligned = table.take(pa.array(row[1:], mask=row[1:] < 0)).combine_chunks()
    return aligned.set_column(aligned.column_names.index("id"), "id", vocabulary.array)


def _repeats(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Count events that cannot be told from another one of their user, or at least not by their time."""
    time = arrays.get("time")
    found = {"exact_repeats": count_repeats(arrays["offsets"], arrays["item"], time, arrays.get("behaviour"))}
    return found if time is None else found | {"ties_in_time": count_ties(arrays["offsets"], time)}


def _coverage(seen: Vocabulary, catalogue: Vocabulary, items: pa.Table | None) -> dict[str, dict[str, Any]]:
    """Say how the item table and the items of events meet."""
    if items is None:
        return {}
    described, only_in_table = items.num_rows, len(catalogue) - len(seen)
    report = {"described": described, "only_in_table": only_in_table, "only_in_events": len(catalogue) - described}
    return {"items": item_report(items) | report}


def _user_coverage(seen: Vocabulary, users: pa.Table | None) -> dict[str, dict[str, Any]]:
    """Say how the user table and the users of events meet."""
    if users is None:
        return {}
    described = int(np.count_nonzero(seen.index(users.column("id").to_pylist())))
    report = {
        "described": described,
        "only_in_table": users.num_rows - described,
        "only_in_events": len(seen) - described,
    }
    return {"users": user_report(users) | report}


def _strangers(whose: str, seen: Vocabulary, table: pa.Table | None) -> Iterator[str]:
    """Warn of a table of which no row is of the log: most often ids are written in another way, `1.0` for `1`."""
    if table is None or not table.num_rows or not len(seen):
        return
    ids = table.column("id").to_pylist()
    if not seen.index(ids).any():
        yield (
            f"no row of the {whose} table is of the events: ids there are like {ids[0]!r}, in the events like "
            f"{seen.id(1)!r}; write both in the same way"
        )


def _fingerprint(meaning: dict[str, Any], arrays: dict[str, np.ndarray], tables: dict[str, pa.Table]) -> str:
    """Hash the content: the same events, ids and tables have the same fingerprint wherever they lie."""
    digest = hashlib.blake2b(json.dumps(meaning).encode(), digest_size=16)
    for part in _bytes(arrays, tables):
        digest.update(part)
    return digest.hexdigest()


def _bytes(arrays: dict[str, np.ndarray], tables: dict[str, pa.Table]) -> Iterator[bytes | memoryview]:
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype} {array.shape}".encode()
        yield np.ascontiguousarray(array).view(np.uint8).data
    for name, table in sorted(tables.items()):
        yield name.encode()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        yield memoryview(sink.getvalue())
