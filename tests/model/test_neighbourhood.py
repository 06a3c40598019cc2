"""Counts in the scores of a retriever, beside plain loops; a catalogue that grows, and one that is numbered anew."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from regard import pipeline
from regard.config import ModelSettings, Settings
from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.shape import Shape
from regard.data.sources import Columns
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.errors import SettingsError
from regard.model.baseline import CoVisit
from regard.model.models import build
from regard.model.neighbourhood import MOST, NEWEST, Neighbourhood
from regard.model.retriever import Retriever

PEOPLE = {"a": "1 2 3 4", "b": "2 3 5", "c": "3 2 1 6", "d": "1 2 3 7"}


def dataset(order: str = "") -> Dataset:
    rows = [(who, f"i{item}", at) for who, items in PEOPLE.items() for at, item in enumerate(items.split())]
    if order:
        rows = [("0", f"i{item}", at) for at, item in enumerate(order.split())] + rows
    names = ("user", "item", "time")
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    return Dataset.build(EventLog.read(table, Columns(*names), time_kind="order"), None)


def counted(log: Dataset, **choice: object) -> Neighbourhood:
    near = Neighbourhood(log.n_items)
    near.count(log, make_split(log, "none"), **choice)  # type: ignore[arg-type]
    return near


def histories(log: Dataset, *texts: str) -> Histories:
    items = [[int(log.items.index([f"i{one}"])[0]) for one in text.split()] for text in texts]
    offsets = torch.tensor([0, *torch.tensor([len(one) for one in items]).cumsum(0).tolist()])
    return Histories(torch.tensor([one for each in items for one in each], dtype=torch.int64), offsets)


def by_hand(log: Dataset, history: str, item: str, window: int, decay: float, powers: tuple[float, float]) -> float:
    events = [one for items in PEOPLE.values() for one in items.split()]
    total = 0.0
    for age, one in enumerate(reversed(history.split())):
        pairs = 0.0
        for items in map(str.split, PEOPLE.values()):
            for at, here in enumerate(items):
                for later in range(at + 1, min(at + window + 1, len(items))):
                    pairs += (here == one and items[later] == item) / (later - at)
        divisor = max(1, events.count(one)) ** powers[0] * max(1, events.count(item)) ** powers[1]
        total += (1 + age) ** -decay * pairs / divisor
    return total


@pytest.mark.parametrize(("window", "decay", "powers"), [(20, 1.0, (0.5, 0.25)), (1, 2.0, (1.0, 0.0))])
def test_counts_are_those_of_a_loop(window: int, decay: float, powers: tuple[float, float]) -> None:
    log = dataset()
    found = counted(log, window=window, decay=decay, powers=powers)(histories(log, "1 2", "3", "7 2 1"))
    for row, history in enumerate(("1 2", "3", "7 2 1")):
        for item in "1234567":
            at = int(log.items.index([f"i{item}"])[0])
            expected = by_hand(log, history, item, window, decay, powers)
            assert found[row, at].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rule", ["leave-one-out", "users:0.3", "random:0.6,0.2,0.2"])
def test_what_is_held_back_is_not_counted(rule: str) -> None:
    """As the counts of a log that has only the events that train, by the items' own ids."""
    log = dataset()
    split, near = make_split(log, rule), Neighbourhood(log.n_items)
    near.count(log, split)
    rows = split.training_rows(log)
    kept = {rank: [] for rank in range(1, log.n_users + 1)}  # type: ignore[var-annotated]
    for row in rows.tolist():
        kept[int((log.offsets <= row).sum()) - 1].append(int(log.item[row]))
    expected = torch.zeros(log.n_items + 1, log.n_items + 1, dtype=torch.float64)
    events = torch.bincount(
        torch.tensor([item for items in kept.values() for item in items]), minlength=log.n_items + 1
    )
    for items in kept.values():
        for at, one in enumerate(items):
            for later in range(at + 1, len(items)):
                expected[one, items[later]] += 1 / (later - at)
    powers = events.clamp_min(1).double()
    expected /= powers[:, None] ** 0.5 * powers**0.25
    found = near(Histories(torch.arange(log.n_items + 1), torch.arange(log.n_items + 2)))
    torch.testing.assert_close(found[1:], expected[1:], atol=1e-6, rtol=1e-6)


def test_what_a_training_counts_is_of_its_training_part(tmp_path: Path) -> None:
    """The counts of a run are those of its split, and the events held back would have made others of them."""
    log = dataset()
    told = {"covisit_weight": 3.0, "width": 8}
    train = {"epochs": 1, "batch_tokens": 64, "threads": 1, "precision": "float32"}
    body = {"data": {"split": "leave-one-out"}, "model": told, "train": train, "evaluate": {"bootstrap": 0}}
    model = pipeline.train(log, Settings.of(body), tmp_path).stage()
    assert isinstance(model, Retriever)
    assert model.near is not None
    each = Histories(torch.arange(log.n_items + 1), torch.arange(log.n_items + 2))
    found = {"none": torch.empty(0), "leave-one-out": torch.empty(0)}
    for rule in found:
        near = Neighbourhood(log.n_items)
        near.count(log, make_split(log, rule), most=MOST, newest=NEWEST)
        found[rule] = near(each)
    assert torch.equal(model.near(each), found["leave-one-out"])
    assert not torch.allclose(found["none"], found["leave-one-out"])
    assert (found["leave-one-out"] > 0).sum() < (found["none"] > 0).sum()


def retriever(log: Dataset, weight: float) -> Retriever:
    torch.manual_seed(0)
    model = Retriever(Shape(log.n_items), ModelSettings(width=8, dropout=0.0, covisit_weight=weight)).eval()
    if model.near is not None:
        model.near.count(log, make_split(log, "none"))
    return model


def test_a_retriever_adds_the_root_of_the_share_of_the_largest() -> None:
    log = dataset()
    asked = histories(log, "1 2", "3", "4", "")
    gained = retriever(log, 3.0).scores(asked) - retriever(log, 0.0).scores(asked)
    counts = counted(log)(asked)
    for row in range(2):
        for item in range(1, log.n_items + 1):
            expected = 3 * math.sqrt(counts[row, item] / counts[row].max())
            assert gained[row, item].item() == pytest.approx(expected, abs=1e-5)
    assert gained[2:].abs().max() == 0  # nothing ever came after item 4, nor after nothing


def test_saved_weights_hold_the_counts() -> None:
    log = dataset()
    model, other = retriever(log, 3.0), Retriever(Shape(log.n_items), ModelSettings(width=8, covisit_weight=3.0)).eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.scores(histories(log, "1 2")), model.scores(histories(log, "1 2")))


def test_nothing_is_near_items_that_came_later() -> None:
    log = dataset()
    model = retriever(log, 3.0)
    before = model.scores(histories(log, "1 2"))
    model.grow(torch.zeros(2, 0), torch.zeros(2, dtype=torch.bool))
    after = model.scores(histories(log, "1 2"))
    assert after.shape == (1, log.n_items + 3)
    torch.testing.assert_close(after[:, :-2], before)


def test_counts_of_another_catalogue_are_found_by_its_items() -> None:
    """One has items that the other has not, in another order."""
    log, other = dataset(), dataset("9 4 7 2 8")
    own, moved = counted(log), Neighbourhood(other.n_items)
    places = log.items.index(other.items.array)
    moved.take_from(own, torch.tensor([0, *places.tolist()]))
    for history in ("1 2", "7 2 3", "4"):
        here, there = moved(histories(other, history))[0], own(histories(log, history))[0]
        for at, place in enumerate([0, *places.tolist()]):
            assert here[at].item() == pytest.approx(there[place].item() if place else 0.0, abs=1e-7)
    assert moved.offsets.diff().sum() == own.offsets.diff().sum()


def test_pairs_of_items_that_are_not_there_are_left_out() -> None:
    log = dataset()
    own, few = counted(log), Neighbourhood(3)
    names = ["i3", "i5", "i2"]
    places = torch.tensor([0, *log.items.index(names).tolist()])
    few.take_from(own, places)
    asked = Histories(torch.tensor([3]), torch.tensor([0, 1]))
    found, whole = few(asked)[0], own(histories(log, "2"))[0]
    assert found[1:].tolist() == pytest.approx([whole[place].item() for place in places[1:]], abs=1e-7)


def test_the_baseline_is_this_and_popularity_below() -> None:
    log = dataset()
    asked = histories(log, "1 2", "4")
    scores, counts = CoVisit.fit(log, make_split(log, "none")).scores(asked), counted(log)(asked).float()
    torch.testing.assert_close(scores[counts > 0], counts[counts > 0])
    assert (scores[counts == 0] < 0).all()


@pytest.mark.parametrize("name", ["ranker", "matrix-factorization"])
def test_other_models_refuse_it(name: str) -> None:
    settings = Settings().changed([f"model.name={name}", "model.covisit_weight=2"])
    with pytest.raises(SettingsError, match=r"model\.covisit_weight.* is for"):
        build(settings, Shape(5))
