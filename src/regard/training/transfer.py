"""Pretrained vectors on their way into a model: fitted to its width on what is trained, and handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regard.config import ModelSettings, Settings
from regard.data.geometry import Geometry
from regard.data.knowledge import Knowledge
from regard.errors import InputError, SettingsError
from regard.model.items import first_scale
from regard.model.models import Learned
from regard.model.retriever import Retriever
from regard.model.transfer import mode_of, vector_width

OF_VECTORS = {
    "model": ("transfer", "word_weights", "softness", "id_width", "id_dropout", "content_weight"),
    "train": ("vectors_rate", "freeze"),
}
"""Settings, by section, that nothing but pretrained vectors reads."""


OF_WAYS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "init": {"train": ("vectors_rate", "freeze")},
    "fuse": {"model": ("id_width",)},
    "gate": {"model": ("id_dropout",)},
}
"""Of these, settings that a single way of transfer reads."""


def check_read(settings: Settings, *, told: bool, before: Settings | None = None) -> None:
    """Raise `SettingsError` where settings are of pretrained vectors and nobody `told` where these are, or of a way of
    transfer that is not theirs. What a run that training goes on from was made with, `before`, may stand.
    """
    for section, names in OF_VECTORS.items():
        mine, plain = getattr(settings, section), getattr(Settings(), section)
        for name in names:
            if not told and (value := getattr(mine, name)) != getattr(plain, name):
                raise SettingsError(
                    f"{section}.{name}={value} is of pretrained vectors, and none were given: say where they are with "
                    "--vectors, or leave it out"
                )
    for way, section, name in _of_others(mode_of(settings.model)):
        value = getattr(getattr(settings, section), name)
        if value not in [getattr(getattr(one, section), name) for one in (Settings(), before) if one is not None]:
            raise SettingsError(
                f"{section}.{name}={value} is for model.transfer={way}, and {mode_of(settings.model)} does not read "
                "it: leave it out"
            )


def _of_others(mode: str) -> list[tuple[str, str, str]]:
    """Settings that ways of transfer other than `mode` read: way, section and name."""
    ways = {way: one for way, one in OF_WAYS.items() if way != mode}
    return [(way, section, name) for way, one in ways.items() for section, names in one.items() for name in names]


def without(settings: Settings, names: Mapping[str, Sequence[str]]) -> Settings:
    """Settings as if nobody had told those of `names`, by section."""
    body = settings.model_dump(mode="json", exclude_unset=True)
    for section, keys in names.items():
        body[section] = {key: value for key, value in body.get(section, {}).items() if key not in keys}
    return Settings.of(body)


def of_its_way(settings: Settings) -> Settings:
    """Settings as if nobody had told what only other ways of transfer read: where several are tried with the same."""
    for way, names in OF_WAYS.items():
        settings = settings if way == mode_of(settings.model) else without(settings, names)
    return settings


@dataclass(frozen=True)
class Fitted:
    """Vectors as a model takes them, (n_items + 1, K), which items have one, and the transform for items to come."""

    rows: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    geometry: Geometry
    knowledge: Knowledge

    @classmethod
    def of(
        cls,
        knowledge: Knowledge,
        counts: npt.NDArray[np.int64],
        settings: ModelSettings,
        geometry: Geometry | None = None,
    ) -> Fitted:
        """Centre vectors and weigh their spectrum, as fitted on items with training events, `counts` (n_items + 1,).

        Users in place of items where these are vectors of users. With `geometry`, nothing is fitted: it is that of the
        run that training starts from, whose weights read no other.

        Raises:
            InputError: fewer than two of these items have a vector.
            SettingsError: the words of items were weighed in another way than the settings say.
        """
        weighed = (knowledge.recipe.weights or {}).get("kind", settings.word_weights)
        if weighed != settings.word_weights:
            raise SettingsError(
                f"model.word_weights is {settings.word_weights}, and these vectors are means of words weighed by "
                f"{weighed}; train with model.word_weights={weighed}, or read them with the weights of the settings"
            )
        if geometry is not None:
            return cls._by(knowledge, geometry)
        trained = knowledge.known & (counts > 0)
        if trained.sum() < 2:
            raise InputError(
                f"pretrained vectors are fitted on {knowledge.whose} with training events, and only "
                f"{int(trained.sum())} of {int((counts > 0).sum()):,} has one; see the coverage above"
            )
        width = vector_width(settings)
        values = width or knowledge.width
        # a table starts at the scale of other tables; an adapter reads values of about one
        scale = first_scale(settings) * (values / settings.width) ** 0.5 if width else values**0.5
        geometry = Geometry.fit(knowledge.rows[trained], width, softness=settings.softness, norm=scale)
        return cls._by(knowledge, geometry)

    @classmethod
    def _by(cls, knowledge: Knowledge, geometry: Geometry) -> Fitted:
        rows = np.zeros((len(knowledge.rows), geometry.width), np.float32)
        rows[knowledge.known] = geometry.apply(knowledge.rows[knowledge.known])
        return cls(rows, knowledge.known, geometry, knowledge)

    @property
    def facts(self) -> dict[str, Any]:
        """Where the vectors come from and what was made of them, fit for JSON."""
        return {**self.knowledge.facts, "geometry": self.geometry.facts()}

    def hand_to(self, model: Learned, counts: npt.NDArray[np.int64]) -> None:
        """Give the model its rows; an item that has a vector is known to it from now on."""
        of_users = self.knowledge.whose == "users"
        table = model.user if of_users and not isinstance(model, Retriever) else model.item_embedding
        assert table is not None
        table.take(torch.from_numpy(self.rows), torch.from_numpy(self.known), torch.from_numpy(counts))
        if isinstance(model, Retriever) and model.content is not None:
            model.content.take(torch.from_numpy(self.rows), torch.from_numpy(counts))
        if not of_users:
            model.known = model.known | torch.from_numpy(self.known)
