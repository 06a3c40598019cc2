"""Scores of labelled candidates become numbers: AUC, GAUC, log loss, calibration; for values RMSE and MAE.

Intervals are bootstrapped over users. What is asked, and how negatives were drawn, is stated beside the numbers.

Letters: C candidates.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from regard.data.requests import EvaluationRequests, LabelRule, Requests
from regard.data.split import Split
from regard.data.store import Dataset
from regard.errors import DivergenceError
from regard.evaluate.bootstrap import LEVEL
from regard.evaluate.figures import (
    BINS,
    BY_USER,
    Int64,
    Labelled,
    equal_mass,
    figures_of,
    numbers,
    ratio,
    table,
)
from regard.evaluate.protocol import processor
from regard.evaluate.result import Number, Result


class LabelledScorer(Protocol):
    """What can be measured. Two attributes are read where they exist: `uses_request_time` (bool) and `device`."""

    def probabilities(self, requests: Requests) -> npt.NDArray[np.floating]:
        """Return the probability (C,) that a candidate's label is 1; its value where values are learned."""
        ...


def collected(scorer: LabelledScorer, requests: EvaluationRequests) -> Labelled:
    """Ask a scorer about every candidate of every block."""
    labels, predictions, owners = [], [], []
    many = empty = 0
    for block in requests:
        predicted = np.asarray(scorer.probabilities(block), np.float64)
        assert predicted.shape == block.labels.shape, (predicted.shape, block.labels.shape)
        if not np.isfinite(predicted).all():
            raise DivergenceError("the ranker gives predictions that are not finite; try a lower train.learning_rate")
        labels.append(block.labels.numpy().astype(np.float64))
        predictions.append(predicted)
        owners.append(block.users[block.request_of_candidate].numpy())
        many += len(block)
        empty += int((block.spans[:, 0] == block.spans[:, 1]).sum())
    users, user = np.unique(np.concatenate(owners), return_inverse=True)
    return Labelled(np.concatenate(labels), np.concatenate(predictions), user, users, many, empty)


def labelled_keys(rule: LabelRule, sampled: int = 0) -> list[str]:
    """Return the keys of all that is measured: `auc`, `gauc`, …; with `|50-sampled` where negatives are sampled."""
    names = ("auc", "gauc", "log_loss", "calibration_error") if rule.binary else ("rmse", "mae")
    means = ("gauc", "log_loss") if rule.binary else ("mae",)
    return [_key(name, sampled) for name in (*names, *(f"{name}|{BY_USER}" for name in means))]


def quick_labelled(scorer: LabelledScorer, requests: EvaluationRequests) -> dict[str, Any]:
    """Return point values only, of what has one: what training looks at after each epoch.

    For probabilities also `reliability`: per bin how many candidates, what was said on average, and what came.
    """
    data = collected(scorer, requests)
    once = np.ones((len(data.users), 1))
    which = equal_mass(data.predictions, BINS)
    figures, _ = figures_of(data, requests.rule.binary, which)
    values = {_key(name, requests.negatives): float(figure(once)[0]) for name, figure in figures.items()}
    there: dict[str, Any] = {name: value for name, value in values.items() if np.isfinite(value)}
    if requests.rule.binary:
        many = np.bincount(which)
        said, came = (np.bincount(which, each) / many for each in (data.predictions, data.labels))
        rows = zip(many.tolist(), said.tolist(), came.tolist(), strict=True)
        there["reliability"] = [{"candidates": n, "said": round(p, 6), "came": round(y, 6)} for n, p, y in rows]
    return there


def evaluate_labelled(
    scorer: LabelledScorer,
    requests: EvaluationRequests,
    dataset: Dataset,
    split: Split,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    bins: int = BINS,
) -> Result:
    """Measure a scorer on labelled candidates.

    `gauc` weighs the AUC of each user by its candidates and `log_loss` each candidate alike; `|by-user` is the plain
    mean over users, and these are the values by user that two runs are paired on. Strata are the bins of the
    reliability table: `cases` are candidates and `targets` positives.

    Args:
        scorer: gives probabilities, or values.
        requests: of one held-back part.
        dataset: what they were made of.
        split: the same.
        bootstrap: resamples of users behind each interval; 0 = no intervals.
        seed: of the bootstrap.
        bins: equal-mass bins of calibration error and reliability table.
    """
    began = time.perf_counter()
    data = collected(scorer, requests)
    scored = time.perf_counter()
    which = equal_mass(data.predictions, bins)
    figures, by_user = figures_of(data, requests.rule.binary, which)
    metrics = numbers(figures, data, bootstrap, seed)
    sampled = requests.negatives
    strata = _reliability(data, which, bootstrap, seed) if requests.rule.binary else {}
    timing = {
        "scoring_seconds": round(scored - began, 4),
        "metrics_seconds": round(time.perf_counter() - scored, 4),
        "machine": processor(),
        "cores": os.cpu_count(),
        "device": str(getattr(scorer, "device", "cpu")),
    }
    protocol = {
        **_stated(data, requests, dataset, split),
        "request_time_used": bool(getattr(scorer, "uses_request_time", False)),
        "calibration": f"{bins} bins of equal mass, ties together; mean |mean probability - share of positives|",
        "users_without_gauc": int(np.isnan(by_user["gauc"]).sum()) if "gauc" in by_user else 0,
        "interval": {
            "level": LEVEL,
            "method": "percentile bootstrap over users",
            "resamples": bootstrap,
            "seed": seed,
        },
    }
    return Result(
        {_key(name, sampled): number for name, number in metrics.items()},
        strata,
        protocol,
        timing,
        data.users.astype(np.int32),
        {_key(f"{name}|{BY_USER}", sampled): values.astype(np.float32) for name, values in by_user.items()},
    )


def _key(name: str, sampled: int) -> str:
    return f"{name}|{sampled}-sampled" if sampled else name


def _reliability(data: Labelled, which: Int64, bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return the reliability table: how probable positives were said to be in each bin, and how many there were."""
    ones, chances = (table(data, which, values) for values in (np.ones_like(data.labels), data.predictions))
    positives = table(data, which, data.labels)
    shares = numbers({str(at): ratio(positives[at], ones[at]) for at in range(len(ones))}, data, bootstrap, seed)
    strata = {}
    for at in range(len(ones)):
        mine = data.predictions[which == at]
        plain = {"lowest": mine.min(), "highest": mine.max(), "mean_probability": chances[at].sum() / ones[at].sum()}
        strata[f"bin {at + 1}"] = {
            "users": int((ones[at] > 0).sum()),
            "cases": int(ones[at].sum()),
            "targets": int(positives[at].sum()),
            "metrics": {name: Number(value=float(value), low=None, high=None) for name, value in plain.items()}
            | {"share_of_positives": shares[str(at)]},
        }
    return strata


def _stated(data: Labelled, requests: EvaluationRequests, dataset: Dataset, split: Split) -> dict[str, Any]:
    sampled = requests.negatives
    offered = (
        f"each target and {sampled} negatives, uniform among items neither in the history nor targets, seed "
        f"{requests.seed}"
        if requests.rule.sampled
        else f"held-back events with a label, {requests.rule}"
    )
    return {
        "part": requests.part,
        "split": split.rule,
        "split_seed": split.seed,
        "split_cuts": split.fingerprint,
        "split_counts": dict(split.notes),
        "targets": requests.targets,
        "target_behaviours": list(split.target_behaviours),
        "labels": str(requests.rule),
        "history": requests.reading.history,
        "candidates": offered,
        "negatives": sampled,
        "negatives_seed": requests.seed,
        "seen": "no negative is in the history; targets may be" if requests.rule.sampled else "keep",
        "targets_in_history": int(requests.cases.in_history(dataset.item).sum()),
        "ties": "count half",
        "users": len(data.users),
        "cases": data.requests,
        "cases_without_history": data.empty,
        "candidates_scored": len(data.labels),
        "positives": int((data.labels > 0).sum()) if requests.rule.binary else None,
        "targets_without_label": requests.without_label,
        "weighting": "auc, log_loss: candidates alike; gauc: users by their candidates; |by-user: users alike",
        "average": "over candidates; |by-user over the candidates of a user, then over users",
        "dataset": dataset.fingerprint,
        "time_kind": dataset.time_kind,
    }
