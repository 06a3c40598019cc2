"""Uniform random, without drawing: what every metric is worth on average where all orders are equally likely.

Letters: C cases, N candidates of a case, m of its targets among them, n of its targets in all, k length of a list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from regard.data.cases import Cases
from regard.data.store import Dataset

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_EVENTS = 2**22  # of histories in memory at once


def expected(candidates: Int64, among: Int64, targets: Int64, k: int) -> dict[str, Float]:
    """Return the expected metrics (C,) of a random order.

    One target among N candidates has each rank with the chance 1 / N, so recall@k is k / N, mrr@k is (1 + 1/2 + … +
    1/k) / N, and ndcg@k is the sum of the discounts of k places over N. For several targets, recall and gains add up;
    the best of them stands below place r with the chance C(N - m, r) / C(N, r).

    Args:
        candidates: N (C,).
        among: m (C,), targets that are candidates; all others are misses.
        targets: n (C,), at least 1.
        k: length of the list.
    """
    many = np.maximum(candidates, 1).astype(np.float64)
    places = np.minimum(k, many)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    none = np.ones(len(many))  # the chance that no target stands in the first places
    reciprocal = np.zeros(len(many))
    for place in range(1, k + 1):
        left = np.maximum(many - place + 1, 1)
        missed = none * np.where(place <= many, np.clip(1 - among / left, 0, 1), 1.0)
        reciprocal += (none - missed) / place
        none = missed
    gain = discounts[places.astype(np.int64)] * among / many
    return {
        "ndcg": gain / discounts[np.minimum(targets, k)],
        "hit_rate": 1 - none,
        "recall": places / many * among / targets,
        "mrr": reciprocal,
    }


def candidates_of(cases: Cases, dataset: Dataset, items: Bool, filter_seen: bool) -> Int64:
    """Count the candidates N (C,) of each case among `items` (n_items + 1,): without those seen, where filtered."""
    allowed = items.copy()
    allowed[0] = False
    total = np.full(len(cases), int(allowed.sum()))
    if not filter_seen:
        return total
    lengths = np.concatenate([[0], np.cumsum(cases.history_end - cases.history_start)])
    start = 0
    while start < len(cases):
        stop = max(int(np.searchsorted(lengths, lengths[start] + _EVENTS, side="right")) - 1, start + 1)
        events, offsets = cases.events(np.arange(start, stop))
        owner = np.repeat(np.arange(stop - start), np.diff(offsets))
        item = dataset.item[events].astype(np.int64)
        there = allowed[item]
        pairs = np.unique(owner[there] * len(items) + item[there])
        total[start:stop] -= np.bincount(pairs // len(items), minlength=stop - start)
        start = stop
    return total


def uniform_means(
    cases: Cases, dataset: Dataset, k: tuple[int, ...], wanted: Bool, items: Bool, filter_seen: bool
) -> dict[str, Float]:
    """Return the expected mean of each metric over the cases of each user, (U,), nan where a user has none.

    `wanted` (T,) are the targets that count, as in `user_means`; `items` and `filter_seen` as in `candidates_of`.
    """
    case = cases.case_of_target
    found = wanted & items[dataset.item[cases.targets]]
    if filter_seen:
        found &= ~cases.in_history(dataset.item)
    targets = np.bincount(case[wanted], minlength=len(cases))
    among = np.bincount(case[found], minlength=len(cases))
    candidates = candidates_of(cases, dataset, items, filter_seen)
    users, inverse = np.unique(cases.user, return_inverse=True)
    some = targets > 0
    many = np.bincount(inverse[some], minlength=len(users))
    means = {}
    for cut in k:
        by_case = expected(candidates[some], among[some], targets[some], min(cut, dataset.n_items))
        for name, values in by_case.items():
            total = np.bincount(inverse[some], weights=values, minlength=len(users))
            means[f"{name}@{cut}"] = np.divide(total, many, out=np.full(len(users), np.nan), where=many > 0)
    return means
