"""Item tables: ids, titles, texts and attributes of the things that are recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from regard.data.guess import guess_item_columns
from regard.data.sources import ItemColumns, ItemSource, as_table
from regard.data.tables import REPORT, read_rows, report_of


def read_items(
    source: Any,
    id: str | None = None,  # noqa: A002 - the field's own word
    title: str | None = None,
    text: str | None = None,
    attributes: Sequence[str] = (),
    separator: str | None = None,
    encoding: str | None = None,
) -> pa.Table:
    """Read an item table: a path, a glob, a table (Arrow, pandas, polars) or an `ItemSource`.

    Returns columns id, title, text (those given or recognised) and the attributes under their own names; ids are text
    and distinct, attributes of tables keep their types. Rows without an id and later rows of the same id are left out
    and counted: see `item_report`. Raises `InputError`.
    """
    if not isinstance(source, ItemSource):
        source = ItemSource(source, ItemColumns(id, title, text, tuple(attributes)), separator, encoding)

    def fields(names: Sequence[str], shown: str) -> Mapping[str, str | None]:
        found = guess_item_columns(source.columns, names, shown)
        return {"id": found.id, "title": found.title, "text": found.text}

    return read_rows(source, fields, "item")


def checked_items(items: Any) -> pa.Table:
    """Return a table as `read_items` gives it, whoever made it: with columns id, title, text and any attributes."""
    items = as_table(items)
    if REPORT in (items.schema.metadata or {}):
        return items
    fields = {field: field if field in items.column_names else None for field in ("title", "text")}
    attributes = tuple(column for column in items.column_names if column not in ("id", *fields))
    return read_items(ItemSource(items, ItemColumns("id", **fields, attributes=attributes)))


def item_report(items: pa.Table) -> dict[str, Any]:
    """Return what `read_items` counted: rows_read, missing_ids, duplicate_ids, malformed_lines, columns."""
    return report_of(items)
