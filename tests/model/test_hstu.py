"""Pointwise attention, biases of time and gated residuals against plain lines from their formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from reference import assert_same
from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.model import maps
from regard.model.attend import attend
from regard.model.blocks import blocks
from regard.model.clock import LAG_BUCKETS, Clock, Clocks, Lags, lag_buckets
from regard.model.encoder import Block
from regard.model.hstu import EPSILON, Unit
from regard.model.maps import looked_up
from regard.model.positions import FAR, LagBias, RelativeBias

WIDTH, HEADS, SECOND = 10, 5, 1_000_000
LENGTHS = [7, 0, 1, 5, 3]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def clock_of(lengths: list[int], asked: bool = False) -> Clock:
    times = torch.cat([torch.randint(0, 10**9, (size,)).cumsum(0) + 10**15 for size in lengths])
    return Clock(lags=Lags(times + torch.randint(0, 10**9, times.shape) if asked else times, times))


def filled(module: nn.Module) -> nn.Module:
    """In double precision, with nothing left at what it begins with."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def bucket_of(microseconds: int) -> int:
    """Two for each octave of seconds, from its edges."""
    edges = [1.0]
    while len(edges) < LAG_BUCKETS - 1:
        edges += [edges[-1] * 1.5, edges[-1] * 2]
    return sum(microseconds / SECOND >= edge for edge in edges[: LAG_BUCKETS - 1])


def biases(places: nn.Module, clock: Clock, rows: slice) -> Tensor:
    """(H, q, k) of one history, pair by pair."""
    assert clock.lags is not None
    queries, keys = clock.lags.queries[rows].tolist(), clock.lags.keys[rows].tolist()
    found = torch.zeros(HEADS, len(queries), len(keys), dtype=torch.float64)
    for q, asked in enumerate(queries):
        for k, time in enumerate(keys):
            if places.relative is not None:
                found[:, q, k] = found[:, q, k] + places.relative.table[:, min(abs(q - k), FAR - 1)]
            if places.lag is not None:
                found[:, q, k] = found[:, q, k] + places.lag.table[:, bucket_of(asked - time)]
    return found


def split(projected: Tensor) -> Tensor:
    """(n, W) -> (H, n, W / H)."""
    return projected.unflatten(1, (HEADS, -1)).transpose(0, 1)


def by_formula(form: Unit, x: Tensor, bias: Tensor) -> Tensor:
    """One unit over one history (n, W)."""
    normed = nn.functional.layer_norm(x, (WIDTH,), form.norm.weight, form.norm.bias, EPSILON)
    raised = normed @ form.project.weight.T
    u, v, q, k = (raised * torch.sigmoid(raised)).chunk(4, 1)
    logits = split(q) @ split(k).mT + bias
    seen = torch.ones(len(x), len(x), dtype=torch.float64).tril()
    weights = logits * torch.sigmoid(logits) * seen / seen.sum(1, keepdim=True)
    mixed = (weights @ split(v)).transpose(0, 1).flatten(1)
    after = nn.functional.layer_norm(mixed, (WIDTH,), form.after.weight, form.after.bias, EPSILON)
    return x + (after * u) @ form.join.weight.T


@pytest.mark.parametrize("positions", ["relative", "none"])
@pytest.mark.parametrize("time_bias", [False, True])
def test_a_unit_is_its_formula(positions: str, time_bias: bool) -> None:
    settings = ModelSettings(name="hstu", width=WIDTH, heads=HEADS, positions=positions, time_bias=time_bias, dropout=0)
    form, clock = filled(Unit(settings)), clock_of(LENGTHS, asked=True)
    x = torch.randn(sum(LENGTHS), WIDTH, dtype=torch.float64, requires_grad=True)
    ours, _ = form(x, offsets_of(LENGTHS), clock, False)
    starts = offsets_of(LENGTHS).tolist()
    rows = [slice(start, start + size) for start, size in zip(starts, LENGTHS, strict=False)]
    theirs = torch.cat([by_formula(form, x[row], biases(form.places, clock, row)) for row in rows])
    assert_same(ours, theirs, [x, *form.parameters()])
    torch.testing.assert_close(form(x, offsets_of(LENGTHS), clock, True)[0], theirs)


@pytest.mark.parametrize("positions", ["relative", "learned"])
def test_self_attention_adds_a_bias_of_time(positions: str) -> None:
    settings = ModelSettings(width=WIDTH, heads=HEADS, positions=positions, time_bias=True)
    form, clock = filled(Block(settings).attention), clock_of(LENGTHS, asked=True)
    x = torch.randn(sum(LENGTHS), WIDTH, dtype=torch.float64, requires_grad=True)
    ours, _ = form(x, offsets_of(LENGTHS), clock)
    theirs, start = [], 0
    for size in LENGTHS:
        row = slice(start, start + size)
        q, k, v = (split(part) for part in (x[row] @ form.project.weight.T).chunk(3, 1))
        logits = q @ k.mT / (WIDTH // HEADS) ** 0.5 + biases(form.places, clock, row)
        logits = logits.masked_fill(torch.ones(size, size, dtype=torch.bool).triu(1), -torch.inf)
        theirs.append((logits.softmax(2) @ v).transpose(0, 1).flatten(1) @ form.join.weight.T)
        start += size
    assert_same(ours, torch.cat(theirs), [x, *form.parameters()])
    torch.testing.assert_close(form(x, offsets_of(LENGTHS), clock, True)[0], torch.cat(theirs))


def test_a_gated_residual_is_its_formula() -> None:
    form = filled(Block(ModelSettings(width=WIDTH, heads=HEADS, residual="gated", dropout=0)))
    x, offsets = torch.randn(sum(LENGTHS), WIDTH, dtype=torch.float64, requires_grad=True), offsets_of(LENGTHS)
    ours, _ = form(x, offsets, None, False)

    def normed(states: Tensor, norm: nn.LayerNorm) -> Tensor:
        return nn.functional.layer_norm(states, (WIDTH,), norm.weight, norm.bias)

    first, second = (lambda states, gate=gate: torch.sigmoid(states @ gate.weight.T + gate.bias) for gate in form.gates)
    states = x + form.attention(normed(x, form.norms[0]), offsets)[0] * first(x)
    up, value = (normed(states, form.norms[1]) @ form.feed_forward.up.weight.T).chunk(2, 1)
    swiglu = (up * torch.sigmoid(up) * value) @ form.feed_forward.down.weight.T
    assert_same(ours, states + swiglu * second(states), [x, *form.parameters()])


# --- time -------------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**60), 2**60) | st.integers(0, 40 * SECOND))
def test_buckets_of_lags_are_two_for_each_octave(microseconds: int) -> None:
    ours = int(lag_buckets(torch.tensor([microseconds])))
    near = {bucket_of(round(microseconds * (1 + error))) for error in (-1e-6, 0, 1e-6)}  # in single precision
    assert ours in near


def test_buckets_at_their_edges() -> None:
    edges = torch.tensor([-5, 0, 999_999, 1, 1.5 * SECOND, 2 * SECOND, 3 * SECOND, 2.0**30 * SECOND, 2.0**61])
    edges[3] = SECOND
    assert lag_buckets(edges.long()).tolist() == [0, 0, 0, 1, 2, 3, 4, 61, LAG_BUCKETS - 1]


def test_a_clock_says_what_the_settings_ask_for() -> None:
    times, asked = torch.tensor([0, 5, 9]), torch.tensor([5, 9, 30])
    batch = Histories(torch.ones(3, dtype=torch.int64), torch.tensor([0, 3]), times=times, asked=asked)
    for settings, queries in (
        ({}, None),
        ({"time_bias": True}, times),
        ({"time_bias": True, "request_time": True}, asked),
    ):
        clock = Clocks(ModelSettings(**settings))(batch)
        assert clock.angles is None
        assert (clock.lags is None) == (queries is None)
        assert clock.lags is None or torch.equal(clock.lags.queries, queries)
    timeless = Histories(batch.items, batch.offsets)
    assert Clocks(ModelSettings(time_bias=True, time_lags=True))(timeless) == Clock()


def test_lags_are_laid_out_row_by_row() -> None:
    times = torch.tensor([0, 4, 10, 0, 1]) * SECOND
    offsets = offsets_of([3, 2])
    (block,) = blocks(offsets, offsets)
    lags = Lags(times, times)
    expected = [bucket_of(lag * SECOND) for lag in (10, 6, 0)]
    assert lags.buckets(block).dtype == torch.uint8  # they are kept for as long as the gradients
    assert lags.buckets(block)[0, 2].tolist() == expected
    assert lags.buckets(block)[1, 1, :2].tolist() == [bucket_of(SECOND), 0]
    assert lags.buckets(block) is lags.buckets(block)


# --- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_looked_up_numbers_add_their_gradients_up(dtype: torch.dtype) -> None:
    table = torch.randn(3, 11, dtype=dtype, requires_grad=True)
    index = torch.randint(0, 9, (2, 5, 7))
    for places in (index, index.to(torch.uint8), index.transpose(1, 2)):
        ours, theirs = looked_up(table, places), table[:, places.long()].transpose(0, 1)
        assert ours.shape == (2, 3, *places.shape[1:])
        assert_same(ours, theirs, [table])


@pytest.mark.parametrize("normalize", ["softmax", "silu"])
@pytest.mark.parametrize("causal", [False, True])
def test_maps_in_pieces_equal_the_written_out_form(
    normalize: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, lengths = 6, [6] * 7
    tensors = [torch.randn(sum(lengths), HEADS, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    shared, own = RelativeBias(HEADS).double(), LagBias(HEADS).double()
    nn.init.normal_(shared.table)
    nn.init.normal_(own.table)
    lags = clock_of(lengths).lags
    assert lags is not None
    offsets = offsets_of(lengths)

    def summed(block, dtype):
        return shared(block, dtype) + own(lags, block, dtype)

    form = {"query_offsets": offsets, "key_offsets": offsets, "causal": causal, "normalize": normalize}
    for bias, tables in ((None, []), (shared, [shared.table]), (summed, [shared.table, own.table])):
        if bias is None and normalize == "softmax":
            continue  # the fused kernel
        for most in (1, 2 * HEADS * size * size, 1 << 20):
            monkeypatch.setitem(maps._PIECE, "cpu", most)
            theirs = attend(*tensors, **form, bias=bias, return_weights=True).values
            assert_same(attend(*tensors, **form, bias=bias).values, theirs, [*tensors, *tables])


@examples(max_examples=10)
@given(lengths=st.lists(st.sampled_from([0, 1, 2, 9, 40]), min_size=1, max_size=5))
@pytest.mark.parametrize(("normalize", "biased"), [("softmax", False), ("softmax", True), ("silu", True)])
def test_half_precision_is_close(normalize: str, biased: bool, lengths: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    offsets, bias = offsets_of(lengths), RelativeBias(HEADS) if biased else None
    if bias is not None:
        nn.init.normal_(bias.table)
    exact = [torch.randn(sum(lengths), HEADS, 8, requires_grad=True) for _ in range(3)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    form = {"query_offsets": offsets, "key_offsets": offsets, "causal": True, "normalize": normalize, "bias": bias}
    ours, theirs = attend(*half, **form).values, attend(*exact, **form).values
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, atol=0.06, rtol=0.06)
    if ours.requires_grad:
        ours.sum().backward()
        assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in half)
