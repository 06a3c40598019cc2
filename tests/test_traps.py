"""Traps that rankers over histories have fallen into elsewhere, as docs/traps.md tells them; and that page itself.

Here are those of logs, batches and training; tests/model/test_ranking_traps.py has those of models. What other files
already test is not tested again: the page names the test of every trap.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from reference import dataset_of
from regard.config import ModelSettings, Settings, TrainSettings
from regard.data.batches import TrainingBatches, gather
from regard.data.requests import RequestBatches, Requests, evaluation_requests
from regard.data.shape import Shape
from regard.data.split import make_split
from regard.model.attend import pairs
from regard.model.embedding import EventEmbedding
from regard.model.ranker import Ranker
from regard.model.unit import Dice
from regard.train.loop import fit

ROOT = Path(__file__).parents[1]
DAY = 86_400_000_000


def log_of(lengths: tuple[int, ...] = (3, 9, 23, 5)):
    """A log in which each event has an item of its own, as an item then says which event it was."""
    events = [(user, at) for user, many in enumerate(lengths, 1) for at in range(many)]
    rows = [(user, 1 + at, (3 * at + user) * DAY, at % 3, 0) for at, (user, _) in enumerate(events)]
    rows = [(*row[:4], int(row[2] > 45 * DAY)) for row in rows]  # two parts, by time
    dataset, _ = dataset_of(rows)
    dataset.label, dataset.context = None, {}
    return dataset


def test_users_longer_than_the_window_are_asked_about_with_their_newest_events() -> None:
    dataset, window = log_of(), 5
    split = make_split(dataset, "leave-one-out")
    told = Settings.of({"model": {"window": window}})
    for part, back in (("test", 1), ("validation", 2)):
        (block,) = evaluation_requests(dataset, split, part, told, negatives=2)  # type: ignore[arg-type]
        assert block.users.tolist() == [1, 2, 3, 4]
        ends = dataset.offsets[2:] - back
        for row, end in enumerate(ends):
            first = max(dataset.offsets[row + 1], end - window)
            own = slice(*block.histories.offsets[row : row + 2].tolist())
            assert block.histories.items[own].tolist() == dataset.item[first:end].tolist()
            assert block.candidates[block.offsets[row]] == dataset.item[end]


def learner(epochs: int, **changes: object) -> tuple[Ranker, RequestBatches, TrainSettings]:
    dataset = log_of()
    chosen = {"name": "ranker", "interest": "activation-unit", "width": 8, "window": 6, "dropout": 0.5}
    train = {"epochs": epochs, "batch_tokens": 16, "precision": "float32", "metric": "auc", **changes}
    settings = Settings.of({"model": chosen, "train": train})
    batches = RequestBatches(dataset, make_split(dataset, "leave-one-out"), settings)
    model = Ranker(Shape(dataset.n_items, 3), settings.model)
    model.known.fill_(True)
    return model, batches, settings.train


def test_learning_goes_on_in_training_mode_after_a_look_at_validation(tmp_path: Path) -> None:
    model, batches, settings = learner(3)
    dice = next(module for module in model.modules() if isinstance(module, Dice))
    modes: set[bool] = set()
    means: list[Tensor] = []
    own = model.loss

    def loss(requests: Requests) -> Tensor:
        modes.update(module.training for module in model.modules())
        return own(requests)

    def validate() -> dict[str, float]:
        model.eval()  # and never back
        means.append(dice.norm.running_mean.clone())  # type: ignore[union-attr]
        return {"auc": 0.5}

    model.loss = loss  # type: ignore[method-assign]
    fit(model, batches, settings, tmp_path, validate=validate)
    assert modes == {True}
    assert len(means) == 3
    assert not any(torch.equal(*both) for both in pairwise(means))
    assert not any(module.training for module in model.modules())


def test_the_best_weights_come_back_though_training_ran_to_its_end(tmp_path: Path) -> None:
    model, batches, settings = learner(4, patience=9)
    figures, seen = iter([0.5, 0.8, 0.6, 0.7]), []

    def validate() -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"auc": next(figures)}

    assert len(fit(model, batches, settings, tmp_path, validate=validate)) == 4
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, seen[3][name]) for name, value in model.state_dict().items())


def test_large_item_numbers_stay_apart() -> None:
    large = 2**24
    dataset, _ = dataset_of([(1, large, 0, 0, 0), (1, large + 1, 1, 0, 0), (2, large + 1, 0, 0, 0)])
    histories = gather(dataset, np.arange(3), dataset.offsets[1:])  # type: ignore[arg-type]
    assert histories.items.tolist() == [large, large + 1, large + 1]
    table = torch.zeros(large + 2, 1)  # pages nobody writes to cost nothing
    table[large], table[large + 1] = 1.0, 2.0
    embedding = EventEmbedding(0, ModelSettings(positions="none", behaviours=False, dropout=0.0))
    assert embedding(histories, table).flatten().tolist() == [1.0, 2.0, 2.0]
    far = pairs(torch.tensor([0, 1]), torch.tensor([large + 1, large + 4]), torch.tensor([[1, 3]]))
    assert far.key.tolist() == [large + 2, large + 3]
    batch = next(iter(RequestBatches(log_of(), make_split(log_of(), "none"), Settings())))
    for name, each in [*vars(batch).items(), *vars(batch.histories).items()]:
        if isinstance(each, Tensor):
            assert each.dtype == (torch.float32 if name in ("labels", "log_rates") else torch.int64), name


@pytest.mark.parametrize("rule", ["leave-one-out", "time:0.7", "users:0.3", "parts", "random:0.6,0.2,0.2"])
def test_what_is_held_back_is_never_learned_from(rule: str) -> None:
    dataset = log_of()
    split = make_split(dataset, rule, seed=1)
    told = Settings.of({"data": {"labels": "sampled"}, "model": {"window": 4}})
    held = {dataset.item[row] for part in ("validation", "test") for row in split.cases(dataset, part, "next").targets}  # type: ignore[arg-type]
    assert held
    learned = set()
    for request in RequestBatches(dataset, split, told):
        learned |= {*request.candidates[request.labels > 0].tolist(), *request.histories.items.tolist()}
    for window in TrainingBatches(dataset, split, window=4, batch_tokens=50, seed=1):  # type: ignore[arg-type]
        learned |= {*window.targets.tolist(), *window.first_targets.tolist(), *window.histories.items.tolist()}
    assert learned - {0}
    assert not learned & held


def test_a_loaded_run_measures_what_validation_saw(tmp_path: Path) -> None:
    shop = regard.make_shop(seed=1, users=20)
    columns = regard.Columns(context=("hour",))
    dataset = regard.Dataset.build(regard.EventLog.read(shop.events, columns), tmp_path / "shop", shop.items)
    told = {
        "model": {"name": "ranker", "interest": "activation-unit", "width": 8, "window": 9, "context": ["hour"]},
        "train": {"epochs": 2, "precision": "float32"},
        "evaluate": {"negatives": 5, "bootstrap": 0},
    }
    run = regard.train(dataset, regard.Settings.of(told), tmp_path / "run")
    found = regard.evaluate(tmp_path / "run", on="validation").result.metrics
    seen = {name: value for name, value in run.manifest["validation"].items() if isinstance(value, float)}
    assert "auc|5-sampled" in seen
    for name, value in seen.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-5), name


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "traps.md").read_text("utf-8")
ENTRIES = re.findall(r"^### (\d+[bc]?)\. (.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)


def collected(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_page_has_every_trap_once_and_in_order() -> None:
    numbers = [*map(str, range(1, 31))]
    for place, added in ((3, "3b"), (12, "11b"), (13, "11c")):
        numbers.insert(place, added)
    assert [number for number, _ in ENTRIES] == numbers


def test_every_test_and_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`([\w./]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > len(ENTRIES)
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert not name or name in collected(ROOT / path), f"{path}::{name}"


@pytest.mark.parametrize(("number", "text"), ENTRIES)
def test_every_entry_names_what_holds_here(number: str, text: str) -> None:
    before, _, here = text.partition("**Here:**")
    assert len(before.split()) > 12
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`|`src/regard/[\w/]+\.py`", here)
