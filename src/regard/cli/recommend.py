"""Commands that answer: recommend, similar, vectors; and the one that gives them new items: add-items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from regard.cli.options import Count, Data, Ids, Json, RunFolder, Trust, app, out
from regard.errors import InputError


@app.command()
def recommend(
    run: RunFolder,
    user: Annotated[str | None, typer.Option(help="a user of the dataset")] = None,
    history: Annotated[str | None, typer.Option(help="item ids, oldest first, separated by commas")] = None,
    k: Count = 10,
    candidates: Annotated[str | None, typer.Option(help="only these item ids, separated by commas")] = None,
    exclude: Annotated[str | None, typer.Option(help="not these item ids, separated by commas")] = None,
    context: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="what is known of the moment; may be repeated")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="moment of the request: ISO 8601, or a number that is a date since 1970"),
    ] = None,
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
        one: dict[str, object] = {
            "--user": user,
            "--history": history,
            "--candidates": candidates,
            "--exclude": exclude,
            "--context": context,
        }
        if too_many := [flag for flag, given in one.items() if given is not None]:
            raise InputError(f"--users answers for a file of users and takes no {too_many[0]}; leave one of them out")
        written = pipeline.recommend_file(run, users, table, k=k, seen=seen, at=at, data=data)
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
        context=_pairs(context or []),
        at=at,
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
    """Write the learned item vectors to a Parquet file; items of which nothing is known have none.

    Example: `regard vectors runs/first --out vectors.parquet`
    """
    from regard import pipeline, show

    if table is None:
        raise InputError("expected --out FILE.parquet: where the vectors should be written")
    show.written(pipeline.vectors(run, table), out, as_json=as_json)


@app.command("add-items")
def add_items(
    run: RunFolder,
    items: Annotated[Path, typer.Argument(help="a table of items: CSV, TSV, JSONL or Parquet")],
    item_id: Annotated[str | None, typer.Option(help="id column of the table")] = None,
    title: Annotated[str | None, typer.Option(help="title column")] = None,
    text: Annotated[str | None, typer.Option(help="text column")] = None,
    source: Annotated[
        str | None,
        typer.Option("--vectors", help="where their vectors are; default: where the run has the others from"),
    ] = None,
    vector_ids: Ids = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Add items that came after training; they are recommended from now on, by their pretrained vectors.

    Example: `regard add-items runs/words new-items.csv`
    """
    from regard import pipeline, show
    from regard.data.sources import ItemColumns, ItemSource

    table = ItemSource(str(items), ItemColumns(item_id, title, text))
    show.added(pipeline.add_items(run, table, source, ids=vector_ids, trust=trust), out, as_json=as_json)


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


def _pairs(texts: list[str]) -> dict[str, str]:
    """Split every `key=value`."""
    for text in texts:
        if not text.partition("=")[1]:
            raise InputError(f"--context expects KEY=VALUE, for example device=mobile; got {text!r}")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}
