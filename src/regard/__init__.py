"""`regard`: a recommender built on attention.

From an event log it trains attention models, evaluates them honestly and recommends:

    import regard
    log = regard.EventLog.read(frame)                     # a DataFrame, an Arrow table or files
    dataset = regard.Dataset.build(log, "shop")
    run = regard.train(dataset, out="runs/first")
    print(regard.evaluate(run).result.metrics["ndcg@10"])
    regard.Recommender(run, dataset).recommend(user="ada")

Names are loaded when they are first used, so `import regard` costs nothing.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.config import Settings as Settings
    from regard.data.events import EventLog as EventLog
    from regard.data.matrix import user_item_matrix as user_item_matrix
    from regard.data.sample import make_shop as make_shop
    from regard.data.sources import Columns as Columns
    from regard.data.split import make_split as make_split
    from regard.data.store import Dataset as Dataset
    from regard.errors import RegardError as RegardError
    from regard.pipeline import add_items as add_items
    from regard.pipeline import compare as compare
    from regard.pipeline import evaluate as evaluate
    from regard.pipeline import train as train
    from regard.recommend.recommender import Recommender as Recommender
    from regard.recommend.run import Run as Run
    from regard.transfer.report import transfer_report as transfer_report
    from regard.tune.search import tune as tune
else:
    from regard import evaluate, train, tune

_HOMES = {
    "Columns": "regard.data.sources",
    "Dataset": "regard.data.store",
    "EventLog": "regard.data.events",
    "Recommender": "regard.recommend.recommender",
    "RegardError": "regard.errors",
    "Run": "regard.recommend.run",
    "Settings": "regard.config",
    "add_items": "regard.pipeline",
    "compare": "regard.pipeline",
    "make_shop": "regard.data.sample",
    "make_split": "regard.data.split",
    "transfer_report": "regard.transfer.report",
    "user_item_matrix": "regard.data.matrix",
}

__all__ = [
    "Columns",
    "Dataset",
    "EventLog",
    "Recommender",
    "RegardError",
    "Run",
    "Settings",
    "add_items",
    "compare",
    "evaluate",
    "make_shop",
    "make_split",
    "train",
    "transfer_report",
    "tune",
    "user_item_matrix",
]


class _Verb(ModuleType):
    """A room whose name is also a verb: `regard.train(...)` is `regard.pipeline.train(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        home = importlib.import_module("regard.tune.search" if name == "tune" else "regard.pipeline")
        return getattr(home, name)(*args, **kwargs)


if not TYPE_CHECKING:
    for _room in (evaluate, train, tune):
        _room.__class__ = _Verb
    del _room


def __getattr__(name: str) -> Any:
    """Load a public name from its home."""
    if name == "__version__":
        from importlib.metadata import version

        return version("regard")
    if name not in _HOMES:
        raise AttributeError(f"module 'regard' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
