"""How a run does on its held-back part, baselines beside it under the very same protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from regard.data.labels import resolve_labels
from regard.data.split import Part
from regard.data.store import Dataset
from regard.errors import InputError, ProtocolError, nearest
from regard.evaluate.report import RETRIEVER
from regard.evaluate.result import Result
from regard.model.baseline import BASELINES
from regard.model.factorization import Factorization
from regard.model.itemrates import ItemRates
from regard.model.ranker import Ranker
from regard.recommend.run import Run
from regard.train.heap import keep_freed
from regard.train.loop import choose_device, set_threads
from regard.training.baselines import choose
from regard.training.learning import ranker_scorer
from regard.training.protocol import Protocol, asks_labels, with_metric


@dataclass(frozen=True)
class Evaluation:
    """A result, and those of baselines under the very same protocol; of a pair also that of its retriever."""

    name: str
    result: Result
    baselines: dict[str, Result]
    oracle: Result | None = None
    labelled: Result | None = None
    """Of a ranker behind a retriever: how it does on labelled candidates, without it."""
    labelled_baselines: dict[str, Result] = field(default_factory=dict)
    """What stands beside `labelled`."""


def evaluate(
    run: Run | str | Path, *, on: str = "test", baselines: str = "popular", data: Dataset | str | Path | None = None
) -> Evaluation:
    """Measure a run on its held-back part, baselines beside it, and keep the result in the run's folder.

    Args:
        run: a run or its folder.
        on: `test` or `validation`.
        baselines: names separated by commas, `all` (those the log allows), or `none`. The retriever of a pair stands
            beside it too, but for `none`.
        data: the dataset or its folder, if it is not where the run says.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if on not in ("test", "validation"):
        raise InputError(f"--on expects test or validation; got {on!r}")
    _asked(baselines)
    part: Part = "test" if on == "test" else "validation"
    protocol = Protocol.of(run.dataset(data), run.settings)
    set_threads(run.settings.train.threads)
    keep_freed()
    device = choose_device(run.settings.train.device)
    stage = run.stage(device)
    labelled, floor = None, {}
    if isinstance(stage, Ranker | Factorization) and asks_labels(run.settings, protocol.dataset):
        labelled = protocol.labelled(ranker_scorer(protocol, stage), part)
        floor = _labelled_floor(protocol, part, baselines)
        if run.retriever is None or not resolve_labels(protocol.dataset, run.settings.data.labels).sampled:
            labelled.save(run.path, f"evaluation-{on}")
            return Evaluation(stage.name, labelled, floor)
    result = protocol.measured(protocol.scorer(run.model(device)), part)
    result.save(run.path, f"evaluation-{on}")
    beside = _floor(protocol, part, baselines, stage.name)
    if run.retriever is not None and baselines != "none":
        alone = protocol.scorer(run.retriever.model(device))
        beside = {RETRIEVER: protocol.measured(alone, part), **beside}
    return Evaluation(stage.name, result, beside, labelled=labelled, labelled_baselines=floor)


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
