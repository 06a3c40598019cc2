"""Losses: pure functions of states, an item table and targets.

Nothing of size (targets x catalogue) is ever held: logits live one tile at a time, and the gradients are formed in the
same pass. Letters: N targets, V items, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TILE = 256


def next_item_loss(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the softmax over the whole catalogue, with exact gradients.

    Args:
        states: (N, D).
        table: (V, D), the item vectors; logits are `states @ table.T`.
        targets: (N,) int64, rows of `table`.

    Under autocast the products run in its precision and are summed in float32.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    loss: Tensor = _TiledCrossEntropy.apply(states, table, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def sampled_next_item_loss(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, correction: Tensor
) -> Tensor:
    """Mean cross-entropy of a softmax over the target and sampled `negatives`, shared by all targets.

    A negative that is the target of a state does not count for that state. With the log of one over its expected
    number as `correction`, the sum under the softmax is right on average for every state: the target, which is always
    there, as it is, and the negatives for all other items. Its gradient weighs a target by the probability that it
    still lacks, as Khrylchenko et al. 2025 (arXiv 2507.09331) ask for, who find that correcting the target as well,
    as is often done, is biased.

    Args:
        states: (N, D).
        table: (V, D).
        targets: (N,) int64, rows of `table`.
        negatives: (m,) int64 ascending, rows of `table`, each once.
        correction: (m,) what is added to their logits; for one that was drawn k times it has log k too.

    Gradients are formed in the forward pass and logits live one tile at a time, as in the full softmax.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    drawn = table[negatives]
    loss: Tensor = _TiledSampledSoftmax.apply(  # type: ignore[no-untyped-call]
        states, table[targets], drawn, correction, _columns(targets, negatives), dtype
    )
    return loss


def _columns(targets: Tensor, negatives: Tensor) -> Tensor:
    """Where each target is among ascending negatives, (N,); -1 where it is not."""
    if not len(negatives):
        return torch.full_like(targets, -1)
    found = torch.searchsorted(negatives, targets).clamp_max(len(negatives) - 1)
    return found.masked_fill(negatives[found] != targets, -1)


def _lacking(chosen: Tensor, others: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """What targets still lack of probability 1, (n,) in `exact`, and the sum of the logs of what they have.

    `chosen` (n,) is near 1 where a target is sure; 1 - chosen would be rounded away there, and what the `others`
    (n, m) have, 0 in the place of the target, is not.
    """
    lacks = 1 - chosen.to(exact)
    sure = (chosen > 0.5).nonzero().squeeze(1)
    lacks[sure] = others[sure].sum(-1, dtype=exact)
    have = chosen.to(exact).clamp_min(torch.finfo(exact).tiny).log()
    have[sure] = torch.log1p(-lacks[sure].clamp_max(0.75))
    return lacks, have.sum()


class _TiledCrossEntropy(torch.autograd.Function):
    """Tile by tile: logits, their softmax, and both gradients while the tile is still in the cache."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        small, wanted = table.to(dtype), any(ctx.needs_input_grad[:2])
        exact = torch.promote_types(dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=states.device)
        to_states = torch.empty(states.shape, dtype=dtype, device=states.device) if wanted else None
        to_table = torch.zeros(table.shape, dtype=exact, device=table.device) if wanted else None
        each = torch.arange(min(_TILE, len(states)), device=states.device)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), _TILE):
                tile = states[start : start + _TILE].to(dtype)
                shares = (tile @ small.T).softmax(-1)
                at = each[: len(tile)], targets[start : start + _TILE]
                chosen = shares[at]
                shares[at] = 0  # `scatter_` takes ten times as long
                lacks, have = _lacking(chosen, shares, exact)
                loss -= have
                if to_states is not None and to_table is not None:
                    shares[at] = -lacks.to(dtype)
                    torch.mm(shares, small, out=to_states[start : start + _TILE])
                    to_table += shares.T @ tile
        ctx.save_for_backward(to_states, to_table)
        ctx.dtypes = states.dtype, table.dtype
        ctx.count = max(1, len(states))
        mean: Tensor = loss / ctx.count
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_states, to_table = ctx.saved_tensors
        factor = grads[0] / ctx.count
        states_type, table_type = ctx.dtypes
        return (to_states * factor).to(states_type), (to_table * factor).to(table_type), None, None


class _TiledSampledSoftmax(torch.autograd.Function):
    """The same with a positive (N, D) for each state, in the last column, and the negatives (m, D) of all states."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        positives: Tensor,
        negatives: Tensor,
        bias: Tensor,
        columns: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        small, bias, wanted = negatives.to(dtype), bias.to(dtype), any(ctx.needs_input_grad[:3])
        exact = torch.promote_types(dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=states.device)
        to_states = torch.empty(states.shape if wanted else 0, dtype=dtype, device=loss.device)
        to_positives = torch.empty_like(to_states)
        to_negatives = torch.zeros(negatives.shape, dtype=exact, device=loss.device)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), _TILE):
                here = slice(start, start + _TILE)
                tile, positive = states[here].to(dtype), positives[here].to(dtype)
                logits = torch.addmm(bias, tile, small.T)
                hit = (columns[here] >= 0).nonzero().squeeze(1)
                logits[hit, columns[here][hit]] = -torch.inf
                shares = torch.cat([logits, (tile * positive).sum(-1, keepdim=True)], 1).softmax(-1)
                others = shares[:, :-1]
                lacks, have = _lacking(shares[:, -1], others, exact)
                loss -= have
                if wanted:
                    pull = -lacks.to(dtype)[:, None]
                    to_states[here] = (others @ small).addcmul_(pull, positive)
                    torch.mul(tile, pull, out=to_positives[here])
                    to_negatives += others.T @ tile
        ctx.save_for_backward(to_states, to_positives, to_negatives)
        ctx.dtypes = states.dtype, positives.dtype, negatives.dtype
        ctx.count = max(1, len(states))
        mean: Tensor = loss / ctx.count
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor = grads[0] / ctx.count
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (*((each * factor).to(dtype) for each, dtype in found), None, None, None)
