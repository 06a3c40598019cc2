"""One contract for every encoder, and the plain ones against their formulas, positions included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard.config import ModelSettings, Settings
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.clock import Clock, Lags, TimeAngles
from regard.model.encoded import Encoder
from regard.model.encoder import ATTENDING, ENCODERS, Block
from regard.model.models import TRAINED, build
from regard.model.positions import FAR, RelativeBias, Rotary

WIDTH, HEADS = 12, 3
FORMS: dict[str, dict[str, object]] = {
    **{name: {"name": name} for name in ENCODERS},
    "additive of a hidden layer": {"name": "additive", "score_hidden": 5},
    "one recurrent layer": {"name": "gru", "blocks": 1},
    "self-attention, rotary": {"name": "self-attention", "positions": "rotary"},
    "self-attention, relative": {"name": "self-attention", "positions": "relative"},
    "self-attention, gated residual": {"name": "self-attention", "residual": "gated"},
    "hstu, rotary": {"name": "hstu", "positions": "rotary"},
    "hstu, no positions": {"name": "hstu", "positions": "none"},
    "seq2seq, relative": {"name": "seq2seq", "positions": "relative", "blocks": 1},
}
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 7, 13]), min_size=1, max_size=6)
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def settings_of(form: dict[str, object]) -> ModelSettings:
    return ModelSettings(**{"width": WIDTH, "heads": HEADS, "dropout": 0.3, **form})


def encoder(form: dict[str, object]) -> Encoder:
    """An encoder in double precision, so that equal means equal, with nothing left at zero."""
    torch.manual_seed(0)
    settings = settings_of(form)
    made = ENCODERS[settings.name](settings).double().eval()
    for module in made.modules():
        if isinstance(module, RelativeBias):
            nn.init.normal_(module.table)
    return made


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def events(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), WIDTH, dtype=torch.float64)


@every_form
@examples(max_examples=6)
@given(lengths=LENGTHS)
def test_batch_is_one_by_one(form: dict[str, object], lengths: list[int]) -> None:
    model, x = encoder(form), events(lengths)
    states, _ = model(x, offsets_of(lengths))
    assert states.shape == x.shape
    for part, own in zip(x.split(lengths), states.split(lengths), strict=True):
        torch.testing.assert_close(own, model(part, offsets_of([len(part)]))[0])


@every_form
@pytest.mark.parametrize("timed", [False, True], ids=["", "with time"])
@examples(max_examples=6)
@given(lengths=LENGTHS)
def test_the_newest_states_are_the_last_of_all_states(form: dict[str, object], timed: bool, lengths: list[int]) -> None:
    """Values and gradients; queries are asked later than their events, as with `model.request_time`."""
    told = form | ({"time_bias": True} if timed and form["name"] in ATTENDING else {})
    model, x, offsets = encoder(told), events(lengths).requires_grad_(), offsets_of(lengths)
    moments = torch.randint(10**6, 10**13, (len(x),)).sort().values
    turned = TimeAngles(WIDTH // HEADS)(moments + 10**9, moments, offsets)
    clock = Clock(turned, Lags(moments + 10**9, moments)) if timed else None
    newest = model.newest(x, offsets, clock)
    ends = [sum(lengths[: row + 1]) - 1 for row, length in enumerate(lengths) if length]
    last = model(x, offsets, clock)[0][ends]
    torch.testing.assert_close(newest, last)
    probe = torch.randn_like(last)
    found, expected = (torch.autograd.grad((out * probe).sum(), x, allow_unused=True)[0] for out in (newest, last))
    torch.testing.assert_close(found, expected)


@every_form
def test_batch_mates_may_be_anything(form: dict[str, object]) -> None:
    model, lengths = encoder(form), [4, 7, 0, 9, 1]
    x, offsets = events(lengths), offsets_of(lengths)
    own = slice(int(offsets[1]), int(offsets[2]))
    others = torch.full_like(x, torch.nan)
    others[own] = x[own]
    torch.testing.assert_close(model(others, offsets)[0][own], model(x, offsets)[0][own])


@every_form
def test_no_state_sees_its_future(form: dict[str, object]) -> None:
    model, x = encoder(form), events([11]).requires_grad_()
    states, _ = model(x, offsets_of([11]))
    for size in (1, 6, 10):
        torch.testing.assert_close(states[:size], model(x[:size], offsets_of([size]))[0])
        (grad,) = torch.autograd.grad((states[size - 1] * torch.randn(WIDTH)).sum(), x, retain_graph=True)
        assert not grad[size:].any()
        assert grad[:size].any(1).all()  # and every event before is read


@every_form
def test_saved_is_loaded(form: dict[str, object], tmp_path: Path) -> None:
    model, lengths = encoder(form), [3, 0, 5]
    x = events(lengths)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = ENCODERS[settings_of(form).name](settings_of(form)).double().eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(model(x, offsets_of(lengths))[0], other(x, offsets_of(lengths))[0])


@every_form
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("weighed", [False, True])
def test_values_and_gradients_are_finite_also_of_empty_histories(
    form: dict[str, object], half: bool, weighed: bool
) -> None:
    for lengths in ([3, 0, 1, 40], [0, 0]):
        model, x = encoder(form).float().train(), events(lengths).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states, _ = model(x, offsets_of(lengths), return_weights=weighed)
        (states * torch.randn(WIDTH)).sum().backward()
        assert states.isfinite().all()
        grads = [x.grad, *(parameter.grad for parameter in model.parameters())]
        assert all(grad is None or grad.isfinite().all() for grad in grads)
        if sum(lengths):
            assert all(grad is not None and grad.any() for grad in grads)


@every_form
def test_weights_come_from_the_same_forward(form: dict[str, object]) -> None:
    model, lengths = encoder(form), [5, 0, 2, 1]
    x = events(lengths)
    states, weights = model(x, offsets_of(lengths), return_weights=True)
    torch.testing.assert_close(states, model(x, offsets_of(lengths))[0])
    name = settings_of(form).name
    assert bool(weights) == (name not in ("gru", "lstm"))
    for block in weights:
        assert len(block) == len(lengths)
        for size, row in zip(lengths, block, strict=True):
            assert row.numel() == size * size * (1 if name == "mean" else HEADS)
            if size:
                if name != "hstu":  # pointwise weights add up to anything
                    torch.testing.assert_close(row.sum(1), torch.ones_like(row[:, 0]))
                assert not row.permute(2, 0, 1).triu(1).any()


@every_form
def test_dropout_acts_in_training_only(form: dict[str, object]) -> None:
    model, x = encoder(form), events([6])
    assert torch.equal(*(model(x, offsets_of([6]))[0] for _ in range(2)))
    model.train()
    assert not torch.equal(*(model(x, offsets_of([6]))[0] for _ in range(2)))


# --- pooling --------------------------------------------------------------------------------------------------------


def test_mean_is_the_mean_of_the_prefix() -> None:
    model, x = encoder({"name": "mean"}), events([6])
    expected = torch.stack([model.norm(x[: size + 1].mean(0)) for size in range(6)])
    torch.testing.assert_close(model(x, offsets_of([6]))[0], expected)


@pytest.mark.parametrize("hidden", [0, 5])
def test_additive_is_a_softmax_over_the_scores_of_the_prefix(hidden: int) -> None:
    model, x = encoder({"name": "additive", "score_hidden": hidden}), events([6]).requires_grad_()
    if hidden:
        first, _, last = model.scorer
        scores = torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T
    else:
        scores = x @ model.scorer.weight.T
    slices = x.unflatten(1, (HEADS, WIDTH // HEADS))
    pooled = [(scores[:size].softmax(0)[..., None] * slices[:size]).sum(0).flatten() for size in range(1, 7)]
    expected = model.norm(torch.stack(pooled))
    states, weights = model(x, offsets_of([6]), return_weights=True)
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(weights[0][0][5], scores.softmax(0))
    towards = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(one, x, towards, retain_graph=True)[0] for one in (states, expected))
    torch.testing.assert_close(ours, theirs)


# --- positions --------------------------------------------------------------------------------------------------------


def projected(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Queries, keys and values of one history, each (H, T, D)."""
    return [part.unflatten(1, (HEADS, -1)).transpose(0, 1) for part in (x @ model.project.weight.T).chunk(3, 1)]


def plain(logits: Tensor, values: Tensor, causal: bool, join: Tensor) -> Tensor:
    """(H, q, k), (H, k, D) -> (q, W)."""
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    return (logits.softmax(2) @ values).transpose(0, 1).flatten(1) @ join.T


@pytest.mark.parametrize("causal", [True, False])
def test_rotary_turns_by_a_matrix_of_angles(causal: bool) -> None:
    model = Block(settings_of({"positions": "rotary"}), causal).double().attention
    x, size, pairs = events([3, 6]), WIDTH // HEADS, WIDTH // HEADS // 2
    whole, _ = model(x, offsets_of([3, 6]))
    for rows in (slice(0, 3), slice(3, 9)):
        query, keys, values = projected(model, x[rows])
        turns = torch.zeros(query.shape[1], size, size, dtype=torch.float64)
        for place in range(query.shape[1]):
            for pair in range(pairs):
                angle = torch.tensor(place * 10_000.0 ** (-2 * pair / size), dtype=torch.float64)
                low, high = pair, pair + pairs
                turns[place, low, low] = turns[place, high, high] = angle.cos()
                turns[place, low, high], turns[place, high, low] = -angle.sin(), angle.sin()
        turned = [torch.einsum("tij,htj->hti", turns, part) for part in (query, keys)]
        expected = plain(turned[0] @ turned[1].mT / size**0.5, values, causal, model.join.weight)
        torch.testing.assert_close(whole[rows], expected, atol=1e-6, rtol=1e-6)  # angles are float32


def test_rotary_logits_depend_on_distance_alone() -> None:
    angles = Rotary(8)(offsets_of([40]))
    cosine, sine = angles.double().unbind(1)
    for shift in (1, 7):
        difference = cosine[shift:] * cosine[:-shift] + sine[shift:] * sine[:-shift]
        torch.testing.assert_close(difference, difference[:1].expand_as(difference), atol=1e-5, rtol=1e-5)
    assert Rotary(8)(offsets_of([2, 0, 3]))[2].equal(angles[0])


@pytest.mark.parametrize("causal", [True, False])
def test_relative_is_a_bias_by_head_and_distance(causal: bool) -> None:
    model = Block(settings_of({"positions": "relative"}), causal).double().attention
    nn.init.normal_(model.places.relative.table)
    lengths = [3, FAR + 4]
    x = events(lengths)
    whole, _ = model(x, offsets_of(lengths), return_weights=True)
    torch.testing.assert_close(whole, model(x, offsets_of(lengths))[0])
    for part, own in zip(x.split(lengths), whole.split(lengths), strict=True):
        query, keys, values = projected(model, part)
        bias = torch.empty(HEADS, len(part), len(part), dtype=torch.float64)
        for row in range(len(part)):
            for column in range(len(part)):
                bias[:, row, column] = model.places.relative.table[:, min(abs(row - column), FAR - 1)]
        logits = query @ keys.mT / (WIDTH // HEADS) ** 0.5 + bias
        torch.testing.assert_close(own, plain(logits, values, causal, model.join.weight))


# --- the table of models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_is_a_model_by_name(name: str) -> None:
    assert name in TRAINED
    settings = Settings().changed([f"model.name={name}", "model.width=8"])
    assert build(settings, Shape(5)).name == name


@pytest.mark.parametrize("name", ENCODERS)
def test_what_a_model_would_not_read_is_refused(name: str) -> None:
    relations = ("positions=rotary", "positions=relative", "time_lags=true", "time_bias=true")
    for change in (f"model.{relation}" for relation in relations):
        settings = Settings().changed([f"model.name={name}", "model.width=8", change])
        if name in ATTENDING:
            build(settings, Shape(5))
        else:
            with pytest.raises(SettingsError, match=f"{change} needs .*; {name} does not"):
                build(settings, Shape(5))
    settings = Settings().changed([f"model.name={name}", "model.width=8", "model.residual=gated"])
    if name == "self-attention":
        build(settings, Shape(5))
    else:
        with pytest.raises(SettingsError, match=f"model.residual=gated is of the blocks of self-attention; {name} has"):
            build(settings, Shape(5))
    settings = Settings().changed([f"model.name={name}", "model.width=6", "model.positions=rotary"])
    if name in ATTENDING:
        with pytest.raises(SettingsError, match="must be even"):
            build(settings, Shape(5))
