"""Answers of small runs: what a known user and a live history get, and what is said of that."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import regard
from regard.cli import app
from regard.data.batches import Histories
from regard.data.store import Dataset
from regard.errors import InputError
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run

COLUMNS = regard.Columns("user", "item", "time", "behaviour")
TINY = ["model.width=8", "model.blocks=1", "model.heads=1", "train.epochs=1", "train.batch_tokens=512"]
UNTRAINED = "no events at all"


def trained(dataset: Dataset, out: Path, *assignments: str) -> Run:
    return regard.train(dataset, regard.Settings().changed([*TINY, *assignments]), out)


@pytest.fixture(scope="module")
def shop() -> Dataset:
    """Sixty users of the generated shop, and one item in the catalogue that nobody ever touched."""
    made = regard.make_shop(seed=2, users=60)
    ids = [*made.items["id"].to_pylist(), UNTRAINED]
    items = pa.table({"id": ids, "title": [f"title of {name}" for name in ids]})
    return Dataset.build(regard.EventLog.read(made.events, COLUMNS), None, items=items)


@pytest.fixture(scope="module")
def covisit(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(shop, tmp_path_factory.mktemp("covisit") / "run", "model.name=co-visit", "data.split=time:0.8")


@pytest.fixture(scope="module")
def attention(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = ("data.split=time:0.8", "model.time_gaps=true", "model.window=20")
    return trained(shop, tmp_path_factory.mktemp("attention") / "run", *settings)


def known_to(run: Run) -> set[str]:
    return set(run.items.ids(np.flatnonzero(run.counts)))


def events_of(dataset: Dataset, user: str) -> list[str]:
    """A user's items by time, row after row."""
    (index,) = dataset.users.index([user])
    rows = list(range(dataset.offsets[index], dataset.offsets[index + 1]))
    assert dataset.time is not None
    times = dataset.time
    return [dataset.items.id(int(dataset.item[row])) for row in sorted(rows, key=lambda row: int(times[row]))]


def names(answer: regard.recommend.recommender.Recommendation) -> list[str]:
    return [item.item for item in answer.items]


def heard(asked: Recommender, monkeypatch: pytest.MonkeyPatch) -> list[Histories]:
    """Keep the histories that the model is given."""
    kept: list[Histories] = []
    own = asked.model.scores

    def listen(histories: Histories) -> torch.Tensor:
        kept.append(histories)
        return own(histories)

    monkeypatch.setattr(asked.model, "scores", listen)
    return kept


def test_a_known_user_and_their_events_as_a_live_history_agree(shop: Dataset, covisit: Run) -> None:
    asked = Recommender(covisit, shop)
    for user in shop.users.ids(range(1, 8)):
        known, live = asked.recommend(user=user), asked.recommend(history=events_of(shop, user))
        assert known.items == live.items


def test_events_of_a_dataset_with_parts_are_read_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored rows are part-first, and here a user's test events lie between their training events."""
    rng = np.random.default_rng(3)
    rows = {"user": [f"u{n // 10}" for n in range(200)], "item": [f"i{n}" for n in rng.integers(0, 12, 200)]}
    events = pa.table({**rows, "time": pa.array(rng.permutation(200), pa.int64())})
    dataset = Dataset.build(
        regard.EventLog.read(events, regard.Columns("user", "item", "time"), time_kind="order"), None
    )
    part = (np.arange(200) % 10 >= 7).astype(np.uint8)
    moved = np.concatenate([at + rng.permutation(10) for at in range(0, 200, 10)])
    dataset.part, dataset.item, dataset.time = part, dataset.item[moved], dataset.time[moved]
    assert any((np.diff(dataset.time[at : at + 10]) < 0).any() for at in range(0, 200, 10))
    asked = Recommender(trained(dataset, tmp_path / "run", "model.name=co-visit", "data.split=parts"), dataset)
    kept = heard(asked, monkeypatch)
    for user in ("u0", "u7"):
        asked.recommend(user=user)
        known = kept.pop()
        assert asked.run.items.ids(known.items) == events_of(dataset, user)
        assert known.times is not None
        assert (known.times.diff() > 0).all()
    asked.recommend_many(["u7", "u0"])
    assert asked.run.items.ids(kept.pop().items) == events_of(dataset, "u7") + events_of(dataset, "u0")


def test_many_users_agree_with_one_by_one_in_the_order_asked(shop: Dataset, attention: Run) -> None:
    asked = Recommender(attention, shop)
    users = shop.users.ids([9, 3, 5])
    table, notes = asked.recommend_many([users[0], "nobody", users[1], users[0], users[2]], k=4)
    assert table.schema.names == ["user", "rank", "item", "score", "title", "source"]
    assert list(dict.fromkeys(table["user"].to_pylist())) == users
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 3
    for user in users:
        own = table.filter(pa.compute.field("user") == user)
        one = asked.recommend(user=user, k=4).items
        assert own["item"].to_pylist() == [item.item for item in one]
        assert own["title"].to_pylist() == [item.title for item in one] == [f"title of {item.item}" for item in one]
        np.testing.assert_allclose(own["score"].to_numpy(), [item.score for item in one], rtol=1e-4)
    assert any("nobody" in note for note in notes)
    assert any("1 repeated user id left out" in note for note in notes)


def test_many_users_in_small_blocks_get_the_same(shop: Dataset, covisit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Recommender(covisit, shop)
    users = shop.users.ids(range(1, 12))
    whole, _ = asked.recommend_many(users, k=3)
    monkeypatch.setattr("regard.recommend.recommender.rows_per_block", lambda _: 4)
    assert asked.recommend_many(users, k=3)[0].equals(whole)


def test_many_long_histories_are_read_in_blocks_of_events(
    shop: Dataset, covisit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Recommender(covisit, shop)
    users = shop.users.ids(range(1, shop.n_users + 1))
    whole, _ = asked.recommend_many(users, k=3)
    most, read = 100, []
    assert np.diff(shop.offsets).max() <= most < shop.n_events / 4
    monkeypatch.setattr("regard.model.scorer.packed.__defaults__", (most,))
    gathered = Recommender._stored
    monkeypatch.setattr(Recommender, "_stored", lambda own, who: read.append(gathered(own, who)) or read[-1])
    assert asked.recommend_many(users, k=3)[0].equals(whole)
    assert [len(one) for one in read] != [len(users)]
    assert sum(len(one) for one in read) == len(users)
    assert all(len(one.items) <= most for one in read)


def test_users_nobody_knows_are_an_error_and_no_users_an_empty_table(shop: Dataset, covisit: Run) -> None:
    asked = Recommender(covisit, shop)
    with pytest.raises(InputError, match="none of the 2 users is in the dataset given, the first: 'x'"):
        asked.recommend_many(["x", "y"])
    with pytest.raises(InputError, match="list of user ids"):
        asked.recommend_many("user")
    table, notes = asked.recommend_many([])
    assert (table.num_rows, notes) == (0, [])


def test_a_huge_k_gives_all_there_is_and_says_so(shop: Dataset, attention: Run) -> None:
    asked = Recommender(attention, shop)
    known = known_to(attention)
    item = min(known)
    answer = asked.recommend(history=[item], k=10**12, seen="keep")
    assert set(names(answer)) == known
    assert f"asked for {10**12} items, only {len(known)} are left to recommend" in answer.notes
    near = asked.similar(item, k=10**12)
    assert set(names(near)) == known - {item}
    assert f"only {len(known) - 1} are left" in near.notes[0]
    user = shop.users.id(1)
    assert asked.recommend_many([user], k=10**12, seen="keep")[0].num_rows == len(known)


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused_everywhere(shop: Dataset, attention: Run, k: int) -> None:
    asked = Recommender(attention, shop)
    for ask in (
        lambda: asked.recommend(history=["x"], k=k),
        lambda: asked.recommend_many([shop.users.id(1)], k=k),
        lambda: asked.similar(min(known_to(attention)), k=k),
    ):
        with pytest.raises(InputError, match=f"k must be at least 1; got {k}"):
            ask()


@pytest.mark.parametrize("history", [[], ["known"]], ids=["popular", "model"])
def test_items_the_model_knows_nothing_of_are_not_listed(attention: Run, history: list[str]) -> None:
    asked, item = Recommender(attention), min(known_to(attention))
    answer = asked.recommend(history=[item] * len(history), candidates=[UNTRAINED, item], seen="keep", k=2)
    assert names(answer) == [item]
    assert any("only 1 are left" in note for note in answer.notes)
    assert asked.recommend(history=[item], candidates=[UNTRAINED]).items == []


def test_items_without_training_events_are_read_as_unknown_and_named(
    shop: Dataset, attention: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, item = Recommender(attention, shop), min(known_to(attention))
    kept = heard(asked, monkeypatch)
    answer = asked.recommend(history=[UNTRAINED, item])
    assert any("no training events: read as unknown" in note and UNTRAINED in note for note in answer.notes)
    assert kept.pop().items.tolist() == [0, int(attention.items.index([item])[0])]
    cold = set(np.flatnonzero(attention.counts == 0)) & set(shop.item.tolist())
    assert cold, "some items of the shop have all their events in the held-back part"
    row = int(np.flatnonzero(np.isin(shop.item, list(cold)))[-1])
    user = shop.users.id(int(np.searchsorted(shop.offsets, row, side="right")) - 1)
    asked.recommend(user=user)
    asked.recommend_many([user])
    index = attention.items.index(events_of(shop, user))[-20:]
    assert (attention.counts[index] == 0).any()
    expected = np.where(attention.counts[index] > 0, index, 0).tolist()
    assert [histories.items.tolist() for histories in kept] == [expected] * 2


def test_a_live_history_is_spaced_by_the_median_gap(attention: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    item = min(known_to(attention))
    for gap, expected in ((60_000_000, [0, 60_000_000, 120_000_000]), (None, [0, 0, 0])):
        run = dataclasses.replace(attention, manifest={**attention.manifest, "median_gap": gap})
        asked = Recommender(run)
        kept = heard(asked, monkeypatch)
        asked.recommend(history=[item] * 3)
        times = kept.pop().times
        assert times is not None
        assert times.tolist() == expected


def test_a_note_says_what_a_live_history_lacks(shop: Dataset, attention: Run, covisit: Run) -> None:
    item = min(known_to(attention))
    (note,) = Recommender(attention).recommend(history=[item]).notes
    assert "behaviours and times" in note
    assert Recommender(covisit).recommend(history=[item]).notes == []
    assert Recommender(attention, shop).recommend(user=shop.users.id(1)).notes == []


def test_a_recommender_takes_a_folder_and_checks_its_dataset(shop: Dataset, covisit: Run) -> None:
    assert Recommender(covisit.path, shop).recommend(user=shop.users.id(1)).items
    assert Recommender(str(covisit.path)).recommend(history=[min(known_to(covisit))]).items
    other = Dataset.build(regard.EventLog.read(regard.make_shop(seed=9, users=20).events, COLUMNS), None)
    with pytest.raises(InputError, match="not the dataset"):
        Recommender(covisit, other)


@pytest.fixture(scope="module")
def contextual(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = regard.make_shop(seed=2, users=60)
    columns = dataclasses.replace(COLUMNS, context=("hour", "device"))
    return Dataset.build(regard.EventLog.read(made.events, columns), tmp_path_factory.mktemp("contextual") / "shop")


@pytest.fixture(scope="module")
def momentary(contextual: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model that reads the moment and the context of a request."""
    settings = ("data.split=time:0.8", "model.context=device,hour", "model.request_time=true")
    return trained(contextual, tmp_path_factory.mktemp("momentary") / "run", *settings, "train.learning_rate=0.05")


def test_the_context_of_a_request_counts(momentary: Run) -> None:
    recommender = Recommender(momentary)
    history = momentary.items.ids([3, 5, 8])
    plain = recommender.recommend(history=history)
    mobile = recommender.recommend(history=history, context={"device": "mobile"})
    assert [item.score for item in plain.items] != [item.score for item in mobile.items]
    assert recommender.recommend(history=history, context={}).items == plain.items
    fridge = recommender.recommend(history=history, context={"device": "fridge"})
    assert fridge.items == plain.items
    assert "context: device=fridge was never seen: read as not given" in fridge.notes


def test_context_that_is_not_read_is_refused(momentary: Run, covisit: Run) -> None:
    with pytest.raises(InputError, match=r"'devise' is not read .*did you mean 'device'.*it reads device, hour"):
        Recommender(momentary).recommend(history=["a"], context={"devise": "mobile"})
    with pytest.raises(InputError, match="it reads none"):
        Recommender(covisit).recommend(history=["a"], context={"hour": "3"})


def asked_of(dataset: Dataset, user: int) -> tuple[str, int]:
    """A user, and the microseconds of their last event."""
    assert dataset.time is not None
    return dataset.users.id(user), int(dataset.time[dataset.offsets[user + 1] - 1])


def written(moment: int) -> str:
    return str(np.datetime64(moment, "us"))


def test_the_moment_of_a_request_is_the_one_that_is_told(
    contextual: Dataset, momentary: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Recommender(momentary, contextual)
    kept = heard(asked, monkeypatch)
    user, last = asked_of(contextual, 3)
    week = last + 7 * 86_400_000_000
    day = week - week % 1_000_000
    zone = datetime.timezone(datetime.timedelta(hours=2))
    there = datetime.datetime(1970, 1, 1, tzinfo=zone) + datetime.timedelta(hours=2, microseconds=day)
    for at in (written(day), f"{written(day)}Z", there, there.isoformat(), day, day // 1000, day / 10**6, f"{day}000"):
        answer = asked.recommend(user=user, at=at)
        assert answer.notes == []
        told = kept.pop()
        assert told.asked is not None
        assert told.times is not None
        assert told.asked.tolist() == [*told.times[1:].tolist(), day]
    assumed = asked.recommend(user=user)
    (note,) = assumed.notes
    gap = datetime.timedelta(microseconds=momentary.manifest["median_gap"])
    assert note == f"the moment of the request is assumed: {gap} after the last event (--at says another)"
    same = asked.recommend(user=user, at=last + momentary.manifest["median_gap"])
    assert same.items == assumed.items
    far = [item.score for item in asked.recommend(user=user, at=day).items]
    assert far != [item.score for item in assumed.items]


def test_many_are_asked_at_one_moment(contextual: Dataset, momentary: Run) -> None:
    asked = Recommender(momentary, contextual)
    users = [asked_of(contextual, user) for user in (2, 5, 4)]
    at = max(last for _, last in users)
    table, notes = asked.recommend_many([name for name, _ in users], k=3, at=at)
    assert notes == []
    for name, _ in users:
        own = table.filter(pa.compute.field("user") == name)
        one = asked.recommend(user=name, k=3, at=written(at)).items
        assert own["item"].to_pylist() == [item.item for item in one]
        np.testing.assert_allclose(own["score"].to_numpy(), [item.score for item in one], rtol=1e-4)
    _, notes = asked.recommend_many([name for name, _ in users], k=3)
    assert ["is assumed" in note for note in notes] == [True]
    late = max(users, key=lambda pair: pair[1])
    with pytest.raises(InputError, match=f"before the last event of user '{late[0]}'"):
        asked.recommend_many([name for name, _ in users], at=at - 1)


def test_a_moment_that_cannot_be_is_refused(contextual: Dataset, shop: Dataset, momentary: Run, attention: Run) -> None:
    asked = Recommender(momentary, contextual)
    user, last = asked_of(contextual, 3)
    assert asked.recommend(user=user, at=last).notes == []
    with pytest.raises(InputError, match=f"before the last event of user '{user}', {written(last)[:19]}"):
        asked.recommend(user=user, at=last - 1)
    for wrong in ("tomorrow", "12", "nan", "1e999", "", -last, float("inf"), "2026-13-01"):
        with pytest.raises(InputError, match=r"expected a date of ISO 8601, for example .* got "):
            asked.recommend(user=user, at=wrong)
    with pytest.raises(InputError, match="a history of item ids has no times"):
        asked.recommend(history=momentary.items.ids([3]), at=last)
    for ask in (
        lambda: Recommender(attention, shop).recommend(user=shop.users.id(1), at=last),
        lambda: Recommender(attention, shop).recommend_many([shop.users.id(1)], at=last),
    ):
        with pytest.raises(InputError, match=r"does not read the moment of a request; .*model\.request_time=true"):
            ask()


def test_the_command_takes_the_moment(contextual: Dataset, momentary: Run, tmp_path: Path) -> None:
    (user, last), asked = asked_of(contextual, 3), Recommender(momentary, contextual)
    at = written(last + 86_400_000_000)
    told = CliRunner().invoke(app, ["recommend", str(momentary.path), "--user", user, "--at", at, "--json"])
    assert json.loads(told.stdout) == asked.recommend(user=user, at=at).as_dict()
    (tmp_path / "users.txt").write_text(f"{user}\n")
    file = tmp_path / "out.parquet"
    told = CliRunner().invoke(
        app, ["recommend", str(momentary.path), "--users", f"{tmp_path}/users.txt", "--at", at, "--out", str(file)]
    )
    assert told.exit_code == 0
    assert pq.read_table(file).equals(asked.recommend_many([user], at=at)[0])
