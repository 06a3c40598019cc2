"""DIN of torch-rechub on the samples of din_data.py.

Its own classes: SparseFeature and SequenceFeature (`pooling="concat"`, one shared table), DataGenerator, CTRTrainer;
the target stands in `features` too, as in its example. Its DIN knows no mask; `padding_idx=0`, which its guide asks of
sequence models, makes padding a zero vector: without softmax that is a mask, with softmax padding still takes weight.
One repair in the peer's favour: the trainer restores the best weights only if early stopping fires.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch
from din_protocol import Clock, Part, Samples, Side, auc, in_precision, options_of
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator, TorchDataset

TRIALS: tuple[dict[str, Any], ...] = (
    {"lr": 1e-3, "weight_decay": 1e-5, "dropout": 0.0, "softmax": False},  # its defaults
    {"lr": 1e-3, "weight_decay": 1e-5, "dropout": 0.0, "softmax": True},
    {"lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.2, "softmax": False},
    {"lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.2, "softmax": True},
    {"lr": 1e-3, "weight_decay": 1e-3, "dropout": 0.2, "softmax": False},  # the decay of its example
    {"lr": 4e-3, "weight_decay": 1e-5, "dropout": 0.2, "softmax": True},  # the rate that ours was found to like
)
UNIT, HEAD = [64, 16], [128, 64]


class TimedTrainer(CTRTrainer):
    """The trainer, with a clock around each epoch of training."""

    def __init__(self, *arguments: Any, clock: Clock, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.clock = clock
        self.evaluate_fn = lambda labels, scores: auc(np.ravel(labels), np.ravel(scores))

    def train_one_epoch(self, *arguments: Any, **options: Any) -> float:
        self.clock.start()
        loss = super().train_one_epoch(*arguments, **options)
        self.clock.stop()
        return loss

    def evaluate(self, *arguments: Any) -> float:
        found = super().evaluate(*arguments)
        self.clock.note(found)
        return found


def inputs_of(samples: Samples, part: Part) -> tuple[dict[str, np.ndarray], np.ndarray]:
    history, _, item, label = samples.table(part, "before")
    return {"target_item_id": item, "hist_item_id": history}, label


def build(samples: Samples, settings: dict[str, Any], options: argparse.Namespace) -> DIN:
    shape = {"vocab_size": samples.n_items + 1, "embed_dim": options.width, "padding_idx": 0}
    target = [SparseFeature("target_item_id", **shape)]
    history = [SequenceFeature("hist_item_id", pooling="concat", shared_with="target_item_id", **shape)]
    model = DIN(
        features=target,
        history_features=history,
        target_features=target,
        mlp_params={"dims": HEAD, "dropout": settings["dropout"]},
        attention_mlp_params={"dims": UNIT, "use_softmax": settings["softmax"]},
    )
    in_precision(model, options)
    return model


def main() -> None:
    options = options_of("torch-rechub", len(TRIALS))
    settings = TRIALS[options.trial - 1]
    began = time.perf_counter()
    samples = Samples.read(options.samples)
    model, clock = build(samples, settings, options), Clock()
    x_watched, y_watched = inputs_of(samples, samples.watched(options.watch))
    loaders = DataGenerator(*inputs_of(samples, samples.parts["train"])).generate_dataloader(
        x_watched, y_watched, x_watched, y_watched, batch_size=options.batch, num_workers=options.workers
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model,
            clock=clock,
            optimizer_fn=torch.optim.Adam,
            optimizer_params={"lr": settings["lr"], "weight_decay": settings["weight_decay"]},
            n_epoch=options.epochs,
            earlystop_patience=options.patience,
            device=options.device,
            model_path=folder,
        )
        trainer.fit(*loaders[:2])
    model.load_state_dict(trainer.early_stopper.best_weights)

    def score(part: Part) -> np.ndarray:
        data = TorchDataset(*inputs_of(samples, part))
        return np.array(trainer.predict(model, DataLoader(data, batch_size=options.batch)))

    notes = ("padding_idx=0", "best weights restored also where early stopping did not fire")
    told = {**settings, "attention_dims": UNIT, "mlp_dims": HEAD}
    Side("torch-rechub", told, score, clock, notes).report(samples, options, began)


if __name__ == "__main__":
    main()
