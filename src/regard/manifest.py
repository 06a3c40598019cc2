"""Folders and files that are whole or absent: written aside, synced, then renamed.

A dataset or run is a folder with a `manifest.json`: what it is, what made it, and what its files should hash to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from regard.errors import StorageError

FORMAT = 1
NAME = "manifest.json"
LOCK = ".lock"


@contextlib.contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a one-line `StorageError` that names `what`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {what}: {reason}; nothing was changed there") from error


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed over `path`, else removed."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            _sync(aside)
            aside.chmod(0o666 & ~_umask())
            aside.replace(path)
            _sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def check_free(path: str | Path, kind: str, own: Sequence[str] = ()) -> None:
    """Raise `StorageError` unless a new folder of this `kind` may take the place of whatever is at `path`.

    It may where nothing is, and where there is nothing but an older one of the same kind and entries named in `own`
    (patterns: what is written into such folders later).
    """
    path = Path(path)
    if not path.exists():
        return
    files = _manifest_files(path, kind)
    if files is None:
        raise StorageError(f"{path} exists and is not a {kind}; choose another folder or remove it first")
    kept = {NAME, *files}
    others = [e.name for e in path.iterdir() if e.name not in kept and not any(fnmatch(e.name, each) for each in own)]
    if others:
        what = "is not a" if not files else "holds more than a"
        raise StorageError(f"{path} {what} {kind} ({min(others)}); choose another folder or move that away")


@contextlib.contextmanager
def new_folder(path: str | Path, kind: str, own: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; on success it takes the place of `path`, else it is removed.

    An earlier folder of the same `kind` at `path` is replaced only once the new one is complete; anything else that is
    there is refused before any work is done.
    """
    path = Path(path)
    check_free(path, kind, own)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        old = aside.with_suffix(".old")
        try:
            yield aside
            for file in aside.rglob("*"):
                _sync(file)
            aside.chmod(0o777 & ~_umask())
            if path.exists():
                path.replace(old)
            aside.replace(path)
            _sync(path.parent)
        finally:
            if old.exists() and not path.exists():
                old.replace(path)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one process; the lock dies with its holder, so a killed process blocks nobody."""
    with writing(folder):
        handle = (folder / LOCK).open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{folder} is in use by another process; wait for it or choose another folder") from None
        yield


def write_json(path: str | Path, body: Mapping[str, Any]) -> None:
    """Write `body` as readable JSON, whole or not at all."""
    with new_file(path) as aside:
        aside.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read what `write_json` wrote, or raise `StorageError`."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error})") from None
    assert isinstance(body, dict)
    return body


def write_manifest(folder: Path, kind: str, body: Mapping[str, Any]) -> None:
    """Write the manifest of `folder`: its kind, `body`, and size and SHA-256 of every file that lies directly in it."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != NAME and not file.name.startswith(".")
    }
    write_json(folder / NAME, {"format": FORMAT, "kind": kind, **body, "files": files})


def read_manifest(folder: str | Path, kind: str) -> dict[str, Any]:
    """Return the manifest of a folder of this `kind`, or raise `StorageError` that says what the folder is instead."""
    folder = Path(folder)
    if not folder.exists():
        raise StorageError(f"expected a {kind} at {folder}, but there is no such folder; {_maker(kind)} makes one")
    if not folder.is_dir():
        raise StorageError(f"expected a {kind} folder at {folder}, but it is a file; {_maker(kind)} makes one")
    try:
        body = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{folder} is not a {kind}: it has no {NAME}; {_maker(kind)} makes one") from None
    except (ValueError, OSError) as error:
        raise StorageError(f"{folder / NAME} cannot be read ({error}); make the {kind} again") from None
    if not isinstance(body, dict) or body.get("kind") != kind:
        came = body.get("kind") if isinstance(body, dict) else None
        raise StorageError(f"expected a {kind} at {folder}, but it is a {came or 'folder of another program'}")
    if body.get("format", 0) > FORMAT:
        raise StorageError(f"{folder} was written by a newer regard (format {body['format']}, this one reads {FORMAT})")
    for name, entry in body.get("files", {}).items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise StorageError(f"{file} is missing or not {entry['bytes']} bytes long; make the {kind} again")
    return body


def damaged_files(folder: str | Path, kind: str) -> list[str]:
    """Return the names of files whose content no longer matches the manifest (reads everything)."""
    folder = Path(folder)
    files = read_manifest(folder, kind).get("files", {})
    return [name for name, entry in files.items() if _digest(folder / name) != entry["sha256"]]


def _maker(kind: str) -> str:
    return {"dataset": "`regard prepare`", "run": "`regard train`"}.get(kind, "regard")


def _manifest_files(path: Path, kind: str) -> list[str] | None:
    """Names of the files of a folder of this kind, [] where it has no manifest, None where it is something else."""
    try:
        body = json.loads((path / NAME).read_text(encoding="utf-8"))
        return list(body["files"]) if body["kind"] == kind else None
    except FileNotFoundError:
        return [] if path.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
