"""The command that sets things side by side: runs, or what pretrained vectors are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.options import Data, Json, ModelName, Quiet, Set, SplitRule, VectorSource, app, out, told
from regard.errors import InputError

if TYPE_CHECKING:
    from regard.config import Settings


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="two runs or more, the first being what others are compared with; or a DATASET"),
    ],
    on: Annotated[str | None, typer.Option(help="validation or test (the default)")] = None,
    data: Data = None,
    transfer: Annotated[bool, typer.Option("--transfer", help="measure what --vectors are worth on a DATASET")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="with --transfer: where the report is kept")] = None,
    model: ModelName = None,
    vectors: VectorSource = None,
    vector_ids: Annotated[Path | None, typer.Option(help="whose rows these are, where the file does not say")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="allow files of vectors that can run code when read")] = False,
    split: SplitRule = None,
    shares: Annotated[str | None, typer.Option(help="shares of users whose events train (0.1,0.3,1)")] = None,
    seeds: Annotated[str | None, typer.Option(help="seeds of the trainings, such as 1,2,3 (1)")] = None,
    modes: Annotated[str | None, typer.Option(help="init,frozen,fuse,gate, or some of them")] = None,
    assignments: Set = None,
    config: Annotated[Path | None, typer.Option(help="file of settings, TOML or JSON; --set goes on top")] = None,
    configs: Annotated[
        list[str] | None,
        typer.Option("--config-of", metavar="WAY=FILE", help="settings of id-only or of one mode; may be repeated"),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same users by a paired bootstrap; or, with --transfer, what pretrained vectors are worth.

    Examples: `regard compare runs/first runs/second`,
    `regard compare shop --transfer --vectors glove.6B.50d.txt --out transfer`
    """
    own = {
        "--out": folder,
        "--model": model,
        "--vectors": vectors,
        "--vector-ids": vector_ids,
        "--trust": trust,
        "--split": split,
        "--shares": shares,
        "--seeds": seeds,
        "--modes": modes,
        "--set": assignments,
        "--config": config,
        "--config-of": configs,
    }
    if not transfer:
        from regard import pipeline, show

        _refuse(own, "is for --transfer, which compares ways to use vectors and takes a dataset")
        show.comparison(pipeline.compare(runs, on=on or "test", data=data), out, as_json=as_json)
        return
    from regard import pipeline
    from regard.transfer.report import transfer_report
    from regard.transfer.table import transfer as show_transfer

    _refuse({"--on": on, "--data": data}, "is for runs; a transfer report is measured on test, and takes one dataset")
    if len(runs) != 1 or folder is None or vectors is None:
        raise InputError(
            f"--transfer expects one dataset, --vectors SOURCE and --out FOLDER; got {len(runs)} folders, --vectors "
            f"{vectors or 'missing'}, --out {folder or 'missing'}"
        )
    changes = [f'{name}="{value}"' for name, value in (("model.name", model), ("data.split", split)) if value]
    settings = _settings(config, configs or [], [*changes, *(assignments or [])])
    knowledge = pipeline.knowledge(runs[0], vectors, ids=vector_ids, trust=trust)
    for line in [] if quiet or as_json else knowledge.lines():
        told.print(line, highlight=False, markup=False)
    given: dict[str, Any] = {
        "shares": None if shares is None else _numbers("--shares", shares, float),
        "seeds": None if seeds is None else _numbers("--seeds", seeds, int),
        "modes": None if modes is None else [one.strip() for one in modes.split(",")],
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        shown = None if quiet or as_json else told
        found = transfer_report(runs[0], settings, folder, vectors=knowledge, console=shown, **given)
    except KeyboardInterrupt:
        told.print("the same command goes on from where it was stopped")
        raise
    show_transfer(found, out, as_json=as_json)


def _refuse(flags: dict[str, Any], why: str) -> None:
    for name, value in flags.items():
        if value:
            raise InputError(f"{name} {why}; leave it out")


def _settings(config: Path | None, configs: Sequence[str], changes: Sequence[str]) -> dict[str, Settings]:
    """Settings of single ways by name, and under "" those of all others."""
    from regard import pipeline

    found = {"": pipeline.settings_from(config, changes)}
    for text in configs:
        way, equals, file = text.partition("=")
        if not (equals and file and way):
            raise InputError(f"--config-of expects WAY=FILE, for example gate=tuned/best.toml; got {text!r}")
        found[way] = pipeline.settings_from(Path(file), changes)
    return found


def _numbers(flag: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(one) for one in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{flag} expects {what} separated by commas; got {text!r}") from None
