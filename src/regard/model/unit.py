"""The activation unit of DIN: a small network reads an event and a candidate and says how much the event matters.

Zhou et al. 2018, arXiv 1706.06978. Letters: T events and C candidates of B rows, P pairs of a candidate and an event it
may see, W width, U units of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.model.attend import Pairs, mix, pairs, pool

Activation = Literal["dice", "prelu", "relu"]
_Activations = Sequence[Callable[[Tensor], Tensor]]

# Pairs are read in pieces, whose first layer (pairs, 64) stays in a core's own cache; without gradients a row with so
# many events makes up for one matrix per candidate.
_PIECE = 2_048
_LONG = 32


class Dice(nn.Module):
    """PReLU that turns where the data are: x (p + alpha (1 - p)), p = sigmoid((x - mean) / std) (DIN, eq. 6).

    In training mean and variance are those of the rows given, which are real pairs only; in evaluation running ones.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.norm = nn.BatchNorm1d(width, eps=1e-8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(P, U) -> (P, U)."""
        if not (self.training and len(x) > 1):
            gate = torch.sigmoid((x - self._mean) * self._sharpness)
            return x * (self.alpha + (1 - self.alpha) * gate)
        mean, variance = _moments(x.detach(), self._mean.dtype)
        with torch.no_grad():
            self._note(mean, variance, len(x))
        sharpness = (variance + self.norm.eps).rsqrt()
        turned: Tensor = _Turned.apply(x, self.alpha, mean, sharpness)  # type: ignore[no-untyped-call]
        return turned

    def _note(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Move the running figures as `BatchNorm1d` does; it keeps the unbiased variance."""
        assert self.norm.running_var is not None
        assert self.norm.num_batches_tracked is not None
        assert self.norm.momentum is not None
        self._mean.lerp_(mean, self.norm.momentum)
        self.norm.running_var.lerp_(variance * rows / (rows - 1), self.norm.momentum)
        self.norm.num_batches_tracked += 1

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """What `forward` computes in evaluation, as a function that writes over its argument: four passes in cache."""
        scale, alpha, rest = self._sharpness, self.alpha, 1 - self.alpha
        shift = -self._mean * scale

        def activated(x: Tensor) -> Tensor:
            gate = torch.addcmul(shift, x, scale).sigmoid_()
            return x.mul_(torch.addcmul(alpha, gate, rest, out=gate))

        return activated

    @property
    def _mean(self) -> Tensor:
        assert self.norm.running_mean is not None
        return self.norm.running_mean

    @property
    def _sharpness(self) -> Tensor:
        """One over the standard deviation."""
        assert self.norm.running_var is not None
        return (self.norm.running_var + self.norm.eps).rsqrt()


def _moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance (U,) of rows (P, U), piece by piece; those of pieces add up as in Chan et al. 1979."""
    parts = []
    for at in _slices(x):
        wide = x[at].to(dtype)
        mean = wide.mean(0)
        parts.append((mean, (wide - mean).square_().mean(0)))
    means, variances = (torch.stack(each) for each in zip(*parts, strict=True))
    shares = torch.tensor([[len(x[at]) / len(x)] for at in _slices(x)], dtype=dtype, device=x.device)
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(0)


class _Turned(torch.autograd.Function):
    """Dice in training, x (alpha + (1 - alpha) p) with p = sigmoid(z) and z = (x - mean) r, r one over the deviation.

    Plain operations would walk some twenty times over all pairs, and keep five arrays of them. Here pieces stay in a
    core's cache, only x is kept, and p is computed anew for the gradients: with g the gradient of the output,
    d = g x (1 - alpha) p (1 - p) that of z, dx = g (alpha + (1 - alpha) p) + r (d - mean d - z mean dz), since mean and
    deviation depend on x too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, mean: Tensor, sharpness: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha, mean, sharpness)
        shift, rest = -mean * sharpness, 1 - alpha
        out = torch.empty_like(x)
        for at in _slices(x):
            wide = x[at].to(mean.dtype)
            gate = torch.addcmul(shift, wide, sharpness).sigmoid_()
            out[at] = torch.addcmul(alpha, gate, rest, out=gate).mul_(wide)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, alpha, mean, sharpness = ctx.saved_tensors
        shift, rest = -mean * sharpness, 1 - alpha
        found, sums = torch.empty_like(x), alpha.new_zeros(3, len(alpha))
        for at in _slices(x):
            wide, slope = x[at].to(mean.dtype), grads[0][at].to(mean.dtype)
            z = torch.addcmul(shift, wide, sharpness)
            gate = torch.sigmoid(z)
            pull = slope * wide
            gated = pull * gate
            sums[0] += pull.sub_(gated).sum(0)  # of alpha
            inner = gated.addcmul_(gated, gate, value=-1).mul_(rest)
            sums[1] += inner.sum(0)
            sums[2] += z.mul_(inner).sum(0)
            found[at] = torch.addcmul(alpha, gate, rest, out=gate).mul_(slope).addcmul_(inner, sharpness)
        level, tilt = sums[1:] / len(x)
        constant, linear = sharpness * (level + shift * tilt), sharpness * sharpness * tilt
        for at in _slices(x):
            found[at] -= torch.addcmul(constant, x[at].to(mean.dtype), linear)
        return found, sums[0], None, None


class ActivationUnit(nn.Module):
    """The sum of a candidate's events, each times what a network says of the pair.

    The network reads [event, candidate, event - candidate, event * candidate] (`on="pair"`) or the event alone
    (`on="event"`), which therefore must carry its place and its side information; `hidden` are its layers below the
    last one. Without hidden layers it is one dense unit, activated.

    `normalize="softmax"` makes weights that add up to 1. `none`, as published, keeps them raw: their sum then says how
    much interest there is, but grows with the history, and what is rare in training is out of range later.

    The first layer is linear, so its part that reads the event, or the candidate, is computed once for each of them.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (64, 16),
        activation: Activation = "dice",
        on: Literal["pair", "event"] = "pair",
        normalize: Literal["softmax", "none"] = "softmax",
    ) -> None:
        super().__init__()
        self.on, self.normalize, self.out_width = on, normalize, width
        sizes = [width if on == "event" else 4 * width, *hidden, 1]
        self.layers = nn.ModuleList([nn.Linear(size, units) for size, units in pairwise(sizes)])
        self.activations = nn.ModuleList([_activation(activation, units) for units in hidden or (1,)])

    def forward(
        self,
        candidates: Tensor,
        events: Tensor,
        *,
        candidate_offsets: Tensor,
        event_offsets: Tensor,
        spans: Tensor | None = None,
        return_weights: bool = False,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(C, W), (T, W) -> (C, W) and, if asked for, per row the weights (candidates, events, 1)."""
        if self.on == "event":
            attended = pool(
                self._above(self.layers[0](events)),
                events.unsqueeze(1),
                query_offsets=candidate_offsets,
                key_offsets=event_offsets,
                spans=spans,
                normalize=self.normalize,
                return_weights=return_weights,
            )
        else:
            seen = pairs(candidate_offsets, event_offsets, spans)
            attended = mix(
                self._logits(candidates, events, seen, candidate_offsets, event_offsets),
                events.unsqueeze(1),
                pairs=seen,
                query_offsets=candidate_offsets,
                key_offsets=event_offsets,
                normalize=self.normalize,
                return_weights=return_weights,
            )
        return attended.values.squeeze(1), attended.weights

    def _logits(
        self, candidates: Tensor, events: Tensor, seen: Pairs, candidate_offsets: Tensor, event_offsets: Tensor
    ) -> Tensor:
        """Logits (P, 1) of pairs. Without gradients a piece at a time: pairs of long histories as a grid."""
        pieces = _Pieces.of(self.layers[0], candidates, events)
        if self.training or torch.is_grad_enabled():
            return self._listed(pieces, seen)
        logits = events.new_empty(len(seen.key), 1)
        activations = [each.frozen() if isinstance(each, Dice) else each for each in self.activations]

        def listed(start: int, stop: int) -> None:
            for at in range(start, stop, _PIECE):
                some = slice(at, min(at + _PIECE, stop))
                logits[some] = self._listed(pieces, Pairs(seen.query[some], seen.key[some]), activations)

        done = 0
        starts = torch.searchsorted(seen.query, candidate_offsets)
        bounds = torch.stack([starts, candidate_offsets, event_offsets], 1).tolist()
        for (start, query, key), (stop, query_end, key_end) in pairwise(bounds):
            length, size = key_end - key, (query_end - query) * (key_end - key)
            if length < _LONG or start == stop or 4 * (stop - start) < size:
                continue
            listed(done, start)
            grid = self._grid(pieces, slice(query, query_end), slice(key, key_end), activations).view(-1, 1)
            if stop - start < size:
                grid = grid[(seen.query[start:stop] - query) * length + seen.key[start:stop] - key]
            logits[start:stop], done = grid, stop
        listed(done, len(logits))
        return logits

    def _above(self, first: Tensor, activations: _Activations | None = None) -> Tensor:
        """What the first linear map gave, (P, U) -> logits (P, 1)."""
        states, every = first, cast("_Activations", self.activations) if activations is None else activations
        for at, activation in enumerate(every, start=1):
            states = activation(states)
            if at < len(self.layers):
                states = self.layers[at](states)
        return states

    def _listed(self, pieces: _Pieces, seen: Pairs, activations: _Activations | None = None) -> Tensor:
        parts = pieces.events, pieces.candidates, pieces.of_events, pieces.of_candidates, pieces.product
        first: Tensor = _Pairwise.apply(*parts, seen.key, seen.query)  # type: ignore[no-untyped-call]
        return self._above(first, activations)

    def _grid(self, pieces: _Pieces, candidates: slice, events: slice, activations: _Activations) -> Tensor:
        """Logits (candidates, events) of a row: with W_c = W_event + diag(c) W_product, one product reads all pairs."""
        rows = []
        for some in pieces.events[events].split(_PIECE):
            step, columns = max(1, _PIECE // len(some)), []
            for at in range(candidates.start, candidates.stop, step):
                few = slice(at, min(at + step, candidates.stop))
                scaled = pieces.candidates[few].T.unsqueeze(2) * pieces.product.T.unsqueeze(1)  # (W, few, U)
                maps = (scaled + pieces.event.T.unsqueeze(1)).flatten(1)
                first = torch.addmm(pieces.of_candidates[few].flatten(), some, maps)
                columns.append(self._above(first.view(-1, len(pieces.product)), activations).view(len(some), -1))
            rows.append(torch.cat(columns, 1))
        return torch.cat(rows).T.contiguous()


class _Pieces(NamedTuple):
    """Vectors, and what the first layer makes of each before events and candidates meet."""

    candidates: Tensor  # (C, W)
    events: Tensor  # (T, W)
    of_candidates: Tensor  # (C, U), with the bias
    of_events: Tensor  # (T, U)
    event: Tensor  # (U, W), the matrix behind `of_events`
    product: Tensor  # (U, W), still to be applied to event * candidate

    @classmethod
    def of(cls, first: nn.Module, candidates: Tensor, events: Tensor) -> _Pieces:
        assert isinstance(first, nn.Linear)
        event, candidate, difference, product = first.weight.chunk(4, 1)
        event, candidate = event + difference, candidate - difference  # the difference is linear in both
        of_candidates = functional.linear(candidates, candidate, first.bias)
        return cls(candidates, events, of_candidates, functional.linear(events, event), event, product)


class _Pairwise(torch.autograd.Function):
    """What the first layer makes of pairs, (P, U): (event * candidate) product + of_events + of_candidates.

    Vectors of pairs, (P, W), are never whole: a piece at a time they are gathered, used and forgotten, and gathered
    anew for the gradients, which are summed in full precision.
    """

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        events, candidates, of_events, of_candidates, product, key, query = given
        ctx.save_for_backward(*given)
        kind = of_events.dtype
        events, candidates, product = events.to(kind), candidates.to(kind), product.to(kind).T
        out = of_events.new_empty(len(key), product.shape[1])
        for at in _slices(out):
            both = events.index_select(0, key[at]).mul_(candidates.index_select(0, query[at]))
            torch.mm(both, product, out=out[at])
            out[at].add_(of_events.index_select(0, key[at])).add_(of_candidates.index_select(0, query[at]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = ctx.saved_tensors
        key, query, slope = given[5], given[6], grads[0]
        events, candidates, product = (each.to(slope.dtype) for each in (given[0], given[1], given[4]))
        found = [torch.zeros_like(each, dtype=given[0].dtype) for each in given[:5]]
        for at in _slices(slope):
            event, candidate = events.index_select(0, key[at]), candidates.index_select(0, query[at])
            pull = slope[at] @ product
            found[4] += slope[at].T @ (event * candidate)
            _add(found[0], key[at], candidate.mul_(pull))
            _add(found[1], query[at], event.mul_(pull))
            _add(found[2], key[at], slope[at])
            _add(found[3], query[at], slope[at])
        return *(one.to(each.dtype) for one, each in zip(found, given[:5], strict=True)), None, None


def _add(into: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add each row to the one that `index` names; this way it is fast on a CPU, `index_add_` is not."""
    into.scatter_add_(0, index[:, None].expand_as(rows), rows.to(into.dtype))


def _slices(rows: Tensor) -> list[slice]:
    """Cut rows so that pieces stay in a core's cache; a card has no use for that."""
    size = _PIECE if rows.device.type == "cpu" else max(1, len(rows))
    return [slice(at, at + size) for at in range(0, len(rows), size)]


def _activation(name: Activation, units: int) -> nn.Module:
    if name == "dice":
        return Dice(units)
    return nn.PReLU(units) if name == "prelu" else nn.ReLU()
