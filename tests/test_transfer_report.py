"""The transfer report on a log whose truth is planted: two clubs, and vectors that know the club of every item."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from typer.testing import CliRunner

from regard import pipeline, transfer_report
from regard.cli import app
from regard.config import Settings
from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.store import Dataset
from regard.errors import InputError, ProtocolError, SettingsError, StorageError
from regard.evaluate.metrics import BY_CASE
from regard.training.protocol import Protocol
from regard.transfer.chance import expected
from regard.transfer.findings import LOSS, MEANING, NOTHING, OTHER, UNSURE, gain_of
from regard.transfer.measure import Asked
from regard.transfer.plot import apart

CLUBS = ("tea", "ale")
SHARES = (0.1, 1.0)


def clubs() -> tuple[Dataset, dict[str, list[float]]]:
    """Members of a club take its items at random; the last event of every third one is an item that is new."""
    rng = np.random.default_rng(0)
    old = {club: [f"{club} {at}" for at in range(14)] for club in CLUBS}
    new = {club: [f"new {club} {at}" for at in range(4)] for club in CLUBS}
    rows = []
    for club in CLUBS:
        for user in range(60):
            items = list(rng.permutation(old[club])[:6])
            items += [rng.choice(new[club])] if user % 3 == 0 else []
            rows += [(f"{club}{user}", str(item)) for item in items]
    log = pa.table({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": list(range(len(rows)))})
    vectors = {}
    for club, side in zip(CLUBS, np.eye(4)[:2] * 3, strict=True):
        vectors |= {item: (side + rng.normal(0, 0.3, 4)).tolist() for item in (*old[club], *new[club])}
    return Dataset.build(EventLog.read(log, time_kind="order"), None), vectors


def small(**changes: str) -> Settings:
    told = {"model.name": "mean", "model.width": 16, "data.split": "leave-one-out", "evaluate.k": 5}
    told |= {"train.epochs": 10, "train.learning_rate": 0.02, "train.batch_tokens": 256, "train.threads": 1}
    told |= {"model.covisit_weight": 0}  # in so small a shop counts know the clubs as well as vectors do
    told |= {"train.precision": "float32", "train.validations": 1, "evaluate.bootstrap": 300, **changes}
    return Settings().changed([f"{name}={value}" for name, value in told.items()])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    dataset, vectors = clubs()
    out = tmp_path_factory.mktemp("transfer") / "report"
    report = transfer_report(dataset, small(), out, vectors=vectors, shares=(1, 0.1), modes=("frozen", "gate"))
    return out, report.body


@pytest.mark.parametrize(("many", "k"), [(1, 1), (5, 3), (7, 2), (7, 7), (6, 11)])
def test_chance_is_the_mean_over_all_orders(many: int, k: int) -> None:
    """Every way to place m targets among N candidates, measured by the metrics themselves; lost targets are misses."""
    for among, lost in itertools.product(range(min(many, 3) + 1), range(2)):
        if not among + lost:
            continue
        places = [[*each, *[10**6] * lost] for each in itertools.combinations(range(1, many + 1), among)]
        ranks = np.array(list(itertools.chain(*places)), np.int64)
        offsets = np.arange(len(places) + 1) * (among + lost)
        found = expected(np.array([many]), np.array([among]), np.array([among + lost]), k)
        for name, metric in BY_CASE.items():
            assert found[name][0] == pytest.approx(metric(ranks, offsets, k).mean()), (name, among, lost)


class Dice:
    """Random scores for everything."""

    name, window, training = "dice", None, False

    def __init__(self, items: int) -> None:
        import torch

        self.known = torch.ones(items + 1, dtype=torch.bool)
        self.generator = torch.Generator().manual_seed(3)

    def scores(self, histories: Histories) -> Any:
        import torch

        return torch.rand(len(histories), len(self.known), generator=self.generator)

    def train(self, mode: bool = True) -> object:
        return mode


@pytest.mark.parametrize("change", ["evaluate.seen=filter", "evaluate.seen=keep", "evaluate.targets=set"])
def test_chance_is_what_random_scores_give_on_average(change: str) -> None:
    rng = np.random.default_rng(2)
    events = {"user": rng.integers(0, 23, 170).astype(str), "item": rng.zipf(1.5, 170).clip(0, 31).astype(str)}
    dataset = Dataset.build(EventLog.read(pa.table({**events, "time": np.arange(170)}), time_kind="order"), None)
    settings = small(**{"evaluate.k": "[2,5]", "data.keep": "0.2", "data.split": '"random:0.5,0.2,0.3"'})
    asked = Asked.of(Protocol.of(dataset, settings.changed([change])))
    sums: dict[str, float] = {}
    dice, draws = Dice(dataset.n_items), 150
    assert asked.cases.in_history(dataset.item).any()
    for _ in range(draws):
        for key, values in asked.columns(asked.rank(dice, {})).items():
            sums[key] = sums.get(key, 0.0) + float(np.nanmean(values))
    chance = asked.by_chance()
    assert set(chance) == set(sums)
    assert any(key.endswith("cold only") for key in sums)
    for key, values in chance.items():
        spread = (np.count_nonzero(~np.isnan(values)) * draws) ** -0.5
        assert sums[key] / draws == pytest.approx(float(np.nanmean(values)), abs=2 * spread), key


def test_the_planted_truth_is_found(made: tuple[Path, dict[str, Any]]) -> None:
    """Few users teach ids little; who knows the club of an item wins, and shuffled or random vectors do not know it."""
    _, body = made
    few, best = body["at"]["0.1"], body["best"]["mode"]
    assert few["gain"] == MEANING
    assert f"10 % of users: {best} is ahead of id-only" in "\n".join(body["findings"])
    value = {way: one["metrics"]["ndcg@5"]["value"] for way, one in few["ways"].items()}
    assert min(value[best], value["raw cosine"]) > 1.3 * max(
        value[way] for way in ("id-only", "shuffled vectors", "random vectors", "popular", "uniform random")
    )
    chance = body["at"]["1"]["best_against"]["uniform random"]["ndcg@5|target events 0"]
    said = "clearly above chance" if chance["low"] > 0 else "not clear of chance"
    assert f"in the full catalogue, {said}; {best}" in body["findings"][-1]
    for at in body["at"].values():
        cold = {way: one["strata"]["cold only"]["metrics"]["hit_rate@5"]["value"] for way, one in at["ways"].items()}
        assert cold["id-only"] == cold["popular"] == 0
        assert cold[best] > 1.2 * cold["uniform random"]
        assert cold[best] > cold["shuffled vectors"]


def test_json_is_complete(made: tuple[Path, dict[str, Any]]) -> None:
    out, body = made
    assert json.loads((out / "report.json").read_text("utf-8")) == body
    trained = ["id-only", "frozen", "gate", "shuffled vectors", "random vectors"]
    everything = [*trained, "raw cosine", "popular", "uniform random"]
    assert list(body["at"]) == ["0.1", "1"]
    for share, at in body["at"].items():
        assert list(at["ways"]) == everything
        assert set(at["against_id_only"]) == set(everything) - {"id-only"}
        assert set(at["best_against"]) == {
            "shuffled vectors",
            "random vectors",
            "raw cosine",
            "popular",
            "uniform random",
        }
        assert at["users_whose_events_train"] == 120 * float(share)
        for way, one in at["ways"].items():
            assert len(one["trainings"]) == (way != "uniform random")
            strata = {name: row for name, row in one["strata"].items() if name.startswith("target events")}
            assert sum(row["targets"] for row in strata.values()) == body["protocol"]["target_events"] == 120
            for number in [one["metrics"]["ndcg@5"], *(row["metrics"]["ndcg@5"] for row in one["strata"].values())]:
                assert number["low"] <= number["value"] + 1e-9 <= number["high"] + 2e-9
            assert one["strata"]["cold only"]["targets"] == strata["target events 0"]["targets"]
    whole = body["at"]["1"]["ways"]["id-only"]["strata"]
    assert (whole["cold only"]["targets"], whole["cold only"]["candidates"]) == (40, 8)
    assert {"rule", "dataset"} & set(body["protocol"]) == {"dataset"}
    assert body["vectors"]["items"] == [36, 36]


def test_figures_are_those_of_train_and_evaluate(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, body = made
    dataset, vectors = clubs()
    for way, change, known in (("id-only", "model.width=16", None), ("gate", "model.transfer=gate", vectors)):
        settings = small().changed([change, "data.keep=0.1"])
        run = pipeline.train(dataset, settings, tmp_path / way, vectors=known)
        result = pipeline.evaluate(run, data=dataset, baselines="none").result
        found = body["at"]["0.1"]["ways"][way]
        assert found["trainings"][0]["validation"] == run.manifest["validation"]
        for key in ("ndcg@5", "recall@5", "ndcg@5|trained"):
            assert found["metrics"][key]["value"] == pytest.approx(result.value(key), abs=1e-7)
        for name in ("target events 0", "target events 1-5"):
            theirs = result.strata[name]["metrics"]["ndcg@5"]["value"]
            assert found["strata"][name]["metrics"]["ndcg@5"]["value"] == pytest.approx(theirs, abs=1e-7)


def test_the_picture_is_whole(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    content = (out / "transfer.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    pixels = image.imread(out / "transfer.png")
    assert pixels.shape[:2] == (840, 1440)
    assert 0.01 < float((pixels[..., :3].min(axis=-1) < 0.9).mean()) < 0.5
    assert {path.name for path in out.iterdir()} == {".lock", "cells", "report.json", "runs", "transfer.png"}
    assert list((out / "runs").iterdir()) == []


Train = Callable[..., Any]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were trained into; the fifth training is killed where the list begins with `stop`."""
    real, seen = pipeline.train, []

    def train(dataset: Any, settings: Any, out: Path, **how: Any) -> Any:
        seen.append(out.name)
        if seen[0] == "stop" and len(seen) == 6:
            raise KeyboardInterrupt
        return real(dataset, settings, out, **how)

    monkeypatch.setattr(pipeline, "train", train)
    return seen


def plain(body: Any) -> Any:
    """A body without what a clock says."""
    if isinstance(body, dict):
        return {key: plain(value) for key, value in body.items() if key != "seconds"}
    return [plain(value) for value in body] if isinstance(body, list) else body


def test_a_walk_that_was_killed_goes_on_where_it_was(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, trainings: list[str]
) -> None:
    dataset, vectors = clubs()
    how: dict[str, Any] = {"vectors": vectors, "shares": SHARES, "modes": ("frozen", "gate")}
    trainings.append("stop")
    with pytest.raises(KeyboardInterrupt):
        transfer_report(dataset, small(), tmp_path / "out", **how)
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 4
    assert not (tmp_path / "out" / "report.json").exists()
    trainings.clear()
    trainings.append("on")
    report = transfer_report(dataset, small(), tmp_path / "out", **how)
    assert len(trainings) == 1 + 10 - 4
    assert plain(report.body) == plain(made[1])
    trainings[1:] = []
    again = transfer_report(dataset, small(**{"evaluate.bootstrap": "100"}), tmp_path / "out", **how)
    assert len(trainings) == 1, "nothing is trained twice, and other intervals need no other training"
    assert again.body["protocol"]["interval"]["resamples"] == 100
    one = next((tmp_path / "out" / "cells").glob("gate-0.1*.json"))
    one.unlink()
    transfer_report(dataset, small(), tmp_path / "out", **how)
    assert trainings[1:] == [one.stem]
    one.with_suffix(".npz").write_bytes(b"")
    with pytest.raises(StorageError, match=r"gate-0\.1.*npz is damaged"):
        transfer_report(dataset, small(), tmp_path / "out", **how)


def test_other_vectors_use_the_trainings_without_vectors_again(tmp_path: Path, trainings: list[str]) -> None:
    dataset, vectors = clubs()
    quick = small(**{"train.epochs": "1", "evaluate.bootstrap": "0"})
    trainings.append("on")
    reports = [
        transfer_report(dataset, quick, tmp_path, vectors=given, shares=[1], seeds=(1, 2), modes=["gate"])
        for given in (vectors, {name: row[::-1] for name, row in vectors.items()})
    ]
    assert sum(name.startswith("id-only") for name in trainings) == 2
    assert sum(name.startswith("gate") for name in trainings) == 4
    for report in reports:
        at = report.body["at"]["1"]
        assert at["gain"] == UNSURE
        assert "without intervals" in report.body["findings"][0]
        for way in ("id-only", "gate", "random vectors"):
            one = at["ways"][way]
            assert [training["seed"] for training in one["trainings"]] == [1, 2]
            mean = np.mean([training["value"] for training in one["trainings"]])
            assert one["metrics"]["ndcg@5"]["value"] == pytest.approx(mean)
            assert one["metrics"]["ndcg@5"]["low"] is None


def test_told_at_the_default_is_another_training_than_not_told(tmp_path: Path, trainings: list[str]) -> None:
    """What nobody told follows from the size of the data, so it may be something else than the default."""
    dataset, vectors = clubs()
    untold = small(**{"train.epochs": "1"}).model_dump(mode="json", exclude_unset=True)
    del untold["train"]["learning_rate"]
    for change, count in (([], 4), (["train.table_rate=1.0", "train.learning_rate=0.002"], 8)):
        settings = Settings.of(untold).changed(change)
        transfer_report(dataset, settings, tmp_path / "report", vectors=vectors, shares=(1,), modes=("init",))
        assert len(trainings) == count


def test_settings_of_one_way_are_not_for_the_others(tmp_path: Path, trainings: list[str]) -> None:
    dataset, vectors = clubs()
    settings = small(**{"train.epochs": "1", "model.id_dropout": "0.3", "train.vectors_rate": "0.5"})
    transfer_report(dataset, settings, tmp_path / "report", vectors=vectors, shares=(1,))
    assert len(trainings) == 7


def test_the_rate_of_a_table_is_not_for_the_way_that_has_none(tmp_path: Path, trainings: list[str]) -> None:
    dataset, vectors = clubs()
    settings = small(**{"train.epochs": "1", "train.table_rate": "3"})
    transfer_report(dataset, settings, tmp_path / "report", vectors=vectors, shares=(1,), modes=("frozen", "gate"))
    assert len(trainings) == 5


def row(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"low": low, "high": high, "difference": 0.1, "relative": 0.1}


@pytest.mark.parametrize(
    ("over_ids", "controls", "gain"),
    [
        (row(0.1, 0.2), [row(0.1, 0.2), row(0.05, 0.2)], MEANING),
        (row(0.1, 0.2), [row(0.1, 0.2), row(-0.01, 0.2)], OTHER),
        (row(0.1, 0.2), [row(-0.2, -0.1), row(0.1, 0.2)], OTHER),
        (row(-0.1, 0.2), [row(0.1, 0.2), row(0.1, 0.2)], NOTHING),
        (row(-0.2, -0.1), [row(0.1, 0.2), row(0.1, 0.2)], LOSS),
        (row(None, None), [row(None, None)] * 2, UNSURE),
    ],
)
def test_a_gain_is_from_meaning_only_where_both_controls_are_beaten(
    over_ids: dict[str, float | None], controls: list[Any], gain: str
) -> None:
    assert gain_of(over_ids, controls, "ndcg@5") == gain


def test_vectors_without_meaning_are_told_apart(tmp_path: Path) -> None:
    """Vectors dealt out by chance before the report sees them: whatever it finds, it is not meaning."""
    dataset, vectors = clubs()
    names = list(vectors)
    senseless = dict(zip(names, np.random.default_rng(5).permutation(list(vectors.values())).tolist(), strict=True))
    body = transfer_report(dataset, small(), tmp_path, vectors=senseless, shares=[0.1], modes=["frozen"]).body
    assert body["at"]["0.1"]["gain"] in (OTHER, NOTHING, LOSS)
    assert "from meaning:" not in body["findings"][0].replace("not from meaning:", "")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_move_apart_and_stay_in_order(places: list[float]) -> None:
    moved = apart(sorted(places), 0.05)
    assert all(second - first >= 0.05 - 1e-9 for first, second in itertools.pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 1 + 1e-9
    assert apart([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])
    assert apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def test_the_command_shows_a_table_and_json(tmp_path: Path) -> None:
    dataset, vectors = clubs()
    shop = tmp_path / "shop"
    user = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
    ids = {"user": dataset.users.ids(user), "item": dataset.items.ids(dataset.item), "time": np.arange(len(user))}
    Dataset.build(EventLog.read(pa.table(ids), time_kind="order"), shop)
    pq.write_table(pa.table({"id": list(vectors), "vector": list(vectors.values())}), tmp_path / "v.parquet")
    (tmp_path / "own.toml").write_text("[model]\nname = 'mean'\nwidth = 8\nid_dropout = 0.3\n")
    words = ["compare", str(shop), "--transfer", "--vectors", str(tmp_path / "v.parquet"), "--model", "mean"]
    words += ["--out", str(tmp_path / "out"), "--shares", "0.2,1", "--seeds", "3", "--modes", "gate"]
    words += ["--config-of", f"gate={tmp_path / 'own.toml'}", "--set", "train.epochs=1", "--set", "train.threads=1"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "ndcg@10 by share of users whose events train" in shown.stdout
    assert "cold only" in shown.stdout
    table = [line for line in shown.stdout.splitlines() if not line.startswith("plot:")]
    assert max(map(len, table)) <= 100
    printed = CliRunner().invoke(app, [*words, "--json"])
    assert printed.exit_code == 0, printed.output
    body = json.loads(printed.stdout)
    assert (body["seeds"], body["shares"], body["modes"]) == ([3], [0.2, 1.0], ["gate"])
    assert body["settings"]["gate"]["model"] == {"name": "mean", "width": 8, "id_dropout": 0.3}
    assert math.isfinite(body["at"]["1"]["ways"]["gate"]["metrics"]["ndcg@10"]["low"])


@pytest.mark.parametrize(
    ("settings", "how", "error", "words"),
    [
        ({}, {"shares": [0.1, 0.1]}, InputError, "--shares expects different values"),
        ({}, {"shares": [0.0, 1.0]}, InputError, "above 0 and up to 1"),
        ({}, {"seeds": []}, InputError, "--seeds expects .* got none"),
        ({}, {"modes": ["gat"]}, InputError, "did you mean 'gate'"),
        ({"model.name": "popular"}, {}, InputError, "popular counts"),
        ({"model.name": "ranker"}, {}, InputError, "measured on labelled candidates"),
        ({"data.keep": "0.5"}, {}, SettingsError, "--shares says"),
        ({"data.split": "none"}, {}, ProtocolError, "holds nothing back"),
        ({"model.hash_rows": "64"}, {}, SettingsError, "hash_rows=64 and pretrained vectors exclude each other"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    settings: dict[str, str], how: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    dataset, _ = clubs()
    with pytest.raises(error, match=words):
        transfer_report(dataset, small(**settings), tmp_path / "out", vectors=_unread, **how)
    assert not (tmp_path / "out").exists()


def _unread(_: str) -> Any:
    raise AssertionError("vectors were read")


def test_words_are_weighed_as_the_modes_say(tmp_path: Path) -> None:
    """They are read once: not as id-only says, which reads none, and alike for all."""
    dataset, _ = clubs()
    own, asked = {"gate": small(**{"model.word_weights": "idf"})}, []

    def read(weights: str) -> Any:
        asked.append(weights)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer_report(dataset, {"": small(), **own}, tmp_path / "out", vectors=read, modes=["gate"])
    assert asked == ["idf"]
    with pytest.raises(SettingsError, match=r"word_weights is sif for init, idf for gate: say one for all"):
        transfer_report(dataset, {"": small(), **own}, tmp_path / "out", vectors=_unread, modes=["init", "gate"])


def test_the_command_reads_vectors_last(tmp_path: Path) -> None:
    dataset, _ = clubs()
    user = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
    ids = {"user": dataset.users.ids(user), "item": dataset.items.ids(dataset.item), "time": np.arange(len(user))}
    Dataset.build(EventLog.read(pa.table(ids), time_kind="order"), tmp_path / "shop")
    words = ["compare", str(tmp_path / "shop"), "--transfer", "--vectors", str(tmp_path / "none.txt")]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--modes", "gat"])
    assert "there is no mode 'gat'" in str(done.exception)


def test_ways_are_asked_the_same(tmp_path: Path) -> None:
    dataset, vectors = clubs()
    other = small().changed(["evaluate.targets=last"])
    with pytest.raises(SettingsError, match=r"id-only and gate differ in evaluate\.targets"):
        transfer_report(dataset, {"": small(), "gate": other}, tmp_path / "out", vectors=vectors)
    with pytest.raises(InputError, match="settings for 'gates' \\(did you mean 'gate'"):
        transfer_report(dataset, {"gates": other}, tmp_path / "out", vectors=vectors)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "--shares", "0.1"], "--shares is for --transfer"),
        (["a", "--transfer", "--vectors", "v"], "--transfer expects one dataset, --vectors SOURCE and --out FOLDER"),
        (["a", "--transfer", "--on", "test"], "--on is for runs"),
        (["a", "--transfer", "--vectors", "v", "--out", "o", "--shares", "x"], "--shares expects numbers"),
        (["a", "--transfer", "--vectors", "v", "--out", "o", "--seeds", "1.5"], "--seeds expects whole numbers"),
        (["a", "--transfer", "--vectors", "v", "--out", "o", "--config-of", "gate"], "--config-of expects WAY=FILE"),
    ],
)
def test_the_command_explains_itself(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["compare", *words])
    assert said in str(done.exception)
