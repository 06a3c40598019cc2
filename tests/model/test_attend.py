"""`attend` against a loop over rows, and self-attention against PyTorch's own module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reference import assert_same, attend_query_by_query, attend_row_by_row
from regard.model.attend import Normalize, attend, mix, pairs, pool
from regard.model.attention import SelfAttention
from regard.model.blocks import Block

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 5, 7, 13]), min_size=1, max_size=7)
HEADS, WIDTH, VALUES = 3, 5, 7  # primes, so that no axis can stand for another


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def distance(query: Tensor, key: Tensor) -> Tensor:
    return torch.stack([-0.1 * (head + 1) * (query - key).abs().double() for head in range(HEADS)])


def distances(block: Block, dtype: torch.dtype) -> Tensor:
    """The same as `attend` asks for it."""
    return distance(*block.places).to(dtype)[None]


@given(
    LENGTHS,
    st.data(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["softmax", "none", "silu"]),
    st.booleans(),
)
def test_equals_a_loop_over_rows(
    lengths: list[int], data: st.DataObject, causal: bool, biased: bool, normalize: Normalize, weights: bool
) -> None:
    keys = lengths if causal else [data.draw(st.sampled_from([0, 1, 4, 11])) for _ in lengths]
    torch.manual_seed(sum(lengths))
    tensors = [
        torch.randn(sum(rows), HEADS, width, dtype=torch.float64, requires_grad=True)
        for rows, width in ((lengths, WIDTH), (keys, WIDTH), (keys, VALUES))
    ]
    places = {"query_offsets": offsets_of(lengths), "key_offsets": offsets_of(keys)}
    form = {"causal": causal, "normalize": normalize}
    ours = attend(*tensors, **places, **form, bias=distances if biased else None, return_weights=weights)
    theirs, expected = attend_row_by_row(*tensors, **places, **form, bias=distance if biased else None)
    torch.testing.assert_close(ours.values, theirs)
    towards = torch.randn_like(theirs)
    if not ours.values.requires_grad:  # no query met a key: nothing depends on anything
        assert not theirs.any()
        return
    for got, want in zip(
        torch.autograd.grad(ours.values, tensors, towards, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(theirs, tensors, towards, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
    if weights:
        assert ours.weights is not None
        for got, want in zip(ours.weights, expected, strict=True):
            torch.testing.assert_close(got.reshape(want.shape), want)


def test_a_row_does_not_see_its_batch_mates() -> None:
    lengths, alone = [5, 11, 2, 7], 2
    x = torch.randn(sum(lengths), HEADS, WIDTH)
    offsets = offsets_of(lengths)
    together = attend(x, x, x, query_offsets=offsets, key_offsets=offsets, causal=True).values
    own = slice(int(offsets[alone]), int(offsets[alone + 1]))
    single = offsets_of([lengths[alone]])
    apart = attend(x[own], x[own], x[own], query_offsets=single, key_offsets=single, causal=True).values
    torch.testing.assert_close(together[own], apart)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_empty_rows_give_finite_gradients(dtype: torch.dtype) -> None:
    lengths = [0, 3, 0, 1]
    offsets = offsets_of(lengths)
    for weights in (False, True):
        x = torch.randn(4, HEADS, WIDTH, dtype=dtype, requires_grad=True)
        given = attend(x, x, x, query_offsets=offsets, key_offsets=offsets, return_weights=weights).values
        given.sum().backward()
        assert x.grad is not None
        assert torch.isfinite(given).all()
        assert torch.isfinite(x.grad).all()


def test_dropout_keeps_the_mean_and_spares_evaluation_paths() -> None:
    offsets = offsets_of([4000])
    query, keys = torch.zeros(4000, 1, 2), torch.zeros(4000, 1, 2)
    values = torch.ones(4000, 1, 1)
    dropped = attend(query[:50], keys, values, query_offsets=offsets_of([50]), key_offsets=offsets, dropout=0.5).values
    assert abs(float(dropped.mean()) - 1) < 0.01
    assert float(dropped.std()) > 0


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_pytorch(causal: bool) -> None:
    width, heads, lengths = 21, 3, [7, 1, 5]
    ours = SelfAttention(width, heads, causal).double()
    theirs = nn.MultiheadAttention(width, heads, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project.weight)
        theirs.out_proj.weight.copy_(ours.join.weight)
    x = torch.randn(sum(lengths), width, dtype=torch.float64, requires_grad=True)
    values, weights = ours(x, offsets_of(lengths), return_weights=True)
    assert weights is not None
    for row, (part, own) in enumerate(zip(x.split(lengths), values.split(lengths), strict=True)):
        size = lengths[row]
        mask = torch.ones(size, size, dtype=torch.bool).triu(1) if causal else None
        expected, shares = theirs(part[None], part[None], part[None], attn_mask=mask, average_attn_weights=False)
        torch.testing.assert_close(own, expected[0], atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(weights[row].permute(2, 0, 1), shares[0], atol=1e-10, rtol=1e-8)
        (mine,) = torch.autograd.grad(own.square().sum(), x, retain_graph=True)
        (other,) = torch.autograd.grad(expected.square().sum(), x, retain_graph=True)
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-8)


def spans_of(queries: list[int], keys: list[int], data: st.DataObject) -> Tensor:
    """A part, possibly empty, of the keys of its row for every query."""
    bounds = [
        sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
        for q, k in zip(queries, keys, strict=True)
        for _ in range(q)
    ]
    return torch.tensor(bounds, dtype=torch.int64).reshape(-1, 2)


def same_weights(ours: list[Tensor] | None, theirs: list[Tensor]) -> None:
    assert ours is not None
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.reshape(want.shape).double(), want)


@given(LENGTHS, st.data(), st.booleans(), st.booleans(), st.sampled_from(["softmax", "none", "silu"]), st.booleans())
@settings(max_examples=15)
def test_spans_equal_a_loop_over_queries(
    lengths: list[int], data: st.DataObject, causal: bool, biased: bool, normalize: Normalize, weights: bool
) -> None:
    keys = lengths if causal else [data.draw(st.sampled_from([0, 1, 4, 11])) for _ in lengths]
    spans = spans_of(lengths, keys, data)
    torch.manual_seed(sum(lengths))
    query, key, value = tensors = [
        torch.randn(sum(rows), HEADS, width, dtype=torch.float64, requires_grad=True)
        for rows, width in ((lengths, WIDTH), (keys, WIDTH), (keys, VALUES))
    ]
    places = {"query_offsets": offsets_of(lengths), "key_offsets": offsets_of(keys), "spans": spans}
    inside = [torch.cat([torch.arange(size) for size in sizes]) for sizes in (lengths, keys)]

    def logits(q: int, k: int) -> Tensor:
        dots = (query[q] * key[k]).sum(-1) / WIDTH**0.5
        return dots + distance(inside[0][q], inside[1][k]) if biased else dots

    form = {"causal": causal, "normalize": normalize}
    ours = attend(*tensors, **places, **form, bias=distances if biased else None, return_weights=weights)
    theirs, expected = attend_query_by_query(logits, value, **places, **form)
    assert_same(ours.values, theirs, tensors)
    if weights:
        same_weights(ours.weights, expected)


@given(LENGTHS, st.data(), st.booleans(), st.sampled_from(["softmax", "none"]), st.booleans())
@settings(max_examples=15)
def test_mixing_given_logits_equals_a_loop_over_queries(
    lengths: list[int], data: st.DataObject, spanned: bool, normalize: Normalize, weights: bool
) -> None:
    keys = [data.draw(st.sampled_from([0, 1, 4, 11])) for _ in lengths]
    spans = spans_of(lengths, keys, data) if spanned else None
    offsets = {"query_offsets": offsets_of(lengths), "key_offsets": offsets_of(keys)}
    listed = pairs(**offsets, spans=spans)
    torch.manual_seed(sum(lengths))
    logits = torch.randn(len(listed.key), HEADS, dtype=torch.float64, requires_grad=True)
    values = torch.randn(sum(keys), HEADS, VALUES, dtype=torch.float64, requires_grad=True)
    place = {pair: at for at, pair in enumerate(zip(listed.query.tolist(), listed.key.tolist(), strict=True))}
    assert list(place) == sorted(place), "query after query, keys in order"
    ours = mix(logits, values, pairs=listed, **offsets, normalize=normalize, return_weights=weights)
    theirs, expected = attend_query_by_query(
        lambda q, k: logits[place[q, k]], values, **offsets, spans=spans, normalize=normalize
    )
    assert_same(ours.values, theirs, [logits, values])
    if weights:
        same_weights(ours.weights, expected)


@given(LENGTHS, st.data(), st.sampled_from(["softmax", "none"]), st.booleans())
@settings(max_examples=15)
def test_pooling_by_scores_of_keys_equals_a_loop_over_queries(
    lengths: list[int], data: st.DataObject, normalize: Normalize, weights: bool
) -> None:
    keys = [data.draw(st.sampled_from([0, 1, 4, 11])) for _ in lengths]
    rows = {
        "query_offsets": offsets_of(lengths),
        "key_offsets": offsets_of(keys),
        "spans": spans_of(lengths, keys, data),
    }
    scores = torch.randn(sum(keys), HEADS, dtype=torch.float64, requires_grad=True)
    values = torch.randn(sum(keys), HEADS, VALUES, dtype=torch.float64, requires_grad=True)
    ours = pool(scores, values, **rows, normalize=normalize, return_weights=weights)
    theirs, expected = attend_query_by_query(lambda q, k: scores[k], values, **rows, normalize=normalize)
    assert_same(ours.values, theirs, [scores, values])
    if weights:
        same_weights(ours.weights, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_empty_spans_give_finite_gradients(dtype: torch.dtype) -> None:
    offsets = offsets_of([0, 3, 0, 2])
    spans = torch.tensor([[0, 0], [1, 3], [2, 2], [0, 0], [0, 1]])
    listed = pairs(offsets, offsets, spans)
    for weights in (False, True):
        x = torch.randn(5, HEADS, WIDTH, dtype=dtype, requires_grad=True)
        logits = torch.randn(len(listed.key), HEADS, dtype=dtype, requires_grad=True)
        places = {"query_offsets": offsets, "key_offsets": offsets, "return_weights": weights}
        for got in (attend(x, x, x, **places, spans=spans), mix(logits, x, pairs=listed, **places)):
            assert got.values.dtype == dtype
            assert not got.values[[0, 2, 3]].any()
            assert got.values[[1, 4]].all()
            got.values.sum().backward()
            assert x.grad is not None
            assert torch.isfinite(x.grad).all()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_half_precision_is_close_to_a_loop() -> None:
    lengths = [3, 7, 1]
    offsets = offsets_of(lengths)
    spans = torch.tensor([[0, 2], [1, 3], [0, 0], *[[at // 2, at + 1] for at in range(7)], [0, 1]])
    x = torch.randn(11, HEADS, WIDTH)
    theirs, _ = attend_query_by_query(
        lambda q, k: (x[q] * x[k]).sum(-1) / WIDTH**0.5, x, query_offsets=offsets, key_offsets=offsets, spans=spans
    )
    half = x.bfloat16()
    for weights in (False, True):
        ours = attend(
            half, half, half, query_offsets=offsets, key_offsets=offsets, spans=spans, return_weights=weights
        ).values
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0.05)
