"""Ids of a run found again in another dataset, and the rows of weights that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard.data.attributes import item_attributes
from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError
from regard.model.models import Learned
from regard.recommend.run import Run

FLAGS = ("known", "trained", "met")
"""Buffers that say whom a model knows."""


@dataclass(frozen=True)
class Join:
    """For the n ids here, plus the unknown one, where the run has them: `places` (n + 1,), 0 = nowhere."""

    places: Tensor
    before: int

    @classmethod
    def of(cls, theirs: Vocabulary, mine: Vocabulary, before: int | None = None) -> Join:
        """Find ids by what they are called; `before` of theirs have rows (default: all)."""
        many = len(theirs) if before is None else before
        places = np.concatenate([[0], theirs.index(mine.array)]).astype(np.int64)
        places[places > many] = 0  # was added after training
        return cls(torch.from_numpy(places), many)

    @property
    def copied(self) -> int:
        """How many ids are known on both sides."""
        return int((self.places > 0).sum())

    def rows(self, mine: Tensor | None, theirs: Tensor | None) -> dict[str, int]:
        """Copy rows (n + 1, …) of ids that the run has, and that of the unknown one; count them.

        None: there is no such table on that side.
        """
        if mine is None or theirs is None:
            new = 0 if mine is None else len(self.places) - 1
            return {"copied": 0, "new": new, "left_out": 0 if theirs is None else self.before}
        here = self.places > 0
        here[0] = True
        mine[here.to(mine.device)] = theirs[self.places[here]].to(mine)
        new = len(self.places) - 1 - self.copied
        return {"copied": self.copied, "new": new, "left_out": self.before - self.copied}


def joins_of(run: Run, dataset: Dataset, model: Learned) -> dict[str, Join]:
    """How ids of every kind are joined."""
    told = run.manifest
    found = {"items": Join.of(run.items, dataset.items, told["dataset"]["items"])}
    found["behaviours"] = Join.of(Vocabulary.of(told["dataset"]["behaviours"]), Vocabulary.of(dataset.behaviours))
    if getattr(model, "personal", False):
        if run.users is None:
            raise InputError(f"--from {run.path} was written before runs kept ids of users; train it again")
        found["users"] = Join.of(run.users, dataset.users)
    for name in told["context"]:
        found[f"context {name}"] = Join.of(run.context[name], dataset.context_values[name])
    names = model.item_embedding.categories
    here = item_attributes(dataset, names)
    for name in names:
        values = told["attributes"][name]["values"]
        found[f"attribute {name}"] = Join.of(Vocabulary.of(values), Vocabulary.of(here[name].names))
    return found


def kind_of(name: str, model: Learned) -> str:
    """Whose rows a tensor of a model holds: those of ids of a kind; `plain` = of no ids; `given` = of the dataset."""
    first, _, last = name.rpartition(".")
    context: tuple[str, ...] = getattr(model, "context", ())
    if first in ("item_embedding", "user") or first.endswith(".pretrained"):
        if last in ("hashes", "codes", "measures", "rows", "told", "gate"):
            return "given"
        if last == "item":
            hashed = first == "item_embedding" and model.item_embedding.hashes is not None
            return "plain" if hashed else "items" if first == "item_embedding" else "users"
    if first == "item_embedding.values":
        return f"attribute {model.item_embedding.categories[int(last)]}"
    if first in ("request.tables", "asked"):
        return f"context {context[int(last)]}"
    return _OWN.get(name, "plain")


_OWN = {
    **dict.fromkeys(("item_bias", "known", "trained"), "items"),
    **dict.fromkeys(("user_bias", "met"), "users"),
    "embedding.behaviour": "behaviours",
}


def rescale(model: Learned, run: Run, dataset: Dataset) -> None:
    """Bring numbers and vectors among item attributes, which the dataset has scaled by itself, to the run's scale."""
    table, at = model.item_embedding, 0
    here = item_attributes(dataset, list(table.measured))
    for name, size in table.measured.items():
        assert table.measures is not None
        now, then = here[name], run.manifest["attributes"][name]
        values, absent = table.measures[:, at : at + size], table.measures[:, at + size : at + size + 1]
        moved = (values * now.spread + now.centre - then["centre"]) / then["spread"]
        values.copy_(torch.where(absent > 0, values, moved))
        at += size + 1
