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


def test_every_item_occurs_and_few_occur_often() -> None:
    made = import_module("memory").generated(500, 7000)
    counts = np.bincount(made.item, minlength=501)
    assert counts[0] == 0
    assert counts[1:].min() >= 1
    assert np.sort(counts)[-50:].sum() > 0.4 * 7000
    assert made.ends[-1] == 7000


def test_a_cell_trains_and_tells_its_peak() -> None:
    asked = argparse.Namespace(threads=1, steps=2, set=["train.batch_tokens=300", "model.negatives=8"])
    found = import_module("memory").cell(500, asked)
    assert 0.05 < found["before_gb"] <= found["peak_gb"] < 8
    assert 200 < found["targets_per_step"] <= 300
    assert len(found["loss"]) == 2
    assert found["targets_per_core_second"] > 0


def test_the_page_says_which_bars_are_met() -> None:
    told = {"before_gb": 0.3, "targets_per_second": 9.0}
    cells = [
        {"items": 10_000, "peak_gb": 0.9, "targets_per_core_second": 100.0, **told},
        {"items": 100_000, "peak_gb": 1.6, "targets_per_core_second": 90.0, **told},
        {"items": 1_000_000, "peak_gb": 3.9, "targets_per_core_second": 49.0, **told},
        {"items": 7, "peak_gb": 99.0, "targets_per_core_second": 51.0, **told},
    ]
    verdicts = [line.split("|")[-2].strip() for line in import_module("memory").table(cells).splitlines()[2:]]
    assert verdicts == ["met", "**missed**", "**missed**", "met"]
