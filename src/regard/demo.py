"""`regard demo`: the whole road on the embedded sample, and what to try next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard import pipeline, show
from regard.config import Settings
from regard.data.batches import gather
from regard.data.events import EventLog
from regard.data.sample import Shop, make_shop
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.model.oracle import OracleScorer
from regard.recommend.recommender import Recommender
from regard.recommend.run import Run
from regard.training.protocol import Protocol

SETTINGS = Settings.of(
    {
        "data": {"split": "time:0.9"},
        "model": {
            "width": 96,
            "heads": 6,
            "blocks": 1,
            "dropout": 0.25,
            "positions": "none",
            "time_lags": True,
            "request_time": True,
            "attributes": ["category"],
        },
        "train": {
            "epochs": 24,
            "batch_tokens": 512,
            "learning_rate": 0.01,
            "weight_decay": 0.6,
            "precision": "float32",
        },
        "evaluate": {"validation_cases": 2000},
    }
)
"""The demo's own model: small, because the sample is."""


def demo(folder: Path, console: Console, *, quiet: bool = False) -> None:
    """Generate the shop, prepare, train, evaluate beside baselines and oracle, recommend for one person."""

    def say(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False)

    say(
        "[bold]1. A small shop[/], generated: users with drifting taste, and purchases that call for an accessory later"
    )
    shop = make_shop()
    log = EventLog.read(shop.events, Columns("user", "item", "time", "behaviour", context=("hour", "device")))
    dataset = Dataset.build(log, folder / "shop", shop.items)
    say(
        f"   {dataset.n_events:,} events of {dataset.n_users:,} users on {dataset.n_items:,} items in {folder / 'shop'}"
    )
    say("[bold]2. Training[/] self-attention on the first 90 % of time")
    run = pipeline.train(dataset, SETTINGS, folder / "run", console=None if quiet else console)
    say("[bold]3. Evaluation[/] on the last 10 % of time, baselines and the oracle (who knows the generator) beside")
    found = pipeline.evaluate(run, baselines="all")
    protocol = Protocol.of(dataset, run.settings)
    oracle = protocol.measured(OracleScorer(shop, dataset), "test")
    show.evaluation(pipeline.Evaluation(found.name, found.result, found.baselines, oracle), console, as_json=False)
    user = _person(shop, dataset)
    say(f"\n[bold]4. Recommendations[/] for {user}, whose last events were")
    console.print(_recent(dataset, user))
    show.recommendation(Recommender(run, dataset).recommend(user=user, k=3), console, as_json=False)
    _next(run, dataset, user, console)


def _person(shop: Shop, dataset: Dataset) -> str:
    """A user with a purchase that has called for something lately: the cause of one of the last planted effects."""
    caused = np.flatnonzero(shop.cause >= 0)
    user: str = shop.events["user"][int(caused[-1])].as_py()
    return user if dataset.users.index([user])[0] else dataset.users.id(1)


def _recent(dataset: Dataset, user: str, count: int = 6) -> Table:
    index = int(dataset.users.index([user])[0])
    end = int(dataset.offsets[index + 1])
    events = np.arange(max(int(dataset.offsets[index]), end - count), end)
    histories = gather(dataset, events, np.array([0, len(events)]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("when", "behaviour", "item", "title"):
        table.add_column(head)
    assert histories.times is not None
    assert histories.behaviours is not None
    rows = zip(histories.times.tolist(), histories.behaviours.tolist(), histories.items.tolist(), strict=True)
    for time, behaviour, item in rows:
        when = str(np.datetime64(time, "us").astype("datetime64[m]")).replace("T", " ")
        told = dataset.behaviours[behaviour - 1] if behaviour else ""
        table.add_row(when, told, Text(dataset.items.id(item)), Text(dataset.title(item) or ""))
    return table


def _next(run: Run, dataset: Dataset, user: str, console: Console) -> None:
    item = dataset.items.id(int(dataset.item[-1]))
    console.print("\n[bold]5. Try next[/]")
    for line in (
        f"regard recommend {run.path} --user {user} -k 10",
        f"regard recommend {run.path} --history {item}  # a live history",
        f"regard similar {run.path} --item {item}",
        f"regard inspect {dataset.path}",
        "regard prepare your-log.csv --out yours",
        "regard train yours --out runs/first",
    ):
        console.print(f"   {line}", highlight=False, markup=False, soft_wrap=True)
