"""The whole road, one short function per verb: prepare, inspect, train, evaluate, compare, recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from regard.config import Settings
from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.knowledge import By, Knowledge
from regard.data.sources import Columns, ItemSource, Recipe, UserSource
from regard.data.store import KIND as DATASET
from regard.data.store import Dataset
from regard.data.times import TimeKind
from regard.data.users import read_users
from regard.data.words import Weighting
from regard.errors import InputError, StorageError
from regard.evaluate.compare import compare as compare_results
from regard.evaluate.result import Result
from regard.manifest import check_free, damaged_files, locked, new_file
from regard.model.baseline import BASELINES
from regard.model.models import FACTORIZATION, TRAINED, check_name
from regard.recommend.additions import FOLDER as ADDED
from regard.recommend.additions import VectorMaker, added, added_to_stages, read_new
from regard.recommend.recommender import Recommendation, Recommender
from regard.recommend.run import KIND, OWN, PROGRESS, Run, save_run
from regard.training.baselines import choose
from regard.training.learning import learn
from regard.training.measuring import Evaluation as Evaluation
from regard.training.measuring import evaluate as evaluate
from regard.training.people import user_counts
from regard.training.protocol import Protocol, with_metric
from regard.training.start import Start, check_start, learned_from
from regard.training.transfer import Fitted, check_read


def settings_from(config: Path | None, assignments: Sequence[str], start: str | Path | None = None) -> Settings:
    """Settings of a file, or the defaults, with `section.key=value` assignments on top; the model's as in `start`."""
    told = Settings.read(config, assignments) if config else Settings().changed(assignments)
    return Start.of(start).settings(told) if start else told


def prepare(
    sources: Sequence[str],
    out: Path,
    *,
    columns: Columns | None = None,
    items: ItemSource | None = None,
    users: UserSource | None = None,
    reading: Reading | None = None,
    config: Path | None = None,
) -> dict[str, Any]:
    """Read sources, or all that a `data.toml` (`config`) lists, into a dataset at `out`; return its description."""
    recipe = Recipe.read(config) if config else None
    if bool(sources) == bool(recipe):
        raise InputError("expected either sources of events or --config data.toml")
    if config and (columns or Columns(), items, users, reading or Reading()) != (Columns(), None, None, Reading()):
        raise InputError(f"{config} says it all: leave out what is said beside it of columns, tables and how to read")
    check_free(out, DATASET)
    log = _read(recipe or list(sources), columns, reading, out.absolute().parent)
    beside, people = (recipe.items or items, recipe.users or users) if recipe else (items, users)
    tables = read_items(beside) if beside else None, read_users(people) if people else None
    return describe(Dataset.build(log, out, *tables))


def inspect(
    source: str, *, columns: Columns | None = None, reading: Reading | None = None, verify: bool = False
) -> dict[str, Any]:
    """Describe a dataset folder, or a log as it would be read; `verify` checks the content of every file."""
    if Path(source).is_dir():
        if verify and (damaged := damaged_files(source, DATASET)):
            raise StorageError(f"{source}: the content of {', '.join(damaged)} has changed; prepare the dataset again")
        return describe(Dataset.open(source)) | ({"verified": True} if verify else {})
    if verify:
        raise InputError(f"--verify is for a dataset folder, and {source} is none")
    return describe(Dataset.build(_read([source], columns, reading), None))


@dataclass(frozen=True)
class Reading:
    """What overrules the guesses about a file."""

    separator: str | None = None
    encoding: str | None = None
    time_kind: str | None = None


def _read(source: Any, columns: Columns | None, reading: Reading | None, workspace: Path | None = None) -> EventLog:
    told = reading or Reading()
    return EventLog.read(
        source,
        columns,
        separator=told.separator,
        encoding=told.encoding,
        time_kind=cast(TimeKind | None, told.time_kind),
        workspace=workspace,
    )


def train(  # noqa: PLR0913 - the road has these entrances
    dataset: Dataset | str | Path,
    settings: Settings | Mapping[str, Any] | None = None,
    out: str | Path = "run",
    *,
    resume: bool = False,
    console: Console | None = None,
    retriever: Run | str | Path | None = None,
    vectors: Any = None,
    user_vectors: Any = None,
    start: Run | str | Path | None = None,
) -> Run:
    """Train a model on the training part of a dataset, choose by validation, and write a run to `out`.

    Args:
        dataset: a dataset or its folder.
        settings: defaults where None; a mapping is read as a settings file would be.
        out: folder of the run; an earlier run there is replaced when the new one is complete.
        resume: go on from the checkpoint in `out` if there is one, else start from the beginning.
        console: where progress is shown; None = quiet.
        retriever: for a ranker, the run that finds its candidates in the catalogue.
        vectors: pretrained vectors for items to start from: a `Knowledge`, or a source as `Knowledge.read` takes it.
        user_vectors: the same for users, by their ids; for models that have a vector of every user.
        start: a run to go on from, on its own dataset grown or on that of another domain; see `training.start`.
    """
    begun = None if start is None else Start.of(start)
    settings = Settings.of(settings) if isinstance(settings, Mapping) else settings or Settings()
    settings = begun.settings(settings) if begun else settings
    check_name(settings.model.name)
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    settings = with_metric(settings, dataset)
    protocol, out = Protocol.of(dataset, settings), Path(out)
    first = _first_stage(retriever, protocol)
    check_free(out, KIND, OWN)
    _check_lost(out, start, first)
    check_start(begun, settings, out)
    fitted = _fitted(vectors, protocol, console, "items", begun)
    users = _fitted(user_vectors, protocol, console, "users", begun)
    check_read(settings, told=bool(fitted or users), before=begun.run.settings if begun else None)
    if settings.model.name in BASELINES:
        model: Any
        model, told = choose(protocol)
    else:
        model, told = learn(protocol, out / PROGRESS, resume, console, fitted, users, begun)
    body = {
        "made_by": {"regard": version("regard"), "torch": str(torch.__version__), "threads": torch.get_num_threads()},
        "model": settings.model.name,
        "settings": settings.model_dump(mode="json"),
        "split": {"rule": protocol.split.rule, "notes": dict(protocol.split.notes)},
        "seen": protocol.seen,
        **told,
    }
    makers = {one.knowledge.whose: VectorMaker(one.knowledge.recipe, one.geometry) for one in (fitted, users) if one}
    marks = None if settings.model.name in BASELINES else learned_from(protocol, begun)
    return save_run(out, model, dataset, protocol.split.training_item_counts(dataset), body, first, makers, marks)


def _check_lost(out: Path, start: Run | str | Path | None, first: Run | None) -> None:
    """Refuse what would silently lose something: items that were added to a run, or a retriever behind a start."""
    if (out / ADDED).is_dir():
        raise InputError(
            f"{out} has items that were added after its training, and training again would drop them; choose another "
            f"--out, or remove {out / ADDED} first"
        )
    if start is not None and first is None and (start if isinstance(start, Run) else Run.open(start)).retriever:
        raise InputError("--from is a ranker behind a retriever; say --retriever RUN for the new one too")


def knowledge(
    dataset: Dataset | str | Path,
    source: Any,
    *,
    ids: str | Path | None = None,
    trust: bool = False,
    whose: str = "items",
    by: By = "auto",
    weights: Weighting = "sif",
) -> Knowledge:
    """Read pretrained vectors of the items of a dataset, or of its `users`; see `Knowledge.read` and `of_users`."""
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    if whose == "users":
        return Knowledge.of_users(dataset, source, ids=ids, trust=trust)
    return Knowledge.read(dataset, source, by=by, ids=ids, trust=trust, weights=weights)


def knowledge_like(
    start: Run | str | Path, dataset: Dataset | str | Path, source: Any = None, *, whose: str = "items", **how: Any
) -> Knowledge | None:
    """Read pretrained vectors as those of a run were made, None where it has none; see `Start.knowledge`."""
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    return Start.of(start).knowledge(dataset, source, whose, **how)


def _fitted(
    vectors: Any, protocol: Protocol, console: Console | None, whose: str = "items", start: Start | None = None
) -> Fitted | None:
    """Say how much pretrained vectors cover before training begins, and make them fit the model."""
    dataset, model = protocol.dataset, protocol.settings.model
    vectors = start.knowledge(dataset, vectors, whose) if start else vectors
    if vectors is None:
        return None
    if model.name in BASELINES:
        raise InputError(f"--vectors is for models that learn item vectors; {model.name} counts")
    if whose == "users" and not (model.name == FACTORIZATION or (model.name == "ranker" and model.user_ids)):
        raise InputError(
            f"--user-vectors is for models with a vector of every user: {FACTORIZATION}, or a ranker with "
            f"model.user_ids=true; {model.name} has none"
        )
    if not isinstance(vectors, Knowledge):
        vectors = knowledge(dataset, vectors, whose=whose, weights=model.word_weights)
    many = dataset.n_users if whose == "users" else dataset.n_items
    if vectors.whose != whose or len(vectors.known) != many + 1:
        raise InputError(f"vectors of {len(vectors.known) - 1:,} {vectors.whose}; this dataset has {many:,} {whose}")
    if console is not None:
        for line in vectors.lines():
            console.print(line, highlight=False, markup=False)
    counts = user_counts(protocol) if whose == "users" else protocol.split.training_item_counts(dataset)
    return Fitted.of(vectors, counts, model, start.geometry(vectors, counts) if start else None)


def _first_stage(retriever: Run | str | Path | None, protocol: Protocol) -> Run | None:
    """The run that finds candidates, if it may: it must not have learned from what is held back here."""
    if retriever is None:
        return None
    run = retriever if isinstance(retriever, Run) else Run.open(retriever)
    settings, own = protocol.settings, run.settings
    if settings.model.name != "ranker":
        raise InputError(f"--retriever is for --model ranker, which re-ranks what it finds; got {settings.model.name}")
    if run.manifest["model"] not in TRAINED:
        raise InputError(
            f"--retriever expects a run of {', '.join(TRAINED)}, which learn to find items; got {run.manifest['model']}"
        )
    run.dataset(protocol.dataset)
    split = run.manifest["split"]["rule"], own.data.target_behaviours
    if split != (protocol.split.rule, settings.data.target_behaviours):
        raise InputError(
            f"--retriever was trained under split {_cut(*split)}, this ranker under "
            f"{_cut(protocol.split.rule, settings.data.target_behaviours)}; "
            "it may have learned from what is held back here: train one of them again"
        )
    if unread := set(own.model.context) - set(settings.model.context):
        raise InputError(f"--retriever reads the context {', '.join(unread)}; add it to model.context of the ranker")
    return run


def _cut(rule: str, behaviours: Sequence[str]) -> str:
    return rule + (f" of {', '.join(behaviours)}" if behaviours else "")


def compare(runs: Sequence[str | Path], *, on: str = "test", data: str | Path | None = None) -> dict[str, Any]:
    """Set runs against the first one by a paired bootstrap over the same users."""
    names = [str(run) for run in runs]
    if len(set(names)) < 2:
        raise InputError(f"expected at least two different runs; got {', '.join(names) or 'none'}")
    return compare_results({name: _measured(Run.open(name), on, data) for name in names})


def _measured(run: Run, on: str, data: str | Path | None) -> Result:
    """The evaluation kept in a run's folder, made now if there is none."""
    if (run.path / f"evaluation-{on}.json").exists():
        return Result.load(run.path, f"evaluation-{on}")
    return evaluate(run, on=on, baselines="none", data=data).result


def add_items(
    run: Run | str | Path, items: Any, vectors: Any = None, *, ids: str | Path | None = None, trust: bool = False
) -> dict[str, Any]:
    """Add items to the catalogue of a run by their pretrained vectors, without training; say what was done.

    Args:
        run: a run that was trained with pretrained vectors, or its folder; of two stages, the retriever has to be. One
            that is open knows the new items too; a `Recommender` that was made of it before does not.
        items: a table of items: a path, or what `read_items` takes.
        vectors: where the vectors of these items are; None = where the run has those of the others from.
        ids: whose rows they are, for formats that do not say it themselves.
        trust: allow formats that can run code while they are read.
    """
    given = run if isinstance(run, Run) else Run.open(run)
    with locked(Run.open(given.path).path):
        run = Run.open(given.path)  # another process may have added items before the lock
        first = run.retriever
        table = read_new([one.path for one in (run, first) if one is not None], items)
        told: dict[str, Any] = {"before": run.added, "ids": ids, "trust": trust}
        if first is None:
            found, report = added(run.path, run.items, table, vectors, **told)
        else:
            theirs, found, report = added_to_stages(first.path, run.path, run.items, table, vectors, **told)
            theirs.save(first.path)
        found.save(run.path)
    given.forget_added()
    return {"run": str(run.path), **report}


def recommend_file(
    run: str | Path, users: Path, out: Path, *, data: str | Path | None = None, **asked: Any
) -> dict[str, Any]:
    """Recommend for every user named in a file, one id a line, blanks around it left off, into a Parquet file.

    What is `asked` is as in `Recommender.recommend_many`.
    """
    recommender = Recommender.open(run, data)
    try:
        lines = users.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read users from {users}: {getattr(error, 'strerror', None) or error}") from None
    ids = [name for line in lines if (name := line.strip())]
    if not ids:
        raise InputError(f"{users} names no user; expected one user id a line")
    table, notes = recommender.recommend_many(ids, **asked)
    return _written(table, out, notes)


def vectors(run: str | Path, out: Path) -> dict[str, Any]:
    """Write item vectors to a Parquet file; items of which nothing is known have none."""
    table = Recommender.open(run).vectors()
    missing = table["vector"].null_count
    return _written(table, out, [f"{missing:,} items of which nothing is known have no vector"] * bool(missing))


def _written(table: pa.Table, out: Path, notes: list[str]) -> dict[str, Any]:
    with new_file(out) as aside:
        pq.write_table(table, aside)
    return {"path": str(out), "rows": table.num_rows, "columns": table.column_names, "notes": notes}


def recommend(run: str | Path, data: str | Path | None = None, **asked: Any) -> Recommendation:
    """Recommend for one user or one live history; see `Recommender.recommend`."""
    return Recommender.open(run, data).recommend(**asked)


def similar(run: str | Path, item: str, k: int = 10) -> Recommendation:
    """Items closest to an item; see `Recommender.similar`."""
    return Recommender.open(run).similar(item, k)
