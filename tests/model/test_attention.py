"""One contract for every form of attention that serves as an interest, and what is special to some of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reference import activation_unit_logit, assert_same, attend_query_by_query
from regard.errors import SettingsError
from regard.model import unit
from regard.model.attention import ActivationUnit, AdditivePooling, Dice, DotAttention, DualAttention, Mean

WIDTH = 6
FORMS: dict[str, Callable[[], nn.Module]] = {
    "target": lambda: DotAttention(WIDTH),
    "projection-free": lambda: DotAttention(WIDTH, projections="none", scale=0.7),
    "multi-head": lambda: DotAttention(WIDTH, 3, projections="shared", activation="relu", join="relu"),
    "additive": lambda: AdditivePooling(WIDTH),
    "additive-heads": lambda: AdditivePooling(WIDTH, heads=2, hidden=5),
    "additive-conditioned": lambda: AdditivePooling(WIDTH, heads=2, hidden=5, conditioned=True),
    "unit": lambda: ActivationUnit(WIDTH, (7, 5)),
    "unit-raw": lambda: ActivationUnit(WIDTH, (7,), "prelu", normalize="none"),
    "unit-dense": lambda: ActivationUnit(WIDTH, (), "relu", normalize="none"),
    "unit-event": lambda: ActivationUnit(WIDTH, (7,), "dice", on="event"),
    "dual-history": lambda: DualAttention(WIDTH, 2),
    "dual-target": lambda: DualAttention(WIDTH, 2, reading="target"),
    "mean": lambda: Mean(WIDTH),
}
every_form = pytest.mark.parametrize("name", FORMS)
# Rows of history; of each, its requests, as (first event read, one after the last, number of candidates).
LENGTHS = [5, 0, 1, 11, 3]
REQUESTS = [[(0, 3, 4), (1, 5, 2)], [(0, 0, 3)], [(0, 1, 1), (0, 0, 2)], [(3, 9, 2), (0, 11, 5), (4, 4, 1)], []]


def built(name: str) -> nn.Module:
    """Build a form whose running statistics are not those of a fresh one."""
    torch.manual_seed(3)
    form = FORMS[name]().double()
    for module in form.modules():
        if isinstance(module, Dice):
            module.norm.running_mean.normal_()
            module.norm.running_var.uniform_(0.5, 2.0)
            module.alpha.data.uniform_()
    return form.eval()


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def asked(rows: list[int]) -> dict[str, Tensor]:
    """Return the offsets and spans of some rows."""
    requests = [REQUESTS[row] for row in rows]
    spans = [[start, stop] for row in requests for start, stop, count in row for _ in range(count)]
    return {
        "candidate_offsets": offsets_of([sum(count for *_, count in row) for row in requests]),
        "event_offsets": offsets_of([LENGTHS[row] for row in rows]),
        "request_offsets": offsets_of([count for row in requests for *_, count in row]),
        "spans": torch.tensor(spans, dtype=torch.int64).reshape(-1, 2),
    }


def call(form: nn.Module, candidates: Tensor, events: Tensor, rows: dict[str, Tensor], **more: bool):
    if not isinstance(form, DualAttention):
        rows = {key: value for key, value in rows.items() if key != "request_offsets"}
    return form(candidates, events, **rows, **more)


def vectors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    rows = asked(list(range(len(LENGTHS))))
    candidates = torch.randn(len(rows["spans"]), WIDTH, dtype=dtype, requires_grad=True)
    return candidates, torch.randn(sum(LENGTHS), WIDTH, dtype=dtype, requires_grad=True), rows


@every_form
def test_a_batch_is_its_rows_one_by_one(name: str) -> None:
    form = built(name)
    candidates, events, rows = vectors()
    whole, weights = call(form, candidates, events, rows, return_weights=True)
    assert whole.shape == (len(candidates), form.out_width)
    for row in range(len(LENGTHS)):
        mine = slice(*rows["candidate_offsets"][row : row + 2].tolist())
        own = slice(*rows["event_offsets"][row : row + 2].tolist())
        alone, (share,) = call(form, candidates[mine], events[own], asked([row]), return_weights=True)
        torch.testing.assert_close(whole[mine], alone)
        torch.testing.assert_close(weights[row].reshape(share.shape), share)


@every_form
def test_weights_come_from_the_forward_that_made_the_values(name: str) -> None:
    form = built(name)
    candidates, events, rows = vectors()
    plain, none = call(form, candidates, events, rows)
    values, weights = call(form, candidates, events, rows, return_weights=True)
    assert none is None
    torch.testing.assert_close(plain, values)
    for row, share in enumerate(weights):
        mine = slice(*rows["candidate_offsets"][row : row + 2].tolist())
        place = torch.arange(LENGTHS[row])
        visible = (place >= rows["spans"][mine, :1]) & (place < rows["spans"][mine, 1:])
        if share.numel():
            assert share.shape[:2] == visible.shape
            assert not share[~visible].any()
            if "raw" not in name and "dense" not in name:
                sums = share.sum(1)
                torch.testing.assert_close(sums, visible.any(1).double()[:, None].expand_as(sums))


@every_form
def test_neither_batch_mates_nor_what_lies_after_a_request_matters(name: str) -> None:
    form = built(name)
    candidates, events, rows = vectors()
    before = call(form, candidates, events, rows)[0]
    changed = events.detach().clone()
    changed[:5] += 100  # another row
    changed[6 + 9 : 6 + 11] -= 100  # beyond what the first request of the fourth row reads
    first = rows["candidate_offsets"][3]
    after = call(form, candidates, changed, rows)[0]
    torch.testing.assert_close(before[first : first + 2], after[first : first + 2])
    assert not torch.allclose(before[:6], after[:6])


@every_form
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_history_gives_zeros_and_finite_gradients(name: str, training: bool) -> None:
    form = built(name).train(training)
    candidates, events, rows = vectors()
    values, _ = call(form, candidates, events, rows)
    empty = rows["spans"][:, 1] == rows["spans"][:, 0]
    assert not values[empty].any()
    if name not in ("multi-head", "unit-dense"):  # a ReLU may well be silent
        assert values[~empty].any(1).all()
    values.square().sum().backward()
    for tensor in (candidates, events, *form.parameters()):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()
    nothing = {"candidate_offsets": offsets_of([2, 0]), "event_offsets": offsets_of([0, 0]), "spans": None}
    values, weights = call(form, candidates[:2], events[:0], nothing, return_weights=True)
    assert values.shape == (2, form.out_width)
    assert not values.any()
    assert len(weights) == 2
    assert not any(share.numel() for share in weights)


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_gradients(name: str, dtype: torch.dtype) -> None:
    form = built(name).float().train()
    candidates, events, rows = vectors(torch.float32)
    with torch.autocast("cpu", dtype):
        mixed = call(form, candidates, events, rows)[0]
    mixed.float().square().sum().backward()
    pure = built(name).to(dtype).train()
    candidates_, events_, _ = vectors(dtype)
    direct = call(pure, candidates_, events_, rows)[0]
    assert direct.dtype == dtype
    direct.float().square().sum().backward()
    for tensor in (candidates, events, *form.parameters(), candidates_, events_, *pure.parameters()):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()
    with torch.autocast("cpu", dtype), torch.inference_mode():
        assert torch.isfinite(call(form.eval(), candidates, events, rows)[0]).all()


# --- the activation unit ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0, 1, 2, 5]), min_size=1, max_size=4),
    st.data(),
    st.sampled_from(["softmax", "none"]),
    st.sampled_from([(), (3,), (5, 3)]),
)
@settings(max_examples=25)
def test_the_unit_equals_a_loop_over_pairs(lengths: list[int], data: st.DataObject, normalize, hidden) -> None:
    many = [data.draw(st.sampled_from([0, 1, 3])) for _ in lengths]
    bounds = [
        sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
        for q, k in zip(many, lengths, strict=True)
        for _ in range(q)
    ]
    spans = torch.tensor(bounds, dtype=torch.int64).reshape(-1, 2)
    form = ActivationUnit(WIDTH, hidden, "relu", normalize=normalize).double()
    candidates = torch.randn(sum(many), WIDTH, dtype=torch.float64, requires_grad=True)
    events = torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)
    rows = {"candidate_offsets": offsets_of(many), "event_offsets": offsets_of(lengths), "spans": spans}
    layers = [(layer.weight, layer.bias) for layer in form.layers]

    def logit(query: int, key: int) -> Tensor:
        said = activation_unit_logit(layers, torch.relu, events[key], candidates[query])
        return said if hidden else torch.relu(said)

    expected, _ = attend_query_by_query(
        logit,
        events[:, None],
        query_offsets=rows["candidate_offsets"],
        key_offsets=rows["event_offsets"],
        spans=spans,
        normalize=normalize,
    )
    ours = form(candidates, events, **rows)[0]
    assert_same(ours, expected[:, 0], [candidates, events, *form.parameters()])
    with torch.no_grad():
        torch.testing.assert_close(form.eval()(candidates, events, **rows)[0], ours)


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
@pytest.mark.parametrize("hidden", [(), (7, 5)])
def test_pieces_without_gradients_equal_the_pass_with_them(
    monkeypatch: pytest.MonkeyPatch, activation, hidden: tuple[int, ...]
) -> None:
    monkeypatch.setattr(unit, "_PIECE", 13)
    monkeypatch.setattr(unit, "_LONG", 3)
    form = ActivationUnit(WIDTH, hidden, activation).double().eval()
    for norm in (module.norm for module in form.modules() if isinstance(module, Dice)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    candidates, events, rows = vectors()
    del rows["request_offsets"]
    long = torch.randn(40, WIDTH, dtype=torch.float64)
    many = torch.randn(9, WIDTH, dtype=torch.float64)
    one = {"candidate_offsets": offsets_of([9]), "event_offsets": offsets_of([40])}
    for given_, of, where in (
        (candidates, events, rows),
        (candidates, events, {**rows, "spans": None}),
        (many, long, one),
    ):
        expected = form(given_, of, **where, return_weights=True)
        with torch.no_grad():
            found = form(given_, of, **where, return_weights=True)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("piece", [4, 2048])
def test_dice_is_its_formula_over_the_rows_given(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(unit, "_PIECE", piece)
    dice = Dice(3).double()
    dice.alpha.data.uniform_()
    x = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    gate = torch.sigmoid((x - x.mean(0)) / (x.var(0, correction=0) + 1e-8).sqrt())
    expected = gate * x + (1 - gate) * dice.alpha * x
    ours = dice(x)
    towards = torch.randn_like(x)
    torch.testing.assert_close(ours, expected)
    tensors = [x, dice.alpha]
    torch.testing.assert_close(
        torch.autograd.grad(ours, tensors, towards, retain_graph=True), torch.autograd.grad(expected, tensors, towards)
    )
    torch.testing.assert_close(dice.norm.running_mean, 0.1 * x.mean(0).detach())
    torch.testing.assert_close(dice.norm.running_var, 0.9 + 0.1 * x.var(0).detach())
    before = {key: value.clone() for key, value in dice.state_dict().items()}
    for rows in (0, 1):  # too few to say what is usual
        assert torch.isfinite(dice(x[:rows])).all()
    assert all(torch.equal(value, before[key]) for key, value in dice.state_dict().items())
    dice.eval()
    with torch.no_grad():
        torch.testing.assert_close(dice.frozen()(x.clone()), dice(x))


@pytest.mark.parametrize("on", ["pair", "event"])
def test_training_in_pieces_has_the_values_and_gradients_of_training_at_once(
    monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    torch.manual_seed(0)
    form = ActivationUnit(WIDTH, (7, 5), on=on).double().train()
    candidates, events, rows = vectors()
    del rows["request_offsets"]
    tensors = [events, *[candidates] * (on == "pair"), *form.parameters()]
    found = []
    for piece in (2048, 3):
        monkeypatch.setattr(unit, "_PIECE", piece)
        ours = form(candidates, events, **rows)[0]
        found.append([ours, *torch.autograd.grad(ours.pow(2).sum(), tensors)])
    torch.testing.assert_close(found[1], found[0])


def test_half_precision_trains_close_to_full_precision() -> None:
    torch.manual_seed(0)
    form = ActivationUnit(WIDTH, (16,)).train()
    candidates, events, rows = vectors()
    del rows["request_offsets"]
    candidates, events = (each.detach().float().requires_grad_() for each in (candidates, events))
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            ours = form(candidates, events, **rows)[0].float()
        found.append([ours, *torch.autograd.grad(ours.pow(2).sum(), [candidates, events, form.layers[0].weight])])
    for full, half in zip(*found, strict=True):
        assert half.dtype == torch.float32
        assert (full - half).norm() < 0.03 * full.norm()


def test_statistics_in_training_are_those_of_real_pairs_only() -> None:
    form = ActivationUnit(WIDTH, (7,)).double().train()
    candidates, events, rows = vectors()
    del rows["request_offsets"]
    form(candidates, events, **rows)
    first = []
    for query, (start, stop) in enumerate(rows["spans"].tolist()):
        row = int(torch.searchsorted(rows["candidate_offsets"], query, right=True)) - 1
        for event in events[int(rows["event_offsets"][row]) :][start:stop]:
            both = [event, candidates[query], event - candidates[query], event * candidates[query]]
            first.append(form.layers[0](torch.cat(both)))
    pairs = torch.stack(first).detach()
    torch.testing.assert_close(form.activations[0].norm.running_mean, 0.1 * pairs.mean(0))
    torch.testing.assert_close(form.activations[0].norm.running_var, 0.9 + 0.1 * pairs.var(0))


# --- the others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioned", [False, True])
def test_pooling_over_fields_equals_pooling_over_rows_of_fields(conditioned: bool) -> None:
    form = AdditivePooling(WIDTH, heads=2, hidden=5, conditioned=conditioned).double()
    fields = torch.randn(4, 3, WIDTH, dtype=torch.float64)
    query = torch.randn(4, WIDTH, dtype=torch.float64)
    ones = torch.arange(5)
    rows = {"candidate_offsets": ones, "event_offsets": 3 * ones}
    expected, weights = form(query, fields.flatten(0, 1), **rows, return_weights=True)
    pooled, shares = form.over(fields, query)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(shares, torch.cat(weights))


def test_dropout_of_weights_happens_in_training_only() -> None:
    form = DotAttention(WIDTH, dropout=0.5).double()
    candidates, events, rows = vectors()
    still = call(form.eval(), candidates, events, rows)[0]
    torch.testing.assert_close(call(form, candidates, events, rows)[0], still)
    assert not torch.allclose(call(form.train(), candidates, events, rows)[0], still)


def test_list_wise_reading_lets_only_candidates_of_one_request_see_each_other() -> None:
    form = built("dual-target")
    candidates, events, rows = vectors()
    before = call(form, candidates, events, rows)[0]
    changed = candidates.detach().clone()
    changed[0] += 1
    after = call(form, changed, events, rows)[0]
    moved = (before != after).any(1)
    assert moved[:4].all()  # the first request
    assert not moved[4:].any()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"model\.heads must divide model\.width 6, got 4"):
        DotAttention(6, 4)
    with pytest.raises(SettingsError, match=r"model\.conditioned needs model\.score_hidden of at least 1"):
        AdditivePooling(6, conditioned=True)
    candidates, events, rows = vectors()
    with pytest.raises(AssertionError):
        DualAttention(WIDTH, causal=False).double()(candidates, events, **rows)
