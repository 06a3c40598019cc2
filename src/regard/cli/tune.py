"""The command that searches for settings: tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from regard.cli.options import (
    InterestName,
    Json,
    ModelName,
    Quiet,
    Set,
    SplitRule,
    UserVectorSource,
    VectorSource,
    app,
    out,
    told,
)
from regard.errors import InputError

if TYPE_CHECKING:
    from regard.config import Settings
    from regard.data.knowledge import Knowledge

Search = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="SECTION.KEY=VALUES",
        help="what to search, low..high, low..high,log or a,b,c; may be repeated; default: what the model needs",
    ),
]


@app.command()
def tune(
    dataset: Annotated[Path, typer.Argument(help="a folder made by regard prepare")],
    folder: Annotated[Path | None, typer.Option("--out", help="folder of the search")] = None,
    trials: Annotated[int, typer.Option(help="how many different settings to try")] = 20,
    search: Search = None,
    model: ModelName = None,
    interest: InterestName = None,
    vectors: VectorSource = None,
    vector_ids: Annotated[Path | None, typer.Option(help="whose rows these are, where the file does not say")] = None,
    user_vectors: UserVectorSource = None,
    user_vector_ids: Annotated[Path | None, typer.Option(help="the same for --user-vectors")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="allow files of vectors that can run code when read")] = False,
    split: SplitRule = None,
    targets: Annotated[str | None, typer.Option(help="next, last or set: which held-back events are targets")] = None,
    seen: Annotated[str | None, typer.Option(help="filter or keep items of the history; default: by the log")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
    assignments: Set = None,
    config: Annotated[Path | None, typer.Option(help="file of settings, TOML or JSON; --set goes on top")] = None,
    resume: Annotated[  # noqa: ARG001 - the same command goes on, with or without it
        bool, typer.Option("--resume", help="go on where the search was stopped; it does without this flag too")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for the settings that are best on validation.

    Example: `regard tune shop --model self-attention --trials 20 --out tuned`
    """
    from regard.tune.search import tune as search_for
    from regard.tune.table import tuning

    if folder is None:
        raise InputError("expected --out FOLDER: where the search should be kept")
    given = {
        "model.name": model,
        "model.interest": interest,
        "data.split": split,
        "evaluate.targets": targets,
        "evaluate.seen": seen,
        "train.device": device,
    }
    settings = _settings(given, config, assignments or [])
    try:
        shown = None if quiet or as_json else told
        known = _read(dataset, vectors, vector_ids, trust, "items", shown)
        users = _read(dataset, user_vectors, user_vector_ids, trust, "users", shown)
        found = search_for(
            dataset,
            settings,
            folder,
            trials=trials,
            search=search or (),
            vectors=known,
            user_vectors=users,
            console=shown,
        )
    except KeyboardInterrupt:
        told.print("the same command goes on from where it was stopped")
        raise
    tuning(found, out, as_json=as_json)


def _settings(given: Mapping[str, str | None], config: Path | None, assignments: Sequence[str]) -> Settings:
    """What is fixed."""
    from regard import pipeline

    changes = [f'{name}="{value}"' for name, value in given.items() if value]
    settings = pipeline.settings_from(config, [*changes, *assignments])
    if given["model.interest"] and settings.model.name != "ranker":
        raise InputError(f"--interest is for --model ranker, and this is {settings.model.name}; leave one of them out")
    return settings


def _read(
    dataset: Path,
    source: str | None,
    ids: Path | None,
    trust: bool,
    whose: str,
    shown: Console | None,
) -> Knowledge | None:
    """Read pretrained vectors once for all trials, and say how much they cover."""
    from regard import pipeline

    if source is None:
        return None
    known = pipeline.knowledge(dataset, source, ids=ids, trust=trust, whose=whose)
    for line in known.lines() if shown else ():
        told.print(line, highlight=False, markup=False)
    return known
