"""Every form of attention on one page: modules own weights and call `attend`. (`unit.py` holds the activation unit.)

What serves as a ranker's interest is called with candidates (C, W) and events (T, W) of B rows, both jagged, and with
`spans` (C, 2), the part of its row's events that a candidate may read (None = all). It gives (C, out_width) and, if
asked for, per row the weights (candidates of the row, events of the row, H). Candidates without events get zeros.

Letters: T events of all histories together, C candidates, F fields, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.errors import SettingsError
from regard.model.attend import Bias, attend, mix, pairs, pool
from regard.model.newest import Newest
from regard.model.unit import ActivationUnit, Dice

__all__ = ["ActivationUnit", "AdditivePooling", "Dice", "DotAttention", "DualAttention", "Mean", "SelfAttention"]

Angles = tuple[Tensor, Tensor]
Weighed = tuple[Tensor, list[Tensor] | None]
Projections = Literal["separate", "shared", "none"]


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention within each history (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    softmax(Q K^T / sqrt(W / H)) V, with Q, K and V linear in the states, then a linear map of the joined heads.
    """

    def __init__(self, width: int, heads: int, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)

    def forward(
        self,
        states: Tensor,
        offsets: Tensor,
        turns: Sequence[Angles] = (),
        bias: Bias | None = None,
        return_weights: bool = False,
        newest: Newest | None = None,
    ) -> tuple[Tensor, list[Tensor] | None]:
        """(T, W), (B + 1,) -> (T, W) and, if asked for, per history its weights (events, events, H).

        With `newest` these events alone ask, and all of them are read: (Q, W).

        `turns`: angles for queries and for keys, each (T, 2, W / H / 2), so that logits depend on the difference of
        two angles. `bias`: added to the logits, as `attend` takes it.
        """
        query, keys, values = self.project(states).unflatten(-1, (3, self.heads, -1)).unbind(1)
        for of_queries, of_keys in turns:
            query, keys = turned(query, of_queries), turned(keys, of_keys)
        attended = attend(
            query if newest is None else query[newest.places],
            keys,
            values,
            query_offsets=offsets if newest is None else newest.offsets,
            key_offsets=offsets,
            causal=self.causal and newest is None,  # nothing is after the newest
            bias=bias,
            return_weights=return_weights,
        )
        return self.join(attended.values.flatten(1)), attended.weights


def turned(vectors: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (i, i + D / 2) of (T, H, D) by its angle; `angles` (T, 2, D / 2) holds cosines and sines."""
    cosine, sine = angles.to(vectors.dtype)[:, :, None].unbind(1)
    first, second = vectors.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


class DotAttention(nn.Module):
    """Candidates query a history by scaled dot products, in H subspaces (Vaswani et al. 2017, arXiv 1706.03762, 3.2).

    softmax(scale Q K^T) V per head, heads side by side. With the same vectors as candidates and events, and their
    offsets, it is self-attention.

    Args:
        width: of candidates and events.
        heads: number of subspaces; divides `width`.
        projections: what makes Q, K and V: a linear map each (`separate`), one for all (`shared`), or nothing (`none`).
        activation: of these maps.
        scale: factor of the logits; None = 1 / sqrt(width / heads).
        dropout: share of weights left out in training.
        join: whether a linear map follows; `relu` = and a ReLU after it.
        causal: the i-th candidate of a row sees its events up to the i-th.
    """

    def __init__(
        self,
        width: int,
        heads: int = 1,
        projections: Projections = "separate",
        activation: Literal["none", "relu"] = "none",
        scale: float | None = None,
        dropout: float = 0.0,
        join: bool | Literal["relu"] = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise SettingsError(
                f"model.heads must divide model.width {width}, got {heads}: choose another number of heads"
            )
        self.heads, self.activation, self.scale, self.dropout, self.causal = heads, activation, scale, dropout, causal
        self.out_width = width
        count = {"separate": 3, "shared": 1, "none": 0}[projections]
        self.projections = nn.ModuleList([nn.Linear(width, width) for _ in range(count)])
        self.join = nn.Linear(width, width) if join else None
        self.last = nn.ReLU() if join == "relu" else nn.Identity()

    def forward(
        self,
        candidates: Tensor,
        events: Tensor,
        *,
        candidate_offsets: Tensor,
        event_offsets: Tensor,
        spans: Tensor | None = None,
        return_weights: bool = False,
    ) -> Weighed:
        """(C, W), (T, W) -> (C, W) and weights, see the top of this page."""
        query, keys = self._projected(candidates, 0), self._projected(events, 1)
        values, weights = attend(
            query,
            keys,
            keys if len(self.projections) < 3 else self._projected(events, 2),
            query_offsets=candidate_offsets,
            key_offsets=event_offsets,
            spans=spans,
            causal=self.causal,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            return_weights=return_weights,
        )
        mixed = values.flatten(1)
        if self.join is not None:
            reading = _reading(candidate_offsets, event_offsets, spans)
            mixed = self.last(self.join(mixed)).masked_fill(~reading[:, None], 0.0)
        return mixed, weights

    def _projected(self, vectors: Tensor, at: int) -> Tensor:
        """(n, W) -> (n, H, W / H)."""
        if len(self.projections):
            vectors = self.projections[at % len(self.projections)](vectors)
        if self.activation == "relu":
            vectors = functional.relu(vectors)
        return vectors.view(len(vectors), self.heads, vectors.shape[-1] // self.heads)


class AdditivePooling(nn.Module):
    """A learned score per vector, softmax, weighted sum; each head scores on its own (Bahdanau et al. 2015, arXiv
    1409.0473, without the query: Yang et al. 2016, hierarchical attention).

    The score of a vector x is w . x, or with `hidden` units w . tanh(A x + b); `conditioned`: w . tanh(A x + C q + b)
    with the candidate q. Every head pools whole vectors: heads side by side are H times as wide.
    """

    def __init__(self, width: int, heads: int = 1, hidden: int = 0, conditioned: bool = False) -> None:
        super().__init__()
        if conditioned and not hidden:
            raise SettingsError(
                "model.conditioned needs model.score_hidden of at least 1, got 0: "
                "a linear score of the candidate is the same for all events and cancels in the softmax"
            )
        self.heads, self.out_width = heads, heads * width
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.condition = nn.Linear(width, hidden, bias=False) if conditioned else None
        self.score = nn.Linear(hidden or width, heads, bias=False)  # softmax would forget a bias

    def forward(
        self,
        candidates: Tensor,
        events: Tensor,
        *,
        candidate_offsets: Tensor,
        event_offsets: Tensor,
        spans: Tensor | None = None,
        return_weights: bool = False,
    ) -> Weighed:
        """(C, W), (T, W) -> (C, H * W) and weights, see the top of this page."""
        values = events.unsqueeze(1).expand(-1, self.heads, -1)
        if self.hidden is None or self.condition is None:
            attended = pool(
                self._scores(events),
                values,
                query_offsets=candidate_offsets,
                key_offsets=event_offsets,
                spans=spans,
                return_weights=return_weights,
            )
        else:
            seen = pairs(candidate_offsets, event_offsets, spans)
            first = self.hidden(events).index_select(0, seen.key)
            first = first + self.condition(candidates).index_select(0, seen.query)
            attended = mix(
                self.score(torch.tanh(first)),
                values,
                pairs=seen,
                query_offsets=candidate_offsets,
                key_offsets=event_offsets,
                return_weights=return_weights,
            )
        return attended.values.flatten(1), attended.weights

    def over(self, fields: Tensor, query: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool F field vectors of each candidate, (C, F, W) -> (C, H * W) and the weights (C, F, H).

        `query` (C, W): what the scores are conditioned on, if they are.
        """
        scores = self._scores(fields, query)
        shares = scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(fields.dtype)
        return torch.einsum("cfh,cfw->chw", shares, fields).flatten(1), shares

    def _scores(self, vectors: Tensor, query: Tensor | None = None) -> Tensor:
        """(..., W) -> (..., H)."""
        if self.hidden is not None:
            vectors = self.hidden(vectors)
            if self.condition is not None and query is not None:
                vectors = vectors + self.condition(query).unsqueeze(1)
            vectors = torch.tanh(vectors)
        scores: Tensor = self.score(vectors)
        return scores


class Mean(nn.Module):
    """The mean of a history: every event counts alike. No attention; the floor of all forms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(
        self,
        candidates: Tensor,  # noqa: ARG002 - called like all forms
        events: Tensor,
        *,
        candidate_offsets: Tensor,
        event_offsets: Tensor,
        spans: Tensor | None = None,
        return_weights: bool = False,
    ) -> Weighed:
        """(C, W), (T, W) -> (C, W) and weights, see the top of this page."""
        attended = pool(
            events.new_zeros(len(events), 1),
            events.unsqueeze(1),
            query_offsets=candidate_offsets,
            key_offsets=event_offsets,
            spans=spans,
            return_weights=return_weights,
        )
        return attended.values.squeeze(1), attended.weights


class DualAttention(nn.Module):
    """Self-attention first, then target attention.

    `history`: events attend to the events up to themselves, and the candidate queries what comes out. It is causal, as
    one row serves several requests, each of which may read a part of it. `target`: the candidates of one request attend
    to each other (list-wise), and what comes out queries the history.

    `causal=False` lets every event of a row see all others, for rows of which every request reads all events.
    """

    def __init__(
        self,
        width: int,
        heads: int = 1,
        reading: Literal["history", "target"] = "history",
        projections: Projections = "separate",
        scale: float | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.reading, self.out_width = reading, width
        own = causal and reading == "history"
        self.own = DotAttention(width, heads, projections, scale=scale, causal=own)
        self.target = DotAttention(width, heads, projections, scale=scale)

    def forward(
        self,
        candidates: Tensor,
        events: Tensor,
        *,
        candidate_offsets: Tensor,
        event_offsets: Tensor,
        request_offsets: Tensor | None = None,
        spans: Tensor | None = None,
        return_weights: bool = False,
    ) -> Weighed:
        """(C, W), (T, W) -> (C, W) and the weights of the target attention, see the top of this page.

        `request_offsets` (R + 1,) says which candidates belong to one request; None = those of a row do.
        """
        if self.reading == "history":
            assert spans is None or self.own.causal or _whole(candidate_offsets, event_offsets, spans)
            events, _ = self.own(events, events, candidate_offsets=event_offsets, event_offsets=event_offsets)
        else:
            lists = candidate_offsets if request_offsets is None else request_offsets
            candidates, _ = self.own(candidates, candidates, candidate_offsets=lists, event_offsets=lists)
        weighed: Weighed = self.target(
            candidates,
            events,
            candidate_offsets=candidate_offsets,
            event_offsets=event_offsets,
            spans=spans,
            return_weights=return_weights,
        )
        return weighed


def _reading(candidate_offsets: Tensor, event_offsets: Tensor, spans: Tensor | None) -> Tensor:
    """(C,) bool: which candidates see an event at all."""
    if spans is not None:
        return spans[:, 1] > spans[:, 0]
    return torch.repeat_interleave(event_offsets.diff() > 0, candidate_offsets.diff())


def _whole(candidate_offsets: Tensor, event_offsets: Tensor, spans: Tensor) -> bool:
    """Whether every candidate reads all events of its row."""
    lengths = torch.repeat_interleave(event_offsets.diff(), candidate_offsets.diff())
    return bool((spans == torch.stack([torch.zeros_like(lengths), lengths], 1)).all())
