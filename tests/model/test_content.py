"""What is added to scores of items few have met, beside plain loops; and that nothing else of a retriever changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from regard.config import ModelSettings, Settings
from regard.data.batches import Histories, TrainingBatch
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.content import DECAY, EVENTS
from regard.model.models import build
from regard.model.retriever import Retriever

ITEMS, VALUES, WIDTH = 9, 5, 8
COUNTS = torch.tensor([0, 4, 1, 7, 0, 250, 3, 5, 0, 2])
ROWS = torch.randn(ITEMS + 1, VALUES, generator=torch.Generator().manual_seed(3))
ROWS[[0, 2, 8]] = 0.0  # the unknown item, and two of which nothing is told


def retriever(weight: float, transfer: str = "gate", **changes: object) -> Retriever:
    torch.manual_seed(0)
    told = {"name": "self-attention", "width": WIDTH, "dropout": 0.0, "transfer": transfer, **changes}
    model = Retriever(Shape(ITEMS, vectors=VALUES), ModelSettings(content_weight=weight, **told))  # type: ignore[arg-type]
    told_of = ROWS.abs().sum(1) > 0
    model.item_embedding.take(ROWS, told_of, COUNTS)
    if model.content is not None:
        model.content.take(ROWS, COUNTS)
    return model.eval()


def histories() -> Histories:
    return Histories(torch.tensor([3, 1, 2, 5, 8, 2, 0, 6, 6]), torch.tensor([0, 4, 4, 6, 9]))


def by_hand(history: list[int], item: int, weight: float) -> float:
    """The definition, with numbers."""
    vectors = ROWS.double().numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    profile = np.zeros(VALUES)
    for age, one in enumerate(reversed(history)):
        if lengths[one] > 0:
            profile += DECAY**age * vectors[one] / lengths[one]
    if lengths[item] == 0 or not profile.any():
        return 0.0
    cosine = float(profile @ vectors[item] / (np.linalg.norm(profile) * lengths[item]))
    return weight * EVENTS / (int(COUNTS[item]) + EVENTS) * cosine


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_the_score_gains_what_the_definition_says(temperature: float) -> None:
    plain, model = (retriever(weight, temperature=temperature) for weight in (0.0, 3.0))
    gained = model.scores(histories()) - plain.scores(histories())
    offsets, items = histories().offsets.tolist(), histories().items.tolist()
    for row in range(4):
        history = items[offsets[row] : offsets[row + 1]]
        for item in range(1, ITEMS + 1):
            assert gained[row, item].item() == pytest.approx(by_hand(history, item, 3.0), abs=1e-5)
    assert plain.content is None
    assert gained[1].abs().max() == 0  # an empty history is about nothing


def test_item_vectors_are_the_learned_ones() -> None:
    """What is added says how few have met an item: it has no place where items are compared, or handed on."""
    plain, model = retriever(0.0), retriever(2.5)
    torch.testing.assert_close(model.table, plain.table)
    torch.testing.assert_close(model.users(histories(), model.table) @ model.table.T, plain.scores(histories()))


def test_training_is_as_it_was() -> None:
    batch = TrainingBatch(histories(), torch.tensor([1, 2, 5, 0, 2, 0, 6, 6, 0]), torch.tensor([3]))
    torch.testing.assert_close(retriever(4.0).loss(batch), retriever(0.0).loss(batch))


def test_saved_weights_hold_all_of_it() -> None:
    model = retriever(4.0)
    other = Retriever(Shape(ITEMS, vectors=VALUES), ModelSettings(width=WIDTH, transfer="gate", content_weight=4.0))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval().scores(histories()), model.scores(histories()))


@pytest.mark.parametrize("transfer", ["gate", "frozen"])
def test_a_catalogue_that_grew_scores_as_one_that_had_the_items_from_the_start(transfer: str) -> None:
    whole = retriever(4.0, transfer)
    cut = ITEMS - 1  # nothing is told of item 8, and item 9 comes later
    small = Retriever(
        Shape(cut, vectors=VALUES), ModelSettings(width=WIDTH, heads=2, transfer=transfer, content_weight=4.0)
    ).eval()
    state = {name: value[: cut + 1] if len(value) == ITEMS + 1 else value for name, value in whole.state_dict().items()}
    small.load_state_dict(state | {"item_embedding.codes": small.item_embedding.codes})
    small.grow(ROWS[-1:], torch.ones(1, dtype=torch.bool))
    grown, expected = small.scores(histories()), whole.scores(histories())
    torch.testing.assert_close(grown[:, :-1], expected[:, :-1])
    met, unmet = EVENTS / (COUNTS[-1] + EVENTS), 1.0
    content = whole.content
    assert content is not None
    more = 4.0 * (unmet - met) * (content.lately(histories()) @ content.rows[-1])
    if transfer == "frozen":  # no row of an id, no gate of its own: that is all that counts
        torch.testing.assert_close(grown[:, -1], expected[:, -1] + more)


def test_without_vectors_there_is_none() -> None:
    model = Retriever(Shape(ITEMS), ModelSettings(width=WIDTH, content_weight=4.0))
    assert model.content is None


@pytest.mark.parametrize("name", ["ranker", "matrix-factorization"])
def test_other_models_refuse_it(name: str) -> None:
    settings = Settings().changed([f"model.name={name}", "model.content_weight=2"])
    with pytest.raises(SettingsError, match=r"model\.content_weight.* is for"):
        build(settings, Shape(ITEMS, vectors=VALUES))


def test_rows_of_any_scale_say_the_same() -> None:
    one, other = retriever(2.0), retriever(2.0)
    assert one.content is not None
    assert other.content is not None
    scaled: Tensor = ROWS * torch.linspace(0.1, 9.0, ITEMS + 1)[:, None]
    other.content.take(scaled, COUNTS)
    torch.testing.assert_close(one.content.rows, other.content.rows)
