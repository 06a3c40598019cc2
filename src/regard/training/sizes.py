"""Settings of a retriever that nobody told, by the size of the data: the rule of docs/decisions/0008."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.config import Settings
from regard.model.encoder import ENCODERS
from regard.model.transfer import mode_of
from regard.training.protocol import Protocol

_STEPS, _MOST_STEPS = 800, 2000
_PASSES, _LEAST_PASSES = 20, 3
_SPARSE = 20.0
"""Targets an item, below which it is learned by heart before anything else is."""
_DROPOUT = ((_SPARSE, 0.5), (100.0, 0.3), (np.inf, 0.2))
"""Below so many targets an item: so much dropout."""
_TABLE_RATE, _SPARSE_RATE = 10.0, 1e-3
_VECTORS_RATE = 1.0
"""Of a sparse table that starts from vectors: what was learned on words is not to be forgotten in a few steps."""
_AGAIN = 0.25
"""Of the passes, where a run goes on from another: most is known."""
_CONTENT_WEIGHT, _COVISIT_WEIGHT = 6.0, 3.0
"""What is added when items are scored, in units of the logits of a softmax."""
RULE = 3
"""Raised with every change of the rule, so that what is kept under its settings is not taken for the same."""
_LARGE, _NEGATIVES = 50_000, 2048
"""From so many items on the softmax is over so many negatives a batch."""


@dataclass(frozen=True)
class Size:
    """What there is to learn from: targets of training, the items they are of, and events of a step."""

    targets: int
    items: int
    step: int

    @classmethod
    def of(cls, protocol: Protocol) -> Size:
        """Count the training part."""
        counts = protocol.split.target_item_counts(protocol.dataset)
        items = int((protocol.split.training_item_counts(protocol.dataset)[1:] > 0).sum())
        return cls(int(counts.sum()), items, protocol.settings.train.batch_tokens)

    @property
    def density(self) -> float:
        """Targets an item."""
        return self.targets / max(self.items, 1)

    @property
    def epochs(self) -> int:
        """As many as 2,000 steps hold, from 3 to 20; more only where even 20 are fewer than 800 steps."""
        steps = max(1.0, self.targets / self.step)
        return max(_LEAST_PASSES, min(_PASSES, round(_MOST_STEPS / steps)), -int(-_STEPS // steps))

    @property
    def dropout(self) -> float:
        """The fewer targets an item has, the sooner its vector is learned by heart."""
        return next(share for most, share in _DROPOUT if self.density < most)


def by_size(protocol: Protocol, *, vectors: bool = False, begun: bool = False) -> tuple[Settings, dict[str, Any]]:
    """Return settings complete for this size of data, and what was decided; what was told is left alone.

    `vectors`: whether items start from pretrained ones, in the way of `model.transfer`. `begun`: whether all weights
    are those of a run to begin with; where they know items by ids, fewer passes are enough.
    """
    settings = protocol.settings
    if settings.model.name not in ENCODERS or settings.train.zero_shot:
        return settings, {}
    size = Size.of(protocol)
    told = {f"{name}.{key}" for name in ("model", "train") for key in getattr(settings, name).model_fields_set}
    again = begun and mode_of(settings.model) != "frozen"  # without ids, it may be another shop
    epochs = math.ceil(size.epochs * _AGAIN) if again else size.epochs
    wanted: dict[str, Any] = {"train.epochs": epochs, "model.dropout": size.dropout}
    if vectors:
        wanted["model.content_weight"] = _CONTENT_WEIGHT
    if size.items < _LARGE:
        wanted["model.covisit_weight"] = _COVISIT_WEIGHT
    if settings.train.epochs == 0:
        told -= {"train.epochs"}
    if "train.learning_rate" not in told:  # the rates go together
        rates = _rates(mode_of(settings.model) if vectors else "", size)
        wanted |= rates
        if size.density < _SPARSE and not told & set(rates):
            wanted["train.learning_rate"] = _SPARSE_RATE
    if size.items >= _LARGE and "model.negatives" not in told:
        wanted |= {"model.negatives": _NEGATIVES, "model.negative_sampling": "mixed"}
    decided = {name: value for name, value in wanted.items() if name not in told}
    complete = settings.changed([f"{name}={value}" for name, value in decided.items()])
    return complete, {**asdict(size), "decided": decided} if decided else {}


def _rates(transfer: str, size: Size) -> dict[str, Any]:
    """The rate of item vectors: of a table that starts by chance, from pretrained vectors, or of none."""
    if transfer == "frozen":
        return {}
    if transfer == "init":
        return {"train.vectors_rate": _VECTORS_RATE if size.density < _SPARSE else _TABLE_RATE}
    return {"train.table_rate": _TABLE_RATE}


def size_line(found: dict[str, Any]) -> str:
    """Say what was decided, and from what."""
    decided = ", ".join(f"{name}={value}" for name, value in found["decided"].items())
    return f"{found['targets']:,} targets on {found['items']:,} items, so: {decided}"
