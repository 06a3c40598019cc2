"""Commands about logs and datasets: demo, prepare, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.options import Json, Quiet, app, out
from regard.errors import InputError


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="where the dataset and the run go")] = Path("regard-demo"),
    quiet: Quiet = False,
) -> None:
    """The whole road on a small generated shop: no downloads, about a minute.

    Example: `regard demo`
    """
    from regard.demo import demo as walk

    walk(folder, out, quiet=quiet)


@app.command()
def prepare(
    sources: Annotated[list[str] | None, typer.Argument(help="CSV, TSV, JSON lines or Parquet files, or globs")] = None,
    dataset: Annotated[Path | None, typer.Option("--out", help="folder to write the dataset to")] = None,
    user: Annotated[
        str | None, typer.Option(help="user column: name, or number from 1 for a file without header")
    ] = None,
    item: Annotated[str | None, typer.Option(help="item column")] = None,
    time: Annotated[str | None, typer.Option(help="time column: unix or ISO 8601 times, or any integer order")] = None,
    behaviour: Annotated[str | None, typer.Option(help="behaviour column: view, cart, purchase…")] = None,
    label: Annotated[str | None, typer.Option(help="label or rating column")] = None,
    context: Annotated[list[str] | None, typer.Option(help="context column, may be repeated")] = None,
    separator: Annotated[str | None, typer.Option(help="column separator, if the guess is wrong")] = None,
    encoding: Annotated[str | None, typer.Option(help="utf-8 or latin-1, if the guess is wrong")] = None,
    time_kind: Annotated[str | None, typer.Option(help="timestamp, order or none, if the guess is wrong")] = None,
    items: Annotated[Path | None, typer.Option(help="item table beside the log")] = None,
    item_id: Annotated[str | None, typer.Option(help="id column of the item table")] = None,
    title: Annotated[str | None, typer.Option(help="title column of the item table")] = None,
    text: Annotated[str | None, typer.Option(help="text column of the item table")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="attribute column of the item table, may be repeated")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="user table beside the log")] = None,
    user_id: Annotated[str | None, typer.Option(help="id column of the user table")] = None,
    user_attribute: Annotated[
        list[str] | None, typer.Option(help="attribute column of the user table, may be repeated")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="data.toml: several sources, their columns and tables in one file")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read an event log into a dataset, and say what was found and what was refused.

    Example: `regard prepare clicks.csv --user visitor --item product --time when --out shop`
    """
    from regard import pipeline, show
    from regard.data.sources import Columns, ItemColumns, ItemSource, UserColumns, UserSource, named

    if dataset is None:
        raise InputError("expected --out FOLDER: where the dataset should be written")
    table = ItemColumns(item_id, title, text, tuple(attribute or ()))
    people = UserColumns(user_id, tuple(user_attribute or ()))
    for given, flag, told in ((items, "--items", table), (users, "--users", people)):
        if given is None and (lost := named(told)):
            raise InputError(f"column {lost[0]!r} is one of a table beside the log; say which with {flag} FILE")
    built = pipeline.prepare(
        sources or [],
        dataset,
        columns=Columns(user, item, time, behaviour, label, tuple(context or ())),
        items=ItemSource(str(items), table) if items else None,
        users=UserSource(str(users), people) if users else None,
        reading=pipeline.Reading(separator, encoding, time_kind),
        config=config,
    )
    show.inspection(built, out, as_json=as_json)


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="a dataset folder, or an event log")],
    user: Annotated[str | None, typer.Option(help="user column, for a log")] = None,
    item: Annotated[str | None, typer.Option(help="item column, for a log")] = None,
    time: Annotated[str | None, typer.Option(help="time column, for a log")] = None,
    behaviour: Annotated[str | None, typer.Option(help="behaviour column, for a log")] = None,
    separator: Annotated[str | None, typer.Option(help="column separator, for a log")] = None,
    encoding: Annotated[str | None, typer.Option(help="utf-8 or latin-1, for a log")] = None,
    time_kind: Annotated[str | None, typer.Option(help="timestamp, order or none, for a log")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="read all files of a dataset and check their checksums")
    ] = False,
    as_json: Json = False,
) -> None:
    """The import doctor: what is in a log or dataset, and what is odd about it.

    Example: `regard inspect shop --verify`
    """
    from regard import pipeline, show
    from regard.data.sources import Columns

    found = pipeline.inspect(
        source,
        columns=Columns(user, item, time, behaviour),
        reading=pipeline.Reading(separator, encoding, time_kind),
        verify=verify,
    )
    show.inspection(found, out, as_json=as_json)
