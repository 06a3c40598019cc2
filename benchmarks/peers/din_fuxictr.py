"""DIN of FuxiCTR on the samples of din_data.py.

The package on PyPI ships one DIN, that of `model_zoo.LongCTR`, with its loader: a sample names a user, how much of that
user's sequence it sees, and an item; batches are padded before the events to their longest, and masked. Training is
`BaseModel.fit`: AUC after every epoch, learning rate divided by 10 where it does not rise, best weights restored.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from din_protocol import Clock, Part, Samples, Side, in_precision, options_of
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

TRIALS: tuple[dict[str, Any], ...] = (
    {"lr": 1e-3, "l2_embedding": 0.0, "dropout": 0.0, "batch_norm": False, "softmax": False},  # its template
    {"lr": 1e-3, "l2_embedding": 0.0, "dropout": 0.0, "batch_norm": False, "softmax": True},
    {"lr": 1e-3, "l2_embedding": 1e-4, "dropout": 0.2, "batch_norm": False, "softmax": False},
    {"lr": 1e-3, "l2_embedding": 1e-4, "dropout": 0.2, "batch_norm": True, "softmax": True},
    {"lr": 5e-4, "l2_embedding": 5e-3, "dropout": 0.0, "batch_norm": True, "softmax": True},  # BARS, Amazon
    {"lr": 4e-3, "l2_embedding": 0.0, "dropout": 0.2, "batch_norm": False, "softmax": True},  # the rate that ours liked
)
UNIT, HEAD = [64, 16], [128, 64]
DATASET = "din"


class TimedDIN(DIN):
    """The model, with a clock that stands still while it validates; `fit` starts it."""

    clock: Clock

    def train_epoch(self, data_generator: Any) -> None:
        self.clock.start()
        super().train_epoch(data_generator)

    def eval_step(self) -> None:
        self.clock.stop()
        super().eval_step()

    def evaluate_metrics(self, *arguments: Any) -> dict[str, float]:
        found = super().evaluate_metrics(*arguments)
        self.clock.note(found["AUC"])
        return found


def features() -> FeatureMap:
    """Return the map of columns; `meta` columns steer the loader and are not embedded."""
    found = FeatureMap(DATASET, "")
    found.labels = ["label"]
    found.features = OrderedDict((name, {"type": "meta"}) for name in ("user_index", "seq_len", "item_index"))
    return found


def write(samples: Samples, folder: Path, parts: dict[str, Part]) -> None:
    """Write the files that its loader reads: sequences of users, attributes of items, and a table for each part."""
    sequences = np.split(samples.events, samples.offsets[1:-1])
    pd.DataFrame({"full_item_seq": sequences}).to_parquet(folder / "user_info.parquet")
    items = np.arange(samples.n_items + 1)
    pd.DataFrame({"item_index": items, "item_id": items}).to_parquet(folder / "item_info.parquet")
    for name, part in parts.items():
        repeats = part.candidates.shape[1]
        seen = part.end - samples.offsets[part.user]
        pd.DataFrame(
            {
                "user_index": np.repeat(part.user, repeats).astype(np.int64),
                "seq_len": np.repeat(seen, repeats),
                "item_index": part.candidates.ravel().astype(np.int64),
                "label": part.labels.ravel().astype(np.int64),
            }
        ).to_parquet(folder / f"{name}.parquet")


def build(samples: Samples, settings: dict[str, Any], options: argparse.Namespace, folder: Path) -> DIN:
    columns = features()
    columns.features["item_id"] = {
        "type": "categorical",
        "source": "item",
        "vocab_size": samples.n_items + 1,
        "padding_idx": 0,
        "embedding_dim": options.width,
    }
    columns.num_fields, columns.default_emb_dim = 1, options.width
    (folder / DATASET).mkdir()
    model = TimedDIN(
        columns,
        gpu=0 if options.device.startswith("cuda") else -1,
        task="binary_classification",
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        monitor="AUC",
        early_stop_patience=options.patience,
        learning_rate=settings["lr"],
        embedding_dim=options.width,
        embedding_regularizer=settings["l2_embedding"],
        dnn_hidden_units=HEAD,
        attention_hidden_units=UNIT,
        attention_hidden_activations="Dice",
        net_dropout=settings["dropout"],
        batch_norm=settings["batch_norm"],
        din_use_softmax=settings["softmax"],
        model_root=str(folder),
        verbose=0,
    )
    in_precision(model, options)
    return model


def main() -> None:
    options = options_of("fuxictr", len(TRIALS))
    settings = TRIALS[options.trial - 1]
    began = time.perf_counter()
    seed_everything(options.seed)
    samples = Samples.read(options.samples)
    parts = {"train": samples.parts["train"], "watched": samples.watched(options.watch)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(samples, folder, parts)
        model = build(samples, settings, options, folder)
        model.clock = Clock()
        told = {
            "batch_size": options.batch,
            "num_workers": options.workers,
            "max_len": samples.length,
            "user_info": str(folder / "user_info.parquet"),
            "item_info": str(folder / "item_info.parquet"),
            "data_loader": LongCTRDataLoader,
        }
        tables = {"train_data": str(folder / "train.parquet"), "valid_data": str(folder / "watched.parquet")}
        loaders = RankDataLoader(model.feature_map, stage="train", shuffle=True, **tables, **told)
        model.fit(loaders[0], epochs=options.epochs, validation_data=loaders[1])

        def score(part: Part) -> np.ndarray:
            write(samples, folder, {"scored": part})
            path = str(folder / "scored.parquet")
            return model.predict(RankDataLoader(model.feature_map, stage="test", test_data=path, **told))

        sizes = {"attention_hidden_units": UNIT, "dnn_hidden_units": HEAD}
        Side("fuxictr", {**settings, **sizes}, score, model.clock).report(samples, options, began)


if __name__ == "__main__":
    main()
