"""Pretrained vectors, aligned to the ids or words that are wanted: one matrix, what is known of it, and a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.data import gensimfile, vectortable
from regard.data.vectorfile import Rows, VectorReport, read_stream
from regard.data.vectorkind import kind_of
from regard.data.vectortable import Ids
from regard.errors import InputError

_TABLES = ("npy", "npz", "safetensors")


@dataclass(frozen=True)
class Vectors:
    """One vector for each of n keys, in their order.

    keys: ids or words. matrix: float32 (n, width), finite; rows that are not known are 0. known: bool (n,).
    """

    keys: tuple[str, ...]
    matrix: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    report: VectorReport

    @property
    def width(self) -> int:
        """Number of values of a vector."""
        return int(self.matrix.shape[1])

    def first(self, many: int) -> Vectors:
        """Return the vectors of the first keys, without a copy."""
        known = self.known[:many]
        told = replace(self.report, wanted=many, found=int(known.sum()))
        return Vectors(self.keys[:many], self.matrix[:many], known, told)

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the mean of the known rows, float64 (width,); zeros where nothing is known."""
        known = self.matrix[self.known]
        return known.mean(0, dtype=np.float64) if len(known) else np.zeros(self.width)

    def filled(self, mean: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float32]:
        """Return the matrix with `mean`, or the mean of the known rows, in place of rows that are not known."""
        rows = self.matrix.copy()
        rows[~self.known] = self.mean() if mean is None else mean
        return rows


def read_vectors(source: Any, wanted: Iterable[str], *, ids: Ids | None = None, trust: bool = False) -> Vectors:
    """Read the vectors of `wanted` keys, whatever else the source holds.

    Args:
        source: a file (GloVe or word2vec text, fastText `.vec`, word2vec binary, `.npy`, `.npz`, safetensors, Parquet;
            found by content), a mapping of keys to vectors, or an object like gensim's `KeyedVectors`. With gensim
            (`pip install 'regard[gensim]'`) also a native fastText model, and with `trust` what gensim has saved and
            `gensim:NAME`, which its downloader fetches.
        wanted: ids or words; compared as they are written, letter case included.
        ids: whose rows they are, for `.npy`, `.npz` and safetensors: a text file with a line for each row, a
            JSON file, or the ids themselves.
        trust: allow formats that can run code while they are read.

    Raises:
        InputError: the source is none of these, or is damaged: cut off, rows of different widths, nan or inf.
    """
    if isinstance(source, str) and not source.strip():
        raise InputError("expected vectors: a file, text:MODEL or gensim:NAME; came an empty name")
    keys = [wanted] if isinstance(wanted, str) else [str(key) for key in wanted]
    where = getattr(source, "wv", source)  # a trained gensim model keeps its vectors there
    if hasattr(where, "index_to_key"):
        rows, form = Rows(keys, type(where).__name__), "gensim KeyedVectors"
        _keep_keyed(where, rows)
    elif isinstance(source, Mapping):
        rows, form = Rows(keys, "the mapping"), "mapping"
        vectortable.keep_matrix(*_of_mapping(source), rows)
    elif isinstance(source, str) and source.startswith(gensimfile.GENSIM):
        rows, form = Rows(keys, source), "gensim KeyedVectors"
        _keep_keyed(gensimfile.downloaded(source, trust), rows)
    elif isinstance(source, str | Path):
        rows = Rows(keys, str(source))
        form = _read_file(Path(source), rows, ids, trust)
    else:
        raise InputError(
            f"vectors cannot be read from {type(source).__name__}; expected a file, a mapping or KeyedVectors"
        )
    if not rows.read:
        raise InputError(f"{rows.shown} ({form}) holds no vectors")
    return _aligned(keys, rows, form)


def _aligned(keys: Sequence[str], rows: Rows, form: str) -> Vectors:
    """Bring rows of distinct keys into the order of the keys; a key wanted twice has its row twice."""
    matrix, known = rows.matrix, rows.known
    if len(keys) != len(rows.places):
        places = [rows.places[key.encode("utf-8", "surrogatepass")] for key in keys]
        matrix, known = matrix[places], known[places]
    return Vectors(tuple(keys), matrix, known, rows.report(form))


def _read_file(path: Path, rows: Rows, ids: Ids | None, trust: bool) -> str:
    """Read a file by what it is; return the name of the format."""
    if not path.is_file():
        came = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"expected a file of vectors at {path}, but it {came}")
    kind = kind_of(path)
    if ids is not None and kind.name not in _TABLES:
        raise InputError(f"{path} ({kind.name}) names its vectors itself; leave out --vector-ids (ids=)")
    if kind.name == "npy":
        vectortable.read_npy(path, rows, ids)
    elif kind.name == "npz":
        vectortable.read_npz(path, rows, ids)
    elif kind.name == "safetensors":
        vectortable.read_safetensors(path, rows, ids)
    elif kind.name == "parquet":
        vectortable.read_parquet(path, rows)
    elif kind.name == "fasttext":
        _keep_keyed(gensimfile.native_fasttext(path), rows)
        rows.notes.append("unknown words are not put together from its n-grams")
    elif kind.name == "pickle":
        _keep_keyed(gensimfile.saved_by_gensim(path, trust), rows)
    else:
        read_stream(path, kind, rows)
    return kind.name


def _of_mapping(source: Mapping[Any, Any]) -> tuple[npt.NDArray[Any], list[bytes]]:
    try:
        matrix = np.array([np.asarray(_detached(vector), np.float64) for vector in source.values()])
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a mapping of keys to vectors of one width: {reason}") from None
    return matrix, vectortable.read_ids([str(key) for key in source])


def _detached(vector: Any) -> Any:
    """Return a tensor as NumPy can read it, without its gradient and on the CPU; anything else as it is."""
    return vector.detach().cpu() if hasattr(vector, "detach") else vector


def _keep_keyed(source: Any, rows: Rows) -> None:
    """Keep the wanted rows of an object like gensim's `KeyedVectors`: `index_to_key` and `vectors` in one order."""
    vectortable.keep_matrix(np.asarray(source.vectors), vectortable.read_ids(list(source.index_to_key)), rows)
