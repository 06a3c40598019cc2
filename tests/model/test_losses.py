"""Losses against PyTorch's own cross-entropy and against plain lines."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from regard.model import losses


def equal_with_gradients(ours: torch.Tensor, theirs: torch.Tensor, *of: torch.Tensor) -> None:
    """Equal to the last digit, values and what flows back from three times them."""
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for got, want in zip(torch.autograd.grad(3 * ours, of), torch.autograd.grad(3 * theirs, of), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 7, 1031])
def test_next_item_loss_is_cross_entropy_to_the_last_digit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", 64)
    states = torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (count,))
    ours = losses.next_item_loss(states, table, targets)
    theirs = functional.cross_entropy(states @ table.T, targets, reduction="sum") / max(1, count)
    equal_with_gradients(ours, theirs, states, table)


def test_next_item_loss_in_bfloat16_stays_close() -> None:
    states, table = torch.randn(300, 32, requires_grad=True), torch.randn(97, 32, requires_grad=True)
    targets = torch.randint(97, (300,))
    with torch.autocast("cpu", torch.bfloat16):
        ours = losses.next_item_loss(states, table, targets)
    theirs = functional.cross_entropy(states @ table.T, targets)
    assert abs(ours.item() - theirs.item()) < 0.02 * theirs.item()
    mine, other = torch.autograd.grad(ours, table)[0], torch.autograd.grad(theirs, table)[0]
    assert float((mine - other).norm() / other.norm()) < 0.02


class Sizes(TorchDispatchMode):
    """Notes the shapes of all that is made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.seen |= {
            tuple(one.shape) for one in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(one)
        }
        return made


def full(states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return losses.next_item_loss(states, table, targets)


def sampled(states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    drawn = torch.arange(len(table))
    return losses.sampled_next_item_loss(states, table, targets, drawn, torch.zeros(len(drawn)))


BOTH = pytest.mark.parametrize("loss", [full, sampled])


@BOTH
def test_logits_live_a_tile_at_a_time(loss: Any) -> None:
    states, table = torch.randn(2000, 2, requires_grad=True), torch.randn(3000, 2, requires_grad=True)
    with Sizes() as sizes:
        loss(states, table, torch.randint(3000, (2000,))).backward()
    assert max(math.prod(shape) for shape in sizes.seen) <= 512 * 3001


def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    states, table, targets = torch.randn(1000, 2), torch.randn(30, 2), torch.randint(30, (1000,))
    with torch.no_grad(), Sizes() as sizes:
        full(states, table, targets)
    assert not sizes.seen & {states.shape, table.shape}


@BOTH
@pytest.mark.parametrize("sure", [0.9, 0.99, 0.998, 0.9995, 0.99999])
def test_a_sure_target_has_its_loss_and_gradient_in_bfloat16_too(loss: Any, sure: float) -> None:
    logit = torch.tensor(math.log(sure / (1 - sure)) + math.log(2)).bfloat16().float()
    states = torch.ones(1, 2).requires_grad_()
    table = torch.tensor([[logit, 0.0], [0.0, 0.0], [0.0, 0.0]]).requires_grad_()  # numbers that bfloat16 has
    target = torch.zeros(1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        ours = loss(states, table, target)
    double = states.detach().double().requires_grad_(), table.detach().double().requires_grad_()
    theirs = functional.cross_entropy(double[0] @ double[1].T, target)
    torch.testing.assert_close(ours.double(), theirs, rtol=0.01, atol=0)
    mine, other = torch.autograd.grad(ours, (states, table)), torch.autograd.grad(theirs, double)
    for got, want in zip(mine, other, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0.02, atol=1e-9)


def sampled_one_by_one(
    states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, correction: torch.Tensor
) -> torch.Tensor:
    """One state at a time, one negative at a time."""
    total = states.sum() * 0 + table.sum() * 0
    for state, target in zip(states, targets.tolist(), strict=True):
        under = torch.exp(state @ table[target])
        for item, added in zip(negatives.tolist(), correction, strict=True):
            if item != target:
                under = under + torch.exp(state @ table[item] + added)
        total = total - torch.log(torch.exp(state @ table[target]) / under)
    return total / max(1, len(states))


@pytest.mark.parametrize(("count", "drawn"), [(0, 0), (0, 3), (1, 0), (1, 1), (7, 4), (29, 11)])
def test_sampled_loss_is_that_of_plain_lines_to_the_last_digit(
    count: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_TILE", 5)
    states = torch.randn(count, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    targets, negatives = torch.randint(11, (count,)), torch.randperm(11)[:drawn].sort().values
    told = states, table, targets, negatives, torch.randn(drawn, dtype=torch.float64)
    ours, theirs = losses.sampled_next_item_loss(*told), sampled_one_by_one(*told)
    equal_with_gradients(ours, theirs, states, table)


def test_a_state_whose_target_is_the_only_negative_learns_nothing() -> None:
    states, table = torch.randn(2, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = losses.sampled_next_item_loss(states, table, torch.tensor([4, 4]), torch.tensor([4]), torch.zeros(1))
    loss.backward()
    assert loss == 0
    assert states.grad is not None
    assert not states.grad.any()


def test_sampled_loss_with_every_item_as_negative_is_the_full_softmax() -> None:
    states = torch.randn(13, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (13,))
    ours = losses.sampled_next_item_loss(states, table, targets, torch.arange(7), torch.zeros(7))
    theirs = functional.cross_entropy(states @ table.T, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, table)[0] for loss in (ours, theirs)))


def test_sampled_loss_in_bfloat16_stays_close() -> None:
    states, table = torch.randn(300, 32, requires_grad=True), torch.randn(97, 32, requires_grad=True)
    told = torch.randint(97, (300,)), torch.arange(3, 80), torch.full((77,), 2.5)
    with torch.autocast("cpu", torch.bfloat16):
        ours = losses.sampled_next_item_loss(states, table, *told)
    theirs = losses.sampled_next_item_loss(states, table, *told)
    assert abs(ours.item() - theirs.item()) < 0.02 * theirs.item()
    for mine, other in zip(
        torch.autograd.grad(ours, (states, table)), torch.autograd.grad(theirs, (states, table)), strict=True
    ):
        assert float((mine - other).norm() / other.norm()) < 0.02
