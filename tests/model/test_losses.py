"""Losses against PyTorch's own cross-entropy and against plain lines."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from regard.model import losses


@pytest.mark.parametrize("count", [0, 1, 7, 1031])
def test_next_item_loss_is_cross_entropy_to_the_last_digit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", 64)
    states = torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (count,))
    ours = losses.next_item_loss(states, table, targets)
    theirs = functional.cross_entropy(states @ table.T, targets, reduction="sum") / max(1, count)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for got, want in zip(
        torch.autograd.grad(3 * ours, (states, table)), torch.autograd.grad(3 * theirs, (states, table)), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_next_item_loss_in_bfloat16_stays_close() -> None:
    states, table = torch.randn(300, 32, requires_grad=True), torch.randn(97, 32, requires_grad=True)
    targets = torch.randint(97, (300,))
    with torch.autocast("cpu", torch.bfloat16):
        ours = losses.next_item_loss(states, table, targets)
    theirs = functional.cross_entropy(states @ table.T, targets)
    assert abs(ours.item() - theirs.item()) < 0.02 * theirs.item()
    mine, other = torch.autograd.grad(ours, table)[0], torch.autograd.grad(theirs, table)[0]
    assert float((mine - other).norm() / other.norm()) < 0.02


def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    with torch.no_grad():
        assert torch.isfinite(losses.next_item_loss(torch.randn(3, 2), torch.randn(5, 2), torch.tensor([0, 4, 2])))


def test_sampled_loss_with_every_item_as_negative_is_the_full_softmax() -> None:
    states = torch.randn(13, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (13,))
    everything = torch.arange(7)
    ours = losses.sampled_next_item_loss(states, table, targets, everything)
    # each state has 6 real negatives and 7 draws: the correction is log(6 / 7)
    logits = states @ table.T + torch.log(torch.tensor(6 / 7, dtype=torch.float64))
    logits = logits.scatter(1, targets[:, None], (states @ table.T).gather(1, targets[:, None]))
    theirs = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, table)[0] for loss in (ours, theirs)))
