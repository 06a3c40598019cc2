"""What only gensim reads (the optional extra `gensim`): its pickles, its downloads, and native fastText models.

It reads them with little doubt: of damaged files it raises whatever comes, or reads on for ever. So a fastText model is
walked through before gensim sees it, and all that gensim raises becomes one line.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from regard.data.vectorkind import FASTTEXT
from regard.errors import InputError

GENSIM = "gensim:"

_INSTEAD = "download a file of vectors elsewhere and give its path"
_UNKNOWN = "Incorrect model/corpus name"  # what gensim's downloader says of a name that its list has not


def native_fasttext(path: Path) -> Any:
    """Return the word vectors of a native fastText model; raises `InputError`."""
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
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            wrong = _damage(whole)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if wrong:
        raise InputError(f"{path} cannot be read as a fastText model: {wrong}; give the .vec file of the same vectors")
    try:
        return load_facebook_vectors(str(path))
    except Exception as error:  # noqa: BLE001 - of a damaged file gensim raises anything
        raise InputError(f"gensim cannot read {path} as a fastText model: {_said(error)}") from None


def saved_by_gensim(path: Path, trust: bool) -> Any:
    """Return the word vectors that gensim has pickled, only where the file is trusted; raises `InputError`."""
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
    except Exception as error:  # noqa: BLE001 - a pickle raises anything
        raise InputError(
            f"gensim cannot load {path}: {_said(error)}; expected KeyedVectors as it saves them, with the files beside"
        ) from None
    found = getattr(loaded, "wv", loaded)
    if not hasattr(found, "index_to_key"):
        raise InputError(f"{path} holds {type(found).__name__}; expected gensim's KeyedVectors or a model with them")
    return found


def downloaded(source: str, trust: bool) -> Any:
    """Return the word vectors that gensim's downloader knows by a name, only if trusted; raises `InputError`."""
    name = source.removeprefix(GENSIM)
    if not trust:
        raise InputError(
            f"{source} would fetch code and run it; if you trust gensim's downloader, say --trust, or {_INSTEAD}"
        )
    try:
        import gensim.downloader  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise InputError(f"{source} needs gensim: pip install 'regard[gensim]', or {_INSTEAD}") from None
    try:
        loaded = gensim.downloader.load(name)
    except Exception as error:  # noqa: BLE001 - what was fetched is code, and raises anything
        if _UNKNOWN in str(error):
            raise InputError(f"gensim's downloader does not know {name!r}: {_said(error)}; or {_INSTEAD}") from None
        raise InputError(
            f"gensim could not fetch {name!r} ({_said(error)}); where there is no network, {_INSTEAD}"
        ) from None
    if not hasattr(loaded, "index_to_key"):
        raise InputError(f"{source} is not a set of word vectors but {type(loaded).__name__}")
    return loaded


def _damage(whole: mmap.mmap) -> str | None:
    """Return what is wrong with the bytes of a fastText model as far as its vectors reach, None where nothing is.

    Settings; numbers of entries, words, labels and tokens; each entry a word, a zero byte, a count and a kind; pruned
    buckets; rows and width; float32 values. Models from before version 12 have neither magic number nor buckets nor the
    byte that says whether values are quantised.
    """
    new = whole[:4] == FASTTEXT
    try:
        width = struct.unpack_from("<i", whole, 8 if new else 0)[0]
        at = 64 if new else 56
        entries, _, labels, _ = struct.unpack_from("<3iq", whole, at)
        pruned = max(struct.unpack_from("<q", whole, at + 20)[0], 0) if new else 0
        if labels > 0:
            return "it is a supervised one, whose labels gensim does not read"
        at += 28 if new else 20
        for entry in range(entries):
            end = whole.find(b"\0", at)
            if end < 0 or end + 10 > len(whole):
                return f"word {entry + 1:,} of {entries:,} never ends, so it is cut off or damaged"
            at = end + 10
        at += 8 * pruned
        if new and whole[at : at + 1] != b"\0":
            return "its values are quantised" if whole[at : at + 1] == b"\1" else "it ends after its words"
        rows, values = struct.unpack_from("<2q", whole, at + new)
    except (struct.error, OverflowError):
        return "its header is cut off or damaged"
    at += new + 16
    if values != width or not 0 < rows <= (len(whole) - at) // (4 * max(values, 1)):
        return f"it has no {rows:,} vectors of {values:,} values, as it says, so it is cut off or damaged"
    return None


def _said(error: Exception) -> str:
    """Return the first line of what an exception says, or else its name."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, OSError | ValueError) and first else f"{type(error).__name__} {first}".strip()
