"""The benchmark of new items on a shop whose truth is planted: clubs, and words that say the club of every item."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.errors import RegardError
from regard.evaluate.bootstrap import interval, resampled_means
from regard.evaluate.compare import SAME
from regard.evaluate.result import Result
from regard.manifest import write_json

FOLDER = Path(__file__).parents[1] / "benchmarks"
CLUBS, WORDS, ITEMS, USERS = 4, 5, 25, 90
SMALL = ("model.width=16", "model.blocks=1", "train.epochs=12", "train.learning_rate=0.01", "train.batch_tokens=512")
SMALL += ("train.validations=2", "train.precision=float32", "train.threads=1", "evaluate.bootstrap=200")


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def write_shop(folder: Path) -> Path:
    """Members of a club take its items at random; return a file of the vectors of words."""
    rng = np.random.default_rng(4)
    words = [[f"{club}{chr(97 + at) * 3}" for at in range(WORDS)] for club in ("tea", "ale", "rum", "gin")]
    (folder / "amazon-beauty").mkdir(parents=True)
    with (folder / "amazon-beauty" / "items.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["item_id", "title", "keywords"])
        for item in range(CLUBS * ITEMS):
            title = " ".join(rng.choice(words[item // ITEMS], 2, replace=False))
            table.writerow([item + 1, title, title])
    with (folder / "amazon-beauty" / "interactions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["user_id", "position", "item_id"])
        for user in range(CLUBS * USERS):
            own = user % CLUBS * ITEMS + rng.permutation(ITEMS)[: 3 + user % 6] + 1
            table.writerows([user + 1, place, item] for place, item in enumerate(own))
    vectors = folder / "words.txt"
    lines = []
    for club, names in enumerate(words):
        for name in names:
            values = 3 * np.eye(8)[club] + rng.normal(0, 0.3, 8)
            lines.append(" ".join([name, *(f"{value:.4f}" for value in values)]))
    vectors.write_text("\n".join(lines) + "\n")
    return vectors


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shop(folder)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, shop: Path) -> list[str]:
    """Cells run in this process, and their names are noted."""
    done: list[str] = []
    road, cells = import_module("road"), import_module("road_cell")

    def here(task: dict[str, Any], out: Path) -> dict[str, Any]:
        whole = {**task, "out": str(out), "code": {"regard": "0", "commit": "none"}, "load": 0.0}
        found = cells.prepare(whole) if task["do"] == "prepare" else cells.measure(whole)
        machine = {"processor": "a", "cores": 1, "threads": 1, "device": "cpu", "torch": "2", "precision": "float32"}
        found = {**task, "code": whole["code"], "load": 0.0, **found, "machine": machine, "peak_gb": 0.1}
        done.append(task.get("way", task["do"]))
        write_json(out, found)
        return found

    monkeypatch.setattr(road, "run", here)
    monkeypatch.setattr(import_module("cold_walk"), "run", here)
    for module in ("road", "cold"):
        monkeypatch.setattr(import_module(module), "DATA", shop)
    return done


def words_of(shop: Path, work: Path, *more: str) -> list[str]:
    """A command line."""
    words = ["--vectors", str(shop / "words.txt"), "--seeds", "1", "--work", str(work), "--out", str(work / "page.md")]
    return [*words, *(word for one in SMALL for word in ("--change", one)), *more]


def events_of(file: Path) -> dict[str, list[str]]:
    """The items of each user, oldest first, in plain lines."""
    found: dict[str, list[str]] = defaultdict(list)
    with file.open() as stream:
        for row in csv.DictReader(stream):
            found[row["user_id"]].append(row["item_id"])
    return found


def test_held_out_items_are_met_by_nobody_before_they_are_asked_for(ran: list[str], shop: Path, tmp_path: Path) -> None:
    log = import_module("cold_log").hold_out(tmp_path, "amazon-beauty", "title", 0.1, 1)
    before, new = events_of(shop / "amazon-beauty" / "interactions.csv"), set(log.items)
    assert len(new) == 10
    dataset = Dataset.open(log.dataset)
    split = make_split(dataset, "leave-one-out")
    users, items = dataset.users.array.to_pylist(), dataset.items.array.to_pylist()
    assert dataset.n_items == CLUBS * ITEMS
    test = split.cases(dataset, "test")
    asked = {
        users[user - 1]: items[dataset.item[event] - 1] for user, event in zip(test.user, test.targets, strict=True)
    }
    expected, taken, lost = {}, 0, 0
    for user, mine in before.items():
        warm = [item for item in mine[:-1] if item not in new]
        if len(warm) >= 2:
            expected[user] = mine[-1]
        lost += len(warm) < 2
        stays = len(warm) + (len(warm) >= 2 or mine[-1] not in new)
        taken += len(mine) - stays
        at = users.index(user) + 1 if user in users else None
        rows = [] if at is None else dataset.item[dataset.offsets[at] : dataset.offsets[at + 1]]
        assert [items[row - 1] for row in rows][: len(warm)] == warm
        assert len(rows) == stays
    assert asked == expected
    assert log.facts == {
        "items_held_out": 10,
        "items_with_events": CLUBS * ITEMS,
        "events_taken_out": taken,
        "users_no_longer_asked": lost,
    }
    assert lost
    held = log.held(dataset)
    assert {items[index - 1] for index in np.flatnonzero(held)} == new
    assert not split.training_item_counts(dataset)[held].any()
    chosen_on = split.cases(dataset, "validation")
    assert not held[dataset.item[chosen_on.targets]].any()
    for cases in (chosen_on, test):
        histories, _ = cases.events(np.arange(len(cases)))
        assert not held[dataset.item[histories]].any()


def test_the_draw_is_of_items_with_events_and_the_seed_decides_it() -> None:
    log = import_module("cold_log")
    table = {"user": ["a"] * 20, "item": [f"i{at}" for at in range(20)], "time": range(20)}
    told = pa.table({"id": [f"i{at}" for at in range(40)], "title": ["x"] * 40})
    dataset = Dataset.build(EventLog.read(pa.table(table), time_kind="order"), None, told)
    draws = [log.drawn(dataset, 0.1, seed) for seed in (1, 1, 2)]
    assert [int(one.sum()) for one in draws] == [2, 2, 2]
    assert not any(one[21:].any() or one[0] for one in draws)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_text_finds_new_items_and_a_killed_walk_goes_on(
    ran: list[str], shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cold, walk = import_module("cold"), import_module("cold_walk")
    whole = walk.run

    def killed(task: dict[str, Any], out: Path) -> Any:
        if task["way"] == "gate":
            raise KeyboardInterrupt
        return whole(task, out)

    with monkeypatch.context() as patch:
        patch.setattr(walk, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            cold.main(words_of(shop, tmp_path))
    assert ran == ["prepare", "prepare", "id-only"]
    with pytest.raises(SystemExit) as end:
        cold.main(words_of(shop, tmp_path))
    assert end.value.code == 0
    assert ran == ["prepare", "prepare", "id-only", "gate"]
    text = (tmp_path / "page.md").read_text()
    assert str(shop) not in text
    assert "--vectors words.txt" in text
    lines = [json.loads(line) for line in (tmp_path / "page.jsonl").read_text().splitlines()]
    assert str(shop) not in json.dumps(lines)
    by_way = {line["way"]: line["mean_of_seeds"] for line in lines if "mean_of_seeds" in line}
    before = events_of(shop / "amazon-beauty" / "interactions.csv")
    new = set(import_module("cold_log").hold_out(tmp_path, "amazon-beauty", "title", 0.1, 1).items)
    many = sum(mine[-1] in new and len(set(mine[:-1]) - new) >= 2 for mine in before.values())
    assert f"Cold targets: {many} of held-out items, 0 of others" in text
    full, among = "ndcg@10|target events 0", "ndcg@10|cold only"
    assert by_way["id-only"][full]["value"] == by_way["popular"][full]["value"] == 0
    assert by_way["gate"][full]["low"] > by_way["uniform random"][full]["high"]
    assert by_way["uniform random"][among]["value"] == pytest.approx(sum(1 / np.log2(np.arange(2, 12))) / 10, abs=1e-6)
    bars = [(bar["way"], bar["reached"]) for bar in lines[-1]["bars"]]
    assert bars[0] == ("gate", True)
    assert bars[-1] == ("id-only", True)
    assert text.count("**reached**") == sum(reached for _, reached in bars)
    with pytest.raises(SystemExit):
        cold.main(words_of(shop, tmp_path))
    assert ran == ["prepare", "prepare", "id-only", "gate"]
    assert "(kept)" in capsys.readouterr().out


def _result(**values: list[float]) -> Any:
    """A result with these values of users, and what else a comparison reads."""
    bars = import_module("cold_bars")
    names = {"cold": bars.COLD, "among": bars.AMONG, "every": bars.KEY}
    per_user = {names[name]: np.array(each, np.float32) for name, each in values.items()}
    numbers = {}
    for key, column in per_user.items():
        low, high = interval(resampled_means([column], 100, 0)[:, 0])
        numbers[key] = {"value": float(np.nanmean(column)), "low": low, "high": high}
    strata = {key.partition("|")[2]: {"metrics": {bars.KEY: numbers[key]}} for key in (bars.COLD, bars.AMONG)}
    protocol = dict.fromkeys((*SAME, "users", "cases"), 1)
    users = np.arange(len(per_user[bars.KEY]), dtype=np.int32)
    return Result({bars.KEY: numbers[bars.KEY]}, strata, protocol, {}, users, per_user)


def test_bars_are_computed_from_the_figures() -> None:
    bars = import_module("cold_bars")
    nobody = float("nan")
    half = [nobody] * 20  # users whose targets are warm
    base = [0.2, 0.4] * 20

    def of(cold: float, among: float, share: float) -> Any:
        return _result(
            cold=[*[cold] * 20, *half], among=[*[among] * 20, *half], every=[value * share for value in base]
        )

    results = {
        "id-only": of(0.0, 0.0, 1.0),
        "gate": of(0.02, 0.21, 0.96),
        "fuse": of(0.01, 0.19, 0.94),
        "raw cosine": of(0.3, 0.4, 0.5),
        "uniform random": of(0.01, 0.1, 0.01),
    }
    found = list(bars.verdicts(results, ["gate", "fuse", "frozen"], 100))
    assert [(one.way, one.reached) for one in found] == [
        *[("gate", True)] * 3,
        *[("fuse", False)] * 3,
        ("id-only", True),
    ]
    assert "52% of it" in found[1].found
    assert "-4.0%" in found[2].found
    (last,) = list(bars.verdicts({**results, "id-only": of(0.001, 0.0, 1.0)}, [], 100))
    assert last.line.endswith("**missed**.")


def test_a_source_of_vectors_is_named_without_its_place(tmp_path: Path) -> None:
    cold = import_module("cold")
    (tmp_path / "some-model").mkdir()
    assert cold.short(f"text:{tmp_path / 'some-model'}{os.sep}") == "text:some-model"
    assert cold.short("text:public/some-model") == "text:public/some-model"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--change", "model.transfer=init"], "settings of gate: model.transfer is 'gate' here, and 'init' was given"),
        (["--change", "data.split=time:0.9"], "data.split is 'leave-one-out' here"),
        (["--change", "evaluate.k=5"], "leave evaluate.* as it is"),
        (["--change-of", "gate:model.widht=3"], "widht"),
    ],
)
def test_settings_that_contradict_the_benchmark_are_refused(
    ran: list[str], shop: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    with pytest.raises(RegardError, match=message.replace("*", r"\*")):
        import_module("cold").main(words_of(shop, tmp_path, *more))
    assert not ran


@pytest.mark.parametrize(
    "more", [["--change-of", "fuse:model.width=3"], ["--ways", "gat"], ["--share", "1"], ["--config-of", "gate"]]
)
def test_a_wrong_command_is_told_before_any_work(
    ran: list[str], shop: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        import_module("cold").arguments(words_of(shop, tmp_path, *more))
    assert end.value.code == 2
    assert more[0].strip("-").split("-")[0] in capsys.readouterr().err


def test_settings_of_one_way_are_those_of_its_file_and_its_own_changes(
    ran: list[str], shop: Path, tmp_path: Path
) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('[model]\nwidth = 24\ntransfer = "gate"\n[train]\nseed = 7\n')
    cold, walk = import_module("cold"), import_module("cold_walk")
    more = ["--config-of", f"gate={file}", "--change-of", "id-only:model.heads=1"]
    words = [word for word in words_of(shop, tmp_path, *more) if word != "model.width=16"]
    words.remove("--change")
    asked = cold.arguments(words)
    gate, ids = (walk.settings_of(asked, way) for way in ("gate", "id-only"))
    assert (gate.model.width, ids.model.width, ids.model.heads) == (24, Settings().model.width, 1)
    assert gate.model.heads != 1
    assert f"--config-of gate={file.name}" in cold.shown(asked)
    with pytest.raises(RegardError, match="expected an item table with that column"):
        import_module("cold_log").hold_out(tmp_path, "amazon-beauty", "price", 0.1, 1)
