"""Pretrained vectors on their way into a model: fitted to its width on what is trained, and handed over."""

from __future__ import annotations

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
from regard.model.transfer import vector_width

OF_VECTORS = {
    "model": ("transfer", "word_weights", "softness", "id_width", "id_dropout", "content_weight"),
    "train": ("vectors_rate", "freeze"),
}
"""Settings, by section, that nothing but pretrained vectors reads."""


def check_read(settings: Settings, *, told: bool) -> None:
    """Raise `SettingsError` where settings are of pretrained vectors, and nobody `told` where these are."""
    for section, names in OF_VECTORS.items():
        mine, plain = getattr(settings, section), getattr(Settings(), section)
        for name in names:
            if not told and (value := getattr(mine, name)) != getattr(plain, name):
                raise SettingsError(
                    f"{section}.{name}={value} is of pretrained vectors, and none were given: say where they are with "
                    "--vectors, or leave it out"
                )


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
