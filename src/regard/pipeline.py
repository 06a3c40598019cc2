"""The whole road, one short function per verb: prepare, inspect, train, evaluate, compare, recommend."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from regard.config import Settings
from regard.data.batches import TrainingBatches
from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.sources import Columns, ItemSource, Recipe
from regard.data.split import Cases, Part, Split, make_split, resolve_seen
from regard.data.store import KIND as DATASET
from regard.data.store import Dataset
from regard.data.times import TimeKind
from regard.errors import InputError, ProtocolError, SettingsError, StorageError, nearest
from regard.evaluate.compare import compare as compare_results
from regard.evaluate.protocol import Scorer, quick
from regard.evaluate.protocol import evaluate as measure
from regard.evaluate.result import Result
from regard.manifest import check_free, damaged_files, new_file, read_json, write_json
from regard.model.baseline import BASELINES
from regard.model.models import build, check_name
from regard.model.popular import Baseline
from regard.model.retriever import Retriever
from regard.model.scorer import CatalogueModel, CatalogueScorer
from regard.recommend.recommender import Recommendation, Recommender
from regard.recommend.run import KIND, PROGRESS, Run, save_run
from regard.train.loop import autocast_type, choose_device, fit, set_threads
from regard.train.progress import Watch


@dataclass(frozen=True)
class Protocol:
    """How a dataset is cut and measured under some settings: the same for training, validation and test."""

    dataset: Dataset
    split: Split
    settings: Settings
    seen: Literal["filter", "keep"]

    @classmethod
    def of(cls, dataset: Dataset, settings: Settings) -> Protocol:
        """Make the split and decide the seen rule."""
        split = make_split(dataset, settings.data.split, target_behaviours=settings.data.target_behaviours)
        return cls(dataset, split, settings, resolve_seen(dataset, split, settings.evaluate.seen)[0])

    def cases(self) -> Cases | None:
        """Validation cases, at most `evaluate.validation_cases` of them; None where nothing is held back."""
        if self.split.rule == "none":
            return None
        cases = self.split.cases(self.dataset, "validation", self.settings.evaluate.targets)
        most = self.settings.evaluate.validation_cases
        if len(cases) <= most:
            return cases
        return cases.take(np.sort(np.random.default_rng(0).choice(len(cases), most, replace=False)))

    def scorer(self, model: CatalogueModel) -> CatalogueScorer:
        """Wrap a model for ranking, in the precision and on the device of the settings."""
        device = choose_device(self.settings.train.device)
        precision = autocast_type(self.settings.train.precision, device) if isinstance(model, Retriever) else None
        return CatalogueScorer(model, self.dataset, device, getattr(model, "window", None), precision=precision)

    def validation(self, scorer: Scorer, cases: Cases) -> dict[str, float]:
        """Point values on validation cases."""
        return quick(scorer, self.dataset, cases, k=self.settings.evaluate.k, filter_seen=self.seen == "filter")

    def measured(self, scorer: Scorer, part: Part) -> Result:
        """All there is to say on a held-back part."""
        chosen = self.settings.evaluate
        return measure(
            scorer,
            self.dataset,
            self.split,
            part=part,
            targets=chosen.targets,
            seen=self.seen,
            k=chosen.k,
            bootstrap=chosen.bootstrap,
        )


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
    check_free(out, DATASET)
    recipe = Recipe.read(config) if config else None
    if bool(sources) == bool(recipe):
        raise InputError("expected sources of events or --config data.toml, not both and not neither")
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
) -> Run:
    """Train a model on the training part of a dataset, choose by validation, and write a run to `out`.

    Args:
        dataset: a dataset or its folder.
        settings: defaults where None.
        out: folder of the run; an earlier run there is replaced when the new one is complete.
        resume: go on from the checkpoint in `out` if there is one, else start from the beginning.
        console: where progress is shown; None = quiet.
    """
    settings = settings or Settings()
    check_name(settings.model.name)
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    protocol = Protocol.of(dataset, settings)
    out = Path(out)
    check_free(out, KIND, PROGRESS)
    baseline = settings.model.name in BASELINES
    model, told = _choose(protocol) if baseline else _learn(protocol, out, resume, console)
    body = {
        "made_by": {"regard": version("regard"), "torch": str(torch.__version__), "threads": torch.get_num_threads()},
        "model": settings.model.name,
        "settings": settings.model_dump(mode="json"),
        "split": {"rule": protocol.split.rule, "notes": dict(protocol.split.notes)},
        "seen": protocol.seen,
        **told,
    }
    return save_run(out, model, dataset, protocol.split.training_item_counts(dataset), body)


def _choose(protocol: Protocol) -> tuple[Retriever | Baseline, dict[str, Any]]:
    """Fit a baseline with each of its choices and keep the one that validation likes best."""
    dataset, settings = protocol.dataset, protocol.settings
    kind = BASELINES[settings.model.name]
    choices, cases = kind.choices(dataset, protocol.split), protocol.cases()
    if cases is None or len(choices) == 1:
        return kind.fit(dataset, protocol.split, **choices[0]), {"choice": choices[0], "validation": {}, "epochs": []}
    best: tuple[float, dict[str, Any], Baseline, dict[str, float]] | None = None
    for choice in choices:
        model = kind.fit(dataset, protocol.split, **choice)
        figures = protocol.validation(protocol.scorer(model), cases)
        value = _chosen_figure(figures, settings.train.metric)
        if best is None or value > best[0]:
            best = value, choice, model, figures
    assert best is not None
    return best[2], {"choice": best[1], "validation": best[3], "epochs": []}


def _learn(
    protocol: Protocol, out: Path, resume: bool, console: Console | None
) -> tuple[Retriever | Baseline, dict[str, Any]]:
    """Train a model by gradient descent; the checkpoint lives below `out`."""
    dataset, settings = protocol.dataset, protocol.settings
    _check_learnable(dataset, settings)
    set_threads(settings.train.threads)
    torch.manual_seed(settings.train.seed)
    model = build(settings, dataset.n_items, len(dataset.behaviours))
    assert isinstance(model, Retriever)
    model.known = torch.from_numpy(protocol.split.training_item_counts(dataset) > 0)
    model.to(choose_device(settings.train.device))
    batches = TrainingBatches(
        dataset,
        protocol.split,
        window=settings.model.window,
        batch_tokens=settings.train.batch_tokens,
        seed=settings.train.seed,
    )
    cases, scorer = protocol.cases(), protocol.scorer(model)
    progress = out / PROGRESS
    _begin(progress, settings, dataset, resume)
    rows = fit(
        model,
        batches,
        settings.train,
        progress,
        validate=None if cases is None else lambda: _checked(protocol.validation(scorer, cases), settings.train.metric),
        resume=resume,
        watch=Watch(console) if console else None,
    )
    best = next((row for row in reversed(rows) if row["best"]), rows[-1])
    return model, {"choice": {}, "validation": best["validation"], "epochs": rows}


def _check_learnable(dataset: Dataset, settings: Settings) -> None:
    name = settings.model.name
    if dataset.time_kind == "none":
        raise ProtocolError(
            f"{name} reads events in their order, and this log has none (time kind none); prepare it again with "
            "--time-kind order if file order is meant, or train popular, repeat or co-visit"
        )
    if settings.model.time_gaps and dataset.time_kind != "timestamp":
        raise ProtocolError(
            f"model.time_gaps needs timestamps, and this log has time kind {dataset.time_kind}; "
            "train with --set model.time_gaps=false"
        )


def _begin(progress: Path, settings: Settings, dataset: Dataset, resume: bool) -> None:
    """Start a training folder anew, or see that what is to be resumed is the same training."""
    told = {"dataset": dataset.fingerprint, **settings.model_dump(mode="json")}
    note = progress / "settings.json"
    if resume and note.exists():
        before = read_json(note)
        differing = sorted(key for key in told if before.get(key) != told[key])
        if differing:
            raise StorageError(
                f"{progress} belongs to a training with other {', '.join(differing)}; resume it with the same ones, "
                "or leave --resume out to start from the beginning"
            )
        return
    shutil.rmtree(progress, ignore_errors=True)
    write_json(note, told)


def _chosen_figure(figures: Mapping[str, float], metric: str) -> float:
    return _checked(figures, metric)[metric]


def _checked(figures: Mapping[str, float], metric: str) -> dict[str, float]:
    if metric not in figures:
        raise SettingsError(
            f"train.metric={metric!r} is not measured{nearest(metric, figures)}; measured: {', '.join(figures)}"
        )
    return dict(figures)


@dataclass(frozen=True)
class Evaluation:
    """A result, and those of baselines under the very same protocol."""

    name: str
    result: Result
    baselines: dict[str, Result]
    oracle: Result | None = None


def evaluate(
    run: Run | str | Path, *, on: str = "test", baselines: str = "popular", data: str | Path | None = None
) -> Evaluation:
    """Measure a run on its held-back part, baselines beside it, and keep the result in the run's folder.

    Args:
        run: a run or its folder.
        on: `test` or `validation`.
        baselines: names separated by commas, `all` (those the log allows), or `none`.
        data: the dataset, if it is not where the run says.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if on not in ("test", "validation"):
        raise InputError(f"--on expects test or validation; got {on!r}")
    part: Part = "test" if on == "test" else "validation"
    protocol = Protocol.of(run.dataset(data), run.settings)
    set_threads(run.settings.train.threads)
    model = run.model(choose_device(run.settings.train.device))
    result = protocol.measured(protocol.scorer(model), part)
    result.save(run.path, f"evaluation-{on}")
    return Evaluation(model.name, result, _floor(protocol, part, baselines, model.name))


def _floor(protocol: Protocol, part: Part, names: str, own: str) -> dict[str, Result]:
    """Baselines, each with what validation chose for it."""
    everything = names == "all"
    asked = list(BASELINES) if everything else [] if names == "none" else names.split(",")
    results = {}
    for name in asked:
        if name not in BASELINES:
            raise InputError(f"there is no baseline {name!r}{nearest(name, BASELINES)}; known: {', '.join(BASELINES)}")
        if name == own:
            continue
        settings = protocol.settings.changed([f'model.name="{name}"'])
        under = Protocol(protocol.dataset, protocol.split, settings, protocol.seen)
        try:
            model, _ = _choose(under)
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
    """Recommend for every user named in a file, one id a line, into a Parquet file."""
    recommender = Recommender.open(run, data)
    try:
        ids = [line for line in users.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read users from {users}: {getattr(error, 'strerror', None) or error}") from None
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
