"""What the figures say, in words: is there a gain, and is it from what the vectors mean?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regard.evaluate.compare import compare, verdict
from regard.evaluate.result import Result
from regard.transfer.measure import COLD
from regard.transfer.ways import CONTROLS, ID_ONLY, RAW, REFERENCES, UNIFORM

Row = Mapping[str, float | None]
RIVALS = (*CONTROLS, *REFERENCES)

MEANING, OTHER, NOTHING, LOSS, UNSURE = "from meaning", "not from meaning", "none", "loss", "no intervals"
"""What a gain over id-only is. None: the interval of the difference holds zero."""


def compared(results: Mapping[str, Result], best: str, metric: str, resamples: int) -> dict[str, Any]:
    """Pair every way with id-only, and the best mode with what it has to beat; say what its gain is.

    Returns:
        `{"against_id_only": {way: {metric: row}}, "best_against": {rival: {metric: row}}, "gain": ...}`, rows as those
        of `evaluate.compare`.
    """
    base = {ID_ONLY: results[ID_ONLY], **{name: one for name, one in results.items() if name != ID_ONLY}}
    against = compare(base, bootstrap=resamples)["against"]
    beside = {
        rival: compare({rival: results[rival], best: results[best]}, bootstrap=resamples)["against"][best]
        for rival in RIVALS
    }
    gain = gain_of(against[best][metric], [beside[name][metric] for name in CONTROLS], metric)
    return {"against_id_only": against, "best_against": beside, "gain": gain}


def gain_of(over_ids: Row, over_controls: list[Any], metric: str) -> str:
    """Say what the gain is: from meaning only where real vectors beat every control with the interval clear of 0."""
    if over_ids["low"] is None:
        return UNSURE
    word = verdict(metric, over_ids)
    if word != "ahead":
        return NOTHING if word == "unclear" else LOSS
    return MEANING if all(verdict(metric, row) == "ahead" for row in over_controls) else OTHER


def sentences(body: Mapping[str, Any]) -> list[str]:
    """Say in plain words what the report found, the largest share first."""
    best, metric = body["best"]["mode"], body["metric"]
    found = [f"{best} is the best mode on validation."] if len(body["modes"]) > 1 else []
    for share, at in sorted(body["at"].items(), key=lambda pair: -float(pair[0])):
        found.append(f"{percent(float(share))} of users: {_gain(at, best, metric)}")
        found += [f"{percent(float(share))} of users: {line}" for line in _floors(at, best, metric)]
    return found + list(_cold(body, best, metric))


def _gain(at: Mapping[str, Any], best: str, metric: str) -> str:
    row = at["against_id_only"][best][metric]
    rows = {name: at["best_against"][name][metric] for name in CONTROLS}
    if at["gain"] == UNSURE:
        return f"{best} - {ID_ONLY} is {_signed(row)}; without intervals (evaluate.bootstrap=0) that says nothing."
    if at["gain"] == NOTHING:
        return f"nothing is gained: {best} and {ID_ONLY} cannot be told apart ({_signed(row)})."
    if at["gain"] == LOSS:
        return f"nothing is gained: {best} is behind {ID_ONLY} ({_signed(row)})."
    ahead = f"{best} is ahead of {ID_ONLY} ({_signed(row)})"
    if at["gain"] == MEANING:
        over = " and ".join(f"{name} ({_signed(one)})" for name, one in rows.items())
        return f"{ahead}, and the gain is from meaning: it is ahead of {over} too."
    as_good = [f"{name} ({_signed(one)})" for name, one in rows.items() if verdict(metric, one) != "ahead"]
    return f"{ahead}, but the gain is not from meaning: it is not clearly ahead of {' and '.join(as_good)}."


def _floors(at: Mapping[str, Any], best: str, metric: str) -> Iterator[str]:
    """Name what does better without being trained."""
    for name in REFERENCES:
        row = at["best_against"][name][metric]
        if verdict(metric, row) == "behind":
            yield f"{name}, which is not trained, is ahead of {best} ({_signed(row)})."


def _cold(body: Mapping[str, Any], best: str, metric: str) -> Iterator[str]:
    """Say how cold targets fare: in the full catalogue, and among themselves beside raw cosine and chance."""
    share = max(body["at"], key=float)
    ways = body["at"][share]["ways"]
    stratum = "target events 0"
    if stratum not in ways[best]["strata"]:
        yield f"{percent(float(share))} of users: every target has training events, so nothing is said of cold items."
        return
    full = {name: ways[name]["strata"][stratum]["metrics"][metric]["value"] for name in (best, ID_ONLY, UNIFORM)}
    among = {name: ways[name]["strata"][COLD]["metrics"][metric]["value"] for name in (best, RAW, UNIFORM)}
    row = body["at"][share]["best_against"][UNIFORM][f"{metric}|{stratum}"]
    word = {"ahead": "clearly above chance", "behind": "below chance"}.get(verdict(metric, row), "not clear of chance")
    yield (
        f"{percent(float(share))} of users, targets without training events: {_values(full, metric)} in the full "
        f"catalogue, {word}; {_values(among, '')} where only such items compete."
    )


def _values(figures: Mapping[str, float | None], metric: str) -> str:
    said = ", ".join(f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in figures.items())
    return f"{metric} {said}".strip()


def _signed(row: Row) -> str:
    """A difference, its share of the base, and its interval."""
    share = "" if row["relative"] is None else f", {100 * row['relative']:+.1f} %"
    ends = "" if row["low"] is None else f", interval {row['low']:+.4f} to {row['high']:+.4f}"
    return f"{row['difference']:+.4f}{share}{ends}"


def percent(share: float) -> str:
    """A share of users as people say it."""
    return f"{100 * share:.3g} %"
