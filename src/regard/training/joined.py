"""Ids of a run found again in another dataset, and the rows of weights that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from regard.data.attributes import Attribute, item_attributes
from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError
from regard.model.attributes import AttributeTable
from regard.model.models import Learned
from regard.model.ranker import Ranker
from regard.recommend.run import Run

FLAGS = ("known", "trained", "met")
"""Buffers that say whom a model knows."""
_FEW = 10  # titles that say nothing of whether two catalogues are of one shop


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


@dataclass(frozen=True)
class Told:
    """What is told of items, or of users, on both sides: the table that reads it, attributes here, meanings there."""

    table: AttributeTable
    here: Mapping[str, Attribute]
    then: Mapping[str, Any]

    def rescale(self) -> None:
        """Bring numbers and vectors, which the dataset has scaled by itself, to the scale of the run."""
        at = 0
        for name, size in self.table.measured.items():
            assert self.table.measures is not None
            now, then = self.here[name], self.then[name]
            values, absent = self.table.measures[:, at : at + size], self.table.measures[:, at + size : at + size + 1]
            moved = (values * now.spread + now.centre - then["centre"]) / then["spread"]
            values.copy_(torch.where(absent > 0, values, moved))
            at += size + 1


def another_shop(run: Run, dataset: Dataset, items: Join) -> str | None:
    """Why the items of a dataset are not those of a run, by ids and by the titles that they have; None where they are.

    Ids that are numbers mean other things in another shop.
    """
    if not items.copied:
        return f"it knows none of the {len(dataset.items):,} items"
    table = dataset.item_table
    if table is None or "title" not in table.column_names:
        return None
    here = dict(zip(table["id"].to_pylist(), table["title"].to_pylist(), strict=True))
    shared = items.places[1:] > 0
    names = dataset.items.ids(np.flatnonzero(shared.numpy()) + 1)
    before = run.titles.take(pa.array(items.places[1:][shared].numpy() - 1)).to_pylist()
    pairs = [(here.get(name), title) for name, title in zip(names, before, strict=True)]
    both = [one == other for one, other in pairs if one is not None and other is not None]
    if len(both) < _FEW or sum(both) >= len(both) / 2:
        return None
    return f"{len(both) - sum(both):,} of {len(both):,} items with an id that it knows have another title here"


def on_scale(told: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers and vectors mean to the weights, by name: the scale of the run they began from, where it has one.

    `told` is what the dataset says by itself, `before` what the run says.
    """
    kept = {name: {key: one[key] for key in ("centre", "spread") if key in one} for name, one in before.items()}
    return {name: {**one, **kept.get(name, {})} for name, one in told.items()}


def attributes_of(run: Run, dataset: Dataset, model: Learned, users: Mapping[str, Attribute]) -> dict[str, Told]:
    """Attributes of items, and those of users, by the name of the kind; `users` are those of the dataset."""
    table, then = model.item_embedding, run.manifest.get("attributes", {})
    found = {"attribute": Told(table, item_attributes(dataset, [*table.categories, *table.measured]), then)}
    if isinstance(model, Ranker) and model.user_attributes is not None:
        found["user attribute"] = Told(model.user_attributes, users, run.manifest["user_attributes"])
    return found


def joins_of(run: Run, dataset: Dataset, model: Learned, attributes: Mapping[str, Told]) -> dict[str, Join]:
    """How ids of every kind are joined."""
    told = run.manifest
    found = {"items": Join.of(run.items, dataset.items, told["dataset"]["items"])}
    found["behaviours"] = Join.of(Vocabulary.of(told["dataset"]["behaviours"]), Vocabulary.of(dataset.behaviours))
    if getattr(model, "user", None) is not None:
        if run.users is None:
            raise InputError(f"--from {run.path} was written before runs kept ids of users; train it again")
        found["users"] = Join.of(run.users, dataset.users)
    for name in told["context"]:
        found[f"context {name}"] = Join.of(run.context[name], dataset.context_values[name])
    for kind, sides in attributes.items():
        for name in sides.table.categories:
            values = sides.then[name]["values"]
            found[f"{kind} {name}"] = Join.of(Vocabulary.of(values), Vocabulary.of(sides.here[name].names))
    return found


def kind_of(name: str, model: Learned) -> str:
    """Whose rows a tensor of a model holds: those of ids of a kind; `plain` = of no ids; `given` = of the dataset."""
    first, _, last = name.rpartition(".")
    context: tuple[str, ...] = getattr(model, "context", ())
    if first in ("content", "near"):
        return "given"
    if first in ("item_embedding", "user", "user_attributes") or first.endswith(".pretrained"):
        if last in ("hashes", "codes", "measures", "rows", "told", "gate"):
            return "given"
        if last == "item":
            hashed = first == "item_embedding" and model.item_embedding.hashes is not None
            return "plain" if hashed else "items" if first == "item_embedding" else "users"
    if first == "item_embedding.values":
        return f"attribute {model.item_embedding.categories[int(last)]}"
    if first == "user_attributes.values" and isinstance(model, Ranker) and model.user_attributes is not None:
        return f"user attribute {model.user_attributes.categories[int(last)]}"
    if first in ("request.tables", "asked"):
        return f"context {context[int(last)]}"
    return _OWN.get(name, "plain")


_OWN = {
    **dict.fromkeys(("item_bias", "known", "trained"), "items"),
    **dict.fromkeys(("user_bias", "met"), "users"),
    "embedding.behaviour": "behaviours",
}
