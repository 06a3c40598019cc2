"""The road through the command line, from a CSV file to recommendations, and what a user's mistakes meet."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from regard import pipeline
from regard.cli import main
from regard.data.events import EventLog
from regard.data.sample import make_shop
from regard.data.store import Dataset
from regard.errors import SettingsError

TINY = [
    "--set",
    "model.width=16",
    "--set",
    "model.blocks=1",
    "--set",
    "train.epochs=2",
    "--set",
    "train.batch_tokens=512",
]

Command = Callable[..., tuple[int, str, str]]


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop as a person would have it: a CSV of events and one of items."""
    folder = tmp_path_factory.mktemp("shop")
    shop = make_shop(seed=1, users=80)
    events = shop.events.set_column(2, "time", shop.events["time"].cast(pa.int64()))
    csv.write_csv(events, folder / "events.csv")
    csv.write_csv(shop.items, folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def road(files: Path) -> Path:
    """A dataset and two runs, made by real processes."""
    table = ["--items", "items.csv", "--item-id", "id", "--title", "title", "--text", "text", "--attribute", "price"]
    context = ["--context", "hour", "--context", "device"]
    prepare = ["prepare", "events.csv", *context, *table, "--out", "shop", "--json"]
    for words in (
        prepare,
        ["train", "shop", "--split", "time:0.9", *TINY, "--out", "runs/first"],
        ["train", "shop", "--split", "time:0.9", "--model", "co-visit", "--out", "runs/floor", "--quiet"],
    ):
        done = subprocess.run([sys.executable, "-m", "regard", *words], cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return files


def test_prepare_and_inspect_tell_what_is_there(road: Path, regard: Command) -> None:
    code, printed, _ = regard("inspect", road / "shop", "--json", "--verify")
    told = json.loads(printed)
    assert code == 0
    assert told["time"]["kind"] == "timestamp"
    assert told["counts"]["users"] == 80
    assert told["counts"]["items"] == 600
    assert regard("inspect", road / "shop")[0] == 0
    code, printed, _ = regard("inspect", road / "events.csv", "--json")
    assert code == 0
    assert json.loads(printed)["counts"]["events"] == told["counts"]["events"]


def test_evaluate_has_the_promised_shape(road: Path, regard: Command) -> None:
    code, printed, _ = regard("evaluate", road / "runs/first", "--on", "test", "--json")
    told = json.loads(printed)
    assert code == 0
    assert set(told) >= {"metrics", "baselines", "protocol", "timing"}
    assert set(told["metrics"]["ndcg@10"]) == {"value", "low", "high"}
    assert set(told["metrics"]) >= {"recall@10", "hit_rate@10", "mrr@10", "coverage@10", "ndcg@10|trained"}
    assert told["baselines"]["popular"]["ndcg@10"]["value"] >= 0
    assert told["protocol"]["split"] == "time:0.9"
    code, printed, _ = regard("evaluate", road / "runs/first", "--on", "validation", "--baselines", "all")
    assert code == 0
    assert all(name in printed for name in ("popular", "recent-popular", "repeat", "co-visit", "self-attention"))


def test_compare_pairs_the_same_users(road: Path, regard: Command) -> None:
    code, printed, _ = regard("compare", road / "runs/first", road / "runs/floor", "--json")
    assert code == 0
    assert "ndcg@10" in json.loads(printed)["against"][str(road / "runs/floor")]
    assert regard("compare", road / "runs/first", road / "runs/floor")[0] == 0


def events_of(road: Path, user: str) -> list[str]:
    table = csv.read_csv(road / "events.csv").filter(pa.compute.field("user") == user).sort_by("time")
    ids: list[str] = table["item"].to_pylist()
    return ids


def test_recommend_for_a_user_and_for_their_events_as_a_live_history_agree(road: Path, regard: Command) -> None:
    user = csv.read_csv(road / "events.csv")["user"][0].as_py()
    code, printed, _ = regard("recommend", road / "runs/floor", "--user", user, "-k", 5, "--json")
    assert code == 0
    known = json.loads(printed)
    assert len(known["items"]) == 5
    assert set(known["items"][0]) == {"item", "score", "title", "source"}
    assert known["items"][0]["title"]
    history = ",".join(events_of(road, user))
    _, printed, _ = regard("recommend", road / "runs/floor", "--history", history, "-k", 5, "--json")
    assert [item["item"] for item in json.loads(printed)["items"]] == [item["item"] for item in known["items"]]


def test_recommend_says_what_it_skipped_and_where_it_fell_back(road: Path, regard: Command) -> None:
    code, printed, _ = regard("recommend", road / "runs/first", "--history", "no-such-item,nor-this", "-k", 3, "--json")
    told = json.loads(printed)
    assert code == 0
    assert {item["source"] for item in told["items"]} == {"popular"}
    assert any("'no-such-item'" in note for note in told["notes"])
    assert any("most popular" in note for note in told["notes"])


def test_recommend_obeys_candidates_exclude_and_the_seen_rule(road: Path, regard: Command) -> None:
    ids = csv.read_csv(road / "items.csv")["id"].to_pylist()
    run = road / "runs/first"
    _, printed, _ = regard("recommend", run, "--history", ids[0], "--candidates", ",".join(ids[:4]), "--json")
    assert {item["item"] for item in json.loads(printed)["items"]} <= set(ids[1:4])
    _, printed, _ = regard(
        "recommend", run, "--history", ids[0], "--candidates", ",".join(ids[:4]), "--seen", "keep", "--json"
    )
    assert {item["item"] for item in json.loads(printed)["items"]} == set(ids[:4])
    _, printed, _ = regard("recommend", run, "--history", ids[0], "--exclude", ids[3], "-k", 599, "--json")
    assert ids[3] not in {item["item"] for item in json.loads(printed)["items"]}
    code, printed, _ = regard("recommend", run, "--history", ids[0], "-k", 2)
    assert code == 0
    assert "self-attention" in printed


def test_many_users_go_to_one_parquet_file_and_agree_with_one_by_one(
    road: Path, regard: Command, tmp_path: Path
) -> None:
    users = sorted(set(csv.read_csv(road / "events.csv")["user"].to_pylist()))[:7]
    (tmp_path / "users.txt").write_text("\r\n".join([*users, "nobody", "", f"  {users[0]}\t"]) + "\n")
    out = tmp_path / "recs.parquet"
    code, printed, _ = regard(
        "recommend", road / "runs/first", "--users", tmp_path / "users.txt", "-k", 4, "--out", out, "--json"
    )
    assert code == 0
    assert "nobody" in json.loads(printed)["notes"][0]
    assert "1 repeated user id" in json.loads(printed)["notes"][1]
    table = pq.read_table(out)
    assert table.num_rows == 7 * 4
    for user in users[:2]:
        _, printed, _ = regard("recommend", road / "runs/first", "--user", user, "-k", 4, "--json")
        own = table.filter(pa.compute.field("user") == user).sort_by("rank")["item"].to_pylist()
        assert own == [item["item"] for item in json.loads(printed)["items"]]


def test_similar_and_vectors(road: Path, regard: Command, tmp_path: Path) -> None:
    item = events_of(road, csv.read_csv(road / "events.csv")["user"][0].as_py())[0]
    code, printed, _ = regard("similar", road / "runs/first", "--item", item, "-k", 3, "--json")
    assert code == 0
    near = json.loads(printed)["items"]
    assert len(near) == 3
    assert item not in {other["item"] for other in near}
    assert regard("vectors", road / "runs/first", "--out", tmp_path / "v.parquet")[0] == 0
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.num_rows == 600
    assert len(table["vector"][0].as_py()) == 16


def test_a_run_needs_no_dataset_for_live_histories(road: Path, regard: Command) -> None:
    hidden = road / "hidden"
    (road / "shop").rename(hidden)
    try:
        item = csv.read_csv(road / "items.csv")["id"][0].as_py()
        assert regard("recommend", road / "runs/first", "--history", item)[0] == 0
        code, _, said = regard("recommend", road / "runs/first", "--user", "anyone")
        assert code == 2
        assert "--data" in said
        user = csv.read_csv(road / "events.csv")["user"][0].as_py()
        assert regard("recommend", road / "runs/first", "--user", user, "--data", hidden)[0] == 0
    finally:
        hidden.rename(road / "shop")


def test_retraining_replaces_a_run_only_when_the_new_one_is_complete(
    road: Path, regard: Command, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert regard("train", road / "shop", "--split", "time:0.9", *TINY, "--out", out, "--quiet")[0] == 0
    weights = (out / "weights.safetensors").read_bytes()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2]
    diverging = [*TINY, "--set", "train.learning_rate=1e30", "--set", "train.clip=1e30"]
    code, _, said = regard("train", road / "shop", "--split", "time:0.9", *diverging, "--out", out, "--quiet")
    assert code == 2
    assert "diverged" in said
    assert (out / "weights.safetensors").read_bytes() == weights
    assert regard("recommend", out, "--history", "x")[0] == 0
    again = regard(
        "train", road / "shop", "--split", "time:0.9", *TINY, "--out", out, "--quiet", "--set", "train.seed=5"
    )
    assert again[0] == 0
    assert (out / "weights.safetensors").read_bytes() != weights


def test_resume_of_other_settings_is_refused(road: Path, regard: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert regard("train", road / "shop", "--split", "time:0.9", *TINY, "--out", out, "--quiet", "--resume")[0] == 0
    code, _, said = regard(
        "train", road / "shop", "--split", "time:0.9", *TINY, "--set", "train.seed=9", "--out", out, "--resume"
    )
    assert code == 2
    assert "other train" in said


MISTAKES: list[tuple[str, list[str], str]] = [
    ("unknown model", ["train", "shop", "--model", "self-atention", "--out", "x"], "did you mean 'self-attention'"),
    ("unknown setting", ["train", "shop", "--set", "model.widht=3", "--out", "x"], "did you mean 'width'"),
    ("a value of the wrong type", ["train", "shop", "--set", "train.epochs=many", "--out", "x"], "train.epochs"),
    ("heads that do not divide", ["train", "shop", "--set", "model.heads=7", "--out", "x"], "must divide"),
    ("unknown metric", ["train", "shop", *TINY, "--set", "train.metric='ndgc@10'", "--out", "x"], "'ndcg@10'"),
    ("no out", ["train", "shop"], "--out"),
    ("no such dataset", ["train", "nowhere", "--out", "x"], "no such folder"),
    ("a run where a dataset is meant", ["train", "runs/first", "--out", "x"], "it is a run"),
    ("a dataset where a run is meant", ["evaluate", "shop"], "it is a dataset"),
    ("a folder that is neither", ["evaluate", "."], "not a run"),
    ("a file where a folder is meant", ["evaluate", "events.csv"], "it is a file"),
    ("out is another folder", ["train", "shop", "--out", "."], "not a run"),
    ("unknown split", ["train", "shop", "--split", "halves", "--out", "x"], "halves"),
    ("part that is neither", ["evaluate", "runs/first", "--on", "train"], "test or validation"),
    ("unknown baseline", ["evaluate", "runs/first", "--baselines", "populer"], "did you mean 'popular'"),
    ("one run to compare", ["compare", "runs/first"], "at least two"),
    ("unknown user", ["recommend", "runs/first", "--user", "nobody"], "nobody"),
    ("neither user nor history", ["recommend", "runs/first"], "either a user or a history"),
    (
        "no known candidate",
        ["recommend", "runs/first", "--history", "a", "--candidates", "b"],
        "none of the candidates",
    ),
    ("k below one", ["recommend", "runs/first", "--history", "a", "-k", "0"], "at least 1"),
    ("a moment that is not read", ["recommend", "runs/first", "--history", "a", "--at", "2026-03-01"], "request_time"),
    ("users without out", ["recommend", "runs/first", "--users", "events.csv"], "--out"),
    (
        "users and user",
        ["recommend", "runs/first", "--users", "events.csv", "--out", "o.parquet", "--user", "a"],
        "takes no --user",
    ),
    (
        "users and history",
        ["recommend", "runs/first", "--users", "events.csv", "--out", "o.parquet", "--history", "a"],
        "takes no --history",
    ),
    (
        "users and candidates",
        ["recommend", "runs/first", "--users", "events.csv", "--out", "o.parquet", "--candidates", "a"],
        "takes no --candidates",
    ),
    (
        "users and exclude",
        ["recommend", "runs/first", "--users", "events.csv", "--out", "o.parquet", "--exclude", "a"],
        "takes no --exclude",
    ),
    ("out without users", ["recommend", "runs/first", "--history", "a", "--out", "o.parquet"], "--users"),
    (
        "a file of unknown users",
        ["recommend", "runs/first", "--users", "items.csv", "--out", "o.parquet"],
        "none of the 601 users",
    ),
    ("users file that is missing", ["recommend", "runs/first", "--users", "gone", "--out", "o.parquet"], "gone"),
    ("unknown item", ["similar", "runs/first", "--item", "camera"], "not in the catalogue"),
    ("similar of a model without vectors", ["similar", "runs/floor", "--item", "camera"], "catalogue"),
    ("vectors of a model without them", ["vectors", "runs/floor", "--out", "v.parquet"], "no item vectors"),
    ("a missing file", ["prepare", "gone.csv", "--out", "x"], "gone.csv"),
    ("a folder as a log", ["prepare", "runs", "--out", "x"], "runs"),
    (
        "a wrong column",
        ["prepare", "events.csv", "--user", "usr", "--item", "item", "--out", "x"],
        "did you mean 'user'",
    ),
    ("nothing to prepare", ["prepare", "--out", "x"], "source"),
    ("missing settings file", ["train", "shop", "--config", "gone.toml", "--out", "x"], "gone.toml"),
]


@pytest.mark.parametrize(("words", "expected"), [entry[1:] for entry in MISTAKES], ids=[name for name, *_ in MISTAKES])
def test_a_mistake_ends_in_one_clear_line(
    road: Path, regard: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(road)
    before = sorted(path.name for path in road.iterdir())
    code, printed, said = regard(*words)
    assert code == 2, (printed, said)
    assert expected in said
    assert len(said.strip().splitlines()) == 1, said
    assert "Traceback" not in said
    assert sorted(path.name for path in road.iterdir()) == before, "nothing half-written"


@pytest.mark.parametrize(
    "words", [["train", "shop", "--model", "popular", "--out"], ["prepare", "events.csv", "--out"]]
)
def test_a_full_disk_is_told_and_leaves_the_earlier_output(
    road: Path, regard: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.chdir(road)
    out = tmp_path / "out"
    assert regard(*words, out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("regard.manifest._sync", full)
    code, _, said = regard(*words, out)
    assert code == 2
    assert "No space left on device" in said
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_help_is_there_for_every_command_with_an_example(regard: Command) -> None:
    _, printed, _ = regard("--help")
    for command in ("demo", "prepare", "inspect", "train", "evaluate", "compare", "recommend", "similar", "vectors"):
        assert command in printed
        code, own, _ = regard(command, "--help")
        assert code == 0
        assert "Example" in own
    assert regard("--version")[1].startswith("regard ")


def test_settings_may_be_a_mapping_and_a_mistake_in_it_is_told(tmp_path: Path) -> None:
    shop = make_shop(users=20)
    dataset = Dataset.build(EventLog.read(shop.events), None, shop.items)
    run = pipeline.train(dataset, {"model": {"name": "popular"}}, tmp_path / "run")
    assert run.settings.model.name == "popular"
    with pytest.raises(SettingsError, match=r"unknown setting 'train.epoch' \(did you mean 'epochs'"):
        pipeline.train(dataset, {"train": {"epoch": 1}}, tmp_path / "other")
