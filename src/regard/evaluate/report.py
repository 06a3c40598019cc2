"""Results as tables and plain sentences for a terminal of 100 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from regard.evaluate.compare import compare, verdict
from regard.evaluate.result import Number, Result
from regard.evaluate.strata import TRAINED

FLOOR = "popular"  # the baseline that stands beside every stratum
RETRIEVER = "retriever"  # of a pair, by itself: no baseline, but what re-ranking has to beat
COMPARED = ("metric", "base", "run", "difference", "interval", "relative", "")
TARGETS = {
    "next": "every held-back event is a target, its history ends just before it",
    "last": "the last event of each user is the target, its history ends just before it",
    "set": "all later items of a user are targets, the history ends at the cut",
}


def report(name: str, result: Result, baselines: Mapping[str, Result], oracle: Result | None = None) -> Group:
    """Return all there is to say about a result: metrics beside the baselines, who wins, strata, protocol."""
    cuts = sorted({_cut(key) for key in result.metrics})
    tables = [metrics_table(name, result, baselines, k=k, oracle=oracle) for k in cuts]
    lines = [Text(line) for line in outcome(name, result, baselines)]
    said = [Text(line, style="dim") for line in protocol_lines(result)]
    strata = strata_table(name, result, baselines.get(FLOOR))
    return Group(*tables, *lines, *([Text()] if lines else []), strata, *said)


def metrics_table(
    name: str, result: Result, baselines: Mapping[str, Result], *, k: int, oracle: Result | None = None
) -> Table:
    """Return a table of models by metrics at `k`, intervals under the values; `*` marks the best, the oracle apart."""
    rows = {name: result, **baselines}
    keys = _columns(rows, k)
    table = _table(None, "", *(key.replace("|", "\n|").replace("coverage@", "coverage\n@") for key in keys))
    best = {key: max((row.metrics[key]["value"] or 0 for row in rows.values()), default=0) for key in keys}
    for label, row in rows.items():
        cells = [_cell(row.metrics[key], best[key], key) for key in keys]
        table.add_row(Text(label, style="bold" if label == name else ""), *cells)
    if oracle is not None:
        table.add_section()
        table.add_row(Text("oracle", style="italic"), *(_cell(oracle.metrics[key], None, key) for key in keys))
    return table


def outcome(name: str, result: Result, baselines: Mapping[str, Result]) -> list[str]:
    """Say how a result stands to its retriever and to the best baseline, and every metric in which one is ahead."""
    if not baselines:
        return []
    k = min(_cut(key) for key in result.metrics)
    main = f"ndcg@{k}"
    floor = [label for label in baselines if label != RETRIEVER]
    rivals = [RETRIEVER] if RETRIEVER in baselines else []
    if floor:
        rivals.append(max(floor, key=lambda label: baselines[label].value(main) or 0))
    lines = [_against(name, result, rival, baselines[rival], main) for rival in rivals]
    for key in _columns({name: result, **baselines}, k):
        leader = max(baselines, key=lambda label: baselines[label].value(key) or 0)
        ours, theirs = result.value(key), baselines[leader].value(key)
        if key != main and theirs is not None and (ours is None or theirs > ours):
            who = "its retriever" if leader == RETRIEVER else "a baseline"
            lines.append(f"On {key} {who} is ahead: {leader} {_point(theirs)}, {name} {_point(ours)}.")
    return lines


def strata_table(name: str, result: Result, floor: Result | None = None, *, key: str | None = None) -> Table:
    """Return a table of one metric (the first ndcg) by history length and by training events of the target."""
    key = key or f"ndcg@{min(_cut(each) for each in result.metrics)}"
    several = any(stratum["cases"] != stratum["targets"] for stratum in result.strata.values())
    parts = ("users", "cases", "targets") if several else ("users", "targets")
    heads = (*parts, name, "interval", *([] if floor is None else [FLOOR]))
    title = f"{key} by what was known\nevents in the history, and training events of the target"
    table = _table(title, "", *heads)
    kind = ""
    for label, stratum in result.strata.items():
        if kind and not label.startswith(kind):
            table.add_section()
        kind = label.rpartition(" ")[0]
        number = stratum["metrics"][key]
        beside = [] if floor is None else [_point(_in_stratum(floor, label, key))]
        counts = (f"{stratum[part]:,}" for part in parts)
        table.add_row(label, *counts, _point(number["value"]), _interval(number), *beside)
    return table


def protocol_lines(result: Result) -> list[str]:
    """Say the protocol of a result in plain words, one thought a line."""
    said, spent = result.protocol, result.timing
    users = f"{said['cases']:,} cases of {said['users']:,} users, {said['cases_without_history']:,} without history"
    only = f" Only {' and '.join(said['target_behaviours'])} events are targets." * bool(said["target_behaviours"])
    seen = {"keep": "stay candidates", "filter": "are no candidates"}[said["seen"]]
    among = f"{said['targets_in_history']:,} targets were among them" + " and are misses" * (said["seen"] == "filter")
    unknown = f"{said['targets_never_trained']:,} of {said['target_events']:,} targets have no training event"
    took = f"Ranking took {spent['ranking_seconds']:.1f} s, metrics {spent['metrics_seconds']:.1f} s"
    return [
        f"{said['part'].capitalize()} part of split {said['split']}: {users}.",
        f"Targets {said['targets']}: {TARGETS[said['targets']]}.{only}",
        f"Candidates: {said['candidates']}, {said['catalogue']:,} items; {unknown}.",
        f"Seen items {seen}: {among}; {_percent(said['repeat_share'])} of training events are repeats.",
        f"Ties: {said['ties']}. Request time {'' if said['request_time_used'] else 'not '}used.",
        f"Means {said['average']}; {_method(said['interval'])}.",
        f"{took} on {spent['machine']}, {spent['cores']} cores, device {spent['device']}.",
    ]


def comparison_tables(comparison: Mapping[str, Any]) -> Group:
    """Return what `compare` found: a table for each run against the base."""
    base, said = comparison["base"], comparison["protocol"]
    tables: list[Table | Text] = []
    for name, metrics in comparison["against"].items():
        table = _table(f"{name} against {base}", *COMPARED)
        for key, row in metrics.items():
            if not _tells(key, [metrics]):
                continue
            word = verdict(key, row)
            table.add_row(
                key.replace("|", "\n|"),
                _point(row["base"]),
                _point(row["value"]),
                f"{row['difference']:+.4f}",
                "-" if row["low"] is None else f"{row['low']:+.4f} {row['high']:+.4f}",
                _percent(row["relative"], "+"),
                Text(word, style={"ahead": "green", "behind": "red"}.get(word, "dim")),
            )
        tables.append(table)
    users = f"{said['part'].capitalize()} part of split {said['split']}, the same {said['users']:,} users"
    return Group(*tables, Text(f"{users}; {_method(said['interval'])}.", style="dim"))


def _table(title: str | None, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", no_wrap=True)
    return table


def _columns(rows: Mapping[str, Result], k: int) -> list[str]:
    keys = [f"ndcg@{k}", f"hit_rate@{k}", f"recall@{k}", f"mrr@{k}", f"coverage@{k}", f"ndcg@{k}|{TRAINED}"]
    return [key for key in keys if _tells(key, [row.metrics for row in rows.values()])]


def _tells(key: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a metric differs from those that often agree with it: recall, and the trained targets only."""
    plain, bar, _ = key.partition("|")
    twins = [plain] * bool(bar) + [key.replace("recall", "hit_rate")] * key.startswith("recall")
    there = [twin for twin in twins if all(twin in row for row in rows)]
    return all(any(row[twin] != row[key] for row in rows) for twin in there)


def _against(name: str, result: Result, rival: str, other: Result, key: str) -> str:
    resamples = result.protocol["interval"]["resamples"]
    row = compare({rival: other, name: result}, bootstrap=resamples)["against"][name][key]
    numbers = f"{row['difference']:+.4f} ({_percent(row['relative'], '+')})"
    whom, both, wins = f"the best baseline, {rival}", f"the best baseline, {rival},", f"A baseline wins: {rival}"
    if rival == RETRIEVER:
        whom, both, wins = "its retriever by itself", "its retriever by itself", "The retriever wins: by itself it"
    if row["low"] is None:
        word = "higher" if row["difference"] > 0 else "no higher"
        return f"{name} has a {word} value than {whom}: {key} {numbers}, no interval."
    numbers += f", 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"
    return {
        "ahead": f"{name} is ahead of {whom}: {key} {numbers}.",
        "unclear": f"{name} and {both} cannot be told apart: {key} {numbers}.",
        "behind": f"{wins} is ahead of {name}, whose {key} differs by {numbers}.",
    }[verdict(key, row)]


def _cut(key: str) -> int:
    return int(key.partition("@")[2].partition("|")[0])


def _point(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(share: float | None, sign: str = "") -> str:
    return "-" if share is None else f"{100 * share:{sign}.1f} %"


def _interval(number: Number) -> str:
    low, high = number["low"], number["high"]
    return "" if low is None or high is None else re.sub(r"(?<!\d)0\.", ".", f"{low:.4f}-{high:.4f}")


def _cell(number: Number, best: float | None, key: str) -> Text:
    value = number["value"]
    if key.startswith("coverage"):
        return Text(_percent(value))
    won = best is not None and value is not None and value >= best > 0
    text = Text("* " * won + _point(value), style="bold" if won else "")
    if number["low"] is not None:
        text.append("\n" + _interval(number), style="not bold dim")
    return text


def _in_stratum(result: Result, label: str, key: str) -> float | None:
    value: float | None = result.strata[label]["metrics"][key]["value"] if label in result.strata else None
    return value


def _method(said: Mapping[str, Any]) -> str:
    if not said["resamples"]:
        return "no intervals were asked for"
    return f"{100 * said['level']:.0f} % intervals from {said['resamples']:,} bootstrap resamples of users"
