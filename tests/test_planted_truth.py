"""Rankers on logs whose truth is planted: calibration after sampling, labels of every kind, leaks, a real kill."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from regard import pipeline, show
from regard.config import Settings
from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.reading import Reading
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.errors import ProtocolError
from regard.evaluate.result import Result
from regard.model.ranker import Ranker
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run


def built(table: dict[str, Any], kind: str = "order", **columns: Any) -> Dataset:
    log = EventLog.read(pa.table(table), Columns("user", "item", **columns), time_kind=kind)  # type: ignore[arg-type]
    return Dataset.build(log, None)


def told(**changes: Any) -> Settings:
    """Settings of a small ranker that looks at validation once, at the end."""
    body: dict[str, Any] = {
        "data": {"split": "leave-one-out"},
        "model": {"name": "ranker", "interest": "candidate", "width": 8, "hidden": [16], "dropout": 0.0},
        "train": {"batch_tokens": 512, "learning_rate": 0.01, "validations": 1, "precision": "float32", "threads": 1},
        "evaluate": {"bootstrap": 0},
    }
    for section, values in changes.items():
        body[section] |= values
    return Settings.of(body)


def trained(dataset: Dataset, settings: Settings, out: Path) -> tuple[Ranker, Result]:
    run = pipeline.train(dataset, settings, out)
    model = run.stage()
    assert isinstance(model, Ranker)
    return model, pipeline.evaluate(run, data=dataset, baselines="none").result


def figure(result: Result, name: str) -> float:
    value = result.metrics[name]["value"]
    assert value is not None
    return value


@pytest.fixture(scope="module")
def known_shares() -> tuple[Dataset, np.ndarray]:
    """People take items by shares (V,) that are the same for everybody; no share is large."""
    rng, users, each, catalogue = np.random.default_rng(0), 2500, 6, 300
    share = 1 / (np.arange(catalogue) + 20.0)
    share /= share.sum()
    dataset = built(
        {
            "user": [f"u{user}" for user in np.repeat(np.arange(users), each)],
            "item": [f"i{number}" for number in rng.choice(catalogue, users * each, p=share)],
            "time": np.tile(np.arange(each), users),
        },
        time="time",
    )
    places = [int(dataset.items.id(index)[1:]) for index in range(1, dataset.n_items + 1)]
    return dataset, share[places]


@pytest.mark.parametrize(("negatives", "sampling"), [(1, "uniform"), (8, "uniform"), (4, "popularity")])
def test_sampled_negatives_leave_no_trace_in_what_is_learned(
    known_shares: tuple[Dataset, np.ndarray], tmp_path: Path, negatives: int, sampling: str
) -> None:
    """However many negatives there were, and however drawn, a logit is the log of an item's share of all events.

    So probabilities are calibrated on the evaluation's own sample, whose negatives are drawn in another way.
    """
    dataset, shares = known_shares
    drawn = {"negatives": negatives, "sampling": sampling}
    model, result = trained(dataset, told(data=drawn, train={"epochs": 8}), tmp_path)
    with torch.no_grad():
        logits = (
            model.scores(Histories(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])))[0, 1:].double().numpy()
        )
    assert np.exp(logits).sum() == pytest.approx(1.0, abs=0.08)
    off = logits - np.log(shares)
    assert abs((off * shares).sum()) < 0.08
    assert off.std() < 0.4
    # on the evaluation's sample: one positive among 51, and every bin has as many as were said
    assert figure(result, "calibration_error|50-sampled") < 0.003
    for name, row in result.strata.items():
        said, came = (row["metrics"][key]["value"] for key in ("mean_probability", "share_of_positives"))
        assert abs(said - came) < 4 * np.sqrt(said / row["cases"]) + 0.1 * said, name


def test_without_a_signal_there_is_no_skill(tmp_path: Path) -> None:
    """Everybody meets every item once at most, by chance: whoever does better than chance has seen the answer."""
    rng, users, each = np.random.default_rng(1), 400, 8
    items = np.concatenate([rng.permutation(100)[:each] for _ in range(users)])
    dataset = built(
        {
            "user": [f"u{user}" for user in np.repeat(np.arange(users), each)],
            "item": [f"i{number}" for number in items],
            "time": np.tile(np.arange(each), users),
        },
        time="time",
    )
    for interest in ("target", "gru"):
        _, result = trained(dataset, told(model={"interest": interest}, train={"epochs": 3}), tmp_path / interest)
        assert abs(figure(result, "auc|50-sampled") - 0.5) < 0.05
    asked = {"name": "self-attention", "blocks": 1, "covisit_weight": 3.0}  # its own guess, and counts of pairs
    run = pipeline.train(dataset, told(model=asked, train={"epochs": 2}), tmp_path / "retriever")
    result = pipeline.evaluate(run, data=dataset, baselines="none").result
    assert abs(figure(result, "hit_rate@10") - 10 / (100 - (each - 1))) < 0.05  # ten of the items not had before


def test_a_target_among_the_events_it_may_read_is_refused(
    known_shares: tuple[Dataset, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leak planted where histories are cut, one event too late: in training and in evaluation."""
    dataset, _ = known_shares
    settings = told(model={"interest": "target"}, train={"epochs": 1, "batch_tokens": 8192})
    run = pipeline.train(dataset, settings, tmp_path / "honest")
    honest = Reading.members_before
    monkeypatch.setattr(Reading, "members_before", lambda self, positions: honest(self, positions) + 1)
    with pytest.raises(ProtocolError, match="at or after itself; a history must end before what it explains"):
        pipeline.train(dataset, settings, tmp_path / "leaking")
    with pytest.raises(ProtocolError, match="at or after itself"):
        pipeline.evaluate(run, data=dataset, baselines="none")


@pytest.fixture(scope="module")
def ratings() -> tuple[Dataset, dict[str, float]]:
    """Ratings from 1 to 5: an item has its quality, a person comes twice to it by chance, the rest is noise."""
    rng, users, each = np.random.default_rng(2), 600, 10
    quality = {f"i{at}": value for at, value in enumerate(rng.normal(3.4, 0.8, 40))}
    item = rng.choice(list(quality), users * each)
    label = np.clip(np.round([quality[name] + rng.normal(0, 0.6) for name in item]), 1, 5)
    dataset = built(
        {
            "user": [f"u{user}" for user in np.repeat(np.arange(users), each)],
            "item": item.tolist(),
            "time": np.tile(np.arange(each), users),
            "rating": label,
        },
        time="time",
        label="rating",
    )
    return dataset, quality


def test_a_rating_is_learned_as_a_number(ratings: tuple[Dataset, dict[str, float]], tmp_path: Path) -> None:
    dataset, quality = ratings
    assert dataset.label is not None
    settings = told(data={"labels": "value"}, model={"interest": "mean"}, train={"epochs": 12, "validations": 12})
    _, result = trained(dataset, settings, tmp_path)
    last = dataset.label[dataset.offsets[2:] - 1]
    assert figure(result, "rmse") < 0.75 * last.std()
    assert figure(result, "mae") < np.abs(last - np.median(last)).mean()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    best = [row["validation"]["rmse"] for row in rows if row["best"]]
    assert best == sorted(best, reverse=True)  # less is better
    assert best[-1] == min(row["validation"]["rmse"] for row in rows)
    answer = Recommender(Run.open(tmp_path), dataset).recommend(history=["i1"], k=40, seen="keep")
    told_by = np.array([item.score for item in answer.items])
    assert np.corrcoef(told_by, [quality[item.item] for item in answer.items])[0, 1] > 0.9
    assert 1.5 < told_by.mean() < 4.5


@pytest.mark.parametrize("rule", [">=4", "given"])
def test_a_yes_or_no_is_learned_as_a_calibrated_chance(
    ratings: tuple[Dataset, dict[str, float]], tmp_path: Path, rule: str
) -> None:
    """Given as such, or by a threshold: the same labels, so the same figures; better than the mean, and calibrated."""
    dataset, _ = ratings
    assert dataset.label is not None
    yes = (dataset.label >= 4).astype(np.float32)
    if rule == "given":
        content = {name: getattr(dataset, name) for name in ("item", "time")}
        users = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
        dataset = built(
            {
                "user": [dataset.users.id(int(user)) for user in users],
                "item": [dataset.items.id(int(item)) for item in content["item"]],
                "time": content["time"],
                "liked": yes,
            },
            time="time",
            label="liked",
        )
    settings = told(data={"labels": "auto" if rule == "given" else rule}, train={"epochs": 8})
    _, result = trained(dataset, settings, tmp_path)
    last = yes[dataset.offsets[2:] - 1]
    share = last.mean()
    floor = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert figure(result, "log_loss") < 0.85 * floor
    assert figure(result, "auc") > 0.8
    assert figure(result, "calibration_error") < 0.08
    assert result.protocol["labels"] == rule
    assert result.protocol["history"] == "positive"


def test_a_killed_training_of_a_ranker_resumes_to_the_very_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of an epoch: negatives, dropout, Dice's statistics and lost users go on as they would."""
    rng = np.random.default_rng(5)
    columns = {name: rng.integers(0, many, 400) for name, many in (("user", 20), ("item", 50), ("time", 90))}
    log = EventLog.read(pa.table(columns), Columns("user", "item", "time"), time_kind="order")
    dataset = Dataset.build(log, tmp_path / "log")
    reads = {"interest": "activation-unit", "dropout": 0.3, "user_ids": True}
    settings = told(model=reads, train={"epochs": 3, "batch_tokens": 64, "validations": 3})
    whole = pipeline.train(dataset, settings, tmp_path / "whole")
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    script = f"""
import regard.train.loop as loop
from pathlib import Path
from regard import pipeline, show
from regard.config import Settings
from regard.model.ranker import Ranker
loop._CHECKPOINT_SECONDS = 0.0
step = Ranker.loss
def told(self, requests):
    print("step", flush=True)
    return step(self, requests)
Ranker.loss = told
pipeline.train({str(tmp_path / "log")!r}, Settings.read(Path({str(tmp_path / "settings.json")!r})),
               {str(tmp_path / "killed")!r})
"""
    steps = whole.manifest["epochs"][0]["step"]
    assert steps > 3
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    for _ in range(steps + 3):  # into the second epoch
        assert process.stdout.readline() == b"step\n"
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    made, step = [], Ranker.loss
    monkeypatch.setattr(Ranker, "loss", lambda self, requests: made.append(1) or step(self, requests))
    resumed = pipeline.train(dataset, settings, tmp_path / "killed", resume=True)
    assert 2 * steps - 4 < len(made) < 2 * steps  # it went on, and did not begin again
    ended, expected = (load_file(run.path / "weights.safetensors") for run in (resumed, whole))
    assert set(ended) == set(expected)
    for name, value in expected.items():
        assert torch.equal(value, ended[name]), name
    losses = [[(row["step"], row["loss"]) for row in run.manifest["epochs"]] for run in (resumed, whole)]
    assert losses[0] == losses[1]


def test_what_a_person_said_no_to_is_no_history_when_served_either(tmp_path: Path) -> None:
    """As in training; and two such rankers are compared by figures of which less may be better."""
    rng, users = np.random.default_rng(5), 40
    dataset = built(
        {
            "user": [f"u{user}" for user in range(users) for _ in range(8)],
            "item": [f"i{item}" for _ in range(users) for item in rng.permutation(30)[:8]],
            "time": list(range(8)) * users,
            "label": rng.integers(0, 2, 8 * users),
        },
        time="time",
        label="label",
    )
    for name, rate in (("one", 0.01), ("two", 0.001)):
        settings = told(data={"labels": "given", "split": "users:0.2"}, train={"learning_rate": rate, "epochs": 1})
        run = pipeline.train(dataset, settings, tmp_path / name)
        pipeline.evaluate(run, data=dataset, baselines="none")
    assert dataset.label is not None
    yes = dataset.item[dataset.offsets[1] : dataset.offsets[2]][
        dataset.label[dataset.offsets[1] : dataset.offsets[2]] > 0
    ]
    history = Recommender(tmp_path / "one", dataset)._stored(np.array([1]))
    assert history.items.tolist() == yes.tolist()
    found = pipeline.compare([tmp_path / "one", tmp_path / "two"], data=None)
    assert "log_loss|by-user" in found["against"][str(tmp_path / "two")]
    show.comparison(found, Console(file=io.StringIO()), as_json=False)


def test_a_ranker_of_labels_re_ranks_too_and_is_measured_on_labels_only(tmp_path: Path) -> None:
    """Half of these events are what people did not choose: to find them is no success, so the pair is not ranked."""
    rows = {"user": ["u", "v"] * 20, "item": [f"i{n % 7}" for n in range(40)], "time": list(range(40))}
    dataset = built(rows | {"label": [0, 1, 1, 0] * 10}, time="time", label="label")
    first = told(model={"name": "mean"}, train={"epochs": 1})
    pipeline.train(dataset, first, tmp_path / "first")
    run = pipeline.train(dataset, told(data={"labels": "given"}), tmp_path / "pair", retriever=tmp_path / "first")
    found = pipeline.evaluate(run, data=dataset)
    assert set(found.result.metrics) == set(found.baselines["popular"].metrics)
    assert not any("ndcg" in key for key in found.result.metrics)
    show.evaluation(found, Console(file=io.StringIO()), as_json=False)
    assert len(Recommender(tmp_path / "pair", dataset).recommend(user="u", k=3, seen="keep").items) == 3
