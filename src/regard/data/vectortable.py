"""Tables of vectors: `.npy` with an id file, `.npz`, safetensors, Parquet. Rows are joined by id."""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from regard.data.vectorfile import Rows, decodes
from regard.errors import InputError

Ids = str | Path | Sequence[str]

# what numpy raises on damaged files, whose headers it reads as Python's literals
_OF_PYTHON = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError)
DAMAGED = (*_OF_PYTHON, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

_ID_NAMES = ("ids", "keys", "id", "item_id", "item", "user_id", "user", "key", "word", "token")
_VECTOR_NAMES = ("vectors", "vector", "embeddings", "embedding")
_CHUNK = 1 << 14  # rows
_HOW = (
    "say whose they are with --vector-ids FILE (users: --user-vector-ids, Python: ids=), a text file with one id per "
    "line in the order of the rows"
)


def read_ids(source: Ids) -> list[bytes]:
    """Return the ids of a table's rows as UTF-8: from a text file, a line each, from JSON, or as given.

    Raises:
        InputError: the file cannot be read, or JSON holds anything else.
    """
    if not isinstance(source, str | Path):
        return [_encoded(key) for key in source]
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the ids in {source}: {error.strerror or error}") from None
    if content.lstrip()[:1] in (b"[", b"{"):
        try:
            return _of_json(json.loads(content), str(source))
        except ValueError:
            pass  # a line that begins like this, such as [PAD]
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix(b"\r") for line in lines]  # a blank line has a row too


def read_npy(path: Path, rows: Rows, ids: Ids | None) -> None:
    """Read wanted rows of a matrix that stays on disk."""
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {_unpickled(error)}") from None
    if ids is None:
        raise InputError(f"{path} has rows without names; {_HOW}")
    keep_matrix(matrix, read_ids(ids), rows)


def read_npz(path: Path, rows: Rows, ids: Ids | None) -> None:
    """Read an archive of a matrix and its ids, an array of texts or whole numbers named `ids` or `keys`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {_unpickled(error)}") from None
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    matrix = arrays[_chosen(path, "array of vectors", matrices, _VECTOR_NAMES)]
    if ids is None:
        name = next((name for name in _ID_NAMES if name in arrays), None)
        if name is None:
            raise InputError(f"{path} has no array of ids ({', '.join(arrays)}); add one named 'ids', or {_HOW}")
        ids = arrays[name].reshape(-1).tolist()
    keep_matrix(matrix, read_ids(ids), rows)


def read_safetensors(path: Path, rows: Rows, ids: Ids | None) -> None:
    """Read wanted rows of a tensor, in pieces; ids may lie in the metadata, as a JSON list named `ids` or `keys`."""
    try:
        with safe_open(str(path), framework="np") as file:
            names = list(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            flat = [name for name in names if len(shapes[name]) == 2]
            name = _chosen(path, "tensor of vectors", flat, _VECTOR_NAMES)
            metadata = file.metadata() or {}
            told = next((metadata[key] for key in _ID_NAMES if key in metadata), None)
            if ids is None and told is None:
                raise InputError(f"{path} has no 'ids' in its metadata; {_HOW}")
            keys = read_ids(ids) if ids is not None else _of_json(json.loads(str(told)), f"{path}, metadata")
            part = file.get_slice(name)
            _keep(keys, shapes[name], lambda start, stop: part[start:stop], rows)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}; expected float32, float16 or float64 tensors") from None


def read_parquet(path: Path, rows: Rows) -> None:
    """Read a column of ids and a column of lists of numbers, in pieces; rows without either are counted."""
    try:
        file = pq.ParquetFile(path)
        names = _columns(path, file.schema_arrow)
        missing = 0
        for batch in file.iter_batches(_CHUNK, columns=list(names)):
            missing += _keep_batch(batch.column(names[0]), batch.column(names[1]), rows)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if missing and missing == rows.read:
        raise InputError(f"{path}: none of its {missing:,} rows has both an id and a vector")
    if missing:
        rows.notes.append(f"{missing:,} rows have no id or no vector")


def keep_matrix(matrix: npt.NDArray[Any], keys: Sequence[bytes], rows: Rows) -> None:
    """Keep wanted rows of a matrix (n, width) whose row r belongs to `keys[r]`."""
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InputError(
            f"{rows.shown} holds {matrix.dtype} of shape {matrix.shape}; expected numbers of shape (rows, width)"
        )
    _keep(keys, matrix.shape, lambda start, stop: matrix[start:stop], rows)


def _keep(
    keys: Sequence[bytes], shape: Sequence[int], part: Callable[[int, int], npt.NDArray[Any]], rows: Rows
) -> None:
    if len(keys) != shape[0]:
        raise InputError(
            f"{rows.shown} has {shape[0]:,} rows, but there are {len(keys):,} ids; expected one for each row"
        )
    rows.widen(shape[1])
    for start in range(0, len(keys), _CHUNK):
        wanted = [at for at, key in enumerate(keys[start : start + _CHUNK]) if key in rows.places]
        values = part(start, min(start + _CHUNK, len(keys))) if wanted else None
        for at in wanted:
            assert values is not None
            rows.put(keys[start + at], values[at], f"row {start + at + 1:,}")
    rows.read += len(keys)
    rows.undecodable += sum(not decodes(key) for key in keys)


def _keep_batch(keys: pa.Array, lists: pa.Array, rows: Rows) -> int:
    """Keep wanted rows of a piece of a table; return how many have no id or no vector."""
    whole = np.asarray(keys.is_valid()) & np.asarray(lists.is_valid())
    if not whole.any():
        rows.read += len(whole)
        return len(whole)
    keys, lists = keys.filter(pa.array(whole)), lists.filter(pa.array(whole))
    numbers = np.flatnonzero(whole) + rows.read + 1
    lengths = np.asarray(lists.value_lengths())
    if not rows.matrix.shape[1]:
        rows.widen(int(lengths[0]))
    uneven = np.flatnonzero(lengths != rows.matrix.shape[1])
    if uneven.size:
        raise InputError(
            f"{rows.shown}, row {numbers[uneven[0]]:,}: {lengths[uneven[0]]} numbers, expected {rows.matrix.shape[1]} "
            "as in the first row"
        )
    flat = lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes nan, which is refused
    values = flat.reshape(len(lists), -1)
    for at, key in enumerate(keys.cast(pa.large_string()).to_pylist()):
        if (name := _encoded(key)) in rows.places:
            rows.put(name, values[at], f"row {numbers[at]:,}")
    rows.read += len(whole)
    return int((~whole).sum())


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    """Return the names of the id column and of the vector column."""
    lists, ids = [], []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            lists += (
                [field.name] if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type) else []
            )
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
            ids.append(field.name)
    return _chosen(path, "column of ids", ids, _ID_NAMES), _chosen(path, "column of lists", lists, _VECTOR_NAMES)


def _chosen(path: Path, what: str, names: Sequence[str], usual: Iterable[str]) -> str:
    """Return the only name, or the one that is usual among several."""
    known = [name for name in usual if name in names]
    if len(names) != 1 and not known:
        came = f"one of {', '.join(names)}" if names else "none"
        raise InputError(f"{path}: expected one {what}, came {came}; name it {next(iter(usual))!r}")
    return known[0] if known else names[0]


def _of_json(body: Any, shown: str) -> list[bytes]:
    """Return the ids of a JSON list, or of an object that gives each id its row."""
    if isinstance(body, dict):
        if sorted(body.values(), key=str) != sorted(range(len(body)), key=str):
            raise InputError(f"{shown}: expected rows 0 to {len(body) - 1}, each once, for the ids")
        body = sorted(body, key=body.__getitem__)
    if not isinstance(body, list):
        raise InputError(f"{shown}: expected a JSON list of ids, or an object of ids and their rows")
    return [_encoded(key) for key in body]


def _encoded(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")


def _unpickled(error: Exception) -> str:
    """Say in our words that an array holds Python objects, which only a pickle can bring."""
    if "allow_pickle" in str(error) or "Object arrays" in str(error):
        return "it holds Python objects, which can run code; save numbers, and ids as numpy.array(ids, dtype=str)"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
