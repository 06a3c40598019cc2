"""Negatives stand for the whole catalogue, however they are drawn: expectations over many draws, by counting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regard.config import ModelSettings
from regard.errors import SettingsError
from regard.model.losses import sampled_next_item_loss
from regard.model.negatives import SharedNegatives

KINDS = ("uniform", "popularity", "in-batch", "mixed")
COUNTS = torch.tensor([0, 40, 3, 0, 17, 1, 9, 30])  # by item; item 0 is none, item 3 has no training events
OFFERED = COUNTS > 0
TIMES = 4000


def sampler(kind: str, many: int) -> SharedNegatives:
    settings: Any = {"negatives": many, "negative_sampling": kind}
    made = SharedNegatives(len(COUNTS) - 1, ModelSettings(**settings))
    made.take(COUNTS)
    return made


def batch_of(first: int, many: int) -> Tensor:
    """Targets drawn by popularity, but for the first one."""
    others = torch.multinomial(COUNTS.float(), many - 1, replacement=True)
    return torch.cat([torch.tensor([first]), others])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("many", [1, 5])
def test_beside_a_target_every_other_item_counts_once_on_average(kind: str, many: int) -> None:
    drawn, target = sampler(kind, many), 4
    total = torch.zeros(len(COUNTS), dtype=torch.float64)
    for _ in range(TIMES):
        items, correction = drawn(batch_of(target, 6), OFFERED)
        assert items.diff().gt(0).all()
        total[items] += correction.double().exp()
    if many == 1 and kind == "mixed":
        assert total[1:3].gt(0).all()  # half of one negative is none: all are uniform
    others = OFFERED.clone()
    others[target] = False
    # a rare item is drawn seldom and counts much: what is allowed is five standard errors of a share of 1 / 100
    torch.testing.assert_close(
        total[others] / TIMES, torch.ones(int(others.sum()), dtype=torch.float64), atol=0.35, rtol=0
    )
    assert abs(float(total[others].mean()) / TIMES - 1) < 0.1
    assert not total[~OFFERED].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_full_softmax_on_average(kind: str) -> None:
    table = torch.randn(len(COUNTS), 3, dtype=torch.float64) * 0.7
    table.requires_grad_()
    state = torch.randn(1, 3, dtype=torch.float64)
    drawn, target, many = sampler(kind, 256), 6, 100
    everything = functional.cross_entropy(state @ table[OFFERED].T, OFFERED[:target].sum()[None])
    want = torch.autograd.grad(everything, table)[0]
    got = torch.zeros_like(want)
    for _ in range(many):
        negatives = drawn(batch_of(target, 257), OFFERED)
        loss = sampled_next_item_loss(state, table, torch.tensor([target]), *negatives)
        got += torch.autograd.grad(loss, table)[0] / many
    assert float((got - want).norm() / want.norm()) < 0.05


def test_in_batch_negatives_are_targets_each_at_most_once() -> None:
    targets = torch.tensor([1, 1, 4, 7, 7, 7])
    items, correction = sampler("in-batch", 50)(targets, OFFERED)
    assert items.tolist() == [1, 4, 7]
    shares = COUNTS / COUNTS.sum()
    expected = torch.tensor([2, 1, 3]) / (6 * (5 / 6) * shares[[1, 4, 7]])
    torch.testing.assert_close(correction, expected.log())


def test_mixed_negatives_are_corrected_by_the_sum_of_both_ways() -> None:
    targets, offered = torch.tensor([1, 4, 5, 6, 7, 1]), torch.arange(8) == 2  # what is no target is uniform
    items, correction = sampler("mixed", 9)(targets, offered)
    inside = items[items != 2]
    assert set(inside.tolist()) <= set(targets.tolist())
    times = correction.exp() * (5 / 1 + 4 * (5 / 6) * (COUNTS / COUNTS.sum())[items])
    torch.testing.assert_close(times, times.round())
    assert times[items == 2] == 5
    assert times[items != 2].sum() == 4
    assert times[items > 2].eq(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_targets_and_a_catalogue_of_which_none_is_offered(kind: str) -> None:
    items, correction = sampler(kind, 8)(torch.zeros(0, dtype=torch.int64), torch.zeros_like(OFFERED))
    assert items.gt(0).all()
    assert correction.isfinite().all()
    assert len(items) == 0 or kind != "in-batch"


def test_uniform_needs_no_counts_and_the_others_say_that_they_do() -> None:
    settings: Any = {"negatives": 3, "negative_sampling": "popularity"}
    with pytest.raises(SettingsError, match="popularity draws by training events"):
        SharedNegatives(7, ModelSettings(**settings))(torch.tensor([1]), OFFERED)
    assert len(SharedNegatives(7, ModelSettings(negatives=3))(torch.tensor([1]), OFFERED)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_in_a_batch_is_counted_by_targets_where_not_all_events_are(kind: str) -> None:
    views, purchases = torch.tensor([0, 900, 100, 200]), torch.tensor([0, 10, 90, 100])
    settings: Any = {"negatives": 6, "negative_sampling": kind}
    drawn = SharedNegatives(3, ModelSettings(**settings))
    drawn.take(views + purchases, purchases)
    total = torch.zeros(4, dtype=torch.float64)
    for _ in range(TIMES):
        targets = torch.cat([torch.tensor([2]), torch.multinomial(purchases.float(), 7, replacement=True)])
        items, correction = drawn(targets, views > 0)
        total[items] += correction.double().exp()
    torch.testing.assert_close(total[[1, 3]] / TIMES, torch.ones(2, dtype=torch.float64), atol=0.15, rtol=0)
