"""`regard compare --transfer`: train every way at every share, keep each as a cell, measure, and say what it means."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from regard import pipeline
from regard.config import Settings
from regard.data.knowledge import Knowledge
from regard.data.store import Dataset
from regard.errors import InputError, RegardError
from regard.evaluate.result import Result
from regard.manifest import LOCK, check_free, locked, write_json, writing
from regard.model.popular import Popular
from regard.model.transfer import MODES
from regard.model.zeroshot import RawCosine
from regard.train.loop import choose_device, set_threads
from regard.training.protocol import Protocol
from regard.training.sizes import by_size
from regard.transfer.cells import Cell, cell_name, keep, kept
from regard.transfer.findings import compared, percent, sentences
from regard.transfer.measure import Asked
from regard.transfer.ways import CONTROLS, ID_ONLY, POPULAR, RAW, SEEDS, SHARES, UNIFORM, Plan, dealt, plan

KIND = "transfer report"
REPORT, PLOT, CELLS, RUNS = "report.json", "transfer.png", "cells", "runs"
_OWN = (REPORT, PLOT, CELLS, RUNS, LOCK, ".*.part")


@dataclass(frozen=True)
class TransferReport:
    """What was found; `path` holds `report.json`, `transfer.png` and the cells."""

    path: Path
    body: dict[str, Any]


def transfer_report(
    dataset: Dataset | str | Path,
    settings: Settings | Mapping[str, Settings] | None = None,
    out: str | Path = "transfer",
    *,
    vectors: Any,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = SEEDS,
    modes: Sequence[str] = MODES,
    console: Console | None = None,
) -> TransferReport:
    """Measure what pretrained vectors are worth: id-only, every mode and controls, by how many users train.

    Each way at each share and seed is a cell that is kept in `out`, so the same call goes on where it was stopped, in
    the midst of a training too; other settings make other cells beside them. All users are evaluated, on test, with
    their whole histories. The mode for the controls is chosen on validation.

    Args:
        dataset: a dataset or its folder.
        settings: of all ways; or of single ways (`id-only`, `gate`, …) by name, the entry "" being for all others.
        out: folder of the report.
        vectors: pretrained vectors of items: a `Knowledge`; a source as `Knowledge.read` takes it; or what reads them,
            called with `model.word_weights` once all else is checked.
        shares: of users whose events train.
        seeds: of the trainings; figures of a user are averaged over them.
        modes: of `model.transfer`.
        console: where progress is shown; None = quiet.

    Raises:
        InputError: shares, seeds, modes or a model that cannot be; or matplotlib is missing.
        SettingsError: settings that do not fit a report, or ask different things of different ways.
        ProtocolError: nothing is held back.
        StorageError: `out` holds something else.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    planned = plan(dataset, settings or Settings(), shares, seeds, modes)
    draw = _drawing()
    out = Path(out)
    check_free(out, KIND, _OWN)
    if callable(vectors):
        vectors = vectors(planned.word_weights)
    elif not isinstance(vectors, Knowledge):
        vectors = pipeline.knowledge(dataset, vectors, weights=planned.word_weights)
    with writing(out):
        (out / CELLS).mkdir(parents=True, exist_ok=True)
    with locked(out):
        walk = _Walk(dataset, vectors, planned, out, console)
        body = walk.body()
        write_json(out / REPORT, body)
        draw(body, out / PLOT)
    return TransferReport(out, body)


def _drawing() -> Any:
    """Find out before hours of training that there is no matplotlib."""
    try:
        from regard.transfer.plot import draw
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "regard":
            raise
        raise InputError(
            f"regard compare --transfer draws with matplotlib ({error}): pip install 'regard[plots]'"
        ) from None
    return draw


class _Walk:
    """A report in progress."""

    def __init__(
        self, dataset: Dataset, knowledge: Knowledge, planned: Plan, out: Path, console: Console | None
    ) -> None:
        self.dataset, self.knowledge, self.plan, self.out, self.console = dataset, knowledge, planned, out, console
        self.asked = {
            share: Asked.of(Protocol.of(dataset, planned.reference(share))) for share in reversed(planned.shares)
        }
        self.done = 0

    def body(self) -> dict[str, Any]:
        """Train what is missing, measure, and put together `report.json`."""
        self._say(
            f"{self.plan.trainings} trainings: {len(self.plan.modes) + 1 + len(CONTROLS)} ways, shares "
            f"{', '.join(map(percent, self.plan.shares))} of users, {len(self.plan.seeds)} seeds"
        )
        cells = {share: {way: self._seeds(way, share) for way in (ID_ONLY, *self.plan.modes)} for share in self.asked}
        metric = self.plan.own[ID_ONLY].train.metric
        largest = self.plan.shares[-1]
        values = {mode: _mean(cells[largest][mode], metric) for mode in self.plan.modes}
        best = max(values, key=lambda mode: values[mode])
        self._say(f"best mode on validation: {best}; controls use it")
        for share, ways in cells.items():
            ways.update({way: self._seeds(way, share, best) for way in CONTROLS})
            ways.update({way: [self._reference(way, share)] for way in (RAW, POPULAR)})
        at = {f"{share:g}": self._at(share, cells[share], best) for share in self.plan.shares}
        body = {
            "metric": self.plan.metric,
            "model": self.plan.own[ID_ONLY].model.name,
            "shares": list(self.plan.shares),
            "seeds": list(self.plan.seeds),
            "modes": list(self.plan.modes),
            "best": {"mode": best, "metric": metric, "on": "validation", "share": largest, "values": values},
            "vectors": {"fingerprint": self.knowledge.fingerprint, **self.knowledge.facts},
            "settings": {way: one.model_dump(mode="json", exclude_unset=True) for way, one in self.plan.own.items()},
            "at": at,
            "protocol": self._protocol(cells[largest][ID_ONLY][0]),
        }
        return {"findings": sentences(body), **body}

    def _seeds(self, way: str, share: float, best: str = "") -> list[Cell]:
        return [self._trained(way, share, seed, best) for seed in self.plan.seeds]

    def _trained(self, way: str, share: float, seed: int, best: str) -> Cell:
        """A cell that is kept, or a new one: a training, then ranks of its best weights."""
        settings, vectors = self.plan.settings(way, share, seed, best), dealt(way, self.knowledge, seed)
        fingerprint = None if vectors is None else vectors.fingerprint
        complete = by_size(Protocol.of(self.dataset, settings), vectors=vectors is not None)[0]
        name = cell_name(way, share, seed, self.dataset.fingerprint, fingerprint, complete)
        self.done += 1
        title = f"{self.done}/{self.plan.trainings}  {way}, {percent(share)} of users, seed {seed}"
        if found := kept(self.out / CELLS, name):
            self._say(f"{title}: kept")
            return found
        folder = self.out / RUNS / name
        try:
            with self.console.status(Text(title)) if self.console else contextlib.nullcontext():
                run = pipeline.train(self.dataset, settings, folder, resume=True, vectors=vectors)
                model = run.model(choose_device(settings.train.device))
                told = {
                    "way": way,
                    "share": share,
                    "seed": seed,
                    "validation": run.manifest["validation"],
                    "epochs": len(run.manifest["epochs"]),
                    "seconds": round(sum(row["seconds"] for row in run.manifest["epochs"]), 2),
                }
                asked = self.asked[share]
                asked = replace(asked, protocol=replace(asked.protocol, settings=run.settings))
                cell = keep(self.out / CELLS, name, asked.rank(model, told))
        except RegardError as error:
            raise type(error)(f"{way} at share {share:g}, seed {seed}: {error}") from error
        shutil.rmtree(folder, ignore_errors=True)
        figure = told["validation"].get(self.plan.own[ID_ONLY].train.metric)
        self._say(f"{title}: validation {figure:.4f}, {told['seconds']:.1f} s")
        return cell

    def _reference(self, way: str, share: float) -> Cell:
        """Ranks of what is not trained; kept as well, since raw cosine reads whole histories."""
        settings, asked = self.plan.reference(share), self.asked[share]
        vectors = self.knowledge.fingerprint if way == RAW else None
        name = cell_name(way, share, 0, self.dataset.fingerprint, vectors, settings)
        if found := kept(self.out / CELLS, name):
            return found
        set_threads(self.plan.own[ID_ONLY].train.threads)
        device = choose_device(settings.train.device)
        model: Any = asked.protocol.placed(Popular.fit(self.dataset, asked.protocol.split))
        if way == RAW:
            rows, known = (torch.from_numpy(each).to(device) for each in (self.knowledge.rows, self.knowledge.known))
            model = RawCosine(rows, known)
        told = {"way": way, "share": share, "seed": None, "validation": {}, "epochs": 0, "seconds": 0.0}
        return keep(self.out / CELLS, name, asked.rank(model, told))

    def _at(self, share: float, cells: Mapping[str, list[Cell]], best: str) -> dict[str, Any]:
        """All there is to say at one share."""
        asked, resamples = self.asked[share], self.plan.own[ID_ONLY].evaluate.bootstrap
        stated = cells[ID_ONLY][0].told["protocol"]
        results: dict[str, Result] = {}
        by_seed = {}
        for way, few in cells.items():
            columns = [asked.columns(cell) for cell in few]
            results[way] = asked.result(columns, stated, resamples)
            by_seed[way] = [_told(cell, one[self.plan.metric]) for cell, one in zip(few, columns, strict=True)]
        results[UNIFORM] = asked.result([asked.by_chance()], stated, resamples)
        ways = {
            way: {"metrics": one.metrics, "strata": one.strata, "trainings": by_seed.get(way, [])}
            for way, one in results.items()
        }
        notes = asked.protocol.split.notes
        told = {
            "users_whose_events_train": notes.get("users_whose_events_train", int(_trains(asked).sum())),
            "training_events": int(asked.protocol.split.training_item_counts(self.dataset).sum()),
            "items_without_training_events": int(asked.unmet.sum()),
        }
        return {**told, "ways": ways, **compared(results, best, self.plan.metric, resamples)}

    def _protocol(self, cell: Cell) -> dict[str, Any]:
        """The protocol of all figures; what depends on the share stands there."""
        stated = {name: value for name, value in cell.told["protocol"].items() if name != "split_counts"}
        interval = {**stated["interval"], "resamples": self.plan.own[ID_ONLY].evaluate.bootstrap}
        seeds = "figures of a user are averaged over seeds; intervals are over users and do not hold chance of training"
        return {**stated, "interval": interval, "seeds": seeds}

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _trains(asked: Asked) -> Any:
    starts, ends = asked.protocol.split.training(asked.dataset)
    return ends > starts


def _mean(cells: Sequence[Cell], metric: str) -> float:
    return float(np.mean([cell.told["validation"][metric] for cell in cells]))


def _told(cell: Cell, values: Any) -> dict[str, Any]:
    """What a reader may want to know of one training."""
    named = ("seed", "validation", "epochs", "seconds", "coverage")
    return {"value": float(values.mean()), **{name: cell.told[name] for name in named}}
