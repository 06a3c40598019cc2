"""What `cold.py` found: figures by kind of target, differences to id-only, and whether the bars are reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regard.evaluate.compare import compare
from regard.evaluate.result import Number, Result
from regard.transfer.ways import ID_ONLY, RAW, UNIFORM

KEY = "ndcg@10"
COLD, AMONG, WARM = f"{KEY}|target events 0", f"{KEY}|cold only", f"{KEY}|trained"
HEADS = {
    COLD: "cold targets, full catalogue",
    AMONG: "cold targets among cold items",
    WARM: "warm targets",
    KEY: "all targets",
}
HALF, COST = 0.5, -0.05


@dataclass(frozen=True)
class Verdict:
    """A bar: what it asks, what was found, and whether that reaches it."""

    way: str
    bar: str
    found: str
    reached: bool

    @property
    def line(self) -> str:
        return f"- {self.way}, {self.bar}: {self.found}: **{'reached' if self.reached else 'missed'}**."


def number_of(result: Result, key: str) -> Number:
    """A figure with its interval, of all or of a group of targets."""
    name, _, group = key.partition("|")
    numbers = result.strata[group]["metrics"] if group in result.strata else result.metrics
    return numbers.get(name if group in result.strata else key, {"value": None, "low": None, "high": None})


def numbers_of(result: Result) -> dict[str, Number]:
    """The figures of all kinds of targets, rounded."""
    numbers = {key: number_of(result, key) for key in HEADS}
    return {
        key: {end: None if value is None else round(value, 6) for end, value in one.items()}
        for key, one in numbers.items()
    }


def said(number: Number) -> str:
    """A figure with its interval."""
    if number["value"] is None:
        return "-"
    return f"{number['value']:.4f} ({number['low']:.4f}-{number['high']:.4f})"


def against(base: Result, other: Result, key: str, resamples: int) -> dict[str, float]:
    """The paired difference `other` - `base` by user; `from` and `to` are its ends as shares of the base."""
    row = compare({"base": base, "other": other}, bootstrap=resamples)["against"]["other"][key]
    ends = {name: row[end] / row["base"] if row["base"] else None for name, end in (("from", "low"), ("to", "high"))}
    return {**row, **ends}


def relative(row: Mapping[str, Any]) -> str:
    if row["relative"] is None:
        return "-"
    return f"{row['relative']:+.1%} ({row['from']:+.1%} to {row['to']:+.1%})"


def absolute(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"


def verdicts(results: Mapping[str, Result], ways: Sequence[str], resamples: int) -> Iterator[Verdict]:
    """Yield the bars of every way with text, and that of id-only."""
    for way in ways:
        if way not in results:
            continue
        above = against(results[UNIFORM], results[way], COLD, resamples)
        bar = "cold targets in the full catalogue above uniform random, interval clear of zero"
        yield Verdict(way, bar, absolute(above), above["low"] > 0)
        raw, mine = number_of(results[RAW], AMONG)["value"], number_of(results[way], AMONG)["value"]
        assert raw is not None
        assert mine is not None
        row = against(_scaled(results[RAW], HALF), results[way], AMONG, resamples)
        share = f"{mine / raw:.0%} of it" if raw else "it is 0"
        told = f"{mine:.4f} of {raw:.4f}, {share}; difference to the half {absolute(row)}"
        yield Verdict(way, "cold targets among cold items at least half of raw cosine", told, mine >= HALF * raw)
        cost = against(results[ID_ONLY], results[way], KEY, resamples)
        bar = f"all targets, lower end of the difference to id-only at least {COST:.0%}"
        found = relative(cost) if cost["relative"] is not None else "id-only is 0"
        yield Verdict(way, bar, found, cost["low"] >= COST * cost["base"])
    nothing = number_of(results[ID_ONLY], COLD)["value"]
    yield Verdict(ID_ONLY, "0 on cold targets in the full catalogue", f"{nothing:.4f}", nothing == 0)


def _scaled(result: Result, share: float) -> Result:
    """A result with a share of every user's values."""
    return replace(result, per_user={key: values * share for key, values in result.per_user.items()})


def figures(results: Mapping[str, Result]) -> str:
    """A line for each way, a column for each kind of target."""
    rows = [[way, *(said(number_of(result, key)) for key in HEADS)] for way, result in results.items()]
    return table(["way", *HEADS.values()], rows)


def differences(results: Mapping[str, Result], ways: Sequence[str], resamples: int) -> str:
    """Each way beside id-only, by kind of target; on cold ones id-only has nothing that a share could be of."""
    rows = []
    for way in ways:
        if way in results:
            pairs = [against(results[ID_ONLY], results[way], key, resamples) for key in (KEY, WARM)]
            cold = against(results[UNIFORM], results[way], COLD, resamples)
            rows.append([way, *(f"{absolute(row)}, {relative(row)}" for row in pairs), absolute(cold)])
    heads = [
        "way",
        "all targets, beside id-only",
        "warm targets, beside id-only",
        "cold targets, beside uniform random",
    ]
    return table(heads, rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine_lines(cells: Sequence[Mapping[str, Any]]) -> str:
    """Who measured it with what; a walk that was resumed may have cells of several commits."""

    def all_of(kind: str, name: str) -> str:
        return " and ".join(dict.fromkeys(str(cell[kind][name]) for cell in cells))

    return (
        f"{all_of('machine', 'processor')}, {all_of('machine', 'cores')} cores, {all_of('machine', 'device')}, "
        f"threads {all_of('machine', 'threads')}, {all_of('machine', 'precision')}; "
        f"torch {all_of('machine', 'torch')}; regard {all_of('code', 'regard')} at commit {all_of('code', 'commit')}; "
        f"load up to {max(cell['load'] for cell in cells):.1f} before a cell began."
    )
