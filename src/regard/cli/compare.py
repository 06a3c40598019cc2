"""The command that sets things side by side: runs, or what pretrained vectors are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from regard.cli.options import (
    By,
    ConfigFile,
    Data,
    Ids,
    Json,
    ModelName,
    Quiet,
    Set,
    SplitRule,
    Trust,
    VectorSource,
    app,
    out,
    told,
    vectors_of,
)
from regard.errors import InputError

if TYPE_CHECKING:
    from regard.config import Settings
    from regard.data.knowledge import Knowledge
    from regard.data.words import Weighting


Runs = Annotated[
    list[Path], typer.Argument(help="two runs or more, the first being what others are compared with; or a DATASET")
]
ConfigsOf = Annotated[
    list[str] | None,
    typer.Option("--config-of", metavar="WAY=FILE", help="settings of id-only or of one mode; may be repeated"),
]


@app.command()
def compare(
    runs: Runs,
    on: Annotated[str | None, typer.Option(help="validation or test (the default)")] = None,
    data: Data = None,
    transfer: Annotated[bool, typer.Option("--transfer", help="measure what --vectors are worth on a DATASET")] = False,
    out_folder: Annotated[Path | None, typer.Option("--out", help="with --transfer: where the report is kept")] = None,
    model: ModelName = None,
    vectors: VectorSource = None,
    vector_ids: Ids = None,
    vectors_by: By = None,
    trust: Trust = False,
    split: SplitRule = None,
    shares: Annotated[str | None, typer.Option(help="shares of users whose events train (0.1,0.3,1)")] = None,
    seeds: Annotated[str | None, typer.Option(help="seeds of the trainings, such as 1,2,3 (1)")] = None,
    modes: Annotated[str | None, typer.Option(help="init,frozen,fuse,gate, or some of them")] = None,
    assignments: Set = None,
    config: ConfigFile = None,
    config_of: ConfigsOf = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same users by a paired bootstrap; or, with --transfer, what pretrained vectors are worth.

    Examples: `regard compare runs/first runs/second`,
    `regard compare shop --transfer --vectors glove.6B.50d.txt --out transfer`
    """
    walk = {"shares": shares, "seeds": seeds, "modes": modes}
    if not transfer:
        own: dict[str, Any] = {
            "out": out_folder,
            "model": model,
            "vectors": vectors,
            "vector-ids": vector_ids,
            "vectors-by": vectors_by,
            "trust": trust,
        }
        own |= {"split": split, **walk, "set": assignments, "config": config, "config-of": config_of}
        _refuse(own, "is for --transfer, which compares ways to use vectors and takes a dataset")
        from regard import pipeline, show

        show.comparison(pipeline.compare(runs, on=on or "test", data=data), out, as_json=as_json)
        return
    _refuse({"on": on, "data": data}, "is for runs; a transfer report is measured on test, and takes one dataset")
    if len(runs) != 1 or out_folder is None or vectors is None:
        raise InputError(
            f"--transfer expects one dataset, --vectors SOURCE and --out FOLDER; got {len(runs)} folders, --vectors "
            f"{vectors or 'missing'}, --out {out_folder or 'missing'}"
        )
    changes = [f'{name}="{value}"' for name, value in (("model.name", model), ("data.split", split)) if value]
    settings = _settings(config, config_of or [], [*changes, *(assignments or [])])
    source = {"source": vectors, "ids": vector_ids, "by": vectors_by, "trust": trust}
    _transfer(runs[0], out_folder, settings, source, _walk(walk), None if quiet or as_json else told, as_json)


def _transfer(
    dataset: Path,
    folder: Path,
    settings: Mapping[str, Settings],
    source: Mapping[str, Any],
    walk: Mapping[str, Any],
    shown: Console | None,
    as_json: bool,
) -> None:
    """Make and show the report; its vectors are read, and said how much they cover, once nothing else is amiss."""
    from regard.transfer.report import transfer_report
    from regard.transfer.table import transfer

    def read(weights: Weighting) -> Knowledge | None:
        return vectors_of(dataset, **source, weights=weights, shown=shown)

    try:
        found = transfer_report(dataset, settings, folder, vectors=read, console=shown, **walk)
    except KeyboardInterrupt:
        told.print("the same command goes on from where it was stopped")
        raise
    transfer(found, out, as_json=as_json)


def _walk(given: Mapping[str, str | None]) -> dict[str, Any]:
    """Shares, seeds and modes as lists, where they were given."""
    kinds: dict[str, type[Any]] = {"shares": float, "seeds": int, "modes": str}
    found: dict[str, Any] = {}
    for name, text in given.items():
        if text is None:
            continue
        try:
            found[name] = [kinds[name](one.strip()) for one in text.split(",")]
        except ValueError:
            what = "whole numbers" if name == "seeds" else "numbers"
            raise InputError(f"--{name} expects {what} separated by commas; got {text!r}") from None
    return found


def _refuse(flags: Mapping[str, Any], why: str) -> None:
    for name, value in flags.items():
        if value:
            raise InputError(f"--{name} {why}; leave it out")


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
