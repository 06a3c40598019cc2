"""Losses: pure functions of states, an item table and targets.

Nothing of size (targets x catalogue) is ever held: logits live one tile at a time, and the gradients are formed in the
same pass. Letters: N targets, V items, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_TILE = 512


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


def sampled_next_item_loss(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross-entropy of a softmax over the target and sampled `negatives`, shared by all targets.

    Negatives are drawn uniformly, so the usual correction by the sampling probability (Bengio and Senécal 2008) is the
    same for all and only scales them up to stand for the whole catalogue: log((V - 1) / n) is added to their logits.
    A negative that happens to be the target of a state does not count for that state.

    Args:
        states: (N, D).
        table: (V, D).
        targets: (N,) int64, rows of `table`.
        negatives: (n,) int64, rows of `table`.
    """
    exact = torch.promote_types(states.dtype, torch.float32)
    positive = (states * table[targets]).sum(-1, keepdim=True).to(exact)
    logits = (states @ table[negatives].T).to(exact) + math.log(max(1, len(table) - 1) / len(negatives))
    logits = logits.masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
    losses = torch.cat([positive, logits], 1).logsumexp(1) - positive.squeeze(1)
    return losses.sum() / max(1, len(losses))


class _TiledCrossEntropy(torch.autograd.Function):
    """Tile by tile: logits, their softmax, and both gradients while the tile is still in the cache."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        small, wanted = table.to(dtype), any(ctx.needs_input_grad[:2])
        exact = torch.promote_types(dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=states.device)
        to_states = torch.empty(states.shape, dtype=dtype, device=states.device) if wanted else None
        to_table = torch.zeros(table.shape, dtype=exact, device=table.device) if wanted else None
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), _TILE):
                tile = states[start : start + _TILE].to(dtype)
                shares = (tile @ small.T).softmax(-1)
                at = targets[start : start + _TILE, None]
                chosen = shares.gather(1, at)
                loss -= chosen.to(exact).clamp_min(torch.finfo(exact).tiny).log().sum()
                if to_states is not None and to_table is not None:
                    shares.scatter_(1, at, chosen - 1)
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
