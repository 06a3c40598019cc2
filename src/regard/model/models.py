"""The table of models: a name, and what it takes to build one from what a run remembers."""

from __future__ import annotations

from regard.config import PRESETS, ModelSettings, Settings
from regard.data.shape import Shape
from regard.errors import SettingsError, nearest
from regard.model.baseline import BASELINES
from regard.model.encoder import ATTENDING, ENCODERS
from regard.model.factorization import Factorization
from regard.model.interest import build_interest
from regard.model.popular import Baseline
from regard.model.ranker import Ranker
from regard.model.retriever import Retriever

TRAINED = tuple(ENCODERS)
FACTORIZATION = "matrix-factorization"
NAMES = (*BASELINES, FACTORIZATION, *TRAINED, "ranker")

Learned = Retriever | Ranker | Factorization
"""What gradients teach."""


def check_name(name: str) -> None:
    """Raise `SettingsError` that names the nearest known model if there is none of this name."""
    if name not in NAMES:
        known = (*NAMES, *PRESETS)
        raise SettingsError(f"there is no model {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def build(settings: Settings, shape: Shape) -> Learned | Baseline:
    """Return a model of the right shape whose weights are still to be loaded or learned.

    Args:
        settings: `settings.model` says which model and its shape.
        shape: how many items, behaviour types, … there are.
    """
    name = settings.model.name
    check_name(name)
    if name in BASELINES:
        return BASELINES[name](shape.items)
    if name == "ranker":
        check_ranker(settings.model)
        return Ranker(shape, settings.model, squared=settings.data.labels.strip() == "value")
    if name == FACTORIZATION:
        check_factorization(settings.model)
        return Factorization(shape, settings.model, squared=settings.data.labels.strip() == "value")
    check_shape(settings.model)
    return Retriever(shape, settings.model)


def check_ranker(settings: ModelSettings) -> None:
    """Raise `SettingsError` where a ranker cannot have this shape, or would not read what was asked for."""
    build_interest(settings)
    for name in ("negatives", "negative_sampling"):
        if getattr(settings, name) != getattr(ModelSettings(), name):
            raise SettingsError(
                f"model.{name}={getattr(settings, name)} is for retrievers, and a ranker would not read it; say "
                f"{_OF_DATA[name]} instead"
            )
    if settings.outputs > 1:
        raise SettingsError(
            f"model.outputs={settings.outputs}: an event has one label, so `regard train` learns one output; "
            "more are for a Ranker with a loss of your own, in Python"
        )
    asked = _relations(settings)
    if asked:
        raise SettingsError(
            f"{asked[0]} is for retrievers; a ranker reads how far back events are by model.positions=learned, and how "
            "long ago by model.request_time=true"
        )
    if settings.temperature:
        raise SettingsError(
            f"model.temperature={settings.temperature:g} is for retrievers, whose scores are products; a ranker's are "
            "log-odds: leave it out"
        )
    for name in ("content_weight", "covisit_weight"):
        if weight := getattr(settings, name):
            raise SettingsError(
                f"model.{name}={weight:g} is for retrievers, and a ranker would not read it: leave it out"
            )
    if settings.residual == "gated" and settings.interest != "transformer":
        raise SettingsError(
            f"model.residual=gated is of blocks, and interest {settings.interest} has none; use transformer, or leave "
            "it out"
        )


_OF_DATA = {"negatives": "data.negatives (to a target)", "negative_sampling": "data.sampling"}


def check_factorization(settings: ModelSettings) -> None:
    """Raise `SettingsError` where matrix factorisation would not read what was asked for."""
    plain = ModelSettings()
    for name in (
        "context",
        "request_time",
        "time_gaps",
        "time_lags",
        "time_bias",
        "content_weight",
        "covisit_weight",
        "residual",
        "temperature",
        "negatives",
        "negative_sampling",
    ):
        if getattr(settings, name) != getattr(plain, name):
            raise SettingsError(
                f"model.{name} is for other models; {FACTORIZATION} reads users and items only: leave it out"
            )


def check_shape(settings: ModelSettings) -> None:
    """Raise `SettingsError` where a retriever cannot have this shape, or would not read what was asked for."""
    name, width, heads = settings.name, settings.width, settings.heads
    if settings.negative_sampling != "uniform" and not settings.negatives:
        raise SettingsError(
            f"model.negative_sampling={settings.negative_sampling} draws nothing, as the softmax is over the whole "
            "catalogue; say how many negatives too, for example model.negatives=1024"
        )
    compares = name in ATTENDING
    if (compares or name == "additive") and width % heads:
        raise SettingsError(f"model.heads={heads} must divide model.width={width}")
    asked = _relations(settings)
    if not compares and asked:
        raise SettingsError(f"{asked[0]} needs a model that compares events ({', '.join(ATTENDING)}); {name} does not")
    turning = [told for told in asked if told.endswith(("time_lags=true", "rotary"))]
    if turning and width // heads % 2:
        raise SettingsError(f"{turning[0]} turns pairs of values: model.width / model.heads must be even")
    if settings.residual == "gated" and name != "self-attention":
        raise SettingsError(
            f"model.residual=gated is of the blocks of self-attention; {name} has none"
            f"{', and gates of its own' if name == 'hstu' else ''}: leave it out"
        )


def _relations(settings: ModelSettings) -> list[str]:
    """The settings by which attention itself is told how two events stand to each other."""
    asked = [f"model.{name}=true" for name in ("time_lags", "time_bias") if getattr(settings, name)]
    return asked + [f"model.positions={settings.positions}"] * (settings.positions in ("rotary", "relative"))
