"""Baselines: a few choices each, and validation decides."""

from __future__ import annotations

from typing import Any

from regard.data.shape import Shape
from regard.model.baseline import BASELINES
from regard.model.popular import Baseline
from regard.training.protocol import Protocol


def choose(protocol: Protocol) -> tuple[Baseline, dict[str, Any]]:
    """Fit a baseline with each of its choices and keep the one that validation likes best."""
    dataset, settings = protocol.dataset, protocol.settings
    kind = BASELINES[settings.model.name]
    choices, shape = kind.choices(dataset, protocol.split), Shape.of(dataset).as_dict()
    cases = protocol.cases() if len(choices) > 1 else None
    if cases is None:
        return protocol.placed(kind.fit(dataset, protocol.split, **choices[0])), told(shape=shape, choice=choices[0])
    best: tuple[float, dict[str, Any], Baseline, dict[str, float]] | None = None
    for choice in choices:
        model = protocol.placed(kind.fit(dataset, protocol.split, **choice))
        figures = protocol.validation(protocol.scorer(model), cases)
        value = figures[settings.train.metric]
        if best is None or value > best[0]:
            best = value, choice, model, figures
    assert best is not None
    return best[2], told(shape=shape, choice=best[1], validation=best[3])


def told(**facts: Any) -> dict[str, Any]:
    """What the manifest of a run says of its fitting."""
    return {"choice": {}, "validation": {}, "epochs": [], **facts}
