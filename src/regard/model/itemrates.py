"""The floor of labelled candidates: what is known of an item by counting, whoever asks."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from regard.config import Settings
from regard.data.reading import Reading
from regard.data.requests import Requests
from regard.data.split import Split
from regard.data.store import Dataset

_PRIOR = 10.0  # events with the mean label, added to those of an item whose labels were given


class ItemRates:
    """What the popularity of an item says of its label; `values` (V + 1,), row 0 for items without training events.

    Labels that were given: the mean label of the item's training targets, drawn to that of all. Sampled negatives: with
    f the item's share of all training targets and q how often it is drawn as a negative, the probability that a
    candidate is the target is f / (f + q), so these figures are calibrated too.
    """

    uses_request_time = False

    def __init__(self, values: npt.NDArray[np.float64], sampled: bool) -> None:
        self.values, self.sampled = values, sampled

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, settings: Settings) -> Self:
        """Count the training targets."""
        reading = Reading(dataset, split, settings)
        rows = reading.rows(reading.training_targets()[0])
        item, labels = dataset.item[rows], reading.rule.targets(dataset, rows).astype(np.float64)
        count = np.bincount(item, minlength=dataset.n_items + 1).astype(np.float64)
        if reading.rule.sampled:
            share = (count + 1) / (count.sum() + dataset.n_items)
            return cls(np.log(share), True)
        mean = labels.mean() if len(labels) else 0.0
        total = np.bincount(item, labels, dataset.n_items + 1)
        return cls((total + _PRIOR * mean) / (count + _PRIOR), False)

    def probabilities(self, requests: Requests) -> npt.NDArray[np.float64]:
        """(C,): the probability that the label is 1, or the value."""
        found: npt.NDArray[np.float64] = self.values[requests.candidates.cpu().numpy()]
        if not self.sampled:
            return found
        assert requests.log_rates is not None
        return np.asarray(1 / (1 + np.exp(requests.log_rates.cpu().numpy() - found)))
