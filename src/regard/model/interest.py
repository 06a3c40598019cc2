"""Interests by name: what a ranker can extract from a history for a candidate.

Every interest takes candidates (C, W), embedded events (T, W) and the requests they belong to, and gives (C, out_width)
with its weights. Forms of attention live in `attention.py`; here they are chosen by settings, and models that read a
history on their own (recurrent ones) or with the candidate appended are made to fit. `reads_on`: whether a form reads a
row from its beginning, where the spans of its requests may begin later.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard.config import ModelSettings
from regard.data.requests import Requests
from regard.errors import SettingsError, nearest
from regard.model.attention import AdditivePooling, DotAttention, DualAttention, Mean
from regard.model.encoder import ENCODERS, Block
from regard.model.unit import ActivationUnit

INTERESTS = (
    "candidate",
    "mean",
    "additive",
    "activation-unit",
    "target",
    "multi-head",
    "dual",
    "transformer",
    "gru",
    "lstm",
    "seq2seq",
)

Weighed = tuple[Tensor, list[Tensor] | None]


class Form(nn.Module):
    """A form of attention as an interest."""

    def __init__(self, form: nn.Module) -> None:
        super().__init__()
        self.form = form
        self.out_width: int = cast(int, form.out_width)
        self.reads_on = isinstance(form, DualAttention) and form.reading == "history"

    def forward(self, candidates: Tensor, events: Tensor, requests: Requests, return_weights: bool) -> Weighed:
        """(C, W), (T, W) -> (C, out_width), and per row (candidates, events, heads)."""
        extra = {"request_offsets": requests.offsets} if isinstance(self.form, DualAttention) else {}
        mixed: Weighed = self.form(
            candidates,
            events,
            candidate_offsets=requests.candidate_row_offsets,
            event_offsets=requests.histories.offsets,
            spans=requests.candidate_spans,
            return_weights=return_weights,
            **extra,
        )
        return mixed


class State(nn.Module):
    """The state of a causal encoder after the last event that a request may read; the candidate plays no part."""

    reads_on = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.encoder = ENCODERS[settings.interest](settings)
        self.out_width = settings.width

    def forward(self, candidates: Tensor, events: Tensor, requests: Requests, return_weights: bool) -> Weighed:  # noqa: ARG002 - asked like all others
        """(C, W), (T, W) -> (C, W)."""
        if not len(events):
            return candidates.new_zeros(len(candidates), self.out_width), None
        states, _ = self.encoder(events, requests.histories.offsets)
        first = requests.histories.offsets[:-1][requests.row_of_request]
        last = (first + requests.spans[:, 1] - 1).clamp_min(0)
        return states[last][requests.request_of_candidate], None


class Appended(nn.Module):
    """The candidate appended to the history, and self-attention over both in all directions (BST).

    Chen et al. 2019, arXiv 1905.06874, with the output at the candidate's place. A row per candidate is unavoidable:
    here events see the candidate. Candidates go through in pieces, and gradients make a piece again: a thousand
    candidates of one long history need no thousand histories in memory.
    """

    reads_on = False

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(settings, causal=False) for _ in range(settings.blocks)])
        self.norm = nn.LayerNorm(settings.width)
        self.out_width = settings.width

    def forward(self, candidates: Tensor, events: Tensor, requests: Requests, return_weights: bool) -> Weighed:
        """(C, W), (T, W) -> (C, W), and per row the last block's weights of candidates on events.

        These add up to less than 1: the rest is the candidate's weight on itself.
        """
        spans = requests.candidate_spans
        row = requests.row_of_request[requests.request_of_candidate]
        first = requests.histories.offsets[row] + spans[:, 0]
        lengths = spans[:, 1] - spans[:, 0] + 1
        piece = (lengths.cumsum(0) // _PIECE).unique_consecutive(return_counts=True)[1].tolist()
        mixed: list[Tensor] = []
        shares: list[Tensor] = []
        for some in zip(candidates.split(piece), first.split(piece), lengths.split(piece), strict=True):
            if len(piece) > 1 and torch.is_grad_enabled() and not return_weights:
                mixed.append(checkpoint(self._piece, events, *some, return_weights, use_reentrant=False)[0])
            else:
                states, own = self._piece(events, *some, return_weights)
                mixed.append(states)
                shares += own
        states = torch.cat(mixed) if mixed else candidates
        return states, _by_row(shares, requests) if return_weights else None

    def _piece(
        self, events: Tensor, candidates: Tensor, first: Tensor, lengths: Tensor, return_weights: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Candidates (c, W) appended to the events from `first` (c,) on, `lengths` (c,) with the candidate."""
        offsets = _offsets(lengths)
        total = int(offsets[-1])
        owner = torch.repeat_interleave(lengths, output_size=total)
        source = first[owner] + torch.arange(total, device=events.device) - offsets[owner]
        last = offsets[1:] - 1
        source[last] = len(events) + torch.arange(len(candidates), device=events.device)
        states = torch.cat([events, candidates.to(events.dtype)])[source]
        shares: list[Tensor] | None = None
        for block in self.blocks:
            states, shares = block(states, offsets, None, return_weights)
        return self.norm(states[last]), [each[-1, :-1] for each in shares or []]


_PIECE = 16_384  # events that candidates are appended to, at once


def _by_row(each: list[Tensor], requests: Requests) -> list[Tensor]:
    """Weights (events it read, H) of every candidate -> per row (candidates, events, H), 0 where not visible."""
    offsets = requests.candidate_row_offsets.tolist()
    lengths = requests.histories.lengths.tolist()
    spans = requests.candidate_spans.tolist()
    heads = each[0].shape[-1] if each else 1
    rows = []
    for row, length in enumerate(lengths):
        whole = requests.spans.new_zeros(offsets[row + 1] - offsets[row], length, heads, dtype=torch.float32)
        for at, candidate in enumerate(range(offsets[row], offsets[row + 1])):
            start, stop = spans[candidate]
            whole[at, start:stop] = each[candidate].float()
        rows.append(whole)
    return rows


def _offsets(lengths: Tensor) -> Tensor:
    """Lengths (n,) -> offsets (n + 1,)."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def build_interest(settings: ModelSettings) -> nn.Module | None:
    """Return the interest that `model.interest` names; None for `candidate`, which reads no history."""
    name, width = settings.interest, settings.width
    if name not in INTERESTS:
        raise SettingsError(
            f"model.interest: there is no interest {name!r}{nearest(name, INTERESTS)}; known: {', '.join(INTERESTS)}"
        )
    if name == "candidate":
        return None
    if name in ("transformer", "seq2seq") and width % settings.heads:
        raise SettingsError(f"model.heads={settings.heads} must divide model.width={width} for interest {name}")
    if name == "transformer":
        return Appended(settings)
    if name in ("gru", "lstm", "seq2seq"):
        return State(settings)
    return Form(_form(name, settings, width))


def _form(name: str, settings: ModelSettings, width: int) -> nn.Module:
    scale = settings.scale or None
    if name == "mean":
        return Mean(width)
    if name == "additive":
        return AdditivePooling(
            width, heads=settings.heads, hidden=settings.score_hidden, conditioned=settings.conditioned
        )
    if name == "activation-unit":
        return ActivationUnit(
            width,
            hidden=settings.unit_hidden,
            activation=settings.unit_activation,
            on=settings.unit_on,
            normalize=settings.normalize,
        )
    if name == "dual":
        return DualAttention(
            width, heads=settings.heads, reading=settings.dual_self, projections=settings.projections, scale=scale
        )
    return DotAttention(
        width,
        heads=settings.heads if name == "multi-head" else 1,
        projections=settings.projections,
        activation=settings.projection_activation,
        scale=scale,
        dropout=settings.dropout if name == "multi-head" else 0.0,
        join=name == "multi-head",
    )
