"""Four ways for item vectors to start from pretrained ones, each beside plain lines; and who competes in a softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regard.config import ModelSettings, TrainSettings
from regard.data.batches import Histories, TrainingBatch
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.items import ItemTable
from regard.model.retriever import Retriever
from regard.model.transfer import MODES, vector_width
from regard.train.optimiser import build_optimiser

ITEMS, WIDTH, VALUES = 7, 12, 5
TOLD = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
COUNTS = torch.tensor([0, 4, 1, 7, 0, 0, 3, 5])


def built(mode: str, **changes: object) -> tuple[ItemTable, Tensor]:
    """A table that was given vectors, in double precision, outside training."""
    torch.manual_seed(1)
    settings = ModelSettings(width=WIDTH, heads=1, transfer=mode, **changes)  # type: ignore[arg-type]
    size = vector_width(settings) or VALUES
    table = ItemTable(Shape(items=ITEMS, vectors=size), settings).double().eval()
    rows = torch.randn(ITEMS + 1, size, dtype=torch.float64) * TOLD[:, None]
    table.take(rows, TOLD, COUNTS)
    return table, rows


def start_of(rows: Tensor) -> Tensor:
    start = torch.zeros(len(rows), WIDTH, dtype=rows.dtype)
    start[:, : rows.shape[1]] = rows[:, :WIDTH]
    return start


def adapted(table: ItemTable, rows: Tensor) -> Tensor:
    adapter = table.pretrained.adapter  # type: ignore[union-attr]
    first, _, _, second = adapter.layers
    norm = adapter.norm
    hidden = start_of(rows) + functional.gelu(rows @ first.weight.T + first.bias) @ second.weight.T + second.bias
    centred = hidden - hidden.mean(1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
    return torch.where(TOLD[:, None], scaled * norm.weight + norm.bias, adapter.nothing)


def test_frozen_is_the_adapter_and_nothing_else() -> None:
    """It starts as what the vectors say; the test of its layers is of others, as those of the start are 0."""
    table, rows = built("frozen")
    assert table.item is None
    alike = functional.cosine_similarity(table()[TOLD], functional.layer_norm(start_of(rows), [WIDTH])[TOLD])
    torch.testing.assert_close(alike, torch.ones_like(alike))
    for each in table.parameters():
        torch.nn.init.normal_(each)
    torch.testing.assert_close(table(), adapted(table, rows))
    assert not any(name.startswith("item") for name, _ in table.named_parameters())


def test_fuse_lays_the_vector_beside_an_id_that_starts_from_zero() -> None:
    table, rows = built("fuse", id_width=3)
    assert table.item is not None
    assert table.item.shape == (ITEMS + 1, 3)
    assert not table.item.any()
    with torch.no_grad():
        table.item.normal_()
        table.pretrained.nothing.normal_()  # type: ignore[union-attr]
    own = torch.where(TOLD[:, None], rows, table.pretrained.nothing)  # type: ignore[union-attr]
    torch.testing.assert_close(table(), torch.cat([own, table.item], 1))


def test_gate_weighs_the_vector_by_how_seldom_an_item_was_met() -> None:
    table, rows = built("gate")
    assert table.item is not None
    with torch.no_grad():
        for each in table.parameters():
            each.normal_()
    mean = (4 + 1 + 7 + 3 + 5) / 5
    gate = torch.tensor([mean / (count + mean) for count in COUNTS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(table(), table.item + gate[:, None] * adapted(table, rows))
    assert gate[4] == 1  # nobody has met it: the vector alone


def test_gate_lets_items_go_without_their_id_in_training_only() -> None:
    table, _ = built("gate", id_dropout=0.5, dropout=0.0)
    assert table.item is not None
    with torch.no_grad():
        table.item.fill_(100.0)
    large = (table.train()().abs().amax(1) > 50).float()
    assert 0 < large.mean() < 1
    assert (table.eval()().abs().amax(1) > 50).all()


def test_init_starts_from_the_vectors_and_leaves_other_items_their_own_start() -> None:
    table, rows = built("init")
    torch.testing.assert_close(table()[TOLD], rows[TOLD])
    assert table()[~TOLD].norm(dim=1).min() > 0
    assert table.started == [table.item]


@pytest.mark.parametrize("mode", MODES)
def test_some_items_have_the_rows_of_all(mode: str) -> None:
    table, _ = built(mode)
    some = torch.tensor([3, 0, 6, 6])
    torch.testing.assert_close(table(some), table()[some])


@pytest.mark.parametrize("mode", MODES)
def test_saved_weights_need_no_file_of_vectors(mode: str) -> None:
    table, rows = built(mode)
    settings = ModelSettings(width=WIDTH, heads=1, transfer=mode)  # type: ignore[arg-type]
    again = ItemTable(Shape(items=ITEMS, vectors=rows.shape[1]), settings).double().eval()
    again.load_state_dict(table.state_dict())
    assert torch.equal(again(), table())


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_vectors_start_at_the_scale_of_other_item_vectors(mode: str) -> None:
    torch.manual_seed(0)
    for name, scale in (("mean", 1.0), ("ranker", 0.1)):
        settings = ModelSettings(name=name, width=64, transfer=mode)  # type: ignore[arg-type]
        size = vector_width(settings) or 32
        table = ItemTable(Shape(items=500, vectors=size), settings).eval()
        told = torch.ones(501, dtype=torch.bool)
        rows = torch.randn(501, size) * (scale * 64**-0.5 if vector_width(settings) else 1.0)
        table.take(rows, told, torch.zeros(501))
        assert table()[1:].norm(dim=1).mean().item() == pytest.approx(scale, rel=0.2)


@pytest.mark.parametrize("mode", MODES)
def test_a_table_that_grew_is_the_one_that_had_the_items_from_the_start(mode: str) -> None:
    """Of items without training events: what is learned of their ids is nothing."""
    table, rows = built(mode)
    cut = ITEMS - 2
    settings = ModelSettings(width=WIDTH, heads=1, transfer=mode)  # type: ignore[arg-type]
    small = ItemTable(Shape(items=cut, vectors=rows.shape[1]), settings).double().eval()
    told = TOLD.clone()
    told[-2:] = True
    rows[-2:] = torch.randn(2, rows.shape[1], dtype=torch.float64)
    counts = COUNTS.clone()
    counts[-2:] = 0
    table.take(rows, told, counts)
    state = {name: value[: cut + 1] if len(value) == ITEMS + 1 else value for name, value in table.state_dict().items()}
    small.load_state_dict(
        {name: state[name] for name in small.state_dict() if name != "codes"} | {"codes": small.codes}
    )
    small.grow(rows[-2:], told[-2:])
    torch.testing.assert_close(small(), table())
    if mode == "gate":
        assert torch.equal(small.pretrained.gate[-2:], torch.ones(2))  # type: ignore[union-attr]


def test_refusals() -> None:
    with pytest.raises(SettingsError, match=r"id_width=12 leaves nothing"):
        built("fuse", id_width=WIDTH)
    with pytest.raises(SettingsError, match=r"hash_rows=3 and pretrained vectors exclude each other"):
        built("gate", hash_rows=3)


def batch() -> TrainingBatch:
    histories = Histories(torch.tensor([1, 2, 6]), torch.tensor([0, 3]))
    return TrainingBatch(histories, torch.tensor([2, 6, 3]), torch.tensor([1]))


def retriever(trained: list[int]) -> Retriever:
    torch.manual_seed(0)
    model = Retriever(Shape(items=ITEMS), ModelSettings(name="mean", width=WIDTH, heads=1, dropout=0.0)).double()
    model.trained[trained] = True
    return model


def test_items_without_training_events_do_not_compete() -> None:
    """Their vectors get no gradient, and the loss is that of a catalogue without them."""
    model = retriever([1, 2, 3, 6])
    (gradient,) = torch.autograd.grad(model.loss(batch()), model.item_embedding.item)  # type: ignore[arg-type]
    assert gradient.abs().sum(1).gt(0).tolist() == [False, True, True, True, False, False, True, False]
    states, _ = model.states(batch().histories, model.table)
    states = torch.cat([states, model.nothing[None]])
    logits = states @ model.table[[1, 2, 3, 6]].T
    expected = functional.cross_entropy(logits, torch.tensor([1, 3, 2, 0]))
    torch.testing.assert_close(model.loss(batch()), expected)


def test_where_all_items_have_training_events_all_compete() -> None:
    some, every = retriever([]), retriever(list(range(1, ITEMS + 1)))
    torch.testing.assert_close(some.loss(batch()), every.loss(batch()))


def test_what_started_from_vectors_has_its_own_share_of_the_learning_rate() -> None:
    settings = ModelSettings(name="mean", width=WIDTH, heads=1, transfer="init")
    model = Retriever(Shape(items=ITEMS, vectors=WIDTH), settings)
    groups = build_optimiser(model, TrainSettings(vectors_rate=0.25, weight_decay=0.5)).param_groups
    (own,) = [group for group in groups if group["started"]]
    assert own["share"] == 0.25
    assert own["weight_decay"] == 0.0
    assert own["params"][0] is model.item_embedding.item
    others = [each for group in groups if not group["started"] for each in group["params"]]
    assert len(others) + 1 == len(list(model.parameters()))
