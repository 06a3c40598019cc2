"""Training that begins with the weights of a run: on a grown log by raw ids, in another shop by what items say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from regard import pipeline
from regard.cli import app
from regard.config import Settings
from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.knowledge import Knowledge
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.errors import InputError, RegardError, SettingsError
from regard.model.retriever import Retriever
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run

CLUBS = ("tea", "ale")


def shop(name: str, users: int = 60, each: int = 8, seed: int = 0) -> tuple[Dataset, dict[str, list[float]]]:
    """Two clubs that never meet, in a shop of its own ids; vectors say the club of an item, whatever the shop."""
    rng = np.random.default_rng(seed)
    names = {club: [f"{name} {club} {at}" for at in range(12)] for club in CLUBS}
    rows = [
        (f"{name}{club}{user}", item)
        for club in CLUBS
        for user in range(users)
        for item in rng.permutation(names[club])[:each]
    ]
    items = [item for club in CLUBS for item in rng.permutation(names[club]).tolist()]
    side = {"tea": [3.0, 0.0, 0.0, 0.0], "ale": [0.0, 3.0, 0.0, 0.0]}
    vectors = {item: (np.array(side[item.split()[1]]) + rng.normal(0, 0.3, 4)).tolist() for item in items}
    return built(rows, items), vectors


def built(rows: list[tuple[str, str]], items: list[str], path: Path | None = None, **columns: Any) -> Dataset:
    log = pa.table({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": list(range(len(rows)))})
    table = pa.table({"id": items, "title": items, **columns})
    return Dataset.build(EventLog.read(log, time_kind="order"), path, table)


def small(**changes: Any) -> Settings:
    told = {"model.name": "mean", "model.width": 16, "data.split": "leave-one-out", "train.epochs": 20}
    told |= {"train.learning_rate": 0.02, "train.batch_tokens": 256, "train.threads": 1}
    told |= {"train.precision": "float32", "train.validations": 1, "evaluate.bootstrap": 0, **changes}
    return Settings().changed([f"{name}={value}" for name, value in told.items()])


def on(**changes: Any) -> Settings:
    """How to go on: nothing is said of the model."""
    told = {"data.split": "leave-one-out", "train.threads": 1, "train.precision": "float32", "evaluate.bootstrap": 0}
    told |= {"train.epochs": 1, **changes}
    return Settings().changed([f"{name}={value}" for name, value in told.items()])


def zero_shot() -> Settings:
    return on(**{"train.zero_shot": "true"})


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.stage().state_dict()


@pytest.mark.parametrize("name", ["mean", "self-attention", "gru"])
def test_another_shop_is_understood_without_any_training(name: str, tmp_path: Path) -> None:
    (here, mine), (there, others) = shop("a"), shop("b", users=8, seed=1)
    model = {"model.name": name, "model.transfer": "frozen", "train.epochs": 8, "model.heads": 1, "model.blocks": 1}
    first = pipeline.train(here, small(**model), tmp_path / "first", vectors=mine)
    run = pipeline.train(there, zero_shot(), tmp_path / "zero", vectors=others, start=first)
    assert run.settings.model == first.settings.model
    assert [row["epoch"] for row in run.manifest["epochs"]] == [0]
    recommender = Recommender(run.path, there)
    for club in CLUBS:
        found = recommender.recommend(history=[f"b {club} {at}" for at in range(4)], k=12, seen="keep").items
        assert sum(one.item.split()[1] == club for one in found) >= 11, (club, found)
    before, after = weights(first), weights(run)
    learned = [key for key, _ in first.stage().named_parameters()]
    assert all(torch.equal(before[key], after[key]) for key in learned)
    # rows by hand: the geometry of the first shop, never that of the second
    maker = pipeline.VectorMaker.open(first.path)
    assert maker is not None
    raw = np.array([others[item] for item in there.items.ids(np.arange(1, 25))], np.float32)
    rows = (raw - raw.mean(0, dtype=np.float64)) @ maker.geometry.turn
    np.testing.assert_allclose(after["item_embedding.pretrained.rows"][1:], rows, atol=1e-6)
    assert run.manifest["from"]["rows"] == {}


def test_what_all_items_of_another_shop_have_in_common_is_left_out(tmp_path: Path) -> None:
    """Its vectors lie somewhere else as a whole, as those of another domain do: that says nothing of any item."""
    (here, mine), (there, others) = shop("a"), shop("b", users=30, seed=1)
    first = pipeline.train(here, small(**{"model.transfer": "frozen"}), tmp_path / "first", vectors=mine)
    moved = {name: np.add(vector, [5.0, -7.0, 2.0, 9.0]).tolist() for name, vector in others.items()}
    found = [
        pipeline.train(there, zero_shot(), tmp_path / name, vectors=vectors, start=first).manifest["validation"]
        for name, vectors in (("plain", others), ("moved", moved))
    ]
    assert found[0]["ndcg@10"] == pytest.approx(found[1]["ndcg@10"])
    assert found[0]["hit_rate@10"] > 0.9


@pytest.mark.parametrize("mode", ["init", "frozen", "fuse", "gate"])
def test_vectors_of_the_same_shop_stay_what_they_were(mode: str, tmp_path: Path) -> None:
    here, mine = shop("a")
    first = pipeline.train(here, small(**{"model.transfer": mode}), tmp_path / "first", vectors=mine)
    late = [("late", f"a {club} {at}") for club in CLUBS for at in range(12)]
    grown = built([*rows_of(here), *late], sorted(mine))
    run = pipeline.train(grown, on(), tmp_path / "grown", vectors=mine, start=first)
    makers = [pipeline.VectorMaker.open(one.path) for one in (first, run)]
    assert makers[0] is not None
    assert makers[1] is not None
    np.testing.assert_array_equal(makers[0].geometry.mean, makers[1].geometry.mean)


@pytest.mark.parametrize("mode", ["init", "ids"])
def test_ids_do_not_go_to_a_shop_that_has_none_of_them(mode: str, tmp_path: Path) -> None:
    (here, mine), (there, others) = shop("a"), shop("b", users=8, seed=1)
    vectors = mine if mode == "init" else None
    first = pipeline.train(here, small(**{"train.epochs": 1}), tmp_path / "first", vectors=vectors)
    with pytest.raises(InputError, match=r"it knows none of the 24 items.*only model.transfer=frozen"):
        pipeline.train(there, zero_shot(), tmp_path / "zero", vectors=others if vectors else None, start=first)
    assert not (tmp_path / "zero" / "manifest.json").exists()


def rows_of(dataset: Dataset) -> list[tuple[str, str]]:
    """Pairs of user and item, users together."""
    users = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
    return list(zip(dataset.users.ids(users), dataset.items.ids(dataset.item), strict=True))


def test_zero_shot_is_far_above_chance_and_is_a_run_like_any_other(tmp_path: Path) -> None:
    (here, mine), (there, others) = shop("a"), shop("b", users=30, seed=1)
    pipeline.train(here, small(**{"model.transfer": "frozen"}), tmp_path / "first", vectors=mine)
    run = pipeline.train(there, zero_shot(), tmp_path / "zero", vectors=others, start=tmp_path / "first")
    measured = pipeline.evaluate(run, data=there, baselines="none", on="validation").result.value("hit_rate@10")
    assert measured == pytest.approx(run.manifest["validation"]["hit_rate@10"])
    # of a club of twelve a history leaves five or six: ten places hold them all, of 24 items by chance about half
    assert measured is not None
    assert measured > 0.9
    new = pa.table({"id": ["c tea", "c ale"], "title": ["c tea", "c ale"]})
    report = pipeline.add_items(run, new, {"c tea": [3.0, 0, 0, 0], "c ale": [0, 3.0, 0, 0]})
    assert (report["added"], report["without_vector"]) == (2, 0)
    found = [one.item for one in Recommender(run.path, there).recommend(history=["b ale 1"], k=26, seen="keep").items]
    assert found.index("c ale") < found.index("c tea")


ROWS = [(f"u{user}", f"i{item}") for user in range(12) for item in (user % 5, (user + 1) % 5, (user + 2) % 5, user % 3)]
GROWN = [("new user", f"i{item}") for item in (4, 5, 6, 0)]
GROWN += [row for user in reversed(range(12)) for row in ROWS[4 * user : 4 * user + 4]]
GROWN += [("u3", "i5"), ("u3", "i6")]
FORMS = {
    "self-attention": {"model.heads": 1, "model.blocks": 1},
    "ranker": {"model.name": "ranker", "model.user_ids": "true"},
    "matrix-factorization": {"model.name": "matrix-factorization"},
}


def logs() -> tuple[Dataset, Dataset, dict[str, list[float]]]:
    """A log, and the same one grown, with its users, items, colours and sizes in another order."""
    sizes = {f"i{at}": float(at * at) + 0.5 for at in range(7)}
    colours = {f"i{at}": ("red", "blue", "green")[at % 3] for at in range(6)} | {"i6": "black"}
    old, new = [f"i{at}" for at in range(5)], [f"i{at}" for at in (6, 4, 2, 0, 5, 3, 1)]
    columns = [{"colour": [colours[one] for one in ids], "size": [sizes[one] for one in ids]} for ids in (old, new)]
    rng = np.random.default_rng(3)
    return (
        built(ROWS, old, **columns[0]),
        built(GROWN, new, **columns[1]),
        {one: rng.normal(size=4).tolist() for one in new},
    )


@pytest.mark.parametrize("transfer", [None, "init", "frozen", "fuse", "gate"])
@pytest.mark.parametrize("form", list(FORMS))
def test_a_grown_log_keeps_rows_by_id_whatever_the_order(form: str, transfer: str | None, tmp_path: Path) -> None:
    old, new, vectors = logs()
    told = {"model.name": form, "train.epochs": 2, "model.attributes": ["colour", "size"], **FORMS[form]}
    told |= {} if transfer is None else {"model.transfer": transfer}
    known = {} if transfer is None else {"vectors": vectors}
    first = pipeline.train(old, small(**told), tmp_path / "first", **known)
    run = pipeline.train(new, zero_shot(), tmp_path / "grown", start=first, **known)
    before, after = weights(first), weights(run)
    assert old.items.array.to_pylist()[:5] != new.items.array.to_pylist()[:5]
    tables = {"item_embedding.item": "items", "item_bias": "items", "user.item": "users", "user_bias": "users"}
    for name, kind in tables.items():
        if name not in before:
            continue
        mine, theirs = getattr(new, kind), getattr(old, kind)
        for at, key in enumerate(mine.array.to_pylist(), 1):
            place = theirs.array.to_pylist().index(key) + 1 if key in theirs.array.to_pylist() else None
            if place is not None:
                assert torch.equal(after[name][at], before[name][place]), (name, key)
    colours = {name: run_.manifest["attributes"]["colour"]["values"] for name, run_ in (("b", first), ("a", run))}
    for value in colours["b"]:
        rows = [
            state["item_embedding.values.0"][colours[side].index(value) + 1]
            for state, side in ((before, "b"), (after, "a"))
        ]
        assert torch.equal(*rows)
    if form != "self-attention":
        assert run.manifest["from"]["rows"]["users"] == {"copied": 12, "new": 1, "left_out": 0}
    assert run.manifest["from"]["rows"]["attribute colour"] == {"copied": 3, "new": 1, "left_out": 0}
    assert run.manifest["from"]["fingerprint"] == first.manifest["files"]["weights.safetensors"]["sha256"]
    if transfer == "frozen":  # vectors lie around the items of the grown log
        return
    assert run.manifest["from"]["rows"].get("items") == {"copied": 5, "new": 2, "left_out": 0}
    # what the model makes of everything known is the same, attributes and vectors included
    places = [new.items.index([f"i{at}"])[0] for at in range(5)], [old.items.index([f"i{at}"])[0] for at in range(5)]
    tables_ = [one.stage().table.detach() for one in (run, first)]  # type: ignore[union-attr]
    torch.testing.assert_close(tables_[0][places[0]], tables_[1][places[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("zero", [True, False])
def test_pairs_are_those_of_the_run_where_nothing_is_trained_else_those_of_the_log(zero: bool, tmp_path: Path) -> None:
    old, new, _ = logs()
    told = {"model.name": "self-attention", "train.epochs": 2, "model.width": 8, "model.heads": 1}
    first = pipeline.train(old, small(**told), tmp_path / "first")
    settings = zero_shot() if zero else on(**{"train.epochs": 1})
    run = pipeline.train(new, settings, tmp_path / "grown", start=first)
    other = first if zero else pipeline.train(new, small(**told), tmp_path / "new")
    there = torch.from_numpy((old if zero else new).items.index(new.items.array).astype(np.int64))
    found, expected = (near_of(one, items) for one, items in ((run, torch.arange(1, new.n_items + 1)), (other, there)))
    expected = torch.where((there > 0)[:, None] & (there > 0), expected[:, there], 0.0)
    torch.testing.assert_close(found[:, 1:], expected)
    assert found.sum() > 0


def test_another_shop_has_no_counts_and_all_of_the_content(tmp_path: Path) -> None:
    """Ids that mean nothing here may be called alike: neither pairs nor events are those of such items."""
    old, new, vectors = logs()
    told = {"model.name": "self-attention", "train.epochs": 2, "model.transfer": "frozen"}
    first = pipeline.train(old, small(**told), tmp_path / "first", vectors=vectors)
    run = pipeline.train(new, zero_shot(), tmp_path / "other", start=first, vectors=vectors)
    model = run.stage()
    assert isinstance(model, Retriever)
    assert model.near is not None
    assert len(model.near.weights) == 0
    assert model.content is not None
    assert torch.equal(model.content.gate, torch.ones(new.n_items + 1))
    assert any("no counts are added" in note for note in run.manifest["from"]["notes"])


def test_a_match_of_content_told_anew_knows_how_often_the_run_met_an_item(tmp_path: Path) -> None:
    old, new, vectors = logs()
    told = {"model.name": "self-attention", "train.epochs": 2, "model.transfer": "init"}
    first = pipeline.train(old, small(**told, **{"model.content_weight": 0.0}), tmp_path / "first", vectors=vectors)
    again = zero_shot().changed(["model.content_weight=2.0"])
    model = pipeline.train(new, again, tmp_path / "grown", start=first, vectors=vectors).stage()
    assert isinstance(model, Retriever)
    assert model.content is not None
    places = old.items.index(new.items.array)
    events = np.where(places > 0, first.counts[places], 0)
    torch.testing.assert_close(model.content.gate[1:], torch.from_numpy(5 / (5 + events)).float())
    plain = pipeline.train(old, small(**{"model.name": "self-attention", "train.epochs": 1}), tmp_path / "plain")
    with pytest.raises(
        SettingsError, match=r"model\.content_weight=2\.0 is of pretrained vectors, and none were given"
    ):
        pipeline.train(new, again, tmp_path / "refused", start=plain)


def near_of(run: Run, items: torch.Tensor) -> torch.Tensor:
    """What stands near each item by itself, a row each."""
    near = run.stage().near  # type: ignore[union-attr]
    counts: torch.Tensor = near(Histories(items, torch.arange(len(items) + 1)))  # type: ignore[operator, misc]
    return counts


def described(rows: list[tuple[str, str]], behaviours: list[str], devices: list[str]) -> Dataset:
    log = _table(rows)
    log = log.append_column("what", pa.array([behaviours[at % len(behaviours)] for at in range(len(rows))]))
    log = log.append_column("device", pa.array([devices[at % len(devices)] for at in range(len(rows))]))
    columns = Columns("user", "item", "time", behaviour="what", context=("device",))
    return Dataset.build(EventLog.read(log, columns, time_kind="order"), None)


@pytest.mark.parametrize("form", ["self-attention", "ranker"])
def test_behaviours_and_context_are_found_by_name_and_hashed_rows_stay(form: str, tmp_path: Path) -> None:
    old = described(ROWS, ["view", "buy"], ["phone", "desk"])
    new = described(GROWN, ["buy", "cart", "view"], ["tv", "desk", "phone"])
    told = {"model.name": form, "train.epochs": 2, "model.context": ["device"], "model.heads": 1}
    hashed = {"model.hash_rows": 4} if form == "self-attention" else {}
    first = pipeline.train(old, small(**told, **hashed), tmp_path / "first")
    run = pipeline.train(new, zero_shot(), tmp_path / "grown", start=first)
    before, after = weights(first), weights(run)
    context = "request.tables.0" if form == "self-attention" else "asked.0"
    there = first.context["device"].array.to_pylist(), old.behaviours
    here = run.context["device"].array.to_pylist(), new.behaviours
    assert (there[0] != here[0][:2]) or (there[1] != here[1][:2])
    for value in ("phone", "desk"):
        assert torch.equal(after[context][here[0].index(value) + 1], before[context][there[0].index(value) + 1])
    for value in ("view", "buy"):
        rows = [s["embedding.behaviour"][n.index(value) + 1] for s, n in ((after, here[1]), (before, there[1]))]
        assert torch.equal(*rows)
    assert run.manifest["from"]["rows"]["behaviours"] == {"copied": 2, "new": 1, "left_out": 0}
    assert run.manifest["from"]["rows"]["context device"] == {"copied": 2, "new": 1, "left_out": 0}
    if hashed:
        assert torch.equal(after["item_embedding.item"], before["item_embedding.item"])
        assert after["known"][1:].tolist() == [
            name in old.items.array.to_pylist() for name in new.items.array.to_pylist()
        ]


def test_users_have_vectors_through_the_geometry_of_the_run(tmp_path: Path) -> None:
    old, new, _ = logs()
    rng = np.random.default_rng(5)
    people = {name: rng.normal(size=3).tolist() for name in new.users.array.to_pylist()}
    told = {"model.name": "matrix-factorization", "train.epochs": 2, "model.transfer": "gate"}
    known = [Knowledge.of_users(dataset, people) for dataset in (old, new)]
    first = pipeline.train(old, small(**told), tmp_path / "first", user_vectors=known[0])
    run = pipeline.train(new, zero_shot(), tmp_path / "grown", start=first, user_vectors=known[1])
    here, there = new.users.index(["u3", "u7"]), old.users.index(["u3", "u7"])
    tables = [one.stage().user() for one in (run, first)]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(tables[0][here], tables[1][there])
    assert not weights(run)["met"][new.users.index(["new user"])[0]]


@pytest.mark.parametrize("form", list(FORMS))
def test_training_goes_on_and_is_the_same_when_resumed(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, _ = logs()
    first = pipeline.train(old, small(**{"train.epochs": 2, **FORMS[form], "model.name": form}), tmp_path / "first")
    settings = on(**{"train.epochs": 4, "train.batch_tokens": 16})
    whole = pipeline.train(new, settings, tmp_path / "whole", start=first)
    chance = pipeline.train(
        new,
        settings.changed([f'model.name="{form}"', *[f"{k}={v}" for k, v in FORMS[form].items()], "model.width=16"]),
        tmp_path / "chance",
    )
    assert any(not torch.equal(weights(whole)[key], value) for key, value in weights(chance).items())
    from regard.train import loop

    monkeypatch.setattr(loop, "_EPOCH_SECONDS", 0.0)
    save, done = loop.checkpoint.save, [0]

    def killed(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        done[0] += 1
        if done[0] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(new, settings, tmp_path / "cut", start=first)
    with pytest.raises(RegardError, match="other from"):
        pipeline.train(new, whole.settings, tmp_path / "cut", resume=True)
    run = pipeline.train(new, settings, tmp_path / "cut", start=first, resume=True)
    assert all(torch.equal(value, weights(run)[key]) for key, value in weights(whole).items())


def test_a_table_is_learned_by_rows_as_the_run_did_unless_something_else_is_told(tmp_path: Path) -> None:
    old, new, _ = logs()
    rows = {"model.negatives": 8, "train.table_optimizer": "rowwise", "train.epochs": 1}
    first = pipeline.train(old, small(**{"model.name": "self-attention"}, **rows), tmp_path / "first")
    further = pipeline.train(new, on(**{"train.epochs": 1}), tmp_path / "further", start=first)
    assert further.settings.train.table_optimizer == "rowwise"
    other = on(**{"train.epochs": 1, "train.table_optimizer": "same"})
    assert pipeline.train(new, other, tmp_path / "other", start=first).settings.train.table_optimizer == "same"
    whole = on(**{"train.epochs": 1, "model.negatives": 0})  # by rows is for few rows a step, and here it reads all
    assert pipeline.train(new, whole, tmp_path / "whole", start=first).settings.train.table_optimizer == "same"


def test_the_command_takes_model_and_vectors_from_the_run(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("tea 3 0 0 1\nale 0 3 1 0\na 1 1 0 0\nb 1 1 1 0\n")
    for name in ("a", "b"):
        dataset, _ = shop(name, users=12)
        users = dataset.users.ids(np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets)))
        rows = list(zip(users, dataset.items.ids(dataset.item), strict=True))
        built(rows, dataset.items.array.to_pylist(), tmp_path / name)
    train = ["train", str(tmp_path / "a"), "--model", "mean", "--out", str(tmp_path / "first")]
    train += ["--vectors", str(tmp_path / "words.txt"), "--json"]
    train += [
        word
        for one in ("model.width=8", "model.transfer=frozen", "train.epochs=2", "data.split=leave-one-out")
        for word in ("--set", one)
    ]
    assert CliRunner().invoke(app, train).exit_code == 0
    further = ["train", str(tmp_path / "b"), "--from", str(tmp_path / "first"), "--split", "leave-one-out"]
    zero = CliRunner().invoke(app, [*further, "--zero-shot", "--out", str(tmp_path / "zero")])
    assert zero.exit_code == 0, zero.output
    assert "starts from" in zero.output
    told = json.loads((tmp_path / "zero" / "manifest.json").read_text())
    assert told["vectors"]["by"] == "words"
    assert told["settings"]["model"]["width"] == 8
    first = json.loads((tmp_path / "first" / "vectors.json").read_text())
    assert json.loads((tmp_path / "zero" / "vectors.json").read_text()) == first
    bad = CliRunner().invoke(app, [*further, "--model", "gru", "--out", str(tmp_path / "bad")])
    assert "model.name is mean there and gru here" in str(bad.exception)
    measured = CliRunner().invoke(app, ["evaluate", str(tmp_path / "zero"), "--json"])
    assert measured.exit_code == 0, measured.output


def test_mistakes_have_one_clear_line(tmp_path: Path) -> None:
    old, new, vectors = logs()
    first = pipeline.train(old, small(**{"train.epochs": 1, "model.attributes": ["size"]}), tmp_path / "first")
    known = pipeline.train(old, small(**{"train.epochs": 1}), tmp_path / "known", vectors=vectors)
    popular = pipeline.train(old, small(**{"model.name": "popular"}), tmp_path / "popular")

    def line(settings: Settings, start: Any, dataset: Dataset = new, out: str = "out", **known: Any) -> str:
        with pytest.raises(RegardError) as found:
            pipeline.train(dataset, settings, tmp_path / out, start=start, **known)
        assert "\n" not in str(found.value)
        return str(found.value)

    assert "model.width is 16 there and 8 here" in line(on(**{"model.width": 8}), first)
    assert "model.name is mean there and gru here" in line(on(**{"model.name": "gru"}), first)
    assert "model.attributes is size there and colour here" in line(on(**{"model.attributes": "['colour']"}), first)
    assert "popular, which counts" in line(on(), popular)
    assert "trained without pretrained vectors" in line(on(), first, vectors=vectors)
    assert "handed over in memory; say with --vectors" in line(on(), known)
    assert "have 4 values, and those of" in line(on(), known, vectors={key: [1.0, 2.0] for key in vectors})
    assert "split leave-one-out, and here it is random:0.8,0.1,0.1" in line(
        on(**{"data.split": "'random:0.8,0.1,0.1'"}), first
    )
    assert "--from and --out are both" in line(on(), first, out="first")
    assert "needs one" in line(zero_shot(), None)
    words = built(GROWN, [f"i{at}" for at in range(7)], size=list("abcdefg"))
    assert "item attribute size is a number there and a category here" in line(on(), first, words)
    many = [(f"u{user}", f"{item}") for user in range(20) for item in range(user % 3, 12)]
    one = built(many, [str(at) for at in range(12)], tmp_path / "one")
    table = pa.table({"id": [str(at) for at in range(12)], "title": [f"other {at}" for at in range(12)]})
    other = Dataset.build(EventLog.read(_table(many), time_kind="order"), None, table)
    begun = pipeline.train(one, small(**{"train.epochs": 1}), tmp_path / "numbers")
    assert "12 of 12 items with an id that it knows have another title" in line(on(), begun, other)


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"user": [row[0] for row in rows], "item": [row[1] for row in rows], "time": list(range(len(rows)))}
    )
