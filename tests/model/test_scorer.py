"""Cases meet a model: in blocks, in any order, filtered or not, the ranks are those of one case at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reference import candidates_in_order, dataset_of, rank_among
from regard.data.batches import Histories
from regard.data.split import make_split
from regard.model import topk
from regard.model.scorer import CatalogueScorer, top_for

EVENTS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 13)), min_size=4, max_size=60)


class Recorder(nn.Module):
    """Scores that depend on all of a history and on the order in it, with ties; counts what it is asked."""

    name = "recorder"

    def __init__(self, n_items, unknown=()):
        super().__init__()
        self.known: torch.Tensor
        self.register_buffer("known", torch.ones(n_items + 1, dtype=torch.bool))
        self.known[list(unknown)] = False
        self.asked, self.modes = [], []

    def scores(self, histories: Histories):
        self.asked.append(len(histories))
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        rows = histories.items.split(histories.lengths.tolist())
        return torch.tensor([self.row(items.tolist()) for items in rows])

    def row(self, items):
        key = 7 + sum((place + 1) * item for place, item in enumerate(items))
        return [float(key * item % 11) for item in range(len(self.known))]


def log_of(events, users=range(1, 6)):
    """A log with an order; every user starts with three events, so that leave-one-out finds cases."""
    rows = [(user, 1 + (user + place) % 13, place, 0, 0) for user in users for place in range(3)]
    rows += [(user, item, 3 + place, 0, 0) for place, (user, item) in enumerate(events)]
    dataset, _ = dataset_of(rows, kind="order")
    dataset.n_items = 13
    return dataset


@given(
    events=EVENTS,
    rule=st.sampled_from(["leave-one-out", "random:0.6,0.2,0.2"]),
    kind=st.sampled_from(["next", "set", "last"]),
    window=st.sampled_from([None, 1, 3]),
    block_tokens=st.sampled_from([1, 9, 10_000]),
    filter_seen=st.booleans(),
)
def test_blocks_equal_one_case_at_a_time(events, rule, kind, window, block_tokens, filter_seen):
    dataset = log_of(events)
    cases = make_split(dataset, rule).cases(dataset, "test", kind)
    model = Recorder(13, unknown=[2, 9])
    scorer = CatalogueScorer(model, dataset, window=window, block_tokens=block_tokens)
    ranks, top = scorer.rank(cases, k=4, filter_seen=filter_seen)
    assert (ranks.dtype, top.dtype, top.shape) == (np.int64, np.int32, (len(cases), 4))
    known, at = model.known.tolist(), 0
    for case in range(len(cases)):
        history = dataset.item[cases.events([case])[0]].tolist()
        read = [item if known[item] else 0 for item in history]
        scores = model.row(read[-window:] if window else read)
        seen = history if filter_seen else []
        best = candidates_in_order(scores, known, seen)[:4]
        assert top[case].tolist() == best + [0] * (4 - len(best))
        for event in cases.targets[cases.target_offsets[case] : cases.target_offsets[case + 1]]:
            assert ranks[at] == rank_among(dataset.item[event], scores, known, seen, miss=14)
            at += 1
    assert at == len(ranks)


def test_blocks_keep_to_their_limits(monkeypatch):
    dataset = log_of([(user, item) for user in range(1, 6) for item in range(1, 11)])
    cases = make_split(dataset, "users:0.4").cases(dataset, "test")
    model = Recorder(13)
    CatalogueScorer(model, dataset, block_tokens=40).rank(cases, k=2, filter_seen=False)
    assert len(cases) == 26
    assert sum(model.asked) == 25  # both users begin with nothing: one empty history
    assert max(model.asked) < 15
    model.asked.clear()
    monkeypatch.setattr(topk, "BLOCK_BYTES", 3 * 14 * 4)
    CatalogueScorer(model, dataset).rank(cases, k=2, filter_seen=False)
    assert set(model.asked) <= {1, 2, 3}


def test_a_history_that_stands_still_is_scored_once():
    dataset = log_of([(user, item) for user in range(1, 6) for item in range(1, 11)])
    cases = make_split(dataset, "random:0.5,0,0.5").cases(dataset, "test")
    model = Recorder(13)
    CatalogueScorer(model, dataset).rank(cases, k=2, filter_seen=False)
    assert len(cases) == 33
    assert sum(model.asked) == len(set(cases.user.tolist()))
    model.asked.clear()
    model.personal = True  # then two people with one history are two questions
    CatalogueScorer(model, dataset).rank(cases, k=2, filter_seen=False)
    assert sum(model.asked) == len(cases)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    dataset = log_of([])
    cases = make_split(dataset, "leave-one-out").cases(dataset, "test")
    model = Recorder(13).train(training)
    CatalogueScorer(model, dataset).rank(cases, k=2, filter_seen=False)
    assert model.modes == [(False, True)]
    assert model.training is training


def test_precision_is_that_of_the_caller():
    class Product(Recorder):
        def scores(self, histories):
            product = torch.ones(len(histories), 3) @ torch.full((3, 14), 1.001)
            self.asked.append(product.dtype)
            return product

    dataset = log_of([])
    cases = make_split(dataset, "leave-one-out").cases(dataset, "test")
    model = Product(13)
    for precision in (None, torch.bfloat16):
        CatalogueScorer(model, dataset, precision=precision).rank(cases, k=2, filter_seen=False)
    assert model.asked == [torch.float32, torch.bfloat16]


def test_top_for_keeps_to_candidates_and_leaves_out():
    model = Recorder(13, unknown=[4])
    histories = Histories(torch.tensor([3, 5, 1]), torch.tensor([0, 2, 2, 3]))
    excluded = torch.tensor([1, 6, 7]), torch.tensor([0, 2, 3, 3])
    scores, items = top_for(model, histories, 5, excluded, torch.tensor([1, 4, 6, 7, 12]))
    for row, (history, left_out) in enumerate((([3, 5], [1, 6]), ([], [7]), ([1], []))):
        values = model.row(history)
        others = [item for item in range(14) if item not in (1, 4, 6, 7, 12)]
        best = candidates_in_order(values, model.known.tolist(), [*left_out, *others])
        assert items[row].tolist() == best + [0] * (5 - len(best))
        listed = [values[item] if item != 4 else topk.UNKNOWN_SCORE for item in best]
        assert scores[row].tolist() == listed + [-torch.inf] * (5 - len(best))
    everything = top_for(model, histories, 13)[1]
    assert everything.sort().values.tolist() == [list(range(1, 14))] * 3
