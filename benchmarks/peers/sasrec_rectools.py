"""SASRec of RecTools on a log of benchmarks/train.py: its model, data preparation, loader and Lightning trainer.

Full softmax, Adam with betas (.9, .98), its own start of weights. The newest `--length` + 1 training events of a user
are one row, as the library does it. Its recommendation is read from its own encoder and item vectors in float32.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from sasrec_log import Log
from sasrec_protocol import Course, Score, Watching, options_of, trainer_options
from torch import Tensor

LIBRARIES = ("rectools", "pytorch-lightning")


class Watch(Watching, lightning.Callback):
    """Keeps the course of a training."""


def interactions(log: Log) -> Dataset:
    """Return the training events as the library wants them; the place in a history stands for the time."""
    began = pd.Timestamp("2000-01-01")
    table = {Columns.User: log.user, Columns.Item: log.items, Columns.Weight: 1.0}
    return Dataset.construct(pd.DataFrame({**table, Columns.Datetime: began + pd.to_timedelta(log.order, "s")}))


def codes_of(model: SASRecModel, n_items: int) -> np.ndarray:
    """Return the library's code (n_items + 1,) of every item of ours, 0 = its padding: never met."""
    met = np.asarray(model.data_preparator.get_known_item_ids(), np.int64)
    codes = np.zeros(n_items + 1, np.int64)
    codes[met] = model.data_preparator.item_id_map.convert_to_internal(met)
    return codes


def score_of(model: SASRecModel, n_items: int) -> Score:
    """Return how the model scores items at the end of histories."""
    codes = torch.from_numpy(codes_of(model, n_items))
    net = model.lightning_model.torch_model
    device = net.item_model.device
    vectors = net.item_model.get_all_embeddings()

    def score(histories: Tensor) -> Tensor:
        states = net.encode_sessions({"x": codes[histories].to(device)}, vectors)[:, -1]
        scores = states @ vectors.T
        return torch.where(codes.to(device) > 0, scores[:, codes.to(device)], -torch.inf)

    return score


def main() -> None:
    options = options_of("rectools")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    log = Log.read(options.log)
    course = Course(log, options)
    settings: dict[str, Any] = {
        "n_factors": options.width,
        "n_blocks": options.blocks,
        "n_heads": options.heads,
        "dropout_rate": options.dropout,
        "session_max_len": options.length,
        "batch_size": options.batch,
        "lr": options.rate,
        "loss": "softmax",
    }
    watch = Watch(
        course,
        targets_of=lambda batch: int((batch["y"] != 0).sum()),
        score_of=lambda _: score_of(model, log.n_items),
        known=lambda: codes_of(model, log.n_items) > 0,
    )
    model = SASRecModel(
        **settings, get_trainer_func=lambda: lightning.Trainer(callbacks=[watch], **trainer_options(options))
    )
    model.fit(interactions(log))
    course.answer(LIBRARIES, settings)


if __name__ == "__main__":
    main()
