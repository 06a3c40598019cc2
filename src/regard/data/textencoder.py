"""Texts become vectors by a sentence encoder, which the optional extra `text` brings; what was encoded is kept.

The cache has a row for each pair of model and text, found by a hash of both, so nothing is encoded twice and a killed
run goes on where it was. Without anything new to encode, the extra is not needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.data.vectorfile import VectorReport
from regard.data.vectors import Vectors
from regard.data.vectortable import DAMAGED
from regard.errors import InputError, StorageError
from regard.manifest import new_file

_PIECE = 4096  # texts that are encoded between two writes of the cache
_HASH = 16  # bytes
_SAYS = ("modules.json", "config.json")  # what says how a model is built, its own file or that of transformers

Row = npt.NDArray[np.float32]


def encode(
    texts: Sequence[str],
    model: str,
    *,
    folder: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
) -> npt.NDArray[np.float32]:
    """Return a vector for each text, float32 (len(texts), width), as the model gives them, not normalised.

    Args:
        texts: each is encoded once, however often it occurs; at least one. What is longer than the model reads, it
            cuts off itself.
        model: any sentence-transformers model, by the path of its folder or by name.
        folder: the cache, None = `regard/text` in the user's cache folder. A model in a folder is known by the content
            of its files, one with a name by that name.
        batch_size: texts at once.
        device: where torch runs, None = where sentence-transformers would.

    Raises:
        InputError: no texts, the extra is missing, there is no such model, or it gives no finite vectors.
        StorageError: the cache is damaged or cannot be written.
    """
    if not model.strip():
        raise InputError("text: expected the folder or the name of a sentence-transformers model, came an empty name")
    if not len(texts):
        raise InputError("expected texts to encode, came none")
    name = _identity(model)
    keys = [_key(name, text) for text in texts]
    place = Path(folder) if folder else default_folder()
    place /= hashlib.blake2b(name.encode(), digest_size=_HASH).hexdigest()
    known = _cached(place, set(keys))
    fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if fresh:
        encoder = _encoder(model, device)
        for part in _parts(list(fresh)):
            told = encoder.encode([fresh[key] for key in part], batch_size=batch_size, show_progress_bar=False)
            rows = np.asarray(told, np.float32)
            if rows.ndim != 2 or len(rows) != len(part) or not np.isfinite(rows).all():
                raise InputError(f"{model} gave {rows.shape} for {len(part)} texts; expected a finite vector for each")
            _keep(place, part, rows)
            known |= zip(part, rows, strict=True)
    return np.stack([known[key] for key in keys])


def text_vectors(texts: Mapping[str, str], model: str, **options: Any) -> Vectors:
    """Encode the text of each item; items without any have the mean of the others, and are not `known`.

    Args:
        texts: by item id, which become the keys, in this order.
        model: as `encode` takes it.
        options: other arguments of `encode`.

    Raises:
        InputError: no item has a text, or as `encode` raises.
    """
    known = np.array([bool(text.strip()) for text in texts.values()], bool)
    if not known.any():
        raise InputError(f"none of {len(texts):,} items has a text to encode; name the columns that hold it")
    rows = encode([text for text in texts.values() if text.strip()], model, **options)
    matrix = np.zeros((len(texts), rows.shape[1]), np.float32)
    matrix[known] = rows
    told = VectorReport(f"text:{model}", "sentence encoder", rows.shape[1], len(rows), 0, 0, len(texts), len(rows))
    vectors = Vectors(tuple(texts), matrix, known, told)
    return Vectors(vectors.keys, vectors.filled(), known, told)


def default_folder() -> Path:
    """Return where encoded texts are kept, by `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard" / "text"


def _identity(model: str) -> str:
    """Return what tells a model from others: its name, or a hash of the files of its folder."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    if not any((folder / name).is_file() for name in _SAYS):
        raise InputError(f"{model} is no folder of a sentence-transformers model; expected {' or '.join(_SAYS)} in it")
    digest = hashlib.blake2b(digest_size=_HASH)
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
            digest.update(str(file.relative_to(folder)).encode("utf-8", "surrogateescape") + b"\0" + content)
    except OSError as error:
        raise InputError(f"cannot read the model in {model}: {error.strerror or error}") from None
    return f"content:{digest.hexdigest()}"


def _key(name: str, text: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{text}".encode("utf-8", "surrogatepass"), digest_size=_HASH).digest()


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    yield from (keys[start : start + _PIECE] for start in range(0, len(keys), _PIECE))


def _cached(place: Path, wanted: set[bytes]) -> dict[bytes, Row]:
    """Return the wanted rows of all files of the cache."""
    found: dict[bytes, Row] = {}
    for file in sorted(place.glob("*.npz")):
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                keys, rows = archive["keys"], archive["rows"]
        except DAMAGED as error:
            raise StorageError(
                f"{file} of the cache cannot be read ({error}); remove it, its texts are encoded again"
            ) from None
        found |= {key: row for one, row in zip(keys, rows, strict=True) if (key := one.tobytes()) in wanted}
    return found


def _keep(place: Path, keys: Sequence[bytes], rows: Row) -> None:
    """Write a file of the cache, whole or not at all; its name is that of its content."""
    name = hashlib.blake2b(b"".join(keys), digest_size=_HASH).hexdigest()
    with new_file(place / f"{name}.npz") as aside, aside.open("wb") as out:
        np.savez(out, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _HASH), rows=rows)


def _encoder(model: str, device: str | None) -> Any:
    try:
        from sentence_transformers import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            SentenceTransformer,
        )
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"text:{model} needs sentence-transformers: pip install 'regard[text]' ({reason})") from None
    try:
        return SentenceTransformer(model, device=device)
    except Exception as error:  # noqa: BLE001 - of a folder that is no model it raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot load the sentence encoder {model!r} ({reason}); expected the folder of a sentence-transformers "
            "model, or a name where there is a network"
        ) from None
