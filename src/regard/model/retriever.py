"""Next-item scores over the whole catalogue, from the state after the last event and the tied item table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.batches import Histories, TrainingBatch
from regard.data.shape import Shape
from regard.model.clock import Clocks
from regard.model.content import Content
from regard.model.embedding import EventEmbedding, RequestEmbedding
from regard.model.encoder import ENCODERS
from regard.model.items import ItemTable
from regard.model.losses import next_item_loss, sampled_next_item_loss
from regard.model.negatives import SharedNegatives
from regard.model.neighbourhood import Neighbourhood
from regard.model.transfer import first_nothing


class Retriever(nn.Module):
    """Embeds events, encodes histories by the encoder of its name, and scores items against the same item table.

    Trained to predict the next item at every position at once (Kang and McAuley 2018, arXiv 1808.09781, with the
    softmax loss of Klenitskiy and Vasilev 2023, arXiv 2309.07602). A history without events has a learned state of its
    own, trained on the first event of every user.
    """

    def __init__(self, shape: Shape, settings: ModelSettings) -> None:
        super().__init__()
        self.name = settings.name
        self.window = settings.window
        self.negatives = SharedNegatives(shape.items, settings) if settings.negatives else None
        self.context = tuple(shape.context)
        self.request_time = settings.request_time
        self.item_embedding = ItemTable(shape, settings)
        weight = settings.content_weight if shape.vectors else 0.0
        self.content = Content(shape.items, shape.vectors, weight) if weight else None
        self.near = Neighbourhood(shape.items) if settings.covisit_weight else None
        self.near_weight = settings.covisit_weight
        self.embedding = EventEmbedding(shape.behaviours, settings)
        self.request = RequestEmbedding(shape.context, settings.width) if shape.context else None
        self.encoder = ENCODERS[settings.name](settings)
        self.clocks = Clocks(settings)
        self.temperature = settings.temperature
        self.nothing = nn.Parameter(first_nothing(settings.width, 1.0 if settings.temperature else 0.0))
        self.known: Tensor
        self.trained: Tensor
        self.register_buffer("known", torch.zeros(shape.items + 1, dtype=torch.bool))
        self.register_buffer("trained", torch.zeros(shape.items + 1, dtype=torch.bool))

    def transferred(self) -> list[nn.Parameter]:
        """What started from pretrained vectors, and is learned at a rate of its own."""
        return self.item_embedding.started

    def tables(self, by_rows: bool) -> list[nn.Parameter]:
        """The learned table of items, if there is one; with `by_rows` its gradients hold the rows of a step only.

        None then where the softmax is over all items, as every row is read.
        """
        table = self.item_embedding.item
        if table is None or (by_rows and self.negatives is None):
            return []
        self.item_embedding.by_rows = by_rows
        return [table]

    def grow(self, rows: Tensor, told: Tensor, attributes: Mapping[str, Tensor] | None = None) -> None:
        """Append items that came after training, as `ItemTable.grow` takes them; no learning after."""
        self.item_embedding.grow(rows, told, attributes)
        if self.content is not None:
            self.content.grow(rows)
        if self.near is not None:
            self.near.grow(len(told))
        self.known = torch.cat([self.known, told.to(self.known.device)])
        self.trained = torch.cat([self.trained, torch.zeros_like(told, device=self.trained.device)])

    @property
    def table(self) -> Tensor:
        """Item vectors, (n_items + 1, width); row 0 is the unknown item."""
        return self._vectors()

    def _vectors(self, items: Tensor | None = None) -> Tensor:
        """Vectors of items (n,), of all where none are named; of length 1 with `model.temperature`."""
        rows: Tensor = self.item_embedding(items)
        return functional.normalize(rows, dim=-1) if self.temperature else rows

    def states(
        self, histories: Histories, table: Tensor, return_weights: bool = False
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The state after every event, (T, width), and per block, per history its weights if asked for.

        Recurrent encoders have no weights: an empty list.
        """
        clock = self.clocks(histories)
        states: tuple[Tensor, list[list[Tensor]]]
        states = self.encoder(self.embedding(histories, table), histories.offsets, clock, return_weights)
        return states

    def users(self, histories: Histories, table: Tensor) -> Tensor:
        """What scores items by a dot product, from the state after the last event of each history: (B, width)."""
        events, clock = self.embedding(histories, table), self.clocks(histories)
        states = self.encoder.newest(events, histories.offsets, clock)
        rows = self.nothing.to(states.dtype).expand(len(histories), -1)
        rows = rows.masked_scatter((histories.lengths > 0)[:, None], states)
        return self._asked(rows, histories.request)

    def _asked(self, states: Tensor, request: Tensor | None) -> Tensor:
        """What scores items, from states (R, width) and context codes (R, K) of their requests; None = nothing known.

        With `model.temperature` the score is the cosine divided by it.
        """
        if self.request is None:
            return self._pointed(states)
        codes = torch.zeros(len(states), len(self.context), dtype=torch.int64) if request is None else request
        return self._pointed(states + self.request(codes.to(states.device)).to(states.dtype))

    def _pointed(self, states: Tensor) -> Tensor:
        if not self.temperature:
            return states
        return (
            functional.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=-1) / self.temperature
        )

    def scores(self, histories: Histories) -> Tensor:
        """(B, n_items + 1) float32; column 0 means nothing.

        What is learned, and what is added to it: a match of content, and what was counted (docs/decisions/0010).
        """
        table = self.table
        users = self.users(histories, table)
        with torch.autocast(users.device.type, enabled=False):  # in half precision items would tie
            scores = users.float() @ table.float().T
            if self.content is not None:
                self.content.add_to(scores, histories)
            if self.near is not None:
                self.near.add_to(scores, histories, self.near_weight)
            return scores

    def _offered(self, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (V', width) that compete in the softmax, and which of them the targets are.

        Items without training events do not compete: they would only learn that nobody wants them, whatever
        their pretrained vectors and attributes say.
        """
        if bool(self.trained[1:].all()) or not bool(self.trained.any()):
            return table[1:], targets - 1
        place = self.trained.cumsum(0) - 1
        return table[self.trained], place[targets]

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Mean cross-entropy of the next item over all events of the batch that have a target.

        With sampled negatives only the items of the batch and the negatives are made vectors of, numbered anew.
        """
        targets = torch.cat([batch.targets[batch.targets > 0], batch.first_targets[batch.first_targets > 0]])
        if self.negatives is None:
            table = self.table
            items, places = self._offered(table, targets)
            return next_item_loss(self._predicting(batch, batch.histories, table), items, places)
        negatives, correction = self.negatives(targets, self.trained)
        items = batch.histories.items
        used, places = torch.cat([items, targets, negatives]).unique(return_inverse=True)
        items, targets, negatives = places.split([len(items), len(targets), len(negatives)])
        table = self._vectors(used)
        states = self._predicting(batch, replace(batch.histories, items=items), table)
        return sampled_next_item_loss(states, table, targets, negatives, correction)

    def _predicting(self, batch: TrainingBatch, histories: Histories, table: Tensor) -> Tensor:
        """The states that predict the targets of the batch: after events, then of histories that are to begin."""
        states, _ = self.states(histories, table)
        later, first = batch.targets > 0, batch.first_targets > 0
        states = torch.cat([states[later], self.nothing.to(states.dtype).expand(int(first.sum()), -1)])
        contexts = None
        if batch.contexts is not None and batch.first_contexts is not None:
            contexts = torch.cat([batch.contexts[later], batch.first_contexts[first]])
        return self._asked(states, contexts)
