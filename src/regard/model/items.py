"""Item vectors: what a model knows of an item by its id, its own or hashed, and by its attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.data.attributes import item_attributes
from regard.data.shape import Shape
from regard.data.store import Dataset
from regard.data.vocabulary import collisions
from regard.model.attributes import AttributeTable
from regard.model.attributes import vectors as vectors
from regard.model.transfer import NO_RETRIEVERS, Initial, build_transfer, id_width


class ItemTable(AttributeTable):
    """Item vectors: of the id, plus one of each attribute, so that what is alike shares what is learned.

    With V items: the id has a row of its own, or with `model.hash_rows` the sum of k hashed rows divided by sqrt(k)
    (Weinberger et al. 2009, arXiv 0902.2206; several hashes: Svenstrup et al. 2017, arXiv 1709.03933). Unknown items,
    of which nothing is given, have row 0. What `fill` reads from a dataset is kept in buffers, so that saved weights
    need no dataset: attributes, and `hashes` (V + 1, k).
    """

    def __init__(self, shape: Shape, settings: ModelSettings) -> None:
        super().__init__()
        width, rows = settings.width, settings.hash_rows
        scale = first_scale(settings)
        self.pretrained = build_transfer(shape.items, shape.vectors, settings, scale)
        self.item = self._first(rows or shape.items, settings, scale)
        self.describe(shape.attributes, shape.items, width, scale)
        self.by_rows = False  # the gradient of `item` is sparse where items are asked for one by one
        self.hashes: Tensor | None
        hashes = torch.zeros(shape.items + 1, settings.hash_functions, dtype=torch.int32) if rows else None
        self.register_buffer("hashes", hashes)

    def fill(self, dataset: Dataset) -> None:
        """Read attributes, and hashes of raw ids, of the dataset whose `Shape` this table was built for."""
        self.read(item_attributes(dataset, [*self.categories, *self.measured]))
        if self.hashes is not None and self.item is not None:
            self.hashes.copy_(torch.from_numpy(dataset.items.hashed(len(self.item) - 1, self.hashes.shape[1])))

    def take(self, rows: Tensor, told: Tensor, counts: Tensor) -> None:
        """Read pretrained vectors (V + 1, K), which items have one, and the training events of each (V + 1,)."""
        assert self.pretrained is not None
        self.pretrained.take(rows, told, counts)
        if isinstance(self.pretrained, Initial) and self.item is not None:
            with torch.no_grad():
                self.item[told] = rows[told].to(self.item.dtype)

    @property
    def told(self) -> Tensor | None:
        """Which items have a pretrained vector, (V + 1,); None where there are none."""
        return None if self.pretrained is None else self.pretrained.told

    def grow(self, rows: Tensor, told: Tensor, attributes: Mapping[str, Tensor] | None = None) -> None:
        """Append items that have no events: known by pretrained vectors, rows (n, K) where `told` (n,), and attributes.

        Their ids start as in training, from zero or from the vector; attributes are as `append` takes them.
        """
        count = len(told)
        if self.item is not None and self.hashes is None:
            own = rows if isinstance(self.pretrained, Initial) else self.item.new_zeros(count, self.item.shape[1])
            self.item = nn.Parameter(torch.cat([self.item.detach(), own.to(self.item)]), requires_grad=False)
        if self.pretrained is not None:
            self.pretrained.grow(rows, told)
        if self.hashes is not None:
            self.hashes = torch.cat([self.hashes, self.hashes.new_zeros(count, self.hashes.shape[1])])
        self.append(count, attributes)

    @property
    def started(self) -> list[nn.Parameter]:
        """What started from pretrained vectors and is learned on."""
        return [self.item] if isinstance(self.pretrained, Initial) and self.item is not None else []

    def collisions(self) -> dict[str, Any] | None:
        """Report which items share their rows; None where every item has its own."""
        if self.hashes is None or self.item is None:
            return None
        return collisions(self.hashes.cpu().numpy(), len(self.item) - 1)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors of the items (R,) -> (R, width), or of all: (V + 1, width)."""
        table = self._ids(items) if self.pretrained is None else self.pretrained(self._own(items), items)
        return self.added_to(table, items)

    def _first(self, rows: int, settings: ModelSettings, scale: float) -> nn.Parameter | None:
        """Learned rows before training; from zero where a pretrained vector tells items apart."""
        if self.pretrained is None or isinstance(self.pretrained, Initial):
            return vectors(rows + 1, settings.width, scale)
        width = id_width(settings)
        return nn.Parameter(torch.zeros(rows + 1, width)) if width else None

    def _own(self, items: Tensor | None) -> Tensor | None:
        return None if self.item is None else self._ids(items)

    def _ids(self, items: Tensor | None) -> Tensor:
        assert self.item is not None
        if self.hashes is None:
            return self.item if items is None else functional.embedding(items, self.item, sparse=self.by_rows)
        hashes = self.hashes if items is None else self.hashes[items]
        # int32 saves half of the buffer, but gradients through it take six times as long
        rows: Tensor = functional.embedding_bag(hashes.long(), self.item, mode="sum", sparse=self.by_rows)
        return rows / math.sqrt(hashes.shape[1])


def user_table(shape: Shape, settings: ModelSettings) -> ItemTable:
    """Vectors of users, (U + 1, width): a row each that starts from zero, or what `model.transfer` makes of vectors.

    So who was never met in training, and of whom nothing is told, stays neutral.
    """
    table = ItemTable(Shape(shape.users, vectors=shape.user_vectors), settings.model_copy(update={"hash_rows": 0}))
    if table.item is not None:
        nn.init.zeros_(table.item)
    return table


def first_scale(settings: ModelSettings) -> float:
    """The length that vectors have before training, of items and of what is added to them.

    Those of rankers and factorization start small, as they learn less by heart then: docs/log.md.
    """
    return settings.vector_scale or (0.1 if settings.name in NO_RETRIEVERS else 1.0)
