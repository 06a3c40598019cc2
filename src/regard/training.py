"""How a model is fitted under a protocol: baselines try a few choices, models learn; both are judged by validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from regard.config import Settings
from regard.data.batches import TrainingBatches
from regard.data.cases import ranges
from regard.data.shape import Shape
from regard.data.split import Cases, Part, Split, make_split, resolve_seen
from regard.data.store import Dataset
from regard.data.vocabulary import collision_line
from regard.errors import ProtocolError, SettingsError, nearest
from regard.evaluate.protocol import Scorer, measured, quick
from regard.evaluate.protocol import evaluate as measure
from regard.evaluate.result import Result
from regard.model.baseline import BASELINES
from regard.model.models import build
from regard.model.popular import Baseline
from regard.model.retriever import Retriever
from regard.model.scorer import CatalogueModel, CatalogueScorer
from regard.train.loop import autocast_type, choose_device, fit, set_threads
from regard.train.progress import Watch


@dataclass(frozen=True)
class Protocol:
    """How a dataset is cut and measured under some settings: the same for training, validation and test."""

    dataset: Dataset
    split: Split
    settings: Settings
    seen: Literal["filter", "keep"]

    @classmethod
    def of(cls, dataset: Dataset, settings: Settings) -> Protocol:
        """Make the split and decide the seen rule."""
        split = make_split(dataset, settings.data.split, target_behaviours=settings.data.target_behaviours)
        return cls(dataset, split, settings, resolve_seen(dataset, split, settings.evaluate.seen)[0])

    def cases(self) -> Cases | None:
        """Validation cases, at most `evaluate.validation_cases` of them; None where nothing is held back."""
        if self.split.rule == "none":
            return None
        cases = self.split.cases(self.dataset, "validation", self.settings.evaluate.targets)
        most = self.settings.evaluate.validation_cases
        if len(cases) <= most:
            return cases
        return cases.take(np.sort(np.random.default_rng(0).choice(len(cases), most, replace=False)))

    def placed(self, model: Baseline) -> Baseline:
        """The model on the device of the settings."""
        return model.to(choose_device(self.settings.train.device))

    def scorer(self, model: CatalogueModel) -> CatalogueScorer:
        """Wrap a model for ranking, in the precision and on the device of the settings."""
        device = choose_device(self.settings.train.device)
        precision = autocast_type(self.settings.train.precision, device) if isinstance(model, Retriever) else None
        return CatalogueScorer(model, self.dataset, device, getattr(model, "window", None), precision=precision)

    def validation(self, scorer: Scorer, cases: Cases) -> dict[str, float]:
        """Point values on validation cases."""
        return quick(scorer, self.dataset, cases, k=self.settings.evaluate.k, filter_seen=self.seen == "filter")

    def measured(self, scorer: Scorer, part: Part) -> Result:
        """All there is to say on a held-back part."""
        chosen = self.settings.evaluate
        return measure(
            scorer,
            self.dataset,
            self.split,
            part=part,
            targets=chosen.targets,
            seen=self.seen,
            k=chosen.k,
            bootstrap=chosen.bootstrap,
        )


def check_metric(settings: Settings) -> None:
    """Refuse a validation figure that is not measured, before any work is done."""
    metric, known = settings.train.metric, measured(settings.evaluate.k)
    if metric not in known:
        raise SettingsError(
            f"train.metric={metric!r} is not measured{nearest(metric, known)}; known: {', '.join(known)}"
        )


def choose(protocol: Protocol) -> tuple[Retriever | Baseline, dict[str, Any]]:
    """Fit a baseline with each of its choices and keep the one that validation likes best."""
    dataset, settings = protocol.dataset, protocol.settings
    kind = BASELINES[settings.model.name]
    choices, shape = kind.choices(dataset, protocol.split), Shape.of(dataset).as_dict()
    cases = protocol.cases() if len(choices) > 1 else None
    if cases is None:
        return protocol.placed(kind.fit(dataset, protocol.split, **choices[0])), _told(shape=shape, choice=choices[0])
    best: tuple[float, dict[str, Any], Baseline, dict[str, float]] | None = None
    for choice in choices:
        model = protocol.placed(kind.fit(dataset, protocol.split, **choice))
        figures = protocol.validation(protocol.scorer(model), cases)
        value = figures[settings.train.metric]
        if best is None or value > best[0]:
            best = value, choice, model, figures
    assert best is not None
    return best[2], _told(shape=shape, choice=best[1], validation=best[3])


def median_gap(protocol: Protocol) -> int:
    """The median time between neighbouring training events of a user: what a live history without times is given."""
    time, split = protocol.dataset.time, protocol.split
    if time is None:
        return 0
    places, offsets = ranges(*split.training(protocol.dataset))
    rows = places if split.order is None else split.order[places]
    inside = np.ones(len(rows), dtype=bool)
    inside[offsets[:-1][offsets[:-1] < len(rows)]] = False  # a first event has none before it
    gaps = np.diff(time[rows], prepend=time[:1])[inside]
    return int(np.median(gaps)) if len(gaps) else 0


def _told(**facts: Any) -> dict[str, Any]:
    """What the manifest of a run says of its fitting."""
    return {"choice": {}, "validation": {}, "epochs": [], **facts}


def learn(
    protocol: Protocol, progress: Path, resume: bool, console: Console | None
) -> tuple[Retriever | Baseline, dict[str, Any]]:
    """Train a model by gradient descent; checkpoint and log live in `progress`."""
    dataset, settings = protocol.dataset, protocol.settings
    _check_learnable(dataset, settings)
    set_threads(settings.train.threads)
    torch.manual_seed(settings.train.seed)
    shape = Shape.of(dataset, settings.model.attributes, settings.model.context)
    model = build(settings, shape)
    assert isinstance(model, Retriever)
    model.item_embedding.fill(dataset)
    hashing = model.item_embedding.collisions()
    if console and hashing:
        console.print(collision_line(hashing), highlight=False)
    model.known = torch.from_numpy(protocol.split.training_item_counts(dataset) > 0)
    model.to(choose_device(settings.train.device))
    batches = TrainingBatches(
        dataset,
        protocol.split,
        window=settings.model.window,
        batch_tokens=settings.train.batch_tokens,
        seed=settings.train.seed,
        context=settings.model.context,
        request_time=settings.model.request_time,
    )
    cases, scorer = protocol.cases(), protocol.scorer(model)
    rows = fit(
        model,
        batches,
        settings.train,
        progress,
        told={"dataset": dataset.fingerprint, **settings.model_dump(mode="json")},
        validate=None if cases is None else lambda: protocol.validation(scorer, cases),
        resume=resume,
        watch=Watch(console) if console else None,
    )
    best = next((row for row in reversed(rows) if row["best"]), rows[-1])
    found = {"validation": best["validation"], "epochs": rows}
    return model, _told(shape=shape.as_dict(), hashing=hashing, median_gap=median_gap(protocol), **found)


def _check_learnable(dataset: Dataset, settings: Settings) -> None:
    name = settings.model.name
    if dataset.time_kind == "none":
        raise ProtocolError(
            f"{name} reads events in their order, and this log has none (time kind none); prepare it again with "
            "--time-kind order if file order is meant, or train popular, repeat or co-visit"
        )
    for option in ("time_gaps", "time_lags", "request_time"):
        if getattr(settings.model, option) and dataset.time_kind != "timestamp":
            raise ProtocolError(
                f"model.{option} needs timestamps, and this log has time kind {dataset.time_kind}; "
                f"train with --set model.{option}=false"
            )
