"""A transfer report for a terminal of 100 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.evaluate.compare import verdict
from regard.evaluate.result import Number
from regard.show import print_json
from regard.transfer.findings import percent
from regard.transfer.measure import COLD
from regard.transfer.report import PLOT, REPORT, TransferReport
from regard.transfer.ways import CONTROLS, ID_ONLY, REFERENCES

_SHARES = 5  # that fit into 100 columns
_STYLES = {"ahead": "green", "behind": "red"}


def transfer(found: TransferReport, console: Console, *, as_json: bool) -> None:
    """Figures by share, by what was known of the target, and what they say."""
    body = found.body
    if as_json:
        print_json(body, console)
        return
    shares = list(body["at"])
    for start in range(0, len(shares), _SHARES):
        console.print(_by_share(body, shares[start : start + _SHARES]))
    console.print(_by_target(body))
    for line in body["findings"]:
        console.print(Text(line))
    console.print()
    for line in _protocol(body):
        console.print(Text(line, style="dim"))
    console.print(f"plot: {found.path / PLOT}, all figures: {found.path / REPORT}", highlight=False, soft_wrap=True)


def _by_share(body: Mapping[str, Any], shares: list[str]) -> Table:
    """A row for every way; under a value its interval, and at the right its difference to id-only at that share."""
    metric, at = body["metric"], body["at"]
    table = _table(f"{metric} by share of users whose events train\nand the difference to {ID_ONLY}, with its interval")
    for share in shares:
        table.add_column(percent(float(share)), justify="right", no_wrap=True)
    for way in _sections(body, table):
        cells = []
        for share in shares:
            text = Text(_point(at[share]["ways"][way]["metrics"][metric]["value"]))
            row = at[share]["against_id_only"].get(way, {}).get(metric)
            if row is not None:
                style = _STYLES.get(verdict(metric, row), "dim")
                relative = "" if row["relative"] is None else f" {100 * row['relative']:+.0f} %"
                text.append(relative + "\n" + _ends(row, "+"), style=style)
            cells.append(text)
        table.add_row(Text(way, style="bold" if way == body["best"]["mode"] else ""), *cells)
    return table


def _by_target(body: Mapping[str, Any]) -> Table:
    """The largest share by training events of the target; the last column ranks cold items among themselves."""
    share = max(body["at"], key=float)
    ways, metric = body["at"][share]["ways"], body["metric"]
    strata = ways[ID_ONLY]["strata"]
    table = _table(f"{metric} at {percent(float(share))} of users, by training events of the target")
    for name, stratum in strata.items():
        head = name.removeprefix("target events ")
        among = f"\nof {stratum['candidates']:,} items" if name == COLD else ""
        table.add_column(f"{head}{among}\n{stratum['targets']:,} targets", justify="right", no_wrap=True)
    for way in _sections(body, table):
        numbers = [ways[way]["strata"][name]["metrics"][metric] for name in strata]
        cells = [Text(_point(number["value"])).append("\n" + _ends(number), style="not bold dim") for number in numbers]
        table.add_row(Text(way, style="bold" if way == body["best"]["mode"] else ""), *cells)
    return table


def _sections(body: Mapping[str, Any], table: Table) -> Iterator[str]:
    """Yield ways in their order, lines between what is trained, controls and references."""
    for names in ((ID_ONLY, *body["modes"]), CONTROLS, REFERENCES):
        yield from names
        table.add_section()


def _protocol(body: Mapping[str, Any]) -> Iterator[str]:
    said, best = body["protocol"], body["best"]
    known, items = body["vectors"]["items"]
    yield (
        f"Model {body['model']}; vectors of {known:,} of {items:,} items. The controls are {best['mode']} with vectors "
        f"that mean nothing: it was best on validation ({best['metric']} {best['values'][best['mode']]:.4f})."
    )
    seen = {"keep": "stay candidates", "filter": "are no candidates"}[said["seen"]]
    yield (
        f"Test part of split {said['split']}, targets {said['targets']}: {said['cases']:,} cases of "
        f"{said['users']:,} users, whatever share trains; full catalogue; seen items {seen}."
    )
    drawn = said["interval"]["resamples"]
    how = f"95 % intervals from {drawn:,} paired resamples of users" if drawn else "no intervals were asked for"
    seeds = ", ".join(map(str, body["seeds"]))
    averaged = f"Seeds {seeds}, averaged for each user" if len(body["seeds"]) > 1 else f"Seed {seeds}"
    yield f"{averaged}; {how}{', which do not hold the chance of training' * (drawn > 0)}."
    yield f"{COLD}: only items without training events compete, for targets without training events; a diagnosis."


def _table(title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    return table


def _point(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ends(number: Number | Mapping[str, Any], sign: str = "-") -> str:
    """The interval, without the zeros before points."""
    low, high = number["low"], number["high"]
    if low is None or high is None:
        return ""
    text = f"{low:+.4f} {high:+.4f}" if sign == "+" else f"{low:.4f}-{high:.4f}"
    return re.sub(r"(?<!\d)0\.", ".", text)
