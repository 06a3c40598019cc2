"""Pretrained vectors down the whole road: an item that nobody has met is found by what is known of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import regard
from regard import pipeline
from regard.cli import app
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.errors import InputError, SettingsError
from regard.recommend.additions import Additions
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run

MODES = ["init", "frozen", "fuse", "gate"]


def clubs(users: int = 120, each: int = 8) -> tuple[Dataset, dict[str, list[float]]]:
    """Two clubs that never meet, and vectors that know the club of every item; `new tea` and `new ale` are unmet."""
    rng = np.random.default_rng(0)
    names = {club: [f"{club} {at}" for at in range(12)] for club in ("tea", "ale")}
    rows = [
        (f"{club}{user}", item)
        for club in names
        for user in range(users)
        for item in rng.permutation(names[club])[:each]
    ]
    log = pa.table({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": list(range(len(rows)))})
    items = [*names["tea"], *names["ale"], "new tea", "new ale"]
    side = {"tea": [3.0, 0.0, 0.0, 0.0], "ale": [0.0, 3.0, 0.0, 0.0]}
    vectors = {item: (np.array(side[item.split()["new" in item]]) + rng.normal(0, 0.3, 4)).tolist() for item in items}
    events = EventLog.read(log, time_kind="order")
    return Dataset.build(events, None, pa.table({"id": items, "title": items})), vectors


def small(mode: str, **changes: str) -> Settings:
    told = {"model.name": "mean", "model.width": 16, "model.transfer": mode, "data.split": "leave-one-out"}
    told |= {"train.epochs": 30, "train.learning_rate": 0.02, "train.batch_tokens": 256, "train.threads": 1}
    told |= {"train.precision": "float32", "train.validations": 1, "evaluate.bootstrap": 0, **changes}
    return Settings().changed([f"{name}={value}" for name, value in told.items()])


@pytest.mark.parametrize("mode", MODES)
def test_unmet_items_are_found_by_their_vectors(mode: str, tmp_path: Path) -> None:
    dataset, vectors = clubs()
    run = pipeline.train(dataset, small(mode), tmp_path / mode, vectors=vectors)
    recommender = Recommender(tmp_path / mode, dataset)
    for club, other in (("tea", "ale"), ("ale", "tea")):
        history = [f"{club} {at}" for at in range(6)]
        found = [one.item for one in recommender.recommend(history=history, k=26, seen="keep").items]
        assert found.index(f"new {club}") < found.index(f"new {other}"), (mode, found)
    assert run.manifest["vectors"]["items"] == [26, 26]
    assert run.manifest["vectors"]["geometry"]["rows"] == 24


def test_without_vectors_unmet_items_are_not_recommended(tmp_path: Path) -> None:
    dataset, _ = clubs(users=20)
    pipeline.train(dataset, small("auto", **{"train.epochs": "1"}), tmp_path / "run")
    found = Recommender(tmp_path / "run", dataset).recommend(history=["tea 0"], k=26, seen="keep").items
    assert len(found) == 24
    assert not {one.item for one in found} & {"new tea", "new ale"}


@pytest.mark.parametrize(
    "told", ["model.transfer=frozen", "model.softness=3.0", "model.content_weight=2.0", "train.vectors_rate=0.5"]
)
def test_settings_of_vectors_need_vectors(told: str, tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    settings = small("auto", **{"train.epochs": "1"}).changed([told])
    with pytest.raises(SettingsError, match=rf"{told} is of pretrained vectors, and none were given.*--vectors"):
        pipeline.train(dataset, settings, tmp_path / "run")
    pipeline.train(dataset, settings, tmp_path / "run", vectors=vectors)


@pytest.mark.parametrize(
    ("told", "way", "others"),
    [
        ("model.id_width=4", "fuse", ["init", "frozen", "gate"]),
        ("model.id_dropout=0.3", "gate", ["init", "frozen", "fuse"]),
        ("train.vectors_rate=0.5", "init", ["frozen", "fuse", "gate"]),
        ("train.freeze=0.2", "init", ["frozen", "fuse", "gate"]),
    ],
)
def test_settings_of_another_way_are_refused(told: str, way: str, others: list[str], tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    for mode in others:
        settings = small(mode, **{"train.epochs": "1"}).changed([told])
        with pytest.raises(SettingsError, match=rf"{told} is for model\.transfer={way}, and {mode} does not read it"):
            pipeline.train(dataset, settings, tmp_path / "run", vectors=vectors)
    settings = small(way, **{"train.epochs": "1"}).changed([told])
    run = pipeline.train(dataset, settings, tmp_path / way, vectors=vectors)
    again = pipeline.train(dataset, run.settings, tmp_path / "again", vectors=vectors)  # where all settings are told
    assert again.settings == run.settings


def test_what_an_older_run_was_told_of_another_way_does_not_stop_what_begins_from_it(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    run = pipeline.train(dataset, small("frozen", **{"train.epochs": "1"}), tmp_path / "run", vectors=vectors)
    file = run.path / "manifest.json"
    body = json.loads(file.read_text())
    body["settings"]["model"]["id_width"] = 4
    file.write_text(json.dumps(body))
    on = Settings().changed(["train.epochs=1", "data.split=leave-one-out", "train.threads=1"])
    pipeline.train(dataset, on, tmp_path / "on", start=run.path, vectors=vectors)
    with pytest.raises(SettingsError, match=r"train\.freeze=0\.5 is for model\.transfer=init, and frozen"):
        pipeline.train(dataset, on.changed(["train.freeze=0.5"]), tmp_path / "no", start=run.path, vectors=vectors)


def test_a_retriever_matches_content_unless_told_otherwise(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    once = {"train.epochs": "1"}
    run = pipeline.train(dataset, small("auto", **once), tmp_path / "run", vectors=vectors)
    assert run.settings.model.content_weight == 6
    assert run.settings.model.transfer == "init"  # and not `auto`, which may mean another way one day
    off = pipeline.train(
        dataset, small("auto", **once, **{"model.content_weight": "0"}), tmp_path / "off", vectors=vectors
    )
    assert off.stage().content is None  # type: ignore[union-attr]
    again = Run.open(run.path).stage()
    assert torch.equal(again.content.rows, run.stage().content.rows)  # type: ignore[union-attr]
    assert float(again.content.gate[-1]) == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mean", "matrix-factorization", "ranker"])
def test_vectors_of_a_run_say_nothing_of_items_that_it_has_not_met(name: str, tmp_path: Path) -> None:
    """A row that was never trained is random: who starts from it would take the item for known."""
    dataset, vectors = clubs(users=20)
    plain, settings = (small(how, **{"train.epochs": "1", "model.name": name}) for how in ("auto", "gate"))
    run = pipeline.train(dataset, plain, tmp_path / "run")
    file = tmp_path / "vectors.parquet"
    assert pipeline.vectors(run.path, file)["notes"] == ["2 items of which nothing is known have no vector"]
    rows = {row["item"]: row for row in pq.read_table(file).to_pylist()}
    table = run.stage().table.detach().numpy()  # type: ignore[union-attr]
    for at, item in enumerate(dataset.items.array.to_pylist(), 1):
        assert rows[item]["trained"] == ("new" not in item)
        assert rows[item]["vector"] == (None if "new" in item else table[at].tolist())
    again = pipeline.train(dataset, settings, tmp_path / "again", vectors=str(file))
    assert again.manifest["vectors"]["items"] == [24, 26]
    assert again.manifest["vectors"]["report"]["notes"] == ["2 rows have no id or no vector"]
    assert again.stage().known.sum() == 24  # type: ignore[union-attr]
    told = pipeline.train(dataset, settings, tmp_path / "told", vectors=vectors)
    assert Recommender(told).vectors()["vector"].null_count == 0  # they are known by their vectors


def test_a_frozen_start_stays_where_it_is(tmp_path: Path) -> None:
    """`train.freeze` up to the last step, or no rate at all: the table ends as it began."""
    dataset, vectors = clubs(users=20)
    tables = []
    for name, change in (
        ("none", "train.vectors_rate=0"),
        ("late", "train.freeze=0.999"),
        ("own", "train.vectors_rate=1"),
    ):
        settings = small("init", **{"train.epochs": "2"}).changed([change])
        run = pipeline.train(dataset, settings, tmp_path / name, vectors=vectors)
        tables.append(run.stage().item_embedding.item.detach()[1:])  # type: ignore[union-attr]
    assert (tables[0] - tables[1]).abs().max() < 1e-3
    assert (tables[0] - tables[2]).abs().max() > 0.05


@pytest.mark.parametrize("weights", ["sif", "idf", None])
def test_the_command_reads_words_and_weighs_them_as_told(weights: str | None, tmp_path: Path) -> None:
    _, vectors = clubs(users=20)
    events = [(user, item) for user in ("u", "v", "w") for item in list(vectors)[8:17]]
    table = pa.table({"user": [one[0] for one in events], "item": [one[1] for one in events], "time": list(range(27))})
    pyarrow.csv.write_csv(table, tmp_path / "log.csv")
    pyarrow.csv.write_csv(pa.table({"id": list(vectors), "title": list(vectors)}), tmp_path / "items.csv")
    (tmp_path / "words.txt").write_text("tea 1 0 1\nale 0 1 1\nnew 1 1 0\n")
    words = [
        "prepare",
        str(tmp_path / "log.csv"),
        "--out",
        str(tmp_path / "shop"),
        "--items",
        str(tmp_path / "items.csv"),
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    train = ["train", str(tmp_path / "shop"), "--model", "mean", "--out", str(tmp_path / "run"), "--json"]
    train += ["--vectors", str(tmp_path / "words.txt"), "--set", "train.epochs=1", "--set", "model.width=8"]
    train += ["--set", f"model.word_weights={weights}"] if weights else []
    done = CliRunner().invoke(app, train)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())
    kind = weights or "sif"
    assert (told["vectors"]["by"], told["settings"]["model"]["word_weights"]) == ("words", kind)
    kept = json.loads((tmp_path / "run" / "vectors.json").read_text())["recipe"]["weights"]
    texts = [title.split() for title in vectors]
    total = len(texts) if kind == "idf" else sum(map(len, texts))
    assert (kept["kind"], kept["total"], kept["counts"]["tea"]) == (kind, total, 13)
    # what begins from it, and what is added to it, is weighed as it was
    further = ["train", str(tmp_path / "shop"), "--from", str(tmp_path / "run"), "--set", "train.epochs=1"]
    done = CliRunner().invoke(app, [*further, "--out", str(tmp_path / "further")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "further" / "vectors.json").read_text() == (tmp_path / "run" / "vectors.json").read_text()
    other = CliRunner().invoke(app, [*further, "--set", "model.word_weights=mean", "--out", str(tmp_path / "other")])
    assert f"model.word_weights is {kind} there and mean here" in str(other.exception)
    dataset = Dataset.open(tmp_path / "shop")
    read = pipeline.knowledge(dataset, str(tmp_path / "words.txt"), weights="mean")
    with pytest.raises(SettingsError, match=f"word_weights is {kind}, and these vectors are .* weighed by mean"):
        pipeline.train(dataset, small("gate", **{"model.word_weights": kind}), tmp_path / "bad", vectors=read)


def test_mistakes_have_one_clear_line(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=5)
    popular = Settings().changed(["model.name=popular", "data.split=leave-one-out"])
    with pytest.raises(InputError, match="popular counts"):
        pipeline.train(dataset, popular, tmp_path / "run", vectors=vectors)
    with pytest.raises(InputError, match="only 0 of 24 has one"):
        pipeline.train(dataset, small("gate"), tmp_path / "run", vectors={"new tea": [1.0], "new ale": [2.0]})
    with pytest.raises(SettingsError, match="exclude each other"):
        pipeline.train(dataset, small("gate", **{"model.hash_rows": "5"}), tmp_path / "run", vectors=vectors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", [False, True])
def test_added_items_are_recommended_and_the_run_stays_what_it_was(mode: str, pair: bool, tmp_path: Path) -> None:
    whole, vectors = clubs()
    assert whole.item_table is not None
    short = Dataset.build(EventLog.read(events_of(whole), time_kind="order"), None, whole.item_table.slice(0, 24))
    for name, dataset in (("whole", whole), ("short", short)):
        first = None
        if pair:
            first = pipeline.train(dataset, small(mode), tmp_path / f"{name} first", vectors=vectors)
        own = {"model.name": "ranker", "train.epochs": "2", "data.split": "leave-one-out"} if pair else {}
        run = pipeline.train(dataset, small(mode, **own), tmp_path / name, vectors=vectors, retriever=first)
        if name == "short":
            before = (run.path / "weights.safetensors").read_bytes()
            plain = pipeline.evaluate(run, data=dataset, baselines="none").result.metrics
            report = pipeline.add_items(run, whole.item_table, vectors)
            assert (report["added"], report["already_known"], report["without_vector"]) == (2, 24, 0)
            assert (run.path / "weights.safetensors").read_bytes() == before
            assert pipeline.evaluate(run.path, data=dataset, baselines="none").result.metrics == plain
        recommender = Recommender(tmp_path / name, dataset)
        found = recommender.recommend(history=["tea 0", "tea 1", "new tea"], k=26, seen="keep")
        names = [one.item for one in found.items]
        assert len(names) == 26
        assert pair or names.index("new tea") < names.index("new ale")
        assert not any("unknown" in note for note in found.notes)


def events_of(dataset: Dataset) -> pa.Table:
    user = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
    return pa.table(
        {
            "user": dataset.users.ids(user),
            "item": dataset.items.ids(dataset.item),
            "time": np.arange(dataset.n_events),
        }
    )


def test_items_are_added_twice_by_their_words_and_what_is_unknown_is_counted(tmp_path: Path) -> None:
    dataset, _ = clubs(users=20)
    file = tmp_path / "words.txt"
    file.write_text("tea 1 0 1\nale 0 1 1\nnew 1 1 0\n")
    run = pipeline.train(dataset, small("gate", **{"train.epochs": "2"}), tmp_path / "run", vectors=str(file))
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("id,title\nmint,mint tea\nodd,zzz\n,nameless\n")
    two.write_text("id,title\nmint,again\nstout,dark ale\n")
    first = CliRunner().invoke(app, ["add-items", str(run.path), str(one), "--json"])
    assert first.exit_code == 0, first.output
    report = json.loads(first.output)
    assert (report["added"], report["without_vector"], report["rows_left_out"]) == (2, 1, 1)
    second = CliRunner().invoke(app, ["add-items", str(run.path), str(two)])
    assert "1 items added" in second.output
    assert "3 in all" in second.output
    assert "1 are in the catalogue already" in second.output
    recommender = Recommender(tmp_path / "run", dataset)
    found = [item.item for item in recommender.recommend(history=["ale 1", "odd"], k=40, seen="keep").items]
    assert {"mint", "stout"} <= set(found)
    assert "odd" not in found
    assert found.index("stout") < found.index("mint")  # words of the own club come first
    found = [item.item for item in recommender.recommend(history=["tea 1"], k=40, seen="keep").items]
    assert found.index("mint") < found.index("stout")


def with_attributes() -> tuple[Dataset, dict[str, list[float]]]:
    """The clubs, each item with a category, a number and a vector; a few have none of them."""
    dataset, vectors = clubs(users=20)
    table = dataset.item_table
    assert table is not None
    count = table.num_rows
    kinds = [name.split()["new" in name] if at % 5 else None for at, name in enumerate(table["id"].to_pylist())]
    price = [at / 4 if at % 7 else None for at in range(count)]
    look = [[float(at), 1.0] if at % 6 else None for at in range(count)]
    for name, column in (("kind", pa.array(kinds)), ("price", pa.array(price)), ("look", pa.array(look))):
        table = table.append_column(name, column)
    return Dataset.build(EventLog.read(events_of(dataset), time_kind="order"), None, table), vectors


@pytest.mark.parametrize("mode", ["gate", "frozen"])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_attributes_of_added_items_are_read_as_training_read_them(mode: str, form: str, tmp_path: Path) -> None:
    """An added twin of an item of the catalogue that nobody has met has the same vector."""
    dataset, vectors = with_attributes()
    assert dataset.item_table is not None
    read = small(mode, **{"train.epochs": "2"}).changed(["model.attributes=kind,price,look"])
    run = pipeline.train(dataset, read, tmp_path / "run", vectors=vectors)
    unmet = [name for name in dataset.items.array.to_pylist() if name.startswith("new")]
    row = dataset.item_table.filter(pc.is_in(dataset.item_table["id"], pa.array(unmet))).to_pylist()
    twins = [{**one, "id": f"twin of {one['id']}"} for one in row]
    bare = {"id": "bare", "kind": "never", "price": None, "look": None}
    file = tmp_path / f"new.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([*twins, bare]), file)
    else:
        told = [[one["id"], one["kind"] or "", one["price"], json.dumps(one["look"])] for one in [*twins, bare]]
        lines = [["" if cell in (None, "null") else cell for cell in line] for line in told]
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([["id", "kind", "price", "look"], *lines])
    theirs = {f"twin of {name}": vectors[name] for name in unmet} | {"bare": vectors[unmet[0]]}
    report = regard.add_items(run, str(file), theirs)
    assert report["attributes_unseen"] == {"kind": 1}
    model: Any = Recommender(run, dataset).model
    places = torch.from_numpy(run.items.index([*unmet, *(f"twin of {name}" for name in unmet)]))
    found = model.table[places]
    torch.testing.assert_close(found[: len(unmet)], found[len(unmet) :])
    assert not torch.equal(model.table[-1], found[0])  # the bare one has the vector of the first, and no attributes


def test_attributes_of_added_items_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset, vectors = with_attributes()
    read = small("gate", **{"train.epochs": "1"}).changed(["model.attributes=kind,price,look"])
    run = pipeline.train(dataset, read, tmp_path / "run", vectors=vectors)
    whole = {"id": ["mint"], "kind": ["tea"], "price": [1.5], "look": [[1.0, 2.0]]}
    for name, wrong, said in (
        ("price", ["dear"], "'price': expected a number, as the run has learned it; row 1 has 'dear'"),
        ("look", [[1.0]], r"'look': expected a list of 2 numbers.*row 1 has \[1.0\]"),
        ("look", ["[1, 2"], "'look': expected a list of 2 numbers"),
        ("kind", [["tea"]], "'kind': expected text or numbers, as the run has learned it; got list"),
    ):
        with pytest.raises(InputError, match=said):
            regard.add_items(run, pa.table({**whole, name: wrong}), {"mint": [1.0] * 4})
    with pytest.raises(InputError, match=r"no column 'kind'.*; the run reads it of every item"):
        regard.add_items(run, pa.table({"id": ["mint"]}), {"mint": [1.0] * 4})
    assert not (run.path / "added").exists()


def test_what_was_told_of_an_item_stays_where_a_later_table_is_silent(tmp_path: Path) -> None:
    dataset, vectors = with_attributes()
    read = small("gate", **{"train.epochs": "1"}).changed(["model.attributes=kind,price"])
    run = pipeline.train(dataset, read, tmp_path / "run", vectors=vectors)
    table = {"id": ["mint"], "kind": ["tea"], "price": [1.5]}
    assert regard.add_items(run, pa.table(table), {"nobody": [1.0] * 4})["without_vector"] == 1
    first = Additions.open(run.path)
    assert regard.add_items(run, pa.table({**table, "kind": ["ale"], "price": [None]}), {"mint": [1.0] * 4})[
        "completed"
    ]
    then = Additions.open(run.path)
    assert first is not None
    assert then is not None
    assert torch.equal(first.attributes["price"], then.attributes["price"])
    assert (first.attributes["kind"] != then.attributes["kind"]).all()


def test_a_ranker_that_reads_nothing_of_new_items_asks_for_no_columns(tmp_path: Path) -> None:
    dataset, vectors = with_attributes()
    first = pipeline.train(dataset, small("gate", **{"train.epochs": "1"}), tmp_path / "first", vectors=vectors)
    own = small("auto", **{"model.name": "ranker", "train.epochs": "1"}).changed(["model.attributes=kind"])
    run = pipeline.train(dataset, own, tmp_path / "run", retriever=first)
    assert regard.add_items(run, pa.table({"id": ["mint"]}), {"mint": [1.0] * 4})["added"] == 1
    both = pipeline.train(dataset, own, tmp_path / "both", retriever=first, vectors=vectors)
    report = regard.add_items(both, pa.table({"id": ["mint"], "kind": ["never"]}), {"mint": [1.0] * 4})
    assert report["attributes_unseen"] == {"kind": 1}


def test_a_run_without_vectors_takes_no_items(tmp_path: Path) -> None:
    dataset, _ = clubs(users=5)
    run = pipeline.train(dataset, small("auto", **{"train.epochs": "1"}), tmp_path / "run")
    with pytest.raises(InputError, match="trained without pretrained vectors"):
        pipeline.add_items(run, pa.table({"id": ["x"], "title": ["tea"]}))
    run = pipeline.train(dataset, small("gate", **{"train.epochs": "1"}), tmp_path / "run", vectors=clubs(5)[1])
    with pytest.raises(InputError, match="handed over in memory; say where"):
        pipeline.add_items(run, pa.table({"id": ["x"], "title": ["tea"]}))


def test_items_without_a_vector_get_one_later(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    path = tmp_path / "run"
    run = pipeline.train(dataset, small("gate", **{"train.epochs": "1"}), path, vectors=vectors)
    table = pa.table({"id": ["late", "never"], "title": ["tea", "ale"]})
    assert pipeline.add_items(run, table, {"somebody": [1.0] * 4})["without_vector"] == 2
    assert [run.items.id(at) for at in (27, 28)] == ["late", "never"]
    assert [run.title(at) for at in (27, 28)] == ["tea", "ale"]
    renamed = pa.table({"id": ["late", "never"], "title": ["green tea", "pale ale"]})
    report = pipeline.add_items(run, renamed, {"late": vectors["new tea"]})
    assert [run.title(at) for at in (27, 28)] == ["green tea", "ale"]  # a title goes with its vector
    assert (report["added"], report["completed"], report["without_vector"]) == (0, 1, 1)
    recommender = Recommender(path, dataset)
    assert len(recommender.run.items) == 28
    assert recommender.model.known[-2:].tolist() == [True, False]


@pytest.mark.parametrize("pair", [False, True])
def test_an_open_run_knows_what_was_added_to_it(pair: bool, tmp_path: Path) -> None:
    dataset, vectors = clubs(users=20)
    once = {"train.epochs": "1"}
    run = pipeline.train(dataset, small("gate", **once), tmp_path / "first", vectors=vectors)
    if pair:
        own = small("auto", **once, **{"model.name": "ranker"})
        run = pipeline.train(dataset, own, tmp_path / "pair", retriever=run)
    assert Recommender(run, dataset).recommend(user="tea1", k=1).items[0].title is not None  # all of it has been read
    assert (len(run.items), len(run.counts), len(run.titles), run.added) == (26, 27, 26, None)
    table = pa.table({"id": ["late"], "title": ["late tea"]})
    regard.add_items(run, table, {"late": vectors["new tea"]})
    assert (len(run.items), len(run.counts), len(run.titles)) == (27, 28, 27)
    found = Recommender(run, dataset).recommend(user="tea1", candidates=["late"], k=1)
    assert [(one.item, one.title) for one in found.items] == [("late", "late tea")]


def test_a_ranker_without_vectors_takes_what_its_retriever_finds(tmp_path: Path) -> None:
    """It reads new items as the unknown one: they share a score, which is that of no row that was never trained."""
    dataset, vectors = clubs(users=20)
    once = {"train.epochs": "1"}
    first = pipeline.train(dataset, small("gate", **once), tmp_path / "first", vectors=vectors)
    own = small("auto", **once, **{"model.name": "ranker"})
    run = pipeline.train(dataset, own, tmp_path / "pair", retriever=first)
    table = pa.table({"id": ["a", "b", "c"]})
    report = pipeline.add_items(run, table, {"a": vectors["new tea"], "b": vectors["new ale"]})
    assert (report["added"], report["without_vector"]) == (3, 1)
    recommender = Recommender(run.path, dataset)
    found = recommender.recommend(history=["ale 1", "a", "new tea"], k=40, seen="keep").items
    assert len(found) == 26 + 2
    scores = {one.item: one.score for one in found}
    assert scores["a"] == scores["b"] == scores["new tea"] == scores["new ale"]
    assert "c" not in scores
    without = recommender.recommend(history=["ale 1", "b", "new ale"], k=40, seen="keep").items
    assert {one.item: one.score for one in without} == scores  # in a history too
    assert pipeline.add_items(run, table, {"c": vectors["new ale"]})["completed"] == 1
    assert "c" in {one.item for one in Recommender(run.path, dataset).recommend(history=["ale 1"], k=40).items}


def test_a_retriever_without_vectors_could_never_find_what_is_added(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=5)
    once = {"train.epochs": "1"}
    first = pipeline.train(dataset, small("auto", **once), tmp_path / "first")
    own = small("gate", **once, **{"model.name": "ranker"})
    run = pipeline.train(dataset, own, tmp_path / "pair", vectors=vectors, retriever=first)
    with pytest.raises(InputError, match="the retriever of this run was trained without pretrained vectors"):
        pipeline.add_items(run, pa.table({"id": ["a"]}), {"a": vectors["new tea"]})
    assert Run.open(run.path).added is None


def test_an_interrupted_addition_to_two_stages_leaves_rows_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, vectors = clubs(users=20)
    first = pipeline.train(dataset, small("gate", **{"train.epochs": "1"}), tmp_path / "first", vectors=vectors)
    own = {"model.name": "ranker", "train.epochs": "1"}
    run = pipeline.train(dataset, small("gate", **own), tmp_path / "pair", vectors=vectors, retriever=first)
    save, saved = Additions.save, []

    def stopped(self: Additions, folder: Path) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(folder)
        save(self, folder)

    monkeypatch.setattr(Additions, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        pipeline.add_items(run, pa.table({"id": ["a"]}), {"a": vectors["new tea"]})
    monkeypatch.undo()
    pipeline.add_items(run, pa.table({"id": ["b"]}), {"b": vectors["new ale"]})
    both = [Additions.open(tmp_path / "pair" / name) for name in (".", "retriever")]
    assert [one.table["id"].to_pylist() for one in both if one] == [["b"], ["b"]]
    assert torch.equal(both[0].rows, both[1].rows)  # type: ignore[union-attr]
    assert "b" in {one.item for one in Recommender(tmp_path / "pair", dataset).recommend(history=["ale 1"], k=30).items}


def test_training_again_does_not_drop_added_items(tmp_path: Path) -> None:
    dataset, vectors = clubs(users=5)
    settings = small("gate", **{"train.epochs": "1"})
    run = pipeline.train(dataset, settings, tmp_path / "run", vectors=vectors)
    pipeline.add_items(run, pa.table({"id": ["a"]}), {"a": vectors["new tea"]})
    with pytest.raises(InputError, match="would drop them"):
        pipeline.train(dataset, settings, tmp_path / "run", vectors=vectors)


def test_titles_of_unknown_words_join_the_catalogue_and_are_counted(tmp_path: Path) -> None:
    dataset, _ = clubs(users=20)
    file = tmp_path / "words.txt"
    file.write_text("tea 1 0 1\nale 0 1 1\nnew 1 1 0\n")
    run = pipeline.train(dataset, small("gate", **{"train.epochs": "1"}), tmp_path / "run", vectors=str(file))
    report = pipeline.add_items(run, pa.table({"id": ["x"], "title": ["zzz qqq"]}))
    assert (report["added"], report["without_vector"]) == (1, 1)
    assert Path(json.loads((run.path / "vectors.json").read_text())["recipe"]["source"]).is_absolute()


def test_what_was_disliked_has_been_seen_too(tmp_path: Path) -> None:
    """A model of labels reads what people liked; what they did not like is not recommended again either."""
    rows = {
        "user": ["u"] * 6 + ["v"] * 6,
        "item": [f"i{at}" for at in (*range(6), *range(3, 9))],
        "time": list(range(12)),
    }
    rows |= {"label": [0, 0, 0, 1, 1, 0] * 2}
    columns = Columns("user", "item", "time", label="label")
    dataset = Dataset.build(EventLog.read(pa.table(rows), columns, time_kind="order"), None)
    for name in ("ranker", "matrix-factorization"):
        told = {"model.name": name, "data.split": "none", "data.labels": "given", "train.epochs": "1"}
        settings = small("auto", **told).changed(["evaluate.seen=filter"])
        pipeline.train(dataset, settings, tmp_path / name)
        found = Recommender(tmp_path / name, dataset).recommend(user="u", k=9).items
        assert {one.item for one in found} == {"i6", "i7", "i8"}
