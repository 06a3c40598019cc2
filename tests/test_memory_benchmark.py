"""The benchmark of memory: a cell trains and tells its peak, and the page says which bars are met."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.parametrize("items", [1_000, 100_000])
def test_popularity_is_skewed_alike_at_all_sizes(items: int) -> None:
    made = import_module("memory").generated(items, 4 * items)
    counts = np.bincount(made.item, minlength=items + 1)
    assert counts[0] == 0
    assert len(counts) == items + 1
    often = np.sort(counts)[::-1]
    for share in (0.01, 0.1):
        # the law, and a little more: with four events an item, those most often drawn are partly so by chance
        assert 0 < often[: int(share * items)].sum() / often.sum() - share ** (1 / 3) < 0.05
    assert 0.75 < (counts > 0).sum() / items < 0.9
    assert made.ends[-1] <= 4 * items


def test_a_cell_trains_and_tells_its_peak() -> None:
    asked = argparse.Namespace(threads=1, steps=2, set=["train.batch_tokens=300", "model.negatives=8"])
    found = import_module("memory").cell(500, asked)
    assert 0.05 < found["before_gb"] <= found["peak_gb"] < 8
    assert 200 < found["targets_per_step"] <= 300
    assert len(found["loss"]) == 2
    assert found["targets_per_core_second"] > 0


def test_an_epoch_that_ends_inside_is_of_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = import_module("memory")
    monkeypatch.setattr(memory, "USERS", 30)
    small = ["train.batch_tokens=700", "model.negatives=8", "model.width=4"]
    found = memory.cell(500, argparse.Namespace(threads=1, steps=4, set=small))
    assert found["steps"] == 2  # 4,200 targets: six steps, of which four are of the first epoch
    assert 600 < found["targets_per_step"] <= 840  # 350 or less, were it divided by four


def test_the_page_says_which_bars_are_met() -> None:
    told = {"occur": 7, "before_gb": 0.3, "targets_per_second": 9.0}
    cells = [
        {"items": 10_000, "peak_gb": 0.9, "targets_per_core_second": 100.0, **told},
        {"items": 100_000, "peak_gb": 1.6, "targets_per_core_second": 90.0, **told},
        {"items": 1_000_000, "peak_gb": 3.9, "targets_per_core_second": 49.0, **told},
        {"items": 7, "peak_gb": 99.0, "targets_per_core_second": 51.0, **told},
    ]
    verdicts = [line.split("|")[-2].strip() for line in import_module("memory").table(cells).splitlines()[2:]]
    assert verdicts == ["met", "**missed**", "**missed**", "met"]
