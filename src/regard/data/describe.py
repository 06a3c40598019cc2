"""The import doctor: what is in a dataset, as plain numbers, and what was refused on the way in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from regard.data.repeats import count_repeats
from regard.data.store import Dataset

_QUANTILES = {"min": 0.0, "q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "q99": 0.99, "max": 1.0}
_MOST_VALUES = 20


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return JSON-able facts of a dataset.

    Keys: sources (paths and columns, guessed ones included); counts; time {kind, unit, first, last, ties};
    events_per_user, events_per_item (quantiles over those with events); repeats {share, exact}: events whose user had
    the item before, and events that are the same in everything; behaviours, context, parts {value: events}; label;
    items, users (coverage of the tables beside the log); import (rows read, kept, refused, notes, format…).
    """
    report = dict(dataset.manifest["report"])
    per_item = np.bincount(dataset.item, minlength=dataset.n_items + 1)[1:]
    found: dict[str, Any] = {
        "sources": dataset.manifest["made_by"]["sources"],
        "counts": {"users": dataset.n_users, "items": dataset.n_items, "events": dataset.n_events},
        "time": _time(dataset, report.pop("time_unit", ""), report.pop("ties_in_time", None)),
        "events_per_user": _quantiles(np.diff(dataset.offsets)[1:]),
        "events_per_item": _quantiles(per_item[per_item > 0]),
        "repeats": {
            "share": count_repeats(dataset.offsets, dataset.item) / dataset.n_events,
            "exact": report.pop("exact_repeats", 0),
        },
    }
    if dataset.behaviour is not None:
        found["behaviours"] = _counts(dataset.behaviour, list(dataset.behaviours))
    if dataset.context:
        found["context"] = {name: _context(dataset, name) for name in dataset.context}
    if dataset.part is not None:
        train, test = np.bincount(dataset.part, minlength=2).tolist()
        found["parts"] = {"train": train, "test": test}
    if dataset.label is not None:
        found["label"] = _label(dataset.label)
    for name, table in (("items", dataset.item_table), ("users", dataset.user_table)):
        if table is not None:
            found[name] = report.pop(name, {}) | {"columns": _filled(table)}
    report.pop("time_kind", None)
    return found | {"import": report}


def _time(dataset: Dataset, unit: str, ties: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": dataset.time_kind, "unit": unit}
    if dataset.time is None:
        return found
    first, last = int(dataset.time.min()), int(dataset.time.max())
    if dataset.time_kind == "timestamp":
        return found | {"first": _iso(first), "last": _iso(last), "ties": ties}
    return found | {"first": first, "last": last, "ties": ties}


def _iso(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 10**6)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat().replace("+00:00", "Z")


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    """Return quantiles that are values of `counts` themselves, and their mean."""
    values = np.quantile(counts, list(_QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(_QUANTILES, values, strict=True)} | {"mean": float(counts.mean())}


def _counts(codes: np.ndarray, values: list[str]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(values) + 1).tolist()
    found = dict(zip(values, counts[1:], strict=True))
    return found | ({"(not given)": counts[0]} if counts[0] else {})


def _context(dataset: Dataset, name: str) -> dict[str, Any]:
    """Count the most frequent values of a context column."""
    values = dataset.context_values[name]
    counts = np.bincount(dataset.context[name], minlength=len(values) + 1)
    order = 1 + np.argsort(-counts[1:], kind="stable")[:_MOST_VALUES]
    top = dict(zip(values.ids(order), counts[order].tolist(), strict=True))
    return {"values": len(values), "not_given": int(counts[0]), "top": top}


def _label(label: np.ndarray) -> dict[str, Any]:
    given = label[~np.isnan(label)]
    found: dict[str, Any] = {"not_given": len(label) - len(given)}
    if len(given):
        found |= {"min": float(given.min()), "mean": float(given.mean(dtype=np.float64)), "max": float(given.max())}
    return found


def _filled(table: pa.Table) -> dict[str, int]:
    """Count the rows that have a value, by column of a table beside the log."""
    return {name: table.num_rows - table.column(name).null_count for name in table.column_names if name != "id"}
