"""What people see in a terminal, or as JSON: one function for each kind of answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.evaluate.labelled_report import labelled_report
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
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    for name, fact in _facts(told):
        facts.add_row(name, Text(fact))
    console.print(facts, highlight=False)
    console.print()
    console.print(_spread(told), highlight=False)
    for reason, rows in told["import"]["refused"].items():
        one = rows["count"] == 1
        first = ", ".join(map(str, rows["first_rows"])) + ", …" * (rows["count"] > len(rows["first_rows"]))
        text = f"refused: {rows['count']:,} row{'s' * (not one)}, {reason} (row{'s' * (not one)} {first})"
        console.print(text, style="yellow", markup=False, highlight=False)
    for note in told["import"].get("notes", []):
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
    if told.get("verified"):
        console.print("all files match their checksums", style="green")


def _facts(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts, time, repeats, report = told["counts"], told["time"], told["repeats"], told["import"]
    yield "rows", f"{report['rows_read']:,} read, {report['rows_kept']:,} kept"
    yield "counts", f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items"
    for columns in dict.fromkeys(_columns(source["columns"]) for source in told["sources"]):
        yield "columns", columns
    yield "time", _time(time)
    if time.get("ties") is not None:
        yield "ties", f"{time['ties']:,} events have the time of another event of their user"
    again = f"{100 * repeats['share']:.1f} % of events are of an item their user had before"
    yield "repeats", f"{again}; {repeats['exact']:,} are exact"
    for name in ("behaviours", "parts"):
        if name in told:
            yield name, _counted(told[name])
    for name, values in told.get("context", {}).items():
        top = dict(list(values["top"].items())[:5])
        yield f"context {name}", f"{values['values']:,} values: {_counted(top)}{', …' if values['values'] > 5 else ''}"
    if "items" in told:
        yield "item table", _beside(told["items"], "items")
    if "users" in told:
        yield "user table", _beside(told["users"], "users")


def _beside(table: Mapping[str, Any], whose: str) -> str:
    """How a table and the log meet: nothing is left out without a word."""
    reasons = {
        "only_in_events": f"{whose} of the log without a row",
        "only_in_table": "of them without events" if whose == "items" else "rows of users without events left out",
        "duplicate_ids": "rows with the id of an earlier one left out",
        "missing_ids": "rows without an id left out",
        "malformed_lines": "malformed lines left out",
    }
    notes = [f"{table[key]:,} {reason}" for key, reason in reasons.items() if table.get(key)]
    columns = f", with {_counted(table['columns'])}" if table["columns"] else ""
    return "; ".join([f"{table['described']:,} {whose}{columns}", *notes])


def _columns(columns: Mapping[str, str | Sequence[str]]) -> str:
    pairs = ((role, column if isinstance(column, str) else " and ".join(column)) for role, column in columns.items())
    return ", ".join(f"{role} = {column}" for role, column in pairs)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count:,})" for value, count in counts.items())


def _time(time: Mapping[str, Any]) -> str:
    if time["kind"] == "none":
        return "none: no column says when, so nothing that needs an order can be done"
    if time["kind"] == "order":
        return f"order within a user, {time['first']:,} to {time['last']:,}"
    first, last = (str(time[end])[:16].replace("T", " ") for end in ("first", "last"))
    return f"timestamps ({time['unit']}), {first} to {last} UTC"


def _spread(told: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(style="bold", no_wrap=True)
    for head in told["events_per_user"]:
        table.add_column(head, justify="right")
    for name in ("events_per_user", "events_per_item"):
        table.add_row(name.replace("_", " "), *map(_number, told[name].values()))
    return table


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def run(trained: Run, console: Console, *, as_json: bool) -> None:
    """What was trained, how, and how it did on validation."""
    told = trained.manifest
    if as_json:
        keys = ("model", "split", "seen", "choice", "validation", "settings", "vectors", "user_vectors", "from")
        body = {key: told[key] for key in keys if key in told}
        print_json({"path": str(trained.path), **body, "epochs": len(told["epochs"])}, console)
        return
    said = Text.assemble((told["model"], "bold"), f" trained on split {told['split']['rule']}, run in {trained.path}")
    console.print(said, soft_wrap=True)
    if told["choice"]:
        console.print("validation chose " + ", ".join(f"{k} = {v}" for k, v in told["choice"].items()), highlight=False)
    if told["validation"]:
        plain = {name: value for name, value in told["validation"].items() if isinstance(value, float)}
        figures = ", ".join(f"{name} {value:.4f}" for name, value in plain.items())
        console.print(f"validation: {figures}", highlight=False)
    following = f"recommend {trained.path} --user …" if told["split"]["rule"] == "none" else f"evaluate {trained.path}"
    console.print(f"next: regard {following}", style="dim", highlight=False, soft_wrap=True)


def evaluation(found: Evaluation, console: Console, *, as_json: bool) -> None:
    """A result beside its baselines, strata and protocol."""
    if as_json:
        body = result_as_json(found.result, found.baselines)
        if found.labelled is not None:
            body["labelled"] = result_as_json(found.labelled, found.labelled_baselines)
        print_json(body, console)
        return
    if "labels" in found.result.protocol:
        console.print(labelled_report(found.name, found.result, found.baselines))
        return
    console.print(report(found.name, found.result, found.baselines, found.oracle))
    if found.labelled is not None:
        console.print(Text("The ranker by itself, on labelled candidates", style="bold"))
        console.print(labelled_report(found.name, found.labelled, found.labelled_baselines))


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


def added(told: Mapping[str, Any], console: Console, *, as_json: bool) -> None:
    """Items that were added to a run."""
    if as_json:
        print_json(told, console)
        return
    line = f"{told['added']:,} items added to {told['run']}, {told['added_in_all']:,} in all since its training"
    console.print(line, highlight=False)
    by = {"id": "by their ids", "words": "by the words of their texts", "text": "from their texts"}[told["by"]]
    notes = {
        "completed": "that were added before have a vector now",
        "without_vector": f"have no known vector, {by} as in training: they are in the catalogue, and not recommended",
        "already_known": "are in the catalogue already, and stay as they were",
        "rows_left_out": "rows are left out: without an id, or with the id of an earlier row",
    }
    for key, meaning in notes.items():
        if told[key]:
            console.print(f"note: {told[key]:,} {meaning}", style="yellow", markup=False, highlight=False)
    for name, count in told["attributes_unseen"].items():
        said = f"note: {count:,} have a {name} that the run has not learned; it counts as not given"
        console.print(said, style="yellow", markup=False, highlight=False)


def print_json(body: Mapping[str, Any], console: Console) -> None:
    """Print plain JSON, never wrapped or coloured, so that scripts can read it."""
    console.file.write(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
