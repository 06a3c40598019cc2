"""Attributes as numbers: what a table says of each item, or of each user, by the type of its columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from regard.data.store import Dataset
from regard.data.vocabulary import Vocabulary
from regard.errors import InputError, SettingsError, nearest

Kind = Literal["category", "number", "vector"]
Among = npt.NDArray[np.bool_]
"""Of (V + 1,), those whose values decide what there is to learn."""


@dataclass(frozen=True)
class Attribute:
    """One column of the table of V items (or users), row 0 = the unknown one, of which nothing is given.

    kind: `category` has int64 codes (V + 1,), values count from 1 in the order of the vocabulary and 0 = not given;
        `number` and `vector` have float32 (V + 1, size), a row of NaN = not given.
    size: how many values a category has; 1; the length of the vectors.
    names: the values of a category in the order of their codes. centre, spread: a number was (value - centre) / spread
        of those below, and so were the numbers of a vector. unseen: how many have a value that is read as not given,
        as none of those who decide has it.
    """

    kind: Kind
    size: int
    values: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    names: tuple[str, ...] = ()
    centre: float = 0.0
    spread: float = 1.0
    unseen: int = 0

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
    _check_names("model.attributes", "item", names, dataset.item_table, "this dataset has no item table")
    return _attributes("model.attributes: item", names, dataset.item_table, dataset.items, None)


def user_attributes(dataset: Dataset, names: Sequence[str], among: Among) -> dict[str, Attribute]:
    """Return the named columns of the user table, each user found by id; types as in `item_attributes`.

    Only users `among` (n_users + 1,), those with training events, decide: theirs are mean, spread and length, and a
    value that none of them has is one that nothing can be learned of, so it is read as not given, and counted.

    Raises:
        SettingsError: there is no user table or no such column, or it holds what cannot be read as any of these.
    """
    absent = "this dataset has no user table (regard prepare --users)"
    _check_names("model.user_attributes", "user", names, dataset.user_table, absent)
    return _attributes("model.user_attributes: user", names, dataset.user_table, dataset.users, among)


def attributes_like(meanings: Mapping[str, Any], rows: pa.Table) -> dict[str, Attribute]:
    """What the n rows of a table say in terms that were learned before: `meanings` by name, as `Attribute.meaning`.

    Rows keep their order, from 1 on. A category that is not among those learned is read as not given, and counted.

    Raises:
        InputError: a column holds what cannot be read as the attribute was.
    """
    found = {}
    for name, one in meanings.items():
        shown = f"item attribute {name!r}"
        if name not in rows.column_names:
            flag = f" (--{name})" if name in ("title", "text") else ""
            raise InputError(f"{shown}: the run reads it of every item; say which column of the table it is{flag}")
        found[name] = _like(shown, one, rows[name].combine_chunks())
    return found


def _like(shown: str, meaning: Mapping[str, Any], column: pa.Array) -> Attribute:
    if meaning["kind"] == "category":
        if pa.types.is_nested(column.type):
            raise InputError(f"{shown}: expected text or numbers, as the run has learned it; got {column.type}")
        names, given = Vocabulary.of(meaning["values"]), column.is_valid().to_numpy(zero_copy_only=False)
        codes = np.zeros(len(column) + 1, np.int64)
        codes[1:][given] = names.index(_plain(column).drop_null().cast(pa.large_string()))
        unseen = int((codes[1:][given] == 0).sum())
        return Attribute("category", len(names), codes, tuple(meaning["values"]), unseen=unseen)
    kind, size, centre, spread = (meaning[key] for key in ("kind", "size", "centre", "spread"))
    values = np.full((len(column) + 1, size), np.nan)
    for row, given in enumerate(_plain(column).to_pylist(), start=1):
        if given is None or (found := _figures(given)).shape == (0,):
            continue
        if found.shape != (size,):
            what = "a number" if kind == "number" else f"a list of {size} numbers"
            raise InputError(f"{shown}: expected {what}, as the run has learned it; row {row} has {given!r}")
        if np.isfinite(found).all():
            values[row] = (found - centre) / spread
    return Attribute(kind, size, values.astype(np.float32), centre=centre, spread=spread)


def _figures(value: Any) -> npt.NDArray[np.float64]:
    """The numbers of a value: one, a list, or a list as JSON writes it; what is none of them has two dimensions."""
    try:
        listed = json.loads(value) if isinstance(value, str) and value.strip().startswith("[") else value
        return np.atleast_1d(np.asarray(listed, np.float64))
    except (TypeError, ValueError):
        return np.zeros((0, 0))


def _plain(column: pa.Array) -> pa.Array:
    """A column of values, not of codes of them."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _check_names(setting: str, whose: str, names: Sequence[str], table: pa.Table | None, absent: str) -> None:
    known = [] if table is None else [name for name in table.column_names if name != "id"]
    for name in names:
        if name not in known:
            listed = f"known: {', '.join(known)}" if known else absent
            raise SettingsError(f"{setting}: there is no {whose} attribute {name!r}{nearest(name, known)}; {listed}")


def _attributes(
    shown: str, names: Sequence[str], table: pa.Table | None, vocabulary: Vocabulary, among: Among | None
) -> dict[str, Attribute]:
    if table is None or not names:
        return {}
    rows = np.full(len(vocabulary) + 1, -1, np.int64)
    rows[vocabulary.index(table["id"].combine_chunks())] = np.arange(table.num_rows)
    places = pa.array(rows[1:], mask=rows[1:] < 0)
    deciding = np.ones(len(vocabulary), np.bool_) if among is None else among[1:]
    columns = {name: table[name].combine_chunks().take(places) for name in names}
    return {name: _attribute(f"{shown} attribute {name!r}", column, deciding) for name, column in columns.items()}


def _attribute(shown: str, column: pa.Array, among: Among) -> Attribute:
    """Read a column that lies in the order of the vocabulary; `among` (V,) decide."""
    column = _plain(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _typed(column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return _numbers(column, among)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _vectors(shown, column, among)
    if pa.types.is_nested(column.type):
        raise SettingsError(f"{shown} holds {column.type} values; expected text, numbers, or lists of numbers")
    return _categories(column, among)


def _categories(column: pa.Array, among: Among) -> Attribute:
    encoded = column.cast(pa.large_string()).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    names = encoded.dictionary.to_pylist()
    met = np.zeros(len(names) + 1, np.bool_)
    met[codes[among]] = True
    met[0] = False
    renumbered = np.where(met, np.cumsum(met), 0)
    unseen = int(((codes > 0) & ~met[codes]).sum())
    kept = tuple(name for name, here in zip(names, met[1:], strict=True) if here)
    return Attribute("category", len(kept), np.concatenate([[0], renumbered[codes]]), kept, unseen=unseen)


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


def _numbers(column: pa.Array, among: Among) -> Attribute:
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)  # null becomes NaN
    values[~np.isfinite(values)] = np.nan
    given = values[among & ~np.isnan(values)]
    centre, spread, unseen = 0.0, 1.0, 0
    if len(given):
        centre, spread = float(given.mean()), float(given.std())
        if spread <= 1e-12 * np.abs(given).max():  # equal but for rounding
            spread = 1.0
    else:
        unseen, values = int((~np.isnan(values)).sum()), np.full_like(values, np.nan)
    values = np.concatenate([[np.nan], (values - centre) / spread]).astype(np.float32)[:, None]
    return Attribute("number", 1, values, centre=centre, spread=spread, unseen=unseen)


def _vectors(shown: str, column: pa.Array, among: Among) -> Attribute:
    """Empty lists and those with a value that is null or not finite are not given; all others must be equally long."""
    if not _is_number(column.type.value_type):
        raise SettingsError(f"{shown} holds lists of {column.type.value_type}; expected numbers")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    sizes = np.unique(lengths[lengths > 0])
    if len(sizes) > 1:
        raise SettingsError(f"{shown} holds lists of {sizes[0]} to {sizes[-1]} numbers; expected vectors of one length")
    size = int(sizes.max(initial=0))
    values = np.full((len(column) + 1, size), np.nan, np.float64)
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    values[np.flatnonzero(lengths) + 1] = flat.reshape(-1, size) if size else flat[:, None]
    whole = np.isfinite(values).all(1)
    deciding = whole & np.concatenate([[False], among])
    unseen = 0 if deciding.any() else int(whole.sum())
    values[~whole if deciding.any() else slice(None)] = np.nan
    power = float(np.sqrt(np.mean(values[deciding] ** 2))) if size and deciding.any() else 0.0
    return Attribute("vector", size, (values / (power or 1.0)).astype(np.float32), spread=power or 1.0, unseen=unseen)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))
