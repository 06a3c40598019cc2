"""The ways of `cold.py`: what each is told, its trainings, and where the targets of test stand by them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cold_bars import KEY
from cold_log import SPLIT, ColdLog
from regard.config import Settings
from regard.data.knowledge import Knowledge
from regard.data.store import Dataset
from regard.errors import RegardError
from regard.evaluate.result import Result
from regard.model.popular import Popular
from regard.model.zeroshot import RawCosine
from regard.recommend.run import Run
from regard.train.loop import choose_device, set_threads
from regard.training.protocol import Protocol
from regard.training.sizes import by_size
from regard.transfer import cells as kept_ranks
from regard.transfer.measure import Asked
from regard.transfer.ways import ID_ONLY, POPULAR, RAW, UNIFORM, Plan, plan
from road import Cell, run, told_of
from road_tables import front

MODEL = "self-attention"
OWN = {"data.split": SPLIT, "model.name": MODEL}
"""What the benchmark says, whatever a file of settings holds."""


@dataclass
class Walk:
    """Cells, measured where they are not kept; `broken` counts those that gave nothing."""

    asked: argparse.Namespace
    log: ColdLog
    broken: int = 0
    trainings: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.open(self.log.dataset)

    @cached_property
    def knowledge(self) -> Knowledge:
        return Knowledge.read(self.dataset, str(self.asked.vectors))

    @cached_property
    def plan(self) -> Plan:
        given = {way: settings_of(self.asked, way) for way in (ID_ONLY, *self.asked.ways)}
        return plan(self.dataset, given, [1.0], self.asked.seeds, self.asked.ways)

    @cached_property
    def test(self) -> Asked:
        """What is asked, of all ways alike."""
        asked = Asked.of(Protocol.of(self.dataset, self.plan.reference(1.0)))
        if not len(asked.cold):
            raise RegardError(f"no user of {self.log.name} ends with a held-out item; raise --share or change --draw")
        return asked

    def trained(self, way: str, seed: int) -> kept_ranks.Cell | None:
        """A training and its ranks on test; None where it broke."""
        settings, vectors = self.plan.settings(way, 1.0, seed), None if way == ID_ONLY else self.knowledge.fingerprint
        complete = by_size(Protocol.of(self.dataset, settings), vectors=way != ID_ONLY)[0]
        name = kept_ranks.cell_name(way, 1.0, seed, self.dataset.fingerprint, vectors, complete)
        task = {"do": "measure", "set": self.log.name, "way": way, "model": MODEL, "split": SPLIT, "seed": seed}
        task |= {"fingerprint": self.dataset.fingerprint, "settings": told_of(settings)}
        task["vectors"] = None if way == ID_ONLY else str(self.asked.vectors)
        cell = Cell(task, self.log.folder / f"{name}.json")
        kept = cell.kept()
        found = kept or run({**task, "dataset": str(self.log.dataset), "run": str(cell.folder)}, cell.file)
        print(f"{way:10} seed {seed:<4} {front(found)}{' (kept)' * bool(kept)}", flush=True)
        if not found or "refused" in found:
            self.broken += 1
            return None
        ranks = self.ranks(cell, name, way, seed)
        self.trainings.append({**found, "figures": self.figures_of(ranks)})
        return ranks

    def ranks(self, cell: Cell, name: str, way: str, seed: int) -> kept_ranks.Cell:
        """Where the targets of test stand by a trained model; kept beside its run."""
        if there := kept_ranks.kept(self.folder, name):
            return there
        trained = Run.open(cell.folder)
        model = trained.model(choose_device(trained.settings.train.device))
        asked = replace(self.test, protocol=replace(self.test.protocol, settings=trained.settings))
        return kept_ranks.keep(self.folder, name, asked.rank(model, {"way": way, "seed": seed}))

    def untrained(self, way: str) -> kept_ranks.Cell:
        """Where they stand by raw cosine or by popularity."""
        settings = self.plan.reference(1.0)
        vectors = self.knowledge.fingerprint if way == RAW else None
        name = kept_ranks.cell_name(way, 1.0, 0, self.dataset.fingerprint, vectors, settings)
        if there := kept_ranks.kept(self.folder, name):
            return there
        model: Any = self.test.protocol.placed(Popular.fit(self.dataset, self.test.protocol.split))
        if way == RAW:
            device = choose_device(settings.train.device)
            model = RawCosine(
                *(torch.from_numpy(each).to(device) for each in (self.knowledge.rows, self.knowledge.known))
            )
        return kept_ranks.keep(self.folder, name, self.test.rank(model, {"way": way, "seed": None}))

    @cached_property
    def folder(self) -> Path:
        """Where ranks are kept."""
        folder = self.log.folder / "ranks"
        folder.mkdir(exist_ok=True)
        return folder

    def results(self) -> dict[str, Result]:
        """Results by way, means over seeds; a way of which a training broke is left out."""
        set_threads(self.plan.own[ID_ONLY].train.threads)
        cells = {way: [self.trained(way, seed) for seed in self.asked.seeds] for way in (ID_ONLY, *self.asked.ways)}
        whole = {way: [one for one in few if one] for way, few in cells.items() if all(few)}
        whole |= {way: [self.untrained(way)] for way in (RAW, POPULAR)}
        columns = {way: [self.test.columns(one) for one in few] for way, few in whole.items()}
        columns[UNIFORM] = [self.test.by_chance()]
        stated = whole[RAW][0].told["protocol"]
        stated["interval"]["resamples"] = self.resamples  # cells have none: intervals are made here, for all at once
        return {way: self.test.result(few, stated, self.resamples) for way, few in columns.items()}

    def figures_of(self, cell: kept_ranks.Cell) -> dict[str, float]:
        """Means over users of every key, without intervals."""
        return {key: round(float(np.nanmean(values)), 6) for key, values in self.test.columns(cell).items()}

    @property
    def resamples(self) -> int:
        return self.plan.own[ID_ONLY].evaluate.bootstrap


def settings_of(asked: argparse.Namespace, way: str) -> Settings:
    """The settings of a way: a file's, then what is changed for all, then what is changed for this way.

    Raises:
        RegardError: they contradict what the benchmark itself says.
    """
    file = asked.config_of.get(way)
    settings = Settings.read(file) if file else Settings()
    settings = settings.changed([*asked.change, *(change for name, change in asked.change_of if name == way)])
    own = OWN if way == ID_ONLY else {**OWN, "model.transfer": way}
    for name, value in own.items():
        section, _, key = name.partition(".")
        told = settings.model_dump(exclude_unset=True).get(section, {}).get(key, value)
        if told != value:
            raise RegardError(f"settings of {way}: {name} is {value!r} here, and {told!r} was given; leave it out")
    settings = settings.changed([f"{name}={value!r}" for name, value in OWN.items()])
    if not settings.evaluate.bootstrap or int(KEY.partition("@")[2]) not in settings.evaluate.k:
        raise RegardError(f"settings of {way}: the bars are about {KEY} with intervals; leave evaluate.* as it is")
    return settings
