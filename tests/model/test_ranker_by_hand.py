"""What a ranker computes, by plain lines: heads, features, several histories, losses, the catalogue in blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asking import HEADS, ITEMS, WINDOW, draw, ends_of, ranker, with_events
from regard.data.requests import Requests
from regard.model.ranker import Ranker, RankerScorer


def logits(model: Ranker, requests: Requests) -> Tensor:
    with torch.no_grad():
        return model(requests).logits


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("hidden", [0, 4])
def test_a_linear_head_pools_fields_flattens_and_is_linear(outputs: int, hidden: int) -> None:
    """A score per field, softmax over fields, the weighted sum, one linear map: no hidden layer."""
    model = ranker("additive", "all", "linear", heads=1, outputs=outputs, score_hidden=hidden, request_time=False)
    requests = draw([6, 5], requests=1, most=4, seed=1)
    requests = replace(requests, spans=torch.tensor([[1, 6], [0, 3]]))
    table = model.table
    owner, people = requests.request_of_candidate, model.user_attributes
    interests = []
    for row, (low, high) in enumerate(requests.spans.tolist()):
        start = int(requests.histories.offsets[row])
        items = requests.histories.items[start + low : start + high]
        events = table[items] + model.embedding.position[torch.arange(high - low).flip(0)]
        events = events + model.embedding.behaviour[requests.histories.behaviours[start + low : start + high]]
        gaps = requests.histories.times[start + low : start + high].diff().double() / 1e6
        octave = torch.cat([torch.zeros(1), 1 + gaps.log2().floor()]).long().clamp_max(31)
        events = events + model.embedding.gap[octave]
        interests.append(scored(model.interests[0].form, events) @ events)
    fields = torch.stack(
        [
            table[requests.candidates],
            torch.stack(interests)[owner],
            *[vectors[requests.context[owner, at]] for at, vectors in enumerate(model.asked)],
            model.user.item[requests.users[owner]],
            people.values[0][people.codes[0, requests.users[owner]]],
            people.measures[requests.users[owner]] @ people.directions,
        ],
        1,
    )
    assert model.fields == ("item", "history 1", "hour", "device", "user", "user sex", "user age")
    shares = torch.stack([scored(model.head.pool, each) for each in fields])
    pooled = torch.einsum("cf,cfw->cw", shares, fields)
    expected = pooled @ model.head.out.weight.T + model.head.out.bias
    ranked = model(requests, return_weights=True)
    torch.testing.assert_close(ranked.logits, expected)
    torch.testing.assert_close(torch.cat(ranked.fields)[..., 0], shares)


def scored(pooling, vectors: Tensor) -> Tensor:
    """Additive weights of one head, (n, W) -> (n,)."""
    if pooling.hidden is not None:
        vectors = torch.tanh(vectors @ pooling.hidden.weight.T + pooling.hidden.bias)
    return (vectors @ pooling.score.weight[0]).softmax(0)


def test_heads_of_a_linear_head_stand_side_by_side() -> None:
    model = ranker("candidate", "several", "linear")
    requests = draw([2], requests=2, seed=5)
    owner = requests.request_of_candidate
    fields = torch.stack(
        [model.table[requests.candidates], *[v[requests.context[owner, at]] for at, v in enumerate(model.asked)]], 1
    )
    shares = torch.einsum("cfw,hw->cfh", fields, model.head.pool.score.weight).softmax(1)
    flat = torch.cat([(shares[..., head, None] * fields).sum(1) for head in range(HEADS)], 1)
    torch.testing.assert_close(logits(model, requests), model.head.out(flat))


def test_the_mlp_reads_all_features_and_the_product_of_candidate_and_interest() -> None:
    model, requests = ranker("mean"), draw([7], requests=1, most=3, seed=4)
    low, high = requests.spans[0].tolist()
    candidates = model.table[requests.candidates]
    interest = model.table[requests.histories.items[low:high]].mean(0).expand(len(candidates), -1)
    states = torch.cat([candidates, interest, candidates * interest], 1)
    for layer in model.head.layers:
        states = layer(states)
    torch.testing.assert_close(logits(model, requests), states)


def test_the_mlp_reads_the_product_of_the_candidate_with_every_context_column_too() -> None:
    model = ranker("candidate", "several")
    requests = draw([2, 4], requests=2, seed=5)
    for vectors in model.asked:
        torch.nn.init.normal_(vectors)
    candidates, owner = model.table[requests.candidates], requests.request_of_candidate
    moments = [vectors[requests.context[owner, at]] for at, vectors in enumerate(model.asked)]
    assert len(moments) > 1
    states = torch.cat([candidates, *moments, *[candidates * moment for moment in moments]], 1)
    for layer in model.head.layers:
        states = layer(states)
    torch.testing.assert_close(logits(model, requests), states)


def test_several_histories_read_their_own_behaviours_each_with_its_own_length() -> None:
    """The first history: behaviours 1 and 2, the newest two; the second: behaviour 3."""
    model, requests = ranker("mean", "several"), draw([9, 6], requests=2, most=2, seed=7)
    model.embedding.behaviour = None
    means = []
    for at, (low, high) in enumerate(requests.spans.tolist()):
        start = int(requests.histories.offsets[requests.row_of_request[at]])
        seen = list(range(start + low, start + high))
        codes = requests.histories.behaviours.tolist()
        picked = [i for i in seen if codes[i] in (1, 2)][-2:], [i for i in seen if codes[i] == 3]
        rows = [model.table[requests.histories.items[some]].mean(0) for some in picked]
        means.append([row if some else nothing for row, some, nothing in zip(rows, picked, model.nothing, strict=True)])
    found, _ = model._interests(requests, model.table[requests.candidates], model.table, False)
    for nth, mixed in enumerate(found):
        expected = torch.stack([row[nth] for row in means])[requests.request_of_candidate]
        torch.testing.assert_close(mixed, expected)


def test_the_loss_corrects_for_sampling_and_the_prediction_for_what_is_offered() -> None:
    model, requests = ranker("target"), draw([5, 8], seed=2)
    raw = logits(model, requests)[:, 0].float()
    chance = 1 / (1 + torch.exp(requests.log_rates - raw))
    expected = -torch.where(requests.labels > 0, chance, 1 - chance).log().mean()
    torch.testing.assert_close(model.loss(requests), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.predict(requests), chance)
    plain = replace(requests, log_rates=None)
    torch.testing.assert_close(model.predict(plain), torch.sigmoid(raw))


def test_values_are_learned_by_squared_error() -> None:
    model, requests = ranker("target"), draw([5, 8], seed=2)
    model.squared = True
    raw = logits(model, requests)[:, 0].float()
    torch.testing.assert_close(model.predict(requests), raw)
    torch.testing.assert_close(model.loss(requests), ((raw - requests.labels) ** 2).mean())


def test_items_without_training_events_are_read_as_unknown_in_training_too() -> None:
    """Else negatives would teach rows that are never looked at, and nobody would teach the one that is."""
    model, requests = ranker("target"), draw([5, 8], seed=2)
    model.known[3:] = False
    hidden = with_events(requests, {"items": requests.histories.items * (requests.histories.items < 3)})
    hidden = replace(hidden, candidates=requests.candidates * (requests.candidates < 3))
    assert torch.equal(model.predict(requests), model.predict(hidden))
    assert torch.equal(model.loss(requests), model.loss(hidden))
    model.loss(requests).backward()
    assert model.item_embedding.item.grad[0].any()
    assert not model.item_embedding.item.grad[3:].any()


def test_in_training_some_requests_lose_their_context_and_their_user() -> None:
    """So that what stands for `not given` is learned: an answer without --context needs it."""
    model = ranker("candidate", "all").train()
    requests = draw([1] * 300, requests=1, most=1, seed=1)
    requests = replace(requests, context=torch.ones_like(requests.context), users=torch.ones_like(requests.users))
    model.loss(requests).backward()
    assert all(table.grad is not None and table.grad[0].any() for table in [*model.asked, model.user.item])


def test_ranking_given_histories_is_a_request_each() -> None:
    """What a retriever's candidates go through: histories instead of requests, asked at what `asked_at` wrote."""
    model, requests = ranker("target", "all"), draw([WINDOW, 0, 3], requests=1, most=4, seed=6)
    requests = replace(requests, spans=torch.stack([torch.zeros(3), requests.histories.lengths], 1).long())
    full = requests.histories.lengths > 0
    asked = requests.histories.times.clone()
    asked[requests.histories.offsets[1:][full] - 1] = requests.moments[full]
    histories = replace(requests.histories, users=requests.users, request=requests.context, asked=asked)
    with torch.no_grad():
        found = model.rank(histories, requests.candidates, requests.offsets)
    torch.testing.assert_close(found, logits(model, requests)[:, 0].float())


@pytest.mark.parametrize("interest", ["target", "transformer", "candidate"])
def test_the_whole_catalogue_in_blocks_is_each_item_by_itself(interest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = ranker(interest), draw([4, 0, 2], requests=1)
    with torch.no_grad():
        whole = model.scores(requests.histories)
        monkeypatch.setattr("regard.model.ranker._BLOCK", 12)
        torch.testing.assert_close(model.scores(requests.histories), whole)
        assert whole.shape == (3, ITEMS + 1)
        one = model.rank(requests.histories, torch.tensor([9, 9, 9]), ends_of([1, 1, 1]))
    torch.testing.assert_close(whole[:, 9], one)


def test_what_evaluation_sees_of_a_ranker() -> None:
    model, requests = ranker("activation-unit", "all").train(), draw([5, 8, 0], seed=2)
    scorer = RankerScorer(model, torch.device("cpu"))
    assert scorer.uses_request_time
    chances = scorer.probabilities(requests)
    assert model.training  # left as it was
    assert chances.shape == (len(requests.candidates),)
    torch.testing.assert_close(torch.from_numpy(chances), model.eval().predict(requests))
    low = RankerScorer(model.float(), torch.device("cpu"), torch.bfloat16).probabilities(requests)
    assert abs(low - chances).max() < 0.1


def test_half_precision_does_not_make_candidates_tie() -> None:
    model, requests = ranker("target").float(), draw([5, 9, 2])
    with torch.autocast("cpu", torch.bfloat16):
        found = model(requests).logits
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())
