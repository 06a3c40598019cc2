"""Commands about runs: train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from regard.cli.options import (
    By,
    ConfigFile,
    Data,
    Device,
    Ids,
    InterestName,
    Json,
    ModelName,
    Quiet,
    RunFolder,
    Seen,
    Set,
    SplitRule,
    StartRun,
    Targets,
    Trust,
    UserVectorSource,
    VectorSource,
    app,
    check_source,
    out,
    settings_of,
    told,
    vectors_of,
)
from regard.errors import InputError


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="a folder made by regard prepare")],
    run: Annotated[Path | None, typer.Option("--out", help="folder to write the run to")] = None,
    model: ModelName = None,
    interest: InterestName = None,
    retriever: Annotated[Path | None, typer.Option(help="a run whose candidates a ranker puts in order")] = None,
    vectors: VectorSource = None,
    vector_ids: Ids = None,
    vectors_by: By = None,
    user_vectors: UserVectorSource = None,
    user_vector_ids: Annotated[Path | None, typer.Option(help="the same for --user-vectors")] = None,
    trust: Trust = False,
    start: StartRun = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="with --from: no training at all")] = False,
    split: SplitRule = None,
    targets: Targets = None,
    seen: Seen = None,
    device: Device = None,
    assignments: Set = None,
    config: ConfigFile = None,
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
        "model.interest": interest,
        "data.split": split,
        "evaluate.targets": targets,
        "evaluate.seen": seen,
        "train.device": device,
    }
    changes = (assignments or []) + ["train.zero_shot=true"] * zero_shot
    settings = settings_of(given, config, changes, start)
    try:
        shown = None if quiet or as_json else told
        weights = {} if start else {"weights": settings.model.word_weights}  # a run to go on from has weighed already
        known = {
            "vectors": _known(dataset, vectors, start, ids=vector_ids, trust=trust, by=vectors_by, **weights),
            "user_vectors": _known(dataset, user_vectors, start, ids=user_vector_ids, trust=trust, whose="users"),
            "retriever": retriever,
            "start": start,
        }
        trained = pipeline.train(dataset, settings, run, resume=resume, console=shown, **known)
    except KeyboardInterrupt:
        told.print("the same command with --resume goes on from the last checkpoint")
        raise
    show.run(trained, out, as_json=as_json)


def _known(dataset: Path, source: str | None, start: Path | None, *, by: str | None = None, **how: Any) -> Any:
    """Pretrained vectors, where a source of them was given, or a run that may have one."""
    from regard import pipeline

    if start is None:
        return vectors_of(dataset, source, by=by, **how)
    if by is not None:
        raise InputError(f"--vectors-by {by}: with --from, vectors are read as those of {start} were; leave it out")
    found = pipeline.knowledge_like(start, dataset, source, **how)
    if found is None:
        check_source(source, how.get("whose", "items"), ids=how["ids"])
    return found


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
