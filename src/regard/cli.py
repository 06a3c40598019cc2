"""The command line: thin, without logic. Rooms are imported when a command runs, so that `--help` is instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from regard.errors import InputError, RegardError

app = typer.Typer(
    help="A recommender built on attention: from an event log to honest recommendations.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _console(stream: TextIO) -> Console:
    """A console as wide as its terminal, and of 100 columns where there is none: a pipe, a file, a page."""
    wide = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stream is sys.stderr, width=None if wide else 100)


out = _console(sys.stdout)
told = _console(sys.stderr)
MISUSE: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever typer keeps it

RunFolder = Annotated[Path, typer.Argument(help="a folder made by regard train")]
Count = Annotated[int, typer.Option("-k", help="how many items")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no notes")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="change one setting; may be repeated")
]
Data = Annotated[Path | None, typer.Option("--data", help="the dataset, if it is not where the run says")]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except RegardError as error:
        code = _complain(str(error), 2)
    except MISUSE as error:
        code = _complain(_misuse(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        _complain("stopped", code)
    sys.exit(code or 0)


def _complain(text: str, code: int) -> int:
    told.print(f"regard: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


def _misuse(error: Any) -> str:
    """Say in our own way what the parser did not understand."""
    said = error.format_message().rstrip(".")
    return f"{said[:1].lower()}{said[1:]}; see {error.ctx.command_path if error.ctx else 'regard'} --help"


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
    config: Annotated[
        Path | None, typer.Option(help="data.toml: several sources, their columns and an item table in one file")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read an event log into a dataset, and say what was found and what was refused.

    Example: `regard prepare clicks.csv --user visitor --item product --time when --out shop`
    """
    from regard import pipeline, show
    from regard.data.sources import Columns, ItemColumns, ItemSource

    if dataset is None:
        raise InputError("expected --out FOLDER: where the dataset should be written")
    table = ItemColumns(item_id, title, text, tuple(attribute or ()))
    built = pipeline.prepare(
        sources or [],
        dataset,
        columns=Columns(user, item, time, behaviour, label, tuple(context or ())),
        items=ItemSource(str(items), table) if items else None,
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


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="a folder made by regard prepare")],
    run: Annotated[Path | None, typer.Option("--out", help="folder to write the run to")] = None,
    model: Annotated[
        str | None, typer.Option(help="popular, recent-popular, repeat, co-visit or self-attention (the default)")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="leave-one-out, time:Q, last-days:N, users:F, parts, random:A,B,C or none; default: as the log allows"
        ),
    ] = None,
    targets: Annotated[str | None, typer.Option(help="next, last or set: which held-back events are targets")] = None,
    seen: Annotated[str | None, typer.Option(help="filter or keep items of the history; default: by the log")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
    assignments: Set = None,
    config: Annotated[Path | None, typer.Option(help="file of settings, TOML or JSON; --set goes on top")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint, if there is one")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model and choose its best weights on validation.

    Example: `regard train shop --model self-attention --out runs/first`
    """
    from regard import pipeline, show

    if run is None:
        raise InputError("expected --out FOLDER: where the run should be written")
    given = {
        "model.name": model,
        "data.split": split,
        "evaluate.targets": targets,
        "evaluate.seen": seen,
        "train.device": device,
    }
    changes = [f'{name}="{value}"' for name, value in given.items() if value] + (assignments or [])
    settings = pipeline.settings_from(config, changes)
    try:
        trained = pipeline.train(dataset, settings, run, resume=resume, console=None if quiet or as_json else told)
    except KeyboardInterrupt:
        told.print("the same command with --resume goes on from the last checkpoint")
        raise
    show.run(trained, out, as_json=as_json)


@app.command()
def evaluate(
    run: RunFolder,
    on: Annotated[str, typer.Option(help="validation or test")] = "test",
    baselines: Annotated[str, typer.Option(help="all, or names separated by commas")] = "popular",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Measure a run by its protocol, baselines beside it.

    Example: `regard evaluate runs/first --on test --baselines all`
    """
    from regard import pipeline, show

    show.evaluation(pipeline.evaluate(run, on=on, baselines=baselines, data=data), out, as_json=as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="two runs or more; the first is what others are compared with")],
    on: Annotated[str, typer.Option(help="validation or test")] = "test",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compare runs on the same users by a paired bootstrap.

    Example: `regard compare runs/first runs/second`
    """
    from regard import pipeline, show

    show.comparison(pipeline.compare(runs, on=on, data=data), out, as_json=as_json)


@app.command()
def recommend(
    run: RunFolder,
    user: Annotated[str | None, typer.Option(help="a user of the dataset")] = None,
    history: Annotated[str | None, typer.Option(help="item ids, oldest first, separated by commas")] = None,
    k: Count = 10,
    candidates: Annotated[str | None, typer.Option(help="only these item ids, separated by commas")] = None,
    exclude: Annotated[str | None, typer.Option(help="not these item ids, separated by commas")] = None,
    seen: Annotated[str | None, typer.Option(help="filter or keep items of the history; default as trained")] = None,
    users: Annotated[
        Path | None, typer.Option(help="a file with one user id a line: recommend for all of them")
    ] = None,
    table: Annotated[Path | None, typer.Option("--out", help="Parquet file for --users")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Recommend for a user, a live history, or a file of users.

    Example: `regard recommend runs/first --history camera-7,tent-2 -k 5`
    """
    from regard import pipeline, show

    if users is not None:
        if table is None:
            raise InputError("--users expects --out FILE.parquet for the result")
        one = {"--user": user, "--history": history, "--candidates": candidates, "--exclude": exclude}
        if too_many := [flag for flag, given in one.items() if given is not None]:
            raise InputError(f"--users answers for a file of users and takes no {too_many[0]}; leave one of them out")
        written = pipeline.recommend_file(run, users, table, k=k, seen=seen, data=data)
        show.written(written, out, as_json=as_json)
        return
    if table is not None:
        raise InputError("--out is for the result of --users FILE; a single answer is printed, --json for programs")
    found = pipeline.recommend(
        run,
        data=data,
        user=user,
        history=_ids(history),
        k=k,
        candidates=_ids(candidates),
        exclude=_ids(exclude) or [],
        seen=seen,
    )
    show.recommendation(found, out, as_json=as_json)


@app.command()
def similar(
    run: RunFolder,
    item: Annotated[str, typer.Option(help="an item id")],
    k: Count = 10,
    as_json: Json = False,
) -> None:
    """Items whose learned vectors are closest to that of an item.

    Example: `regard similar runs/first --item camera-7`
    """
    from regard import pipeline, show

    show.recommendation(pipeline.similar(run, item, k), out, as_json=as_json)


@app.command()
def vectors(
    run: RunFolder,
    table: Annotated[Path | None, typer.Option("--out", help="Parquet file to write")] = None,
    as_json: Json = False,
) -> None:
    """Write the learned item vectors to a Parquet file.

    Example: `regard vectors runs/first --out vectors.parquet`
    """
    from regard import pipeline, show

    if table is None:
        raise InputError("expected --out FILE.parquet: where the vectors should be written")
    show.written(pipeline.vectors(run, table), out, as_json=as_json)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        out.print(f"regard {installed('regard')}", highlight=False)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _ids(text: str | None) -> list[str] | None:
    """Split `a,b,c`; an id with a comma in it can be given as a JSON list."""
    if text is None:
        return None
    if text.startswith("["):
        try:
            ids: Any = json.loads(text)
        except ValueError as error:
            raise InputError(f"expected ids separated by commas or a JSON list; got {text!r} ({error})") from None
        return [str(name) for name in ids]
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
