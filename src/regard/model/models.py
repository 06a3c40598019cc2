"""The table of models: a name, and what it takes to build one from what a run remembers."""

from __future__ import annotations

from regard.config import Settings
from regard.data.shape import Shape
from regard.errors import SettingsError, nearest
from regard.model.baseline import BASELINES
from regard.model.popular import Baseline
from regard.model.retriever import Retriever

TRAINED = ("self-attention",)
NAMES = (*BASELINES, *TRAINED)


def check_name(name: str) -> None:
    """Raise `SettingsError` that names the nearest known model if there is none of this name."""
    if name not in NAMES:
        raise SettingsError(f"there is no model {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}")


def build(settings: Settings, shape: Shape) -> Retriever | Baseline:
    """Return a model of the right shape whose weights are still to be loaded or learned.

    Args:
        settings: `settings.model` says which model and its shape.
        shape: how many items, behaviour types, … there are.
    """
    name = settings.model.name
    check_name(name)
    if name in BASELINES:
        return BASELINES[name](shape.items)
    if settings.model.width % settings.model.heads:
        raise SettingsError(f"model.heads={settings.model.heads} must divide model.width={settings.model.width}")
    if settings.model.time_lags and settings.model.width // settings.model.heads % 2:
        raise SettingsError("model.time_lags turns pairs of values: model.width / model.heads must be even")
    return Retriever(shape, settings.model)
