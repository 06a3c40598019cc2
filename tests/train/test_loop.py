"""The loop: resumed = uninterrupted under real kills, best weights, early stop, divergence, log."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.config import ModelSettings, TrainSettings
from regard.data.batches import TrainingBatches
from regard.data.shape import Shape
from regard.errors import DivergenceError, StorageError
from regard.manifest import locked
from regard.model.negatives import SharedNegatives
from regard.model.retriever import Retriever
from regard.train import checkpoint, loop
from regard.train.loop import fit, schedule

ITEMS = 40


def learner(epochs: int = 4, **changes: object) -> tuple[Retriever, TrainingBatches, TrainSettings]:
    settings = TrainSettings(metric="ndcg@10", epochs=epochs, batch_tokens=64, learning_rate=1e-2, **changes)  # type: ignore[arg-type]
    torch.manual_seed(settings.seed)
    lengths = np.random.default_rng(0).integers(1, 30, 60)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = np.random.default_rng(1).integers(1, ITEMS + 1, ends[-1]).astype(np.int32)
    dataset = SimpleNamespace(item=item, behaviour=None, time=None)
    split = SimpleNamespace(order=None, training=lambda _: (ends[:-1], ends[1:]), target_events=lambda _: None)
    model = Retriever(Shape(ITEMS), ModelSettings(width=16, window=12, dropout=0.3))
    return model, TrainingBatches(dataset, split, window=12, batch_tokens=64, seed=settings.seed), settings  # type: ignore[arg-type]


def digest(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_a_killed_training_resumes_to_the_very_same_weights(tmp_path: Path) -> None:
    """Kill a real process with SIGKILL at arbitrary moments, resume, and compare every bit."""
    model, batches, settings = learner(epochs=6)
    rows = fit(model, batches, settings, tmp_path / "whole", validate=lambda: {"ndcg@10": -model.nothing.sum().item()})
    folder = tmp_path / "killed"
    script = f"""
import sys, time, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
torch.set_num_threads(2)
import regard.train.loop as loop
loop._CHECKPOINT_SECONDS = 0.05
from test_loop import learner
from pathlib import Path
from safetensors.torch import save_file
model, batches, settings = learner(epochs=6)
step = model.loss
def slowly(batch):
    time.sleep(0.01)
    return step(batch)
model.loss = slowly
print("ready", flush=True)
loop.fit(model, batches, settings, Path({str(folder)!r}), resume=True,
         validate=lambda: {{"ndcg@10": -model.nothing.sum().item()}})
save_file(model.state_dict(), {str(tmp_path / "end.safetensors")!r})
"""
    kills = 0
    for wait in (0.15, 0.9, 0.4, None):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "2"}
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if wait is not None:
            time.sleep(wait)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
    assert kills >= 2
    assert process.returncode == 0
    from safetensors.torch import load_file

    ended = load_file(tmp_path / "end.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, ended[name]), name
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in log] == [row["loss"] for row in rows]
    assert len(log) == 6


def test_best_weights_are_restored_and_patience_ends_the_training(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=9, patience=2)
    figures = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    seen: list[list[Tensor]] = []

    def validate() -> dict[str, float]:
        seen.append(digest(model))
        return {"ndcg@10": next(figures)}

    rows = fit(model, batches, settings, tmp_path, validate=validate)
    assert [row["validation"]["ndcg@10"] for row in rows] == [0.1, 0.3, 0.2, 0.25]
    assert [row["best"] for row in rows] == [True, True, False, False]
    assert all(torch.equal(a, b) for a, b in zip(digest(model), seen[1], strict=True))
    assert not model.training


@pytest.mark.parametrize(("first", "kept"), [(0.5, 0), (0.2, 2)])
def test_weights_that_were_begun_stay_unless_better_ones_come(first: float, kept: int, tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=3)
    figures, seen = iter([first, 0.1, 0.3, 0.2]), list[list[Tensor]]()

    def validate() -> dict[str, float]:
        seen.append(digest(model))
        return {"ndcg@10": next(figures)}

    before = digest(model)
    rows = fit(model, batches, settings, tmp_path, validate=validate, begun=True)
    assert [(row["epoch"], row["loss"] is None) for row in rows] == [(0, True), (1, False), (2, False), (3, False)]
    assert all(torch.equal(a, b) for a, b in zip(before, seen[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(digest(model), seen[kept], strict=True))


def test_without_validation_all_epochs_run_and_the_last_weights_stay(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=2)
    before = digest(model)
    rows = fit(model, batches, settings, tmp_path)
    assert len(rows) == 2
    assert rows[1]["loss"] < rows[0]["loss"]
    assert not all(torch.equal(a, b) for a, b in zip(before, digest(model), strict=True))
    assert {"epoch", "step", "loss", "validation", "best", "targets_per_second", "seconds", "memory_gb"} == set(rows[0])


def test_a_loss_that_is_not_finite_stops_with_advice_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=3)
    fit(model, batches, learner(epochs=1)[2], tmp_path)
    good = (tmp_path / checkpoint.STATE).read_bytes()
    model.loss = lambda batch: model.nothing.sum() * math.nan  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match=r"loss is nan at step \d+ .*train.learning_rate=0.003"):
        fit(model, batches, settings, tmp_path, resume=True)
    assert (tmp_path / checkpoint.STATE).read_bytes() == good


def test_a_damaged_checkpoint_and_one_of_another_model_are_told(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=1)
    fit(model, batches, settings, tmp_path)
    other = Retriever(Shape(ITEMS + 1), ModelSettings(width=16))
    with pytest.raises(StorageError, match="another shape"):
        fit(other, batches, settings, tmp_path, resume=True)
    (tmp_path / checkpoint.STATE).write_bytes(b"half a file")
    with pytest.raises(StorageError, match="damaged"):
        fit(model, batches, settings, tmp_path, resume=True)


def test_a_training_told_otherwise_is_not_resumed_and_a_new_one_begins_from_nothing(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=1)
    fit(model, batches, settings, tmp_path, told={"dataset": "a"})
    with pytest.raises(StorageError, match="other dataset"):
        fit(model, batches, settings, tmp_path, told={"dataset": "b"}, resume=True)
    (tmp_path / ".state.safetensors.x.part").write_bytes(b"left by a killed process")
    assert len(fit(model, batches, settings, tmp_path, told={"dataset": "b"})) == 1
    assert not list(tmp_path.glob("*.part"))


def test_no_batch_without_targets_counts_as_divergence(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=1)
    model.negatives = SharedNegatives(ITEMS, ModelSettings(negatives=5))
    batches.wanted = np.zeros(len(batches.dataset.item), dtype=bool)
    rows = fit(model, batches, settings, tmp_path)
    assert rows[0]["loss"] == 0.0


def test_two_trainings_cannot_share_a_folder(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=1)
    with locked(tmp_path), pytest.raises(StorageError, match="in use by another process"):
        fit(model, batches, settings, tmp_path)


def test_seeds_decide(tmp_path: Path) -> None:
    ends = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model, batches, settings = learner(epochs=1, seed=seed)
        fit(model, batches, settings, tmp_path / name)
        ends.append(digest(model))
    same, other = zip(*ends[:2], strict=True), zip(*ends[1:], strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not all(torch.equal(a, b) for a, b in other)


def test_small_data_gets_more_passes_until_the_schedule_has_enough_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches, settings = learner(epochs=1)
    steps = batches.steps_per_epoch()
    monkeypatch.setattr(loop, "_EPOCHS", 2)
    monkeypatch.setattr(loop, "_STEPS", 2 * steps + 1)
    unset = settings.model_copy(update={"epochs": 0})
    assert len(fit(model, batches, unset, tmp_path)) == 3
    monkeypatch.setattr(loop, "_STEPS", 1)
    assert len(fit(model, batches, unset, tmp_path)) == 2


def test_validation_is_looked_at_so_often_at_most_and_always_at_the_end(tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=7, validations=3, patience=9)
    rows = fit(model, batches, settings, tmp_path, validate=lambda: {"ndcg@10": 0.5})
    assert [bool(row["validation"]) for row in rows] == [False, False, True, False, False, True, True]


def test_schedule_rises_then_falls_as_a_cosine() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert schedule(0, 100, 0.0) == 1.0


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_both_optimizers_learn(optimizer: str, tmp_path: Path) -> None:
    model, batches, settings = learner(epochs=3, optimizer=optimizer, weight_decay=0.01)
    rows = fit(model, batches, settings, tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]
