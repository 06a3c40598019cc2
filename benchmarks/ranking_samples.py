"""regard's ranker on the samples of peers/din_data.py: the very rows that the peers learn from and are tested on.

    python benchmarks/ranking_samples.py WORK/amazon-beauty_seed20261122.npz --out WORK/ours --trial 1

The same protocol, the same measures and the same answer as the peers (README.md), by `regard.train.loop.fit`. Item ids
only, no positions, width 64, head 128-64; `activation-unit` is DIN (64-16, Dice). What differs is regard's own way: no
padding, and the requests of a user share one row of events, of which each sees the span before itself. `mean`,
`candidate` and `--shuffled` (everybody reads the history of somebody else) are the ablations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peers.din_protocol import Clock, Part, Samples, Side, auc, options_of
from regard.config import ModelSettings, Settings
from regard.data.asked import Requests
from regard.data.batches import Histories, WindowLoader
from regard.data.cases import Int64, ranges
from regard.data.shape import Shape
from regard.model.models import build
from regard.model.ranker import Ranker, RankerScorer
from regard.train.loop import autocast_type, fit

FORMS = ("activation-unit", "multi-head", "mean", "candidate")
TRIALS: dict[str, tuple[dict[str, Any], ...]] = {
    "activation-unit": (
        {"learning_rate": 4e-3, "weight_decay": 1.0, "dropout": 0.1, "normalize": "softmax", "heads": 2},
        {"learning_rate": 4e-3, "weight_decay": 1.0, "dropout": 0.2, "normalize": "softmax", "heads": 4},
        {"learning_rate": 8e-3, "weight_decay": 0.1, "dropout": 0.2, "normalize": "softmax", "heads": 2},
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.1, "normalize": "softmax", "heads": 4},
        {"learning_rate": 4e-3, "weight_decay": 2.0, "dropout": 0.1, "normalize": "none", "heads": 2},
        {"learning_rate": 4e-3, "weight_decay": 1.0, "dropout": 0.0, "normalize": "softmax", "heads": 2},
    ),
    "multi-head": (
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.1, "heads": 4},
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.0, "heads": 4},
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.0, "heads": 4, "projections": "none", "scale": 8.0},
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.1, "heads": 2},
        {"learning_rate": 8e-3, "weight_decay": 1.0, "dropout": 0.0, "heads": 8},
        {"learning_rate": 4e-3, "weight_decay": 1.0, "dropout": 0.0, "heads": 4},
    ),
}
"""Declared after some forty looks at amazon-beauty (at most 5 epochs, AUC of 1,000 or 4,000 validation requests) at
batch size, decay, learning rate, dropout and the length of untrained item vectors (.01 here); those of the peers are
from their defaults, templates and examples, and the last one has the learning rate that these looks found. `heads` is
read by multi-head only; what reads a history plainly has the trial of the activation unit.
"""
LAST = 9  # epochs of the schedule, where so many are allowed
WINDOW = 32  # requests of a user that share a row
BATCH = 2048  # candidates of a step
PAIRS = 2**18  # of candidate and event in a block that is scored


def requests_of(samples: Samples, part: Part, offsets: Int64) -> Requests:
    """Return the requests of a part, those in `offsets[b]:offsets[b + 1]` sharing a row; all of a row are one user's.

    A row holds the events from the earliest to the latest that one of its requests reads, each once.
    """
    first = offsets[:-1]
    low, high = np.minimum.reduceat(part.start, first), np.maximum.reduceat(part.end, first)
    events, event_offsets = ranges(low, high)
    row = np.repeat(np.arange(len(first)), np.diff(offsets))
    users = torch.from_numpy(part.user.astype(np.int64) + 1)
    spans = np.stack([part.start - low[row], part.end - low[row]], axis=1)
    histories = Histories(
        torch.from_numpy(samples.events[events].astype(np.int64)),
        torch.from_numpy(event_offsets),
        users=users[torch.from_numpy(first)],
    )
    return Requests(
        histories=histories,
        row_offsets=torch.from_numpy(offsets.astype(np.int64)),
        spans=torch.from_numpy(spans.astype(np.int64)),
        candidates=torch.from_numpy(part.candidates.ravel().astype(np.int64)),
        offsets=torch.arange(len(part) + 1) * part.candidates.shape[1],
        labels=torch.from_numpy(part.labels.ravel().astype(np.float32)),
        log_rates=None,
        context=None,
        users=users,
        moments=None,
    )


class SampleBatches(WindowLoader[Requests]):
    """Every training request once per epoch; requests of a user in rows of at most `WINDOW`. A clock runs meanwhile."""

    def __init__(self, samples: Samples, *, rows: int, seed: int, clock: Clock, window: int = WINDOW) -> None:
        """Make batches of about `rows` candidates, `window` requests at most in a row."""
        self.samples, self.part, self.clock = samples, samples.parts["train"], clock
        user = self.part.user
        assert (np.diff(user) >= 0).all(), "the requests of a user must lie together"
        self.first = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
        self.targets_per_epoch = self.part.rows  # what the peers count: candidates that enter the loss
        lengths = np.diff(np.append(self.first, len(user)))
        super().__init__(lengths, window=window, budget=max(1, rows // self.part.candidates.shape[1]), seed=seed)

    def __iter__(self) -> Iterator[Requests]:
        """Yield the batches of an epoch."""
        self.clock.start()
        yield from super().__iter__()
        self.clock.stop()

    def _cost(self, rows: Int64, starts: Int64, ends: Int64) -> Int64:  # noqa: ARG002 - every row costs alike
        return ends - starts

    def _batch(self, rows: Int64, starts: Int64, ends: Int64) -> Requests:
        picked, offsets = ranges(self.first[rows] + starts, self.first[rows] + ends)
        return requests_of(self.samples, self.part.take(picked), offsets)


def shuffled(samples: Samples, seed: int = 0) -> Samples:
    """Give every request the history of somebody else's request in the same part, as long as it may be."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, part in samples.parts.items():
        other = rng.permutation(len(part))
        parts[name] = replace(part, start=part.start[other], end=part.end[other])
    return replace(samples, parts=parts)


def trials_of(form: str) -> tuple[dict[str, Any], ...]:
    return TRIALS.get(form, TRIALS["activation-unit"])


def settings_of(form: str, trial: int, options: argparse.Namespace) -> Settings:
    """Return the settings of a declared trial."""
    chosen = trials_of(form)[trial - 1]
    model = {
        "name": "ranker",
        "interest": form,
        "width": options.width,
        "positions": "none",
        "vector_scale": 0.01,
        **{name: value for name, value in chosen.items() if name in ModelSettings.model_fields},
        "window": 100_000,  # the samples bound the history
    }
    train = {
        "epochs": min(options.epochs, LAST),
        "seed": options.seed,
        "learning_rate": chosen["learning_rate"],
        "weight_decay": chosen["weight_decay"],
        "validations": LAST,
        "patience": options.patience,
        "metric": "auc",
        "precision": options.precision,
        "device": options.device,
        "threads": options.threads,
    }
    return Settings.of({"model": model, "train": train})


def score(scorer: RankerScorer, samples: Samples, part: Part) -> np.ndarray:
    """Return the probability (R,) of every candidate of a part, requests with equal lengths together."""
    order = np.argsort(-part.lengths, kind="stable")
    spent = np.cumsum((part.lengths[order] + 1) * part.candidates.shape[1]) // PAIRS
    found = np.empty(part.candidates.shape, np.float32)
    for picked in np.split(order, np.flatnonzero(np.diff(spent)) + 1):
        requests = requests_of(samples, part.take(picked), np.arange(len(picked) + 1))
        found[picked] = scorer.probabilities(requests).reshape(len(picked), -1)
    return found.ravel()


def learn(samples: Samples, settings: Settings, batches: SampleBatches, watched: Part) -> RankerScorer:
    """Train a ranker, stopped and chosen by the AUC of `watched`; the clock of the batches notes every epoch."""
    torch.manual_seed(settings.train.seed)
    device, clock = torch.device(settings.train.device), batches.clock
    model = build(settings, Shape(items=samples.n_items, users=len(samples.user_ids)))
    assert isinstance(model, Ranker)
    model.known[:] = model.trained[:] = True  # as with the peers, every item has a vector, met in training or not
    model.to(device)
    scorer = RankerScorer(model, device, autocast_type(settings.train.precision, device))

    def validate() -> dict[str, float]:
        clock.note(auc(watched.labels.ravel(), score(scorer, samples, watched)))
        return {"auc": clock.epochs[-1]["validation_auc"]}

    with tempfile.TemporaryDirectory() as folder:
        fit(model, batches, settings.train, Path(folder), validate=validate)
    return scorer


def options_of_ours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interest", choices=FORMS, default=FORMS[0])
    parser.add_argument("--shuffled", action="store_true", help="everybody reads the history of somebody else")
    parser.set_defaults(batch=BATCH)


def main() -> None:
    options = options_of("regard", max(map(len, TRIALS.values())), options_of_ours)
    began = time.perf_counter()
    samples = Samples.read(options.samples)
    samples = shuffled(samples) if options.shuffled else samples
    settings = settings_of(options.interest, options.trial, options)
    window = 1 if options.shuffled else WINDOW  # who reads anybody's history shares it with nobody
    batches = SampleBatches(samples, rows=options.batch, seed=options.seed, clock=Clock(), window=window)
    scorer = learn(samples, settings, batches, samples.watched(options.watch))
    form = f"{options.interest}-shuffled" if options.shuffled else options.interest
    told = {**trials_of(options.interest)[options.trial - 1], "interest": form}
    side = Side("regard", told, lambda part: score(scorer, samples, part), batches.clock, form=form)
    side.report(samples, options, began)


if __name__ == "__main__":
    main()
