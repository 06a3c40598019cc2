"""The whole road, one short function per verb: prepare, inspect, train, evaluate, compare, recommend."""

from __future__ import annotations

from collections.abc import Sequence
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
from regard.data.knowledge import Knowledge
from regard.data.labels import resolve_labels
from regard.data.sources import Columns, ItemSource, Recipe
from regard.data.split import Part
from regard.data.store import KIND as DATASET
from regard.data.store import Dataset
from regard.data.times import TimeKind
from regard.errors import InputError, ProtocolError, StorageError, nearest
from regard.evaluate.compare import compare as compare_results
from regard.evaluate.result import Result
from regard.manifest import check_free, damaged_files, new_file
from regard.model.baseline import BASELINES
from regard.model.itemrates import ItemRates
from regard.model.models import TRAINED, check_name
from regard.model.ranker import Ranker
from regard.recommend.recommender import Recommendation, Recommender
from regard.recommend.run import KIND, OWN, PROGRESS, Run, save_run
from regard.train.loop import choose_device, set_threads
from regard.training.baselines import choose
from regard.training.learning import learn, ranker_scorer
from regard.training.protocol import Protocol, with_metric


def settings_from(config: Path | None, assignments: Sequence[str]) -> Settings:
    """Settings of a file, or the defaults, with `section.key=value` assignments on top."""
    return Settings.read(config, assignments) if config else Settings().changed(assignments)


def prepare(
    sources: Sequence[str],
    out: Path,
    *,
    columns: Columns | None = None,
    items: ItemSource | None = None,
    reading: Reading | None = None,
    config: Path | None = None,
) -> dict[str, Any]:
    """Read sources, or what a `data.toml` lists, into a dataset at `out`; return its description."""
    recipe = Recipe.read(config) if config else None
    if bool(sources) == bool(recipe):
        raise InputError("expected either sources of events or --config data.toml")
    check_free(out, DATASET)
    log = _read(recipe or list(sources), columns, reading, out.absolute().parent)
    beside = (recipe.items if recipe else None) or items
    return describe(Dataset.build(log, out, read_items(beside) if beside else None))


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


def train(
    dataset: Dataset | str | Path,
    settings: Settings | None = None,
    out: str | Path = "run",
    *,
    resume: bool = False,
    console: Console | None = None,
    retriever: Run | str | Path | None = None,
    vectors: Any = None,
) -> Run:
    """Train a model on the training part of a dataset, choose by validation, and write a run to `out`.

    Args:
        dataset: a dataset or its folder.
        settings: defaults where None.
        out: folder of the run; an earlier run there is replaced when the new one is complete.
        resume: go on from the checkpoint in `out` if there is one, else start from the beginning.
        console: where progress is shown; None = quiet.
        retriever: for a ranker, the run that finds its candidates in the catalogue.
        vectors: pretrained vectors for items to start from: a `Knowledge`, or a source as `Knowledge.read` takes it.
    """
    settings = settings or Settings()
    check_name(settings.model.name)
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    settings = with_metric(settings, dataset)
    protocol = Protocol.of(dataset, settings)
    out = Path(out)
    first = _first_stage(retriever, protocol)
    check_free(out, KIND, OWN)
    known = _known(vectors, protocol, console)
    baseline = settings.model.name in BASELINES
    model, told = choose(protocol) if baseline else learn(protocol, out / PROGRESS, resume, console, known)
    body = {
        "made_by": {"regard": version("regard"), "torch": str(torch.__version__), "threads": torch.get_num_threads()},
        "model": settings.model.name,
        "settings": settings.model_dump(mode="json"),
        "split": {"rule": protocol.split.rule, "notes": dict(protocol.split.notes)},
        "seen": protocol.seen,
        **told,
    }
    return save_run(out, model, dataset, protocol.split.training_item_counts(dataset), body, first)


def knowledge(
    dataset: Dataset | str | Path, source: Any, *, ids: str | Path | None = None, trust: bool = False
) -> Knowledge:
    """Read pretrained vectors of the items of a dataset; see `Knowledge.read`."""
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    return Knowledge.read(dataset, source, ids=ids, trust=trust)


def _known(vectors: Any, protocol: Protocol, console: Console | None) -> Knowledge | None:
    """Say how much pretrained vectors cover before training begins."""
    if vectors is None:
        return None
    name = protocol.settings.model.name
    if name in BASELINES:
        raise InputError(f"--vectors is for models that learn item vectors; {name} counts")
    found = vectors if isinstance(vectors, Knowledge) else knowledge(protocol.dataset, vectors)
    if len(found.known) != protocol.dataset.n_items + 1:
        raise InputError(f"vectors of {len(found.known) - 1:,} items; this dataset has {protocol.dataset.n_items:,}")
    if console is not None:
        for line in found.lines():
            console.print(line, highlight=False, markup=False)
    return found


def _first_stage(retriever: Run | str | Path | None, protocol: Protocol) -> Run | None:
    """The run that finds candidates, if it may: it must not have learned from what is held back here."""
    if retriever is None:
        return None
    run = retriever if isinstance(retriever, Run) else Run.open(retriever)
    settings, own = protocol.settings, run.settings
    if settings.model.name != "ranker":
        raise InputError(f"--retriever is for --model ranker, which re-ranks what it finds; got {settings.model.name}")
    if run.manifest["model"] in ("ranker", *BASELINES):
        known = ", ".join(TRAINED)
        raise InputError(
            f"--retriever expects a run of {known}, which learns to find items; got {run.manifest['model']}"
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


@dataclass(frozen=True)
class Evaluation:
    """A result, and those of baselines under the very same protocol."""

    name: str
    result: Result
    baselines: dict[str, Result]
    oracle: Result | None = None
    labelled: Result | None = None
    """Of a ranker behind a retriever: how it does on labelled candidates, without it."""


def evaluate(
    run: Run | str | Path, *, on: str = "test", baselines: str = "popular", data: Dataset | str | Path | None = None
) -> Evaluation:
    """Measure a run on its held-back part, baselines beside it, and keep the result in the run's folder.

    Args:
        run: a run or its folder.
        on: `test` or `validation`.
        baselines: names separated by commas, `all` (those the log allows), or `none`.
        data: the dataset or its folder, if it is not where the run says.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if on not in ("test", "validation"):
        raise InputError(f"--on expects test or validation; got {on!r}")
    _asked(baselines)
    part: Part = "test" if on == "test" else "validation"
    protocol = Protocol.of(run.dataset(data), run.settings)
    set_threads(run.settings.train.threads)
    device = choose_device(run.settings.train.device)
    stage, labelled = run.stage(device), None
    if isinstance(stage, Ranker):
        labelled = protocol.labelled(ranker_scorer(protocol, stage), part)
        if run.retriever is None or not resolve_labels(protocol.dataset, run.settings.data.labels).sampled:
            labelled.save(run.path, f"evaluation-{on}")
            return Evaluation(stage.name, labelled, _labelled_floor(protocol, part, baselines))
    result = protocol.measured(protocol.scorer(run.model(device)), part)
    result.save(run.path, f"evaluation-{on}")
    return Evaluation(stage.name, result, _floor(protocol, part, baselines, stage.name), labelled=labelled)


def _labelled_floor(protocol: Protocol, part: Part, names: str) -> dict[str, Result]:
    """The popularity of items stands beside a ranker; other baselines say nothing of a single candidate."""
    asked = _asked(names)
    if "popular" not in asked:
        return {}
    rates = ItemRates.fit(protocol.dataset, protocol.split, protocol.settings)
    return {"popular": protocol.labelled(rates, part)}


def _asked(names: str) -> list[str]:
    """Names of baselines, as a person gave them."""
    asked = list(BASELINES) if names == "all" else [] if names == "none" else names.split(",")
    for name in asked:
        if name not in BASELINES:
            raise InputError(f"there is no baseline {name!r}{nearest(name, BASELINES)}; known: {', '.join(BASELINES)}")
    return asked


def _floor(protocol: Protocol, part: Part, names: str, own: str) -> dict[str, Result]:
    """Baselines, each with what validation chose for it."""
    everything = names == "all"
    results = {}
    for name in _asked(names):
        if name == own:
            continue
        plain = protocol.settings.changed([f'model.name="{name}"', 'train.metric="auto"'])
        settings = with_metric(plain, protocol.dataset)
        under = Protocol(protocol.dataset, protocol.split, settings, protocol.seen)
        try:
            model, _ = choose(under)
        except ProtocolError:  # a log without timestamps has no recent-popular
            if not everything:
                raise
            continue
        results[name] = under.measured(under.scorer(model), part)
    return results


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


def recommend_file(
    run: str | Path,
    users: Path,
    out: Path,
    *,
    k: int = 10,
    seen: str | None = None,
    data: str | Path | None = None,
) -> dict[str, Any]:
    """Recommend for every user named in a file, one id a line, blanks around it left off, into a Parquet file."""
    recommender = Recommender.open(run, data)
    try:
        lines = users.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read users from {users}: {getattr(error, 'strerror', None) or error}") from None
    ids = [name for line in lines if (name := line.strip())]
    if not ids:
        raise InputError(f"{users} names no user; expected one user id a line")
    table, notes = recommender.recommend_many(ids, k=k, seen=seen)
    return _written(table, out, notes)


def vectors(run: str | Path, out: Path) -> dict[str, Any]:
    """Write item vectors to a Parquet file."""
    return _written(Recommender.open(run).vectors(), out, [])


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
