"""Settings that nobody told follow from the size of the data; what was told stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from regard import pipeline
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.training.protocol import Protocol
from regard.training.sizes import Size, by_size


def shop(users: int = 40, each: int = 6, items: int = 12) -> Dataset:
    rows = [(f"u{user}", f"i{(user + at) % items}", at) for user in range(users) for at in range(each)]
    names = ("user", "item", "time")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return Dataset.build(EventLog.read(table, Columns(*names)), None)


def decided(*told: str, dataset: Dataset | None = None) -> tuple[Settings, dict[str, Any]]:
    settings = Settings().changed(["data.split=leave-one-out", *told])
    complete, found = by_size(Protocol.of(dataset or shop(), settings))
    return complete, found.get("decided", {})


@pytest.mark.parametrize(
    ("targets", "items", "epochs", "dropout"),
    [
        (987_571, 3_416, 8, 0.2),  # 241 steps a pass: 2,000 steps are 8.3 of them
        (98_114, 1_682, 34, 0.3),  # 24 steps a pass: 20 passes are too few steps
        (153_776, 12_101, 22, 0.5),  # 38 steps a pass
        (225_141, 18_357, 20, 0.5),
        (40_000_000, 80_000, 3, 0.2),
        (3_000, 100, 800, 0.3),  # less than a step
    ],
)
def test_the_rule_by_hand(targets: int, items: int, epochs: int, dropout: float) -> None:
    size = Size(targets, items, 4096)
    assert (size.epochs, size.dropout) == (epochs, dropout)


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(1, 10**5))
def test_more_data_never_asks_for_more_passes_or_more_dropout(targets: int, items: int, more: int) -> None:
    size, larger = Size(targets, items, 4096), Size(targets + more, items, 4096)
    assert 3 <= larger.epochs <= size.epochs <= 800
    assert larger.dropout <= size.dropout


def test_what_is_told_stays() -> None:
    rates = {"train.table_rate": 10.0, "train.learning_rate": 0.001}
    rest = {"train.epochs": 800, "model.dropout": 0.5, "model.covisit_weight": 3.0}
    assert decided()[1] == {**rest, **rates}
    assert decided("train.table_rate=3")[1] == rest
    assert decided("train.learning_rate=3e-3")[1] == rest
    complete, found = decided("train.epochs=7", "model.dropout=0.0", "train.table_rate=1.0", "model.covisit_weight=0.0")
    assert found == {}
    assert (complete.train.epochs, complete.model.dropout, complete.train.table_rate) == (7, 0.0, 1.0)
    assert decided("train.epochs=0")[1]["train.epochs"] == 800
    assert "train.learning_rate" not in decided(dataset=shop(users=400))[1]


def test_going_on_takes_a_quarter_of_the_passes() -> None:
    protocol = Protocol.of(shop(), Settings().changed(["data.split=leave-one-out"]))
    anew, on = (by_size(protocol, begun=begun)[1]["decided"] for begun in (False, True))
    assert on == anew | {"train.epochs": anew["train.epochs"] / 4} == anew | {"train.epochs": 200}
    elsewhere = Protocol.of(shop(), Settings().changed(["data.split=leave-one-out", "model.transfer=frozen"]))
    assert by_size(elsewhere, vectors=True, begun=True) == by_size(elsewhere, vectors=True)


@pytest.mark.parametrize("name", ["popular", "co-visit", "matrix-factorization", "ranker"])
def test_other_models_keep_their_defaults(name: str) -> None:
    complete, found = decided(f"model.name={name}")
    assert found == {}
    assert complete.model.model_dump(exclude={"name"}) == Settings().model.model_dump(exclude={"name"})
    assert complete.train == Settings().train


@pytest.mark.parametrize(
    ("transfer", "rates"),
    [
        ("auto", {"train.vectors_rate": 1.0}),
        ("gate", {"train.table_rate": 10.0}),
        ("fuse", {"train.table_rate": 10.0}),
        ("init", {"train.vectors_rate": 1.0}),
        ("frozen", {}),
    ],
)
def test_rates_fit_the_way_in_which_item_vectors_start(transfer: str, rates: dict[str, float]) -> None:
    """Without vectors a way says nothing, as the table starts from chance; dense items learn as fast as by chance."""
    settings = Settings().changed(["data.split=leave-one-out", f"model.transfer={transfer}"])
    protocol = Protocol.of(shop(), settings)
    common = {"train.epochs": 800, "model.dropout": 0.5, "model.covisit_weight": 3.0, "train.learning_rate": 0.001}
    assert by_size(protocol, vectors=True)[1]["decided"] == {**common, **rates, "model.content_weight": 6.0}
    assert by_size(Protocol.of(shop(users=400), settings), vectors=True)[1]["decided"].get("train.vectors_rate") == (
        10.0 if "train.vectors_rate" in rates else None
    )
    assert by_size(protocol)[1]["decided"] == {**common, "train.table_rate": 10.0}


def test_large_catalogues_sample_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.training.sizes._LARGE", 12)
    assert decided()[0].model.negatives > 0
    assert "model.negatives" not in decided(dataset=shop(items=11))[1]
    assert decided()[0].model.covisit_weight == 0
    assert decided("model.negatives=0")[0].model.negatives == 0
    assert decided("model.negatives=64")[0].model.negative_sampling == "uniform"


def test_a_run_says_what_was_decided(tmp_path: Path) -> None:
    told = Settings().changed(["data.split=leave-one-out", "model.width=8", "train.epochs=2", "train.threads=1"])
    console = Console(record=True, width=200)
    run = pipeline.train(shop(), told, tmp_path / "run", console=console)
    assert run.manifest["size"]["decided"] == {
        "model.dropout": 0.5,
        "model.covisit_weight": 3.0,
        "train.table_rate": 10.0,
        "train.learning_rate": 0.001,
    }
    assert run.settings.model.dropout == 0.5
    assert (
        "160 targets on 12 items, so: model.dropout=0.5, model.covisit_weight=3.0, train.table_rate=10.0"
        in console.export_text()
    )
