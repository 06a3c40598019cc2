"""What the benchmarks rest on: recipes that are read, samples that are the same for all sides, cells that are kept."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regard.config import Settings
from regard.data.cuts import parsed
from regard.data.shape import Shape
from regard.data.sources import Recipe
from regard.evaluate.compare import SAME
from regard.evaluate.figures import Labelled, differences
from regard.evaluate.result import Result
from regard.manifest import write_json
from regard.model.ranker import Ranker, RankerScorer

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_recipes_and_splits_are_read(tmp_path: Path) -> None:
    for name, chosen in import_module("road_sets").SETS.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(chosen.recipe.replace("DATA", "/data"))
        assert all(str(one).startswith(f"/data/{name}/") for source in Recipe.read(file).sources for one in source.path)
        for split in (chosen.split, *chosen.refused):
            parsed(split)


def test_both_shops_are_read_with_their_keywords_and_cells_follow_the_run_they_start_from(tmp_path: Path) -> None:
    domains, sets = import_module("domains"), import_module("road_sets").SETS
    for name in domains.PAIR:
        file = tmp_path / f"{name}.toml"
        file.write_text((sets[name].recipe + domains.ITEMS.format(name=name)).replace("DATA", "/data"))
        items = Recipe.read(file).items
        assert items is not None
        assert (items.columns.id, items.columns.title, items.columns.text) == ("item_id", None, "keywords")
    walk = domains.Walk(argparse.Namespace(vectors="words", epochs=0, change=[], further=[], ids=True))
    shop = domains.Shop("b", {"fingerprint": "log"}, tmp_path)
    starts = [None, tmp_path / "one", tmp_path / "two"]
    for start in starts[1:]:
        assert start is not None
        start.mkdir()
        body = {"kind": "run", "format": 1, "model": "mean", "files": {}}
        (start / "weights.safetensors").write_text(start.name)
        body["files"] = {"weights.safetensors": {"bytes": 3, "sha256": start.name}}
        write_json(start / "manifest.json", body)
    cells = [walk.cell(shop, "from 1", walk.settings(1), start, "words") for start in starts]
    assert len({cell.file for cell in cells}) == 3
    assert [label for label, *_ in walk.ways(0.05)] == ["from", "chance", "ids"]


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    tables = import_module("road_tables")
    file = tmp_path / "results.md"
    file.write_text("\n".join(["by hand", tables.MARKS[0], "old", tables.MARKS[1], "also by hand"]))
    tables.into_docs(file, "# Title\n\nNew.\n\n## log\n")
    assert file.read_text() == f"by hand\n{tables.MARKS[0]}\n\nNew.\n\n### log\n\n{tables.MARKS[1]}\nalso by hand"
    assert tables.MARKS[0] in (FOLDER.parent / "docs" / "results.md").read_text("utf-8")


def _samples(per_user: tuple[int, ...] = (4, 1, 3, 40), candidates: int = 3) -> Any:
    """Draw samples of four users, of whom the last has more requests than may share a row."""
    protocol, rng = import_module("peers.din_protocol"), np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(np.array(per_user) + 5)])
    user = np.repeat(np.arange(len(per_user)), per_user).astype(np.int32)
    parts = {}
    for name in protocol.PARTS:
        end = np.concatenate([first + 1 + np.arange(many) for first, many in zip(offsets, per_user, strict=False)])
        end[0] -= 1  # a request without history
        items = rng.integers(1, 10, (len(user), candidates)).astype(np.int32)
        labels = rng.permuted(np.eye(1, candidates, dtype=np.uint8).repeat(len(user), 0), axis=1)
        parts[name] = protocol.Part(user, np.maximum(offsets[user], end - 6), end, items, labels)
    about = {"dataset": "made-up", "length": 6, "seed": 0, "sample": 1.0, "negatives": [2, 2, 2]}
    events = rng.integers(1, 10, offsets[-1]).astype(np.int32)
    return protocol.Samples(about, events, offsets, np.arange(9), np.arange(len(per_user)), parts)


def _batches(samples: Any, **options: Any) -> Any:
    clock = import_module("peers.din_protocol").Clock()
    return import_module("ranking_samples").SampleBatches(samples, seed=0, clock=clock, **options)


@pytest.mark.parametrize("window", [1, 7, 32])
def test_every_sample_is_asked_once_with_the_events_it_names(window: int) -> None:
    samples = _samples()
    part, asked, rows = samples.parts["train"], [], 0
    for batch in _batches(samples, rows=36, window=window):
        rows += len(batch.histories)
        first = batch.histories.offsets[:-1][batch.row_of_request]
        for at, (start, end) in enumerate(batch.spans.tolist()):
            own = slice(*batch.offsets[at : at + 2].tolist())
            events = batch.histories.items[int(first[at]) + start : int(first[at]) + end]
            told = (int(batch.users[at]) - 1, events, batch.candidates[own], batch.labels[own])
            asked.append(tuple(one if isinstance(one, int) else tuple(one.tolist()) for one in told))
    expected = [
        (int(user), *(tuple(one.tolist()) for one in (samples.events[start:end], items, labels)))
        for user, start, end, items, labels in zip(*vars(part).values(), strict=True)
    ]
    assert sorted(asked) == sorted(expected)
    assert rows < len(part) or window == 1


def _ranker(form: str) -> Ranker:
    options = argparse.Namespace(width=8, epochs=1, seed=0, patience=2, precision="float32", device="cpu", threads=1)
    settings = import_module("ranking_samples").settings_of(form, 1, options)
    torch.manual_seed(0)
    model = Ranker(Shape(items=9, users=4), settings.model)
    model.known[:] = True
    return model.eval()


@pytest.mark.parametrize("form", ["activation-unit", "multi-head", "mean", "candidate"])
def test_scores_keep_the_order_of_samples_and_do_not_depend_on_shared_rows(form: str) -> None:
    ours, samples = import_module("ranking_samples"), _samples()
    scorer, part = RankerScorer(_ranker(form), torch.device("cpu")), samples.parts["train"]
    scored = ours.score(scorer, samples, part).reshape(len(part), -1)
    bounds = [0, 4, 5, 8, 48]  # the rows of users
    shared = scorer.probabilities(ours.requests_of(samples, part, np.array(bounds))).reshape(len(part), -1)
    np.testing.assert_allclose(scored, shared, atol=1e-6)
    for at in (0, 6, 47):
        alone = scorer.probabilities(ours.requests_of(samples, part.take(np.array([at])), np.array([0, 1])))
        np.testing.assert_allclose(scored[at], alone, atol=1e-6)


def test_shuffled_samples_keep_candidates_and_read_other_histories() -> None:
    samples = _samples()
    other = import_module("ranking_samples").shuffled(samples)
    for name, part in samples.parts.items():
        mine = other.parts[name]
        np.testing.assert_array_equal(mine.candidates, part.candidates)
        assert sorted(zip(mine.start, mine.end, strict=True)) == sorted(zip(part.start, part.end, strict=True))
        assert (mine.start != part.start).mean() > 0.5
    assert sum(len(batch) for batch in _batches(other, rows=12, window=1)) == len(samples.parts["train"])


def _said(seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(30), 8)
    return Labelled(np.tile([1.0, *[0.0] * 7], 30), rng.random(240), user, np.arange(30), 30, 0)


def test_differences_of_one_seed_are_those_of_the_library_and_of_several_their_means() -> None:
    cells = import_module("ranking_cells")
    names = ("auc", "gauc", "log_loss")
    base, other = (cells.Way(name, [], [_said(seed)]) for name, seed in (("base", 0), ("other", 1)))
    expected = differences(_said(0), _said(1))
    assert other.beside(base, names) == {name: expected[name] for name in names}
    several = cells.Way("several", [], [_said(1), _said(2)])
    assert several.numbers(names)["auc"]["value"] == pytest.approx(np.mean(several.values("auc")))
    assert several.beside(base, names)["gauc"]["value"] == pytest.approx(
        np.mean(several.values("gauc")) - base.values("gauc")[0]
    )
    line = cells.table([base, several], names).splitlines()[-1]
    assert line.startswith(f"| several | {np.mean(several.values('auc')):.4f} (")
    assert f"{min(several.values('auc')):.4f}-{max(several.values('auc')):.4f}" in line


def test_a_cell_has_a_key_of_data_and_settings() -> None:
    cells = import_module("ranking_cells")
    assert cells.key_of({"a": 1, "b": 2}) == cells.key_of({"b": 2, "a": 1})
    settings = Settings()
    files = [
        cells.cell_of(Path(), "way", fingerprint, settings.changed(changes)).file
        for fingerprint, changes in (("one", []), ("two", []), ("one", ["train.seed=2"]), ("one", ["model.width=8"]))
    ]
    assert len(set(files)) == len(files)


def test_a_cell_of_the_comparison_that_is_whole_is_not_run_again(tmp_path: Path) -> None:
    ranking = import_module("ranking")
    cell = ranking.Cell(["false"], tmp_path)
    assert cell.run() is None  # it broke
    told = {"probabilities": "said.npy", "validation": {"auc": 0.7}, "training_rows_per_second": 9.0}
    write_json(tmp_path / "found.json", told)
    assert cell.run() is None  # its probabilities are gone
    np.save(tmp_path / "said.npy", np.zeros(1))
    assert cell.run() == told


def test_the_key_of_a_cell_follows_samples_trial_seed_and_precision(tmp_path: Path) -> None:
    ranking = import_module("ranking")
    told = {"work": tmp_path, "peers": None, "epochs": 1, "last_epochs": 2, "patience": 1, "watch": 0}
    told |= {"threads": 1, "device": "cpu"}
    folders = []
    sides = [ranking.ours("multi-head"), ranking.ours("multi-head", "--shuffled")]
    for precision, content in (("float32", b"one"), ("bfloat16", b"one"), ("float32", b"two")):
        (tmp_path / "samples").write_bytes(content)
        asked = argparse.Namespace(**told, precision={side.name: precision for side in sides})
        comparison = ranking.Comparison("log", tmp_path / "samples", asked)
        folders += [comparison.cell(side, trial, seed).folder for side in sides for trial in (1, 2) for seed in (0, 1)]
        folders += [
            comparison.cell(sides[0], 1, 0, "--speed").folder,
            comparison.cell(sides[0], 1, 0, last=True).folder,
        ]
    assert len(set(folders)) == len(folders)


def test_only_the_peer_that_validation_likes_best_has_all_seeds(tmp_path: Path) -> None:
    ranking = import_module("ranking")
    (tmp_path / "samples").write_bytes(b"one")
    told = {"work": tmp_path, "peers": Path("python"), "epochs": 1, "last_epochs": 2, "patience": 1}
    asked = argparse.Namespace(**told, watch=0, threads=1, device="cpu", precision={}, seeds=[3, 4, 5])
    comparison = ranking.Comparison("log", tmp_path / "samples", asked)
    trials = dict.fromkeys(ranking.sides_of(asked), 2)
    for at, side in enumerate(trials):
        folder = comparison.cell(side, 2, 3).folder
        folder.mkdir(parents=True)
        write_json(folder / "found.json", {"validation": {"auc": 0.7 + (at == 1) / 10}})
    seeds = [comparison.seeds(side, trials) for side in trials]
    assert seeds == [[3], [3, 4, 5], [3], [3, 4, 5], [3, 4, 5]]


def test_every_side_declares_six_trials() -> None:
    ranking, sides = import_module("ranking"), argparse.Namespace(peers=Path("python"))
    assert [len(side.trials) for side in ranking.sides_of(sides)] == [6] * 5
    trials = import_module("ranking_samples").TRIALS
    assert list(trials) == list(ranking.OURS)
    assert ranking.ours("mean").trials == trials["activation-unit"]


def test_the_page_says_which_bars_are_met() -> None:
    ranking, page, cells = (import_module(name) for name in ("ranking", "ranking_page", "ranking_cells"))
    samples = _samples()
    test = samples.parts["test"]

    def way(name: str, sharp: float, speed: float) -> Any:
        said = np.random.default_rng(0).random(test.candidates.shape) + sharp * test.labels
        facts = {"options": {"trial": 1, "batch": 8}, "settings": {"lr": 1}, "notes": []}
        rates = dict.fromkeys(page.RATES.values(), speed)
        return cells.Way(name, [{**facts, **rates}], [ranking.labelled(samples, said / said.max())])

    slow, fast = way("slow", 0.0, 1.0), way("fast", 1.0, 4.0)
    assert page.chapter("made-up", samples, [slow], [fast], {"fast": [slow]}).count("**met**") == 2
    assert page.chapter("made-up", samples, [fast], [slow], {"slow": []}).count("**missed**") == 2


def test_frappe_draws_apps_that_were_not_used_in_that_very_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frappe = import_module("frappe")
    rng = np.random.default_rng(0)
    names = ("user", "item", "cnt", *frappe.CONTEXT, "cost")
    rows = {tuple(map(str, [rng.integers(3), rng.integers(9), 1, *[rng.integers(2)] * 7, "free"])) for _ in range(40)}
    (tmp_path / "frappe").mkdir()
    (tmp_path / "frappe" / "frappe.csv").write_text("\n".join("\t".join(row) for row in (names, *sorted(rows))) + "\n")
    monkeypatch.setattr(frappe, "DATA", tmp_path)
    events, apps = frappe.labelled(0)
    found = events.to_pylist()
    asked = [tuple(row[name] for name in ("user", *frappe.CONTEXT, "item")) for row in found]
    used = {one for one, row in zip(asked, found, strict=True) if row["label"]}
    assert len(used) == len(rows)
    assert len(found) == 3 * len(rows)
    assert not used & {one for one, row in zip(asked, found, strict=True) if not row["label"]}
    assert set(apps["cost"].to_pylist()) == {"free"}


def _encoder(model: str, validation: float, ahead: tuple[float, ...] = (0, 0, 0)) -> Any:
    """Make up a row of the page of lengths: one seed, so far ahead in each band; half the users have no case there."""
    lengths = import_module("lengths")
    rng = np.random.default_rng(len(model))
    columns = {band: rng.normal(0.5 + far, 0.05, 40) for band, far in zip(lengths.BANDS, ahead, strict=True)}
    for at, column in enumerate(columns.values()):
        column[at % 2 :: 2] = np.nan
    columns = {"all": rng.normal(0.5, 0.05, 40), **columns}
    protocol = {**dict.fromkeys(SAME, "same"), "users": 40, "cases": 40, "interval": {"resamples": 50, "seed": 0}}
    protocol |= {"catalogue": 1000, "seen": "filter", "targets_seen": 7000, "encoder_weights": 12}
    result = Result({}, {}, protocol, {}, np.arange(40, dtype=np.int32), columns)
    result = replace(result, metrics=lengths.numbers(columns, result))
    training = {"validation": {lengths.METRIC: validation}, "learning_seconds": 3.0, "targets_per_second": 90.0}
    training |= {"best_epoch": 1, "epochs": 2}
    machine = dict.fromkeys(("processor", "cores", "device", "threads", "precision", "torch"), "made-up")
    found = {"training": training, "machine": machine, "code": {"commit": "abc"}, "load": 0.5}
    return lengths.Row(model, [found], [result], [result])


def test_lengths_say_of_every_band_whether_attention_pays() -> None:
    lengths = import_module("lengths")
    rows = [_encoder("mean", 0.1), _encoder("gru", 0.2), _encoder("self-attention", 0.3, (0.2, 0.0, -0.2))]
    head, _, told = lengths.verdicts(rows)
    assert head.startswith("Difference to gru, ")
    short, middle, long = (told.partition(f"{band} ")[2].partition(";")[0] for band in lengths.BANDS)
    assert short.endswith("attention pays")
    assert middle.endswith("no clear difference")
    assert long.rstrip(".").endswith("**attention does not pay**")
    assert lengths.verdicts(rows[:2]) == []  # no form of attention, nothing to say
    asked = argparse.Namespace(log="made-up", set=["train.epochs=9"], shown=["--log", "made-up"])
    page = lengths.page(rows, asked, "2026-11-23")
    assert told in page
    assert "train.epochs=9" in page
    assert f"| self-attention, {lengths.OTHERS} |" in page
