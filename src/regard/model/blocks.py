"""Padded blocks of jagged rows: made, and unmade, for `attend` alone.

Letters: b rows of a block, L the longest of them, n real entries, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """The queries, or the keys, of some rows as a padded block: (b, L) slots into the jagged tensor."""

    slots: Tensor  # (n,) jagged places of the real entries, row after row
    cells: Tensor | None  # (n,) where they lie in the flattened (b * L) block; None = everywhere: no padding at all
    lengths: Tensor  # (b,)
    longest: int
    consecutive: bool  # slots are one run: a view instead of a copy
    rows: list[int]  # whose these are

    @property
    def full(self) -> bool:
        """Whether all rows are equally long."""
        return self.cells is None

    @property
    def real(self) -> Tensor:
        """(b, L) bool: which cells of the block hold an entry."""
        return torch.arange(self.longest, device=self.lengths.device)[None, :] < self.lengths[:, None]

    def take(self, jagged: Tensor) -> Tensor:
        """The n entries of these rows."""
        if self.consecutive and len(self.slots):
            start = int(self.slots[0])
            return jagged[start : start + len(self.slots)]
        return gather(jagged, self.slots)

    def lay(self, jagged: Tensor) -> Tensor:
        """(N,) -> (b, L)."""
        return self.pad(jagged[:, None, None])[:, 0, :, 0]

    def pad(self, jagged: Tensor) -> Tensor:
        """(N, H, D) -> (b, H, L, D)."""
        return self.spaced(self.take(jagged))

    def spaced(self, rows: Tensor) -> Tensor:
        """The n entries (n, H, D) of these rows -> (b, H, L, D)."""
        size = len(self.lengths) * self.longest
        cells = rows if self.cells is None else scatter(rows, self.cells, size)
        return cells.view(len(self.lengths), self.longest, *rows.shape[1:]).transpose(1, 2)

    def unpad(self, block: Tensor) -> Tensor:
        """(b, H, L, D) -> (n, H, D)."""
        cells = block.transpose(1, 2).flatten(0, 1)
        return cells if self.cells is None else gather(cells, self.cells)


@dataclass(frozen=True)
class Block:
    """Some rows of similar size: their numbers, queries and keys."""

    rows: list[int]
    queries: Side
    keys: Side

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Positions inside the row: of queries (q, 1), of keys (1, k)."""
        device = self.keys.lengths.device
        return (
            torch.arange(self.queries.longest, device=device)[:, None],
            torch.arange(self.keys.longest, device=device)[None, :],
        )

    def split(self, shares: Tensor, into: list[Tensor]) -> None:
        """Cut (b, H, q, k) into one (queries, keys, H) per row."""
        sizes = zip(self.rows, self.queries.lengths.tolist(), self.keys.lengths.tolist(), strict=True)
        for at, (row, queries, keys) in enumerate(sizes):
            into[row] = shares[at, :, :queries, :keys].permute(1, 2, 0)


def blocks(query_offsets: Tensor, key_offsets: Tensor) -> Iterator[Block]:
    """Group rows whose queries, and whose keys, differ less than twofold in number, the longest first.

    So a block is at least half full on either side. Rows without queries or without keys need no kernel.
    """
    same = query_offsets is key_offsets
    query_lengths = query_offsets.diff().tolist()
    key_lengths = query_lengths if same else key_offsets.diff().tolist()
    rows = [row for row, (q, k) in enumerate(zip(query_lengths, key_lengths, strict=True)) if q and k]

    def octave(row: int) -> tuple[int, int]:
        return -query_lengths[row].bit_length(), -key_lengths[row].bit_length()

    for _, alike in groupby(sorted(rows, key=octave), octave):
        group = list(alike)
        index = torch.tensor(group, device=query_offsets.device)
        keys = side(key_offsets, index, [key_lengths[row] for row in group], group)
        queries = keys if same else side(query_offsets, index, [query_lengths[row] for row in group], group)
        yield Block(group, queries, keys)


def side(offsets: Tensor, index: Tensor, lengths: list[int], rows: list[int]) -> Side:
    """The side of a block that holds the rows `rows` (`index` on the device) of these lengths."""
    sizes = torch.tensor(lengths, device=offsets.device)
    longest, total = max(lengths), sum(lengths)
    before = sizes.cumsum(0) - sizes
    inside = torch.arange(total, device=offsets.device) - torch.repeat_interleave(before, sizes, output_size=total)
    slots = torch.repeat_interleave(offsets[index], sizes, output_size=total) + inside
    full = all(length == longest for length in lengths)
    block = torch.arange(len(rows), device=offsets.device) * longest
    cells = None if full else torch.repeat_interleave(block, sizes, output_size=total) + inside
    consecutive = all(after == row + 1 for row, after in pairwise(rows))
    return Side(slots, cells, sizes, longest, consecutive, rows)


def padded(each: Sequence[Block], query: Tensor, *keys: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield blocks with their part of the queries and of what keys have, (b, H, L, D) each."""
    queries = _parts(query, [block.queries for block in each])
    others = [_parts(one, [block.keys for block in each]) for one in keys]
    for block, own, *its in zip(each, queries, *others, strict=True):
        yield block, block.queries.spaced(own), *(block.keys.spaced(one) for one in its)


def in_order(sides: Sequence[Side], size: int) -> bool:
    """Whether sides, one after the other, are the jagged tensor of so many entries as it lies."""
    rows = [row for side in sides for row in side.rows]
    return sum(len(side.slots) for side in sides) == size and all(row < after for row, after in pairwise(rows))


def _parts(jagged: Tensor, sides: Sequence[Side]) -> Sequence[Tensor]:
    """The entries of each side; of a single split where possible, as the gradient of each view is as long as all."""
    if in_order(sides, len(jagged)):
        whole: Sequence[Tensor] = jagged.split([len(side.slots) for side in sides])
        return whole
    return [side.take(jagged) for side in sides]


def gather(source: Tensor, places: Tensor) -> Tensor:
    """Take distinct rows."""
    rows: Tensor = _Gather.apply(source, places)  # type: ignore[no-untyped-call]
    return rows


def scatter(source: Tensor, places: Tensor, size: int) -> Tensor:
    """Put rows at distinct places of a tensor of zeros."""
    rows: Tensor = _Scatter.apply(source, places, size)  # type: ignore[no-untyped-call]
    return rows


class _Gather(torch.autograd.Function):
    """Autograd's own indexing would add gradients up one by one; distinct rows need a copy only."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(source)
        return source.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _spread(grads[0], places, ctx.size), None


class _Scatter(torch.autograd.Function):
    """The inverse of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return _spread(source, places, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grads[0].index_select(0, places), None, None


def _spread(rows: Tensor, places: Tensor, size: int) -> Tensor:
    return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, places, rows)
