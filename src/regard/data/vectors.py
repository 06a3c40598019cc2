"""Pretrained vectors, aligned to the ids or words that are wanted: one matrix, what is known of it, and a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.data import vectortable
from regard.data.vectorfile import Rows, VectorReport, read_stream
from regard.data.vectorkind import kind_of
from regard.data.vectortable import Ids
from regard.errors import InputError

_GENSIM = "gensim:"
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
    keys = [wanted] if isinstance(wanted, str) else [str(key) for key in wanted]
    where = getattr(source, "wv", source)  # a trained gensim model keeps its vectors there
    if hasattr(where, "index_to_key"):
        rows, form = Rows(keys, type(where).__name__), "gensim KeyedVectors"
        _keep_keyed(where, rows)
    elif isinstance(source, Mapping):
        rows, form = Rows(keys, "the mapping"), "mapping"
        vectortable.keep_matrix(*_of_mapping(source), rows)
    elif isinstance(source, str) and source.startswith(_GENSIM):
        rows, form = Rows(keys, source), "gensim KeyedVectors"
        _keep_keyed(_downloaded(source, trust), rows)
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
        raise InputError(f"{path} ({kind.name}) names its vectors itself; leave out ids")
    if kind.name == "npy":
        vectortable.read_npy(path, rows, ids)
    elif kind.name == "npz":
        vectortable.read_npz(path, rows, ids)
    elif kind.name == "safetensors":
        vectortable.read_safetensors(path, rows, ids)
    elif kind.name == "parquet":
        vectortable.read_parquet(path, rows)
    elif kind.name == "fasttext":
        _keep_keyed(_native_fasttext(path), rows)
        rows.notes.append("unknown words are not put together from its n-grams")
    elif kind.name == "pickle":
        _keep_keyed(_saved_by_gensim(path, trust), rows)
    else:
        read_stream(path, kind, rows)
    return kind.name


def _of_mapping(source: Mapping[Any, Any]) -> tuple[npt.NDArray[Any], list[bytes]]:
    try:
        matrix = np.array([np.asarray(vector, np.float64) for vector in source.values()])
    except (ValueError, TypeError) as error:
        raise InputError(f"expected a mapping of keys to vectors of one width: {error}") from None
    return matrix, vectortable.read_ids([str(key) for key in source])


def _keep_keyed(source: Any, rows: Rows) -> None:
    """Keep the wanted rows of an object like gensim's `KeyedVectors`: `index_to_key` and `vectors` in one order."""
    vectortable.keep_matrix(np.asarray(source.vectors), vectortable.read_ids(list(source.index_to_key)), rows)


def _native_fasttext(path: Path) -> Any:
    try:
        from gensim.models.fasttext import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            load_facebook_vectors,
        )
    except ImportError:
        raise InputError(
            f"{path} is a native fastText model, which needs gensim: pip install 'regard[gensim]', or give the .vec "
            "file of the same vectors"
        ) from None
    try:
        return load_facebook_vectors(str(path))
    except (OSError, ValueError, AssertionError, NotImplementedError) as error:
        raise InputError(f"gensim cannot read {path} as a fastText model: {error}") from None


def _saved_by_gensim(path: Path, trust: bool) -> Any:
    if not trust:
        raise InputError(
            f"{path} is a pickle, as gensim saves it, which can run code when read; if you trust it, say --trust "
            "(trust=True), else save it with save_word2vec_format(FILE, binary=True) and give that"
        )
    try:
        from gensim.models import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            KeyedVectors,
        )
    except ImportError:
        raise InputError(f"{path} was saved by gensim and needs it: pip install 'regard[gensim]'") from None
    try:
        loaded = KeyedVectors.load(str(path))
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise InputError(f"gensim cannot load {path}: {error}") from None
    found = getattr(loaded, "wv", loaded)
    if not hasattr(found, "index_to_key"):
        raise InputError(f"{path} holds {type(found).__name__}; expected gensim's KeyedVectors or a model with them")
    return found


def _downloaded(source: str, trust: bool) -> Any:
    name = source.removeprefix(_GENSIM)
    instead = "download a file of vectors elsewhere and give its path"
    if not trust:
        raise InputError(
            f"{source} would fetch code and run it; if you trust gensim's downloader, say --trust, or {instead}"
        )
    try:
        import gensim.downloader  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise InputError(f"{source} needs gensim: pip install 'regard[gensim]', or {instead}") from None
    try:
        loaded = gensim.downloader.load(name)
    except OSError as error:  # no network, no such host
        raise InputError(f"gensim could not fetch {name!r} ({error}); where there is no network, {instead}") from None
    except ValueError as error:
        raise InputError(f"gensim's downloader does not know {name!r}: {error}") from None
    if not hasattr(loaded, "index_to_key"):
        raise InputError(f"{source} is not a set of word vectors but {type(loaded).__name__}")
    return loaded
