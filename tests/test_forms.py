"""Each form of attention against a few plain tensor lines written from its formula, on padded tensors.

Values and gradients, the weights copied. B rows, L candidates and N events at most in a row, W width, H heads.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reference import assert_same
from regard.model.attention import (
    ActivationUnit,
    AdditivePooling,
    DotAttention,
    DualAttention,
    Projections,
)

B, L, N, W, H = 4, 3, 7, 10, 5
CANDIDATES, EVENTS = [3, 2, 1, 3], [7, 5, 1, 2]


def padded(sizes: list[int], longest: int) -> tuple[Tensor, Tensor]:
    """Return vectors (B, longest, W) with noise in the padding, and which of them are real."""
    real = torch.arange(longest) < torch.tensor(sizes)[:, None]
    return torch.randn(B, longest, W, dtype=torch.float64, requires_grad=True), real


@pytest.fixture
def batch() -> dict[str, Tensor]:
    candidates, real_candidates = padded(CANDIDATES, L)
    events, real_events = padded(EVENTS, N)
    return {"c": candidates, "e": events, "c_real": real_candidates, "e_real": real_events}


def ours(form: nn.Module, query: Tensor, query_real: Tensor, keys: Tensor, keys_real: Tensor) -> tuple[Tensor, Tensor]:
    """Call a form with the real entries of padded tensors; values of the real queries, weights (B, L, N, H) padded."""
    offsets = [
        torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)]) for real in (query_real, keys_real)
    ]
    values, rows = form(
        query[query_real],
        keys[keys_real],
        candidate_offsets=offsets[0],
        event_offsets=offsets[1],
        return_weights=True,
    )
    sizes = query_real.shape[1], keys_real.shape[1]
    weights = [nn.functional.pad(row, (0, 0, 0, sizes[1] - row.shape[1], 0, sizes[0] - row.shape[0])) for row in rows]
    return values, torch.stack(weights)


def attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T) v over real keys: values and weights."""
    logits = scale * q @ k.transpose(-1, -2)
    shares = logits.masked_fill(~real, -torch.inf).softmax(-1)
    return shares @ v, shares


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


# --- projection-free --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_projection_free_self_attention(batch: dict[str, Tensor], scale: float | None) -> None:
    events, real = batch["e"], batch["e_real"]
    values, weights = ours(DotAttention(W, projections="none", scale=scale), events, real, events, real)
    expected, shares = attention(events, events, events, real[:, None], scale or W**-0.5)
    assert_same(values, expected[real], [events])
    torch.testing.assert_close(weights[..., 0][real], shares[real])


@pytest.mark.parametrize("scale", [None, 1.0])
def test_projection_free_target_attention(batch: dict[str, Tensor], scale: float | None) -> None:
    form = DotAttention(W, projections="none", scale=scale)
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    expected, shares = attention(batch["c"], batch["e"], batch["e"], batch["e_real"][:, None], scale or W**-0.5)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"]])
    torch.testing.assert_close(weights[..., 0][batch["c_real"]], shares[batch["c_real"]])


@pytest.mark.parametrize("masked", [False, True])
def test_projection_free_dual_attention_within_the_history_first(batch: dict[str, Tensor], masked: bool) -> None:
    form = DualAttention(W, reading="history", projections="none", causal=masked)
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    keys = batch["e_real"][:, None]
    states, _ = attention(batch["e"], batch["e"], batch["e"], keys & causal(N) if masked else keys, W**-0.5)
    expected, shares = attention(batch["c"], states, states, keys, W**-0.5)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"]])
    torch.testing.assert_close(weights[..., 0][batch["c_real"]], shares[batch["c_real"]])


def test_projection_free_dual_attention_among_the_candidates_first(batch: dict[str, Tensor]) -> None:
    form = DualAttention(W, reading="target", projections="none")
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    queries, _ = attention(batch["c"], batch["c"], batch["c"], batch["c_real"][:, None], W**-0.5)
    expected, shares = attention(queries, batch["e"], batch["e"], batch["e_real"][:, None], W**-0.5)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"]])
    torch.testing.assert_close(weights[..., 0][batch["c_real"]], shares[batch["c_real"]])


# --- activation unit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["event", "pair"])
@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_a_dense_relu_unit(batch: dict[str, Tensor], on, normalize) -> None:
    form = ActivationUnit(W, (), "relu", on=on, normalize=normalize).double()
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    candidate, event = batch["c"][:, :, None].expand(-1, -1, N, -1), batch["e"][:, None].expand(-1, L, -1, -1)
    read = event if on == "event" else torch.cat([event, candidate, event - candidate, event * candidate], -1)
    dense = form.layers[0]
    scores = torch.relu(read @ dense.weight[0] + dense.bias)  # (B, L, N)
    real = batch["e_real"][:, None]
    shares = scores.masked_fill(~real, -torch.inf).softmax(-1) if normalize == "softmax" else scores * real
    expected = shares @ batch["e"]
    tensors = [batch["e"], dense.weight, dense.bias, *([batch["c"]] if on == "pair" else [])]
    assert_same(values, expected[batch["c_real"]], tensors)
    torch.testing.assert_close(weights[..., 0][batch["c_real"]], shares[batch["c_real"]])


@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_the_activation_unit_with_dice_in_training(batch: dict[str, Tensor], normalize) -> None:
    form = ActivationUnit(W, (8, 3), "dice", normalize=normalize).double().train()
    nn.init.uniform_(form.activations[0].alpha)
    values, _ = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    candidate, event = batch["c"][:, :, None].expand(-1, -1, N, -1), batch["e"][:, None].expand(-1, L, -1, -1)
    real = batch["e_real"][:, None] & batch["c_real"][:, :, None]
    state = torch.cat([event, candidate, event - candidate, event * candidate], -1)
    for layer, dice in zip(form.layers, form.activations, strict=False):
        state = state @ layer.weight.T + layer.bias
        mean = state[real].mean(0)
        deviation = (state[real].var(0, correction=0) + 1e-8).sqrt()
        share = torch.sigmoid((state - mean) / deviation)
        state = share * state + (1 - share) * dice.alpha * state
    scores = (state @ form.layers[-1].weight.T + form.layers[-1].bias)[..., 0]
    hidden = ~batch["e_real"][:, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1) if normalize == "softmax" else scores * ~hidden
    expected = (weights @ batch["e"])[batch["c_real"]]
    assert_same(values, expected, [batch["c"], batch["e"], *form.parameters()], atol=1e-8, rtol=1e-6)


# --- multi-head -------------------------------------------------------------------------------------------------------


def test_shared_relu_multi_head(batch: dict[str, Tensor]) -> None:
    form = DotAttention(W, H, projections="shared", activation="relu", join="relu").double()
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    (shared,) = form.projections
    query, keys = (torch.relu(x @ shared.weight.T + shared.bias) for x in (batch["c"], batch["e"]))
    heads, all_shares = [], []
    for at in range(H):
        part = slice(at * W // H, (at + 1) * W // H)
        mixed, shares = attention(
            query[..., part], keys[..., part], keys[..., part], batch["e_real"][:, None], (W // H) ** -0.5
        )
        heads.append(mixed)
        all_shares.append(shares)
    expected = torch.relu(torch.cat(heads, -1) @ form.join.weight.T + form.join.bias)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"], *form.parameters()])
    torch.testing.assert_close(weights[batch["c_real"]], torch.stack(all_shares, -1)[batch["c_real"]])


@pytest.mark.parametrize("heads", [1, H])
@pytest.mark.parametrize("kind", ["self", "target"])
def test_equals_multihead_attention_of_pytorch(batch: dict[str, Tensor], heads: int, kind: str) -> None:
    form = DotAttention(W, heads, join=True).double()
    theirs = nn.MultiheadAttention(W, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
        for own, weight, bias in zip(
            form.projections, theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
        ):
            own.weight.copy_(weight)
            own.bias.copy_(bias)
        form.join.load_state_dict(theirs.out_proj.state_dict())
    events, e_real = batch["e"], batch["e_real"]
    query, q_real = (events, e_real) if kind == "self" else (batch["c"], batch["c_real"])
    values, weights = ours(form, query, q_real, events, e_real)
    expected, shares = theirs(query, events, events, key_padding_mask=~e_real, average_attn_weights=False)
    assert_same(values, expected[q_real], [query, events], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights[q_real], shares.permute(0, 2, 3, 1)[q_real], atol=1e-5, rtol=1e-5)
    towards = torch.randn_like(values)
    again = ours(form, query, q_real, events, e_real)[0], theirs(query, events, events, key_padding_mask=~e_real)[0]
    mine = torch.autograd.grad(again[0], list(form.parameters()), towards)
    other = torch.autograd.grad(again[1][q_real], list(theirs.parameters()), towards)
    in_weight, in_bias, out_weight, out_bias = other
    projected = [part for pair in zip(in_weight.chunk(3), in_bias.chunk(3), strict=True) for part in pair]
    for got, want in zip(mine, [*projected, out_weight, out_bias], strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projections", ["separate", "shared"])
def test_projected_target_attention(batch: dict[str, Tensor], projections: Projections) -> None:
    form = DotAttention(W, projections=projections).double()
    values, _ = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    maps = list(form.projections) * (3 // len(form.projections))
    q, k, v = (x @ own.weight.T + own.bias for own, x in zip(maps, (batch["c"], batch["e"], batch["e"]), strict=True))
    expected, _ = attention(q, k, v, batch["e_real"][:, None], W**-0.5)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"], *form.parameters()])


# --- additive pooling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_additive_pooling_over_a_history(batch: dict[str, Tensor], hidden: int, conditioned: bool, heads: int) -> None:
    if conditioned and not hidden:
        return  # refused, see test_attention.py
    form = AdditivePooling(W, heads, hidden, conditioned).double()
    values, weights = ours(form, batch["c"], batch["c_real"], batch["e"], batch["e_real"])
    state = batch["e"][:, None].expand(-1, L, -1, -1)
    if hidden:
        state = state @ form.hidden.weight.T + form.hidden.bias
        if conditioned:
            state = state + (batch["c"] @ form.condition.weight.T)[:, :, None]
        state = torch.tanh(state)
    scores = state @ form.score.weight.T  # (B, L, N, heads)
    shares = scores.masked_fill(~batch["e_real"][:, None, :, None], -torch.inf).softmax(2)
    expected = torch.cat([shares[..., head] @ batch["e"] for head in range(heads)], -1)
    assert_same(values, expected[batch["c_real"]], [batch["c"], batch["e"], *form.parameters()])
    torch.testing.assert_close(weights[batch["c_real"]], shares[batch["c_real"]])


@pytest.mark.parametrize(("heads", "outputs"), [(1, 1), (2, 3)])
def test_pooled_linear_model(heads: int, outputs: int) -> None:
    """Field vectors, additive pooling, flatten, one linear layer; nothing else."""
    fields = torch.randn(B, 5, W, dtype=torch.float64, requires_grad=True)
    pool, linear = AdditivePooling(W, heads).double(), nn.Linear(heads * W, outputs, dtype=torch.float64)
    pooled, weights = pool.over(fields)
    shares = (fields @ pool.score.weight.T).softmax(1)  # (B, 5, heads)
    expected = (shares.transpose(1, 2) @ fields).reshape(B, -1) @ linear.weight.T + linear.bias
    assert_same(linear(pooled), expected, [fields, *pool.parameters(), *linear.parameters()])
    torch.testing.assert_close(weights, shares)
