"""Attention through maps: logits of a padded block are written out in pieces, used, and made again for the gradients.

For what the fused kernel of PyTorch does not know, a learned bias and pointwise weights, and where it is slower than
products of matrices. Nothing of the size of a map outlives a call, but the bias. Letters: b rows of a block, H heads,
q queries and k keys of a row, D and V widths of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_PIECE = {"cpu": 1 << 19}  # values of a map at once: what stays in the cache of a core
_LARGE = 1 << 27  # elsewhere


def mapped(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    *,
    pointwise: bool,
    causal: bool,
    scale: float,
) -> Tensor:
    """Attend where every query sees all keys, or with `causal` those up to its own place.

    Args:
        query: (b, H, q, D).
        keys: (b, H, k, D).
        values: (b, H, k, V), all three of one type; maps have that type too, and softmax is summed in float32 at least.
        bias: (b or 1, H, q, k) to be added to the logits.
        pointwise: weights are the SiLU of the logits divided by the number of keys that a query sees; else softmax.
        causal: the i-th query sees the keys up to the i-th.
        scale: factor of the logits.

    Returns:
        (b, H, q, V).
    """
    mixed: Tensor = _Mapped.apply(query, keys, values, bias, pointwise, causal, scale)  # type: ignore[no-untyped-call]
    return mixed


def looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Numbers of each head by an index of each pair: table (H, n), index (b, q, k) int64 -> (b, H, q, k)."""
    found: Tensor = _LookedUp.apply(table, index)  # type: ignore[no-untyped-call]
    return found


class _Mapped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor | None,
        pointwise: bool,
        causal: bool,
        scale: float,
    ) -> Tensor:
        ctx.form = _Pieces(pointwise, causal, scale)
        query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
        with torch.autocast(query.device.type, enabled=False):
            out: Tensor = ctx.form.mixed(query, keys, values, bias)
        ctx.save_for_backward(query, keys, values, bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):
            found = ctx.form.gradients(*ctx.saved_tensors, grads[0].contiguous(), ctx.needs_input_grad[3])
        return (*found, None, None, None)


class _Pieces:
    """The arithmetic, over as many rows of a block at once as a map may hold."""

    def __init__(self, pointwise: bool, causal: bool, scale: float) -> None:
        self.pointwise, self.causal, self.scale = pointwise, causal, scale

    def mixed(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Values (b, H, q, V)."""
        out = query.new_empty(*query.shape[:3], values.shape[-1])
        for piece in _rows(query, keys):
            weights = self._weights(self._logits(query[piece], keys[piece], _of(bias, piece)))
            out[piece] = weights @ values[piece]
        return out.mul_(self._shares(out, keys)) if self.pointwise else out

    def gradients(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor | None,
        out: Tensor,
        grad: Tensor,
        biased: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of query, keys, values and, if asked for, bias."""
        to_query, to_keys, to_values = torch.empty_like(query), torch.empty_like(keys), torch.empty_like(values)
        to_bias = torch.zeros_like(bias) if bias is not None and biased else None
        if self.pointwise:
            grad = grad * self._shares(out, keys)
            means = None
        else:
            exact = torch.promote_types(out.dtype, torch.float32)
            means = (grad * out).sum(-1, keepdim=True, dtype=exact).to(out.dtype)
        for piece in _rows(query, keys):
            logits = self._logits(query[piece], keys[piece], _of(bias, piece))
            towards = grad[piece] @ values[piece].mT
            if means is None:
                inner = torch.ops.aten.silu_backward(towards, logits)
                inner = inner.tril_() if self.causal else inner
                weights = self._weights(logits)
            else:
                weights = self._weights(logits)
                inner = towards.sub_(means[piece]).mul_(weights)
            torch.mul(inner @ keys[piece], self.scale, out=to_query[piece])
            torch.mul(inner.mT @ query[piece], self.scale, out=to_keys[piece])
            to_values[piece] = weights.mT @ grad[piece]
            if to_bias is not None:
                into = _of(to_bias, piece)
                assert into is not None
                into += inner if len(into) == len(inner) else inner.sum(0, keepdim=True)
        return to_query, to_keys, to_values, to_bias

    def _logits(self, query: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        many, count = query.shape[2], keys.shape[2]
        hidden = query.new_zeros(1, 1)
        if self.causal and not self.pointwise:
            hidden = torch.full((many, count), -torch.inf, dtype=query.dtype, device=query.device).triu_(1)
        flat = query.flatten(0, 1), keys.flatten(0, 1).mT
        logits = torch.baddbmm(hidden, *flat, alpha=self.scale).view(*query.shape[:3], count)
        return logits if bias is None else logits.add_(bias)

    def _weights(self, logits: Tensor) -> Tensor:
        """Of the logits, which are used up; pointwise ones are still to be divided."""
        if not self.pointwise:
            return logits.softmax(-1)
        weights = functional.silu(logits, inplace=True)
        return weights.tril_() if self.causal else weights

    def _shares(self, out: Tensor, keys: Tensor) -> Tensor:
        """One divided by the number of keys that a query sees, (q, 1)."""
        count = keys.shape[2]
        if self.causal:
            return (1 / torch.arange(1, count + 1, dtype=torch.float64, device=out.device)).to(out.dtype)[:, None]
        return out.new_full((1, 1), 1 / count)


def _rows(query: Tensor, keys: Tensor) -> Iterator[slice]:
    """Rows of a block that go through together."""
    most = _PIECE.get(query.device.type, _LARGE)
    step = max(1, most // (query.shape[1] * query.shape[2] * keys.shape[2]))
    for start in range(0, len(query), step):
        yield slice(start, start + step)


def _of(bias: Tensor | None, piece: slice) -> Tensor | None:
    """The part of a bias that belongs to some rows: all of it where rows share it."""
    return bias if bias is None or len(bias) == 1 else bias[piece]


class _LookedUp(torch.autograd.Function):
    """Autograd would add the gradients up one by one, in the type of the map; few numbers get very many of them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size, ctx.dtype = table.shape, table.dtype
        found = table.new_empty(len(table), *index.shape)
        for into, row in zip(found, table, strict=True):
            torch.index_select(row, 0, index.view(-1), out=into.view(-1))
        return found.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        exact = torch.promote_types(ctx.dtype, torch.float32)
        table = grads[0].new_zeros(ctx.size, dtype=exact)
        for into, grad in zip(table, grads[0].transpose(0, 1), strict=True):
            into.scatter_add_(0, index.view(-1), grad.reshape(-1).to(exact))
        return table.to(ctx.dtype), None
