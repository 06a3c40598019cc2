"""The real logs that walk the road: how each is read, how it is split, and what it has to refuse.

A recipe is a `data.toml` as anybody would write one; DATA stands for the folder that holds the logs. Only events are
read, no item tables: the catalogue is what people met, as in the published figures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RealSet:
    """A log and its protocol; `refused` are splits that it cannot have, asked so that the page shows the reasons."""

    about: str
    split: str
    recipe: str
    seeds: tuple[int, ...] = (1,)
    refused: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # of the trained model only, and `about` says why


def _by_position(name: str, item: str) -> str:
    columns = f'{{ user = "user_id", item = "{item}", time = "position" }}'
    file = "sequences_chronological" if name == "ml-1m" else "interactions"
    return f'[[source]]\npath = "DATA/{name}/{file}.csv"\ncolumns = {columns}\n'


SETS = {
    "ml-1m": RealSet(
        "Films, one long history each; the log gives the order of a user's events and no dates.",
        "leave-one-out",
        _by_position("ml-1m", "movie_id"),
        seeds=(1, 2, 3),
        refused=("time:0.9",),
    ),
    "ml-100k": RealSet(
        "Films rated over seven months, mostly in one sitting each: few people are left after the cut.",
        "time:0.9",
        """\
[[source]]
path = "DATA/ml-100k/u.data"
columns = { user = 1, item = 2, time = 4 }
""",
    ),
    "ml-latest-small": RealSet(
        "Films rated over twenty years by few people.",
        "time:0.9",
        """\
[[source]]
path = "DATA/ml-latest-small/ratings.csv"
columns = { user = "userId", item = "movieId", time = "timestamp" }
""",
    ),
    "amazon-beauty": RealSet(
        "Reviews of a shop, five events and more for everybody and everything.",
        "leave-one-out",
        _by_position("amazon-beauty", "item_id"),
        refused=("time:0.9",),
    ),
    "amazon-sports": RealSet(
        "The same shop, another department.",
        "leave-one-out",
        _by_position("amazon-sports", "item_id"),
        refused=("time:0.9",),
    ),
    "yoochoose": RealSet(
        "Clicks of anonymous sessions in one week; the test part is given, and every session in it is new.",
        "parts",
        """\
[[source]]
path = "DATA/yoochoose/yoochoose-clicks-100k_train_full.txt"
part = "train"
columns = { user = "SessionId", item = "ItemId", time = "Time" }

[[source]]
path = "DATA/yoochoose/yoochoose-clicks-100k_test.txt"
part = "test"
columns = { user = "SessionId", item = "ItemId", time = "Time" }
""",
    ),
    "taobao": RealSet(
        "Two hours of a large shop, four behaviours: most people have one event, and most items too. To learn for less "
        "long, self-attention has 12 passes here (`train.epochs=12`) in the place of the 37 that follow from the size "
        "of the log, the only setting on this page that is not a default.",
        "time:0.9",
        """\
[[source]]
path = "DATA/taobao/UserBehavior.csv"
columns = { user = 1, item = 2, behaviour = 4, time = 5 }
""",
        changes=("train.epochs=12",),
    ),
    "frappe": RealSet(
        "Use of apps in context. There is no time, so what needs an order refuses.",
        "random:0.8,0.1,0.1",
        """\
[[source]]
path = "DATA/frappe/frappe.csv"
columns = { user = "user", item = "item", context = [
    "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city",
] }
""",
        refused=("leave-one-out", "time:0.9"),
    ),
    "retailrocket": RealSet(
        "Views, carts and purchases of a shop in three files, and nothing that says which came first.",
        "random:0.8,0.1,0.1",
        "\n".join(
            f"""\
[[source]]
path = "DATA/retailrocket/{file}_ecommerce.dat"
behaviour = "{behaviour}"
columns = {{ user = "visitorid", item = "itemid" }}
"""
            for file, behaviour in (("view", "view"), ("add_to_cart", "cart"), ("purchase", "purchase"))
        ),
        refused=("leave-one-out", "time:0.9", "users:0.1"),
    ),
}
