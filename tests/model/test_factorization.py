"""Matrix factorisation beside plain lines: values, gradients, folding in beside numpy, who is met and who is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.config import ModelSettings, Settings
from regard.data.batches import Histories
from regard.data.requests import Requests
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.factorization import Factorization
from regard.model.foldin import FoldIn
from regard.model.models import build

USERS, ITEMS, WIDTH = 5, 7, 3


def model(squared: bool = False, vectors: bool = False, **changes: Any) -> Factorization:
    """A model in double precision whose every parameter and statistic is random; users 1 to 3 are met."""
    torch.manual_seed(0)
    settings = ModelSettings(name="matrix-factorization", width=WIDTH, **changes)
    shape = Shape(ITEMS, users=USERS, user_vectors=WIDTH if vectors else 0)
    made = Factorization(shape, settings, squared).double().eval()
    for parameter in made.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    made.known[1:], made.trained[1:], made.met[1:4] = True, True, True
    for name, value in made.fold_in.named_buffers():
        value.copy_(torch.rand_like(value) + (1.0 if name == "power" else 0.1))
    return made


def requests(seed: int = 0, sampled: bool = True, users: tuple[int, ...] = (2, 1, 3, 2)) -> Requests:
    """Four requests with some candidates each; rows are histories of their own."""
    torch.manual_seed(seed)
    many = torch.tensor([2, 0, 3, 1])
    lengths = torch.tensor([3, 0, 2, 1])
    total = int(many.sum())
    return Requests(
        histories=Histories(torch.randint(1, ITEMS + 1, (6,)), torch.tensor([0, 3, 3, 5, 6]), labels=torch.rand(6)),
        row_offsets=torch.arange(5),
        spans=torch.stack([torch.zeros(4, dtype=torch.int64), lengths], 1),
        candidates=torch.randint(1, ITEMS + 1, (total,)),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), many.cumsum(0)]),
        labels=torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
        log_rates=torch.randn(total) if sampled else None,
        context=None,
        users=torch.tensor(users),
        moments=None,
    )


def slow_scores(made: Factorization, asked: Requests) -> Tensor:
    """Mean, biases and a sum of products, candidate by candidate."""
    assert made.user.item is not None
    assert made.item_embedding.item is not None
    scores = []
    for at in range(len(asked)):
        for item in asked.candidates[asked.offsets[at] : asked.offsets[at + 1]].tolist():
            user = int(asked.users[at])
            product = sum(made.user.item[user, w] * made.item_embedding.item[item, w] for w in range(WIDTH))
            scores.append(made.mean + made.user_bias[user] + made.item_bias[item] + product)
    return torch.stack(scores)


def slow_loss(made: Factorization, asked: Requests) -> Tensor:
    scores, total = slow_scores(made, asked), torch.zeros((), dtype=torch.float64)
    for at, label in enumerate(asked.labels.tolist()):
        if made.squared:
            total = total + (scores[at] - label) ** 2
            continue
        logit = scores[at] - (0.0 if asked.log_rates is None else asked.log_rates[at].double())
        chance = 1 / (1 + torch.exp(-logit))
        total = total - (chance.log() if label else (1 - chance).log())
    return total / len(asked.labels)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_loss_and_gradients_beside_plain_lines(squared: bool, sampled: bool) -> None:
    made, asked = model(squared), requests(sampled=sampled)
    learned = [parameter for parameter in made.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(made.loss(asked), learned)
    expected = torch.autograd.grad(slow_loss(made, asked), learned)
    torch.testing.assert_close(made.loss(asked), slow_loss(made, asked), rtol=1e-6, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_probabilities_values_and_catalogue_agree() -> None:
    asked = requests()
    scores = slow_scores(model(), asked).float()
    assert asked.log_rates is not None
    torch.testing.assert_close(model().predict(asked), torch.sigmoid(scores - asked.log_rates))
    torch.testing.assert_close(model(squared=True).predict(asked), scores)
    histories = replace(asked.histories, users=asked.users)
    all_scores = model().scores(histories)
    assert all_scores.shape == (4, ITEMS + 1)
    owner = asked.request_of_candidate
    torch.testing.assert_close(all_scores[owner, asked.candidates], scores)


def test_without_biases_there_is_the_dot_product_and_nothing_else() -> None:
    made, asked = model(biases=False), requests()
    made.begin(3.0)
    assert made.user.item is not None
    assert made.item_embedding.item is not None
    rows = made.user.item[asked.users[asked.request_of_candidate]]
    product = (rows * made.item_embedding.item[asked.candidates]).sum(1).float()
    assert asked.log_rates is not None
    torch.testing.assert_close(made.predict(asked), torch.sigmoid(product - asked.log_rates))
    made.train().loss(asked).backward()
    assert made.mean.grad is made.item_bias.grad is made.user_bias.grad is None
    assert not made.fold_in.mean[-1].isnan()


def test_saved_is_loaded() -> None:
    made, settings = model(), Settings().changed(["model.name=matrix-factorization", f"model.width={WIDTH}"])
    again = build(settings, Shape(ITEMS, users=USERS)).double().eval()
    again.load_state_dict(made.state_dict())
    asked = requests(users=(2, 5, 0, 4))
    assert isinstance(again, Factorization)
    assert torch.equal(again.predict(asked), made.predict(asked))


# --- folding in -------------------------------------------------------------------------------------------------------


def by_numpy(fold: FoldIn, items: np.ndarray, wanted: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The ridge regression written as its stationary point: noise S^-1 (p - c) = X' (y - X p)."""
    level, noise, spread = (getattr(fold, name).double().numpy() for name in ("level", "noise", "spread"))
    wanted = np.where(np.isnan(wanted), level, wanted)
    prior = np.diag(noise / spread**2)
    return np.linalg.solve(items.T @ items + prior, items.T @ wanted + prior @ centre)


def test_folding_in_beside_numpy() -> None:
    rng = np.random.default_rng(0)
    fold = FoldIn(4).double()
    fold.mean.copy_(torch.tensor([0.3, -0.1, 0.0, 1.0]))
    fold.power.copy_(fold.mean.square() + torch.tensor([0.5, 1.0, 2.0, 0.1]))
    fold.level.fill_(1.7)
    fold.noise.fill_(0.6)
    lengths = [3, 0, 7, 1, 2]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items, wanted = rng.normal(size=(13, 4)), rng.normal(size=13)
    wanted[[0, 5, 12]] = np.nan
    found = fold(torch.from_numpy(items), torch.from_numpy(wanted), torch.from_numpy(offsets)).numpy()
    for at in range(len(lengths)):
        mine = slice(offsets[at], offsets[at + 1])
        np.testing.assert_allclose(found[at], by_numpy(fold, items[mine], wanted[mine], fold.mean.numpy()), rtol=1e-9)
    np.testing.assert_allclose(found[1], fold.mean.numpy())  # nothing is known of them
    centre = rng.normal(size=(5, 4))
    told = fold(
        torch.from_numpy(items), torch.from_numpy(wanted), torch.from_numpy(offsets), torch.from_numpy(centre)
    ).numpy()
    np.testing.assert_allclose(told[2], by_numpy(fold, items[3:10], wanted[3:10], centre[2]), rtol=1e-9)


def test_histories_in_blocks_are_histories_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = model(), requests(users=(4, 5, 0, 4))
    whole = made.scores(asked.histories)
    monkeypatch.setattr("regard.model.foldin._BLOCK", 1)
    torch.testing.assert_close(made.scores(asked.histories), whole)
    for at in range(4):
        own = asked.histories.items[asked.histories.offsets[at] : asked.histories.offsets[at + 1]]
        alone = Histories(own, torch.tensor([0, len(own)]))
        labelled = replace(alone, labels=asked.histories.labels[:1]) if made.squared else alone
        torch.testing.assert_close(made.scores(labelled)[0], whole[at])


def test_the_history_decides_for_those_who_were_not_met_and_for_nobody_else() -> None:
    made, histories = model(), Histories(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2, 4]))
    met = replace(histories, users=torch.tensor([1, 1]))
    assert torch.equal(made.scores(met)[0], made.scores(met)[1])
    unmet = replace(histories, users=torch.tensor([5, 0]))
    assert not torch.allclose(made.scores(unmet)[0], made.scores(unmet)[1])
    torch.testing.assert_close(made.scores(unmet), made.scores(histories))
    both = made.scores(replace(histories, users=torch.tensor([5, 1])))
    torch.testing.assert_close(both[0], made.scores(unmet)[0])
    torch.testing.assert_close(both[1], made.scores(met)[1])


def test_labels_of_the_history_are_what_a_new_user_is_solved_for() -> None:
    """Explicit feedback: the rest of a label, after mean and bias of the item, beside numpy."""
    made = model(squared=True)
    items = torch.tensor([3, 1, 6])
    labels = torch.tensor([4.0, math.nan, 1.0])
    histories = Histories(items, torch.tensor([0, 3]), labels=labels)
    assert made.item_embedding.item is not None
    x = np.concatenate([made.item_embedding.item[items].detach().numpy(), np.ones((3, 1))], 1)
    base = (made.mean + made.item_bias).detach().numpy()
    person = by_numpy(made.fold_in, x, labels.numpy() - base[items.numpy()], made.fold_in.mean.numpy())
    expected = made.item_embedding.item.detach().numpy() @ person[:-1] + person[-1] + base
    np.testing.assert_allclose(made.scores(histories)[0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_new_user_with_a_vector_begins_from_it() -> None:
    made = model(vectors=True, transfer="init")
    made.user.take(
        torch.randn(USERS + 1, WIDTH, dtype=torch.float64),
        torch.tensor([0, 1, 1, 1, 1, 0], dtype=torch.bool),
        torch.zeros(USERS + 1),
    )
    empty = Histories(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0, 0]), users=torch.tensor([4, 5]))
    people = made._vectors(empty.users, empty)  # type: ignore[arg-type]
    assert made.user.item is not None
    assert made.turn is not None
    torch.testing.assert_close(people[0, :-1], made.user.item[4] @ made.turn)
    torch.testing.assert_close(people[1], made.fold_in.mean)
    assert len(made.transferred()) == 1
    assert made.transferred()[0] is made.user.item


def test_statistics_are_those_of_the_last_steps() -> None:
    fold = FoldIn(2)
    rng = np.random.default_rng(0)
    mean, power = np.zeros(2), np.zeros(2)
    for step in range(1, 150):
        users = rng.normal(size=(3, 2)).astype(np.float32)
        share = 1 / min(step, 100)
        mean += share * (users.mean(0) - mean)
        power += share * ((users**2).mean(0) - power)
        fold.watch(torch.from_numpy(users), torch.tensor(2.0), torch.tensor(0.5))
    np.testing.assert_allclose(fold.mean.numpy(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fold.spread.numpy(), np.sqrt(power - mean**2), rtol=1e-4)
    assert fold.level.item() == pytest.approx(2.0)
    assert fold.noise.item() == pytest.approx(0.5)


# --- items that nobody has met, and mistakes --------------------------------------------------------------------------


def test_items_without_training_events_are_not_pushed_down() -> None:
    made, asked = model(), requests()
    made.trained[5:] = False
    made.train()
    (bias,) = torch.autograd.grad(made.loss(asked), made.item_bias)
    assert not bias[5:].any()
    made.eval()
    people = replace(asked.histories, users=asked.users)
    assert made.item_embedding.item is not None
    assert made.user.item is not None
    found = made.scores(people)[0, 6] - (made.user.item[2] @ made.item_embedding.item[6]).float()
    mean_bias = made.item_bias[1:5].mean()
    torch.testing.assert_close(found, (made.mean + made.user_bias[2] + mean_bias).float())


def test_the_catalogue_can_grow() -> None:
    made = model()
    histories = Histories(torch.tensor([1, 2]), torch.tensor([0, 2]), users=torch.tensor([1]))
    before = made.scores(histories)
    made.grow(torch.zeros(2, 0, dtype=torch.float64), torch.tensor([True, False]))
    after = made.scores(histories)
    assert after.shape == (1, ITEMS + 3)
    assert torch.equal(after[:, : ITEMS + 1], before)


@pytest.mark.parametrize("change", ['model.context=["hour"]', "model.time_gaps=true", "model.negatives=7"])
def test_what_it_does_not_read_is_refused(change: str) -> None:
    settings = Settings().changed(["model.name=matrix-factorization", change])
    with pytest.raises(SettingsError, match="is for other models; matrix-factorization reads users and items only"):
        build(settings, Shape(ITEMS, users=USERS))
