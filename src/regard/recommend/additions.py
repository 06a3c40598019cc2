"""Items that came after training: known by their pretrained vectors, and kept beside a run that stays what it was.

A run's weights and manifest are never touched: an evaluation of it means the same before and after. What was added
lies in its folder `added`, which `Recommender` reads, and which is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from regard.data.attributes import attributes_like
from regard.data.geometry import Geometry
from regard.data.items import item_report, read_items
from regard.data.knowledge import COLUMNS, VectorRecipe
from regard.data.sources import ItemColumns, ItemSource
from regard.data.vocabulary import Vocabulary
from regard.data.words import joined_texts
from regard.errors import InputError, StorageError
from regard.manifest import NAME as MANIFEST
from regard.manifest import new_folder, read_json, read_manifest, write_json, write_manifest

FOLDER = "added"
KIND = "added items"
_OF = {
    "items": ("vectors.json", "vectors.safetensors"),
    "users": ("user-vectors.json", "user-vectors.safetensors"),
}
_ITEMS, _ROWS = "items.arrow", "rows.safetensors"
_ATTRIBUTE = "attribute "
_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string())])


@dataclass(frozen=True)
class VectorMaker:
    """What a run keeps of its pretrained vectors of items, or of users, so that those of new ones are made alike."""

    recipe: VectorRecipe
    geometry: Geometry

    def save(self, folder: Path, whose: str = "items") -> None:
        """Write into the folder of a run."""
        arrays = {name: torch.from_numpy(one) for name, one in self.geometry.arrays().items()}
        write_json(folder / _OF[whose][0], {"recipe": vars(self.recipe), "geometry": self.geometry.facts()})
        save_file(arrays, folder / _OF[whose][1])

    @classmethod
    def open(cls, folder: Path, whose: str = "items") -> VectorMaker | None:
        """Read from the folder of a run; None where it has no pretrained vectors of its items, or of its users."""
        recipe, geometry = _OF[whose]
        if not (folder / recipe).exists():
            return None
        told = read_json(folder / recipe)
        body = told["recipe"]
        mean = None if body["mean"] is None else tuple(body["mean"])
        made = VectorRecipe(**{**body, "columns": tuple(body["columns"]), "mean": mean})
        arrays = {name: one.numpy() for name, one in load_file(folder / geometry).items()}
        return cls(made, Geometry.of(told["geometry"], arrays))

    def rows(self, texts: Mapping[str, str], source: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (n, K) of items by id, and which of them (n,) have a vector."""
        vectors = self.recipe.read(texts, source, **options)
        rows = np.zeros((len(texts), self.geometry.width), np.float32)
        if vectors.known.any():
            rows[vectors.known] = self.geometry.apply(vectors.matrix[vectors.known])
        return torch.from_numpy(rows), torch.from_numpy(vectors.known)


@runtime_checkable
class Growing(Protocol):
    """A model whose catalogue can grow after training."""

    def grow(self, rows: torch.Tensor, told: torch.Tensor, attributes: Mapping[str, torch.Tensor]) -> None:
        """Append items known by vectors (n, K) where `told` (n,), and by attributes (n, …)."""


@dataclass(frozen=True)
class Additions:
    """n items that were added to a run.

    table: ids and titles. rows (n, K), told (n,): pretrained vectors, and which items have one. attributes: by name,
    what the run reads of them, (n,) or (n, size) as `AttributeTable.append` takes it.
    """

    table: pa.Table
    rows: torch.Tensor
    told: torch.Tensor
    attributes: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Additions | None:
        """Read what was added to the run in `folder`; None where nothing was."""
        place = folder / FOLDER
        if not place.is_dir():
            return None
        read_manifest(place, KIND)
        with pa.memory_map(str(place / _ITEMS)) as source:
            table = pa.ipc.open_file(source).read_all()
        held = load_file(place / _ROWS)
        if len(held["told"]) != table.num_rows:
            raise StorageError(
                f"{place} is damaged: {table.num_rows} items, {len(held['told'])} vectors; add them again"
            )
        rows, told = held.pop("rows"), held.pop("told")
        return cls(table, rows, told, {name.removeprefix(_ATTRIBUTE): one for name, one in held.items()})

    def save(self, folder: Path) -> None:
        """Take the place of what was added to the run in `folder` before."""
        with new_folder(folder / FOLDER, KIND) as aside:
            with pa.OSFile(str(aside / _ITEMS), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
                writer.write_table(self.table)
            attributes = {_ATTRIBUTE + name: one.contiguous() for name, one in self.attributes.items()}
            save_file({"rows": self.rows.contiguous(), "told": self.told, **attributes}, aside / _ROWS)
            write_manifest(aside, KIND, {"items": self.table.num_rows})

    @classmethod
    def nothing(cls, width: int) -> Additions:
        """No items, for vectors of `width` values."""
        return cls(_SCHEMA.empty_table(), torch.zeros(0, width), torch.zeros(0, dtype=torch.bool))

    def __len__(self) -> int:
        """How many items were added."""
        return len(self.told)

    def hand_to(self, model: object) -> None:
        """Append the items to the catalogue of a model that is not learned any more."""
        assert isinstance(model, Growing), type(model).__name__
        model.grow(self.rows, self.told, self.attributes)

    def first(self, count: int) -> Additions:
        """The first `count` items: a process that was killed may have written more beside one of two stages."""
        return self.those(torch.arange(len(self)) < count)

    def check_same(self, other: Additions, folder: Path) -> None:
        """Raise `StorageError` unless both are the same items in the same order."""
        if not self.table["id"].combine_chunks().equals(other.table["id"].combine_chunks()):
            raise StorageError(f"{folder}: its two stages have had different items added; remove {FOLDER} in both")

    def unknown(self) -> Additions:
        """The same items for a model without pretrained vectors, which knows nothing of them."""
        return Additions(self.table, self.rows[:, :0], torch.zeros_like(self.told))

    def those(self, kept: torch.Tensor) -> Additions:
        """The items that are `kept` (n,)."""
        attributes = {name: one[kept] for name, one in self.attributes.items()}
        return Additions(self.table.filter(pa.array(kept.numpy())), self.rows[kept], self.told[kept], attributes)

    def completed(self, places: Sequence[int], later: Additions) -> Additions:
        """With what is known `later` of the items at `places`: a vector, and what title and attributes it came with."""
        at = torch.as_tensor([place for place, told in zip(places, later.told, strict=True) if told], dtype=torch.int64)
        later = later.those(later.told)
        titles = self.table["title"].to_pylist()
        for place, title in zip(at.tolist(), later.table["title"].to_pylist(), strict=True):
            titles[place] = title or titles[place]
        table = pa.table({"id": self.table["id"], "title": titles}).cast(_SCHEMA)
        mine, theirs = self._with_all(later), later._with_all(self)
        attributes = {name: one.index_put((at,), _or(theirs[name], one[at])) for name, one in mine.items()}
        rows, told = self.rows.index_put((at,), later.rows), self.told.index_put((at,), later.told)
        return Additions(table, rows, told, attributes)

    def and_(self, later: Additions) -> Additions:
        """Both, the later ones behind."""
        table = pa.concat_tables([self.table, later.table]).combine_chunks()
        mine, theirs = self._with_all(later), later._with_all(self)
        attributes = {name: torch.cat([one, theirs[name]]) for name, one in mine.items()}
        return Additions(table, torch.cat([self.rows, later.rows]), torch.cat([self.told, later.told]), attributes)

    def _with_all(self, other: Additions) -> dict[str, torch.Tensor]:
        """Attributes of these items, and those that only others have, which are not given here."""
        absent = {
            name: one.new_full((len(self), *one.shape[1:]), torch.nan if one.is_floating_point() else 0)
            for name, one in other.attributes.items()
        }
        return {**absent, **self.attributes}


def _or(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Values (n,) or (n, size) of an attribute, the second ones where the first are not given."""
    absent = first.isnan().any(1, keepdim=True) if first.is_floating_point() else first == 0
    return torch.where(absent, second, first)


def read_new(stages: Sequence[Path], items: Any) -> pa.Table:
    """Read a table of items with all columns that runs, in the folders `stages`, read or make vectors of.

    Raises:
        InputError: a column is missing, or the table cannot be read.
    """
    makers = {folder: one for folder in stages if (one := VectorMaker.open(folder))}  # others read none of these items
    read = [name for one in makers.values() for name in one.recipe.columns]
    read += [name for folder in makers for name in _meanings(folder)]
    wanted = tuple(name for name in dict.fromkeys(read) if name not in COLUMNS)
    columns = items.columns if isinstance(items, ItemSource) else ItemColumns()
    source = items if isinstance(items, ItemSource) else ItemSource(items, columns)
    try:
        return read_items(replace(source, columns=replace(columns, attributes=wanted)))
    except InputError as error:
        missed = any(f"no column {name!r}" in str(error) for name in wanted)
        raise InputError(f"{error}{'; the run reads it of every item' * missed}") from None


def _meanings(folder: Path) -> dict[str, Any]:
    """What attributes of items mean to the run in a folder, by name."""
    return dict(read_json(folder / MANIFEST).get("attributes", {}))


def _titled(items: pa.Table) -> pa.Table:
    titles = items["title"] if "title" in items.column_names else pa.nulls(items.num_rows, pa.string())
    return pa.table({"id": items["id"], "title": titles}).cast(_SCHEMA)


def added(
    folder: Path,
    catalogue: Vocabulary,
    items: pa.Table,
    source: Any = None,
    *,
    before: Additions | None,
    **options: Any,
) -> tuple[Additions, dict[str, Any]]:
    """Make vectors of the items of a table that the catalogue does not have yet, as those of the run were made.

    Args:
        folder: of the run.
        catalogue: ids of the run, those added `before` included.
        items: as `read_items` gives it.
        source: where the vectors of these items are; None = where those of the others were.
        before: what was added earlier; of these, items without a vector are tried again.
        options: other arguments of `VectorRecipe.read`.

    Returns:
        All that is added now, earlier additions first; and the report: rows read, items added, earlier ones that have
        a vector now, those already in the catalogue, those of which no vector is known (they are in the catalogue too,
        and not recommended until there is one), and by attribute how many have a value that the run has not learned.
    """
    maker = VectorMaker.open(folder)
    if maker is None:
        raise InputError(
            f"{folder} was trained without pretrained vectors, so nothing is known of an item before it has events; "
            "train with --vectors, or train again on a dataset with the new events"
        )
    before = Additions.nothing(maker.geometry.width) if before is None else before
    ids = items["id"].to_pylist()
    untold = {name: at for at, name in enumerate(before.table["id"].to_pylist()) if not before.told[at]}
    new = catalogue.index(ids) == 0
    again = np.array([name in untold for name in ids], bool)
    tried = items.filter(pa.array(new | again))
    rows, told = torch.zeros(0, maker.geometry.width), torch.zeros(0, dtype=torch.bool)
    if tried.num_rows:
        columns = maker.recipe.columns
        texts = joined_texts(tried, columns) if columns else dict.fromkeys(tried["id"].to_pylist(), "")
        rows, told = maker.rows(texts, source, **options)
    fresh = torch.from_numpy(new[new | again])
    found = attributes_like(_meanings(folder), tried)
    attributes = {name: torch.from_numpy(one.values[1:]) for name, one in found.items()}
    later = Additions(_titled(tried), rows, told, attributes)
    places = [untold[name] for name in tried["id"].filter(pa.array(~fresh.numpy())).to_pylist()]
    before = before.completed(places, later.those(~fresh))
    read = item_report(items)
    report = {
        "rows_read": read["rows_read"],
        "rows_left_out": read["rows_read"] - items.num_rows,
        "already_known": int((~new & ~again).sum()),
        "added": int(new.sum()),
        "completed": int(told[~fresh].sum()),
        "without_vector": int((~told).sum()),
        "added_in_all": int(new.sum()) + len(before),
        "by": maker.recipe.by,
        "attributes_unseen": {name: one.unseen for name, one in found.items() if one.unseen},
    }
    return before.and_(later.those(fresh)), report


def added_to_stages(
    first: Path,
    second: Path,
    catalogue: Vocabulary,
    items: pa.Table,
    source: Any = None,
    *,
    before: Additions | None,
    **options: Any,
) -> tuple[Additions, Additions, dict[str, Any]]:
    """Make vectors as `added` does, for a retriever in `first` and the ranker behind it in `second`.

    The report is that of the retriever, as only what it knows is ever recommended. A ranker without pretrained vectors
    reads all that is added as the unknown item. `before` is what the ranker had; a process that was killed may have
    written more beside the retriever.

    Raises:
        InputError: the retriever has no pretrained vectors, so it could find no new item.
    """
    if VectorMaker.open(first) is None:
        raise InputError(
            f"{second}: the retriever of this run was trained without pretrained vectors, so it could never find an "
            "item without events; train it with --vectors, or train both again on a dataset with the new events"
        )
    theirs = Additions.open(first)
    theirs = None if theirs is None else theirs.first(len(before or ()))
    found, report = added(first, catalogue, items, source, before=theirs, **options)
    if VectorMaker.open(second) is None:
        return found, found.unknown(), report
    ranked, more = added(second, catalogue, items, source, before=before, **options)
    return found, ranked, {**report, "attributes_unseen": {**report["attributes_unseen"], **more["attributes_unseen"]}}
