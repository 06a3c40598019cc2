"""Models that learn by gradient descent: retrievers and rankers; checkpoint and log live beside the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from regard.data.attributes import Attribute, item_attributes
from regard.data.batches import TrainingBatches
from regard.data.requests import RequestBatches
from regard.data.shape import Form, Shape
from regard.data.vocabulary import collision_line
from regard.errors import SettingsError, nearest
from regard.evaluate.compare import ERRORS
from regard.model.factorization import Factorization
from regard.model.models import Learned, build
from regard.model.neighbourhood import MOST, NEWEST
from regard.model.ranker import Ranker, RankerScorer
from regard.model.retriever import Retriever
from regard.model.transfer import mode_of
from regard.train.heap import keep_freed
from regard.train.loop import Batches, autocast_type, choose_device, fit, set_threads
from regard.train.progress import Watch
from regard.training.baselines import told
from regard.training.joined import on_scale
from regard.training.people import coverage, people, people_line, user_counts
from regard.training.protocol import Protocol, asks_labels, check_learnable, median_gap
from regard.training.sizes import by_size, size_line
from regard.training.start import Start, start_line
from regard.training.transfer import Fitted

Validate = Callable[[], dict[str, Any]]
"""Figures of which less is better."""


def learn(
    protocol: Protocol,
    progress: Path,
    resume: bool,
    console: Console | None,
    fitted: Fitted | None = None,
    fitted_users: Fitted | None = None,
    start: Start | None = None,
) -> tuple[Learned, dict[str, Any]]:
    """Train the model of the settings; `progress` is the folder of its checkpoint and log.

    `fitted`, `fitted_users`: pretrained vectors for its items and users to start from. `start`: the run whose weights
    it goes on from.
    """
    settings, size = by_size(protocol, vectors=fitted is not None, begun=start is not None)
    if fitted is not None or fitted_users is not None:  # what a run is does not hang on what `auto` will mean one day
        settings = settings.changed([f"model.transfer={mode_of(settings.model)}"])
    protocol, dataset = replace(protocol, settings=settings), protocol.dataset
    check_learnable(dataset, settings)
    set_threads(settings.train.threads)
    keep_freed()
    torch.manual_seed(settings.train.seed)
    users = people(protocol)
    shape = _shape(protocol, users, fitted, fitted_users)
    model = _ready(protocol, shape, users, fitted, fitted_users)
    hashing = model.item_embedding.collisions()
    for facts, line in ((size, size_line), (hashing, collision_line), (users, people_line)):
        _tell(console, line(facts) if facts else "")
    batches, validate, notes = _task(protocol, model)
    metric, validate = rising(settings.train.metric, validate)
    if isinstance(model, Factorization) and validate is not None:
        validate = Traced(validate, held_back_loss(protocol, model))
    begun = None if start is None else start.hand_to(model, shape, protocol)
    _tell(console, "" if begun is None else start_line(begun))
    rows = fit(
        model,
        batches,
        settings.train.model_copy(update={"metric": metric}),
        progress,
        told={
            "dataset": dataset.fingerprint,
            "vectors": fitted.knowledge.fingerprint if fitted else None,
            "user_vectors": fitted_users.knowledge.fingerprint if fitted_users else None,
            "from": start.fingerprint if start else None,
            **settings.model_dump(mode="json"),
        },
        validate=validate,
        resume=resume,
        begun=start is not None,
        watch=Watch(console) if console else None,
    )
    best = next((row for row in reversed(rows) if row["best"]), rows[-1])
    found = {"validation": best["validation"], "epochs": rows, "targets": notes, "from": begun}
    found["vectors"], found["user_vectors"] = (one and one.facts for one in (fitted, fitted_users))
    meanings = {name: one.meaning() for name, one in item_attributes(dataset, [*shape.attributes]).items()}
    there = {} if start is None else start.run.manifest
    found["attributes"] = on_scale(meanings, there.get("attributes", {}))
    found["user_attributes"] = on_scale(coverage(users), there.get("user_attributes", {}))
    found |= {"settings": settings.model_dump(mode="json"), "size": size}
    return model, told(shape=shape.as_dict(), hashing=hashing, median_gap=median_gap(protocol), **found)


def _tell(console: Console | None, line: str) -> None:
    if console is not None and line:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _shape(
    protocol: Protocol, users: Mapping[str, Attribute], fitted: Fitted | None, fitted_users: Fitted | None
) -> Shape:
    """What the model must know of the dataset, of attributes of its users and of pretrained vectors to be built."""
    dataset, settings = protocol.dataset, protocol.settings
    shape = Shape.of(dataset, settings.model.attributes, settings.model.context)
    if settings.model.name == "ranker" and settings.data.histories:
        shape = replace(shape, histories=histories_of(settings.data.histories, dataset.behaviours))
    widths = [0 if one is None else one.rows.shape[1] for one in (fitted, fitted_users)]
    forms = {name: Form(one.kind, one.size) for name, one in users.items()}
    return replace(shape, vectors=widths[0], user_vectors=widths[1], user_attributes=forms)


def _ready(
    protocol: Protocol,
    shape: Shape,
    users: Mapping[str, Attribute],
    fitted: Fitted | None,
    fitted_users: Fitted | None,
) -> Learned:
    """The model of the settings before training, told what the dataset and pretrained vectors say; on its device."""
    model = build(protocol.settings, shape)
    assert isinstance(model, Learned)
    model.item_embedding.fill(protocol.dataset)
    if isinstance(model, Ranker) and model.user_attributes is not None:
        model.user_attributes.read(users)
    counts = protocol.split.training_item_counts(protocol.dataset)
    model.known, model.trained = torch.from_numpy(counts > 0), torch.from_numpy(counts > 0)
    if isinstance(model, Retriever) and model.negatives is not None:
        model.negatives.take(
            torch.from_numpy(counts), torch.from_numpy(protocol.split.target_item_counts(protocol.dataset))
        )
    if isinstance(model, Retriever) and model.near is not None and not protocol.settings.train.zero_shot:
        model.near.count(protocol.dataset, protocol.split, most=MOST, newest=NEWEST)
    if fitted is not None:
        fitted.hand_to(model, counts)
    if fitted_users is not None:
        fitted_users.hand_to(model, user_counts(protocol))
    return model.to(choose_device(protocol.settings.train.device))


def _task(protocol: Protocol, model: Learned) -> tuple[Batches, Validate | None, dict[str, Any]]:
    """What the model learns from, and by what it is chosen."""
    if isinstance(model, Factorization):
        return _factorizing(protocol, model)
    return _ranking(protocol, model) if isinstance(model, Ranker) else _retrieval(protocol, model)


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


def _factorizing(protocol: Protocol, model: Factorization) -> tuple[Batches, Validate | None, dict[str, Any]]:
    """Every training target by itself: no history is read, so targets of a user need not lie together."""
    alone = protocol.settings.changed(["model.window=1"])
    batches = RequestBatches(protocol.dataset, protocol.split, alone)
    reading = batches.reading
    device = model.met.device
    model.met[torch.from_numpy(batches.users).to(device)] = True
    labels = reading.rule.targets(protocol.dataset, reading.rows(batches.places)).mean(dtype=np.float64)
    share = 1 / max(protocol.dataset.n_items, 1) if reading.rule.sampled else float(labels)
    model.begin(share if model.squared else _logit(share))
    if protocol.split.rule == "none":
        return batches, None, batches.notes
    if asks_labels(protocol.settings, protocol.dataset):
        requests = protocol.requests("validation", protocol.settings.evaluate.validation_cases)
        scorer = ranker_scorer(protocol, model)
        return batches, lambda: protocol.labelled_validation(scorer, requests), batches.notes
    cases, catalogue = protocol.cases(), protocol.scorer(model)
    assert cases is not None
    return batches, lambda: protocol.validation(catalogue, cases), batches.notes


def _logit(share: float) -> float:
    """The log-odds of a share, kept finite where all labels agree."""
    share = min(max(share, 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))


@dataclass(frozen=True)
class Traced:
    """A validation that also gives the loss after every epoch."""

    look: Validate
    loss: Callable[[], float]

    def __call__(self) -> dict[str, Any]:
        """The figures."""
        return self.look()


def held_back_loss(protocol: Protocol, model: Factorization) -> Callable[[], float]:
    """The loss of training on validation targets, with as many negatives and without dropout; mean over candidates."""
    settings = protocol.settings
    requests = protocol.requests("validation", settings.evaluate.validation_cases, settings.data.negatives)
    device = model.met.device

    @torch.inference_mode()
    def loss() -> float:
        model.eval()
        total, many = 0.0, 0
        for block in requests:
            total += float(model.loss(block.to(device))) * len(block.candidates)
            many += len(block.candidates)
        model.train()
        return total / many

    return loss


def rising(metric: str, validate: Validate | None) -> tuple[str, Validate | None]:
    """A metric of which more is better, as the loop chooses: an error is measured beside its negative, `-rmse`."""
    if validate is None or metric.partition("|")[0] not in ERRORS:
        return metric, validate

    def measured() -> dict[str, Any]:
        figures = validate()
        return figures | ({f"-{metric}": -figures[metric]} if metric in figures else {})

    return f"-{metric}", measured


def ranker_scorer(protocol: Protocol, model: Ranker | Factorization) -> RankerScorer:
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
