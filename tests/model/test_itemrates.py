"""The floor of labelled candidates, by hand: shares where negatives are sampled, mean labels where they are given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.requests import evaluation_requests
from regard.data.sources import Columns
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.evaluate.labelled import evaluate_labelled
from regard.model.itemrates import ItemRates


def built(user: list[int], item: list[int], time: list[int], label: list[float] | None = None) -> Dataset:
    """Items named by numbers get these numbers as indexes where they first appear in that order."""
    table = {"user": [str(one) for one in user], "item": [str(one) for one in item], "time": time}
    table |= {} if label is None else {"label": label}
    columns = Columns("user", "item", "time", label=None if label is None else "label")
    return Dataset.build(EventLog.read(pa.table(table), columns, time_kind="order"), None)


def asked(candidates: list[int], log_rates: list[float] | None = None) -> SimpleNamespace:
    rates = None if log_rates is None else torch.tensor(log_rates)
    return SimpleNamespace(candidates=torch.tensor(candidates), log_rates=rates)


def test_given_labels_are_means_drawn_to_that_of_all() -> None:
    label = [1.0, 1.0, 0.0, 0.0, 1.0] * 2
    dataset = built([1] * 5 + [2] * 5, [1, 1, 1, 2, 3] * 2, list(range(10)), label)
    split = make_split(dataset, "none")
    settings = Settings().changed(["model.name=ranker", "data.labels=given"])
    found = ItemRates.fit(dataset, split, settings).probabilities(asked([1, 2, 3, 0]))
    assert found == pytest.approx([(4 + 6) / (6 + 10), 6 / 12, (2 + 6) / 12, 0.6])


def test_sampled_candidates_have_the_odds_of_share_and_rate() -> None:
    dataset = built([1, 1, 1, 1], [1, 1, 2, 3], [0, 1, 2, 3])
    split = make_split(dataset, "none")
    rates = ItemRates.fit(dataset, split, Settings().changed(["model.name=ranker", "data.labels=sampled"]))
    drawn = 4 / 3
    found = rates.probabilities(asked([1, 2], [float(np.log(drawn))] * 2))
    assert found == pytest.approx([(3 / 7) / (3 / 7 + drawn), (2 / 7) / (2 / 7 + drawn)])


def test_among_sampled_candidates_it_is_calibrated() -> None:
    """Where popularity is all there is to know, what it says is what comes."""
    rng = np.random.default_rng(0)
    users, chance = 400, np.arange(1, 31) / np.arange(1, 31).sum()
    item = np.concatenate([rng.choice(30, 6, p=chance, replace=False) for _ in range(users)])
    dataset = built(np.repeat(np.arange(users), 6).tolist(), item.tolist(), list(range(6)) * users)
    settings = Settings().changed(["model.name=ranker", "data.labels=sampled"])
    split = make_split(dataset, "leave-one-out")
    requests = evaluation_requests(dataset, split, "test", settings, negatives=2)
    rates = ItemRates.fit(dataset, split, settings)
    result = evaluate_labelled(rates, requests, dataset, split, bootstrap=0)
    found = {key.partition("|")[0]: result.metrics[key]["value"] for key in result.metrics}
    assert found["auc"] is not None
    assert found["auc"] > 0.6
    assert found["calibration_error"] is not None
    assert found["calibration_error"] < 0.06
