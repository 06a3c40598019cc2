"""Bytes become clean lines: compression, encoding and line ends are detected, and made plain where they are odd.

DuckDB reads UTF-8 with one kind of line end, plain or compressed. Any other text is first rewritten as such a copy.
"""

from __future__ import annotations

import codecs
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from regard.data.records import records
from regard.errors import InputError
from regard.manifest import writing

_CHUNK = 1 << 22
_KEEP = "surrogateescape"  # broken bytes pass through a copy as they are, and DuckDB refuses their lines
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN = {
    b"PAR1": "a damaged Parquet file",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "compressed with bzip2; compress it with gzip instead",
    b"\xfd7zXZ": "compressed with xz; compress it with gzip instead",
    b"\x89HDF": "an HDF5 file; export it as Parquet or CSV",
    b"ARROW1": "an Arrow file; read it with pyarrow and give the table",
    b"SQLite format": "an SQLite database; export a table as CSV",
}
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\x01\t\n\v\f\r\x1f") + b"\x7f"  # \x01, \x1f may separate
_NOT_WINDOWS = bytes(byte for byte in range(256) if not 0x80 <= byte < 0xA0)


@dataclass(frozen=True)
class Text:
    """A text file that DuckDB can read: `source` is `path` itself or a clean copy of it.

    `quotes`: whether there is any `"` in it. `stray`: lines refused for a quote that never closes, blank in `source`.
    """

    path: Path
    source: Path
    encoding: str
    compression: str
    quotes: bool
    stray: tuple[int, ...] = ()

    def lines(self, errors: str = "replace") -> Iterator[str]:
        """Yield the lines without their ends; `errors` says what becomes of bytes that are not UTF-8."""
        stream = _stream(self.source, self.compression)
        with io.TextIOWrapper(stream, "utf-8-sig", errors, newline="\n") as text:
            for line in text:
                yield line.rstrip("\r\n")

    def head(self, size: int) -> list[str]:
        """Return the whole lines among the first `size` characters, or what there is of the first one."""
        with io.TextIOWrapper(_stream(self.source, self.compression), "utf-8-sig", "replace", newline="\n") as text:
            found = text.read(size + 1)
        lines = [line.removesuffix("\r") for line in found.split("\n")]
        return lines[:-1] if len(lines) > 1 and (len(found) > size or not lines[-1]) else lines


def open_text(path: Path, encoding: str | None, workspace: Path) -> Text:
    """Find out how `path` is written; a clean copy goes to `workspace` where DuckDB could not read it as it is."""
    try:
        compression = _compression(path)
        survey = _Survey.of(path, compression, encoding)
        encoding = _codec(encoding) if encoding else survey.encoding
        text = Text(path, path, encoding, compression, survey.quotes)
        return text if encoding == "utf-8" and survey.one_line_end else _rewritten(text, workspace)
    except UnicodeError as error:
        raise InputError(f"{path} is not written in {encoding}: {error}") from None
    except LookupError:
        raise InputError(f"{path}: unknown encoding {encoding!r}; for example utf-8, latin-1, cp1252") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def mended(text: Text, separator: str, workspace: Path) -> Text:
    """Blank the lines whose quote never closes, so that each costs one line instead of all that follow."""
    stray: list[int] = []
    target = _new_file(workspace)
    with writing(target), target.open("w", encoding="utf-8", errors=_KEEP, newline="\n") as out:
        for number, lines in records(text.lines(_KEEP), separator):
            stray += [] if lines else [number]
            out.writelines(f"{line}\n" for line in (lines or [""]))
    return replace(text, source=target, compression="none", stray=tuple(stray))


@dataclass
class _Survey:
    """What one pass over the bytes of a file shows."""

    quotes: bool = False
    newlines: int = 0
    returns: int = 0
    pairs: int = 0
    encoding: str = "utf-8"

    @classmethod
    def of(cls, path: Path, compression: str, encoding: str | None) -> _Survey:
        found = cls()
        last, valid = b"", True
        decoder = codecs.getincrementaldecoder("utf-8")()
        for chunk in _chunks(path, compression):
            if not last and not encoding:
                found.encoding = _refuse_binary(path, chunk)
            found.quotes = found.quotes or b'"' in chunk
            found.newlines += chunk.count(b"\n")
            if b"\r" in chunk or last.endswith(b"\r"):
                found.returns += chunk.count(b"\r")
                found.pairs += chunk.count(b"\r\n") + (last.endswith(b"\r") and chunk.startswith(b"\n"))
            valid = valid and _decodes(decoder, chunk)
            last = chunk
        if not encoding and found.encoding == "utf-8" and not (valid and _decodes(decoder, b"", final=True)):
            found.encoding = _legacy_encoding(path, compression)
        return found

    @property
    def one_line_end(self) -> bool:
        return not self.returns or self.returns == self.pairs == self.newlines


def _compression(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise InputError(f"{path} is empty")
    foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if foreign:
        raise InputError(f"{path} is {foreign}")
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def _stream(path: Path, compression: str) -> pa.NativeFile:
    return pa.input_stream(str(path), compression=None if compression == "none" else compression)


def _chunks(path: Path, compression: str) -> Iterator[bytes]:
    with _stream(path, compression) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _refuse_binary(path: Path, chunk: bytes) -> str:
    """Return utf-16 where a file starts with its mark, else utf-8 for now; refuse what is no text."""
    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = chunk[: 1 << 16]
    if b"\0" in head or 50 * (len(head) - len(head.translate(None, _CONTROL))) > len(head):
        raise InputError(f"{path} is not a text file; expected CSV, TSV, JSON lines or Parquet")
    return "utf-8"


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _legacy_encoding(path: Path, compression: str) -> str:
    """Tell a UTF-8 file with a few broken bytes from one in a Western single-byte encoding."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    good = broken = windows = 0
    for chunk in _chunks(path, compression):
        text = decoder.decode(chunk)
        wrong = text.count("\ufffd")
        broken += wrong
        good += len(text) - len(text.encode("ascii", "ignore")) - wrong
        windows += len(chunk.translate(None, _NOT_WINDOWS))
    if good > broken:
        return "utf-8"
    return "cp1252" if windows else "latin-1"


def _codec(encoding: str) -> str:
    name = codecs.lookup(encoding).name
    return {"iso8859-1": "latin-1", "utf-8-sig": "utf-8"}.get(name, name)


def _rewritten(text: Text, workspace: Path) -> Text:
    """Copy a text as UTF-8 with plain line ends; what cp1252 does not define stays as latin-1 has it."""
    target = _new_file(workspace)
    errors = {"utf-8": _KEEP, "cp1252": "latin-1-rest"}.get(text.encoding, "strict")
    source = io.TextIOWrapper(_stream(text.path, text.compression), text.encoding, errors, newline=None)
    with source, writing(target), target.open("w", encoding="utf-8", errors=_KEEP, newline="\n") as out:
        while chunk := source.read(_CHUNK):
            out.write(chunk)
    return replace(text, source=target, compression="none")


def _new_file(workspace: Path) -> Path:
    with tempfile.NamedTemporaryFile(dir=workspace, delete=False) as file:
        return Path(file.name)


def _as_latin(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("latin-1-rest", _as_latin)
