"""Dropout by bytes: the share and the scale it names, eight values from a draw, and nothing outside training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from regard.model.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_share_and_scale(share: float) -> None:
    values = torch.ones(1009, 997, requires_grad=True)
    dropped = Dropout(share)(values)
    rounded = round(share * 256) / 256
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - rounded, abs=0.002)
    assert torch.equal(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - rounded)))
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    assert torch.equal(gradient, dropped)


def test_values_are_dropped_independently() -> None:
    """Neighbours come from one draw of eight bytes, yet know nothing of each other."""
    kept = (Dropout(0.5)(torch.ones(80_000, 8)) > 0).double()
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.02


def test_two_calls_differ_and_a_seed_repeats_them() -> None:
    drop, values = Dropout(0.5), torch.ones(7, 11, 3)
    torch.manual_seed(5)
    first, second = drop(values), drop(values)
    torch.manual_seed(5)
    assert torch.equal(drop(values), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_no_share_changes_nothing(share: float) -> None:
    values = torch.randn(5, 3)
    assert Dropout(share)(values) is values


def test_evaluation_changes_nothing_and_half_precision_stays() -> None:
    values = torch.randn(0, 4, dtype=torch.bfloat16)
    assert Dropout(0.3)(values).shape == (0, 4)
    assert Dropout(0.3)(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Dropout(0.3).eval()(values) is values
    assert functional.dropout(values, 0.3).dtype == values.dtype


def test_a_share_near_one_keeps_the_mean() -> None:
    """It is never rounded up to dropping everything."""
    assert Dropout(0.999)(torch.ones(200_000)).mean().item() == pytest.approx(1, abs=0.2)
