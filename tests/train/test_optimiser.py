"""Row-wise Adam against a plain loop over all rows; everything else against torch's own; clipping, and resuming."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from regard.config import ModelSettings, TrainSettings
from regard.data.batches import Histories, TrainingBatch, TrainingBatches
from regard.data.shape import Shape
from regard.errors import SettingsError
from regard.model.retriever import Retriever
from regard.train import checkpoint, loop
from regard.train.loop import fit
from regard.train.optimiser import RowWiseAdam, build_optimiser, clip

ITEMS = 40


def rows_of(shape: tuple[int, int], rows: list[int]) -> Tensor:
    """A sparse gradient (V, D) of these rows, as a lookup leaves it: in any order, repeats apart."""
    values = torch.randn(len(rows), shape[1], dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, shape, check_invariants=True)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_row_moves_as_if_all_rows_were_walked_through_in_every_step(decoupled: bool, decay: float) -> None:
    table = nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
    group = {"params": [table], "rows": True, "weight_decay": decay}
    optimiser = RowWiseAdam([group], lr=0.01, decoupled_weight_decay=decoupled)
    want, square = table.detach().clone(), [0.0] * 7
    steps = [[0, 3], [3], [6, 1, 3, 1], [], [5], [0, 1, 2, 3, 4, 5, 6], [2], [6]]
    for at, rows in enumerate(steps, 1):
        optimiser.param_groups[0]["lr"] = 0.01 / at
        table.grad = rows_of((7, 3), rows)
        dense = table.grad.to_dense()
        for row in range(7):
            grad = dense[row] + (decay * want[row] if row in rows and not decoupled else 0)
            square[row] = 0.999 * square[row] + 0.001 * float((grad**2).mean())
            if row in rows:
                kept = 1 - 0.01 / at * decay if decoupled else 1
                size = (square[row] / (1 - 0.999**at)) ** 0.5 + 1e-8
                want[row] = kept * want[row] - 0.01 / at * grad / size
        optimiser.step()
        torch.testing.assert_close(table.detach(), want, atol=1e-12, rtol=1e-12)
    assert sum(value.numel() for value in optimiser.state[table].values()) == 2 * 7 + 1


def test_beside_a_table_everything_moves_as_by_torch() -> None:
    plain, twin = (nn.Parameter(torch.arange(6.0).view(2, 3)) for _ in "ab")
    table = nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
    groups = [{"params": [plain]}, {"params": [table], "rows": True}]
    ours = RowWiseAdam(groups, lr=0.1, weight_decay=0.01, decoupled_weight_decay=True)
    theirs = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.01)
    for _ in range(3):
        plain.grad = torch.randn(2, 3)
        twin.grad, table.grad = plain.grad.clone(), rows_of((7, 3), [2])
        ours.step()
        theirs.step()
    assert torch.equal(plain, twin)
    assert len(ours.param_groups) == 2


def test_clipping_by_rows_is_clipping_of_the_whole() -> None:
    sparse, dense, other = (nn.Parameter(torch.zeros(7, 3, dtype=torch.float64)) for _ in "abc")
    for most in (0.5, 100.0):
        sparse.grad = rows_of((7, 3), [4, 0, 4])
        dense.grad, other.grad = sparse.grad.to_dense(), torch.randn(7, 3, dtype=torch.float64)
        twin = nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
        twin.grad = other.grad.clone()
        clip([sparse, other, nn.Parameter(torch.zeros(2))], most)
        nn.utils.clip_grad_norm_([dense, twin], most)
        torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
        torch.testing.assert_close(other.grad, twin.grad)


def model_of(**settings: Any) -> Retriever:
    torch.manual_seed(3)
    told = {"width": 16, "heads": 2, "window": 12, "dropout": 0.0, "negatives": 6, **settings}
    return Retriever(Shape(ITEMS), ModelSettings(**told))


def batch_of(items: list[int], targets: list[int]) -> TrainingBatch:
    histories = Histories(torch.tensor(items), torch.tensor([0, len(items)]))
    return TrainingBatch(histories, torch.tensor(targets), torch.tensor([2]))


@pytest.mark.parametrize("form", [{}, {"hash_rows": 30}, {"name": "gru"}], ids=str)
def test_a_step_touches_the_rows_it_read_and_its_gradient_is_the_dense_one(form: dict[str, Any]) -> None:
    dense, sparse = model_of(**form), model_of(**form)
    if sparse.item_embedding.hashes is not None:
        for model in (dense, sparse):
            model.item_embedding.hashes.copy_(torch.arange(2 * ITEMS + 2).view(-1, 2) % 30 + 1)  # type: ignore[union-attr]
    (table,) = sparse.tables(by_rows=True)
    batch = batch_of([5, 0, 7, 5], [0, 7, 5, 9])
    for model in (dense, sparse):
        torch.manual_seed(4)
        model.loss(batch).backward()
    assert table.grad is not None
    assert table.grad.is_sparse
    assert dense.item_embedding.item is not None
    assert dense.item_embedding.item.grad is not None
    torch.testing.assert_close(table.grad.to_dense(), dense.item_embedding.item.grad)
    if not form.get("hash_rows"):
        assert len(table.grad.coalesce().indices()[0]) <= len({5, 0, 7, 9, 2}) + 6
    optimiser = build_optimiser(model_of(**form), TrainSettings(table_optimizer="rowwise"))
    assert [group["rows"] for group in optimiser.param_groups] == [False, False, True]


def test_rows_of_a_model_that_reads_all_are_refused() -> None:
    settings = TrainSettings(table_optimizer="rowwise")
    for model in (model_of(negatives=0), nn.Linear(2, 2)):
        with pytest.raises(SettingsError, match=r"table_optimizer=rowwise is .*model.negatives=1024"):
            build_optimiser(model, settings)


@pytest.mark.parametrize("how", ["same", "rowwise"])
def test_a_table_learns_at_a_multiple_of_the_rate(how: Any) -> None:
    model = model_of()
    optimiser = build_optimiser(model, TrainSettings(table_optimizer=how, table_rate=3.0, weight_decay=0.1))
    (table,) = [group for group in optimiser.param_groups if group["share"] == 3.0]
    assert [id(each) for each in table["params"]] == [id(model.item_embedding.item)]
    assert table["rows"] == (how == "rowwise")
    assert table["weight_decay"] * table["share"] == pytest.approx(0.1)  # a larger rate is no larger decay
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))
    with pytest.raises(SettingsError, match=r"train.table_rate=3 is for the item table of a retriever"):
        build_optimiser(nn.Linear(2, 2), TrainSettings(table_rate=3.0))


@pytest.mark.parametrize("how", ["same", "rowwise"])
def test_a_table_that_started_from_vectors_has_a_rate_of_its_own(how: Any) -> None:
    model = transferring("init")
    told = TrainSettings(table_optimizer=how, table_rate=3.0, vectors_rate=0.2, weight_decay=0.1)
    groups = {id(each): group for group in build_optimiser(model, told).param_groups for each in group["params"]}
    table = groups[id(model.item_embedding.item)]
    assert table["share"] == 0.2
    assert (table["rows"], table["weight_decay"], table["started"]) == (how == "rowwise", 0.0, True)
    assert {group["share"] for group in groups.values() if group is not table} == {1.0}


@pytest.mark.parametrize("told", [{"table_optimizer": "rowwise"}, {"table_rate": 3.0}], ids=str)
def test_a_model_without_ids_has_no_table_and_says_why(told: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"is for the rows that items have of their own.*model.transfer=frozen"):
        build_optimiser(transferring("frozen"), TrainSettings(**told))


def transferring(mode: str) -> Retriever:
    settings = ModelSettings(width=8, negatives=6, transfer=mode)  # type: ignore[arg-type]
    return Retriever(Shape(ITEMS, vectors=8), settings)


def learner() -> tuple[Retriever, TrainingBatches, TrainSettings]:
    settings = TrainSettings(
        metric="ndcg@10", epochs=4, batch_tokens=64, learning_rate=1e-2, table_optimizer="rowwise", weight_decay=0.01
    )
    ends = np.arange(0, 61 * 20, 20).astype(np.int64)
    item = np.random.default_rng(1).integers(1, ITEMS + 1, ends[-1]).astype(np.int32)
    dataset: Any = SimpleNamespace(item=item, behaviour=None, time=None)
    split: Any = SimpleNamespace(order=None, training=lambda _: (ends[:-1], ends[1:]), target_events=lambda _: None)
    model = model_of(negative_sampling="mixed", dropout=0.3)
    assert model.negatives is not None
    model.negatives.take(torch.from_numpy(np.bincount(item, minlength=ITEMS + 1)))
    return model, TrainingBatches(dataset, split, window=12, batch_tokens=64, seed=1), settings


def test_a_training_by_rows_resumes_to_the_very_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)  # after every step
    model, batches, settings = learner()
    rows = fit(model, batches, settings, tmp_path / "whole", validate=lambda: {"ndcg@10": model.nothing.sum().item()})
    assert rows[-1]["loss"] < rows[0]["loss"]
    other, batches, _ = learner()
    steps = iter(range(31))  # in the middle of the second epoch
    whole = other.loss

    def interrupted(batch: TrainingBatch) -> Tensor:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole(batch)

    other.loss = interrupted  # type: ignore[method-assign]
    told: Any = {"validate": lambda: {"ndcg@10": other.nothing.sum().item()}}
    with pytest.raises(KeyboardInterrupt):
        fit(other, batches, settings, tmp_path / "part", **told)
    stored = load_file(tmp_path / "part" / checkpoint.STATE)
    assert any(name.endswith("/read") and value.max() > 20 for name, value in stored.items())
    other, batches, _ = learner()
    again = fit(other, batches, settings, tmp_path / "part", resume=True, **told)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
