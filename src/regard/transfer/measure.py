"""From ranks to figures: the same users, the same groups of targets and one bootstrap for every way.

Letters: U users, T targets, V items with the unknown one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from regard.data.split import Cases
from regard.data.store import Dataset
from regard.evaluate.bootstrap import interval, resampled_means
from regard.evaluate.protocol import Lists, Ranks
from regard.evaluate.result import Number, Result
from regard.evaluate.strata import TRAINED, groups_of, user_means
from regard.model.scorer import CatalogueModel, CatalogueScorer
from regard.training.protocol import Protocol
from regard.transfer.cells import Cell
from regard.transfer.chance import uniform_means

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Columns = dict[str, Float]
"""Values of users (U,) by key: `ndcg@10`, `ndcg@10|target events 0`, `ndcg@10|cold only`; nan where one has none."""

COLD = "cold only"
ACTIVITY = "target events"


@dataclass(frozen=True)
class Asked:
    """What is asked at one share: the test cases, and the cases whose targets nobody has met in training."""

    protocol: Protocol
    cases: Cases
    trained: npt.NDArray[np.int64]
    """Training events of the item of each target, (T,)."""
    unmet: Bool
    """Items without training events, (V,)."""
    cold: Cases

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        """Make the cases of the test part."""
        dataset = protocol.dataset
        cases = protocol.split.cases(dataset, "test", protocol.settings.evaluate.targets)
        counts = protocol.split.training_item_counts(dataset)
        unmet = counts == 0
        unmet[0] = False
        trained = counts[dataset.item[cases.targets]]
        return cls(protocol, cases, trained, unmet, cases.take(np.unique(cases.case_of_target[trained == 0])))

    @property
    def dataset(self) -> Dataset:
        """The dataset."""
        return self.protocol.dataset

    @property
    def k(self) -> tuple[int, ...]:
        """Cut-offs."""
        return self.protocol.settings.evaluate.k

    @property
    def filter_seen(self) -> bool:
        """Whether items of a history are no candidates."""
        return self.protocol.seen == "filter"

    @cached_property
    def users(self) -> npt.NDArray[np.int32]:
        """The users (U,) of the test cases, ascending."""
        return np.unique(self.cases.user)

    @cached_property
    def groups(self) -> dict[str, Bool]:
        """Masks (T,) of the targets: those with training events, and by how many they have."""
        found = groups_of(self.cases, self.trained)
        return {name: mask for name, mask in found.items() if name == TRAINED or name.startswith(ACTIVITY)}

    @property
    def cold_targets(self) -> Bool:
        """Which targets of the cold cases have no training event."""
        return np.asarray(self.unmet[self.dataset.item[self.cold.targets]])

    def rank(self, model: CatalogueModel, told: Mapping[str, Any]) -> Cell:
        """Rank all targets in the catalogue, and cold ones among items without training events."""
        scorer = self.protocol.scorer(model)
        heard = _Heard(scorer)
        result = self.protocol.measured(heard, "test")
        among = CatalogueScorer(
            model, self.dataset, scorer.device, scorer.window, precision=scorer.precision, among=self.unmet
        )
        cold = np.zeros(0, np.int64)
        if len(self.cold):
            cold, _ = among.rank(self.cold, k=max(self.k), filter_seen=self.filter_seen)
        coverage = {name: one["value"] for name, one in result.metrics.items() if name.startswith("coverage")}
        return Cell(heard.ranks, cold, {**told, "coverage": coverage, "protocol": result.protocol})

    def columns(self, cell: Cell) -> Columns:
        """The values of users for one cell."""
        assert len(cell.ranks) == len(self.cases.targets), "a cell of other cases"
        found: Columns = {}
        for group, mask in {"": None, **self.groups}.items():
            means = user_means(cell.ranks, self.cases, self.k, self.dataset.n_items, mask)
            found |= {_key(name, group): values for name, values in means.items()}
        if len(self.cold):
            means = user_means(cell.cold, self.cold, self.k, self.dataset.n_items, self.cold_targets)
            found |= {_key(name, COLD): self._spread(values) for name, values in means.items()}
        return found

    def by_chance(self) -> Columns:
        """The expected values of users where all orders of the candidates are equally likely."""
        everything = np.full(self.dataset.n_items + 1, True)
        found: Columns = {}
        for group, mask in {"": np.full(len(self.cases.targets), True), **self.groups}.items():
            means = uniform_means(self.cases, self.dataset, self.k, mask, everything, self.filter_seen)
            found |= {_key(name, group): values for name, values in means.items()}
        if len(self.cold):
            wanted = self.cold_targets
            means = uniform_means(self.cold, self.dataset, self.k, wanted, self.unmet, self.filter_seen)
            found |= {_key(name, COLD): self._spread(values) for name, values in means.items()}
        return found

    def result(self, columns: Sequence[Columns], stated: Mapping[str, Any], resamples: int) -> Result:
        """Figures of a way with intervals over users, its seeds averaged for each user first."""
        means = {key: np.mean([one[key] for one in columns], axis=0) for key in columns[0]}
        drawn = resampled_means(means.values(), resamples, 0)
        numbers = {
            key: _number(values, resampled) for (key, values), resampled in zip(means.items(), drawn.T, strict=True)
        }
        strata = self.counts()
        for key, number in numbers.items():
            name, _, group = key.partition("|")
            if group in strata:
                strata[group]["metrics"][name] = number
        metrics = {key: number for key, number in numbers.items() if key.partition("|")[2] not in strata}
        per_user = {key: values.astype(np.float32) for key, values in means.items()}
        return Result(metrics, strata, dict(stated), {}, self.users, per_user)

    def counts(self) -> dict[str, dict[str, Any]]:
        """How many users, cases and targets each group has; `cold only` has those of the targets without events."""
        found = {}
        masks = {name: mask for name, mask in self.groups.items() if name != TRAINED}
        for name, mask in {**masks, COLD: self.trained == 0}.items():
            if not mask.any():
                continue
            inside = np.unique(self.cases.case_of_target[mask])
            users = len(np.unique(self.cases.user[inside]))
            found[name] = {"users": users, "cases": len(inside), "targets": int(mask.sum()), "metrics": {}}
        if COLD in found:
            found[COLD]["candidates"] = int(self.unmet.sum())
        return found

    def _spread(self, values: Float) -> Float:
        """Values of the users of the cold cases, among all users."""
        found = np.full(len(self.users), np.nan)
        found[np.searchsorted(self.users, np.unique(self.cold.user))] = values
        return found


class _Heard:
    """A scorer that remembers the ranks it gave."""

    def __init__(self, scorer: CatalogueScorer) -> None:
        self.scorer, self.device = scorer, scorer.device
        self.uses_request_time = scorer.uses_request_time
        self.ranks: Ranks = np.zeros(0, np.int64)

    def rank(self, cases: Cases, *, k: int, filter_seen: bool) -> tuple[Ranks, Lists]:
        """See `CatalogueScorer.rank`."""
        self.ranks, top = self.scorer.rank(cases, k=k, filter_seen=filter_seen)
        return self.ranks, top


def _key(name: str, group: str) -> str:
    return f"{name}|{group}" if group else name


def _number(values: Float, resampled: Float) -> Number:
    there = values[~np.isnan(values)]
    low, high = interval(resampled)
    return {"value": float(there.mean()) if len(there) else None, "low": low, "high": high}
