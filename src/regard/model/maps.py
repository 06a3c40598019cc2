"""Attention through maps: logits of a padded block are written out in pieces, used, and made again for the gradients.

For what the fused kernel of PyTorch does not know, a learned bias and pointwise weights, and where it is slower than
products of matrices. Nothing of the size of a map outlives a call, but for the bias: its numbers, kept by each layer
for the gradients, and the index they were looked up by, of time a byte a pair, made once for all layers. Letters: b
rows of a block, H heads, q queries and k keys of a row, D and V widths of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_PIECE = {"cpu": 1 << 20}  # values of a map at once: what stays in the cache of a core
_LARGE = 1 << 27  # elsewhere
_COPIES = 8  # of a table
_SHORT = 512 * 512  # values of a map


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


def quicker(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether maps take less time than the fused kernel of PyTorch, whose half precision is slow on a CPU.

    Measured in torch 2.13 with AVX512: twice to five times as fast up to 200 events, as fast at 1,000.
    """
    half = query.dtype == keys.dtype == values.dtype == torch.bfloat16
    return half and query.device.type == "cpu" and query.shape[2] * keys.shape[2] <= _SHORT


def looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Numbers of each head by an index of each pair: table (H, n), index (b, q, k) of any integers -> (b, H, q, k).

    The index is kept for the gradients as it came: where it is large, let it be of bytes.
    """
    found: Tensor = _LookedUp.apply(table, index)  # type: ignore[no-untyped-call]
    return found


def _dealt(index: Tensor, size: int) -> Tensor:
    """An index into a table of `size` numbers, (p,) int64, dealt out among copies of it.

    Neighbouring pairs often have the same index. Where their gradients go to different copies, no sum waits for the
    one before it, which makes adding up three times as fast.
    """
    dealt = torch.empty(index.numel(), dtype=torch.int64, device=index.device).copy_(index.reshape(-1))
    whole = len(dealt) // _COPIES * _COPIES  # the few after them stay in the first copy
    dealt[:whole].view(-1, _COPIES).add_(torch.arange(0, _COPIES * size, size, device=index.device))
    return dealt


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
        ctx.form = _Pieces(query.shape[1], pointwise, causal, scale)
        flat = [tensor.flatten(0, 1).contiguous() for tensor in (query, keys, values)]
        with torch.autocast(query.device.type, enabled=False):
            out: Tensor = ctx.form.mixed(*flat, bias)
        ctx.save_for_backward(*flat, bias, out)
        return out.view(*query.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].flatten(0, 1).contiguous()
        with torch.autocast(grad.device.type, enabled=False):
            found = ctx.form.gradients(*ctx.saved_tensors, grad, ctx.needs_input_grad[3])
        *flat, to_bias = found
        return *(tensor.view(*grads[0].shape[:2], *tensor.shape[1:]) for tensor in flat), to_bias, None, None, None


class _Pieces:
    """The arithmetic, over as many rows of a block at once as a map may hold; heads lie beside rows (b * H, …)."""

    def __init__(self, heads: int, pointwise: bool, causal: bool, scale: float) -> None:
        self.heads, self.pointwise, self.causal, self.scale = heads, pointwise, causal, scale

    def mixed(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Values (b * H, q, V)."""
        out = query.new_empty(*query.shape[:2], values.shape[-1])
        for rows, piece in self._pieces(query, keys):
            weights = self._weights(self._logits(query[piece], keys[piece], _of(bias, rows)))
            torch.bmm(weights, values[piece], out=out[piece])
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
        for rows, piece in self._pieces(query, keys):
            logits = self._logits(query[piece], keys[piece], _of(bias, rows))
            inner = torch.bmm(grad[piece], values[piece].mT)
            if means is None:
                torch.ops.aten.silu_backward.grad_input(inner, logits, grad_input=inner)
                inner = inner.tril_() if self.causal else inner
                weights = self._weights(logits)
            else:
                weights = self._weights(logits)
                inner.sub_(means[piece]).mul_(weights)
            torch.bmm(inner, keys[piece], out=to_query[piece])
            torch.bmm(inner.mT, query[piece], out=to_keys[piece])
            torch.bmm(weights.mT, grad[piece], out=to_values[piece])
            if to_bias is not None:
                _add(to_bias, rows, inner.unflatten(0, (-1, self.heads)))
        if self.scale != 1.0:
            to_query, to_keys = to_query.mul_(self.scale), to_keys.mul_(self.scale)
        return to_query, to_keys, to_values, to_bias

    def _pieces(self, query: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice]]:
        """Rows of a block that go through together, and these rows with heads beside them."""
        most = _PIECE.get(query.device.type, _LARGE)
        step = max(1, most // (self.heads * query.shape[1] * keys.shape[1]))
        for start in range(0, len(query) // self.heads, step):
            yield slice(start, start + step), slice(start * self.heads, (start + step) * self.heads)

    def _logits(self, query: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        hidden = query.new_zeros(1, 1)
        if self.causal and not self.pointwise:
            square = (query.shape[1], keys.shape[1])
            hidden = torch.full(square, -torch.inf, dtype=query.dtype, device=query.device).triu_(1)
        logits = torch.baddbmm(hidden, query, keys.mT, alpha=self.scale)
        if bias is not None:
            logits.unflatten(0, (-1, self.heads)).add_(bias)
        return logits

    def _weights(self, logits: Tensor) -> Tensor:
        """Of the logits, which are used up; pointwise ones are still to be divided."""
        if not self.pointwise:
            return logits.softmax(-1)
        weights = functional.silu(logits, inplace=True)
        return weights.tril_() if self.causal else weights

    def _shares(self, out: Tensor, keys: Tensor) -> Tensor:
        """One divided by the number of keys that a query sees, (q, 1) or (1, 1)."""
        count = keys.shape[1]
        if self.causal:
            return (1 / torch.arange(1, count + 1, dtype=torch.float64, device=out.device)).to(out.dtype)[:, None]
        return out.new_full((1, 1), 1 / count)


def _of(bias: Tensor | None, rows: slice) -> Tensor | None:
    """The part of a bias that belongs to some rows: all of it where rows share it."""
    return bias if bias is None or len(bias) == 1 else bias[rows]


def _add(to_bias: Tensor, rows: slice, inner: Tensor) -> None:
    """Take up the gradient (n, H, q, k) of the logits of some rows."""
    if len(to_bias) == 1:
        to_bias += inner.sum(0, keepdim=True)
    else:
        to_bias[rows] = inner


class _LookedUp(torch.autograd.Function):
    """Autograd would add the gradients up one by one, in the type of the map; few numbers get very many of them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size, ctx.dtype = table.shape, table.dtype
        places = index.reshape(-1).int()
        found = table.new_empty(len(table), *index.shape)
        for into, row in zip(found, table, strict=True):
            torch.index_select(row, 0, places, out=into.view(-1))
        return found.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        exact = torch.promote_types(ctx.dtype, torch.float32)
        heads, size = ctx.size
        places = _dealt(index, size)
        copies = grads[0].new_zeros(heads, _COPIES * size, dtype=exact)
        for into, grad in zip(copies, grads[0].transpose(0, 1), strict=True):
            into.scatter_add_(0, places, grad.to(exact).reshape(-1))
        return copies.view(heads, _COPIES, size).sum(1).to(ctx.dtype), None
