"""A run: what training leaves. Enough to recommend for a live history without the dataset it came from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from regard.config import Settings
from regard.data.shape import Shape
from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError, StorageError
from regard.manifest import LOCK, new_folder, read_manifest, write_manifest
from regard.model.models import Learned, build
from regard.model.popular import Baseline
from regard.model.ranker import Ranker
from regard.model.retriever import Retriever
from regard.model.scorer import CatalogueModel
from regard.model.twostage import TwoStage
from regard.recommend.additions import FOLDER, Additions, VectorMaker

KIND = "run"
PROGRESS = "checkpoint"
RETRIEVER = "retriever"
OWN = (PROGRESS, RETRIEVER, FOLDER, LOCK, "evaluation-*")
"""What is written into the folder of a run besides what its manifest lists."""
WEIGHTS = "weights.safetensors"
_ITEMS, _USERS, _MARKS = "items.arrow", "users.arrow", "marks.npy"


@dataclass(frozen=True)
class Run:
    """A finished training in a folder: `weights.safetensors`, `items.arrow`, `log.jsonl`, `checkpoint/`, manifest."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder, or say in one line why it is none."""
        path = Path(path)
        if path.is_dir() and not (path / "manifest.json").exists() and (path / PROGRESS).is_dir():
            raise StorageError(f"{path} holds a training that has not finished; go on with `regard train … --resume`")
        return cls(path, read_manifest(path, KIND))

    @cached_property
    def settings(self) -> Settings:
        """The settings it was trained with."""
        return Settings.of(self.manifest["settings"], f"{self.path}/manifest.json")

    @cached_property
    def added(self) -> Additions | None:
        """Items that came after training; ids, titles and counts below have them too."""
        return Additions.open(self.path)

    def forget_added(self) -> None:
        """Read what was added again when it is next asked for, as more was."""
        for name in ("added", "_table", "items", "counts", "titles"):
            self.__dict__.pop(name, None)

    @cached_property
    def _table(self) -> pa.Table:
        with pa.memory_map(str(self.path / _ITEMS)) as source:
            table = pa.ipc.open_file(source).read_all()
        if self.added is None:
            return table
        more = self.added.table.append_column("events", pa.nulls(len(self.added.told), pa.int64()).fill_null(0))
        return pa.concat_tables([table, more]).combine_chunks()

    @cached_property
    def items(self) -> Vocabulary:
        """Raw item ids <-> indexes."""
        return Vocabulary(self._table["id"].combine_chunks())

    @cached_property
    def users(self) -> Vocabulary | None:
        """Raw user ids <-> indexes, of a model that keeps a vector for each; None where it keeps none."""
        if not (self.path / _USERS).exists():
            return None
        with pa.memory_map(str(self.path / _USERS)) as source:
            return Vocabulary(pa.ipc.open_file(source).read_all()["id"].combine_chunks())

    @cached_property
    def marks(self) -> npt.NDArray[np.uint64] | None:
        """Marks of the events that its weights were learned from (`training.marks`); None where nobody kept them."""
        file = self.path / _MARKS
        return np.load(file, allow_pickle=False) if file.exists() else None

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Training events of each item, (n_items + 1,)."""
        return np.concatenate([[0], self._table["events"].to_numpy()]).astype(np.int64)

    @cached_property
    def titles(self) -> pa.ChunkedArray:
        """Titles of items 1..n_items, null where the item table has none."""
        return self._table["title"]

    def title(self, index: int) -> str | None:
        """The title of an item, if the item table has one."""
        value: str | None = self.titles[index - 1].as_py()
        return value

    @cached_property
    def context(self) -> dict[str, Vocabulary]:
        """The values of the context columns that the model reads."""
        return {name: Vocabulary.of(values) for name, values in self.manifest["context"].items()}

    @property
    def behaviours(self) -> tuple[str, ...]:
        """Names of the behaviour types of the dataset."""
        return tuple(self.manifest["dataset"]["behaviours"])

    @property
    def retriever(self) -> Run | None:
        """The run that finds candidates for this one, if it is a ranker that was given one."""
        return Run.open(self.path / RETRIEVER) if (self.path / RETRIEVER).is_dir() else None

    def model(self, device: str | torch.device = "cpu", *, added: bool = False) -> CatalogueModel:
        """Build the model and load its weights, ready to score the catalogue; a ranker behind its retriever.

        `added`: with the items that came after training, which no evaluation knows of.
        """
        model = self.stage(device)
        first = self.retriever
        if added and self.added is not None:
            self.added.hand_to(model)
        if first is None:
            return model
        retriever = first.stage(device)
        if added and self.added is not None:
            theirs = (first.added or self.added.unknown()).first(len(self.added))
            theirs.check_same(self.added, self.path)
            theirs.hand_to(retriever)
        assert isinstance(retriever, Retriever)
        assert isinstance(model, Ranker)
        return TwoStage(retriever, model, filter_seen=self.manifest["seen"] == "filter").eval()

    def stage(self, device: str | torch.device = "cpu") -> Learned | Baseline:
        """The model that this run trained, by itself."""
        try:
            model = build(self.settings, Shape(**self.manifest["shape"]))
            model.load_state_dict(load_file(self.path / WEIGHTS))
        except (RuntimeError, SafetensorError, OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise StorageError(f"{self.path / WEIGHTS} does not fit its manifest ({reason}); train again") from None
        return model.to(device).eval()

    def dataset(self, given: Dataset | str | Path | None = None) -> Dataset:
        """The dataset it was trained on, opened where it was then or as `given`, or say that it is another one now."""
        told = self.manifest["dataset"]
        if given is None and told["path"] is None:
            raise InputError(f"{self.path} was trained on a dataset in memory; hand it over, or name a stored one")
        if given is None and not Path(told["path"]).is_dir():
            raise InputError(
                f"{self.path} was trained on {told['path']}, which is not there any more; name it with --data"
            )
        dataset = given if isinstance(given, Dataset) else Dataset.open(given or told["path"])
        if dataset.fingerprint != told["fingerprint"]:
            place = dataset.path or "the dataset given"
            raise InputError(
                f"{place} is not the dataset {self.path} was trained on (its content differs); train again"
            )
        return dataset

    def __repr__(self) -> str:
        """Say which model, and where."""
        return f"Run({str(self.path)!r}, model={self.manifest['model']!r}, split={self.manifest['split']['rule']!r})"


def save_run(
    path: Path,
    model: nn.Module,
    dataset: Dataset,
    counts: npt.NDArray[np.int64],
    body: Mapping[str, Any],
    retriever: Run | None = None,
    makers: Mapping[str, VectorMaker] | None = None,
    marks: npt.NDArray[np.uint64] | None = None,
) -> Run:
    """Write a run folder, whole or not at all; what `path/checkpoint` holds of its training is kept.

    Args:
        path: where; an earlier run there is replaced once the new one is complete.
        model: its `state_dict` becomes the weights.
        dataset: gives ids and titles.
        counts: (n_items + 1,) training events of each item.
        body: the manifest's own part: settings, choice, split, validation, what attributes mean, …
        retriever: a run that finds candidates for this one; it is copied, so that the new run is whole by itself.
        makers: what makes the pretrained vectors of `items` and `users` to come.
        marks: of the events that the weights were learned from, where that is known.
    """
    told = {
        "path": str(dataset.path.resolve()) if dataset.path else None,
        "fingerprint": dataset.fingerprint,
        "behaviours": list(dataset.behaviours),
        "time_kind": dataset.time_kind,
        "items": dataset.n_items,
        "users": dataset.n_users,
        "events": dataset.n_events,
    }
    with new_folder(path, KIND, OWN) as aside:
        with pa.OSFile(str(aside / _ITEMS), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(_items(dataset, counts))
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, aside / WEIGHTS)
        (aside / WEIGHTS).chmod((aside / _ITEMS).stat().st_mode)
        progress = path / PROGRESS
        if (progress / "log.jsonl").exists():
            shutil.copytree(progress, aside / PROGRESS, copy_function=_link, ignore=_PASSING)
            _link(str(progress / "log.jsonl"), str(aside / "log.jsonl"))
        for whose, maker in (makers or {}).items():
            maker.save(aside, whose)
        if getattr(model, "user", None) is not None:
            with pa.OSFile(str(aside / _USERS), "wb") as sink:
                table = pa.table({"id": dataset.users.array})
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
        if marks is not None:
            np.save(aside / _MARKS, marks)
        values = {name: dataset.context_values[name].array.to_pylist() for name in body["shape"]["context"]}
        if retriever is not None:
            shutil.copytree(retriever.path, aside / RETRIEVER, copy_function=_link, ignore=_NOT_NEEDED)
        write_manifest(aside, KIND, {"dataset": told, "context": values, "attributes": {}, **body})
    return Run.open(path)


_NOT_NEEDED = shutil.ignore_patterns(".*", PROGRESS, FOLDER, "evaluation-*")
_PASSING = shutil.ignore_patterns(".*")  # locks, and what a killed process left half-written


def _link(source: str, target: str) -> None:
    """Share the file where the file system can, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("events", pa.int64())])


def _items(dataset: Dataset, counts: npt.NDArray[np.int64]) -> pa.Table:
    ids = dataset.items.ids(np.arange(1, dataset.n_items + 1))
    table = dataset.item_table
    titles = table["title"] if table is not None and "title" in table.column_names else [None] * len(ids)
    return pa.table({"id": ids, "title": titles, "events": counts[1:]}).cast(_SCHEMA)
