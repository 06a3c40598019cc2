"""How a dataset is cut and measured under some settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from regard.config import Settings
from regard.data.cases import ranges
from regard.data.labels import resolve_labels
from regard.data.requests import EvaluationRequests, evaluation_requests
from regard.data.split import Cases, Part, Split, make_split, resolve_seen
from regard.data.store import Dataset
from regard.errors import ProtocolError, SettingsError, nearest
from regard.evaluate.labelled import LabelledScorer, evaluate_labelled, labelled_keys, quick_labelled
from regard.evaluate.protocol import Scorer, measured, quick
from regard.evaluate.protocol import evaluate as measure
from regard.evaluate.result import Result
from regard.model.models import FACTORIZATION
from regard.model.popular import Baseline
from regard.model.retriever import Retriever
from regard.model.scorer import CatalogueModel, CatalogueScorer
from regard.model.twostage import TwoStage
from regard.train.loop import autocast_type, choose_device

ORDERLESS = ("candidate", "mean", "additive", "activation-unit", "target", "multi-head")
"""Interests that need no order of events, where events have no places and times."""


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
        split = split.keeping(settings.data.keep)
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
        precision = (
            autocast_type(self.settings.train.precision, device) if isinstance(model, Retriever | TwoStage) else None
        )
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

    def requests(self, part: Part, most: int | None = None, negatives: int | None = None) -> EvaluationRequests:
        """What a ranker is asked on a held-back part; `most` limits the cases, the same ones every time."""
        many = negatives or self.settings.evaluate.negatives
        return evaluation_requests(self.dataset, self.split, part, self.settings, negatives=many, most=most)

    def labelled_validation(self, scorer: LabelledScorer, requests: EvaluationRequests) -> dict[str, Any]:
        """Point values of labelled candidates."""
        return quick_labelled(scorer, requests)

    def labelled(self, scorer: LabelledScorer, part: Part) -> Result:
        """All there is to say of labelled candidates of a held-back part."""
        many = self.settings.evaluate.bootstrap
        return evaluate_labelled(scorer, self.requests(part), self.dataset, self.split, bootstrap=many)


def asks_labels(settings: Settings, dataset: Dataset) -> bool:
    """Whether the model is measured on labelled candidates: a ranker, and factorisation of labels that were given."""
    if settings.model.name != FACTORIZATION:
        return settings.model.name == "ranker"
    return not resolve_labels(dataset, settings.data.labels).sampled


def with_metric(settings: Settings, dataset: Dataset) -> Settings:
    """Settings that name the validation figure to choose by, or refuse one that is not measured."""
    labelled = asks_labels(settings, dataset)
    known = measured(settings.evaluate.k)
    if labelled:
        rule = resolve_labels(dataset, settings.data.labels)
        known = labelled_keys(rule, settings.evaluate.negatives if rule.sampled else 0)
    metric = settings.train.metric
    if metric == "auto":
        metric = known[0] if labelled else f"ndcg@{settings.evaluate.k[0]}"
    if metric not in known:
        raise SettingsError(
            f"train.metric={metric!r} is not measured{nearest(metric, known)}; known: {', '.join(known)}"
        )
    return settings.changed([f'train.metric="{metric}"'])


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


def check_learnable(dataset: Dataset, settings: Settings) -> None:
    """Refuse a model that reads order or times where the log has none."""
    model = settings.model
    name = f"{model.name} with interest {model.interest}" if model.name == "ranker" else model.name
    orderless = model.name == "ranker" and model.interest in ORDERLESS and model.positions == "none"
    orderless = orderless or model.name == FACTORIZATION
    if dataset.time_kind == "none" and not orderless:
        raise ProtocolError(
            f"{name} reads events in their order, and this log has none (time kind none); prepare it again with "
            "--time-kind order if file order is meant, or train popular, repeat, co-visit, matrix-factorization, or a "
            f"ranker with model.positions=none and one of the interests {', '.join(ORDERLESS)}"
        )
    for option in ("time_gaps", "time_lags", "time_bias", "request_time"):
        if getattr(settings.model, option) and dataset.time_kind != "timestamp":
            raise ProtocolError(
                f"model.{option} needs timestamps, and this log has time kind {dataset.time_kind}; "
                f"train with --set model.{option}=false"
            )
