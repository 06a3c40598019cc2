"""Rankers down the whole road, from the command line and from Python: two stages, context, mistakes in one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
import torch
from safetensors.torch import load_file

from regard import pipeline
from regard.cli import main
from regard.config import Settings
from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.sample import make_shop
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.evaluate.result import Result
from regard.model.baseline import BASELINES
from regard.model.ranker import Ranker
from regard.model.twostage import TwoStage
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run

Command = Callable[..., tuple[int, str, str]]
SMALL = ["--set", "model.width=8", "--set", "model.blocks=1", "--set", "train.batch_tokens=512", "--quiet"]
ONE = ["--set", "train.epochs=1", *SMALL]
OF_A_RANKER = ("train.epochs=1", "train.table_rate=1.0", "model.covisit_weight=0.0")  # a retriever has others


@pytest.fixture
def regard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, what it printed, what it said beside."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["regard", *map(str, words)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed, said = capfd.readouterr()
        return code, printed, said

    return run


def figure(result: Result, name: str) -> float:
    value = result.metrics[name]["value"]
    assert value is not None
    return value


# --- two stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with context and behaviours, a retriever, and a ranker behind it whose retriever is gone since."""
    folder = tmp_path_factory.mktemp("ranking")
    made = make_shop(seed=3, users=60)
    log = EventLog.read(made.events, Columns("user", "item", "time", "behaviour", context=("hour", "device")))
    Dataset.build(log, folder / "shop", made.items)
    base = ['data.split="time:0.9"', "model.width=8", "model.blocks=1", "train.batch_tokens=512", "train.threads=1"]
    first = Settings().changed([*base, "train.epochs=2", 'model.context=["device"]'])
    pipeline.train(folder / "shop", first, folder / "first")
    shutil.copytree(folder / "first", folder / "gone")
    second = Settings().changed(
        [*base, 'model.name="ranker"', "train.epochs=1", 'model.context=["hour", "device"]', "model.user_ids=true"]
    )
    pipeline.train(folder / "shop", second, folder / "pair", retriever=folder / "gone")
    shutil.rmtree(folder / "gone")
    pipeline.train(
        folder / "shop", Settings().changed(['data.split="time:0.9"', 'model.name="co-visit"']), folder / "floor"
    )
    return folder


def test_a_pair_answers_with_its_retrievers_best_in_its_rankers_order(shop: Path) -> None:
    """Asked by hand: the retriever's best that were not met before, and the ranker's logits of them."""
    run = Run.open(shop / "pair")
    recommender = Recommender(run)
    assert isinstance(recommender.model, TwoStage)
    first, second = recommender.model.retriever, recommender.model.ranker
    recommender.model.depth = best = 200
    dataset = run.dataset()
    for user in (3, 17):
        rows = slice(dataset.offsets[user], dataset.offsets[user + 1])
        items = torch.from_numpy(dataset.item[rows].astype(np.int64))
        read = Histories(
            items.where(second.known[items], 0),
            torch.tensor([0, len(items)]),
            torch.from_numpy(dataset.behaviour[rows].astype(np.int64)),
            torch.from_numpy(dataset.time[rows].astype(np.int64)),
            users=torch.tensor([user]),
        )
        device = dataset.context_values["device"].index(["mobile"]).tolist()
        with torch.no_grad():
            scores = first.scores(read.with_request(torch.tensor([device])))[0]
            scores[~first.known] = -torch.inf
            scores[items] = -torch.inf
            scores[0] = -torch.inf
            found = scores.argsort(descending=True)[:best]
            logits = second.rank(read.with_request(torch.tensor([[0, *device]])), found, torch.tensor([0, best]))
        expected = [dataset.items.id(int(item)) for item in found[logits.argsort(descending=True)]]
        answer = recommender.recommend(user=dataset.users.id(user), k=600, context={"device": "mobile"})
        got = [item.item for item in answer.items]
        assert got[:best] == expected
        rest = [dataset.items.index([item])[0] for item in got[best:]]
        assert len(rest) > 50
        assert all(scores[a] >= scores[b] for a, b in pairwise(rest))
        assert not set(got) & {dataset.items.id(int(item)) for item in items}
        assert {item.source for item in answer.items} == {"ranker"}


def test_recommend_answers_to_context_for_a_user_and_for_a_live_history(shop: Path, regard: Command) -> None:
    dataset = Dataset.open(shop / "shop")
    for asked in (["--user", dataset.users.id(5)], ["--history", f"{dataset.items.id(1)},{dataset.items.id(2)}"]):
        answers = []
        for context in ([], ["--context", "device=mobile"], ["--context", "hour=23", "--context", "device=desktop"]):
            code, printed, said = regard("recommend", shop / "pair", *asked, *context, "-k", 20, "--json")
            assert (code, said) == (0, "")
            answers.append([(item["item"], item["score"]) for item in json.loads(printed)["items"]])
            assert len(answers[-1]) == 20
        assert answers[0] != answers[1] != answers[2] != answers[0]
    code, printed, _ = regard("recommend", shop / "pair", *asked, "--context", "device=toaster", "--json")
    assert code == 0
    assert "device=toaster was never seen" in " ".join(json.loads(printed)["notes"])
    assert regard("recommend", shop / "pair", *asked, "--context", "device=mobile")[0] == 0  # for eyes


def test_what_somebody_asks_about_is_ranked_and_seen_items_too_if_kept(shop: Path) -> None:
    """Neither may sink below the retriever's best only because the run filters, or the retriever had others."""
    recommender = Recommender(Run.open(shop / "pair"))
    dataset = recommender.dataset
    assert recommender.run.manifest["seen"] == "filter"
    model = recommender.model
    assert isinstance(model, TwoStage)
    model.depth = 20
    history = [dataset.items.id(int(item)) for item in dataset.item[:6]]
    everything = [item.item for item in recommender.recommend(history=history, k=600).items]
    wanted = everything[100:110]
    answer = recommender.recommend(history=history, k=10, candidates=wanted)
    alone = Recommender(Run.open(shop / "pair"))
    alone.model = model.ranker
    asked = alone.recommend(history=history, k=10, candidates=wanted)
    assert [item.item for item in answer.items] == [item.item for item in asked.items]
    np.testing.assert_allclose([item.score for item in answer.items], [item.score for item in asked.items], rtol=1e-5)
    kept = [item.item for item in recommender.recommend(history=history, k=20, seen="keep", candidates=history).items]
    assert set(kept) <= set(history)
    assert kept == [item.item for item in alone.recommend(history=history, k=20, seen="keep", candidates=history).items]


def test_many_users_at_once_get_what_each_gets_alone(shop: Path) -> None:
    recommender = Recommender(Run.open(shop / "pair"))
    users = [recommender.dataset.users.id(at) for at in (1, 2, 30)]
    table, _ = recommender.recommend_many(users, k=7)
    for user in users:
        rows = table.filter(pa.compute.field("user") == user).sort_by("rank")
        alone = recommender.recommend(user=user, k=7).items
        assert rows["item"].to_pylist() == [item.item for item in alone]


def test_a_pair_is_measured_over_the_catalogue_and_beside_it_its_ranker(shop: Path, regard: Command) -> None:
    found = pipeline.evaluate(shop / "pair", baselines="none")
    assert 0 <= figure(found.result, "ndcg@10") <= 1
    assert found.labelled is not None
    assert 0.4 < figure(found.labelled, "auc|50-sampled") < 1
    code, printed, _ = regard("evaluate", shop / "pair", "--json", "--baselines", "none", "--on", "validation")
    assert code == 0
    assert "ndcg@10" in json.loads(printed)["metrics"]
    assert regard("compare", shop / "pair", shop / "first", "--on", "test")[0] == 0
    assert set(pipeline.evaluate(shop / "pair", baselines="all").baselines) == {*BASELINES, "retriever"}
    assert not (shop / "gone").exists()


def test_the_retriever_of_a_pair_stands_beside_it(shop: Path, regard: Command) -> None:
    """With the figures that it has as a run of its own."""
    alone = pipeline.evaluate(shop / "first", baselines="none").result
    beside = pipeline.evaluate(shop / "pair").baselines
    assert list(beside) == ["retriever", "popular"]
    assert beside["retriever"].metrics == alone.metrics
    assert pipeline.evaluate(shop / "pair", baselines="none").baselines == {}
    _, printed, _ = regard("evaluate", shop / "pair", "--json")
    assert json.loads(printed)["baselines"]["retriever"] == alone.metrics
    _, printed, _ = regard("evaluate", shop / "pair")
    told = printed.partition("ndcg@10 by what was known")[0]
    assert re.findall(r"^ (\w+) +(?:\* )?0\.", told, re.MULTILINE) == ["ranker", "retriever", "popular"]
    assert "its retriever by itself" in told or "The retriever wins" in told


def test_the_popularity_of_items_stands_beside_the_ranker_of_a_pair(shop: Path, regard: Command) -> None:
    code, printed, _ = regard("evaluate", shop / "pair", "--json")
    labelled = json.loads(printed)["labelled"]
    assert code == 0
    assert set(labelled["baselines"]) == {"popular"}
    assert set(labelled["baselines"]["popular"]) == set(labelled["metrics"])
    assert 0 < labelled["baselines"]["popular"]["auc|50-sampled"]["value"] < 1
    _, printed, _ = regard("evaluate", shop / "pair")
    (head, *_) = printed.partition("The ranker by itself")[2].splitlines()[2:]
    assert head.split() == ["ranker", "interval", "popular", "interval"]


def test_a_pair_is_whole_by_itself(shop: Path, tmp_path: Path) -> None:
    """Moved to where neither its dataset nor its retriever is, it answers for live histories as before."""
    shutil.copytree(shop / "pair", tmp_path / "moved")
    run = Run.open(tmp_path / "moved")
    assert run.retriever is not None
    assert run.retriever.path == tmp_path / "moved" / "retriever"
    before, after = (Recommender(Run.open(path)) for path in (shop / "pair", tmp_path / "moved"))
    some = before.run.items.ids(np.arange(5, 10))
    assert before.recommend(history=some) == after.recommend(history=some)
    state = load_file(tmp_path / "moved" / "retriever" / "weights.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in Run.open(shop / "first").stage().state_dict().items())


def test_either_stage_may_read_the_moment_of_a_request(shop: Path, tmp_path: Path) -> None:
    """A ranker that does behind a retriever that does not: evaluation and answers know when they are asked."""
    changes = ['model.name="ranker"', "model.request_time=true", "train.metric=auto", *OF_A_RANKER]
    settings = Run.open(shop / "first").settings.changed(changes)
    run = pipeline.train(shop / "shop", settings, tmp_path / "timed", retriever=shop / "first")
    assert np.isfinite(figure(pipeline.evaluate(run, baselines="none").result, "ndcg@10"))
    assert len(Recommender(run).recommend(user=Dataset.open(shop / "shop").users.id(1)).items) == 10
    assert len(Recommender(run).recommend(history=[]).items) == 10


def test_auto_and_its_meaning_are_the_same_split(shop: Path, tmp_path: Path) -> None:
    settings = Run.open(shop / "first").settings
    body = settings.changed(['data.split="auto"', 'model.name="ranker"', "train.metric=auto", *OF_A_RANKER])
    assert pipeline.train(shop / "shop", body, tmp_path / "run", retriever=shop / "first").retriever is not None


def test_a_ranker_by_itself_ranks_the_whole_catalogue(shop: Path, tmp_path: Path, regard: Command) -> None:
    """With several histories, whose behaviours a live history does not have: the first one reads it."""
    words = ["--model", "ranker", "--interest", "multi-head", "--split", "time:0.9", *ONE]
    several = ["--set", 'data.histories=["view+cart:20", "purchase"]', "--set", "model.attributes=category"]
    assert regard("train", shop / "shop", *words, *several, "--out", tmp_path / "run")[0] == 0
    run = Run.open(tmp_path / "run")
    assert run.manifest["shape"]["histories"] == [[[0, 1, 2], 20], [[3], 2**31]]
    assert run.retriever is None
    model, recommender = run.stage(), Recommender(run)
    assert isinstance(model, Ranker)
    dataset = recommender.dataset
    for asked in ({"user": dataset.users.id(4)}, {"history": [dataset.items.id(7), dataset.items.id(9)]}):
        answer = recommender.recommend(k=600, **asked)
        histories = recommender._stored(np.array([4])) if "user" in asked else recommender._live([7, 9], [])
        read = recommender._readable(histories)
        known = torch.nonzero(model.known)[:, 0]
        left = known[~torch.isin(known, histories.items)]
        with torch.no_grad():
            logits = torch.cat([model.rank(read, item[None], torch.tensor([0, 1])) for item in left])
        assert {item.item for item in answer.items} == {dataset.items.id(int(item)) for item in left}
        scores = {item.item: item.score for item in answer.items}
        expected = {dataset.items.id(int(item)): float(logit) for item, logit in zip(left, logits, strict=True)}
        assert scores == pytest.approx(expected, abs=1e-4)
    lists = [recommender.recommend(history=[dataset.items.id(at)], k=5).items for at in (7, 9)]
    assert lists[0] != lists[1]  # a live history is read
    code, printed, _ = regard("evaluate", tmp_path / "run", "--json")
    assert code == 0
    assert set(json.loads(printed)["metrics"]) >= {"auc|50-sampled", "gauc|50-sampled", "calibration_error|50-sampled"}


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(shop: Path) -> Path:
    """Small logs beside the shop: one without time, and another shop."""
    rng = np.random.default_rng(4)
    rows = {"user": rng.integers(0, 20, 300), "item": rng.integers(0, 30, 300)}
    csv.write_csv(pa.table(rows), shop / "plain.csv")
    log = EventLog.read(shop / "plain.csv", Columns("user", "item"))
    Dataset.build(log, shop / "plain")
    other = make_shop(seed=9, users=30)
    log = EventLog.read(other.events, Columns("user", "item", "time", "behaviour", context=("hour", "device")))
    Dataset.build(log, shop / "other", other.items)
    return shop


RANKER = ["--model", "ranker", "--split", "time:0.9"]
MISTAKES = {
    "another split": (
        ["shop", "--model", "ranker", "--split", "leave-one-out", "--retriever", "first"],
        "trained under split time:0.9, this ranker under leave-one-out",
    ),
    "other targets": (
        ["shop", *RANKER, "--retriever", "first", "--set", "data.target_behaviours=purchase"],
        "this ranker under time:0.9 of purchase",
    ),
    "another dataset": (["other", *RANKER, "--retriever", "first"], "is not the dataset"),
    "a baseline": (["shop", *RANKER, "--retriever", "floor"], "got co-visit"),
    "a ranker": (["shop", *RANKER, "--retriever", "pair"], "got ranker"),
    "context not read": (["shop", *RANKER, "--retriever", "first"], "reads the context device"),
    "no run": (["shop", *RANKER, "--retriever", "nowhere"], "nowhere"),
    "a dataset as retriever": (["shop", *RANKER, "--retriever", "shop"], "run"),
    "a retriever for a retriever": (["shop", "--split", "time:0.9", "--retriever", "first"], "is for --model ranker"),
    "an interest without a ranker": (["shop", "--interest", "dual"], "--interest is for --model ranker"),
    "a layer of no size": (["shop", *RANKER, "--set", "model.hidden=0"], "greater than or equal to 1"),
    "a retriever for a baseline": (["shop", "--model", "popular", "--retriever", "first"], "is for --model ranker"),
    "unknown interest": (["shop", *RANKER, "--interest", "mult-head"], "did you mean 'multi-head'"),
    "unknown behaviour": (["shop", *RANKER, "--set", "data.histories=viw:5"], "did you mean 'view'"),
    "length of nothing": (["shop", *RANKER, "--set", "data.histories=view:0"], "BEHAVIOUR+BEHAVIOUR:LENGTH"),
    "length in words": (["shop", *RANKER, "--set", "data.histories=view:many"], "BEHAVIOUR+BEHAVIOUR:LENGTH"),
    "histories of nothing": (
        ["plain", *RANKER[:2], "--set", "data.histories=view:5", "--set", "model.positions=none"],
        "it has none: prepare it with --behaviour",
    ),
    "labels that are not there": (["shop", *RANKER, "--set", "data.labels=value"], "prepare it with --label COLUMN"),
    "a threshold without labels": (["shop", *RANKER, "--set", "data.labels=>=4"], "prepare it with --label COLUMN"),
    "labels of no kind": (["shop", *RANKER, "--set", "data.labels=often"], "sampled | given | >=X | value"),
    "positives of nothing": (["shop", *RANKER, "--set", "data.history=positive"], "data.history=positive needs"),
    "no order": (["plain", "--model", "ranker"], "model.positions=none"),
    "no order for a network": (["plain", "--model", "ranker", "--interest", "gru"], "reads events in their order"),
    "no timestamps": (
        ["plain", "--model", "ranker", "--set", "model.positions=none", "--set", "model.request_time=true"],
        "needs timestamps",
    ),
    "two outputs": (["shop", *RANKER, "--set", "model.outputs=2"], "one output"),
    "rotary": (["shop", *RANKER, "--set", "model.positions=rotary"], "model.positions=learned"),
    "heads": (["shop", *RANKER, "--interest", "transformer", "--set", "model.heads=3"], "must divide"),
    "metric": (["shop", *RANKER, "--set", "train.metric=ndcg@10"], "auc|50-sampled"),
    "unknown context": (["shop", *RANKER, "--set", "model.context=hours"], "did you mean 'hour'"),
    "an impossible negative": (["shop", *RANKER, "--set", "data.negatives=0"], "data.negatives"),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_line(
    logs: Path, tmp_path: Path, regard: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(logs)
    code, printed, said = regard("train", *words, *ONE, "--out", tmp_path / "run")
    assert (code, printed) == (2, "")
    assert len(said.strip().splitlines()) == 1
    assert expected in said
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--context", "weather=fine"], "it reads hour, device"),
        (["--context", "devic=mobile"], "did you mean 'device'"),
        (["--context", "mobile"], "KEY=VALUE"),
    ],
)
def test_context_that_is_not_read_is_a_mistake(shop: Path, regard: Command, words: list[str], expected: str) -> None:
    code, printed, said = regard("recommend", shop / "pair", "--history", "camera-1", *words)
    assert (code, printed) == (2, "")
    assert len(said.strip().splitlines()) == 1
    assert expected in said


@pytest.mark.parametrize("interest", ["candidate", "mean", "additive", "activation-unit", "target", "multi-head"])
def test_a_log_without_order_has_rankers_too(logs: Path, tmp_path: Path, regard: Command, interest: str) -> None:
    """Histories are the user's other training events."""
    words = ["--model", "ranker", "--interest", interest, "--set", "model.positions=none", *ONE]
    assert regard("train", logs / "plain", *words, "--out", tmp_path / "run")[0] == 0
    code, printed, _ = regard("recommend", tmp_path / "run", "--history", "3,7", "-k", 3, "--json")
    assert code == 0
    assert len(json.loads(printed)["items"]) == 3
