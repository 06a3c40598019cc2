"""The embedded sample with its planted causes, and how often a model, the oracle and simple rules name them.

Letters: N events of the sample, n caused events of held-out people, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regard.config import Settings
from regard.data.cases import Int64
from regard.data.events import EventLog
from regard.data.requests import evaluation_requests
from regard.data.sample import Shop, make_shop
from regard.data.sources import Columns
from regard.data.split import Part, make_split
from regard.data.store import Dataset
from regard.model.ranker import Ranker
from regard.train.loop import choose_device

SPLIT = "users:0.1"
RESAMPLES = 1000


@dataclass(frozen=True)
class Sample:
    """The shop as a dataset, and for every event row (N,) of it the row that caused it, -1 where nothing did."""

    shop: Shop
    dataset: Dataset
    row: Int64  # (N,) line of the shop's log
    cause: Int64

    @classmethod
    def draw(cls, folder: Path) -> Sample:
        """Draw the shop, and prepare it in `folder` if it is not there."""
        shop = make_shop()
        if not folder.is_dir():
            log = EventLog.read(shop.events, Columns("user", "item", "time", "behaviour", context=("hour", "device")))
            Dataset.build(log, folder, shop.items)
        dataset = Dataset.open(folder)
        user = dataset.users.index(shop.events["user"].to_pylist())
        row = np.argsort(user, kind="stable")  # the log is in the order of time
        place = np.empty(len(row) + 1, np.int64)
        place[row], place[-1] = np.arange(len(row)), -1
        assert (dataset.items.index(shop.events["item"].to_pylist())[row] == dataset.item).all()
        return cls(shop, dataset, row, place[shop.cause[row]])

    def caused(self, part: Part) -> tuple[Int64, Int64]:
        """Return the caused events of held-out people, as rows, and the first event of each one's person."""
        cases = make_split(self.dataset, SPLIT).cases(self.dataset, part)
        there = self.cause[cases.targets] >= 0
        return cases.targets[there], cases.history_start[there]


def named(model: Ranker, sample: Sample, settings: Settings, part: Part) -> Int64:
    """Which event a model points at for each caused event: rows (n, 1 + H), by all heads together, then by each."""
    device = choose_device(settings.train.device)
    split = make_split(sample.dataset, settings.data.split)
    found = []
    for requests in evaluation_requests(sample.dataset, split, part, settings, negatives=0):
        assert requests.places is not None
        assert requests.event_places is not None
        with torch.inference_mode():
            events = model(requests.to(device), return_weights=True).events
        caused = sample.cause[requests.places.numpy()] >= 0
        first = requests.histories.offsets.numpy()
        for at in np.flatnonzero(caused).tolist():
            sizes = events[0][at][0].abs().cpu()  # (events, H); a row holds one request with one candidate
            largest = torch.cat([sizes.mean(1, keepdim=True), sizes], 1).argmax(0).numpy()
            found.append(requests.event_places.numpy()[first[at] + largest])
    return np.array(found)


def by_oracle(sample: Sample, part: Part) -> Int64:
    """Which event the oracle names for each caused event, rows (n,)."""
    dataset, columns = sample.dataset, sample.shop.events.select(["user", "item", "behaviour", "hour", "device"])
    user, item, behaviour, hour, device = (np.array(column.to_pylist(), dtype=object)[sample.row] for column in columns)
    assert dataset.time is not None
    found = []
    for row, first in zip(*sample.caused(part), strict=True):
        before = slice(first, row)
        told = item[before].tolist(), dataset.time[before], behaviour[before].tolist(), int(dataset.time[row])
        chances = sample.shop.oracle.cause_probabilities(user[row], *told, hour[row], device[row], item[row])
        found.append(first + chances.argmax())
    return np.array(found)


def beside(sample: Sample, part: Part) -> dict[str, np.ndarray]:
    """How often the oracle and those who do not learn are right: shares (n,) for each caused event."""
    dataset = sample.dataset
    rows, first = sample.caused(part)
    cause = sample.cause[rows]
    assert dataset.behaviour is not None
    bought = np.flatnonzero(dataset.behaviour == dataset.behaviours.index("purchase") + 1)
    upto = np.searchsorted(bought, rows)
    purchases = upto - np.searchsorted(bought, first)
    return {
        "oracle": (by_oracle(sample, part) == cause) * 1.0,
        "most recent event": (rows - 1 == cause) * 1.0,
        "most recent purchase": (bought[upto - 1] == cause) * 1.0,
        "any purchase, uniform": 1.0 / purchases,
        "any event, uniform": 1.0 / (rows - first),
    }


def interval(hits: np.ndarray, people: Int64) -> tuple[float, float]:
    """Return the 95 % percentile interval of a share (n,) over events when `people` (n,) are drawn anew."""
    _, person = np.unique(people, return_inverse=True)
    right, asked = np.bincount(person, hits), np.bincount(person)
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(asked), np.full(len(asked), 1 / len(asked)), RESAMPLES)
    low, high = np.percentile((times @ right) / (times @ asked), [2.5, 97.5])
    return float(low), float(high)
