"""Interests by name: each against the form it stands for, on one history at a time, by plain lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from asking import HEADS, INTEREST, WIDTH, draw
from regard.config import ModelSettings
from regard.data.requests import Requests
from regard.errors import SettingsError
from regard.model.interest import build_interest

every = pytest.mark.parametrize("interest", [name for name in INTEREST if name != "candidate"])


def built(interest: str, **changes: Any) -> nn.Module:
    torch.manual_seed(1)
    body = {"width": WIDTH, "heads": HEADS, "blocks": 1, "positions": "none", **INTEREST[interest], **changes}
    made = build_interest(ModelSettings(**body))
    assert made is not None
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double().eval()


def asked(lengths: list[int], **how: Any) -> tuple[Requests, Tensor, Tensor]:
    """Requests that read from the beginning of their rows, and vectors of candidates and events."""
    requests = draw(lengths, **how)
    requests = replace(requests, spans=requests.spans * torch.tensor([0, 1]))
    count, total = len(requests.candidates), len(requests.histories.items)
    return requests, torch.randn(count, WIDTH).double(), torch.randn(total, WIDTH).double()


def one_by_one(requests: Requests, candidates: Tensor, events: Tensor, by_hand: Callable[[Tensor, Tensor], Tensor]):
    """What plain lines say of each request: (c, W), (t, W) -> (c, out). Nothing is asked of an empty history."""
    rows = []
    for at, own in enumerate(candidates.split(requests.offsets.diff().tolist())):
        start = requests.histories.offsets[requests.row_of_request[at]]
        low, high = (start + requests.spans[at]).tolist()
        rows.append((requests.offsets[at : at + 2].tolist(), by_hand(own, events[low:high]) if high > low else None))
    return rows


def assert_each(found: Tensor, rows: list[tuple[list[int], Tensor | None]]) -> None:
    assert sum(expected is not None for _, expected in rows) >= 3
    for (start, stop), expected in rows:
        if expected is not None:
            torch.testing.assert_close(found[start:stop], expected)


@pytest.mark.parametrize("interest", ["gru", "lstm"])
def test_recurrent_interests_are_the_last_state_of_the_network(interest: str) -> None:
    model = built(interest, dropout=0.0)
    requests, candidates, events = asked([5, 0, 3], requests=3)
    layers, norm = model.encoder.layers, model.encoder.norm

    def by_hand(own: Tensor, read: Tensor) -> Tensor:
        return norm(layers(read[:, None])[0][-1]).expand(len(own), -1)

    assert_each(model(candidates, events, requests, False)[0], one_by_one(requests, candidates, events, by_hand))


def test_seq2seq_sums_attention_over_what_a_second_network_wrote() -> None:
    model = built("seq2seq")
    requests, candidates, events = asked([5, 0, 3], requests=3)
    encoder = model.encoder

    def by_hand(own: Tensor, read: Tensor) -> Tensor:
        written = encoder.writer(encoder.reader(read[:, None])[0])[0][:, 0]
        query, keys, values = encoder.attention.project(written).unflatten(-1, (3, HEADS, -1)).unbind(1)
        logits = torch.einsum("qhd,khd->hqk", query, keys) / (WIDTH / HEADS) ** 0.5
        causal = torch.ones(logits.shape[1:], dtype=torch.bool).tril()
        shares = logits.masked_fill(~causal, -torch.inf).softmax(-1)
        mixed = encoder.attention.join(torch.einsum("hqk,khd->qhd", shares, values).flatten(1))
        return encoder.norm(mixed.sum(0)).expand(len(own), -1)

    assert_each(model(candidates, events, requests, False)[0], one_by_one(requests, candidates, events, by_hand))


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_transformer_appends_the_candidate_and_looks_at_its_place(blocks: int) -> None:
    model = built("transformer", blocks=blocks, feed_forward="plain")
    requests, candidates, events = asked([5, 0, 3], requests=3)

    def by_hand(own: Tensor, read: Tensor) -> Tensor:
        states = torch.cat([read.expand(len(own), -1, -1), own[:, None]], 1)
        for block in model.blocks:
            query, keys, values = (
                block.attention.project(block.norms[0](states)).unflatten(-1, (3, HEADS, -1)).unbind(2)
            )
            mixed = functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, keys, values)))
            states = states + block.attention.join(mixed.transpose(1, 2).flatten(2))
            raised = functional.gelu(block.feed_forward.up(block.norms[1](states)))
            states = states + block.feed_forward.down(raised)
        return model.norm(states[:, -1])

    assert_each(model(candidates, events, requests, False)[0], one_by_one(requests, candidates, events, by_hand))


def test_a_transformer_weighs_events_as_its_last_block_does() -> None:
    """The candidate's weight on itself is what is missing to 1."""
    model = built("transformer")
    requests, candidates, events = asked([4], requests=1, most=4)
    requests = replace(requests, spans=torch.tensor([[0, 4]]))
    _, weights = model(candidates, events, requests, True)
    states = torch.cat([events.expand(len(candidates), -1, -1), candidates[:, None]], 1)
    block = model.blocks[0]
    query, keys, _ = block.attention.project(block.norms[0](states)).unflatten(-1, (3, HEADS, -1)).unbind(2)
    logits = torch.einsum("chd,ckhd->ckh", query[:, -1], keys) / (WIDTH / HEADS) ** 0.5
    assert len(candidates) > 1
    torch.testing.assert_close(weights[0], logits.softmax(1)[:, :-1].float())


def test_settings_reach_the_form() -> None:
    """Target attention without projections, from the formula; the scale is that of the settings."""
    for scale in (0.0, 0.3):
        model = built("target, projection-free", scale=scale)
        requests, candidates, events = asked([5, 0, 3], requests=3)

        def by_hand(own: Tensor, read: Tensor, factor: float = scale or WIDTH**-0.5) -> Tensor:
            return (factor * own @ read.T).softmax(1) @ read

        assert_each(model(candidates, events, requests, False)[0], one_by_one(requests, candidates, events, by_hand))


def test_list_wise_attention_stays_within_a_request() -> None:
    """Candidates of one row, but of two requests, do not see each other."""
    model = built("dual, list-wise", heads=1, projections="none")
    requests, candidates, events = asked([5, 3, 4], requests=3)

    def by_hand(own: Tensor, read: Tensor) -> Tensor:
        scale = WIDTH**-0.5
        own = (scale * own @ own.T).softmax(1) @ own
        return (scale * own @ read.T).softmax(1) @ read

    assert_each(model(candidates, events, requests, False)[0], one_by_one(requests, candidates, events, by_hand))


@every
def test_batch_mates_may_be_anything(interest: str) -> None:
    """Even NaN in another row changes nothing here."""
    model = built(interest)
    requests, candidates, events = asked([4, 6, 0, 3], requests=2, seed=3)
    expected, _ = model(candidates, events, requests, False)
    mine = slice(*requests.candidate_row_offsets[1:3].tolist())
    spoiled = torch.full_like(events, torch.nan)
    own = slice(*requests.histories.offsets[1:3].tolist())
    spoiled[own] = events[own]
    found, _ = model(candidates, spoiled, requests, False)
    reads = (requests.candidate_spans[mine, 1] > 0)[:, None]
    assert reads.any()
    torch.testing.assert_close(found[mine].where(reads, 0), expected[mine].where(reads, 0))


@every
def test_no_candidates_and_no_events_are_fine(interest: str) -> None:
    model = built(interest)
    for lengths, most in (([3, 0], 0), ([0, 0], 3)):
        requests, candidates, events = asked(lengths, most=most)
        for weighed in (False, True):
            found, weights = model(candidates, events, requests, weighed)
            assert found.shape == (len(candidates), model.out_width)
            assert found.isfinite().all()
            assert weights is None or len(weights) == len(lengths)


@every
def test_gradients_reach_candidates_and_events(interest: str) -> None:
    model = built(interest)
    requests, candidates, events = asked([4, 5], requests=2, seed=1)
    requests = replace(requests, spans=torch.tensor([[0, 4], [0, 4], [0, 5], [0, 2]]))
    candidates.requires_grad_()
    events.requires_grad_()
    found, _ = model(candidates, events, requests, False)
    (found * torch.randn(model.out_width)).sum().backward()
    assert events.grad.any(1).all()
    blind = interest in ("mean", "additive", "unit on the event", "gru", "lstm", "seq2seq")
    assert (candidates.grad is None) if blind else candidates.grad.any(1).all()


def test_candidates_appended_to_histories_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and weights do not depend on how many pieces there are."""
    requests, candidates, events = asked([9, 0, 4], requests=3)
    found = []
    for size in (10**6, 7):
        monkeypatch.setattr("regard.model.interest._PIECE", size)
        model, inputs = built("transformer"), [candidates.clone().requires_grad_(), events.clone().requires_grad_()]
        values, _ = model(*inputs, requests, False)
        values.square().sum().backward()
        grads = [each.grad for each in [*inputs, *model.parameters()]]
        found.append([values.detach(), *grads, *model(*inputs, requests, True)[1]])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(whole, pieces)


def test_in_pieces_dropout_is_the_same_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is made again for its gradient: with other dropout it would be the gradient of something else."""
    monkeypatch.setattr("regard.model.interest._PIECE", 7)
    model = built("transformer", dropout=0.5).train()
    requests, candidates, events = asked([9, 4], requests=3)
    direction = torch.randn_like(events)

    def value(step: float) -> Tensor:
        torch.manual_seed(5)
        inputs = (events + step * direction).requires_grad_()
        total: Tensor = model(candidates, inputs, requests, False)[0].square().sum()
        if not step:
            total.backward()
            assert inputs.grad is not None
            slopes.append((inputs.grad * direction).sum())
        return total.detach()

    slopes: list[Tensor] = []
    value(0.0)
    torch.testing.assert_close(slopes[0], (value(1e-6) - value(-1e-6)) / 2e-6, rtol=1e-4, atol=1e-4)


def test_an_unknown_interest_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'transformer'"):
        build_interest(ModelSettings(interest="transfomer"))
    assert build_interest(ModelSettings(interest="candidate")) is None
