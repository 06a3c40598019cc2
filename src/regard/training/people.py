"""What training knows of users: how many events each has, and what the user table tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.data.attributes import Attribute, user_attributes
from regard.errors import SettingsError
from regard.training.protocol import Protocol


def user_counts(protocol: Protocol) -> npt.NDArray[np.int64]:
    """Training events of each user, (n_users + 1,)."""
    starts, ends = protocol.split.training(protocol.dataset)
    return np.asarray(ends - starts)


def people(protocol: Protocol) -> dict[str, Attribute]:
    """The attributes of users that the settings ask for; users with training events decide what there is to learn.

    Raises:
        SettingsError: the model reads none, there is no such column, or it is given for nobody who trains.
    """
    model = protocol.settings.model
    if model.user_attributes and model.name != "ranker":
        raise SettingsError(
            f"model.user_attributes is for the ranker; {model.name} reads nothing of users but their events and ids: "
            "leave it out"
        )
    trained = user_counts(protocol) > 0
    found = user_attributes(protocol.dataset, model.user_attributes, trained)
    for name, one in found.items():
        if not protocol.settings.train.zero_shot and not _given(one):
            raise SettingsError(
                f"model.user_attributes: {name} is given for none of {int(trained.sum()):,} users with training "
                f"events, whose ids are like {protocol.dataset.users.id(int(trained.argmax()))!r}, so there is "
                "nothing to learn; if the user table has it, compare its ids (regard inspect), else leave it out"
            )
    return found


def coverage(found: Mapping[str, Attribute]) -> dict[str, dict[str, Any]]:
    """What codes and numbers mean, of how many users each is given, and of how many as a value that nobody teaches."""
    return {name: {**one.meaning(), "given": _given(one), "unseen": one.unseen} for name, one in found.items()}


def people_line(found: Mapping[str, Attribute]) -> str:
    """Say in a line what `coverage` reports."""
    told = []
    for name, one in found.items():
        unseen = f" and {one.unseen:,} more with values that no training user has" * (one.unseen > 0)
        told.append(f"{name} of {_given(one):,}{unseen}")
    everybody = len(next(iter(found.values())).values) - 1
    return f"attributes of {everybody:,} users: {', '.join(told)}; of the others they are read as not given"


def _given(one: Attribute) -> int:
    known = one.values > 0 if one.kind == "category" else ~np.isnan(one.values).any(1)
    return int(known.sum())
