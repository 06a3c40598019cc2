"""One way to measure everything: cases go to a `Scorer`, ranks come back, and numbers keep their protocol beside them.

Each target is ranked in the full catalogue. Values are averaged over a user's cases, then over users; intervals are
bootstrapped over users.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from regard.data.split import PARTS, Cases, Part, Split, Targets, resolve_seen
from regard.data.store import Dataset
from regard.errors import SettingsError
from regard.evaluate.bootstrap import LEVEL, interval, resampled_means
from regard.evaluate.metrics import BY_CASE, Float, coverage
from regard.evaluate.result import Number, Result
from regard.evaluate.strata import TRAINED, groups_of, user_means

Ranks = npt.NDArray[np.int64]
Lists = npt.NDArray[np.int32]


class Scorer(Protocol):
    """What can be measured. Two attributes are read where they exist: `uses_request_time` (bool) and `device`."""

    def rank(self, cases: Cases, *, k: int, filter_seen: bool) -> tuple[Ranks, Lists]:
        """Return the rank (T,) of every target among all candidates, and the best k items (C, k) of every case.

        Ranks begin at 1; a target stands below its equals; a rank beyond the catalogue is a miss. With `filter_seen`,
        items of the history are no candidates, and a target among them is a miss. 0 fills lists that are too short.
        """
        ...


class Choices(TypedDict, total=False):
    """How to measure; whatever is not given is as in `DEFAULTS`."""

    part: Part
    targets: Targets
    seen: Literal["auto", "filter", "keep"]
    k: Sequence[int]
    bootstrap: int
    """Resamples of users behind each interval; 0 = no intervals."""
    seed: int
    """Of the bootstrap."""


DEFAULTS = Choices(part="test", targets="next", seen="auto", k=(10,), bootstrap=1000, seed=0)


def evaluate(scorer: Scorer, dataset: Dataset, split: Split, **choices: Unpack[Choices]) -> Result:
    """Measure a scorer on a held-back part of a split; the choices are those of `Choices`.

    Raises:
        SettingsError: a choice does not exist or does not fit.
        ProtocolError: the split leaves no cases.
    """
    chosen = _checked(choices)
    k = tuple(chosen["k"])
    seen, share = resolve_seen(dataset, split, chosen["seen"])
    cases = split.cases(dataset, chosen["part"], chosen["targets"])
    began = time.perf_counter()
    ranks, top = _ranked(scorer, cases, max(k), seen == "filter")
    ranked = time.perf_counter()
    trained = split.training_item_counts(dataset)[dataset.item[cases.targets]]
    metrics, strata, per_user = _measured(ranks, cases, trained, dataset.n_items, chosen)
    for cut in k:
        metrics[f"coverage@{cut}"] = {"value": coverage(top, cut, dataset.n_items), "low": None, "high": None}
    protocol = {
        **_stated(scorer, dataset, split, cases, chosen),
        "seen": seen,
        "repeat_share": share,
        "targets_in_history": int(cases.in_history(dataset.item).sum()),
        "targets_never_trained": int((trained == 0).sum()),
    }
    timing = {
        "ranking_seconds": round(ranked - began, 4),
        "metrics_seconds": round(time.perf_counter() - ranked, 4),
        "machine": processor(),
        "cores": os.cpu_count(),
        "device": str(getattr(scorer, "device", "cpu")),
    }
    return Result(metrics, strata, protocol, timing, np.unique(cases.user), per_user)


def quick(
    scorer: Scorer, dataset: Dataset, cases: Cases, *, k: Sequence[int] = (10,), filter_seen: bool
) -> dict[str, float]:
    """Return point values only, `{"ndcg@10": .., …, "coverage@10": ..}`: what training looks at after each epoch."""
    ranks, top = _ranked(scorer, cases, max(k), filter_seen)
    means = user_means(ranks, cases, tuple(k), dataset.n_items)
    return {name: float(values.mean()) for name, values in means.items()} | {
        f"coverage@{cut}": coverage(top, cut, dataset.n_items) for cut in k
    }


def measured(k: Sequence[int]) -> list[str]:
    """Return the keys of all that is measured at the cut-offs `k`."""
    return [f"{name}@{cut}" for cut in k for name in (*BY_CASE, "coverage")]


def _checked(choices: Choices) -> Choices:
    chosen: Choices = {**DEFAULTS, **choices}
    allowed = {"part": PARTS, "targets": ("next", "last", "set"), "seen": ("auto", "filter", "keep")}
    for name, value in chosen.items():
        if name not in DEFAULTS:
            raise TypeError(f"evaluate() got an unexpected keyword argument {name!r}")
        if name in allowed and value not in allowed[name]:
            raise SettingsError(f"evaluate.{name}: expected {', '.join(allowed[name])}; got {value!r}")
    if not chosen["k"] or min(chosen["k"]) < 1:
        raise SettingsError(f"evaluate.k: expected whole numbers from 1, for example [10, 20]; got {chosen['k']!r}")
    return chosen


def _ranked(scorer: Scorer, cases: Cases, k: int, filter_seen: bool) -> tuple[Ranks, Lists]:
    ranks, top = scorer.rank(cases, k=k, filter_seen=filter_seen)
    assert ranks.shape == cases.targets.shape, (ranks.shape, cases.targets.shape)
    assert top.shape == (len(cases), k), (top.shape, len(cases), k)
    assert ranks.min() >= 1
    return ranks, top


def _measured(
    ranks: Ranks, cases: Cases, trained: Ranks, catalogue: int, chosen: Choices
) -> tuple[dict[str, Number], dict[str, dict[str, Any]], dict[str, npt.NDArray[np.float32]]]:
    """Return metrics, strata and per-user values; one bootstrap serves all."""
    groups = {"": None, **groups_of(cases, trained)}
    columns = {
        (group, name): values
        for group, mask in groups.items()
        for name, values in user_means(ranks, cases, tuple(chosen["k"]), catalogue, mask).items()
    }
    means = resampled_means(columns.values(), chosen["bootstrap"], chosen["seed"])
    metrics: dict[str, Number] = {}
    per_user: dict[str, npt.NDArray[np.float32]] = {}
    strata = {group: _counted(cases, mask) for group, mask in groups.items() if mask is not None and group != TRAINED}
    for ((group, name), values), resampled in zip(columns.items(), means.T, strict=True):
        if group in strata:
            strata[group]["metrics"][name] = _number(values, resampled)
        else:
            key = f"{name}|{group}" if group else name
            metrics[key] = _number(values, resampled)
            per_user[key] = values.astype(np.float32)
    return metrics, strata, per_user


def _counted(cases: Cases, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    inside = np.unique(cases.case_of_target[mask])
    users = len(np.unique(cases.user[inside]))
    return {"users": users, "cases": len(inside), "targets": int(mask.sum()), "metrics": {}}


def _number(values: Float, resampled: Float) -> Number:
    there = values[~np.isnan(values)]
    low, high = interval(resampled)
    return {"value": float(there.mean()) if len(there) else None, "low": low, "high": high}


def _stated(scorer: Scorer, dataset: Dataset, split: Split, cases: Cases, chosen: Choices) -> dict[str, Any]:
    return {
        "part": chosen["part"],
        "split": split.rule,
        "split_seed": split.seed,
        "split_cuts": split.fingerprint,
        "split_counts": dict(split.notes),
        "targets": chosen["targets"],
        "target_behaviours": list(split.target_behaviours),
        "candidates": "full catalogue",
        "catalogue": dataset.n_items,
        "ties": "a target ranks below its equals",
        "request_time_used": bool(getattr(scorer, "uses_request_time", False)),
        "users": len(np.unique(cases.user)),
        "cases": len(cases),
        "target_events": len(cases.targets),
        "cases_without_history": int((cases.history_end == cases.history_start).sum()),
        "average": "over the cases of a user, then over users",
        "interval": {
            "level": LEVEL,
            "method": "percentile bootstrap over users",
            "resamples": chosen["bootstrap"],
            "seed": chosen["seed"],
        },
        "dataset": dataset.fingerprint,
        "time_kind": dataset.time_kind,
    }


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
