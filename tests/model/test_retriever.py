"""The contract of a retriever: no batch-mates, no future, no trouble with empty histories, saved = loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from regard.config import ModelSettings
from regard.data.batches import Histories, TrainingBatch, asked_at
from regard.data.shape import Shape
from regard.model.embedding import gap_buckets, places
from regard.model.positions import LagBias, RelativeBias
from regard.model.retriever import Retriever

ITEMS = 23
FORMS: list[dict[str, object]] = [
    {},
    {"feed_forward": "plain", "positions": "none"},
    {"time_gaps": True, "time_lags": True, "negatives": 5},
    {"negatives": 5, "negative_sampling": "mixed"},
    {"blocks": 1, "heads": 4, "behaviours": False},
    {"request_time": True, "time_lags": True, "context": ("hour", "device")},
    {"positions": "rotary", "time_lags": True},
    {"positions": "relative"},
    {"time_bias": True, "residual": "gated"},
    {"time_bias": True, "request_time": True, "positions": "relative", "temperature": 0.1, "negatives": 5},
    {"name": "hstu"},
    {"name": "hstu", "time_bias": True, "time_lags": True, "positions": "none"},
    {"name": "hstu", "time_bias": True, "request_time": True, "temperature": 0.05, "context": ("hour", "device")},
    {"name": "seq2seq", "time_bias": True},
    *({"name": name} for name in ("mean", "gru", "lstm", "additive", "seq2seq")),
]


def retriever(form: dict[str, object]) -> Retriever:
    settings = ModelSettings(width=20, window=13, **{"heads": 2, "dropout": 0.3, **form})
    context = dict.fromkeys(settings.context, 6)
    model = Retriever(Shape(ITEMS, 3, {"category": 4}, context), settings).eval()
    model.item_embedding.codes[0] = torch.arange(ITEMS + 1) % 5
    if model.negatives is not None:
        model.negatives.take(torch.arange(ITEMS + 1))
    with torch.no_grad():
        model.nothing.normal_()
        for module in model.modules():
            if isinstance(module, RelativeBias | LagBias):
                module.table.normal_()
        for table in model.request.tables if model.request is not None else ():
            table.normal_()
    return model


def histories(lengths: list[int]) -> Histories:
    total = sum(lengths)
    made = Histories(
        items=torch.randint(0, ITEMS + 1, (total,)),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        behaviours=torch.randint(0, 4, (total,)),
        times=torch.randint(0, 10**12, (total,)).sort().values,
        request=torch.randint(0, 7, (len(lengths), 2)),
    )
    return asked_at(made, torch.randint(10**12, 2 * 10**12, (len(lengths),)))


def rows(batch: Histories, start: int, stop: int, drop: int = 0) -> Histories:
    begin, end = int(batch.offsets[start]), int(batch.offsets[stop]) - drop
    offsets = batch.offsets[start : stop + 1] - begin
    offsets[-1] -= drop
    columns = (batch.items, batch.behaviours, batch.times, batch.asked)
    items, *rest = [column[begin:end] for column in columns if column is not None]
    assert batch.request is not None
    return Histories(items, offsets, *rest, batch.request[start:stop])


@pytest.mark.parametrize("form", FORMS)
def test_batch_is_one_by_one(form: dict[str, object]) -> None:
    model, batch = retriever(form), histories([3, 0, 13, 1, 0, 7])
    together = model.scores(batch)
    assert together.shape == (6, ITEMS + 1)
    for row in range(len(batch)):
        torch.testing.assert_close(
            together[row : row + 1], model.scores(rows(batch, row, row + 1)), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("form", FORMS)
def test_no_state_sees_its_future(form: dict[str, object]) -> None:
    model, batch = retriever(form), histories([11])
    states, _ = model.states(batch, model.table)
    for drop in (1, 4, 10):
        shorter = rows(batch, 0, 1, drop)
        earlier, _ = model.states(shorter, model.table)
        torch.testing.assert_close(states[: 11 - drop], earlier, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_asking_for_weights_changes_nothing(form: dict[str, object]) -> None:
    model, batch = retriever(form), histories([5, 0, 2])
    fast, _ = model.states(batch, model.table)
    slow, weights = model.states(batch, model.table, return_weights=True)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    for block in weights:
        heads = 1 if model.name == "mean" else form.get("heads", 2)
        assert tuple(block[0].shape) == (5, 5, heads)
        assert block[1].numel() == 0
        if model.name != "hstu":  # pointwise weights add up to anything
            torch.testing.assert_close(block[0].sum(1), torch.ones(5, heads))
    stacked = dict.fromkeys(("self-attention", "hstu"), form.get("blocks", 2))
    assert len(weights) == {"gru": 0, "lstm": 0, **stacked}.get(model.name, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_are_finite_even_for_nothing_but_empty_histories(
    form: dict[str, object], dtype: torch.dtype | None
) -> None:
    for lengths in ([3, 0, 1], [0, 0]):
        model, batch = retriever(form).train(), histories(lengths)
        first = torch.tensor([4] * len(lengths))
        contexts = torch.randint(0, 7, (sum(lengths), 2)), torch.randint(0, 7, (len(lengths), 2))
        training = TrainingBatch(batch, torch.randint(0, ITEMS + 1, (sum(lengths),)), first, *contexts)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model.loss(training)
        loss.backward()
        assert torch.isfinite(loss)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert model.nothing.grad is not None
        assert model.nothing.grad.any()


def test_saved_is_loaded(tmp_path: Path) -> None:
    model, batch = retriever({}), histories([3, 0, 5])
    model.known[1:4] = True
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = retriever({})
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(model.scores(batch), other.scores(batch))
    assert torch.equal(model.known, other.known)


def test_a_step_towards_a_target_raises_its_score() -> None:
    model, batch = retriever({"dropout": 0.0}).train(), histories([4])
    targets = torch.tensor([0, 0, 0, 7])
    before = model.scores(batch).softmax(1)[0, 7]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(TrainingBatch(batch, targets, torch.zeros(1, dtype=torch.int64))).backward()
    optimiser.step()
    assert model.scores(batch).softmax(1)[0, 7] > before


def test_the_moment_of_a_request_counts_where_it_is_read() -> None:
    batch = histories([6, 4])
    assert batch.times is not None
    later = asked_at(batch, batch.times.max() + torch.tensor([10**13, 10**13]))
    elsewhere = replace(batch, request=torch.tensor([[1, 2], [3, 4]]))
    model = retriever({"request_time": True, "time_lags": True, "context": ("hour", "device")})
    assert not torch.allclose(model.scores(batch), model.scores(later))
    assert not torch.allclose(model.scores(batch), model.scores(elsewhere))
    for form in ({}, {"time_bias": True}, {"time_lags": True, "time_gaps": True}, {"name": "hstu", "time_bias": True}):
        unasked = retriever(form)
        assert torch.equal(unasked.scores(batch), unasked.scores(later))
        assert torch.equal(unasked.scores(batch), unasked.scores(elsewhere))


def test_code_zero_of_behaviours_and_context_learns_in_training() -> None:
    torch.manual_seed(0)
    model = retriever({"context": ("hour", "device"), "dropout": 0.0}).train()
    batch = replace(histories([2] * 100), behaviours=torch.ones(200, dtype=torch.int64))
    codes = torch.ones(200, 2, dtype=torch.int64)
    targets = torch.randint(1, ITEMS + 1, (200,))
    model.loss(TrainingBatch(batch, targets, torch.zeros(100, dtype=torch.int64), codes, codes[:100])).backward()
    assert model.embedding.behaviour is not None
    assert model.request is not None
    for table in (model.embedding.behaviour, *model.request.tables):
        assert table.grad is not None
        assert table.grad[0].any()
        assert table.grad[1].any()
        assert not table.grad[2:].any()


def test_places_and_gaps() -> None:
    offsets = torch.tensor([0, 3, 3, 5])
    assert places(offsets).tolist() == [0, 1, 2, 0, 1]
    second = 1_000_000
    times = torch.tensor([0, 0, 3 * second, 100, 100 + 1024 * second])
    assert gap_buckets(times, offsets).tolist() == [0, 1, 2, 0, 11]
    assert gap_buckets(torch.tensor([0, 2**62]), torch.tensor([0, 2])).tolist() == [0, 31]


def test_attributes_are_added_to_item_vectors_and_learn() -> None:
    model = retriever({})
    table, alone = model.table, model.item_embedding.item
    values = model.item_embedding.values[0]
    for item in (0, 3, 9):
        torch.testing.assert_close(table[item], alone[item] + values[item % 5])
    model.table.sum().backward()
    assert values.grad is not None
    assert values.grad.any()


@pytest.mark.parametrize("name", ["self-attention", "hstu", "seq2seq"])
@pytest.mark.parametrize("relation", ["time_lags", "time_bias"])
def test_logits_depend_on_time_lags_and_not_on_when_a_history_began(name: str, relation: str) -> None:
    model, batch = retriever({"name": name, relation: True, "positions": "none"}), histories([6, 4])
    assert batch.times is not None
    later = replace(batch, times=batch.times + 10**15)
    torch.testing.assert_close(model.scores(batch), model.scores(later))
    stretched = replace(batch, times=batch.times * 3)
    assert not torch.allclose(model.scores(batch), model.scores(stretched))


@pytest.mark.parametrize("name", ["self-attention", "hstu"])
def test_a_bias_of_time_reads_the_moment_of_the_request_where_asked_for(name: str) -> None:
    model, batch = retriever({"name": name, "time_bias": True, "request_time": True}), histories([6, 4])
    assert model.embedding.wait is not None
    with torch.no_grad():
        model.embedding.wait.zero_()  # the other way in
    assert batch.times is not None
    later = asked_at(batch, batch.times.max() + torch.tensor([10**13, 10**13]))
    assert not torch.allclose(model.scores(batch), model.scores(later))
    states = [model.states(one, model.table)[0] for one in (batch, later)]
    last = torch.tensor([5, 9])
    kept = torch.ones(10, dtype=torch.bool).index_fill(0, last, False)
    assert torch.equal(states[0][kept], states[1][kept])  # earlier events asked about the next event, as before
    torch.testing.assert_close(model.scores(batch), model.scores(moved(batch, 10**15)))


def moved(batch: Histories, by: int) -> Histories:
    assert batch.times is not None
    assert batch.asked is not None
    return replace(batch, times=batch.times + by, asked=batch.asked + by)


@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_with_a_temperature_scores_are_cosines(temperature: float) -> None:
    model, batch = retriever({"temperature": temperature, "context": ("hour", "device")}), histories([5, 0, 2])
    states, _ = model.states(batch, model.table)
    assert model.request is not None
    states = torch.stack([states[4], model.nothing, states[6]]) + model.request(batch.request)
    cosines = torch.nn.functional.cosine_similarity(states[:, None], model.item_embedding()[None], dim=2)
    torch.testing.assert_close(model.scores(batch), cosines / temperature)
    torch.testing.assert_close(model.users(batch, model.table) @ model.table.T, model.scores(batch))


@pytest.mark.parametrize("transfer", [None, "fuse"])
def test_with_a_temperature_what_nothing_tells_does_not_drown_all_other_gradients(transfer: str | None) -> None:
    changes: dict[str, object] = {"transfer": transfer, "id_width": 5} if transfer else {}
    settings = ModelSettings(width=20, temperature=0.1, dropout=0.0, **changes)  # type: ignore[arg-type]
    model = Retriever(Shape(ITEMS, 3, vectors=15 if transfer else 0), settings)
    if transfer:
        told = torch.arange(ITEMS + 1) % 3 > 0
        model.item_embedding.take(torch.randn(ITEMS + 1, 15) * 15**-0.5 * told[:, None], told, told.long())
    batch, first = histories([5, 0, 3]), torch.tensor([4, 12, 9])
    model.loss(TrainingBatch(batch, torch.tensor([0, 4, 4, 0, 18, 7, 0, 3]), first)).backward()
    table = model.item_embedding.item
    nothings = [model.nothing, *([model.item_embedding.pretrained.nothing] if transfer else [])]  # type: ignore[union-attr, list-item]
    assert table is not None
    assert table.grad is not None
    for nothing in nothings:
        assert nothing.grad is not None
        assert 0 < float(nothing.grad.norm()) < 10 * float(table.grad.norm())


@pytest.mark.parametrize("negatives", [0, 4000])
def test_the_loss_of_a_temperature_is_that_of_its_scores(negatives: int) -> None:
    form = {"temperature": 0.3, "dropout": 0.0, "behaviours": False, "negatives": negatives}
    model, batch = retriever(form).train(), histories([4])
    targets = torch.tensor([0, 0, 0, 7])
    expected = torch.nn.functional.cross_entropy(model.scores(batch)[:, 1:], targets[3:] - 1)
    ours = model.loss(TrainingBatch(batch, targets, torch.zeros(1, dtype=torch.int64)))
    torch.testing.assert_close(ours, expected, atol=0.1 if negatives else 1e-5, rtol=0.0)


@pytest.mark.parametrize("form", [{}, {"hash_rows": 9}, {"transfer": "fuse"}, {"transfer": "frozen"}], ids=str)
@pytest.mark.parametrize("trained", [slice(1, None), slice(0, 0), slice(3, 19)])
def test_sampled_loss_reads_few_rows_and_is_that_of_the_whole_table(form: dict[str, object], trained: slice) -> None:
    settings = ModelSettings(width=20, heads=2, window=13, negatives=6, **form)  # type: ignore[arg-type]
    model = Retriever(Shape(ITEMS, 3, vectors=15 if "transfer" in form else 0), settings).eval()
    if "transfer" in form:
        told = torch.arange(ITEMS + 1) % 3 > 0
        model.item_embedding.take(torch.randn(ITEMS + 1, 15), told, told.long())
    if model.item_embedding.hashes is not None:
        model.item_embedding.hashes.random_(1, 9)
    model.trained[trained] = True
    batch, targets = histories([5, 0, 3]), torch.tensor([0, 4, 4, 0, 18, 7, 0, 3])
    first = torch.tensor([0, 12, 9])
    torch.manual_seed(5)
    ours = model.loss(TrainingBatch(batch, targets, first))
    torch.manual_seed(5)
    wanted = torch.tensor([4, 4, 18, 7, 3, 12, 9])
    assert model.negatives is not None
    negatives, correction = model.negatives(wanted, model.trained)
    if model.trained.any():
        assert model.trained[negatives].all()
    states, _ = model.states(batch, model.table)
    states = torch.cat([states[[1, 2, 4, 5, 7]], model.nothing.expand(2, -1)])
    logits = states @ model.table.T
    total = torch.zeros(())
    for own, target in zip(logits, wanted.tolist(), strict=True):
        others = [at for at, item in enumerate(negatives.tolist()) if item != target]
        total = total + torch.cat([own[target, None], own[negatives[others]] + correction[others]]).logsumexp(0)
        total = total - own[target]
    theirs = total / len(wanted)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.testing.assert_close(ours, theirs)
    for got, want in zip(
        *(torch.autograd.grad(loss, learned, allow_unused=True) for loss in (ours, theirs)), strict=True
    ):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
