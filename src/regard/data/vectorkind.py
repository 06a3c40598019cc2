"""What a file of vectors is, found in its first bytes and never in its name."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from regard.errors import InputError

Format = Literal[
    "glove", "word2vec text", "word2vec binary", "npy", "npz", "safetensors", "parquet", "fasttext", "pickle"
]
EXPECTED = "GloVe or word2vec text, word2vec binary, .npy, .npz, safetensors or Parquet"
WIDEST = 1 << 16
FASTTEXT = struct.pack("<i", 793712314)  # fasttext.cc, `FASTTEXT_FILEFORMAT_MAGIC_INT32`

_BLOCK = 1 << 22
_HEAD = 1 << 20
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_TORCH = (
    "a file of torch.save, a pickle that is never read here; save its tensor as safetensors, or as .npy with its ids"
)
_FOREIGN = {
    b"\x89HDF": "an HDF5 file",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": _TORCH,  # before torch 1.6
}
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*(\d+)[ \t]+(\d+)[ \t\r]*")
_OF_NUMBERS = b"0123456789+-.eE \t\r\n"


@dataclass(frozen=True)
class Kind:
    """What a file is; `entries` and `width` by its first line, or else `width` as most of the first rows have it."""

    name: Format
    packing: str = "none"
    entries: int | None = None
    width: int = 0


def kind_of(path: Path) -> Kind:
    """Find out from the bytes of a file, whatever its name, how it holds vectors; raises `InputError`."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        packing = next((name for magic, name in _PACKED.items() if head.startswith(magic)), "none")
        if packing != "none":
            head = next(blocks(path, packing, _HEAD), b"")
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not head.strip():
        raise InputError(f"{path} is empty; expected {EXPECTED}")
    name = _by_magic(path, head)
    if name and packing != "none":
        raise InputError(f"{path} is a {name} file packed by {packing}; unpack it first")
    return Kind(name) if name else _of_text(path, head, packing)


def _by_magic(path: Path, head: bytes) -> Format | None:
    foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if foreign:
        raise InputError(f"{path} is {foreign}; expected {EXPECTED}")
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head[:256]:
            raise InputError(f"{path} is {_TORCH}")
        if b".npy" not in head[:256]:
            raise InputError(f"{path} is a zip archive; unpack it first and give the file inside")
        return "npz"
    if head[:1] == b"\x80" and b"\2" <= head[1:2] <= b"\5":
        return "pickle"
    if head.startswith(FASTTEXT) or _is_old_fasttext(head):
        return "fasttext"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 30:
        return "safetensors"
    return "npy" if head.startswith(b"\x93NUMPY") else "parquet" if head.startswith(b"PAR1") else None


def _is_old_fasttext(head: bytes) -> bool:
    """Models from before the magic number begin with twelve settings: width, window, epochs and so on."""
    width, window, epochs = struct.unpack("<3i", head[:12]) if len(head) >= 48 else (0, 0, 0)
    return bool(0 < width < WIDEST and 0 < window < 1000 and 0 < epochs < 100_000)


def _of_text(path: Path, head: bytes, packing: str) -> Kind:
    """Tell the formats without a magic number by their first rows."""
    lines = head.split(b"\n")
    lines = lines[:-1] if len(head) >= _HEAD and len(lines) > 1 else lines
    header = _HEADER.fullmatch(lines[0])
    widths = Counter(_values(line) for line in lines[1 if header else 0 :][:200] if line.strip())
    usual = max(widths, key=lambda width: (widths[width], -width), default=0)
    if header:
        entries, width = int(header[1]), int(header[2])
        if usual == 1 != width and set(widths) == {1}:
            return Kind("glove", packing, None, 1)  # rows of a number and one value: not a header, but the first row
        row = head[len(lines[0]) + 1 :].partition(b" ")[2][: 4 * width]
        texty = usual == width or 10 * len(row.translate(None, _OF_NUMBERS)) <= len(row)
        return Kind("word2vec text" if texty else "word2vec binary", packing, entries, width)
    if not usual or b"\0" in head:
        raise InputError(f"{path} is no file of vectors that is known here; expected {EXPECTED}")
    return Kind("glove", packing, None, usual)


def _values(line: bytes) -> int:
    """Count the numbers at the end of a line; the first field is a word whatever it looks like."""
    count = 0
    for field in reversed(line.split()[1:]):
        if not is_number(field):
            break
        count += 1
    return count


def is_number(field: bytes) -> bool:
    """Return whether a field reads as a number, nan and inf included."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def blocks(path: Path, packing: str, size: int = _BLOCK) -> Iterator[bytes]:
    """Yield the unpacked bytes in pieces of `size`, the last one shorter."""
    with pa.input_stream(str(path), compression=None if packing == "none" else packing) as stream:
        while block := stream.read(size):
            while len(block) < size and (more := stream.read(size - len(block))):
                block += more
            yield block
