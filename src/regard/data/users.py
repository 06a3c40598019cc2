"""User tables: what is known of the people in a log, by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from regard.data.guess import guess_user_id
from regard.data.sources import UserColumns, UserSource, as_table
from regard.data.tables import REPORT, read_rows, report_of
from regard.errors import InputError


def read_users(
    source: Any,
    id: str | None = None,  # noqa: A002 - the field's own word
    attributes: Sequence[str] = (),
    separator: str | None = None,
    encoding: str | None = None,
) -> pa.Table:
    """Read a user table: a path, a glob, a table (Arrow, pandas, polars) or a `UserSource`.

    Returns the column id (given or recognised) and the attributes under their own names; ids are text and distinct,
    attributes of tables keep their types. Rows without an id and later rows of the same id are left out and counted:
    see `user_report`. Raises `InputError`, also where no attribute is named.
    """
    if not isinstance(source, UserSource):
        source = UserSource(source, UserColumns(id, tuple(attributes)), separator, encoding)

    def fields(names: Sequence[str], shown: str) -> Mapping[str, str | None]:
        if not source.columns.attributes:
            raise InputError(
                f"{shown}: a user table is read for its attributes; name them (--user-attribute COLUMN; columns found: "
                f"{', '.join(map(repr, names[:20]))})"
            )
        return {"id": guess_user_id(source.columns, names, shown)}

    return read_rows(source, fields, "user")


def checked_users(users: Any) -> pa.Table:
    """Return a table as `read_users` gives it, whoever made it: with a column id, and attributes in all others."""
    users = as_table(users)
    if REPORT in (users.schema.metadata or {}):
        return users
    attributes = tuple(column for column in users.column_names if column != "id")
    return read_users(UserSource(users, UserColumns("id", attributes)))


def user_report(users: pa.Table) -> dict[str, Any]:
    """Return what `read_users` counted: rows_read, missing_ids, duplicate_ids, malformed_lines, columns."""
    return report_of(users)
