"""What people see in a terminal, or as JSON: one function for each kind of answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.evaluate.report import comparison_tables, report
from regard.evaluate.result import as_json as result_as_json
from regard.pipeline import Evaluation
from regard.recommend.recommender import Recommendation
from regard.recommend.run import Run


def inspection(told: Mapping[str, Any], console: Console, *, as_json: bool) -> None:
    """What is in a log or dataset, what was refused, and what is odd."""
    if as_json:
        print_json(told, console)
        return
    counts, time, report = told["counts"], told["time"], told["import"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_row("counts", f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items")
    table.add_row("time", _time(time))
    for name in ("events_per_user", "events_per_item"):
        spread = ", ".join(f"{key} {value:,.4g}" for key, value in told[name].items())
        table.add_row(name.replace("_", " "), spread)
    repeats = told["repeats"]
    table.add_row("repeats", f"{repeats['share']:.1%} of events; {repeats['exact']:,} are the same in everything")
    for name in ("behaviours", "parts"):
        if name in told:
            table.add_row(name, ", ".join(f"{key} {value:,}" for key, value in told[name].items()))
    for name, values in told.get("context", {}).items():
        top = ", ".join(f"{key} {value:,}" for key, value in list(values["top"].items())[:5])
        table.add_row(f"context {name}", f"{values['values']:,} values: {top}{', …' if values['values'] > 5 else ''}")
    if "items" in told:
        filled = ", ".join(f"{key} {value:,}" for key, value in told["items"]["columns"].items())
        table.add_row("item table", f"items with {filled}")
    refused = report["refused"]
    table.add_row("rows", f"{report['rows_read']:,} read, {report['rows_kept']:,} kept")
    console.print(table, highlight=False)
    for reason, rows in refused.items():
        first = ", ".join(map(str, rows["first_rows"]))
        console.print(
            f"refused: {rows['count']:,} times: {reason}, first in rows {first}", style="yellow", highlight=False
        )
    for note in report.get("notes", []):
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
    if told.get("verified"):
        console.print("all files match their checksums", style="green")


def _time(time: Mapping[str, Any]) -> str:
    if time["kind"] == "none":
        return "none: no column says when, so nothing that needs an order can be done"
    ties = f", {time['ties']:,} ties within users" if time.get("ties") is not None else ""
    unit = f" in {time['unit']}" if time["unit"] and time["kind"] == "timestamp" else ""
    return f"{time['kind']}{unit}, {time['first']} to {time['last']}{ties}"


def run(trained: Run, console: Console, *, as_json: bool) -> None:
    """What was trained, how, and how it did on validation."""
    told = trained.manifest
    if as_json:
        keys = ("model", "split", "seen", "choice", "validation", "settings")
        print_json(
            {"path": str(trained.path), **{key: told[key] for key in keys}, "epochs": len(told["epochs"])}, console
        )
        return
    console.print(f"[bold]{told['model']}[/] trained on split {told['split']['rule']}, run in {trained.path}")
    if told["choice"]:
        console.print("validation chose " + ", ".join(f"{k} = {v}" for k, v in told["choice"].items()), highlight=False)
    if told["validation"]:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in told["validation"].items())
        console.print(f"validation: {figures}", highlight=False)
    console.print(f"next: regard evaluate {trained.path}", style="dim", highlight=False)


def evaluation(found: Evaluation, console: Console, *, as_json: bool) -> None:
    """A result beside its baselines, strata and protocol."""
    if as_json:
        print_json(result_as_json(found.result, found.baselines), console)
        return
    console.print(report(found.name, found.result, found.baselines, found.oracle))


def comparison(found: Mapping[str, Any], console: Console, *, as_json: bool) -> None:
    """Differences of runs against the first one."""
    if as_json:
        print_json(found, console)
        return
    console.print(comparison_tables(found))


def recommendation(found: Recommendation, console: Console, *, as_json: bool) -> None:
    """A list of items and the notes on it."""
    if as_json:
        print_json(found.as_dict(), console)
        return
    titled = any(item.title for item in found.items)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("", "item", *(["title"] if titled else []), "score", "source"):
        table.add_column(head, justify="right" if head in ("", "score") else "left")
    for rank, item in enumerate(found.items, 1):
        title = [Text(item.title or "")] if titled else []
        table.add_row(str(rank), Text(item.item), *title, f"{item.score:.3f}", item.source)
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def written(told: Mapping[str, Any], console: Console, *, as_json: bool) -> None:
    """A table that was written to a file."""
    if as_json:
        print_json(told, console)
        return
    console.print(f"{told['rows']:,} rows ({', '.join(told['columns'])}) written to {told['path']}", highlight=False)
    for note in told["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def print_json(body: Mapping[str, Any], console: Console) -> None:
    """Print plain JSON, never wrapped or coloured, so that scripts can read it."""
    console.file.write(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
