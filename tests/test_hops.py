"""From run to run to run: numbers and vectors stay on the scale that the weights learned them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from regard import pipeline
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.store import Dataset
from regard.recommend.run import Run

NAMES = [str(at) for at in range(8)]


def shop(times: float) -> Dataset:
    """The same log everywhere; prices, sizes and ages are so many times as large."""
    rows = [(f"u{user}", f"i{(user + at) % 8}") for user in range(8) for at in range(5)]
    log = pa.table({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": list(range(len(rows)))})
    rng = np.random.default_rng(3)
    prices, ages = (times * rng.uniform(1, 9, 8)).tolist(), (times * rng.uniform(18, 80, 8)).tolist()
    sizes = (times * rng.normal(size=(8, 2))).tolist()
    items = pa.table({"id": [f"i{name}" for name in NAMES], "price": prices, "size": sizes})
    people = pa.table({"id": [f"u{name}" for name in NAMES], "age": [*ages[:-1], None]})
    return Dataset.build(EventLog.read(log, time_kind="order"), None, items, people)


def settings(**changes: Any) -> Settings:
    told = {"data.split": "leave-one-out", "train.epochs": 1, "train.threads": 1, "train.precision": "float32"}
    return Settings().changed([f"{name}={value}" for name, value in {**told, **changes}.items()])


def read(run: Run, dataset: Dataset) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What a run reads, and the raw values behind it, in the order of names."""
    model: Any = run.stage()
    assert dataset.item_table is not None
    assert dataset.user_table is not None
    item = dataset.items.index([f"i{name}" for name in NAMES])
    user = dataset.users.index([f"u{name}" for name in NAMES])[:-1]
    price, size = (dataset.item_table[name].to_pylist() for name in ("price", "size"))
    age = dataset.user_table["age"].to_pylist()
    measures = model.item_embedding.measures[item]
    return {
        "price": (measures[:, :1], torch.tensor([[price[at - 1]] for at in item])),
        "size": (measures[:, 2:4], torch.tensor([size[at - 1] for at in item])),
        "age": (model.user_attributes.measures[user][:, :1], torch.tensor([[age[at - 1]] for at in user])),
    }


@pytest.mark.parametrize("further", ["train.epochs=1", "train.zero_shot=true"])
def test_two_hops_later_a_value_reads_as_it_did_at_first(further: str, tmp_path: Path) -> None:
    model = {"model.name": "ranker", "model.width": 4, "model.hidden": "[4]"}
    model |= {"model.attributes": "price,size", "model.user_attributes": "age"}
    shops = [shop(1.0), shop(10.0), shop(10.0)]
    runs = [pipeline.train(shops[0], settings(**model), tmp_path / "0")]
    on = settings().changed([further])
    for at in (1, 2):
        runs.append(pipeline.train(shops[at], on, tmp_path / str(at), start=runs[-1]))
    first, *later = [read(run, there) for run, there in zip(runs, shops, strict=True)]
    for name, (values, raw) in first.items():
        # read = slope * raw + start: by two values of the first run, then asked of all others
        slope = (values[1, 0] - values[0, 0]) / (raw[1, 0] - raw[0, 0])
        for mine, told in (one[name] for one in later):
            torch.testing.assert_close(mine, values[0, 0] + slope * (told - raw[0, 0]), atol=1e-3, rtol=1e-4)
    kinds = [{**run.manifest["attributes"], **run.manifest["user_attributes"]} for run in runs]
    for name in first:
        for scale in ("centre", "spread"):
            assert len({one[name][scale] for one in kinds}) == 1
