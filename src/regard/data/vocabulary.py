"""Raw ids and their indexes: 0 is unknown, real ids are 1..n in a fixed order; it grows without renumbering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MANY = 1000  # from here on one pass over all ids is cheaper than a dictionary of them


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

    @cached_property
    def _indexes(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.array.to_pylist(), start=1)}
