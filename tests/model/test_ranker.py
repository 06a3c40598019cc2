"""One contract for every ranker: each interest, each head, whatever is read beside items; plain ones by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from asking import BEHAVIOURS, HEADS, INTEREST, ITEMS, READ, WIDTH, alone, draw, ranker, with_events
from regard.config import ModelSettings, Settings
from regard.data.requests import Requests
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.interest import INTERESTS
from regard.model.models import build
from regard.model.ranker import Ranker

LENGTHS = [9, 0, 1, 4]
every = pytest.mark.parametrize("interest", INTEREST)
whatever_is_read = pytest.mark.parametrize("reads", READ)
both_heads = pytest.mark.parametrize("head", ["mlp", "linear"])


def logits(model: Ranker, requests: Requests) -> Tensor:
    with torch.no_grad():
        return model(requests).logits


@every
@both_heads
@whatever_is_read
def test_together_is_one_by_one(interest: str, head: str, reads: str) -> None:
    """Each request by itself; and each candidate, unless the interest compares the candidates of a request."""
    model, requests = ranker(interest, reads, head), draw(LENGTHS)
    together = logits(model, requests)
    assert together.shape == (len(requests.candidates), 1)
    sizes = requests.offsets.diff().tolist()
    for at, own in enumerate(together.split(sizes)):
        torch.testing.assert_close(own, logits(model, alone(requests, at)))
        if interest != "dual, list-wise" and at == sizes.index(max(sizes)):
            for one in range(len(own)):
                torch.testing.assert_close(own[one : one + 1], logits(model, alone(requests, at, slice(one, one + 1))))


@every
@examples(max_examples=3)
@given(lengths=st.lists(st.sampled_from([0, 0, 1, 2, 6, 11]), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_any_lengths_together_are_one_by_one(interest: str, lengths: list[int], seed: int) -> None:
    model, requests = ranker(interest, "all"), draw(lengths, seed=seed)
    together = logits(model, requests)
    for at, own in enumerate(together.split(requests.offsets.diff().tolist())):
        torch.testing.assert_close(own, logits(model, alone(requests, at)))


@every
@whatever_is_read
def test_nothing_outside_of_its_span_reaches_a_request(interest: str, reads: str) -> None:
    """What comes later, what lay before the window, and what other rows hold: all of it may be anything."""
    model, requests = ranker(interest, reads), draw(LENGTHS, requests=3)
    assert bool((requests.spans[:, 0] > 0).any())  # some windows begin after their row
    expected = logits(model, requests)
    histories = requests.histories
    for at, own in enumerate(expected.split(requests.offsets.diff().tolist())):
        start = histories.offsets[requests.row_of_request[at]]
        place = torch.arange(len(histories.items))
        mine = (place >= start + requests.spans[at, 0]) & (place < start + requests.spans[at, 1])
        others = {
            "items": histories.items.where(mine, torch.randint(0, ITEMS + 1, mine.shape)),
            "behaviours": histories.behaviours.where(mine, torch.randint(0, BEHAVIOURS + 1, mine.shape)),
        }
        if reads != "several":  # there, which events are visible depends on behaviours, not what is read of others
            others["times"] = histories.times.where(mine, histories.times + 10**12)
        found = logits(model, with_events(requests, others))
        torch.testing.assert_close(found[requests.offsets[at] : requests.offsets[at + 1]], own, rtol=0, atol=1e-9)


@every
@whatever_is_read
def test_what_a_request_reads_reaches_it(interest: str, reads: str) -> None:
    """The contract would hold of a model that reads nothing."""
    model, requests = ranker(interest, reads), draw([8], requests=1, most=4)
    requests = alone(replace(requests, spans=torch.tensor([[0, 5]])), 0)
    found = logits(model, requests)
    assert len(found) > 0
    changed = logits(model, with_events(requests, {"items": requests.histories.items % ITEMS + 1}))
    assert torch.equal(found, changed) == (interest == "candidate")
    for name in {"all": ["context", "users", "moments"], "several": ["context"]}.get(reads, []):
        value = getattr(requests, name)
        if name != "moments":
            other = logits(model, replace(requests, **{name: (value + 1) % 3}))
        else:
            other = logits(model, replace(requests, moments=value + 10**14))
        assert torch.equal(found, other) == (name == "moments" and interest == "candidate"), name


@every
@both_heads
@whatever_is_read
def test_weights_come_from_the_same_forward(interest: str, head: str, reads: str) -> None:
    model, requests = ranker(interest, reads, head), draw(LENGTHS, requests=3)
    with torch.no_grad():
        ranked = model(requests, return_weights=True)
    torch.testing.assert_close(ranked.logits, logits(model, requests))
    assert ranked.events is not None
    assert len(ranked.events) == (0 if interest == "candidate" else 2 if reads == "several" else 1)
    name = INTEREST[interest]["interest"]
    for nth, rows in enumerate(ranked.events):
        read = requests.reading(*model.histories[nth]) if reads == "several" else requests
        if model.separate or (model.reads_on and bool(read.spans[:, 0].any())):
            read = read.separate()
        if name in ("gru", "lstm", "seq2seq"):
            assert rows == []
            continue
        one_head = name in ("mean", "activation-unit", "target")
        assert len(rows) == len(read.histories)
        sizes = zip(read.candidate_row_offsets.diff().tolist(), read.histories.lengths.tolist(), strict=True)
        for row, (many, long) in zip(rows, sizes, strict=True):
            assert row.shape == (many, long, 1 if one_head else HEADS) or row.numel() == many * long == 0
        adds_up = "raw" not in interest and "event" not in interest
        for row, spans in zip(
            rows, read.candidate_spans.split(read.candidate_row_offsets.diff().tolist()), strict=True
        ):
            for shares, (low, high) in zip(row, spans.tolist(), strict=True) if row.numel() else ():
                assert not shares[:low].any()
                assert not shares[high:].any()
                if adds_up and low < high:
                    total = shares.sum(0)
                    if name == "transformer":  # the rest is what the candidate gives itself
                        assert ((total > 0) & (total < 1)).all()
                    else:
                        torch.testing.assert_close(total, torch.ones_like(total))
    if head == "linear":
        assert ranked.fields is not None
        fields = torch.cat(ranked.fields)
        assert fields.shape == (len(requests.candidates), len(model.fields), HEADS)
        torch.testing.assert_close(fields.sum(1), torch.ones_like(fields[:, 0]))
    else:
        assert ranked.fields is None


@every
@both_heads
def test_saved_is_loaded(interest: str, head: str, tmp_path: Path) -> None:
    body = {"width": WIDTH, "heads": HEADS, "head": head, "user_ids": True, "positions": "none", **INTEREST[interest]}
    shape = Shape(ITEMS, behaviours=BEHAVIOURS, context={"hour": 4, "device": 2}, users=7)
    settings = Settings.of({"model": {"name": "ranker", **body}})
    model, requests = build(settings, shape).eval(), draw(LENGTHS)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = build(settings, Shape(**shape.as_dict())).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(logits(model, requests), logits(other, requests))


@every
@both_heads
@pytest.mark.parametrize("half", [False, True])
def test_values_and_gradients_are_finite_also_without_history(interest: str, head: str, half: bool) -> None:
    for lengths in ([3, 0, 1, 12], [0, 0]):
        for reads in ("all", "several"):
            model, requests = ranker(interest, reads, head).float().train(), draw(lengths, requests=3)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model.loss(requests)
            loss.backward()
            assert loss.isfinite()
            for name, parameter in model.named_parameters():
                assert parameter.grad is None or parameter.grad.isfinite().all(), name
            if not sum(lengths):
                assert all(nothing.grad is not None and nothing.grad.any() for nothing in model.nothing)


@every
def test_an_empty_history_is_what_was_learned_for_it(interest: str) -> None:
    """The same for every row without events, wherever it lies; another vector, another score."""
    model, requests = ranker(interest), draw([0, 5, 0], requests=1, most=3, seed=2)
    same = requests.candidates.new_tensor([4, 4])
    requests = replace(requests, candidates=same, offsets=torch.tensor([0, 1, 1, 2]), labels=torch.zeros(2))
    found = logits(model, requests)
    torch.testing.assert_close(found[0], found[1])
    if interest != "candidate":
        with torch.no_grad():
            model.nothing[0].add_(1.0)
        assert not torch.isclose(found, logits(model, requests)).any()


# --- what cannot be built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"interest": "taget"}, "did you mean 'target'"),
        ({"interest": "multi-head", "heads": 4}, "heads"),
        ({"interest": "transformer", "heads": 4}, "model.heads=4 must divide"),
        ({"interest": "seq2seq", "heads": 4}, "model.heads=4 must divide"),
        ({"interest": "additive", "conditioned": True}, "model.score_hidden"),
        ({"positions": "rotary"}, "model.positions=learned"),
        ({"time_lags": True}, "model.request_time"),
        ({"outputs": 2}, "model.outputs=2"),
        ({"negatives": 64}, "model.negatives=64 is for retrievers.* data.negatives"),
        ({"negative_sampling": "popularity"}, "model.negative_sampling=popularity is for retrievers.* data.sampling"),
    ],
)
def test_what_a_ranker_cannot_be_is_told_in_one_line(changes: dict[str, object], expected: str) -> None:
    settings = Settings.of({"model": {"name": "ranker", "width": WIDTH, "heads": 2, **changes}})
    with pytest.raises(SettingsError, match=expected) as told:
        build(settings, Shape(ITEMS))
    assert len(str(told.value).splitlines()) == 1


def test_every_interest_is_under_this_contract() -> None:
    assert {each["interest"] for each in INTEREST.values()} == set(INTERESTS)
    assert all(a != b for a, b in pairwise(INTERESTS))
    assert ModelSettings().interest in INTERESTS
