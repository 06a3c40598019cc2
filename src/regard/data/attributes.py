"""Item attributes as codes: what the item table says of an item, ready to be embedded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from regard.data.store import Dataset
from regard.errors import SettingsError, nearest


def attribute_codes(dataset: Dataset, names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return codes (n_items + 1,) for each column of the item table: values count from 1, 0 = not given.

    Raises:
        SettingsError: the dataset has no item table, or the table has no such column.
    """
    table = dataset.item_table
    known = [] if table is None else [name for name in table.column_names if name != "id"]
    for name in names:
        if name not in known:
            listed = f"known: {', '.join(known)}" if known else "this dataset has no item table"
            raise SettingsError(
                f"model.attributes: there is no item attribute {name!r}{nearest(name, known)}; {listed}"
            )
    return {name: _codes(table[name]) for name in names if table is not None}


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    encoded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], indices + 1]).astype(np.int64)
