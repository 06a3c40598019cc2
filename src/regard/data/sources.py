"""Where events, items and users come from: files, tables, and the `data.toml` that lists several of them."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from regard.data.datafile import ItemsTable, Part, UsersTable, read_data_file
from regard.data.times import TimeKind
from regard.errors import InputError, nearest


@dataclass(frozen=True)
class Columns:
    """Which column holds what: names, or numbers from 1 as text, which mean a file without a header.

    Where `user` or `item` is None, it and `time` are guessed from common names; where both are given, a `time` of None
    means that the log has none. Text without one of the others leaves that out.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    behaviour: str | None = None
    label: str | None = None
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class ItemColumns:
    """Which column of an item table holds what; `id` and `title` are guessed where `id` is None."""

    id: str | None = None
    title: str | None = None
    text: str | None = None
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UserColumns:
    """Which column of a user table holds what; `id` is guessed where it is None."""

    id: str | None = None
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One source of events: `path` is a file, a glob, a list of them, or a table (Arrow, pandas, polars, DuckDB).

    `behaviour` and `part` hold for all its events; `separator` and `encoding` overrule what is detected.
    """

    path: Any
    columns: Columns = Columns()
    behaviour: str | None = None
    part: Part | None = None
    separator: str | None = None
    encoding: str | None = None

    def described(self) -> dict[str, Any]:
        """Return what is given, JSON-able; a table in memory is named by its type."""
        paths = self.path if isinstance(self.path, (list, tuple)) else [self.path]
        shown = [str(one) if isinstance(one, (str, Path)) else f"<{type(one).__name__}>" for one in paths]
        given = {key: value for key, value in asdict(self.columns).items() if value}
        rest = {key: value for key, value in vars(self).items() if key not in ("path", "columns") and value is not None}
        return {"path": shown, "columns": given, **rest}

    @classmethod
    def from_toml(cls, path: str | Path) -> Recipe:
        """Read a `data.toml`: sources, tables of items and users, time kind; paths are relative to the file."""
        return Recipe.read(Path(path))


@dataclass(frozen=True)
class ItemSource:
    """A source of items: `path` as in `Source`."""

    path: Any
    columns: ItemColumns = ItemColumns()
    separator: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class UserSource:
    """A source of users: `path` as in `Source`."""

    path: Any
    columns: UserColumns = UserColumns()
    separator: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one dataset."""

    sources: tuple[Source, ...]
    items: ItemSource | None = None
    time_kind: TimeKind | None = None
    users: UserSource | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `data.toml`; an unknown key is an error that names the nearest known one."""
        body = read_data_file(path)
        folder = path.parent
        sources = tuple(
            Source(
                path=_paths(source.path, folder),
                columns=Columns(**source.columns.model_dump()),
                behaviour=source.behaviour,
                part=source.part,
                separator=source.separator,
                encoding=source.encoding,
            )
            for source in body.source
        )
        items = _item_source(body.items, folder) if body.items else None
        return cls(sources, items, body.time_kind, _user_source(body.users, folder) if body.users else None)


def _item_source(table: ItemsTable, folder: Path) -> ItemSource:
    return ItemSource(
        path=_paths(table.path, folder),
        columns=ItemColumns(table.id, table.title, table.text, table.attributes),
        separator=table.separator,
        encoding=table.encoding,
    )


def _user_source(table: UsersTable, folder: Path) -> UserSource:
    return UserSource(
        path=_paths(table.path, folder),
        columns=UserColumns(table.id, table.attributes),
        separator=table.separator,
        encoding=table.encoding,
    )


def _paths(path: str | tuple[str, ...], folder: Path) -> list[str]:
    return [str(folder / Path(one).expanduser()) for one in ((path,) if isinstance(path, str) else path)]


def as_sources(given: Any, columns: Columns | None, separator: str | None, encoding: str | None) -> list[Source]:
    """Turn whatever a caller gave into sources: a `Source`, several, a `Recipe`, paths, or tables."""
    if isinstance(given, Recipe):
        given = given.sources
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise InputError("no source given; expected a file, a glob or a table")
    sources: list[Source] = []
    for are_paths, group in itertools.groupby(several, key=lambda one: isinstance(one, (str, Path))):
        together = list(group)
        for one in [together] if are_paths else together:
            source = one if isinstance(one, Source) else Source(one)
            sources.append(
                replace(
                    source,
                    columns=columns if columns and source.columns == Columns() else source.columns,
                    separator=source.separator or separator,
                    encoding=source.encoding or encoding,
                )
            )
    return sources


def find_files(paths: Any) -> list[Path]:
    """Expand paths and globs into existing files, in the order given, each glob sorted by name."""
    found: list[Path] = []
    for path in paths if isinstance(paths, (list, tuple)) else [paths]:
        if not isinstance(path, (str, Path)):
            raise InputError(f"expected paths in a source; got {type(path).__name__} (give each table its own source)")
        try:
            found += _matches(str(path))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot look for {str(path)[:80]!r}: {getattr(error, 'strerror', None) or error}"
            ) from None
    return list(dict.fromkeys(found))


def _matches(text: str) -> list[Path]:
    if not text.strip():
        raise InputError("an empty path was given; expected a file, a glob or a table")
    if Path(text).is_dir():
        raise InputError(f"{text} is a folder; give its files, for example '{text.rstrip('/')}/*.csv'")
    if Path(text).exists():
        return [Path(text)]
    files = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - takes any pattern
    files = [file for file in files if file.is_file()]
    if not files:
        raise InputError(_nothing_at(text))
    return files


def _nothing_at(text: str) -> str:
    if glob.has_magic(text):
        return f"no file matches {text}"
    folder = Path(text).parent
    beside = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    return f"there is no file {text}{nearest(Path(text).name, beside)}"


def as_table(given: Any) -> pa.Table:
    """Return an Arrow table, without copying where the giver allows it (Arrow PyCapsule or dataframe interface)."""
    if isinstance(given, pa.Table):
        return given
    try:
        if hasattr(given, "__arrow_c_stream__"):
            return pa.table(given)
        if hasattr(given, "__dataframe__"):
            return pa.interchange.from_dataframe(given)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"this {type(given).__name__} cannot become an Arrow table: {reason}") from None
    raise InputError(
        f"expected a path, a glob or a table (Arrow, pandas, polars); got {type(given).__name__}"
        + ("; call .collect() first" if hasattr(given, "collect") else "")
    )


def named(columns: Columns | ItemColumns | UserColumns) -> list[str]:
    """Return the columns that are given, in order of the fields."""
    texts: list[str] = []
    for value in vars(columns).values():
        texts += [value] if isinstance(value, str) else list(value or ())
    return texts


def numbered(columns: Columns | ItemColumns | UserColumns) -> bool:
    """Whether columns are given by number, which means that a file has no header; a mixture is an error."""
    texts = named(columns)
    numbers = [text for text in texts if text.isascii() and text.isdigit()]
    if numbers and len(numbers) < len(texts):
        other = next(text for text in texts if text not in numbers)
        raise InputError(f"columns are given by name or by number, not both; got {numbers[0]} and {other!r}")
    if "0" in numbers:
        raise InputError("columns are numbered from 1; got 0")
    return bool(numbers)


def check_distinct(pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse a column that is given two roles; `pairs` are (role, column)."""
    seen: dict[str, str] = {}
    for role, column in pairs:
        if column in seen:
            raise InputError(f"column {column!r} is given twice, as {seen[column]} and as {role}")
        seen[column] = role
