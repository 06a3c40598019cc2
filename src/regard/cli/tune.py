"""The command that searches for settings: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from regard.cli.options import (
    By,
    ConfigFile,
    Device,
    Ids,
    InterestName,
    Json,
    ModelName,
    Quiet,
    Seen,
    Set,
    SplitRule,
    Targets,
    Trust,
    UserVectorSource,
    VectorSource,
    app,
    out,
    settings_of,
    told,
    vectors_of,
)
from regard.errors import InputError

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
    vector_ids: Ids = None,
    vectors_by: By = None,
    user_vectors: UserVectorSource = None,
    user_vector_ids: Annotated[Path | None, typer.Option(help="the same for --user-vectors")] = None,
    trust: Trust = False,
    split: SplitRule = None,
    targets: Targets = None,
    seen: Seen = None,
    device: Device = None,
    assignments: Set = None,
    config: ConfigFile = None,
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
    settings, shown = settings_of(given, config, assignments or []), None if quiet or as_json else told
    try:
        how: dict[str, Any] = {"trust": trust, "weights": settings.model.word_weights, "shown": shown}
        known: dict[str, Any] = {
            "vectors": vectors_of(dataset, vectors, vector_ids, by=vectors_by, **how),
            "user_vectors": vectors_of(dataset, user_vectors, user_vector_ids, whose="users", **how),
        }
        found = search_for(dataset, settings, folder, trials=trials, search=search or (), console=shown, **known)
    except KeyboardInterrupt:
        told.print("the same command goes on from where it was stopped")
        raise
    tuning(found, out, as_json=as_json)
