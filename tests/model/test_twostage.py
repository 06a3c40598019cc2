"""Two stages: the retriever's best in the ranker's order, everything else below, unknown items last."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from asking import BEHAVIOURS, CONTEXT, HEADS, ITEMS, USERS, WIDTH, draw, ends_of, ranker
from regard.config import ModelSettings
from regard.data.batches import Histories, newest
from regard.data.shape import Shape
from regard.model.ranker import Ranker
from regard.model.retriever import Retriever
from regard.model.scorer import top_for
from regard.model.topk import UNKNOWN_SCORE
from regard.model.twostage import DEPTH, TwoStage

UNKNOWN = (4, 11, 19)


def retriever(**changes: Any) -> Retriever:
    torch.manual_seed(2)
    context = changes.pop("read", {})
    body = {"width": WIDTH, "heads": HEADS, "window": 3, "blocks": 1, "positions": "none", **changes}
    settings = ModelSettings(name="self-attention", **body)
    model = Retriever(Shape(ITEMS, BEHAVIOURS, context=context), settings).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    model.known[1:] = True
    model.known[list(UNKNOWN)] = False
    return model


def stages(depth: int, *, filter_seen: bool = False, reads: str = "plain", **changes: Any) -> TwoStage:
    second: Ranker = ranker("target", reads)
    return TwoStage(retriever(**changes), second, filter_seen=filter_seen, depth=depth).eval()


def histories(lengths: list[int], seed: int = 0) -> Histories:
    drawn = draw(lengths, requests=1, seed=seed)
    kept = drawn.histories
    return Histories(kept.items, kept.offsets, kept.behaviours, kept.times, None, drawn.context, drawn.users)


def by_hand(both: TwoStage, read: Histories) -> list[list[int]]:
    """The order of all items of each history, from the two stages asked one by one."""
    orders = []
    first = both.retriever.scores(newest(read, both.retriever.window))
    for row, scores in enumerate(first):
        start, stop = read.offsets[row : row + 2].tolist()
        own = Histories(
            read.items[start:stop],
            torch.tensor([0, stop - start]),
            read.behaviours[start:stop],
            read.times[start:stop],
            users=read.users[row : row + 1],
        )
        seen = set(own.items.tolist()) if both.filter_seen else set()
        known = [item for item in range(1, ITEMS + 1) if item not in UNKNOWN]
        known.sort(key=lambda item: -float(scores[item]))
        found = [item for item in known if item not in seen][: both.depth]
        ranked = {
            item: float(both.ranker.rank(newest(own, both.ranker.window), torch.tensor([item]), ends_of([1]))[0])
            for item in found
        }
        rest = [item for item in known if item not in ranked]
        orders.append([*sorted(found, key=lambda item: -ranked[item]), *rest])
    return orders


@pytest.mark.parametrize("filter_seen", [False, True])
@examples(max_examples=10)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 5, 8]), min_size=1, max_size=4),
    depth=st.sampled_from([1, 6, 20, 500]),
    seed=st.integers(0, 99),
)
def test_the_best_are_the_rankers_and_the_rest_the_retrievers(
    filter_seen: bool, lengths: list[int], depth: int, seed: int
) -> None:
    both, read = stages(depth, filter_seen=filter_seen), histories(lengths, seed)
    with torch.inference_mode():
        scores = both.scores(read)
        expected = by_hand(both, read)
    assert scores.shape == (len(lengths), ITEMS + 1)
    for row, order in zip(scores, expected, strict=True):
        assert sorted(order, key=lambda item: -float(row[item])) == order


@pytest.mark.parametrize("interest", ["target", "dual, list-wise", "gru"])
@pytest.mark.parametrize("reads", ["plain", "all", "several"])
def test_what_the_ranker_never_met_is_the_unknown_item_to_it(interest: str, reads: str) -> None:
    """As if its rows were those of the unknown item; so what an untrained row holds changes nothing."""
    never = [1, 2, 8, 20]  # the retriever knows them
    first = retriever(request_time=reads == "all")
    both, read = TwoStage(first, ranker(interest, reads), filter_seen=False, depth=9).eval(), histories([6, 0, 3, 1])
    read = replace(read, items=torch.tensor([1, 5, 20, 7, 8, 2, 20, 3, 1, 2]), asked=read.times)
    same = copy.deepcopy(both)
    assert same.ranker.item_embedding.item is not None
    with torch.inference_mode():
        same.ranker.item_embedding.item[never] = same.ranker.item_embedding.item[0].clone()
        same.ranker.item_embedding.codes[:, never] = same.ranker.item_embedding.codes[:, :1].clone()
        expected = same.scores(read)
        plain = both.scores(read)
        both.ranker.known[never] = False
        torch.testing.assert_close(both.scores(read), expected)
        assert both.ranker.item_embedding.item is not None
        both.ranker.item_embedding.item[never] = 100.0
        torch.testing.assert_close(both.scores(read), expected)
        assert not torch.allclose(plain, expected)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_stages_that_know_different_items_still_agree_with_the_order_by_hand(filter_seen: bool) -> None:
    both, read = stages(6, filter_seen=filter_seen), histories([6, 0, 3], seed=5)
    both.ranker.known[[2, 3, 5, 7, 12]] = False
    with torch.inference_mode():
        scores, expected = both.scores(read), by_hand(both, read)
        for row, order in zip(scores, expected, strict=True):
            assert sorted(order, key=lambda item: -float(row[item])) == order
        new = [item for item in order[:6] if not both.ranker.known[item]]
        assert len({float(scores[-1, item]) for item in new}) <= 1  # the ranker cannot tell them apart


@pytest.mark.parametrize("filter_seen", [False, True])
def test_unknown_items_come_last_and_seen_ones_not_at_all(filter_seen: bool) -> None:
    """As every model of the catalogue, through the same door."""
    both, read = stages(6, filter_seen=filter_seen), histories([6, 0, 3])
    seen = (read.items, read.offsets) if filter_seen else None
    scores, items = top_for(both, read, ITEMS + 1, seen)
    with torch.inference_mode():
        expected = by_hand(both, read)
    for row, (order, own) in enumerate(zip(items.tolist(), expected, strict=True)):
        start, stop = read.offsets[row : row + 2].tolist()
        gone = set(read.items[start:stop].tolist()) if filter_seen else set()
        listed = [item for item in own if item not in gone]
        assert order[: len(listed)] == listed
        unknown = [item for item in UNKNOWN if item not in gone]
        assert order[len(listed) : len(listed) + len(unknown)] == unknown
        assert scores[row][order.index(unknown[0])] == UNKNOWN_SCORE if unknown else True


def test_the_scores_of_what_was_found_are_the_rankers_logits() -> None:
    both, read = stages(5), histories([4, 2])
    with torch.inference_mode():
        scores = both.scores(read)
        for row in range(2):
            best = scores[row].topk(5)
            one = Histories(*_row(read, row))
            found = both.ranker.rank(one, best.indices, ends_of([5]))
            torch.testing.assert_close(found, best.values.float())


def _row(read: Histories, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    start, stop = read.offsets[row : row + 2].tolist()
    assert read.behaviours is not None
    assert read.times is not None
    return read.items[start:stop], torch.tensor([0, stop - start]), read.behaviours[start:stop], read.times[start:stop]


@pytest.mark.parametrize("asks", ["ranker", "retriever", "both", "none"])
def test_each_stage_gets_the_moment_and_the_context_that_it_reads(asks: str) -> None:
    """Columns go by name: a retriever may read one of two, and either may read the moment of the request."""
    first = {"request_time": asks in ("retriever", "both"), "read": {"device": CONTEXT["device"]}}
    both = stages(6, reads="all" if asks in ("ranker", "both") else "several", **first)
    assert both.request_time == (asks != "none")
    assert both.context == ("hour", "device")
    read = histories([4, 0, 2])
    asked = read.times + 10**10
    read = Histories(**{**vars(read), "asked": asked if both.request_time else None})
    with torch.inference_mode():
        whole = both.scores(read)
        assert whole.isfinite().all()
        codes = read.request
        assert codes is not None
        for at in range(2):  # a column changes what comes out
            other = codes.clone()
            other[:, at] = (other[:, at] + 1) % (list(CONTEXT.values())[at] + 1)
            assert not torch.equal(both.scores(read.with_request(other)), whole)
        if both.request_time:
            later = Histories(**{**vars(read), "asked": asked + 10**13})
            assert not torch.equal(both.scores(later)[0], whole[0])
        nothing_told = Histories(**{**vars(read), "request": None})
        torch.testing.assert_close(both.scores(nothing_told), both.scores(read.with_request(torch.zeros_like(codes))))


def test_among_candidates_and_without_what_is_excluded() -> None:
    """What somebody asks about is ranked, wherever the retriever has it; what is left out takes no place."""
    both, read = stages(3, filter_seen=True), histories([5, 2])
    wanted = torch.tensor([1, 2, 3, 5, 6])
    with torch.inference_mode():
        plain = both.retriever.scores(newest(read, both.retriever.window))
        excluded = wanted[plain[:, wanted].argmax(1)]
        narrow = both.narrowed((excluded, ends_of([1, 1])), wanted)
        scores = narrow.scores(read)
        for row in range(2):
            left = [item for item in wanted.tolist() if item != int(excluded[row])]
            left.sort(key=lambda item: -float(plain[row, item]))
            one = Histories(*_row(read, row))
            logits = both.ranker.rank(newest(one, both.ranker.window), torch.tensor(left[:3]), ends_of([3]))
            torch.testing.assert_close(scores[row, left[:3]].float(), logits)
            assert (scores[row, left[3:]] < logits.min()).all()
    assert not narrow.training
    assert both.candidates is None


def test_users_reach_the_ranker() -> None:
    both, read = stages(6, reads="all"), histories([4, 4])
    read = Histories(**{**vars(read), "asked": read.times})
    with torch.inference_mode():
        scores = both.scores(read)
        other = both.scores(Histories(**{**vars(read), "users": (read.users + 1) % (USERS + 1)}))
        unnamed = both.scores(Histories(**{**vars(read), "users": None}))
        zero = both.scores(Histories(**{**vars(read), "users": torch.zeros_like(read.users)}))
    assert not torch.equal(scores, other)
    assert torch.equal(unnamed, zero)


def test_where_everything_is_seen_scores_stay_finite() -> None:
    both = stages(6, filter_seen=True)
    items = torch.arange(1, ITEMS + 1)
    read = Histories(items, torch.tensor([0, ITEMS]), torch.ones_like(items), items)
    both.retriever.window = both.ranker.window = ITEMS
    with torch.inference_mode():
        assert both.scores(read).isfinite().all()
    assert DEPTH == 500


def test_a_list_wise_ranker_sees_what_was_found_and_nothing_that_was_left_out() -> None:
    """Candidates that compare themselves must not meet the items of the history where the catalogue is small."""
    second = ranker("dual, list-wise")
    both, read = TwoStage(retriever(), second, filter_seen=True, depth=500).eval(), histories([6, 2])
    with torch.inference_mode():
        scores = both.scores(read)
        for row in range(2):
            one = Histories(*_row(read, row))
            gone = {*one.items.tolist(), *UNKNOWN}
            found = torch.tensor([item for item in range(1, ITEMS + 1) if item not in gone])
            logits = second.rank(newest(one, second.window), found, ends_of([len(found)]))
            torch.testing.assert_close(scores[row, found].float(), logits)
