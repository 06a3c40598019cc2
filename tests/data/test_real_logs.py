"""Real logs, as their readers find them: the counts are those of the data's own descriptions."""

from __future__ import annotations

import pytest

from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.items import item_report, read_items
from regard.data.sources import Columns, Source
from regard.data.store import Dataset

MOVIES = Columns("user_id", "movie_id", "position")
ORDERED = Columns("user_id", "item_id", "position")
LOGS = {
    "ml-100k": ("u.data", Columns("1", "2", "4", label="3"), (100_000, 943, 1_682), "timestamp", "tab"),
    "ml-1m": ("sequences_chronological.csv", MOVIES, (999_611, 6_040, 3_416), "order", ","),
    "ml-latest-small": ("ratings.csv", None, (100_004, 671, 9_066), "timestamp", ","),
    "amazon-beauty": ("interactions.csv", ORDERED, (198_502, 22_363, 12_101), "order", ","),
    "amazon-sports": ("interactions.csv", ORDERED, (296_337, 35_598, 18_357), "order", ","),
    "frappe": ("frappe.csv", Columns("user", "item", context=("daytime", "city")), (96_203, 957, 4_082), "none", "tab"),
    "taobao": ("UserBehavior.csv", Columns("1", "2", "5", "4"), (110_300, 66_454, 84_793), "timestamp", ","),
}


def read(name, real_data):
    file, columns, *_ = LOGS[name]
    return Dataset.build(EventLog.read(real_data(f"{name}/{file}"), columns), None)


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_one_file(name, real_data):
    _, _, counts, kind, separator = LOGS[name]
    dataset = read(name, real_data)
    report = dataset.manifest["report"]
    assert (dataset.n_events, dataset.n_users, dataset.n_items) == counts
    assert (dataset.time_kind, report["separator"], report["refused"]) == (kind, separator, {})


def test_what_is_known_of_these_logs(real_data):
    ratings = describe(read("ml-100k", real_data))
    assert (ratings["time"]["first"][:7], ratings["time"]["last"][:7]) == ("1997-09", "1998-04")
    assert ratings["time"]["ties"] > 70_000
    assert (ratings["label"]["min"], ratings["label"]["max"], ratings["repeats"]["share"]) == (1.0, 5.0, 0.0)
    clicks = describe(read("taobao", real_data))
    assert list(clicks["behaviours"]) == ["pv", "buy", "cart", "fav"]
    assert clicks["time"]["first"] == "2017-11-26T01:00:00Z"
    assert clicks["events_per_user"]["median"] == 1
    apps = describe(read("frappe", real_data))
    assert apps["context"]["daytime"]["values"] == 7
    assert apps["repeats"]["share"] > 0.5


def test_given_parts_with_new_users(real_data):
    path = "yoochoose/yoochoose-clicks-100k_{}.txt"
    parts = (("train", "train_full"), ("test", "test"))
    sources = [Source(real_data(path.format(file)), part=part) for part, file in parts]
    dataset = Dataset.build(EventLog.read(sources), None)
    found = describe(dataset)
    assert found["parts"] == {"train": 70_278, "test": 13_568}
    assert (dataset.n_users, dataset.n_items) == (17_794 + 3_416, 2_933)
    assert (found["time"]["kind"], found["time"]["unit"]) == ("timestamp", "s")
    assert (dataset.time % 10**6).any()  # fractions of a second survive


def test_three_files_of_behaviours_without_time(real_data):
    behaviours = ("view", "add_to_cart", "purchase")
    sources = [Source(real_data(f"retailrocket/{name}_ecommerce.dat"), behaviour=name) for name in behaviours]
    dataset = Dataset.build(EventLog.read(sources), None)
    assert (dataset.time_kind, dataset.time) == ("none", None)
    assert describe(dataset)["behaviours"] == {"view": 78_371, "add_to_cart": 9_028, "purchase": 5_088}
    views = EventLog.read(sources[0])
    assert (len(views.users), len(views.items)) == (3_423, 8_878)


@pytest.mark.parametrize(
    ("file", "asked", "rows", "first"),
    [
        ("ml-100k/u.item", {"id": "1", "title": "2"}, 1_682, "Toy Story (1995)"),
        ("ml-1m/movies.dat", {"id": "1", "title": "2", "attributes": ["3"]}, 3_883, "Toy Story (1995)"),
        ("ml-latest-small/movies.csv", {}, 9_125, "Toy Story (1995)"),
        ("amazon-beauty/items.csv", {"id": "item_id", "title": "title", "text": "keywords"}, 12_101, "OPI Nail"),
        ("frappe/meta.csv", {"id": "item", "title": "name", "attributes": ["category"]}, 4_082, "Any.DO"),
    ],
)
def test_item_tables(file, asked, rows, first, real_data):
    items = read_items(real_data(file), **asked)
    report = item_report(items)
    assert (items.num_rows, report["rows_read"], report["malformed_lines"]) == (rows, rows, 0)
    assert items.column("title")[0].as_py().startswith(first)


def test_titles_of_another_alphabet_are_whole(real_data):
    titles = read_items(real_data("ml-1m/movies.dat"), id="1", title="2").column("title").to_pylist()
    assert sum("é" in title for title in titles) > 5
    log = EventLog.read(real_data("ml-1m/sequences_chronological.csv"), MOVIES)
    dataset = Dataset.build(log, None, read_items(real_data("ml-1m/movies.dat"), id="1", title="2"))
    assert dataset.title(int(dataset.items.index(["1"])[0])) == "Toy Story (1995)"
    assert dataset.manifest["report"]["items"]["only_in_events"] == 0
