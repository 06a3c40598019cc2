"""Negatives of real batches where purchases are targets and views are not: each item counts once on average."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.shape import Shape
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.model.retriever import Retriever
from regard.training.learning import _ready, _retrieval
from regard.training.protocol import Protocol

VIEWS, PURCHASES = (900, 100, 200), (10, 90, 100)


def shop() -> Dataset:
    """Events of 100 users in any order."""
    events = [
        (f"i{at}", what)
        for what, many in (("view", VIEWS), ("buy", PURCHASES))
        for at in range(3)
        for _ in range(many[at])
    ]
    order = np.random.default_rng(2).permutation(len(events))
    log = pa.table(
        {
            "user": [f"u{at % 100}" for at in range(len(order))],
            "item": [events[at][0] for at in order],
            "time": list(range(len(order))),
            "what": [events[at][1] for at in order],
        }
    )
    return Dataset.build(EventLog.read(log, Columns("user", "item", "time", behaviour="what"), time_kind="order"), None)


@pytest.mark.parametrize("kind", ["in-batch", "mixed"])
def test_the_mean_weight_of_each_item_is_one(kind: str) -> None:
    dataset = shop()
    told = [
        "model.name=mean",
        f"model.negatives={2048 if kind == 'in-batch' else 8}",
        f"model.negative_sampling={kind}",
        "model.width=4",
    ]
    told += ["data.split=none", "data.target_behaviours=buy", "train.batch_tokens=140", "train.threads=1"]
    protocol = Protocol.of(dataset, Settings().changed(told))
    model = _ready(protocol, Shape.of(dataset), {}, None, None)
    assert isinstance(model, Retriever)
    assert model.negatives is not None
    assert model.trained[1:].all()
    batches, weight, many = _retrieval(protocol, model)[0], np.zeros(4), 0
    for _ in range(60):
        for batch in batches:
            found = [one[one > 0] for one in (batch.targets, batch.first_targets)]  # type: ignore[attr-defined]
            targets = found[0].new_tensor([*found[0].tolist(), *found[1].tolist()])
            if len(targets) > 1:
                items, correction = model.negatives(targets, model.trained)
                # the correction is that beside a target which is another item: of the others there is one fewer
                weight[items] += correction.exp().numpy() * ((len(targets) - 1) / len(targets) if kind[0] == "i" else 1)
                many += 1
    named = dataset.items.index([f"i{at}" for at in range(3)])
    np.testing.assert_allclose(weight[named] / many, 1.0, atol=0.15)
