"""Attributes of users down the whole road: a planted truth that nothing else tells, and whoever tells none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from regard import pipeline
from regard.cli import app
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.errors import SettingsError
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run

USERS, EACH, ITEMS = 300, 6, 12


def planted(kind: str, out: Path | None = None) -> tuple[Dataset, dict[str, float]]:
    """Items by chance, and labels that depend on one attribute of the user; with what each user's chance of a yes is."""
    rng = np.random.default_rng(5)
    sexes, ages = rng.choice(["f", "m"], USERS), rng.uniform(18.0, 80.0, USERS).round(1)
    by = {"sex": np.where(sexes == "f", 0.9, 0.1), "age": 1 / (1 + np.exp((ages - 50.0) / 5.0))}
    chance = by[kind]
    names = [f"u{at}" for at in range(USERS)]
    rows = [
        (user, f"i{rng.integers(ITEMS)}", float(rng.random() < chance[user]))
        for user in range(USERS)
        for _ in range(EACH)
    ]
    log = pa.table(
        {
            "user": [names[row[0]] for row in rows],
            "item": [row[1] for row in rows],
            "time": list(range(len(rows))),
            "label": [row[2] for row in rows],
        }
    )
    order = rng.permutation(USERS)  # rows of the table lie anyhow
    table = pa.table({"id": [names[at] for at in order], "age": ages[order], "sex": sexes[order]})
    read = EventLog.read(log, Columns("user", "item", "time", label="label"), time_kind="order")
    return Dataset.build(read, out, None, table), dict(zip(names, chance.tolist(), strict=True))


def told(**changes: Any) -> Settings:
    own: dict[str, Any] = {"data.split": "users:0.25", "data.labels": "given", "data.history": "all"}
    own |= {"model.name": "ranker", "model.width": 8, "model.hidden": "[16]", "model.positions": "none"}
    own |= {"train.epochs": 8, "train.learning_rate": 0.01, "train.batch_tokens": 256, "train.threads": 1}
    own |= {"train.precision": "float32", "evaluate.bootstrap": 0, **changes}
    return Settings().changed([f"{name}={value}" for name, value in own.items()])


def auc(run: Run, dataset: Dataset) -> float:
    value = pipeline.evaluate(run, data=dataset, baselines="none").result.value("auc")
    assert value is not None
    return value


def oracle(dataset: Dataset, run: Run, chance: dict[str, float]) -> float:
    """The AUC of whoever knows each user's chance, over the events of held-back users."""
    held = pipeline.Protocol.of(dataset, run.settings).requests("test")
    users = [int(user) for block in held for user in block.users[block.request_of_candidate]]
    labels = [float(label) for block in held for label in block.labels]
    assert dataset.label is not None
    return float(roc_auc_score(labels, [chance[dataset.users.id(user)] for user in users]))


@pytest.mark.parametrize(("kind", "head"), [("sex", "mlp"), ("age", "mlp"), ("sex", "linear")])
def test_what_only_an_attribute_tells_is_learned_of_people_never_met(kind: str, head: str, tmp_path: Path) -> None:
    dataset, chance = planted(kind)
    plain = pipeline.train(dataset, told(**{"model.head": head}), tmp_path / "without")
    run = pipeline.train(
        dataset, told(**{"model.head": head, "model.user_attributes": '["age", "sex"]'}), tmp_path / "with"
    )
    ceiling = oracle(dataset, run, chance)
    assert ceiling > 0.85
    assert auc(run, dataset) > ceiling - 0.03
    assert abs(auc(plain, dataset) - 0.5) < 0.07
