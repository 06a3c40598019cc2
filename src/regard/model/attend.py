"""The one place where ragged rows meet a kernel.

`attend` takes rows of any length back to back and gives rows back to back; padding is made and removed in here, so no
result can depend on it. `mix` does the same for logits that were computed elsewhere, pair by pair. Letters: B rows,
Q queries and K keys over all rows, P pairs of a query and a key it may see, H heads, D and V widths of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from regard.model.blocks import Block, Side, blocks, in_order, padded, scatter, side
from regard.model.maps import mapped, quicker

Normalize = Literal["softmax", "none", "silu"]
Bias = Callable[[Block, torch.dtype], Tensor]


class Attended(NamedTuple):
    """What `attend` gives: `values` (Q, H, V) and, if asked for, `weights`.

    `weights` holds one tensor (queries of the row, keys of the row, H) for each of the B rows, 0 where a query does not
    see a key.
    """

    values: Tensor
    weights: list[Tensor] | None


class Pairs(NamedTuple):
    """Queries and the keys they may see, query after query, keys in order: indexes into the jagged tensors."""

    query: Tensor  # (P,) int64, ascending
    key: Tensor  # (P,) int64


def attend(  # noqa: PLR0913 - the one door to every kernel
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    query_offsets: Tensor,
    key_offsets: Tensor,
    spans: Tensor | None = None,
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
        spans: (Q, 2) int64: query q sees the keys [spans[q, 0], spans[q, 1]) of its row only, counted from the first
            key of the row and inside it; None = all of them.
        causal: the i-th query of a row sees the keys up to the i-th; needs as many queries as keys in every row.
        bias: called with a `Block` of rows and a type of number, to give (b or 1, H, q, k) to be added to the logits:
            the block knows places in the row (`places`), and lays out what each event has (`queries.lay`, `keys.lay`).
        normalize: `softmax` over the keys; `none` (the logits are the weights); `silu` of the logits, divided by the
            number of keys that the query sees, never by all of its row's (Zhai et al. 2024, arXiv 2402.17152, eq. 2).
        scale: factor of the logits, 1/sqrt(D) by default.
        dropout: share of weights set to zero, the others scaled up.
        return_weights: give the weights of this very forward.

    Returns:
        `Attended`. A query without keys (its row or its span is empty) gets zeros, and zero gradients.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    fused = normalize == "softmax" and bias is None and dropout == 0.0 and not return_weights
    maps = not (fused or normalize == "none" or dropout or return_weights) and query.dtype == keys.dtype == values.dtype
    triangle = (fused or maps) and causal and spans is None  # a mask they make themselves; padding lies behind it
    pieces: list[tuple[Side, Tensor]] = []
    weights: list[Tensor] = [query.new_zeros(0)] * (len(query_offsets) - 1) if return_weights else []
    for block, q, k, v in padded(list(blocks(query_offsets, key_offsets)), query, keys, values):  # (b, H, L, D)
        sight = _Sight.of(block, spans, causal) if not triangle else _Sight()
        if (maps or (fused and quicker(q, k, v))) and sight.visible is None:
            told = None if bias is None else bias(block, q.dtype)
            mixed = mapped(q, k, v, told, pointwise=normalize == "silu", causal=triangle, scale=factor)
        elif fused:
            mixed = sight.fused(q, k, v, factor, triangle)
        else:
            logits = torch.einsum("bhqd,bhkd->bhqk", q, k).to(_exact(q)) * factor
            added = logits if bias is None else logits + bias(block, logits.dtype)
            mixed, shares = _Form(normalize, dropout)(added, v, sight)
            if return_weights:
                block.split(shares, weights)
        pieces.append((block.queries, mixed))
    out = _joined(pieces, query.shape[0]) if pieces else query.new_zeros(*query.shape[:2], values.shape[-1])
    return Attended(out, weights if return_weights else None)


def pool(
    scores: Tensor,
    values: Tensor,
    *,
    query_offsets: Tensor,
    key_offsets: Tensor,
    spans: Tensor | None = None,
    normalize: Literal["softmax", "none"] = "softmax",
    return_weights: bool = False,
) -> Attended:
    """Attend with logits (K, H) that depend on the key alone, whichever query sees it.

    Takes values (K, H, V) and all else, and gives, what `attend` does.
    """
    return attend(
        scores.new_ones(int(query_offsets[-1]), scores.shape[1], 1).to(values.dtype),
        scores.unsqueeze(2).to(values.dtype),
        values,
        query_offsets=query_offsets,
        key_offsets=key_offsets,
        spans=spans,
        normalize=normalize,
        scale=1.0,
        return_weights=return_weights,
    )


def pairs(query_offsets: Tensor, key_offsets: Tensor, spans: Tensor | None = None) -> Pairs:
    """List every query with every key of its row (B + 1,), or of its span (Q, 2) as in `attend`."""
    owner = torch.repeat_interleave(query_offsets.diff())
    first, counts = key_offsets[owner], key_offsets.diff()[owner]
    if spans is not None:
        first, counts = first + spans[:, 0], (spans[:, 1] - spans[:, 0]).clamp_min(0)
    query = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return Pairs(query, (first - before).index_select(0, query) + torch.arange(len(query), device=query.device))


def mix(
    logits: Tensor,
    values: Tensor,
    *,
    pairs: Pairs,
    query_offsets: Tensor,
    key_offsets: Tensor,
    normalize: Literal["softmax", "none"] = "softmax",
    dropout: float = 0.0,
    return_weights: bool = False,
) -> Attended:
    """Attend with logits (P, H) that were computed pair by pair; values (K, H, V) are not copied for each query.

    Takes offsets, `normalize` and `dropout`, and gives what `attend` does; `pairs` are those of the function `pairs`.
    """
    form = _Form(normalize, dropout)
    pieces: list[tuple[Side, Tensor]] = []
    weights: list[Tensor] = [logits.new_zeros(0)] * (len(query_offsets) - 1) if return_weights else []
    for block in blocks(query_offsets, key_offsets):
        grid, sight = _grid(logits, pairs, block, query_offsets, key_offsets)
        mixed, shares = form(grid.to(_exact(grid)), block.keys.pad(values), sight)
        if return_weights:
            block.split(shares, weights)
        pieces.append((block.queries, mixed))
    many = int(query_offsets[-1])
    out = _joined(pieces, many) if pieces else values.new_zeros(many, *values.shape[1:])
    return Attended(out, weights if return_weights else None)


@dataclass(frozen=True)
class _Sight:
    """Which keys the queries of a padded block see; None = all."""

    visible: Tensor | None = None  # (b, 1, q or 1, k) bool
    blind: Tensor | None = None  # (b, 1, q, 1) bool: queries that see nothing; None = there are none

    @classmethod
    def of(cls, block: Block, spans: Tensor | None, causal: bool) -> _Sight:
        visible = None if block.keys.full else block.keys.real[:, None, None, :]
        query_place, key_place = block.places
        if spans is not None:
            start, stop = block.queries.pad(spans[:, None]).unsqueeze(-2).unbind(-1)  # (b, 1, q, 1)
            visible = (key_place >= start) & (key_place < stop)
        if causal:
            triangle = key_place <= query_place
            visible = triangle if visible is None else visible & triangle
        if spans is None or visible is None:
            return cls(visible)
        return cls(visible, ~visible.any(-1, keepdim=True))

    def counts(self, keys: int) -> Tensor | int:
        """How many of so many keys a query sees, at least 1: (b or 1, 1, q or 1, 1)."""
        return keys if self.visible is None else self.visible.sum(-1, keepdim=True).clamp_min(1)

    def fused(self, q: Tensor, k: Tensor, v: Tensor, factor: float, triangle: bool) -> Tensor:
        """The kernel of PyTorch, which knows softmax only, and no query that sees nothing."""
        mask = self.visible if self.visible is None or self.blind is None else self.visible | self.blind
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=triangle, scale=factor)
        return mixed if self.blind is None else mixed.masked_fill(self.blind, 0.0)


@dataclass(frozen=True)
class _Form:
    """What becomes of logits, written out: what the fused kernel computes, and what it cannot."""

    normalize: Normalize
    dropout: float

    def __call__(self, logits: Tensor, v: Tensor, sight: _Sight) -> tuple[Tensor, Tensor]:
        """(b, H, q, k), (b, H, k, V) -> values (b, H, q, V), weights (b, H, q, k)."""
        hidden = None if sight.visible is None else ~sight.visible
        if self.normalize == "softmax":
            # The lowest number instead of -inf keeps a row without visible keys, and its gradients, from being NaN.
            masked = logits if hidden is None else logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
            shares = masked.softmax(-1)
            shares = shares if sight.blind is None else shares.masked_fill(sight.blind, 0.0)
        else:
            raw = logits if self.normalize == "none" else functional.silu(logits) / sight.counts(logits.shape[-1])
            shares = raw if hidden is None else raw.masked_fill(hidden, 0.0)
        shares = shares.to(v.dtype)
        dropped = functional.dropout(shares, self.dropout) if self.dropout else shares
        return torch.einsum("bhqk,bhkv->bhqv", dropped, v), shares


def _grid(
    logits: Tensor, pairs: Pairs, block: Block, query_offsets: Tensor, key_offsets: Tensor
) -> tuple[Tensor, _Sight]:
    """Lay the pairs of a block out as (b, H, q, k)."""
    index = torch.tensor(block.rows, device=logits.device)
    starts = torch.searchsorted(pairs.query, query_offsets)
    listed = side(starts, index, starts.diff()[index].tolist(), block.rows)
    shape = (len(block.rows), block.queries.longest, block.keys.longest)
    rows, size = listed.take(logits), math.prod(shape)
    if len(rows) == size:  # every query of the block sees every key: query-major is the order of the grid
        return rows.view(*shape, -1).permute(0, 3, 1, 2), _Sight()
    query, key = listed.take(pairs.query), listed.take(pairs.key)
    row = torch.searchsorted(query_offsets, query, right=True) - 1
    number = index.new_zeros(len(starts)).index_copy_(0, index, torch.arange(len(index), device=index.device))[row]
    cells = (number * shape[1] + query - query_offsets[row]) * shape[2] + key - key_offsets[row]
    visible = torch.zeros(size, dtype=torch.bool, device=logits.device).index_fill_(0, cells, True)
    visible = visible.view(*shape)[:, None]
    grid = scatter(rows, cells, size).view(*shape, -1).permute(0, 3, 1, 2)
    return grid, _Sight(visible, ~visible.any(-1, keepdim=True))


def _exact(tensor: Tensor) -> torch.dtype:
    """Softmax wants float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _joined(pieces: list[tuple[Side, Tensor]], size: int) -> Tensor:
    """Blocks (b, H, L, V) -> (size, H, V), zeros where no block has anything."""
    entries = torch.cat([queries.unpad(block) for queries, block in pieces])
    if in_order([queries for queries, _ in pieces], size):
        return entries
    return scatter(entries, torch.cat([queries.slots for queries, _ in pieces]), size)
