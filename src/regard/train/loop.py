"""The training loop, on one page.

What is validated, and how, is handed in as a callable: this room never sees a metric. Everything the loop needs to go
on is in `_State`, and all of it goes into the checkpoint: a killed and resumed training ends with the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from regard.config import TrainSettings
from regard.errors import DivergenceError, SettingsError
from regard.manifest import locked, new_file
from regard.train import checkpoint
from regard.train.optimiser import build_optimiser, clip
from regard.train.progress import Watch, memory_used

Validate = Callable[[], Mapping[str, Any]]

_CHECKPOINT_SECONDS = 60.0  # within an epoch
_EPOCH_SECONDS = 5.0  # at the end of one: writing after every epoch would cost more than learning on small data
_EPOCHS, _STEPS = 12, 2000  # of a schedule that is left to us: small data needs more passes


class Batches(Protocol):
    """What the loop asks of a loader."""

    @property
    def targets_per_epoch(self) -> int:
        """Events that enter the loss in one epoch."""

    def steps_per_epoch(self) -> int:
        """Steps of one epoch, about."""

    def state(self) -> dict[str, int]:
        """Where the next batch comes from."""

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a state."""

    def __iter__(self) -> Any:
        """Yield the batches left in the current epoch."""


class Learner(Protocol):
    """What the loop asks of a model, besides being an `nn.Module`."""

    def loss(self, batch: Any) -> Tensor:
        """Scalar loss of a batch."""


@runtime_checkable
class Tracing(Protocol):
    """What some validations say besides, after every epoch: the loss on what is held back."""

    def loss(self) -> float:
        """The loss of the current weights."""


@dataclass
class _State:
    """Where a training is; JSON-able, the tensors apart."""

    step: int = 0
    epoch: int = 0
    loss: float = 0.0
    batches: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    looks: int = 0  # at validation since the best one
    loader: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def fit(  # noqa: PLR0913 - what a training may be told
    model: nn.Module,
    batches: Batches,
    settings: TrainSettings,
    folder: Path,
    *,
    told: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    resume: bool = False,
    begun: bool = False,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place and leave it with the weights that were best on validation.

    Args:
        model: has `loss(batch) -> scalar`; already on its device.
        batches: one epoch per iteration; its state goes into the checkpoint.
        settings: epochs, optimiser, schedule, patience, precision.
        folder: where the checkpoint and the log of the training in progress are kept.
        told: what identifies this training; one that was told otherwise is not resumed.
        validate: gives figures of the current weights; `settings.metric` names the one that chooses (higher is better).
            None keeps the last weights.
        resume: go on from the checkpoint in `folder` if there is one.
        begun: the weights know something already; if nothing better comes on validation, they stay.
        watch: shows progress.

    Returns:
        One row per epoch: loss, validation figures, targets per second, seconds, memory. Weights that were `begun`
        have one of epoch 0 before them, without a loss, and it is the only one with `train.zero_shot`.

    Raises:
        DivergenceError: a loss was not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), watch or Watch(quiet=True) as seen:
        checkpoint.begin(folder, told or {}, resume)
        training = _Training(model, batches, settings, folder, validate, seen)
        return training.look() if settings.zero_shot else training.run(resume, begun)


class _Training:
    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        settings: TrainSettings,
        folder: Path,
        validate: Validate | None,
        watch: Watch,
    ) -> None:
        self.model, self.batches, self.settings = model, batches, settings
        self.folder, self.validate, self.watch = folder, validate, watch
        self.optimiser = build_optimiser(model, settings)
        self.epochs = settings.epochs or max(_EPOCHS, -(-_STEPS // batches.steps_per_epoch()))
        self.steps = self.epochs * batches.steps_per_epoch()
        self.device = next(model.parameters()).device
        self.precision = autocast_type(settings.precision, self.device)
        self.best: dict[str, Tensor] = {}
        self.state = _State()
        self.saved = -math.inf

    def run(self, resume: bool, begun: bool) -> list[dict[str, Any]]:
        if resume and (self.folder / checkpoint.STATE).exists():
            self.best, position = checkpoint.load(self.folder, self.model, self.optimiser)
            self.state = _State(**position)
            self.batches.restore(self.state.loader)
            self.watch.note(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")
        self.watch.start(self.epochs, self.steps, self.state.step)
        if begun and self.validate and not self.state.rows and not self.state.step:
            self._better(self.look()[-1]["validation"])
            self.watch.epoch(self.state.rows[-1], self.settings.metric)
        while self.state.epoch < self.epochs and not self._waited_long_enough():
            self._epoch()
        if self.best:
            self.model.load_state_dict(self.best)
        if not all(bool(value.isfinite().all()) for value in self.model.parameters()):
            raise DivergenceError("training diverged: weights are not finite; try a lower train.learning_rate")
        self.model.eval()
        return self.state.rows

    def look(self) -> list[dict[str, Any]]:
        """Measure the weights as they came, and learn nothing."""
        self.model.eval()
        held_back = self._held_back()
        self.model.eval()
        figures = dict(self.validate()) if self.validate else {}
        row = {"epoch": 0, "step": 0, "loss": None, **held_back, "validation": figures, "best": True}
        self.state.rows.append(row | {"targets_per_second": 0.0, "seconds": 0.0, "memory_gb": memory_used() / 2**30})
        write_log(self.folder / "log.jsonl", self.state.rows)
        return self.state.rows

    def _held_back(self) -> dict[str, float]:
        """The loss on what is held back, where validation traces it."""
        return {"validation_loss": self.validate.loss()} if isinstance(self.validate, Tracing) else {}

    def _waited_long_enough(self) -> bool:
        return self.state.looks >= self.settings.patience

    def _look_due(self) -> bool:
        """Whether validation is looked at after this epoch: on small data, looking costs more than learning."""
        every = -(-self.epochs // self.settings.validations)
        return (self.state.epoch + 1) % every == 0 or self.state.epoch + 1 == self.epochs

    def _epoch(self) -> None:
        state, settings = self.state, self.settings
        self.model.train()
        begun = time.monotonic()
        before = state.seconds
        for batch in self.batches:
            state.loss += self._step(batch)
            state.batches += 1
            state.step += 1
            now = time.monotonic()
            state.seconds = before + now - begun
            done = state.batches / self.batches.steps_per_epoch()
            self.watch.step(state.epoch, state.step, self.batches.targets_per_epoch * done / state.seconds)
            if now - self.saved > _CHECKPOINT_SECONDS:
                self._save()
        held_back = self._held_back()
        figures = dict(self.validate()) if self.validate and self._look_due() else {}
        self._close_epoch(figures, held_back)
        if (
            self.state.epoch == self.epochs
            or self._waited_long_enough()
            or time.monotonic() - self.saved > _EPOCH_SECONDS
        ):
            self._save()
        self.watch.epoch(state.rows[-1], settings.metric)

    def _step(self, batch: Any) -> float:
        rate = self.settings.learning_rate * schedule(self.state.step, self.steps, self.settings.warmup)
        frozen = self.state.step < self.settings.freeze * self.steps
        for group in self.optimiser.param_groups:
            group["lr"] = rate * (group["share"] if not (frozen and group["started"]) else 0.0)
        with torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None):
            loss: Tensor = cast(Learner, self.model).loss(batch.to(self.device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergenceError(
                f"training diverged: the loss is {value} at step {self.state.step + 1} (epoch {self.state.epoch + 1}); "
                f"try --set train.learning_rate={self.settings.learning_rate / 3:.1g} or --set train.precision=float32"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        return value

    def _close_epoch(self, figures: dict[str, Any], held_back: dict[str, float]) -> None:
        state, better = self.state, self._better(figures)
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "loss": state.loss / max(1, state.batches),
            **held_back,
            "validation": figures,
            "best": better,
            "targets_per_second": self.batches.targets_per_epoch / max(1e-9, state.seconds),
            "seconds": state.seconds,
            "memory_gb": memory_used() / 2**30,
        }
        state.rows.append(row)
        state.epoch += 1
        state.loss, state.batches, state.seconds = 0.0, 0, 0.0

    def _better(self, figures: Mapping[str, Any]) -> bool:
        """Keep the weights if they are the best so far."""
        state, metric = self.state, self.settings.metric
        state.looks += bool(figures)
        if metric not in figures or figures[metric] <= state.best:
            return False
        state.best, state.looks = figures[metric], 0
        for name, value in self.model.state_dict().items():  # into the tensors of before: a table may be large
            self.best[name] = self.best[name].copy_(value) if name in self.best else value.detach().clone()
        return True

    def _save(self) -> None:
        self.saved = time.monotonic()
        self.state.loader = self.batches.state()
        checkpoint.save(self.folder, self.model, self.optimiser, self.best, asdict(self.state))
        write_log(self.folder / "log.jsonl", self.state.rows)


def write_log(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    with new_file(path) as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: rises over the first `warmup` of all steps, then falls as a half cosine to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products, None for float32; `auto` is bfloat16 where the hardware multiplies it natively."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bfloat16()
        precision = "bfloat16" if native else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a card."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("train.device=cuda, but torch finds no CUDA card here; use auto or cpu")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def set_threads(count: int) -> None:
    """Use `count` CPU threads; 0 leaves it to torch, which takes all cores or what OMP_NUM_THREADS says."""
    if count:
        torch.set_num_threads(count)


def _cpu_multiplies_bfloat16() -> bool:
    has: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(has())
