"""Columns recognised by their names, where the user did not say which is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from regard.data.sources import Columns, ItemColumns, UserColumns
from regard.errors import InputError

Tiers = tuple[frozenset[str], ...]


def _tiers(*tiers: str) -> Tiers:
    return tuple(frozenset(tier.split()) for tier in tiers)


# For each role, tiers of names in order of trust, written as `_plain` leaves them.
_USER = _tiers(
    "user userid uid useridx",
    "visitor visitorid customer customerid client clientid member memberid account accountid buyer buyerid person "
    "personid reviewer reviewerid profileid",
    "session sessionid",
)
_ITEM = _tiers(
    "item itemid iid",
    "product productid movie movieid article articleid sku asin parentasin track trackid song songid book bookid isbn "
    "game gameid video videoid news newsid offer offerid recipe recipeid app appid artist artistid content contentid",
)
_TIME = _tiers(
    "timestamp time ts unix unixtime unixtimestamp unixreviewtime eventtime eventtimestamp timestampms datetime date "
    "createdat",
)
_ITEM_ID = _ITEM + _tiers("id")
_USER_ID = _USER + _tiers("id")
_TITLE = _tiers("title itemtitle producttitle movietitle", "name itemname productname")


def guess_columns(columns: Columns, names: Sequence[str], shown: str) -> Columns:
    """Fill in `user` and `item` where missing, then `time` if there is one; `InputError` where that is not clear."""
    if columns.user and columns.item:
        return columns
    taken = {columns.user, columns.item, columns.time, columns.behaviour, columns.label, *columns.context}
    free = [name for name in names if name not in taken]
    return replace(
        columns,
        user=columns.user or _needed(_USER, free, "user", names, shown),
        item=columns.item or _needed(_ITEM, free, "item", names, shown),
        time=columns.time or _find(_TIME, free, "time", shown),
    )


def guess_item_columns(columns: ItemColumns, names: Sequence[str], shown: str) -> ItemColumns:
    """Fill in `id` where missing, and then `title` if there is one."""
    if columns.id:
        return columns
    free = [name for name in names if name not in {columns.title, columns.text, *columns.attributes}]
    found = _needed(_ITEM_ID, free, "id", names, shown)
    return replace(columns, id=found, title=columns.title or _find(_TITLE, free, "title", shown))


def guess_user_id(columns: UserColumns, names: Sequence[str], shown: str) -> str:
    """Return the column of a user table that holds ids, which is guessed where none is named."""
    free = [name for name in names if name not in columns.attributes]
    return columns.id or _needed(_USER_ID, free, "id", names, shown)


def unused_time(columns: Columns, names: Sequence[str]) -> str | None:
    """Return a column that looks like the time where none was given, for a note."""
    return None if columns.time else next((name for name in names if any(_plain(name) in tier for tier in _TIME)), None)


def names_ids(name: str) -> bool:
    """Whether a column of this name holds the ids of a table of items or users."""
    return any(_plain(name) in tier for tier in _ITEM_ID + _USER_ID)


def looks_like_header(user: str, item: str) -> bool:
    """Whether two values of a row are names of a user and an item column."""
    return any(_plain(user) in tier for tier in _USER) and any(_plain(item) in tier for tier in _ITEM)


def _needed(tiers: Tiers, free: Sequence[str], role: str, names: Sequence[str], shown: str) -> str:
    found = _find(tiers, free, role, shown)
    if found is None:
        listed = ", ".join(repr(name) for name in names[:20])
        nameless = "; if its first line is no header, give numbers, from 1" if _nameless(names) else ""
        raise InputError(
            f"{shown}: cannot tell which column is the {role}; name it{nameless} (columns found: {listed})"
        )
    return found


def _nameless(names: Sequence[str]) -> bool:
    """Whether what was taken for names of columns are numbers."""
    return any(name.replace(".", "", 1).isdecimal() for name in names)


def _find(tiers: Tiers, free: Sequence[str], role: str, shown: str) -> str | None:
    for tier in tiers:
        found = [name for name in free if _plain(name) in tier]
        if len(found) > 1:
            listed = " and ".join(repr(name) for name in found)
            raise InputError(f"{shown}: {listed} could each be the {role} column; name the right one")
        if found:
            return found[0]
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
