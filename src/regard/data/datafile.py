"""The shape of a `data.toml`: which keys there are, and what is said when one is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from regard.config import Section
from regard.data.times import TimeKind
from regard.errors import InputError, SettingsError, nearest

Part = Literal["train", "test"]


class ColumnsTable(Section):
    """Names or numbers of columns."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    behaviour: str | None = None
    label: str | None = None
    context: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        return _as_text(value)


class SourceTable(Section):
    """One `[[source]]`."""

    path: str | tuple[str, ...]
    columns: ColumnsTable = Field(default_factory=ColumnsTable)
    behaviour: str | None = None
    part: Part | None = None
    separator: str | None = None
    encoding: str | None = None


class ItemsTable(Section):
    """The `[items]`."""

    path: str | tuple[str, ...]
    id: str | None = None
    title: str | None = None
    text: str | None = None
    attributes: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None

    @field_validator("id", "title", "text", "attributes", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        return _as_text(value)


class UsersTable(Section):
    """The `[users]`."""

    path: str | tuple[str, ...]
    id: str | None = None
    attributes: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None

    @field_validator("id", "attributes", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        return _as_text(value)


class DataFile(Section):
    """A whole `data.toml`."""

    source: tuple[SourceTable, ...] = Field(min_length=1)
    items: ItemsTable | None = None
    users: UsersTable | None = None
    time_kind: TimeKind | None = None


def read_data_file(path: Path) -> DataFile:
    """Read and check a `data.toml`; an unknown key is an error that names the nearest known one."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    try:
        return DataFile.model_validate(body)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first(error)}") from None


_TABLES: dict[str, type[Section]] = {
    "source": SourceTable,
    "items": ItemsTable,
    "users": UsersTable,
    "columns": ColumnsTable,
}


def _first(error: ValidationError) -> str:
    """Say the first thing that is wrong, with the nearest known key where a key is unknown."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    keys = [str(part) for part in first["loc"] if not isinstance(part, int)]
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(keys)}: {first['msg'].lower()}; got {first['input']!r}"
    table = next((_TABLES[key] for key in reversed(keys[:-1]) if key in _TABLES), DataFile)
    known = list(table.model_fields)
    return f"unknown key {'.'.join(keys)!r}{nearest(keys[-1], known)}; known here: {', '.join(known)}"


def _as_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return [_as_text(one) for one in value] if isinstance(value, list) else value
