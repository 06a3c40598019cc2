"""Raw cosine against plain lines; and ranks among some items only."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from regard.data.batches import Histories
from regard.data.events import EventLog
from regard.data.knowledge import Knowledge
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.model.scorer import CatalogueScorer
from regard.model.zeroshot import RawCosine


def test_scores_are_cosines_with_the_mean_direction() -> None:
    rng = np.random.default_rng(0)
    rows, known = rng.normal(size=(8, 3)), np.array([0, 1, 1, 0, 1, 1, 1, 1], bool)
    model = RawCosine(torch.from_numpy(rows), torch.from_numpy(known))
    lists = [[1, 2, 2], [], [3], [7, 3]]
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in lists])])
    scores = model.scores(Histories(torch.tensor([item for one in lists for item in one]), offsets)).numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) * known[:, None]
    for row, items in enumerate(lists):
        user = unit[items].sum(0) if items else np.zeros(3)
        length = np.linalg.norm(user)
        expected = unit @ (user / length) if length else np.zeros(8)
        np.testing.assert_allclose(scores[row], expected, atol=1e-6)


def club() -> tuple[Dataset, Knowledge]:
    rng = np.random.default_rng(1)
    item = [f"i{at}" for at in rng.integers(0, 11, 60)]
    table = pa.table({"user": [f"u{at % 9}" for at in range(60)], "item": item, "time": list(range(60))})
    dataset = Dataset.build(EventLog.read(table, time_kind="order"), None)
    vectors = {name: rng.normal(size=4).tolist() for name in dataset.items.array.to_pylist()}
    return dataset, Knowledge.read(dataset, vectors)


def test_ranks_among_some_items_leave_all_others_below() -> None:
    dataset, knowledge = club()
    model = RawCosine(torch.from_numpy(knowledge.rows), torch.from_numpy(knowledge.known))
    cases = make_split(dataset, "leave-one-out").cases(dataset, "test")
    among = np.zeros(dataset.n_items + 1, bool)
    among[::2] = True
    ranks, top = CatalogueScorer(model, dataset, among=among).rank(cases, k=3, filter_seen=False)
    for case in range(len(cases)):
        events, _ = cases.events([case])
        items = torch.from_numpy(dataset.item[events].astype(np.int64))
        scores = model.scores(Histories(items, torch.tensor([0, len(items)])))[0].numpy()
        target = dataset.item[cases.targets[case]]
        rivals = [other for other in range(1, dataset.n_items + 1) if among[other]]
        if among[target]:
            assert ranks[case] == sum(scores[other] >= scores[target] for other in rivals)
        else:
            assert ranks[case] > len(rivals)
        assert set(top[case]) <= set(rivals)


def test_controls_keep_the_numbers_and_lose_the_meaning() -> None:
    dataset, knowledge = club()
    shuffled, random = knowledge.shuffled(3), knowledge.random(3)
    assert sorted(map(tuple, shuffled.rows.tolist())) == sorted(map(tuple, knowledge.rows.tolist()))
    assert not np.array_equal(shuffled.rows, knowledge.rows)
    assert len({one.fingerprint for one in (knowledge, shuffled, random)}) == 3
    many = {name: row.tolist() for name, row in zip(dataset.items.array.to_pylist(), knowledge.rows[1:], strict=True)}
    wide = Knowledge.read(dataset, many)
    assert wide.random(0).known.tolist() == wide.known.tolist()
    big = Knowledge(
        np.concatenate([np.zeros((1, 3)), np.random.default_rng(0).normal([1, 2, 3], [0.1, 1, 2], (4000, 3))]).astype(
            "f4"
        ),
        np.array([False] + [True] * 4000),
        {},
        knowledge.recipe,
    )
    drawn = big.random(1).rows[1:]
    assert drawn.mean(0) == pytest.approx([1, 2, 3], abs=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), np.diag([0.01, 1, 4]), atol=0.25)
