"""The activation unit of DIN: a small network reads an event and a candidate and says how much the event matters.

Zhou et al. 2018, arXiv 1706.06978. Letters: T events and C candidates of B rows, P pairs of a candidate and an event it
may see, W width, U units of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.model.attend import Pairs, mix, pairs, pool

Activation = Literal["dice", "prelu", "relu"]
_Activations = Sequence[Callable[[Tensor], Tensor]]

# Without gradients pairs are read in pieces, whose first layer (pairs, 64) stays in a core's own cache; a row with so
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
        if self.training and len(x) > 1:
            gate = torch.sigmoid(self.norm(x.to(self._mean.dtype)))
        else:
            gate = torch.sigmoid((x - self._mean) * self._sharpness)
        return x * (self.alpha + (1 - self.alpha) * gate)

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
        both = pieces.events.index_select(0, seen.key) * pieces.candidates.index_select(0, seen.query)
        first = functional.linear(both, pieces.product)
        first = first + pieces.of_events.index_select(0, seen.key)
        return self._above(first + pieces.of_candidates.index_select(0, seen.query), activations)

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


def _activation(name: Activation, units: int) -> nn.Module:
    if name == "dice":
        return Dice(units)
    return nn.PReLU(units) if name == "prelu" else nn.ReLU()
