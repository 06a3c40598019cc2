"""Raw ids and their indexes: 0 is unknown, real ids are 1..n in a fixed order; it grows without renumbering.

Where there are too many ids for a row of weights each, they share a fixed number of rows by hashes of the raw id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MANY = 1000  # from here on one pass over all ids is cheaper than a dictionary of them
_KEY = b"regard: rows of ids"  # part of every trained run whose ids are hashed: never to change


class Vocabulary:
    """Ids in index order, backed by one Arrow string array that may be memory-mapped: index `i` is row `i - 1`."""

    def __init__(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Wrap distinct ids; `ids[i - 1]` gets index `i`. Large-string arrays in one piece are used as they are."""
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.chunk(0) if ids.num_chunks == 1 else ids.cast(pa.large_string()).combine_chunks()
        self.array: pa.Array = ids.cast(pa.large_string())
        assert self.array.null_count == 0

    @classmethod
    def of(cls, ids: Iterable[str]) -> Vocabulary:
        """Give each distinct id an index in order of first appearance."""
        return cls(pa.array(list(dict.fromkeys(ids)), pa.large_string()))

    def __len__(self) -> int:
        """Number of real ids; the unknown one does not count."""
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        """Two vocabularies are equal where every index means the same id."""
        return isinstance(other, Vocabulary) and bool(self.array.equals(other.array))

    __hash__ = None  # type: ignore[assignment]

    def index(self, ids: Sequence[str] | pa.Array) -> np.ndarray:
        """Return the index of each id, int64 `(len(ids),)`; 0 where it is unknown."""
        if len(ids) < _MANY:
            return np.fromiter((self._indexes.get(str(name), 0) for name in ids), np.int64, len(ids))
        wanted = ids if isinstance(ids, pa.Array) else pa.array(map(str, ids), pa.large_string())
        found = pc.index_in(wanted.cast(pa.large_string()), value_set=self.array)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64) + 1

    def id(self, index: int) -> str:
        """Return the id of one index in 1..n."""
        if not 1 <= index <= len(self):
            raise IndexError(f"index {index} is not in 1..{len(self)}")
        return str(self.array[int(index) - 1].as_py())

    def ids(self, indexes: Sequence[int] | np.ndarray) -> list[str]:
        """Return the ids of indexes in 1..n."""
        rows = np.asarray(indexes, np.int64).reshape(-1) - 1
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"indexes must be in 1..{len(self)}; got {rows.min() + 1}..{rows.max() + 1}")
        return list(self.array.take(pa.array(rows)).to_pylist())

    def grown(self, ids: Iterable[str]) -> Vocabulary:
        """Return a vocabulary with unseen ids appended in order of first appearance; no index changes its id."""
        fresh = [name for name in dict.fromkeys(ids) if name not in self._indexes]
        return Vocabulary(pa.concat_arrays([self.array, pa.array(fresh, pa.large_string())])) if fresh else self

    def hashed(self, rows: int, functions: int) -> np.ndarray:
        """Return the rows 1..`rows` that each id shares with others, int32 (n + 1, functions); index 0 has row 0.

        They are 64-bit pieces of a keyed BLAKE2b (RFC 7693) of the UTF-8 of the id, modulo `rows`: the same on every
        machine, whatever index the id has and whichever other ids there are.
        """
        start = hashlib.blake2b(key=_KEY, digest_size=8 * functions)
        digests = bytearray()
        for name in self.array.to_pylist():
            digest = start.copy()
            digest.update(name.encode())
            digests += digest.digest()
        pieces = np.frombuffer(digests, "<u8").reshape(-1, functions) % np.uint64(rows) + np.uint64(1)
        return np.concatenate([np.zeros((1, functions), np.int32), pieces.astype(np.int32)])

    @cached_property
    def _indexes(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.array.to_pylist(), start=1)}


def collisions(hashed: np.ndarray, rows: int) -> dict[str, Any]:
    """Report how items (n + 1, functions) of `Vocabulary.hashed` share `rows` rows.

    `shared` counts the items that another item has all rows in common with: nothing but attributes tells them apart.
    Beside it the share of such items, and what would be expected of uniform hashing into k different rows each, where
    two items meet with probability k! / rows^k. Then how many items a row serves, in the mean and at most.
    """
    own = np.sort(hashed[1:], axis=1)  # rows are added up, so their order is nothing
    items, functions = own.shape
    _, together = np.unique(own, axis=0, return_counts=True)
    shared = int(together[together > 1].sum())
    meeting = min(1.0, math.factorial(functions) / float(rows) ** functions)
    per_row = np.bincount(own.reshape(-1), minlength=rows + 1)[1:]
    return {
        "rows": rows,
        "functions": functions,
        "items": items,
        "shared": shared,
        "shared_share": shared / max(items, 1),
        "expected_share": 1.0 - (1.0 - meeting) ** max(items - 1, 0),
        "items_per_row": {"mean": float(per_row.mean()), "max": int(per_row.max())},
    }


def collision_line(report: Mapping[str, Any]) -> str:
    """Say in a line what `collisions` reports."""
    return (
        f"{report['items']:,} items share {report['rows']:,} rows, {report['functions']} each, "
        f"{report['items_per_row']['mean']:.1f} in a row (at most {report['items_per_row']['max']:,}); "
        f"{report['shared']:,} ({report['shared_share']:.2%}) cannot be told from another by them, "
        f"{report['expected_share']:.2%} were expected"
    )
