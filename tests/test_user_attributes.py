"""Attributes of users down the whole road: a planted truth that nothing else tells, and whoever tells none."""

from __future__ import annotations

import json
from itertools import pairwise
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
    """Items by chance, labels that depend on one attribute of the user; with each user's chance of a yes."""
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


def states(run: Run) -> dict[str, torch.Tensor]:
    return run.stage().state_dict()


def small(**changes: Any) -> Settings:
    return told(**{"train.epochs": 1, "model.user_attributes": '["age", "sex"]', **changes})


def test_the_order_of_names_and_of_rows_is_nothing_and_a_run_opens_as_it_was(tmp_path: Path) -> None:
    dataset, _ = planted("sex")
    assert dataset.user_table is not None
    run = pipeline.train(dataset, small(), tmp_path / "one")
    other = pipeline.train(dataset, small(**{"model.user_attributes": '["sex", "age"]'}), tmp_path / "two")
    first, second = states(run), states(other)
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    moved, _ = planted("sex")
    moved.user_table = dataset.user_table.take(pa.array(np.random.default_rng(1).permutation(USERS)))
    third = states(pipeline.train(moved, small(), tmp_path / "three"))
    codes = first["user_attributes.codes"][0], third["user_attributes.codes"][0]
    assert torch.equal(first["user_attributes.measures"], third["user_attributes.measures"])
    assert all(torch.equal((one[:, None] == one), (two[:, None] == two)) for one, two in [codes])
    assert auc(run, dataset) == auc(Run.open(tmp_path / "one"), dataset)
    assert run.manifest["user_attributes"]["age"]["given"] == USERS
    assert run.manifest["shape"]["user_attributes"] == {"age": ["number", 1], "sex": ["category", 2]}


def test_who_tells_nothing_is_somebody_whose_answer_is_the_mean(tmp_path: Path) -> None:
    """A third tell nothing, in nulls or by having no row: their answers lie between those of the others."""
    whole, _ = planted("sex")
    assert whole.user_table is not None
    told_, silent = whole.user_table.to_pylist(), []
    for at, row in enumerate(told_):
        if at % 3 == 0:
            silent.append(row["id"])
            row.update(sex=None, age=None)
    kept = pa.Table.from_pylist([row for at, row in enumerate(told_) if at % 6 or at < 6], whole.user_table.schema)
    dataset = Dataset.build(log_of(whole), None, None, kept)
    report = dataset.manifest["report"]["users"]
    assert report["only_in_events"] == 49
    run = pipeline.train(dataset, told(**{"model.user_attributes": '["age", "sex"]'}), tmp_path / "run")
    recommender, given = Recommender(run, dataset), {row["id"]: row["sex"] for row in told_}
    scores: dict[str | None, list[float]] = {"f": [], "m": [], None: []}
    for name in whole.users.ids(range(1, 120)):
        found = recommender.recommend(user=name, k=ITEMS, seen="keep")
        scores[given[name]].append(float(np.mean([one.score for one in found.items])))
    assert min(scores["f"]) > max(scores[None]) > min(scores[None]) > max(scores["m"])
    live = recommender.recommend(history=["i1", "i2"], k=ITEMS, seen="keep")
    assert any("also reads the user's age, sex" in note for note in live.notes)
    assert min(scores["f"]) > np.mean([one.score for one in live.items]) > max(scores["m"])


def log_of(dataset: Dataset) -> EventLog:
    assert dataset.label is not None
    users = dataset.users.ids(np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets)))
    columns = {"user": users, "item": dataset.items.ids(dataset.item), "label": dataset.label}
    table = pa.table({**columns, "time": np.arange(dataset.n_events)})
    return EventLog.read(table, Columns("user", "item", "time", label="label"), time_kind="order")


def test_who_liked_nothing_is_answered_by_what_is_told_of_them(tmp_path: Path) -> None:
    """A ranker reads events with a positive label, and some people have none: they still have a sex, or an id."""
    dataset, _ = planted("sex")
    assert dataset.label is not None
    liked = [bool(dataset.label[low:high].any()) for low, high in pairwise(dataset.offsets[1:].tolist())]
    name = dataset.users.id(liked.index(False) + 1)
    sources = []
    split = {"data.history": "auto", "data.split": "leave-one-out"}
    for at, own in enumerate(({}, {"model.user_attributes": '["sex"]'}, {"model.user_ids": True})):
        run = pipeline.train(dataset, small(**split, **{"model.user_attributes": "[]"} | own), tmp_path / f"{at}")
        sources.append({one.source for one in Recommender(run, dataset).recommend(user=name, seen="keep").items})
    assert sources == [{"popular"}, {"ranker"}, {"ranker"}]


def test_behind_a_retriever_too_who_liked_nothing_is_answered_by_what_is_told_of_them(tmp_path: Path) -> None:
    dataset, _ = planted("sex")
    assert dataset.label is not None
    liked = [bool(dataset.label[low:high].any()) for low, high in pairwise(dataset.offsets[1:].tolist())]
    alone = {"model.name": "mean", "data.labels": "auto", "model.user_attributes": "[]"}
    pipeline.train(dataset, small(**alone), tmp_path / "first")
    told = {"data.history": "auto", "model.user_attributes": '["sex"]'}
    run = pipeline.train(dataset, small(**told), tmp_path / "pair", retriever=tmp_path / "first")
    answers = Recommender(run, dataset)
    user = dataset.users.id(liked.index(False) + 1)
    found = answers.recommend(user=user, seen="keep")
    assert {one.source for one in found.items} == {"ranker"}
    assert not any("most popular" in note for note in found.notes)
    table, _ = answers.recommend_many([user], seen="keep")
    assert set(table["source"].to_pylist()) == {"ranker"}


def test_a_column_that_is_given_for_nobody_who_trains_is_refused(tmp_path: Path) -> None:
    whole, _ = planted("sex")
    assert whole.user_table is not None
    rows = [{**row, "id": f"{row['id']}.0"} for row in whole.user_table.to_pylist()]
    dataset = Dataset.build(log_of(whole), None, None, pa.Table.from_pylist(rows))
    with pytest.raises(
        SettingsError, match=r"age is given for none of \d+ users .* ids are like 'u\d+'.*regard inspect"
    ):
        pipeline.train(dataset, small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_who_never_trained_teaches_no_value(tmp_path: Path) -> None:
    """Held-back users alone are `x`: they are read as not given, not as a vector that nothing has taught."""
    whole, _ = planted("sex")
    protocol = pipeline.Protocol.of(whole, told())
    starts, ends = protocol.split.training(whole)
    trains = (ends > starts)[1:]
    assert whole.user_table is not None
    sexes = [sex if here else "x" for sex, here in zip(whole.user_table["sex"].to_pylist(), trains, strict=True)]
    table = whole.user_table.set_column(2, "sex", pa.array(sexes))
    dataset = Dataset.build(log_of(whole), None, None, table)
    run = pipeline.train(dataset, small(**{"model.user_attributes": "sex"}), tmp_path / "run")
    meaning = run.manifest["user_attributes"]["sex"]
    assert sorted(meaning["values"]) == ["f", "m"]
    assert (meaning["given"], meaning["unseen"]) == (int(trains.sum()), int((~trains).sum()))
    assert torch.equal(states(run)["user_attributes.codes"][0, 1:] > 0, torch.from_numpy(trains))


def test_a_grown_log_carries_rows_by_value_whatever_their_order(tmp_path: Path) -> None:
    whole, _ = planted("sex")
    rows = whole.user_table.to_pylist() if whole.user_table is not None else []
    old = Dataset.build(log_of(whole), None, None, pa.Table.from_pylist(rows))
    events = [("v", f"i{at % ITEMS}", 1.0, at) for at in range(6)] + [("w", "i1", 0.0, at) for at in range(6)]
    assert whole.label is not None
    events += [
        (whole.users.id(user), whole.items.id(int(whole.item[at])), float(whole.label[at]), at)
        for user in reversed(range(1, whole.n_users + 1))
        for at in range(*whole.offsets[user : user + 2].tolist())
    ]
    log = pa.table({name: [row[at] for row in events] for at, name in enumerate(("user", "item", "label", "time"))})
    grown = [{"id": "v", "age": 99.0, "sex": "other"}, {"id": "w", "age": None, "sex": "m"}, *rows[::-1]]
    read = EventLog.read(log, Columns("user", "item", "time", label="label"), time_kind="order")
    new = Dataset.build(read, None, None, pa.Table.from_pylist(grown))
    first = pipeline.train(old, small(**{"data.split": "leave-one-out"}), tmp_path / "first")
    settings = Settings().changed(["train.zero_shot=true", "data.split=leave-one-out", "evaluate.bootstrap=0"])
    run = pipeline.train(new, settings, tmp_path / "grown", start=first)
    before, after = states(first), states(run)
    values = [one.manifest["user_attributes"]["sex"]["values"] for one in (first, run)]
    assert values[1][:2] == ["other", "m"] != values[0]
    for name in ("f", "m"):
        mine, theirs = (state["user_attributes.values.0"] for state in (after, before))
        assert torch.equal(mine[values[1].index(name) + 1], theirs[values[0].index(name) + 1])
    assert torch.equal(after["user_attributes.values.0"][0], before["user_attributes.values.0"][0])
    assert not after["user_attributes.values.0"][1].any()  # "other", of which the run knew nothing
    assert torch.equal(after["user_attributes.directions"], before["user_attributes.directions"])
    assert run.manifest["from"]["rows"]["user attribute sex"] == {"copied": 2, "new": 1, "left_out": 0}
    # what the run makes of everybody it knew is the same, numbers on the scale of the run included
    here, there = (dataset.users.index([f"u{at}" for at in range(USERS)]) for dataset in (new, old))
    vectors = [one.stage().user_attributes(torch.from_numpy(at)) for one, at in ((run, here), (first, there))]  # type: ignore[union-attr, operator]
    for mine, theirs in zip(*vectors, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    words = Dataset.build(read, None, None, pa.Table.from_pylist([{**row, "age": "old"} for row in grown]))
    with pytest.raises(SettingsError, match="user attribute age is a number there and a category here"):
        pipeline.train(words, settings, tmp_path / "bad", start=first)


def test_from_the_command_line_behind_a_retriever(tmp_path: Path) -> None:
    planted("sex", tmp_path / "shop")
    common = ["--split", "users:0.25", "--quiet", "--set", "train.epochs=1", "--set", "model.width=8"]
    train = ["train", str(tmp_path / "shop"), *common, "--out"]

    def call(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    call(*train, tmp_path / "first", "--model", "mean")
    ranker = [*train, tmp_path / "pair", "--model", "ranker", "--retriever", tmp_path / "first"]
    ranker += ["--set", "data.labels=given", "--set", "train.learning_rate=0.01", "--set", "train.epochs=4"]
    ranker += ["--set", "data.history=all", "--set", "train.batch_tokens=256"]
    call(*ranker, "--set", "model.user_attributes=sex,age")
    table = Dataset.open(tmp_path / "shop").user_table
    assert table is not None
    means: dict[str, list[float]] = {"f": [], "m": []}
    for row in table.slice(0, 12).to_pylist():
        answer = json.loads(call("recommend", tmp_path / "pair", "--user", row["id"], "--seen", "keep", "--json"))
        means[row["sex"]].append(float(np.mean([one["score"] for one in answer["items"]])))
    assert min(means["f"]) > max(means["m"])
    assert "also reads the user's" in call("recommend", tmp_path / "pair", "--history", "i1,i2").replace("\n", " ")
    for changes, said in (
        (["--set", "model.user_attributes=sexx"], "no user attribute 'sexx' (did you mean 'sex'?)"),
        (["--model", "mean", "--set", "model.user_attributes=sex"], "is for the ranker; mean reads nothing of users"),
    ):
        bad = CliRunner().invoke(app, [*train, str(tmp_path / "bad"), "--model", "ranker", *changes])
        assert said in str(bad.exception)
