"""Models that learn by gradient descent: retrievers and rankers; checkpoint and log live beside the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from regard.data.batches import TrainingBatches
from regard.data.knowledge import Knowledge
from regard.data.requests import RequestBatches
from regard.data.shape import Shape
from regard.data.vocabulary import collision_line
from regard.errors import SettingsError, nearest
from regard.evaluate.compare import ERRORS
from regard.model.models import build
from regard.model.ranker import Ranker, RankerScorer
from regard.model.retriever import Retriever
from regard.train.loop import Batches, autocast_type, choose_device, fit, set_threads
from regard.train.progress import Watch
from regard.training.baselines import told
from regard.training.protocol import Protocol, check_learnable, median_gap
from regard.training.transfer import Fitted

Validate = Callable[[], dict[str, Any]]
"""Figures of which less is better."""


def learn(
    protocol: Protocol, progress: Path, resume: bool, console: Console | None, knowledge: Knowledge | None = None
) -> tuple[Retriever | Ranker, dict[str, Any]]:
    """Train the model of the settings; `progress` is the folder of its checkpoint and log.

    `knowledge`: pretrained vectors for its items to start from.
    """
    dataset, settings = protocol.dataset, protocol.settings
    check_learnable(dataset, settings)
    set_threads(settings.train.threads)
    torch.manual_seed(settings.train.seed)
    shape = Shape.of(dataset, settings.model.attributes, settings.model.context)
    if settings.model.name == "ranker" and settings.data.histories:
        shape = replace(shape, histories=histories_of(settings.data.histories, dataset.behaviours))
    counts = protocol.split.training_item_counts(dataset)
    fitted = None if knowledge is None else Fitted.of(knowledge, counts, settings.model)
    shape = replace(shape, vectors=0 if fitted is None else fitted.rows.shape[1])
    model = build(settings, shape)
    assert isinstance(model, Retriever | Ranker)
    model.item_embedding.fill(dataset)
    hashing = model.item_embedding.collisions()
    if console and hashing:
        console.print(collision_line(hashing), highlight=False)
    model.known, model.trained = torch.from_numpy(counts > 0), torch.from_numpy(counts > 0)
    if fitted is not None:
        fitted.hand_to(model, counts)
    model.to(choose_device(settings.train.device))
    batches, validate, notes = _ranking(protocol, model) if isinstance(model, Ranker) else _retrieval(protocol, model)
    metric, validate = rising(settings.train.metric, validate)
    rows = fit(
        model,
        batches,
        settings.train.model_copy(update={"metric": metric}),
        progress,
        told={
            "dataset": dataset.fingerprint,
            "vectors": knowledge.fingerprint if knowledge else None,
            **settings.model_dump(mode="json"),
        },
        validate=validate,
        resume=resume,
        watch=Watch(console) if console else None,
    )
    best = next((row for row in reversed(rows) if row["best"]), rows[-1])
    vectors = None if knowledge is None or fitted is None else {**knowledge.facts, "geometry": fitted.geometry.facts()}
    found = {"validation": best["validation"], "epochs": rows, "targets": notes, "vectors": vectors}
    return model, told(shape=shape.as_dict(), hashing=hashing, median_gap=median_gap(protocol), **found)


def _retrieval(protocol: Protocol, model: Retriever) -> tuple[Batches, Validate | None, dict[str, Any]]:
    settings = protocol.settings
    batches = TrainingBatches(
        protocol.dataset,
        protocol.split,
        window=settings.model.window,
        batch_tokens=settings.train.batch_tokens,
        seed=settings.train.seed,
        context=settings.model.context,
        request_time=settings.model.request_time,
    )
    cases, scorer = protocol.cases(), protocol.scorer(model)
    validate = None if cases is None else lambda: protocol.validation(scorer, cases)
    return batches, validate, {}


def _ranking(protocol: Protocol, model: Ranker) -> tuple[Batches, Validate | None, dict[str, Any]]:
    batches = RequestBatches(protocol.dataset, protocol.split, protocol.settings)
    if protocol.split.rule == "none":
        return batches, None, batches.notes
    requests = protocol.requests("validation", protocol.settings.evaluate.validation_cases)
    scorer = ranker_scorer(protocol, model)
    return batches, lambda: protocol.labelled_validation(scorer, requests), batches.notes


def rising(metric: str, validate: Validate | None) -> tuple[str, Validate | None]:
    """A metric of which more is better, as the loop chooses: an error is measured beside its negative, `-rmse`."""
    if validate is None or metric.partition("|")[0] not in ERRORS:
        return metric, validate

    def measured() -> dict[str, Any]:
        figures = validate()
        return figures | ({f"-{metric}": -figures[metric]} if metric in figures else {})

    return f"-{metric}", measured


def ranker_scorer(protocol: Protocol, model: Ranker) -> RankerScorer:
    """Wrap a ranker for labelled candidates, in the precision and on the device of the settings."""
    device = choose_device(protocol.settings.train.device)
    return RankerScorer(model, device, autocast_type(protocol.settings.train.precision, device))


def histories_of(texts: tuple[str, ...], behaviours: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Read `data.histories` (BEHAVIOUR+BEHAVIOUR:LENGTH) as behaviour codes and lengths; no length means all.

    Events without a behaviour, as those of a live history, belong to the first one.
    """
    found: list[tuple[tuple[int, ...], int]] = []
    for text in texts:
        names, _, length = text.partition(":")
        if length and not (length.isdecimal() and int(length)):
            raise SettingsError(
                f"data.histories: expected BEHAVIOUR+BEHAVIOUR:LENGTH, for example view:50; got {text!r}"
            )
        for name in names.split("+"):
            if name not in behaviours:
                there = ", ".join(behaviours) or "none: prepare it with --behaviour"
                raise SettingsError(
                    f"data.histories: {name!r} is no behaviour of this log{nearest(name, behaviours)}; it has {there}"
                )
        codes = tuple(behaviours.index(name) + 1 for name in names.split("+"))
        found.append((codes if found else (0, *codes), int(length or 0) or 2**31))
    return tuple(found)
