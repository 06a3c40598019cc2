"""Scores of given candidates in context: interests of the history, the candidate, the moment, the user.

Letters: T events, B rows of history, R requests, C candidates, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.data.requests import Requests
from regard.data.shape import Shape
from regard.model.attention import AdditivePooling
from regard.model.dropout import Dropout
from regard.model.embedding import FORGOTTEN, EventEmbedding
from regard.model.interest import build_interest
from regard.model.items import ItemTable, user_table
from regard.model.people import UserAttributes
from regard.model.scorer import CandidateModel


class Ranked(NamedTuple):
    """Logits (C, outputs), and if asked for the weights of the same forward.

    `events`: per interest, per row of history (candidates of the row, events of the row, heads); `fields`: per
    candidate (1, fields, heads) with a linear head, in the order of `Ranker.fields`; else None.
    """

    logits: Tensor
    events: list[list[Tensor]] | None
    fields: list[Tensor] | None


class Ranker(nn.Module):
    """Probability that a candidate is what a request leads to, by target attention over the history.

    Features of a candidate: its item vector, what each history says of it (interest), one vector per context column,
    the user's vector if asked for, and one per attribute of the user. The head is an MLP on all of them, with the
    products of the candidate and each of the others (Rendle 2010, doi 10.1109/ICDM.2010.127: what a factorization
    machine knows of a pair, an MLP learns slowly); or, `linear`, additive pooling over these field vectors and one
    linear map.

    Where negatives were sampled, logits are corrected by the log of how often an item is drawn (King and Zeng 2001, on
    case-control sampling): what comes out is the log-odds among all items, whatever was sampled.
    """

    def __init__(self, shape: Shape, settings: ModelSettings, squared: bool = False) -> None:
        super().__init__()
        width = settings.width
        self.name, self.window, self.squared = settings.name, settings.window, squared
        self.context, self.request_time = tuple(shape.context), settings.request_time
        self.separate = settings.positions == "learned" or settings.request_time
        self.item_embedding = ItemTable(shape, settings)
        self.embedding = EventEmbedding(shape.behaviours, settings, recent=True)
        self.histories: tuple[tuple[tuple[int, ...], int] | tuple[()], ...] = shape.histories or ((),)
        self.interests = nn.ModuleList(
            [interest for _ in self.histories if (interest := build_interest(settings)) is not None]
        )
        sizes = [cast(int, interest.out_width) for interest in self.interests]
        self.reads_on = settings.time_gaps or any(interest.reads_on for interest in self.interests)
        self.nothing = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])
        self.asked = nn.ParameterList([_table(count, width) for count in shape.context.values()])
        self.user = user_table(shape, settings) if settings.user_ids else None
        self.fields = ("item", *(f"history {at + 1}" for at in range(len(sizes))), *shape.context)
        self.fields += ("user",) * settings.user_ids
        self.user_attributes = UserAttributes(shape, width) if shape.user_attributes else None
        if self.user_attributes is not None:
            self.fields += tuple(f"user {name}" for name in self.user_attributes.names)
        plain = [width, *sizes, *[width] * (len(self.fields) - 1 - len(sizes))]
        self.head: nn.Module
        if settings.head == "linear":
            self.head = FieldHead(plain, settings)
        else:
            self.head = MlpHead(sum(plain) + width * plain[1:].count(width), settings)
        self.personal = settings.user_ids or self.user_attributes is not None
        self.known: Tensor
        self.trained: Tensor
        self.register_buffer("known", torch.zeros(shape.items + 1, dtype=torch.bool))
        self.register_buffer("trained", torch.zeros(shape.items + 1, dtype=torch.bool))

    def transferred(self) -> list[nn.Parameter]:
        """What started from pretrained vectors, and is learned at a rate of its own."""
        return [*self.item_embedding.started, *([] if self.user is None else self.user.started)]

    def grow(self, rows: Tensor, told: Tensor, attributes: Mapping[str, Tensor] | None = None) -> None:
        """Append items that came after training, as `ItemTable.grow` takes them; no learning after."""
        self.item_embedding.grow(rows, told, attributes)
        self.known = torch.cat([self.known, told.to(self.known.device)])
        self.trained = torch.cat([self.trained, torch.zeros_like(told, device=self.trained.device)])

    def acquainted(self, users: Tensor) -> Tensor:
        """Of whom (B,) more is known than the history: who has a learned row or a pretrained vector, or told something.

        Rows of people whom training has not met are zero, as they were before.
        """
        found = torch.zeros_like(users, dtype=torch.bool)
        if self.user is not None and self.user.item is not None:
            found |= (self.user.item[users] != 0).any(1)
        if self.user is not None and self.user.told is not None:
            found |= self.user.told[users]
        return found if self.user_attributes is None else found | self.user_attributes.told(users)

    @property
    def table(self) -> Tensor:
        """Item vectors, (n_items + 1, width); row 0 is the unknown item."""
        table: Tensor = self.item_embedding()
        return table

    def forward(self, requests: Requests, return_weights: bool = False, table: Tensor | None = None) -> Ranked:
        """Score the candidates of requests; `table` saves making the item table again."""
        table = self.table if table is None else table
        candidates = functional.embedding(requests.candidates, table)
        interests, events = self._interests(requests, candidates, table, return_weights)
        features = [candidates, *interests, *self._moment(requests)]
        plain = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in features]
        if isinstance(self.head, FieldHead):
            logits, fields = self.head(plain, return_weights)
            return Ranked(logits, events, fields)
        products = [plain[0] * each for each in plain[1:] if each.shape == candidates.shape]
        return Ranked(self.head(torch.cat([*plain, *products], 1)), events, None)

    def _interests(
        self, requests: Requests, candidates: Tensor, table: Tensor, return_weights: bool
    ) -> tuple[list[Tensor], list[list[Tensor]] | None]:
        """(C, out_width) of each interest, and its weights; where a history is empty, what was learned for that."""
        found: list[Tensor] = []
        weights: list[list[Tensor]] = []
        for part, interest, nothing in zip(self.histories, self.interests, self.nothing, strict=False):
            read = requests.reading(*part) if part else requests
            # how far back an event is, and how long ago, depends on who asks; so may what lies before the span
            if self.separate or (self.reads_on and bool(read.spans[:, 0].any())):
                read = read.separate()
            if self.request_time and read.moments is not None:
                asked = torch.repeat_interleave(read.moments, read.histories.lengths)
                read = replace(read, histories=replace(read.histories, asked=asked))
            events = self.embedding(read.histories, table)
            spans = read.candidate_spans
            mixed, shares = interest(candidates, events, read, return_weights)
            empty = (spans[:, 1] <= spans[:, 0])[:, None]
            found.append(torch.where(empty, nothing.to(mixed.dtype), mixed))
            weights.append(shares or [])
        return found, weights if return_weights else None

    def _moment(self, requests: Requests) -> list[Tensor]:
        """Vectors (C, W) of the context columns, the user and what is told of them, for each candidate's request.

        In training a share of the requests loses each of them, so that code 0 (not given) has a meaning too. Where
        attributes are read, a share also loses the user altogether: so asks a history that belongs to nobody.
        """
        owner = requests.request_of_candidate
        found = []
        for at, vectors in enumerate(self.asked):
            codes = torch.zeros_like(requests.users) if requests.context is None else requests.context[:, at]
            found.append(functional.embedding(self._told(codes), vectors)[owner])
        users = requests.users if self.user_attributes is None else self._told(requests.users)
        if self.user is not None:
            found.append(self.user(self._told(users))[owner])
        if self.user_attributes is not None:
            found += [each[owner] for each in self.user_attributes(users)]
        return found

    def _told(self, codes: Tensor) -> Tensor:
        if not self.training:
            return codes
        return codes * (torch.rand(codes.shape, device=codes.device) >= FORGOTTEN)

    def loss(self, requests: Requests) -> Tensor:
        """Mean over candidates: squared error of values, else binary cross-entropy of corrected logits."""
        logits = self(self.readable(requests)).logits[:, 0].float()
        if self.squared:
            return functional.mse_loss(logits, requests.labels)
        if requests.log_rates is not None:
            logits = logits - requests.log_rates
        return functional.binary_cross_entropy_with_logits(logits, requests.labels)

    def readable(self, requests: Requests) -> Requests:
        """Requests with items of which nothing is known as the unknown one.

        In training these are all items without training events: as negatives they teach what row 0 means, and those
        that have a pretrained vector are not pushed down for being new.
        """
        items, known = (
            requests.histories.items,
            self.trained if self.training and bool(self.trained.any()) else self.known,
        )
        items = items.where(known[items], 0)
        candidates = requests.candidates.where(known[requests.candidates], 0)
        return replace(requests, histories=replace(requests.histories, items=items), candidates=candidates)

    def predict(self, requests: Requests, table: Tensor | None = None) -> Tensor:
        """Probability (C,) of each candidate among those offered, or its value; unknown items read as such."""
        logits: Tensor = self(self.readable(requests), table=table).logits[:, 0].float()
        if self.squared:
            return logits
        return torch.sigmoid(logits if requests.log_rates is None else logits - requests.log_rates)

    def rank(self, histories: Histories, candidates: Tensor, offsets: Tensor, table: Tensor | None = None) -> Tensor:
        """Logits (C,) of jagged candidates, each history being one request; unknown items read as such.

        A retriever may find what the ranker knows nothing of: such candidates all get the logit of the unknown item.
        """
        count = len(histories)
        users = histories.users if histories.users is not None else histories.offsets.new_zeros(count)
        spans = torch.stack([torch.zeros_like(histories.lengths), histories.lengths], 1)
        requests = Requests(
            histories=histories,
            row_offsets=torch.arange(count + 1, device=offsets.device),
            spans=spans,
            candidates=candidates,
            offsets=offsets,
            labels=torch.full((len(candidates),), torch.nan, device=offsets.device),
            log_rates=None,
            context=histories.request,
            users=users,
            moments=_moments(histories) if self.request_time else None,
        )
        logits: Tensor = self(self.readable(requests), table=table).logits[:, 0].float()
        return logits

    def scores(self, histories: Histories) -> Tensor:
        """(B, n_items + 1) float32 over the whole catalogue, in blocks: a ranker alone is slow at this."""
        table = self.table
        items = torch.arange(1, len(table), device=table.device)
        scores = torch.zeros(len(histories), len(table), device=table.device)
        size = _BLOCK // max(1, len(histories))
        size = min(size, _PAIRS // max(1, len(histories.items)))
        for block in items.split(max(1, size)):
            offsets = torch.arange(len(histories) + 1, device=table.device) * len(block)
            found = self.rank(histories, block.repeat(len(histories)), offsets, table)
            scores[:, block] = found.view(len(histories), len(block))
        return scores


_BLOCK = 65_536  # candidates scored at once,
_PAIRS = 2**23  # and pairs of a candidate and an event


class MlpHead(nn.Module):
    """Linear maps with PReLU (He et al. 2015, arXiv 1502.01852) and dropout between them.

    Answers are made in full precision: in half of it candidates would tie.
    """

    def __init__(self, size: int, settings: ModelSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(size)]
        for hidden in settings.hidden:
            layers += [nn.Linear(size, hidden), nn.PReLU(), Dropout(settings.dropout)]
            size = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(size, settings.outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(C, size) -> (C, outputs)."""
        kind = features.device.type
        with torch.autocast(kind, enabled=self.training and torch.is_autocast_enabled(kind)):
            states = self.layers[:-1](features)
        with torch.autocast(kind, enabled=False):
            logits: Tensor = self.layers[-1](states.to(features.dtype))
        return logits


class FieldHead(nn.Module):
    """Additive pooling over field vectors, flattened, and one linear map: no hidden layer, and weights that say which
    field mattered. Fields of another width are brought to it by a linear map each.
    """

    def __init__(self, sizes: list[int], settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.fit = nn.ModuleList([nn.Identity() if size == width else nn.Linear(size, width) for size in sizes])
        self.pool = AdditivePooling(width, heads=settings.heads, hidden=settings.score_hidden)
        self.out = nn.Linear(self.pool.out_width, settings.outputs)

    def forward(self, features: list[Tensor], return_weights: bool) -> tuple[Tensor, list[Tensor] | None]:
        """Fields, (C, size) each -> (C, outputs), and per candidate the weights (1, fields, heads)."""
        with torch.autocast(features[0].device.type, enabled=False):  # in half precision candidates would tie
            fields = torch.stack([fit(each) for fit, each in zip(self.fit, features, strict=True)], 1)
            pooled, weights = self.pool.over(fields)
            return self.out(pooled), list(weights[:, None]) if return_weights else None


class RankerScorer:
    """Gives probabilities of labelled candidates; what `evaluate` sees of a ranker."""

    def __init__(self, model: CandidateModel, device: torch.device, precision: torch.dtype | None = None) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.uses_request_time = model.request_time

    def probabilities(self, requests: Requests) -> npt.NDArray[np.floating]:
        """(C,) without gradients and dropout, items without training events read as unknown."""
        training = self.model.training
        self.model.train(False)
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None),
            ):
                return self.model.predict(requests.to(self.device)).cpu().numpy()
        finally:
            self.model.train(training)


def _moments(histories: Histories) -> Tensor:
    """When each history asks, (B,): what `asked_at` wrote after its last event; 0 for an empty one."""
    assert histories.asked is not None
    last = (histories.offsets[1:] - 1).clamp_min(0)
    padded = functional.pad(histories.asked, (0, 1))
    return torch.where(histories.lengths > 0, padded[last], 0)


def _table(rows: int, width: int) -> nn.Parameter:
    """Rows that say nothing until something is learned of them: who was never met in training stays neutral."""
    return nn.Parameter(torch.zeros(rows + 1, width))
