"""Traps that models over histories have fallen into elsewhere: masks, padding, batches, labels; see docs/traps.md.

Requests are made by hand, every interest is asked. What other files already test is not tested again here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.data.requests import Requests
from regard.data.shape import Shape
from regard.model.attend import attend, pool
from regard.model.attention import Mean
from regard.model.interest import INTERESTS
from regard.model.ranker import Ranker
from regard.model.retriever import Retriever
from regard.model.twostage import TwoStage

DAY = 86_400_000_000
ITEMS = 19
LENGTHS = [6, 0, 4, 1]  # of rows of history
SPANS = [[[0, 0], [0, 3], [2, 6]], [[0, 0]], [[1, 3], [0, 4]], [[0, 1]]]  # what the requests of each row read
CANDIDATES = 3  # of each request, the first one positive
every_interest = pytest.mark.parametrize("interest", INTERESTS)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def asked(lengths: list[int] = LENGTHS, spans: list[list[list[int]]] = SPANS, many: int = CANDIDATES) -> Requests:
    """Requests over rows of history, as a loader of a log with two behaviours gives them."""
    events, requests = sum(lengths), sum(map(len, spans))
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor([len(row) for row in spans]))
    histories = Histories(
        items=torch.randint(1, ITEMS + 1, (events,)),
        offsets=offsets_of(lengths),
        behaviours=1 + torch.arange(events) % 2,
        times=torch.arange(events) ** 2 * DAY,
        users=1 + torch.arange(len(lengths)),
    )
    return Requests(
        histories=histories,
        row_offsets=offsets_of([len(row) for row in spans]),
        spans=torch.tensor([span for row in spans for span in row]),
        candidates=torch.randint(1, ITEMS + 1, (requests * many,)),
        offsets=offsets_of([many] * requests),
        labels=(torch.arange(requests * many) % many == 0).float(),
        log_rates=torch.full((requests * many,), -1.5),
        context=None,
        users=1 + owner,
        moments=torch.full((requests,), (events + 1) ** 2 * DAY),
    )


def ranker(interest: str = "target", shape: Shape | None = None, squared: bool = False, **changes: object) -> Ranker:
    """A small ranker in which nothing is zero, so that nothing is equal by accident."""
    told = {"name": "ranker", "interest": interest, "width": 8, "heads": 2, "window": 6, "dropout": 0.0, **changes}
    model = Ranker(shape or Shape(ITEMS, behaviours=2, users=9), ModelSettings(**told), squared)
    model.known.fill_(True)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.2 * torch.randn_like(each))
    return model


def tensors(batch: Requests) -> dict[str, Tensor]:
    return {name: each for name, each in {**vars(batch), **vars(batch.histories)}.items() if isinstance(each, Tensor)}


def gradients(model: Ranker) -> dict[str, Tensor | None]:
    return {name: each.grad for name, each in model.named_parameters()}


def test_the_future_has_no_weight_however_loud_it_is() -> None:
    lengths = [5, 3, 2]
    loud = (
        torch.cat([torch.arange(float(size)) for size in lengths])[:, None, None]
        * torch.tensor([100.0, -100.0])[:, None]
    )
    values, rows = torch.randn(10, 2, 3), {"query_offsets": offsets_of(lengths), "key_offsets": offsets_of(lengths)}
    fused = attend(torch.ones(10, 2, 1), loud, values, **rows, causal=True).values
    told = attend(torch.ones(10, 2, 1), loud, values, **rows, causal=True, return_weights=True)
    torch.testing.assert_close(fused, told.values)
    assert told.weights is not None
    for start, weights in zip(rows["key_offsets"].tolist(), told.weights, strict=False):
        size = len(weights)
        expected = torch.stack([torch.eye(size), torch.zeros(size, size).index_fill(1, torch.tensor([0]), 1.0)], -1)
        torch.testing.assert_close(weights, expected)  # the loudest of the past: the event itself, or the first one
        torch.testing.assert_close(fused[start], values[start])


def test_a_short_history_beside_a_long_one_keeps_all_of_its_weight() -> None:
    offsets = offsets_of([3, 2])  # of one length class: laid out together, the shorter one padded
    quiet = {"query_offsets": offsets_of([1, 1]), "key_offsets": offsets}
    found = pool(torch.full((5, 1), -60.0), torch.ones(5, 1, 1), **quiet, return_weights=True)
    assert found.weights is not None
    for weights, size in zip(found.weights, (3, 2), strict=True):
        torch.testing.assert_close(weights, torch.full((1, size, 1), 1 / size))
    torch.testing.assert_close(found.values, torch.ones(2, 1, 1))


def test_a_mean_counts_and_adds_the_events_read_and_no_others() -> None:
    events = 100 + torch.randn(9, 4)
    spans = torch.tensor([[0, 5], [3, 5], [1, 4], [0, 0]])
    rows = {"query_offsets": offsets_of([2, 2]), "key_offsets": offsets_of([5, 4]), "spans": spans}
    called = {"candidate_offsets": rows["query_offsets"], "event_offsets": rows["key_offsets"], "spans": spans}
    mixed, _ = Mean(4)(torch.zeros(4, 4), events, **called)
    whole = [events[0:5], events[3:5], events[6:9]]
    torch.testing.assert_close(mixed, torch.stack([*(part.mean(0) for part in whole), torch.zeros(4)]))
    ones = torch.ones(9, 1, 1)
    shared = attend(torch.ones(4, 1, 1), ones, events[:, None], **rows, normalize="silu", scale=1.0).values[:, 0]
    torch.testing.assert_close(shared, mixed * torch.nn.functional.silu(torch.tensor(1.0)))


def two_stages() -> tuple[TwoStage, Histories]:
    shape = Shape(ITEMS, context={"hour": 5, "device": 3})
    first = Retriever(Shape(ITEMS, context={"device": 3}), ModelSettings(width=8, window=6))
    second = ranker(shape=shape)
    first.known.fill_(True)
    model = TwoStage(first.eval(), second.eval(), filter_seen=True, depth=7)
    items = torch.cat([torch.arange(1, ITEMS - 1), torch.tensor([3, 5])])  # one user has all but two items
    codes = torch.tensor([[4, 1], [5, 2]])
    return model, Histories(items, offsets_of([ITEMS - 2, 2]), request=codes, users=torch.tensor([1, 2]))


def test_what_fills_a_list_up_is_never_above_what_was_found() -> None:
    model, histories = two_stages()
    with torch.no_grad():
        model.ranker.head.layers[-1].bias.sub_(1000.0)  # type: ignore[union-attr,operator]
        scores = model.scores(histories)
        left = torch.tensor([ITEMS - 1, ITEMS])
        newest = Histories(histories.items[:17][-6:], offsets_of([6]), request=histories.request[:1])  # type: ignore[index]
        own = model.ranker.rank(newest, left, offsets_of([2]))
    torch.testing.assert_close(scores[0, left], own)
    others = torch.ones(ITEMS + 1, dtype=torch.bool).index_fill(0, left, False)
    assert scores[0, left].max() < -500
    assert (scores[0, others] < scores[0, left].min()).all()


@every_interest
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_histories_of_nothing_teach_what_nothing_means(interest: str, dtype: torch.dtype) -> None:
    model = ranker(interest, dropout=0.1)
    for lengths, spans in ((LENGTHS, SPANS), ([0, 3], [[[0, 0], [0, 0]], [[0, 0]]]), ([0], [[[0, 0]]])):
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            loss = model.loss(asked(lengths, spans))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(grad is None or torch.isfinite(grad).all() for grad in gradients(model).values())
        for nothing in model.nothing:
            assert nothing.grad is not None
            assert nothing.grad.any()


def test_the_unknown_item_is_an_event_like_any_other() -> None:
    model = ranker(positions="none").eval()
    batch = asked([3, 2], [[[0, 3]], [[0, 2]]])
    items = batch.histories.items.clone()
    items[1] = 0
    unknown = replace(batch, histories=replace(batch.histories, items=items))
    without = unknown.histories.kept(torch.tensor([True, False, True, True, True]))
    ours = model(unknown, return_weights=True)
    gone = model(replace(unknown, histories=without, spans=torch.tensor([[0, 2], [0, 2]])))
    assert (ours.events[0][0] > 0).all()
    assert not torch.allclose(ours.logits[:CANDIDATES], gone.logits[:CANDIDATES])
    torch.testing.assert_close(ours.logits[CANDIDATES:], gone.logits[CANDIDATES:])


def test_each_of_several_histories_has_its_own_length_and_weights() -> None:
    shape = Shape(ITEMS, behaviours=2, histories=(((1,), 2), ((2,), 9)))
    model = ranker(shape=shape, positions="none").eval()
    batch = asked([9, 3], [[[0, 9]], [[0, 3]]])
    ours = model(batch, return_weights=True)
    seen = [[int((row > 0).all(0).sum()) for row in weights] for weights in ours.events]
    assert seen == [[2, 1], [4, 2]]  # of 5 and 1 events of the first kind the newest two, all 4 and 2 of the second
    items = batch.histories.items.clone()
    items[8] = 1 + items[8] % ITEMS  # the newest of the first kind
    other = model(replace(batch, histories=replace(batch.histories, items=items)), return_weights=True)
    assert not torch.allclose(other.events[0][0], ours.events[0][0])
    torch.testing.assert_close(other.events[1], ours.events[1])


def test_every_stage_reads_context_columns_by_name() -> None:
    model, histories = two_stages()
    assert model.context == ("hour", "device")
    assert histories.request is not None
    assert model._for(histories, model.retriever).request.tolist() == [[1], [2]]  # type: ignore[union-attr]
    assert model._for(histories, model.ranker).request.tolist() == histories.request.tolist()  # type: ignore[union-attr]


@every_interest
@pytest.mark.parametrize("training", [False, True])
def test_a_logit_knows_neither_label_nor_place_of_its_candidate(interest: str, training: bool) -> None:
    model = ranker(interest, behaviours=False).train(training)
    batch = asked()
    turned = torch.arange(len(batch.candidates)).view(-1, CANDIDATES).roll(1, 1).flatten()
    other = replace(batch, candidates=batch.candidates[turned], labels=1 - batch.labels)
    torch.testing.assert_close(model(other).logits, model(batch).logits[turned], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("interest", [name for name in INTERESTS if name != "candidate"])  # it reads no events
def test_every_parameter_is_its_own_and_learns(interest: str) -> None:
    model = ranker(interest, user_ids=True, time_gaps=True, request_time=True)
    names = dict(model.named_parameters(remove_duplicate=False))
    assert len({each.data_ptr() for each in names.values()}) == len(names)
    model.loss(asked()).backward()
    assert [name for name, grad in gradients(model).items() if grad is None] == []


@pytest.mark.parametrize("squared", [False, True])
def test_a_loss_is_a_mean_over_candidates_and_not_over_pairs_of_them(squared: bool) -> None:
    model, batch = ranker(squared=squared, outputs=1), asked()
    logits = model(batch).logits[:, 0]
    each = []
    for logit, label, rate in zip(logits, batch.labels, batch.log_rates, strict=True):  # type: ignore[arg-type]
        chance = torch.sigmoid(logit - rate)
        each.append((logit - label) ** 2 if squared else -torch.log(chance if label else 1 - chance))
    torch.testing.assert_close(model.loss(batch), torch.stack(each).mean())


@every_interest
@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("squared", [False, True])
def test_one_candidate_of_one_request_is_a_batch(interest: str, length: int, squared: bool) -> None:
    model, batch = ranker(interest, squared=squared), asked([length], [[[0, length]]], many=1)
    assert model.predict(batch).shape == (1,)
    loss = model.loss(batch)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)


@every_interest
def test_the_same_question_has_the_same_answer_and_stays_as_it_was(interest: str) -> None:
    model, batch = ranker(interest, dropout=0.5).eval(), asked()
    before = {name: each.clone() for name, each in tensors(batch).items()}
    first = model.predict(batch)
    torch.manual_seed(99)
    assert torch.equal(model.predict(batch), first)
    again = ranker(interest, dropout=0.5).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.predict(batch), first)
    assert all(torch.equal(each, before[name]) for name, each in tensors(batch).items())
    assert not torch.equal(model.train().predict(batch), first)


@every_interest
@pytest.mark.parametrize("positions", ["learned", "none"])
@pytest.mark.parametrize("gaps", [False, True])
def test_requests_that_share_a_row_are_answered_as_if_alone(interest: str, positions: str, gaps: bool) -> None:
    model = ranker(interest, positions=positions, time_gaps=gaps).eval()
    batch = asked()
    torch.testing.assert_close(model.predict(batch), model.predict(batch.separate()))
