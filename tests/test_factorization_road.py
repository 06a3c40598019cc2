"""Matrix factorisation down the whole road: planted truth of low rank, both kinds of feedback, vectors of users too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from regard import pipeline
from regard.cli import app
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.errors import InputError
from regard.evaluate.result import Result
from regard.model.factorization import Factorization
from regard.recommend.recommender import Item, Recommender

NOISE = 0.2


def told(**changes: Any) -> Settings:
    body: dict[str, Any] = {
        "data": {"split": "leave-one-out"},
        "model": {"name": "matrix-factorization", "width": 4, "dropout": 0.0},
        "train": {"batch_tokens": 256, "learning_rate": 0.02, "precision": "float32", "threads": 1, "epochs": 30},
        "evaluate": {"bootstrap": 0},
    }
    for section, values in changes.items():
        body[section] |= values
    return Settings.of(body)


def figure(result: Result, name: str) -> float:
    value = result.metrics[name]["value"]
    assert value is not None
    return value


@pytest.fixture(scope="module")
def ratings() -> tuple[Dataset, pa.Table]:
    """A mean, biases, two tastes, and noise that nobody can foresee."""
    rng, users, items, each = np.random.default_rng(0), 250, 80, 24
    tastes, kinds = rng.normal(0, 0.8, (users, 2)), rng.normal(0, 0.8, (items, 2))
    kind, strict = rng.normal(0, 0.5, items), rng.normal(0, 0.5, users)
    user = np.repeat(np.arange(users), each)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    label = 3 + strict[user] + kind[item] + (tastes[user] * kinds[item]).sum(1) + rng.normal(0, NOISE, len(user))
    table = pa.table(
        {
            "user": [f"u{one}" for one in user],
            "item": [f"i{one}" for one in item],
            "time": np.tile(np.arange(each), users),
            "rating": label,
        }
    )
    log = EventLog.read(table, Columns("user", "item", "time", label="rating"), time_kind="order")
    return Dataset.build(log, None), table


@pytest.mark.parametrize("split", ["leave-one-out", "users:0.2", "random:0.8,0.1,0.1"])
def test_a_planted_truth_of_low_rank_is_found(ratings: tuple[Dataset, pa.Table], tmp_path: Path, split: str) -> None:
    """Also for users held out whole, whose vectors are solved from what they rated before."""
    dataset, _ = ratings
    assert dataset.label is not None
    run = pipeline.train(dataset, told(data={"split": split, "labels": "value"}), tmp_path / "run")
    found = pipeline.evaluate(run, data=dataset)
    spread, floor = float(dataset.label.std()), figure(found.baselines["popular"], "rmse")
    assert set(found.result.metrics) == {"rmse", "mae", "mae|by-user"}
    assert figure(found.result, "rmse") < (0.55 if split.startswith("users") else 0.34) * spread
    assert figure(found.result, "rmse") < 0.65 * floor
    assert figure(found.result, "rmse") > NOISE
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 20 <= len(rows) <= 30
    assert all({"loss", "validation_loss"} <= set(row) for row in rows)
    assert rows == run.manifest["epochs"]
    assert rows[-1]["loss"] < 0.1 < rows[0]["loss"]
    for row in rows:  # the loss on what is held back is the square of its error
        if row["validation"]:
            assert row["validation_loss"] == pytest.approx(row["validation"]["rmse"] ** 2, rel=1e-4)


def test_a_live_history_without_labels_is_read_as_liked(ratings: tuple[Dataset, pa.Table], tmp_path: Path) -> None:
    dataset, _ = ratings
    run = pipeline.train(dataset, told(data={"labels": "value"}), tmp_path / "run")
    recommender = Recommender(tmp_path / "run", dataset)
    model = run.stage()
    assert isinstance(model, Factorization)
    answer = recommender.recommend(history=["i1", "i2"], k=80, seen="keep")
    assert answer.notes == [
        "training has not met this user: their vector is solved from the history, read as items that they like"
    ]
    liked = {one.item: one.score for one in answer.items}
    nothing = dict(zip(dataset.items.array.to_pylist(), _nobody(model), strict=True))
    assert all(liked[item] > nothing[item] + 0.3 for item in ("i1", "i2"))
    assert recommender.recommend(user="u1", k=3).notes == []


def test_a_user_held_out_whole_is_solved_from_their_labels(ratings: tuple[Dataset, pa.Table], tmp_path: Path) -> None:
    """What they rated before comes back, in the order in which they rated it."""
    dataset, _ = ratings
    assert dataset.label is not None
    run = pipeline.train(dataset, told(data={"split": "users:0.2", "labels": "value"}), tmp_path / "run")
    model = run.stage()
    assert isinstance(model, Factorization)
    user = int(np.flatnonzero(~model.met.numpy())[1])
    answer = Recommender(tmp_path / "run", dataset).recommend(user=dataset.users.id(user), k=80, seen="keep")
    assert answer.notes == ["training has not met this user: their vector is solved from the history"]
    said = {one.item: one.score for one in answer.items}
    rows = slice(dataset.offsets[user], dataset.offsets[user + 1])
    found = [said[name] for name in dataset.items.ids(dataset.item[rows])]
    assert np.corrcoef(found, dataset.label[rows])[0, 1] > 0.95


def test_resumed_is_uninterrupted(
    ratings: tuple[Dataset, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after an epoch: weights, statistics of folding in and both losses go on as they would."""
    dataset, _ = ratings
    settings = told(data={"labels": "value"}, train={"epochs": 4}, model={"dropout": 0.3})
    whole = pipeline.train(dataset, settings, tmp_path / "whole")
    monkeypatch.setattr("regard.train.loop._EPOCH_SECONDS", 0.0)
    epochs: list[Any] = []

    def stop(row: Any, metric: str) -> None:
        epochs.append(row)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("regard.train.progress.Watch.epoch", lambda self, row, metric: stop(row, metric))
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(dataset, settings, tmp_path / "stopped")
    resumed = pipeline.train(dataset, settings, tmp_path / "stopped", resume=True)
    assert len(epochs) == 4
    ended, expected = (load_file(run.path / "weights.safetensors") for run in (resumed, whole))
    assert set(ended) == set(expected)
    assert all(torch.equal(ended[name], value) for name, value in expected.items())
    both = [[(row["loss"], row["validation_loss"]) for row in run.manifest["epochs"]] for run in (resumed, whole)]
    assert both[0] == both[1]


def _nobody(model: Factorization) -> list[float]:
    from regard.data.batches import Histories

    with torch.no_grad():
        scores: list[float] = model.scores(Histories(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])))[
            0, 1:
        ].tolist()
    return scores


def clubs(users: int = 60, each: int = 9) -> pa.Table:
    """Two clubs that never meet: people take items of their own only."""
    rng = np.random.default_rng(0)
    rows = [
        (f"{club}{user}", f"{club} {item}")
        for club in ("tea", "ale")
        for user in range(users)
        for item in rng.permutation(14)[:each]
    ]
    return pa.table({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": range(len(rows))})


def built(table: pa.Table, items: pa.Table | None = None) -> Dataset:
    return Dataset.build(EventLog.read(table, time_kind="order"), None, items)


@pytest.mark.parametrize("split", ["leave-one-out", "users:0.2"])
def test_implicit_feedback_is_ranked_over_the_catalogue(tmp_path: Path, split: str) -> None:
    """5 of 14 items of the own club are left: whoever knows the club does as well as chance among these."""
    dataset = built(clubs())
    settings = told(data={"split": split}, evaluate={"targets": "last"}, train={"batch_tokens": 128})
    run = pipeline.train(dataset, settings, tmp_path / "run")
    found = pipeline.evaluate(run, data=dataset, baselines="popular,co-visit")
    popular = figure(found.baselines["popular"], "ndcg@10")
    assert figure(found.result, "ndcg@10") > 0.45 > 1.2 * popular
    rows = run.manifest["epochs"]
    assert all(row["validation_loss"] > 0 for row in rows)
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    recommender = Recommender(tmp_path / "run", dataset)
    for club in ("tea", "ale"):
        answer = recommender.recommend(history=[f"{club} 1", f"{club} 2"], k=8)
        assert {one.item.split()[0] for one in answer.items} == {club}
        assert answer.notes == ["training has not met this user: their vector is solved from the history"]
        assert {one.item.split()[0] for one in recommender.similar(f"{club} 3", k=8).items} == {club}
        assert {one.item.split()[0] for one in recommender.recommend(user=f"{club}7", k=5).items} == {club}
    table, _ = recommender.recommend_many(["tea1", "ale1"], k=3)
    assert [name.split()[0] for name in table["item"].to_pylist()] == ["tea"] * 3 + ["ale"] * 3
    assert recommender.vectors().num_rows == 28


def test_it_needs_no_order(tmp_path: Path) -> None:
    table = clubs(users=20).select(["user", "item"])
    dataset = Dataset.build(EventLog.read(table), None)
    run = pipeline.train(dataset, told(data={"split": "auto"}, train={"batch_tokens": 64}), tmp_path / "run")
    assert run.manifest["split"]["rule"] == "random:0.8,0.1,0.1"
    found = pipeline.evaluate(run, data=dataset)
    assert figure(found.result, "ndcg@10") > 1.5 * figure(found.baselines["popular"], "ndcg@10")


def test_labels_of_yes_or_no_are_measured_as_such(tmp_path: Path) -> None:
    table = clubs(users=30)
    other = [
        f"{'ale' if name.startswith('tea') else 'tea'} {at % 14}" for at, name in enumerate(table["user"].to_pylist())
    ]
    both = pa.concat_tables([table, table.set_column(1, "item", pa.array(other))])
    both = both.append_column("label", pa.array([1] * len(table) + [0] * len(table)))
    both = both.set_column(2, "time", pa.array(np.random.default_rng(0).permutation(len(both))))
    dataset = Dataset.build(
        EventLog.read(both, Columns("user", "item", "time", label="label"), time_kind="order"), None
    )
    run = pipeline.train(dataset, told(), tmp_path / "run")
    found = pipeline.evaluate(run, data=dataset)
    assert run.manifest["targets"]["labels"] == "given"
    assert figure(found.result, "auc") > 0.95
    assert figure(found.baselines["popular"], "auc") < 0.7


def mean_place(items: list[Item], club: str) -> float:
    return float(np.mean([at for at, one in enumerate(items) if one.item.startswith(club)]))


def with_strangers() -> tuple[Dataset, dict[str, list[float]]]:
    """The clubs, an item of each without any event, three people whom training does not meet, and vectors that know
    the club. The only event of these people is on `odd`, of which nothing is known; of `nobody` nothing is, either.
    """
    rng, new = np.random.default_rng(0), ["tea new", "ale new"]
    table = clubs()
    extra = pa.table({"user": [*new, "nobody"], "item": ["odd"] * 3, "time": [9999] * 3}).cast(table.schema)
    dataset = built(pa.concat_tables([table, extra]), pa.table({"id": new}))
    dataset.part = np.zeros(dataset.n_events, np.uint8)
    dataset.part[dataset.offsets[2:] - 1] = 1  # the last event of everybody is test
    ids = {*dataset.users.array.to_pylist(), *dataset.items.array.to_pylist()} - {"odd", "nobody"}
    sides = {"tea": [2.0, 0.0, 1.0], "ale": [0.0, 2.0, 1.0]}
    return dataset, {name: (np.array(sides[name[:3]]) + rng.normal(0, 0.2, 3)).tolist() for name in sorted(ids)}


@pytest.mark.parametrize("mode", ["init", "frozen", "fuse", "gate"])
def test_vectors_on_either_side(mode: str, tmp_path: Path) -> None:
    """An item and a user that nobody has met are understood by their vectors, also each other."""
    dataset, vectors = with_strangers()
    settings = told(model={"transfer": mode, "width": 8}, data={"split": "parts"}, train={"batch_tokens": 64})
    run = pipeline.train(dataset, settings, tmp_path / "run", vectors=vectors, user_vectors=vectors)
    assert run.manifest["user_vectors"]["users"] == [122, 123]
    assert run.manifest["vectors"]["items"] == [30, 31]
    recommender = Recommender(tmp_path / "run", dataset)
    for club, other in (("tea", "ale"), ("ale", "tea")):
        for user in (f"{club}7", f"{club} new"):
            found = [one.item for one in recommender.recommend(user=user, k=30, seen="keep").items]
            assert found.index(f"{club} new") < found.index(f"{other} new"), (mode, user, found)
        answer = recommender.recommend(user=f"{club} new", k=30)
        assert {one.source for one in answer.items} == {"matrix-factorization"}
        if mode != "fuse":  # there ids tell the clubs apart, and a stranger has none
            assert mean_place(answer.items, club) < mean_place(answer.items, other) - 3
        said = "training has not met this user: their vector is solved from the history, from their pretrained one on"
        assert answer.notes == [said]
    nobody = recommender.recommend(user="nobody", k=3)
    assert nobody.notes == ["no known item in the history: these are the most popular items"]
    table, _ = recommender.recommend_many(["tea new", "nobody"], k=1)
    assert table["source"].to_pylist() == ["matrix-factorization", "popular"]
    if mode != "init":
        assert run.stage().user.pretrained is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("pair", [False, True])
def test_a_ranker_with_user_ids_takes_user_vectors_too(pair: bool, tmp_path: Path) -> None:
    """It answers by them where it can read nothing of the history."""
    dataset, vectors = with_strangers()
    model = {"name": "ranker", "interest": "candidate", "hidden": [16], "width": 8}
    settings = told(model=model, train={"epochs": 4, "batch_tokens": 64}, data={"split": "parts"})
    with pytest.raises(InputError, match=r"model.user_ids=true; ranker has none"):
        pipeline.train(dataset, settings, tmp_path / "run", user_vectors=vectors)
    settings = settings.changed(["model.user_ids=true"])
    first = None
    if pair:
        first = pipeline.train(
            dataset, settings.changed(["model.name=mean", "model.user_ids=false"]), tmp_path / "first"
        )
    run = pipeline.train(dataset, settings, tmp_path / "run", user_vectors=vectors, retriever=first)
    assert run.stage().user.told[1:].sum() == 122  # type: ignore[union-attr]
    assert run.manifest["user_vectors"]["whose"] == "users"
    recommender = Recommender(run, dataset)
    table, _ = recommender.recommend_many(["tea new", "ale new", "nobody"], k=1)
    assert table["source"].to_pylist() == ["ranker", "ranker", "popular"]
    for club, other in (("tea", "ale"), ("ale", "tea")):
        answer = recommender.recommend(user=f"{club} new", k=28)
        assert answer.notes == []
        assert mean_place(answer.items, club) < mean_place(answer.items, other) - 3


def test_from_the_command_line(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(clubs(users=15), tmp_path / "log.csv")
    users = [f"{club}{user}" for club in ("tea", "ale") for user in range(15)]
    np.save(tmp_path / "users.npy", np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    (tmp_path / "users.txt").write_text("".join(f"{name}\n" for name in users))

    def regard(*words: object) -> Any:
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    regard("prepare", tmp_path / "log.csv", "--time-kind", "order", "--out", tmp_path / "shop")
    small = ["--set", "model.width=4", "--set", "train.epochs=6", "--set", "train.batch_tokens=128"]
    given = ["--user-vectors", tmp_path / "users.npy", "--user-vector-ids", tmp_path / "users.txt"]
    words = ["--model", "matrix-factorization", "--split", "leave-one-out", "--out", tmp_path / "run", *small, *given]
    told = regard("train", tmp_path / "shop", *words)
    assert told["model"] == "matrix-factorization"
    assert "ndcg@10" in regard("evaluate", tmp_path / "run")["metrics"]
    assert len(regard("recommend", tmp_path / "run", "--user", "tea1", "-k", "2")["items"]) == 2
    assert len(regard("similar", tmp_path / "run", "--item", "tea 1", "-k", "2")["items"]) == 2


def test_mistakes_have_one_clear_line(tmp_path: Path) -> None:
    dataset = built(clubs(users=5))
    with pytest.raises(
        InputError, match=r"none of the 10 users of this dataset, such as 'tea0'; expected vectors of user"
    ):
        pipeline.train(dataset, told(), tmp_path / "run", user_vectors={"nobody": [1.0]})
    known = pipeline.knowledge(dataset, {"tea 1": [1.0], "ale 2": [2.0]})
    with pytest.raises(InputError, match="vectors of 28 items; this dataset has 10 users"):
        pipeline.train(dataset, told(), tmp_path / "run", user_vectors=known)
    other = told(model={"name": "mean"}, train={"epochs": 1})
    with pytest.raises(InputError, match=r"matrix-factorization, or a ranker with model\.user_ids=true; mean has none"):
        pipeline.train(dataset, other, tmp_path / "run", user_vectors={"tea0": [1.0]})
