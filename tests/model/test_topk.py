"""Ranks and lists against sorting: ties, exclusions, unknown items, short rows, any block size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import candidates_in_order, rank_among
from regard.errors import DivergenceError
from regard.model import topk
from regard.model.topk import UNKNOWN_SCORE, owners, rank_and_top, rows_per_block, top_k, top_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SOME = [-math.inf, -2.5, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 2.5, 3e38]


def jagged(rows, device="cpu"):
    lengths = [len(row) for row in rows]
    flat = [value for row in rows for value in row]
    values, offsets = torch.tensor(flat, dtype=torch.int64), torch.tensor([0, *lengths]).cumsum(0)
    return values.to(device), offsets.to(device)


@st.composite
def boards(draw):
    """Scores with many ties, rows of targets and of excluded items, and what is known."""
    rows, width = draw(st.integers(0, 4)), draw(st.integers(1, 43))
    items = st.lists(st.integers(1, width - 1), max_size=7) if width > 1 else st.just([])
    values = st.sampled_from([*SOME[1:], float(draw(st.integers(-3, 3)))])
    scores = [draw(st.lists(values, min_size=width, max_size=width)) for _ in range(rows)]
    known = draw(st.lists(st.booleans(), min_size=width, max_size=width))
    return scores, known, [draw(items) for _ in scores], [draw(items) for _ in scores], draw(st.integers(1, 17))


@pytest.mark.parametrize("device", DEVICES)
@given(board=boards())
def test_ranks_and_lists_equal_sorting(device, board):
    scores, known, targets, excluded, k = board
    width = len(known)
    table = torch.tensor(scores, dtype=torch.float32).reshape(-1, width).to(device)
    mask = torch.tensor(known, device=device)
    ranks, top, top_scores = rank_and_top(table, jagged(targets, device), jagged(excluded, device), mask, k)
    miss = max(width, k + 1)
    expected = [
        rank_among(target, row, known, left_out, miss)
        for row, mine, left_out in zip(table.tolist(), targets, excluded, strict=True)
        for target in mine
    ]
    assert ranks.tolist() == expected
    assert top.shape == top_scores.shape == (len(scores), k)
    for row, left_out, items, values in zip(table.tolist(), excluded, top.tolist(), top_scores.tolist(), strict=True):
        best = candidates_in_order(row, known, left_out)[:k]
        assert items == best + [0] * (k - len(best))
        listed = [row[item] if known[item] else UNKNOWN_SCORE for item in best]
        assert values == listed + [-math.inf] * (k - len(best))


@given(board=boards(), block=st.integers(1, 50))
def test_search_in_a_table_equals_sorting_whatever_the_block(board, block):
    scores, known, _, excluded, k = board
    table = torch.tensor([[value if abs(value) < 100 else 7.0 for value in row] for row in scores])
    table = table.reshape(-1, len(known)).T.contiguous()  # (V, D): each "row" of scores is now a coordinate
    queries = torch.eye(len(scores))
    found, items = top_k(queries, table, k, known=torch.tensor(known), excluded=jagged(excluded), block=block)
    for at, left_out in enumerate(excluded):
        row = table[:, at].tolist()
        best = candidates_in_order(row, known, left_out)[:k]
        assert items[at].tolist() == best + [0] * (k - len(best))
        listed = [row[item] if known[item] else UNKNOWN_SCORE for item in best]
        assert found[at].tolist() == listed + [-math.inf] * (k - len(best))


@pytest.mark.parametrize("device", DEVICES)
def test_search_of_a_larger_table_equals_argsort(device):
    rng = np.random.default_rng(3)
    queries, table = rng.integers(-4, 5, (7, 5)), rng.integers(-4, 5, (3_001, 5))  # integers: many ties, exact products
    products = queries @ table.T
    products[:, 0] = -(10**6)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :11]
    tensors = (torch.tensor(part, dtype=torch.float32, device=device) for part in (queries, table))
    scores, items = top_k(*tensors, 11, block=509)
    assert items.tolist() == expected.tolist()
    assert scores.tolist() == np.take_along_axis(products, expected, axis=1).tolist()


def test_hand_computed_ranks():
    scores = torch.tensor([[9.0, 2.0, 5.0, 2.0, 1.0, 8.0], [9.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    known = torch.tensor([True, True, True, True, True, False])
    ranks, top, top_scores = rank_and_top(scores, jagged([[1, 4, 5, 2], [3]]), jagged([[2], []]), known, 3)
    # row 0: 1 and 3 tie at the top once 2 is out, 4 is third, 5 is unknown and last, 2 is excluded: a miss
    assert ranks.tolist() == [2, 3, 4, 6, 4]
    assert top.tolist() == [[1, 3, 4], [1, 2, 3]]
    assert top_scores.tolist() == [[2.0, 2.0, 1.0], [1.0, 1.0, 1.0]]


def test_a_miss_is_beyond_every_cut_even_in_a_tiny_catalogue():
    ranks, _, _ = rank_and_top(torch.zeros(1, 3), jagged([[1]]), jagged([[1]]), torch.ones(3, dtype=torch.bool), 10)
    assert ranks.tolist() == [11]


def test_candidates_restrict_all_rows():
    scores = torch.tensor([[0.0, 1.0, 4.0, 3.0, 2.0]])
    known = torch.tensor([False, True, True, True, False])
    found, items = top_of(scores, 3, known, jagged([[3]]), candidates=torch.tensor([4, 1, 3]))
    assert items.tolist() == [[1, 4, 0]]
    assert found.tolist() == [[1.0, UNKNOWN_SCORE, -math.inf]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_where_the_item_is_known(bad):
    scores = torch.zeros(2, 5)
    scores[1, 3] = bad
    known = torch.ones(5, dtype=torch.bool)
    none = jagged([[], []])
    with pytest.raises(DivergenceError, match="expected finite scores"):
        rank_and_top(scores, none, None, known, 2)
    known[3] = False
    assert rank_and_top(scores, none, None, known, 4)[1].tolist() == [[1, 2, 4, 3]] * 2


def test_the_inputs_are_left_as_they_were():
    scores = torch.arange(12.0).reshape(2, 6)
    before = scores.clone()
    rank_and_top(scores, jagged([[1], [2]]), jagged([[5], [4]]), torch.zeros(6, dtype=torch.bool), 3)
    assert torch.equal(scores, before)


def test_pieces_of_targets_do_not_change_ranks(monkeypatch):
    scores, known = torch.randn(5, 31), torch.ones(31, dtype=torch.bool)
    targets = jagged([list(range(1, 31))] * 5)
    whole = rank_and_top(scores, targets, None, known, 3)[0]
    monkeypatch.setattr(topk, "_PIECE", 70)
    assert torch.equal(rank_and_top(scores, targets, None, known, 3)[0], whole)
    assert torch.equal(whole.view(5, 30).sort().values, torch.arange(1, 31).expand(5, 30))


def test_blocks_and_owners():
    assert rows_per_block(10**9) == 1
    assert rows_per_block(1_024) * 1_024 * 4 == topk.BLOCK_BYTES
    assert owners(torch.tensor([0, 2, 2, 5])).tolist() == [0, 0, 2, 2, 2]
