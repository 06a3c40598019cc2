"""The one place where ragged rows meet a kernel.

`attend` takes rows of any length back to back and gives rows back to back; padding is made and removed in here, so no
result can depend on it. Letters: B rows, Q queries and K keys over all rows, H heads, D and V widths of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Normalize = Literal["softmax", "none", "silu"]
Bias = Callable[[Tensor, Tensor], Tensor]

# Rows share a padded block while the shortest is at least this share of the longest.
_FILL = 0.5


class Attended(NamedTuple):
    """What `attend` gives: `values` (Q, H, V) and, if asked for, `weights`.

    `weights` holds one tensor (queries of the row, keys of the row, H) for each of the B rows.
    """

    values: Tensor
    weights: list[Tensor] | None


def attend(  # noqa: PLR0913 - the one door to every kernel
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool = False,
    bias: Bias | None = None,
    normalize: Normalize = "softmax",
    scale: float | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
) -> Attended:
    """Let each query attend to the keys of its own row.

    Args:
        query: (Q, H, D), row b in `query_offsets[b]:query_offsets[b + 1]`.
        keys: (K, H, D), row b in `key_offsets[b]:key_offsets[b + 1]`; a row may be empty.
        values: (K, H, V).
        query_offsets: (B + 1,) int64.
        key_offsets: (B + 1,) int64.
        causal: the i-th query of a row sees the keys up to the i-th; needs as many queries as keys in every row.
        bias: called with positions inside the row, queries (q, 1) and keys (1, k), to give (H, q, k) to be added to the
            logits.
        normalize: `softmax` over the keys; `none` (the logits are the weights); `silu` of the logits, divided by the
            number of keys of the row (Zhai et al. 2024, arXiv 2402.17152, eq. 2).
        scale: factor of the logits, 1/sqrt(D) by default.
        dropout: share of weights set to zero, the others scaled up.
        return_weights: give the weights of this very forward.

    Returns:
        `Attended`. A query whose row has no keys gets zeros, and zero gradients.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    form = _Form(causal, bias, normalize, factor, dropout)
    fused = form.plain and not return_weights
    out = query.new_zeros(query.shape[0], query.shape[1], values.shape[-1])
    pieces, places = [], []
    whole = False
    weights: list[Tensor] = [query.new_zeros(0)] * (len(query_offsets) - 1) if return_weights else []
    for block in _blocks(query_offsets, key_offsets):
        q, k, v = block.queries.pad(query), block.keys.pad(keys), block.keys.pad(values)  # (b, H, L, D)
        if fused and (causal or block.keys.full):
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=factor)
        elif fused:
            mask = block.keys.real[:, None, None, :]
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor)
        else:
            mixed, shares = form(q, k, v, block.keys)
            if return_weights:
                block.split(shares, weights)
        pieces.append(block.queries.unpad(mixed))
        places.append(block.queries.slots)
        whole = block.queries.consecutive and len(pieces[-1]) == len(out)
    if whole:
        out = pieces[0]
    elif pieces:
        out = _scatter(torch.cat(pieces), torch.cat(places), len(out))
    return Attended(out, weights if return_weights else None)


@dataclass(frozen=True)
class _Form:
    """Attention on padded blocks, written out: what the fused kernel computes, and what it cannot."""

    causal: bool
    bias: Bias | None
    normalize: Normalize
    factor: float
    dropout: float

    @property
    def plain(self) -> bool:
        return self.normalize == "softmax" and self.bias is None and self.dropout == 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: _Side) -> tuple[Tensor, Tensor]:
        """(b, H, q, D), (b, H, k, D), (b, H, k, V) -> values (b, H, q, V), weights (b, H, q, k)."""
        exact = torch.promote_types(q.dtype, torch.float32)
        logits = torch.einsum("bhqd,bhkd->bhqk", q, k).to(exact) * self.factor
        query_place = torch.arange(q.shape[2], device=q.device)[:, None]
        key_place = torch.arange(k.shape[2], device=q.device)[None, :]
        if self.bias is not None:
            logits = logits + self.bias(query_place, key_place)
        real = keys.real[:, None, None, :]
        if self.causal:
            real = real & (key_place <= query_place)
        if self.normalize == "softmax":
            shares = logits.masked_fill(~real, -torch.inf).softmax(-1)
        else:
            raw = logits if self.normalize == "none" else functional.silu(logits) / keys.lengths.view(-1, 1, 1, 1)
            shares = raw.masked_fill(~real, 0.0)
        shares = shares.to(v.dtype)
        dropped = functional.dropout(shares, self.dropout) if self.dropout else shares
        return torch.einsum("bhqk,bhkv->bhqv", dropped, v), shares


@dataclass(frozen=True)
class _Side:
    """The queries, or the keys, of some rows as a padded block: (b, L) slots into the jagged tensor."""

    slots: Tensor  # (n,) jagged places of the real entries, row after row
    cells: Tensor | None  # (n,) where they lie in the flattened (b * L) block; None = everywhere: no padding at all
    lengths: Tensor  # (b,)
    longest: int
    consecutive: bool  # slots are one run: a view instead of a copy

    @property
    def full(self) -> bool:
        return self.cells is None

    @property
    def real(self) -> Tensor:
        """(b, L) bool: which cells of the block hold an entry."""
        return torch.arange(self.longest, device=self.lengths.device)[None, :] < self.lengths[:, None]

    def pad(self, jagged: Tensor) -> Tensor:
        """(n, H, D) -> (b, H, L, D)."""
        if self.consecutive and len(self.slots):
            start = int(self.slots[0])
            rows = jagged[start : start + len(self.slots)]
        else:
            rows = _gather(jagged, self.slots)
        size = len(self.lengths) * self.longest
        cells = rows if self.cells is None else _scatter(rows, self.cells, size)
        return cells.view(len(self.lengths), self.longest, *jagged.shape[1:]).transpose(1, 2)

    def unpad(self, block: Tensor) -> Tensor:
        """(b, H, L, D) -> (n, H, D)."""
        cells = block.transpose(1, 2).flatten(0, 1)
        return cells if self.cells is None else _gather(cells, self.cells)


@dataclass(frozen=True)
class _Block:
    rows: list[int]
    queries: _Side
    keys: _Side

    def split(self, shares: Tensor, into: list[Tensor]) -> None:
        """Cut (b, H, q, k) into one (queries, keys, H) per row."""
        sizes = zip(self.rows, self.queries.lengths.tolist(), self.keys.lengths.tolist(), strict=True)
        for at, (row, queries, keys) in enumerate(sizes):
            into[row] = shares[at, :, :queries, :keys].permute(1, 2, 0)


def _blocks(query_offsets: Tensor, key_offsets: Tensor) -> Iterator[_Block]:
    """Group rows of similar length, longest first; rows without queries or without keys need no kernel."""
    same = query_offsets is key_offsets
    query_lengths = query_offsets.diff().tolist()
    key_lengths = query_lengths if same else key_offsets.diff().tolist()
    lengths = [(max(q, k), q, k, row) for row, (q, k) in enumerate(zip(query_lengths, key_lengths, strict=True))]
    lengths.sort(key=lambda entry: (-entry[0], -entry[1], entry[3]))
    group: list[tuple[int, int, int, int]] = []
    for entry in [*lengths, (-1, 0, 0, 0)]:
        ends = entry[0] < 0 or (group and entry[0] < _FILL * group[0][0])
        if group and ends:
            rows = [row for *_, row in group]
            index = torch.tensor(rows, device=query_offsets.device)
            keys = _side(key_offsets, index, [k for _, _, k, _ in group], rows)
            yield _Block(rows, keys if same else _side(query_offsets, index, [q for _, q, _, _ in group], rows), keys)
            group = []
        if entry[1] > 0 and entry[2] > 0:
            group.append(entry)


def _side(offsets: Tensor, index: Tensor, lengths: list[int], rows: list[int]) -> _Side:
    sizes = torch.tensor(lengths, device=offsets.device)
    longest, total = max(lengths), sum(lengths)
    before = sizes.cumsum(0) - sizes
    inside = torch.arange(total, device=offsets.device) - torch.repeat_interleave(before, sizes, output_size=total)
    slots = torch.repeat_interleave(offsets[index], sizes, output_size=total) + inside
    full = all(length == longest for length in lengths)
    block = torch.arange(len(rows), device=offsets.device) * longest
    cells = None if full else torch.repeat_interleave(block, sizes, output_size=total) + inside
    consecutive = all(after == row + 1 for row, after in pairwise(rows))
    return _Side(slots, cells, sizes, longest, consecutive)


def _gather(source: Tensor, places: Tensor) -> Tensor:
    """Take distinct rows."""
    rows: Tensor = _Gather.apply(source, places)  # type: ignore[no-untyped-call]
    return rows


def _scatter(source: Tensor, places: Tensor, size: int) -> Tensor:
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
