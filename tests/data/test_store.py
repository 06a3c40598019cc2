"""Datasets: what was read is what is stored, in memory as on disk; a folder is whole, or refused, or left as it was."""

from __future__ import annotations

import errno
import json
import resource

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import histories, repeats, ties
from regard.data import build, sql
from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.sources import Columns, Source
from regard.data.store import Dataset
from regard.errors import InputError, StorageError
from regard.manifest import damaged_files

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(lambda text: text.strip(" "))
words = st.sampled_from([None, "view", "cart", "日"])
NAMES = ("user", "item", "time", "behaviour", "label", "hour")
COLUMNS = Columns(*NAMES[:5], context=("hour",))


@st.composite
def logs(draw):
    """Rows of few users, items and times, so that there are ties and repeats; all train, or some test."""
    users, items = draw(st.lists(ids, min_size=1, max_size=4)), draw(st.lists(ids, min_size=1, max_size=4))
    part = st.sampled_from([0, 1]) if draw(st.booleans()) else st.none()
    labels = st.sampled_from([None, 0.0, 2.5, -1.0])
    row = st.tuples(st.sampled_from(users), st.sampled_from(items), st.integers(-3, 3), words, labels, words, part)
    rows = draw(st.lists(row, min_size=1, max_size=40))
    return sorted(rows, key=lambda row: row[6] or 0)  # the sources are read one after the other


def table_of(rows):
    kinds = (pa.string(), pa.string(), pa.int64(), pa.string(), pa.float64(), pa.string())
    return pa.table({name: pa.array([row[at] for row in rows], kinds[at]) for at, name in enumerate(NAMES)})


def log_of(rows, **options):
    if rows[0][6] is None:
        return EventLog.read(table_of(rows), COLUMNS, **options)
    parts = [[row for row in rows if row[6] == part] for part in (0, 1)]
    names = ("train", "test")
    sources = [Source(table_of(own), COLUMNS, part=name) for own, name in zip(parts, names, strict=True) if own]
    return EventLog.read(sources, **options)


def told(dataset):
    """Every event by user, in stored order, in the user's own words."""
    decode = (None, *dataset.behaviours)
    hours = dataset.context_values["hour"]
    found = {}
    for user in range(1, dataset.n_users + 1):
        found[dataset.users.id(user)] = [
            (
                dataset.users.id(user),
                dataset.items.id(int(dataset.item[row])),
                None if dataset.time is None else int(dataset.time[row]),
                decode[int(dataset.behaviour[row])],
                None if np.isnan(dataset.label[row]) else float(dataset.label[row]),
                hours.id(int(hour)) if (hour := dataset.context["hour"][row]) else None,
                None if dataset.part is None else int(dataset.part[row]),
            )
            for row in range(dataset.offsets[user], dataset.offsets[user + 1])
        ]
    return found


@given(logs(), st.sampled_from([None, "none"]))
def test_what_is_stored_is_what_was_read(rows, kind):
    dataset = Dataset.build(log_of(rows, time_kind=kind), None)
    if kind == "none":
        rows = [(*row[:2], None, *row[3:]) for row in rows]
    assert told(dataset) == histories(rows)
    assert dataset.items.ids(range(1, dataset.n_items + 1)) == list(dict.fromkeys(row[1] for row in rows))
    assert dataset.behaviours == tuple(dict.fromkeys(row[3] for row in rows if row[3] is not None))
    assert (dataset.n_users, dataset.n_events) == (len({row[0] for row in rows}), len(rows))
    assert (dataset.offsets[0], dataset.offsets[1], dataset.offsets[-1]) == (0, 0, len(rows))
    assert {name: str(array.dtype) for name, array in vars(dataset).items() if isinstance(array, np.ndarray)} == {
        "offsets": "int64",
        "item": "int32",
        "behaviour": "uint8",
        "label": "float32",
        **({} if kind == "none" else {"time": "int64"}),
        **({} if rows[0][6] is None else {"part": "uint8"}),
    }


@settings(max_examples=20)
@given(logs())
def test_repeats_and_ties_are_counted(rows):
    rows = [(*row[:6], None) for row in rows]
    for kind in (None, "none"):
        dataset = Dataset.build(log_of(rows, time_kind=kind), None)
        report = dataset.manifest["report"]
        assert report["exact_repeats"] == repeats(rows, *((1, 2, 3) if kind is None else (1, 3)))
        assert report.get("ties_in_time") == (ties(rows) if kind is None else None)
        assert describe(dataset)["repeats"]["share"] == repeats(rows, 1) / len(rows)


def shop(tmp_path, rows=None, **options):
    rows = rows or [("b", "x", 2, "view", None, "9", None), ("a", "y", 1, None, 3.0, None, None)]
    items = pa.table({"id": ["z", "x"], "title": ["Zed", None], "price": [1.5, 2.0]})
    return Dataset.build(log_of(rows, **options), tmp_path / "shop", items)


@settings(max_examples=8)  # each waits for the disk
@given(logs())
def test_on_disk_as_in_memory(tmp_path_factory, rows):
    out = tmp_path_factory.mktemp("data") / "shop"
    log, items = log_of(rows), pa.table({"id": ["new", rows[0][1]], "title": ["New", "Old"]})
    stored, kept = Dataset.build(log, out, items), Dataset.build(log, None, items)
    assert isinstance(stored.item, np.memmap)
    assert told(stored) == told(kept) == histories(rows)
    assert stored.fingerprint == kept.fingerprint == Dataset.open(out).fingerprint
    assert (stored.users, stored.items) == (kept.users, kept.items)
    assert stored.item_table.equals(kept.item_table)
    assert damaged_files(out, "dataset") == []
    assert {key: stored.manifest[key] for key in kept.manifest} == json.loads(json.dumps(kept.manifest))


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    rows = [("a", "x", 1, "view", 1.0, "9", None), ("a", "y", 2, "cart", 2.0, "8", None)]
    prints = {Dataset.build(log_of(rows), None).fingerprint}
    for at, other in enumerate(["b", "z", 0, "buy", 3.0, "7", 1]):
        changed = [tuple(other if n == at else value for n, value in enumerate(row)) for row in rows]
        prints.add(Dataset.build(log_of([rows[0], changed[1]] if at < 6 else changed), None).fingerprint)
    prints.add(Dataset.build(log_of(rows), None, pa.table({"id": ["x"]})).fingerprint)
    prints.add(Dataset.build(log_of(rows), None, pa.table({"id": ["x"], "title": ["X"]})).fingerprint)
    assert len(prints) == 10


def test_order_does_not_depend_on_threads(monkeypatch):
    rng = np.random.default_rng(0)
    count = 400_000  # several of the blocks that DuckDB gives to its threads
    users, items, times = (rng.integers(0, high, count) for high in (5_000, 3_000, 50))
    table = pa.table({"user": users, "item": items, "time": times})
    columns, prints = Columns("user", "item", "time"), set()
    for threads in (1, 4):
        connect = sql.connect

        def threaded(folder, connect=connect, threads=threads):
            connection = connect(folder)
            connection.execute(f"SET threads = {threads}")
            return connection

        monkeypatch.setattr("regard.data.events.connect", threaded)
        dataset = Dataset.build(EventLog.read(table, columns), None)
        prints.add(dataset.fingerprint)
    assert len(prints) == 1
    first = dict.fromkeys(users.tolist())
    assert dataset.users.ids([1, 2, 3]) == [str(user) for user in list(first)[:3]]
    mine = np.flatnonzero(users == int(dataset.users.id(1)))
    mine = mine[np.argsort(times[mine], kind="stable")]
    assert dataset.items.ids(dataset.item[: len(mine)]) == [str(item) for item in items[mine]]


def test_the_item_table_is_aligned(tmp_path):
    dataset = shop(tmp_path)
    assert dataset.items.ids([1, 2, 3]) == ["x", "y", "z"]
    assert dataset.item_table.to_pydict() == {
        "id": ["x", "y", "z"],
        "title": [None, None, "Zed"],
        "price": [2.0, None, 1.5],
    }
    assert [dataset.title(item) for item in range(-1, 5)] == [None, None, None, None, "Zed", None]
    report = dataset.manifest["report"]["items"]
    assert (report["described"], report["only_in_table"], report["only_in_events"]) == (2, 1, 1)
    bare = Dataset.build(log_of([("a", "x", 1, None, None, None, None)]), None)
    assert (bare.item_table, bare.title(1)) == (None, None)


def test_an_item_table_from_anywhere_is_checked():
    items = pa.table({"id": [7, None, 7, 8], "title": ["seven", "none", "again", "eight"]})
    dataset = Dataset.build(log_of([("a", "7", 1, None, None, None, None)]), None, items)
    assert (dataset.title(1), dataset.items.ids([1, 2])) == ("seven", ["7", "8"])
    report = dataset.manifest["report"]["items"]
    assert (report["missing_ids"], report["duplicate_ids"], report["rows_read"]) == (1, 1, 4)
    with pytest.raises(InputError, match="no column 'id'"):
        Dataset.build(log_of([("a", "7", 1, None, None, None, None)]), None, pa.table({"ID": ["7"]}))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("place", ["_Sink.append", "_Sink.done", "_fingerprint"])
def test_an_interrupted_build_leaves_what_was_there(error, place, tmp_path, monkeypatch):
    before = shop(tmp_path).fingerprint
    files = contents(tmp_path)

    def fail(*_, **__):
        raise error(errno.ENOSPC, "No space left on device")

    owner, _, attribute = place.rpartition(".")
    monkeypatch.setattr(getattr(build, owner) if owner else build, attribute, fail)
    expected = StorageError if error is OSError else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device"):
        shop(tmp_path, [("c", "q", 1, None, None, None, None)])
    with pytest.raises(expected):
        Dataset.build(log_of([("c", "q", 1, None, None, None, None)]), tmp_path / "new")
    assert contents(tmp_path) == files
    assert Dataset.open(tmp_path / "shop").fingerprint == before


def test_a_disk_that_fills_while_writing(tmp_path):
    rows = [(f"user-{n}", f"item-{n}", n, None, None, None, None) for n in range(3000)]
    log = log_of(rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 20_000, 30_000):  # the first array, the times, the ids
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StorageError, match=r"cannot write .*shop: .*File too large.*; nothing was changed"):
                Dataset.build(log, tmp_path / "shop")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []
    assert Dataset.build(log, tmp_path / "shop").n_events == 3000


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"is not a dataset \(thesis.txt\); choose another folder"):
        shop(tmp_path)
    assert (tmp_path / "shop" / "thesis.txt").read_text() == "mine"


def test_an_earlier_dataset_is_replaced(tmp_path):
    shop(tmp_path)
    assert shop(tmp_path, [("c", "q", 1, None, None, None, None)]).users.ids([1]) == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize("name", ["item.npy", "offsets.npy", "users.arrow", "item-table.arrow"])
def test_damaged_datasets_are_refused(name, tmp_path):
    shop(tmp_path)
    path = tmp_path / "shop" / name
    whole = path.read_bytes()
    for hurt, message in {
        whole[:-1]: "is missing or not .* bytes long; make the dataset again",
        b"": "is missing or not .* bytes long",
        bytes(len(whole)): "dataset .*shop is damaged .*; make it again with `regard prepare`",
    }.items():
        path.write_bytes(hurt)
        with pytest.raises(StorageError, match=message) as caught:
            Dataset.open(tmp_path / "shop")
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(StorageError, match="is missing"):
        Dataset.open(tmp_path / "shop")


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(StorageError, match="there is no such folder; `regard prepare` makes one"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"it has no manifest\.json"):
        Dataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "run", "format": 1}')
    with pytest.raises(StorageError, match="but it is a run"):
        Dataset.open(tmp_path)


def test_a_silent_change_is_found_by_its_checksum(tmp_path):
    shop(tmp_path)
    path = tmp_path / "shop" / "item.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    assert damaged_files(tmp_path / "shop", "dataset") == ["item.npy"]


def test_a_dataset_outlives_its_log(tmp_path):
    log = log_of([("a", "x", 1, None, None, None, None)], workspace=tmp_path)
    assert [path.name.startswith(".regard-") for path in tmp_path.iterdir()] == [True]
    dataset = Dataset.build(log, None)
    del log
    assert list(tmp_path.iterdir()) == []
    assert (dataset.users.ids([1]), dataset.item.tolist()) == (["a"], [1])


def test_times_of_the_epoch_and_far_orders_survive(tmp_path):
    rows = [("a", "x", time, None, None, None, None) for time in (2**63 - 1, -(2**63), 0)]
    assert shop(tmp_path, rows).time.tolist() == [-(2**63), 0, 2**63 - 1]
