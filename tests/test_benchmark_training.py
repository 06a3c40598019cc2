"""What the comparison of training rests on: what peers are given, how their lists are made and scored, what is told."""

from __future__ import annotations

import argparse
import json
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.store import Dataset
from regard.errors import ProtocolError

FOLDER = Path(__file__).parents[1] / "benchmarks"
LENGTHS = (7, 3, 2, 11, 5, *[2] * 13)
ITEMS = 61


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (FOLDER, FOLDER / "peers"):
        monkeypatch.syspath_prepend(folder)


@pytest.fixture
def protocol() -> Any:
    """Users whose items never repeat, cut leave-one-out; those of two events only train."""
    rng = np.random.default_rng(3)
    items = [item for many in LENGTHS for item in rng.permutation(ITEMS)[:many].tolist()]
    table = {
        "user": [f"u{user}" for user, many in enumerate(LENGTHS) for _ in range(many)],
        "item": [f"i{item:02}" for item in items],
        "time": [place for many in LENGTHS for place in range(many)],
    }
    dataset = Dataset.build(EventLog.read(pa.table(table), time_kind="order"), None)
    return import_module("train_log").protocol_of(dataset, Settings().changed(["data.split=leave-one-out"]))


def _exported(protocol: Any, folder: Path) -> Any:
    path = import_module("train_log").export(protocol, "made-up", folder / "log.npz")
    return import_module("sasrec_log").Log.read(path)


def test_peers_are_given_training_events_and_no_answer_of_test(protocol: Any, tmp_path: Path) -> None:
    log, dataset = _exported(protocol, tmp_path), protocol.dataset
    trained, validation, test = [], [], []
    for user in range(1, 1 + dataset.n_users):
        items = dataset.item[dataset.offsets[user] : dataset.offsets[user + 1]].tolist()
        kept = len(items) - 2 if len(items) > 2 else len(items)
        trained.append(items[:kept])
        if len(items) > 2:
            validation.append((items[:-2], items[-2]))
            test.append((items[:-1], 0))
    mine = [log.items[a:b].tolist() for a, b in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    assert [row for row in mine if row] == trained
    assert log.n_items == dataset.n_items
    assert log.order.tolist() == [place for row in mine for place in range(len(row))]
    for cases, expected in ((log.validation, validation), (log.test, test)):
        rows = [cases.items[a:b].tolist() for a, b in zip(cases.offsets[:-1], cases.offsets[1:], strict=True)]
        assert list(zip(rows, cases.targets.tolist(), strict=True)) == expected
    assert [row.tolist() for row in log.rows(4)] == [row[-4:] for row in trained if len(row) > 1]


@pytest.mark.parametrize("length", [1, 4, 13])
def test_lists_are_the_best_of_what_was_not_seen(
    protocol: Any, tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = import_module("sasrec_protocol")
    monkeypatch.setattr(sides, "ROWS", 3)
    cases = _exported(protocol, tmp_path).validation
    known = np.arange(protocol.dataset.n_items + 1) % 5 > 0
    weights = torch.randn(protocol.dataset.n_items + 1, protocol.dataset.n_items + 1)

    def score(histories: torch.Tensor) -> torch.Tensor:
        assert histories.shape[1] == length
        return weights[histories].cumsum(1)[:, -1]

    found = sides.best_of(cases, score, length, known)
    for case, listed in enumerate(found):
        history = cases.items[cases.offsets[case] : cases.offsets[case + 1]].tolist()
        read = [item for item in history if known[item]][-length:]
        scores = sum((weights[item] for item in [0] * (length - len(read)) + read), torch.zeros(weights.shape[1]))
        order = scores.argsort(descending=True).tolist()
        assert listed.tolist() == [item for item in order if item and item not in history][:10]


def test_lists_are_scored_as_by_hand(protocol: Any, tmp_path: Path) -> None:
    scored, sides = import_module("train_log"), import_module("sasrec_protocol")
    cases = _exported(protocol, tmp_path).validation
    lists, ranks = np.zeros((len(cases), 10), np.int32), [1, 4, 10, None]
    for case, rank in enumerate(ranks):
        target = int(cases.targets[case])
        history = set(cases.items[cases.offsets[case] : cases.offsets[case + 1]].tolist())
        row = [item for item in range(1, protocol.dataset.n_items + 1) if item != target and item not in history]
        lists[case] = (row if rank is None else [*row[: rank - 1], target, *row[rank - 1 :]])[:10]
    by_hand = (1 + 1 / math.log2(5) + 1 / math.log2(11)) / 4
    found = scored.validated(protocol, lists)
    assert found["ndcg@10"] == pytest.approx(by_hand)
    assert found["hit_rate@10"] == 0.75
    assert sides.ndcg(lists, cases.targets) == pytest.approx(by_hand)


@pytest.mark.parametrize("wrong", ["twice", "seen", "nothing", "beyond", "few"])
def test_lists_that_cannot_be_are_refused(protocol: Any, tmp_path: Path, wrong: str) -> None:
    sides = import_module("sasrec_protocol")
    cases = _exported(protocol, tmp_path).validation
    scores = torch.arange(protocol.dataset.n_items + 1.0)
    lists = sides.best_of(cases, lambda histories: scores.expand(len(histories), -1).clone(), 5)
    assert import_module("train_log").validated(protocol, lists)
    told = {"twice": lists[0, 1], "seen": cases.items[0], "nothing": 0, "beyond": protocol.dataset.n_items + 1}
    lists[0, 0] = told.get(wrong, lists[0, 0])
    with pytest.raises(ProtocolError, match="a peer's lists: expected"):
        import_module("train_log").validated(protocol, lists[1:] if wrong == "few" else lists)


def _curve(seconds: list[float], quality: list[float], label: str = "regard") -> Any:
    rows = [
        {"epoch": at + 1, "seconds": spent, "targets": 10, "validation": {"ndcg@10": figure}}
        for at, (spent, figure) in enumerate(zip(seconds, quality, strict=True))
    ]
    return import_module("train_page").Curve(label, {"epochs": rows}, None)


def test_seconds_to_a_quality_by_hand() -> None:
    curve = _curve([2.0, 3.0, 5.0], [0.1, 0.2, 0.15])
    assert curve.seconds.tolist() == [2, 5, 10]
    assert curve.reached(0.15) == pytest.approx((5.0, 3.5))
    assert curve.reached(0.05) == pytest.approx((2.0, 1.0))
    assert curve.reached(0.21) is None
    assert curve.best == 1


def test_the_bar_takes_the_slowest_of_ours_and_the_first_peer(protocol: Any) -> None:
    page = import_module("train_page")
    curves = [
        _curve([0.1], [0.17], "regard, seed 1"),  # with counts: no second of learning is in them
        _curve([1.0], [0.16], "regard, without counts, seed 1"),
        _curve([4.0], [0.15], "regard, without counts, seed 2"),
        _curve([100.0, 60.0], [0.1, 0.16], "rectools"),
        _curve([90.0], [0.15], "replay"),
    ]
    lines = page._seconds(page.Chapter("ml-1m", protocol, curves, []), 0.15)
    assert "beside replay" in lines[-4]
    assert "1/22.5 of its seconds (1/22.5)" in lines[-4]
    assert lines[-4].endswith("**met**.")


def test_quality_is_judged_with_default_settings(protocol: Any) -> None:
    page = import_module("train_page")
    curves = [
        page.Curve(label, _curve([1.0], [0.2], label).found, SimpleNamespace(value=lambda _, test=test: test))
        for label, test in (("regard", 0.179), ("regard, without counts", 0.1))
    ]
    line = page._lines(page.Chapter("ml-1m", protocol, curves, []))[-1]
    assert line == "- Test ndcg@10 of regard, one seed: 0.1790; at least 0.1780: **met**."


def _comparison(name: str, tmp_path: Path, *words: str) -> Any:
    train = import_module("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", "--work", str(tmp_path), "--threads", "1", *words])
        patch.setattr(train.Comparison, "fingerprint", "log")
        found = train.Comparison(name, train.arguments())
        found.told = {
            label: Settings.of(json.loads(cell.command[-1])["settings"]) for label, cell in found.ours().items()
        }
    return found


def test_ours_are_default_settings_and_beside_them_without_counts_where_seconds_are_asked(tmp_path: Path) -> None:
    told = _comparison("ml-1m", tmp_path, "--seeds", "1,2").told
    assert [*told] == [f"regard{way}, seed {seed}" for way in ("", ", without counts") for seed in (1, 2)]
    assert all(
        settings.model.model_fields_set == {"name"} for label, settings in told.items() if "without" not in label
    )
    assert all(settings.model.covisit_weight == 0 for label, settings in told.items() if "without" in label)
    assert all(settings.train.model_fields_set == {"seed", "threads"} for settings in told.values())
    assert [*_comparison("amazon-beauty", tmp_path).told] == ["regard"]


def test_the_page_says_what_the_size_of_the_data_decides() -> None:
    page = import_module("train_page")
    settings = Settings().changed(["model.covisit_weight=3", "train.table_rate=10"]).model_dump(mode="json")
    one = {"cell": "curve-regard", "side": "regard", "settings": settings, "epochs": [], "machine": {"precision": "f"}}
    said = page._ways([one])
    assert "covisit_weight 3.0" in said
    assert "table_rate 10.0" in said
    assert "vectors_rate" in said


def test_a_peer_that_was_stopped_is_marked_and_not_compared(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = import_module("train_page")
    number = {"value": 0.1, "low": None, "high": None}
    result = SimpleNamespace(metrics={page.KEY: number, page.HIT: number})
    curves = []
    for label, until, end in (
        ("regard", None, 0.2),
        ("rectools", 0.15, 0.16),
        ("replay", 0.15, 0.14),
        ("recbole", 2.0, 0.2),
    ):
        curve = _curve([1.0, 1.0], [0.1, end], label)
        told = {**curve.found, **({"options": {"until": until}} if until else {})}
        curves.append(page.Curve(label, told, result))
    difference = {"difference": 0.01, "low": None, "high": None}
    monkeypatch.setattr(page, "compare", lambda _: {"against": {page.OURS: {page.KEY: difference}}})
    chapter = page.Chapter("made up", protocol, curves, [])
    assert [line.split("|")[1].strip() for line in page._quality(chapter).splitlines()[2:]] == [
        "regard",
        "rectools (stopped)",
        "replay",
        "recbole",
    ]
    stopped, *compared = page._lines(chapter)
    assert stopped.startswith("- rectools was stopped")
    assert ["rectools" in line for line in compared] == [False, False]


@pytest.mark.parametrize("steps", ["0", "-1"])
def test_the_clock_of_a_peer_needs_a_step_before_it(
    steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["side", str(tmp_path / "log.npz"), "--out", str(tmp_path / "out"), "--speed", "3", "--warm-up", steps]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        import_module("sasrec_protocol").options_of("made up")
    assert "--warm-up: expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_course_ends_where_waiting_is_over_or_the_steps_are_timed(protocol: Any, tmp_path: Path) -> None:
    sides, log = import_module("sasrec_protocol"), _exported(protocol, tmp_path)
    plain = {"name": "made-up", "out": tmp_path, "epochs": 9, "patience": 2, "until": 2.0, "speed": 0, "warm_up": 2}
    course = sides.Course(log, argparse.Namespace(**plain))
    scores, over = torch.arange(log.n_items + 1.0), []
    for _ in range(3):
        course.start()
        course.step(5)
        course.step(6)
        course.stop()
        over.append(course.look(lambda histories: scores.expand(len(histories), -1).clone(), 4))
    assert over == [False, False, True]  # the same lists every time: the first is the best
    assert [row["targets"] for row in course.epochs] == [11, 11, 11]
    assert np.load(tmp_path / "test.npy").shape == (len(log.test), 10)
    timed = sides.Course(log, argparse.Namespace(**plain | {"speed": 3}))
    timed.start()
    ends = []
    for targets in (100, 100, 5, 6, 7):
        timed.step(targets)
        ends.append(timed.timed)
    assert ends == [False, False, False, False, True]
    assert timed._rate()["targets"] == 18


def test_equal_architecture_is_that_of_the_peers() -> None:
    sides = import_module("train_sides")
    model = Settings().changed(sides.equal_settings(["train.epochs=2"])).model
    shape = sides.RATE_SHAPE
    assert shape["dropout"] == 0  # peers also drop attention weights, and ours does not
    assert (model.width, model.blocks, model.dropout, model.window) == tuple(
        shape[name] for name in ("width", "blocks", "dropout", "length")
    )
    assert (model.feed_forward, model.expansion, model.heads, model.negatives) == ("plain", 1.0, 1, 0)


def test_rates_have_one_shape_on_all_sides_and_another_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _comparison("amazon-beauty", tmp_path)
    assert plain.shape("rate") == {"length": 200, "width": 64, "blocks": 2, "dropout": 0.0}
    assert plain.shape("curve")["dropout"] == 0.3
    assert _comparison("ml-1m", tmp_path, "--rate-set", "dropout=0.1").shape("rate")["dropout"] == "0.1"
    for wrong in ("dropout", "patience=3"):
        with pytest.raises(SystemExit):
            _comparison("ml-1m", tmp_path, "--rate-set", wrong)
        assert "--rate-set" in capsys.readouterr().err.splitlines()[-1]


def test_our_cells_differ_by_what_was_told_and_by_the_rule_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of the data decides what was not told, so a default that was told is not the same."""
    sides = import_module("train_sides")

    def folder(*changes: str) -> Path:
        about = {"kind": "curve", "seed": 1, "changes": changes, "fingerprint": "log", "speed": False}
        found: Path = sides.our_cell(tmp_path, tmp_path, about).folder
        return found

    plain = Settings()
    told = (f"train.table_rate={plain.train.table_rate}", f"model.dropout={plain.model.dropout}")
    assert len({folder(), folder(told[0]), folder(told[1]), folder(*told)}) == 4
    before = folder()
    assert folder() == before
    monkeypatch.setattr("road.RULE", -1)
    assert folder() != before


def test_cells_differ_by_all_that_they_are_told(tmp_path: Path) -> None:
    sides = import_module("train_sides")
    about = {"kind": "rate", "own": (), "options": {"precision": "float32", "width": 64}, "fingerprint": "log"}
    changes: list[dict[str, Any]] = [
        {},
        {"round": 1},
        {"own": ("--bucket", "32")},
        {"fingerprint": "other"},
        {"options": {"precision": "bfloat16", "width": 64}},
        {"options": {"precision": "float32", "width": 32}},
    ]
    cells = [sides.peer_cell(tmp_path, Path("python"), Path("log"), "replay", about | change) for change in changes]
    assert len({cell.folder for cell in cells}) == len(changes)
    assert cells[2].command[-4:] == ["--precision", "float32", "--width", "64"]
    assert cells[2].kept() is None


@pytest.mark.parametrize("given", [["--peers", "/a/python", "--work", "/b"], ["--peers=/a/python", "--out=/b/c.md"]])
def test_the_page_says_the_command_without_places(given: list[str]) -> None:
    shown = import_module("train").shown([*given, "--sets", "ml-1m", "--set", "train.epochs=3"])
    words = "--peers PEERS/bin/python --sets ml-1m --set train.epochs=3"
    assert shown == f"python benchmarks/train.py {words}"
