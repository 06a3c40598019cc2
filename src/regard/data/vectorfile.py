"""Files of word vectors, read as a stream: the format is found in the bytes, and only rows that are wanted are kept.

Text: GloVe (`word 0.1 0.2 …`, no header), word2vec and fastText `.vec` (a first line `entries width`). Binary: word2vec
(`entries width` and a line end, then word, space and float32 values, little-endian). Either may be packed by gzip or
zstd. What needs no stream is in `vectortable.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from regard.data.vectorkind import EXPECTED, WIDEST, Kind, blocks, is_number
from regard.errors import InputError

_LONGEST_LINE = 1 << 26
_LONGEST_KEY = 1 << 14
_LIKE_A_VALUE = re.compile(rb"[-+]?\d*\.\d{3,}(?:[eE][-+]?\d+)?|[-+]?\d(?:\.\d*)?[eE][-+]?\d+")


@dataclass(frozen=True)
class VectorReport:
    """What reading a source of vectors came upon.

    read: entries of the source. duplicates: further rows of a wanted key; the first one counts, and those of keys that
    nobody wants are not counted. undecodable: keys that are not UTF-8, which no wanted key can meet. wanted
    and found: numbers of keys.
    """

    source: str
    format: str
    width: int
    read: int
    duplicates: int
    undecodable: int
    wanted: int
    found: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return asdict(self) | {"notes": list(self.notes)}


class Rows:
    """The rows of wanted keys, filled while a source is read; of a repeated key the first row counts."""

    def __init__(self, keys: Iterable[str], shown: str) -> None:
        """Prepare for distinct `keys`; `shown` names the source in errors."""
        distinct = dict.fromkeys(keys)
        self.places = {key.encode("utf-8", "surrogatepass"): at for at, key in enumerate(distinct)}
        self.shown = shown
        self.known = np.zeros(len(self.places), bool)
        self.matrix: npt.NDArray[np.float32] = np.zeros((len(self.places), 0), np.float32)
        self.read = self.duplicates = self.undecodable = 0
        self.wide, self.first_wide = 0, 0  # rows of text with more numbers than others, and the line of the first
        self.notes: list[str] = []

    def widen(self, width: int) -> None:
        """Say how many values a row has, before the first `put`."""
        if not 1 <= width <= WIDEST:
            raise InputError(f"{self.shown}: vectors of {width} values; expected 1 to {WIDEST:,}")
        self.matrix = np.zeros((len(self.places), width), np.float32)  # pages without a known row are never touched

    def put(self, key: bytes, values: npt.ArrayLike, where: str) -> None:
        """Keep the row of a wanted key, or count it where the key has one; `where` names the row in errors."""
        place = self.places[key]
        if self.known[place]:
            self.duplicates += 1
            return
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes inf and is refused
            row = np.asarray(values).astype(np.float32)
        if not np.isfinite(row).all():
            shown = key.decode("utf-8", "replace")
            raise InputError(
                f"{self.shown}, {where}: the vector of {shown!r} holds nan or inf; expected finite numbers"
            )
        self.matrix[place], self.known[place] = row, True

    def report(self, kind: str) -> VectorReport:
        """Sum up."""
        found, width = int(self.known.sum()), self.matrix.shape[1]
        counts = (self.read, self.duplicates, self.undecodable, len(self.places), found)
        odd = [f"{self.duplicates:,} rows repeat a wanted key; its first row counts"] if self.duplicates else []
        odd += [f"{self.undecodable:,} keys are not UTF-8, so nothing finds them"] if self.undecodable else []
        return VectorReport(self.shown, kind, width, *counts, (*self.notes, *odd))


def read_stream(path: Path, kind: Kind, rows: Rows) -> None:
    """Read a file of word vectors, text or word2vec binary, into `rows`; raises `InputError` with line or byte."""
    rows.widen(kind.width)
    try:
        (_read_binary if kind.name == "word2vec binary" else _read_text)(path, kind, rows)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _lines(path: Path, packing: str) -> Iterator[tuple[list[bytes], bool]]:
    """Yield lists of whole lines without their ends, and whether the last of them had one."""
    rest = b""
    for block in blocks(path, packing):
        whole, end, after = block.rpartition(b"\n")
        if end:
            yield (rest + whole).split(b"\n"), True
            rest = after
        elif len(rest := rest + block) > _LONGEST_LINE:
            raise InputError(f"{path} has a line of more than {_LONGEST_LINE >> 20} MB; expected {EXPECTED}")
    if rest:
        yield [rest], False


def _read_text(path: Path, kind: Kind, rows: Rows) -> None:
    """Look at the first word of every line and count its spaces; only wanted and odd lines are taken apart."""
    places, blank, usual, number, ended = rows.places, b" ", -1, 0, True
    skipped = int(kind.entries is not None)
    for lines, ended in _lines(path, kind.packing):  # noqa: B007 - the last one is used below
        if not number:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            del lines[:skipped]
            number = skipped
        if usual < 0 and lines:
            blank = b"\t" if lines[0].count(b"\t") >= kind.width else b" "
            usual = kind.width + lines[0].endswith((blank, blank + b"\r"))  # rows with any other number are odd
        for at, line in enumerate(lines, number + 1):
            if line[: line.find(blank)] in places or line.count(blank) != usual:
                skipped += _take_apart(line, at, kind, rows)
            if not line.isascii():
                rows.undecodable += not decodes(line)
        number += len(lines)
    rows.read = number - skipped
    if kind.entries not in (None, rows.read):
        rows.notes.append(f"the first line promises {kind.entries:,} vectors, {rows.read:,} came")
    if rows.wide:
        rows.notes.append(
            f"{rows.wide:,} rows have more than {kind.width} numbers, the first in line {rows.first_wide:,}; what "
            f"comes before the last {kind.width} was read as a word with blanks"
        )
    if not ended:
        rows.notes.append("the last line has no end: if the file was cut off there, its last number is wrong")


def _take_apart(line: bytes, number: int, kind: Kind, rows: Rows) -> bool:
    """Check a row and keep it if it is wanted; return whether the line is blank.

    Fields are counted from the end, as words may have spaces. Bytes split at ASCII blanks only, so U+00A0 and U+0085
    stay what they are: parts of words.
    """
    fields = line.rsplit(None, kind.width)
    if not fields:
        return True
    if len(fields) == kind.width and line[:1] in (b" ", b"\t"):
        fields = [b"", *fields]  # the word itself is blank
    extra = fields[0].split()[1:]
    if len(fields) <= kind.width or (extra and all(map(_LIKE_A_VALUE.fullmatch, extra))):
        came = len(fields) + len(extra) - 1
        said = "as the first line says" if kind.entries is not None else "as in the first lines"
        raise InputError(
            f"{rows.shown}, line {number:,}: {came} numbers after the word, expected {kind.width} {said}; "
            "the file is cut off or damaged there"
        )
    key = fields[0].strip(b" \t")
    if key in rows.places:
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError:
            wrong = next(field for field in fields[1:] if not is_number(field)).decode("utf-8", "replace")
            raise InputError(f"{rows.shown}, line {number:,}: {wrong!r} is not a number") from None
        rows.put(key, values, f"line {number:,}")
    elif extra and all(map(is_number, extra)):  # `windows 10`, or a row of another width: nothing tells them apart
        rows.first_wide = rows.first_wide or number
        rows.wide += 1
    return False


def _read_binary(path: Path, kind: Kind, rows: Rows) -> None:
    """Walk from word to word; how long a word is shows only at its end, so no byte can be skipped unseen."""
    assert kind.entries is not None
    pieces, size = blocks(path, kind.packing), 4 * kind.width
    buffer = b""
    while b"\n" not in buffer:
        buffer += next(pieces)
    at, before = buffer.index(b"\n") + 1, 0  # `before`: bytes of the file before those of the buffer
    for entry in range(1, kind.entries + 1):
        while (space := buffer.find(b" ", at)) < 0 or space + 1 + size > len(buffer):
            more = next(pieces, b"")
            if not more or (space < 0 and len(buffer) - at > _LONGEST_KEY):
                what = "a word that never ends" if more else "the file ends within it: it is cut off"
                raise InputError(
                    f"{rows.shown}, vector {entry:,} of {kind.entries:,}, byte {before + at:,}: {what}, or its first "
                    f"line ({kind.entries} {kind.width}) is wrong"
                )
            before, buffer, at = before + at, buffer[at:] + more, 0
        key = buffer[at:space].lstrip(b"\r\n")  # word2vec.c ends each vector with a line end, others do not
        if key in rows.places:
            where = f"vector {entry:,}, byte {before + at:,}"
            rows.put(key, np.frombuffer(buffer, "<f4", kind.width, space + 1), where)
        if not key.isascii():
            rows.undecodable += not decodes(key)
        at = space + 1 + size
    if (buffer[at:] + next(pieces, b"")).strip():
        raise InputError(
            f"{rows.shown}: bytes are left after all {kind.entries:,} vectors (byte {before + at:,}); its first line "
            f"({kind.entries} {kind.width}) does not fit the rest"
        )
    rows.read = kind.entries


def decodes(text: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
