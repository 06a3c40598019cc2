"""DIN of DeepCTR-Torch on the samples of din_data.py.

Its own classes: SparseFeat and VarLenSparseFeat with one shared embedding, padding after the events and a length
column (which is what its attention masks by), `compile` and `fit`. Two repairs, both in the peer's favour: `fit` leaves
Dice and dropout in evaluation mode after the first validation, so every epoch begins with `train()`; and
`EarlyStopping` restores the best weights only if it fires, so they are restored in any case.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from deepctr_torch.callbacks import Callback, EarlyStopping
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN
from din_protocol import Clock, Part, Samples, Side, auc, in_precision, options_of

# Its loss is summed over a batch: 1e-2 here is an L2 of 1e-5 in a mean over 1,024 rows.
TRIALS: tuple[dict[str, Any], ...] = (
    {"lr": 1e-3, "dropout": 0.0, "l2_embedding": 1e-6, "softmax": False},  # its defaults
    {"lr": 1e-3, "dropout": 0.0, "l2_embedding": 1e-6, "softmax": True},
    {"lr": 1e-3, "dropout": 0.2, "l2_embedding": 1e-2, "softmax": False},
    {"lr": 1e-3, "dropout": 0.2, "l2_embedding": 1e-2, "softmax": True},
    {"lr": 5e-4, "dropout": 0.2, "l2_embedding": 1e-1, "softmax": True},
    {"lr": 4e-3, "dropout": 0.2, "l2_embedding": 1e-6, "softmax": True},  # the rate that ours was found to like
)
SIZES = {"att_hidden_size": (64, 16), "att_activation": "Dice", "dnn_hidden_units": (128, 64)}


class Watch(Callback):
    """Times an epoch, then tells the callbacks behind it the AUC of validation."""

    def __init__(self, clock: Clock, inputs: dict[str, np.ndarray], labels: np.ndarray, batch: int) -> None:
        super().__init__()
        self.clock, self.inputs, self.labels, self.batch = clock, inputs, labels, batch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.model.train()
        self.clock.start()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
        self.clock.stop()
        logs["val_auc"] = auc(self.labels, self.model.predict(dict(self.inputs), self.batch).ravel())
        self.clock.note(logs["val_auc"])


def inputs_of(samples: Samples, part: Part) -> tuple[dict[str, np.ndarray], np.ndarray]:
    history, length, item, label = samples.table(part, "after")
    return {"item": item, "hist_item": history, "seq_length": length}, label


def build(samples: Samples, settings: dict[str, Any], options: argparse.Namespace) -> DIN:
    rows = samples.n_items + 1
    events = SparseFeat("hist_item", rows, embedding_dim=options.width, embedding_name="item")
    columns = [
        SparseFeat("item", rows, embedding_dim=options.width),
        VarLenSparseFeat(events, maxlen=samples.length, length_name="seq_length"),
    ]
    model = DIN(
        columns,
        ["item"],
        **SIZES,
        att_weight_normalization=settings["softmax"],
        l2_reg_embedding=settings["l2_embedding"],
        dnn_dropout=settings["dropout"],
        seed=options.seed,
        device=options.device,
    )
    in_precision(model, options)
    model.compile(torch.optim.Adam(model.parameters(), lr=settings["lr"]), "binary_crossentropy")
    return model


def main() -> None:
    options = options_of("deepctr-torch", len(TRIALS))
    settings = TRIALS[options.trial - 1]
    began = time.perf_counter()
    samples = Samples.read(options.samples)
    model = build(samples, settings, options)
    clock = Clock()
    watch = Watch(clock, *inputs_of(samples, samples.watched(options.watch)), options.batch)
    stopper = EarlyStopping("val_auc", patience=options.patience, mode="max", restore_best_weights=True)
    inputs, labels = inputs_of(samples, samples.parts["train"])
    model.fit(inputs, labels, options.batch, options.epochs, verbose=0, callbacks=[watch, stopper])
    model.load_state_dict(stopper.best_weights)

    def score(part: Part) -> np.ndarray:
        return model.predict(inputs_of(samples, part)[0], options.batch)

    notes = ("train() before every epoch", "best weights restored also where early stopping did not fire")
    Side("deepctr-torch", {**settings, **SIZES}, score, clock, notes).report(samples, options, began)


if __name__ == "__main__":
    main()
