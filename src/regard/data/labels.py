"""What a ranker learns of an event: that it happened, a 0 or 1 that was given, a threshold passed, or a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from regard.data.cases import Bool
from regard.data.store import Dataset
from regard.errors import SettingsError

Mode = Literal["sampled", "given", "threshold", "value"]
FORMS = "sampled | given | >=X | value | auto"


@dataclass(frozen=True)
class LabelRule:
    """How labels (N,) of a log become targets; `threshold` belongs to the mode of that name."""

    mode: Mode
    threshold: float = 0.0

    def __str__(self) -> str:
        return f">={self.threshold:g}" if self.mode == "threshold" else self.mode

    @property
    def sampled(self) -> bool:
        """Whether every target event is a positive, and negatives are drawn."""
        return self.mode == "sampled"

    @property
    def binary(self) -> bool:
        """Whether what is learned is a probability; else it is a number."""
        return self.mode != "value"

    def usable(self, dataset: Dataset) -> Bool:
        """Mark the event rows (N,) that have what this rule needs; a row whose label is missing is no target."""
        return np.ones(dataset.n_events, bool) if self.sampled else ~np.isnan(_given(dataset))

    def targets(self, dataset: Dataset, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return what is to be learned (R,) of event rows (R,): 1 where sampled, else 0 or 1, or the value."""
        if self.sampled:
            return np.ones(len(rows), np.float32)
        label = np.asarray(_given(dataset)[rows], np.float32)
        return (label >= self.threshold).astype(np.float32) if self.mode == "threshold" else label

    def positive(self, dataset: Dataset) -> Bool:
        """Mark the event rows (N,) whose label says yes; missing labels do not."""
        assert self.mode in ("given", "threshold"), self.mode
        return np.asarray(_given(dataset) >= (1.0 if self.mode == "given" else self.threshold))


def resolve_labels(dataset: Dataset, rule: str) -> LabelRule:
    """Read `data.labels` against a dataset.

    `auto` is `sampled` where the log has no labels or says yes to everything (negatives are needed to learn from), and
    `given` where labels are 0 and 1.

    Raises:
        SettingsError: the rule does not exist, or the labels do not fit it.
    """
    rule = rule.strip()
    known = () if dataset.label is None else _kinds(dataset)
    if rule == "sampled" or (rule == "auto" and known in ((), (1.0,))):
        return LabelRule("sampled")
    if rule not in ("auto", "given", "value") and not rule.startswith(">="):
        raise SettingsError(f"data.labels: expected {FORMS}; got {rule!r}")
    if not known:
        raise SettingsError(
            f"data.labels={rule} needs labels, and this log has none; prepare it with --label COLUMN, or use "
            "data.labels=sampled"
        )
    if rule == "value":
        return LabelRule("value")
    if rule.startswith(">="):
        return LabelRule("threshold", _threshold(rule))
    if not set(known) <= {0.0, 1.0}:
        shown = ", ".join(f"{value:g}" for value in known[:5]) + ", …" * (len(known) > 5)
        raise SettingsError(
            f"data.labels={rule}: expected labels 0 and 1; this log has {shown}; say which are positive with "
            f"data.labels='>={known[-1]:g}', learn the number itself with "
            "data.labels=value, or that there was an event with data.labels=sampled"
        )
    return LabelRule("given")


def resolve_history(rule: LabelRule, history: str) -> Literal["positive", "all"]:
    """Read `data.history`: `auto` is `positive` where labels say yes or no, as a no is nothing that the user chose.

    Raises:
        SettingsError: positives are asked for where no label says yes or no.
    """
    decides = rule.mode in ("given", "threshold")
    if history == "positive" and not decides:
        raise SettingsError(f"data.history=positive needs data.labels given or >=X; got data.labels={rule}")
    return "positive" if decides and history != "all" else "all"


def _given(dataset: Dataset) -> npt.NDArray[np.floating]:
    assert dataset.label is not None
    return dataset.label


def _kinds(dataset: Dataset) -> tuple[float, ...]:
    """Distinct labels, ascending, without the missing."""
    values = np.unique(_given(dataset))
    return tuple(values[~np.isnan(values)].tolist())


def _threshold(rule: str) -> float:
    try:
        value = float(rule[2:])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SettingsError(f"data.labels: expected >=X with a number, for example >=4; got {rule!r}")
    return value
