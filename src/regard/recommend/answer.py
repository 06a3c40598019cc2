"""What a question to a recommender gets back: items with where they come from, and notes in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from regard.errors import InputError

MANY = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float32()),
        ("title", pa.string()),
        ("source", pa.string()),
    ]
)
"""The columns of an answer for many users."""


@dataclass(frozen=True)
class Item:
    """One recommended item; `source` is the name of the model, or `popular` where it had nothing to go by."""

    item: str
    score: float
    title: str | None
    source: str


@dataclass(frozen=True)
class Recommendation:
    """Items, best first, and notes on everything that was skipped or done in another way than asked."""

    items: list[Item]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: `{"items": [{"item", "score", "title", "source"}], "notes": []}`."""
        return asdict(self)


def check_list(ids: Sequence[str] | None, name: str, what: str) -> None:
    """Refuse a text, which would pass for a list of its letters."""
    if isinstance(ids, str):
        raise InputError(f"{name} must be a list of {what} ids; got the text {ids!r}")


def named(ids: Sequence[str]) -> str:
    """The first few of many ids."""
    return ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")


def short(k: int, found: int, filtered: bool = False) -> list[str]:
    """A note where fewer items were found than asked for; `filtered`: those of the history are left out."""
    why = ", without those of the history (--seen keep has them)" if filtered else ""
    return [f"asked for {k} items, only {found} are left to recommend{why}"] if found < k else []
