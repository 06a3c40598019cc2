"""Matrix factorisation: a table of users, a table of items, and the dot product of two of their rows.

Letters: B histories, R requests, C candidates, T events, U users, V items, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.data.requests import Requests
from regard.data.shape import Shape
from regard.model.dropout import Dropout
from regard.model.foldin import FoldIn
from regard.model.items import ItemTable, user_table


class Factorization(nn.Module):
    """Score of a user and an item: mean + bias of the user + bias of the item + dot product of their vectors (Koren,
    Bell and Volinsky 2009, Computer 42(8)); with `model.biases` off the dot product alone.

    Explicit feedback (`squared`): the score is the label, by squared error. Implicit feedback and labels of yes or no:
    the score is a logit. Where negatives were sampled, it is corrected by the log of how often an item is drawn, as in
    `Ranker`, so what is learned are log-odds among all items.

    A user with training events, `met`, has a row of the user table. Anybody else is read from the history (`FoldIn`);
    pretrained vectors of users, where there are some, are what that begins from. Items without training events that
    have a vector score with the mean bias.

    Pretrained vectors of users know nothing of the axes that those of items lie along, so a linear map turns them; it
    starts as the identity, and is there with such vectors only.
    """

    request_time = False
    personal = True

    def __init__(self, shape: Shape, settings: ModelSettings, squared: bool = False) -> None:
        super().__init__()
        self.name, self.window, self.squared, self.biased = settings.name, settings.window, squared, settings.biases
        self.item_embedding = ItemTable(shape, settings)
        self.user = user_table(shape, settings)
        self.turn = nn.Parameter(torch.eye(settings.width)) if shape.user_vectors else None
        self.dropout = Dropout(settings.dropout)
        self.item_bias = nn.Parameter(torch.zeros(shape.items + 1), requires_grad=self.biased)
        self.user_bias = nn.Parameter(torch.zeros(shape.users + 1), requires_grad=self.biased)
        self.mean = nn.Parameter(torch.zeros(()), requires_grad=self.biased)
        self.fold_in = FoldIn(settings.width + 1)
        self.known: Tensor
        self.trained: Tensor
        self.met: Tensor
        for name, count in (("known", shape.items), ("trained", shape.items), ("met", shape.users)):
            self.register_buffer(name, torch.zeros(count + 1, dtype=torch.bool))

    def begin(self, mean: float) -> None:
        """Set the mean score that training starts from; without biases there is none."""
        if self.biased:
            nn.init.constant_(self.mean, mean)

    def transferred(self) -> list[nn.Parameter]:
        """What started from pretrained vectors, and is learned at a rate of its own."""
        return [*self.item_embedding.started, *self.user.started]

    def grow(self, rows: Tensor, told: Tensor, attributes: Mapping[str, Tensor] | None = None) -> None:
        """Append items that came after training, as `ItemTable.grow` takes them; no learning after."""
        self.item_embedding.grow(rows, told, attributes)
        self.known = torch.cat([self.known, told.to(self.known.device)])
        self.trained = torch.cat([self.trained, torch.zeros_like(told, device=self.trained.device)])
        self.item_bias = nn.Parameter(functional.pad(self.item_bias.detach(), (0, len(told))), requires_grad=False)

    @property
    def table(self) -> Tensor:
        """Item vectors, (n_items + 1, width); row 0 is the unknown item."""
        table: Tensor = self.item_embedding()
        return table

    def loss(self, requests: Requests) -> Tensor:
        """Mean over candidates: squared error, else binary cross-entropy of corrected logits.

        In training dropout of the users' values keeps the product of low rank (Cavazza et al. 2018, arXiv 1710.05092),
        and the statistics of `fold_in` are kept.
        """
        requests = self.readable(requests)
        people = self._people(requests)
        items, users = self._extended_items(requests.candidates), people[requests.request_of_candidate]
        base = self.mean + self._item_biases()[requests.candidates]
        kept = torch.cat([self.dropout(users[:, :-1]), users[:, -1:]], 1)
        scores = base + (kept * items).sum(1)
        if self.training:
            self._watch(people, (users * items).sum(1), base, requests.labels)
        if self.squared:
            return functional.mse_loss(scores, requests.labels.to(scores.dtype))
        if requests.log_rates is not None:
            scores = scores - requests.log_rates
        return functional.binary_cross_entropy_with_logits(scores, requests.labels.to(scores.dtype))

    def readable(self, requests: Requests) -> Requests:
        """Requests with items of which nothing is known as the unknown one; in training, as in `Ranker`, also those
        that have no training events.
        """
        items, known = requests.histories.items, self.trained if self.training else self.known
        items = items.where(self.known[items], 0)
        candidates = requests.candidates.where(known[requests.candidates], 0)
        return replace(requests, histories=replace(requests.histories, items=items), candidates=candidates)

    def predict(self, requests: Requests, table: Tensor | None = None) -> Tensor:  # noqa: ARG002 - asked like a ranker
        """Probability (C,) of each candidate among those offered, or its value."""
        requests = self.readable(requests)
        users = self._people(requests)[requests.request_of_candidate]
        scores = self.mean + self._item_biases()[requests.candidates]
        scores = (scores + (users * self._extended_items(requests.candidates)).sum(1)).float()
        if self.squared:
            return scores
        return torch.sigmoid(scores if requests.log_rates is None else scores - requests.log_rates)

    def scores(self, histories: Histories) -> Tensor:
        """(B, n_items + 1) float32 over the whole catalogue: logits or values; column 0 means nothing."""
        table = self.table
        count = len(histories)
        users = histories.users if histories.users is not None else histories.offsets.new_zeros(count)
        people = self._vectors(users, histories)
        with torch.autocast(table.device.type, enabled=False):  # in half precision items would tie
            own = people[:, :-1].float() @ table.float().T
            return own + people[:, -1:].float() + (self.mean + self._item_biases()).float()

    def remarks(self, histories: Histories) -> list[str]:
        """What a reader of the answer for one history should know."""
        if histories.users is not None and bool(self.met[histories.users].all()):
            return []
        liked = ", read as items that they like" if self.squared and histories.labels is None else ""
        begun = histories.users is not None and bool(self.acquainted(histories.users).all())
        first = ", from their pretrained one on" if begun else ""
        return [f"training has not met this user: their vector is solved from the history{first}{liked}"]

    def acquainted(self, users: Tensor) -> Tensor:
        """Of whom (B,) more is known than the history: who has a learned row, or a pretrained vector."""
        told = self.user.told
        return self.met[users] if told is None else self.met[users] | told[users]

    def _people(self, requests: Requests) -> Tensor:
        """Extended vectors (R, W + 1) of those who ask."""
        if self.training or bool(self.met[requests.users].all()):
            return self._extended_users(requests.users)
        return self._vectors(requests.users, requests.separate().histories)

    def _vectors(self, users: Tensor, histories: Histories) -> Tensor:
        """Extended vectors (B, W + 1) of users: rows of the table, or read from histories of known items."""
        own, met = self._extended_users(users), self.met[users]
        if bool(met.all()):
            return own
        told = self.user.told
        centre = self.fold_in.mean.to(own.dtype).expand_as(own)
        if told is not None:
            # of the vector alone: nobody has learned a bias of theirs
            centre = torch.where(told[users][:, None], torch.cat([own[:, :-1], centre[:, -1:]], 1), centre)
        read = histories.kept((histories.items > 0) & ~torch.repeat_interleave(met, histories.lengths))
        solved = self.fold_in(self._extended_items(read.items), self._wanted(read), read.offsets, centre)
        return torch.where(met[:, None], own, solved)

    def _wanted(self, histories: Histories) -> Tensor:
        """What the events (T,) of a history say of the user: their labels without mean and bias of the item, or nan."""
        if not self.squared or histories.labels is None:
            return self.fold_in.level.new_full((len(histories.items),), torch.nan)
        return histories.labels - (self.mean + self._item_biases()[histories.items])

    def _watch(self, people: Tensor, own: Tensor, base: Tensor, labels: Tensor) -> None:
        """Hand a step to `fold_in`, with the scores (C,) that are the user's `own`, and the `base` of the items.

        An item without a label that a user has counts as one typical deviation above what anybody would give it.
        """
        if self.squared:
            self.fold_in.watch(people, own.square().mean().sqrt(), (labels - base - own).square().mean())
        elif bool((labels > 0).any()):
            chosen = own[labels > 0]
            self.fold_in.watch(people, chosen.mean(), chosen.var(correction=0))

    def _item_biases(self) -> Tensor:
        """(V + 1,): items that nobody has met have the mean bias."""
        met = self.trained[1:]
        mean = (self.item_bias[1:] * met).sum() / met.sum().clamp_min(1)
        new = self.known & ~self.trained
        return torch.where(new, mean, self.item_bias)

    def _extended_items(self, items: Tensor) -> Tensor:
        """Vectors (R, W + 1) that end with what user biases are multiplied by: 1, or 0 without biases."""
        vectors: Tensor = self.item_embedding(items)
        return functional.pad(vectors, (0, 1), value=float(self.biased))

    def _extended_users(self, users: Tensor) -> Tensor:
        """Vectors (R, W + 1) that end with the user's bias."""
        vectors: Tensor = self.user(users)
        if self.turn is not None:
            vectors = vectors @ self.turn.to(vectors.dtype)
        return torch.cat([vectors, self.user_bias[users][:, None].to(vectors.dtype)], 1)
