"""What all commands share: the app, the two consoles, and options that several commands take."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console

from regard.errors import InputError

if TYPE_CHECKING:
    from regard.config import Settings
    from regard.data.knowledge import Knowledge
    from regard.data.words import Weighting

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

RunFolder = Annotated[Path, typer.Argument(help="a folder made by regard train")]
Count = Annotated[int, typer.Option("-k", help="how many items")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no notes")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="change one setting; may be repeated")
]
Data = Annotated[Path | None, typer.Option("--data", help="the dataset, if it is not where the run says")]

ModelName = Annotated[
    str | None,
    typer.Option(
        help="self-attention (the default), gated, hstu, time-attention, gru, lstm, seq2seq, additive, mean; "
        "matrix-factorization; ranker; popular, recent-popular, repeat, co-visit"
    ),
]
InterestName = Annotated[
    str | None,
    typer.Option(
        help="how a ranker reads a history: target, multi-head, activation-unit, additive, dual, transformer, "
        "seq2seq, gru, lstm, mean, candidate"
    ),
]
Ids = Annotated[Path | None, typer.Option(help="whose rows these are, where the file does not say")]
By = Annotated[
    str | None,
    typer.Option("--vectors-by", help="whose vectors these are: id, words, or auto (the default), which finds out"),
]
Targets = Annotated[str | None, typer.Option(help="next, last or set: which held-back events are targets")]
Seen = Annotated[str | None, typer.Option(help="filter or keep items of the history; default: by the log")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda")]
ConfigFile = Annotated[Path | None, typer.Option(help="file of settings, TOML or JSON; --set goes on top")]
Trust = Annotated[bool, typer.Option("--trust", help="allow files of vectors that can run code when read")]
VectorSource = Annotated[
    str | None,
    typer.Option(
        help="pretrained vectors for items to start from: a file of words or of item ids, text:MODEL, gensim:NAME; "
        "what they become: --set model.transfer=init, frozen, fuse or gate"
    ),
]
UserVectorSource = Annotated[
    str | None,
    typer.Option(
        "--user-vectors",
        help="pretrained vectors of user ids to start from; for matrix-factorization, and a ranker with model.user_ids",
    ),
]
StartRun = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="a run to go on from: its settings of the model, its weights, and rows of the ids that it knows",
    ),
]
SplitRule = Annotated[
    str | None,
    typer.Option(
        help="leave-one-out, time:Q, last-days:N, users:F, parts, random:A,B,C or none; default: as the log allows"
    ),
]


def settings_of(
    given: Mapping[str, str | None], config: Path | None, assignments: Sequence[str], start: Path | None = None
) -> Settings:
    """Settings of a file or a run to go on from, under flags that stand for one setting each, under `--set`."""
    from regard import pipeline

    changes = [f'{name}="{value}"' for name, value in given.items() if value]
    settings = pipeline.settings_from(config, [*changes, *assignments], start)
    if given.get("model.interest") and settings.model.name != "ranker":
        raise InputError(f"--interest is for --model ranker, and this is {settings.model.name}; leave one of them out")
    return settings


def vectors_of(
    dataset: Path,
    source: str | None,
    ids: Path | None,
    *,
    trust: bool,
    by: str | None = None,
    whose: str = "items",
    weights: Weighting = "sif",
    shown: Console | None = None,
) -> Knowledge | None:
    """Read pretrained vectors once for many trainings, and say how much they cover."""
    from regard import pipeline

    check_source(source, whose, ids=ids, by=by)
    if source is None:
        return None
    how: dict[str, Any] = {"ids": ids, "trust": trust, "whose": whose, "by": by or "auto", "weights": weights}
    known = pipeline.knowledge(dataset, source, **how)
    for line in known.lines() if shown else ():
        told.print(line, highlight=False, markup=False)
    return known


def check_source(source: object, whose: str, *, ids: Path | None, by: str | None = None) -> None:
    """Refuse what is said of vectors where there are none."""
    flag = "--vectors" if whose == "items" else "--user-vectors"
    if source is None and ids is not None:
        raise InputError(f"{ids} says whose vectors they are, and there are none; name them with {flag} SOURCE")
    if source is None and by is not None:
        raise InputError(f"--vectors-by {by} is about vectors, and there are none; name them with {flag} SOURCE")
