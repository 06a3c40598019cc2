"""Item attributes as numbers: what the item table says of each item, by the type of its columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from regard.data.store import Dataset
from regard.errors import SettingsError, nearest

Kind = Literal["category", "number", "vector"]


@dataclass(frozen=True)
class Attribute:
    """One column of the item table for V items, row 0 = the unknown item, of which nothing is given.

    kind: `category` has int64 codes (V + 1,), values count from 1 in the order of the catalogue and 0 = not given;
        `number` and `vector` have float32 (V + 1, size), a row of NaN = not given.
    size: how many values a category has; 1; the length of the vectors.
    names: the values of a category in the order of their codes. centre, spread: a number was (value - centre) / spread
        of those below, and so were the numbers of a vector.
    """

    kind: Kind
    size: int
    values: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    names: tuple[str, ...] = ()
    centre: float = 0.0
    spread: float = 1.0

    def meaning(self) -> dict[str, Any]:
        """What codes and numbers stand for, fit for JSON."""
        if self.kind == "category":
            return {"kind": self.kind, "values": list(self.names)}
        return {"kind": self.kind, "size": self.size, "centre": self.centre, "spread": self.spread}


def item_attributes(dataset: Dataset, names: Sequence[str]) -> dict[str, Attribute]:
    """Return the named columns of the item table, each item found by its id.

    Floats are numbers: centred on the mean of the catalogue and divided by its standard deviation. Lists of numbers,
    all equally long, are vectors: divided by the root mean square of all their values, which keeps angles and
    proportions. All else is a category. A text file has no types: there, what reads as a number for every item and has
    a decimal point somewhere is a float, and lists as JSON writes them are lists.

    Raises:
        SettingsError: there is no item table or no such column, or it holds what cannot be read as any of these.
    """
    table = dataset.item_table
    known = [] if table is None else [name for name in table.column_names if name != "id"]
    for name in names:
        if name not in known:
            listed = f"known: {', '.join(known)}" if known else "this dataset has no item table"
            raise SettingsError(
                f"model.attributes: there is no item attribute {name!r}{nearest(name, known)}; {listed}"
            )
    if table is None or not names:
        return {}
    rows = np.full(dataset.n_items + 1, -1, np.int64)
    rows[dataset.items.index(table["id"].combine_chunks())] = np.arange(table.num_rows)
    places = pa.array(rows[1:], mask=rows[1:] < 0)
    return {name: _attribute(name, table[name].combine_chunks().take(places)) for name in names}


def _attribute(name: str, column: pa.Array) -> Attribute:
    """Read a column that lies in the order of the catalogue."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _typed(column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return _numbers(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _vectors(name, column)
    if pa.types.is_nested(column.type):
        raise SettingsError(
            f"model.attributes: item attribute {name!r} holds {column.type} values; expected text, numbers, or lists "
            "of numbers"
        )
    encoded = column.cast(pa.large_string()).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
    names = tuple(encoded.dictionary.to_pylist())
    return Attribute("category", len(names), np.concatenate([[0], codes]).astype(np.int64), names)


def _typed(texts: pa.Array) -> pa.Array:
    """Give texts the type that all of them could be read as: lists or floats, else they stay texts."""
    given = texts.drop_null()
    try:
        if len(given) and all(text.startswith("[") for text in given[:100].to_pylist()):
            lists = pa.array([None if text is None else json.loads(text) for text in texts.to_pylist()])
            return lists if _is_number(lists.type.value_type) else texts
        if pc.any(pc.match_substring(given, ".")).as_py():
            return pc.utf8_trim_whitespace(texts).cast(pa.float64())
    except (ValueError, pa.ArrowException):
        pass
    return texts


def _numbers(column: pa.Array) -> Attribute:
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)  # null becomes NaN
    values[~np.isfinite(values)] = np.nan
    given = values[~np.isnan(values)]
    centre, spread = 0.0, 1.0
    if len(given):
        centre, spread = float(given.mean()), float(given.std())
        if spread <= 1e-12 * np.abs(given).max():  # equal but for rounding
            spread = 1.0
    values = np.concatenate([[np.nan], (values - centre) / spread]).astype(np.float32)[:, None]
    return Attribute("number", 1, values, centre=centre, spread=spread)


def _vectors(name: str, column: pa.Array) -> Attribute:
    """Empty lists and those with a value that is null or not finite are not given; all others must be equally long."""
    if not _is_number(column.type.value_type):
        raise SettingsError(
            f"model.attributes: item attribute {name!r} holds lists of {column.type.value_type}; expected numbers"
        )
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    sizes = np.unique(lengths[lengths > 0])
    if len(sizes) > 1:
        raise SettingsError(
            f"model.attributes: item attribute {name!r} holds lists of {sizes[0]} to {sizes[-1]} numbers; expected "
            "vectors of one length"
        )
    size = int(sizes.max(initial=0))
    values = np.full((len(column) + 1, size), np.nan, np.float64)
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    values[np.flatnonzero(lengths) + 1] = flat.reshape(-1, size) if size else flat[:, None]
    whole = np.isfinite(values).all(1)
    values[~whole] = np.nan
    power = float(np.sqrt(np.mean(values[whole] ** 2))) if size and whole.any() else 0.0
    return Attribute("vector", size, (values / (power or 1.0)).astype(np.float32), spread=power or 1.0)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))
