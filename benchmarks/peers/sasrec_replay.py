"""SASRec of RePlay on a log of benchmarks/train.py: its model, Parquet loader, transforms and Lightning module.

Full softmax (`CE`), Adam with betas (.9, .98), its own start of weights. The newest `--length` + 1 training events of a
user are one row. `--bucket N` turns on its encoder for similarly long rows, N at a time (`LengthBucketedQueryEncoder`).
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.data.nn.parquet import ParquetModule
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential import SasRec
from replay.nn.sequential.length_bucket import LengthBucketedQueryEncoder
from replay.nn.transform.template import make_default_sasrec_transforms
from sasrec_log import Log
from sasrec_protocol import Course, Score, Watching, options_of, trainer_options
from torch import Tensor

LIBRARIES = ("replay-rec", "lightning")
ITEM = "item_id"
PARTITION = 100  # steps: so far does its loader shuffle


class Watch(Watching, lightning.Callback):
    """Keeps the course of a training."""


class InFloat32(torch.nn.Module):
    """Gives what an encoder gives in float32: without it `LengthBucketedQueryEncoder` fails under autocast."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Any) -> Tensor:
        encoded: Tensor = self.encoder(*inputs)
        return encoded.float()


def schema_of(n_items: int, width: int) -> TensorSchema:
    """Return what the library is to know of items: codes 0 to n_items - 1, padding n_items."""
    return TensorSchema(
        [
            TensorFeatureInfo(
                ITEM,
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=width,
                padding_value=n_items,
                cardinality=n_items,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
            )
        ]
    )


def loader_of(log: Log, schema: TensorSchema, options: argparse.Namespace) -> ParquetModule:
    """Write the training events as Parquet, a row for each user, and return the library's loader of them."""
    file = Path(options.out) / "train.parquet"
    rows = [row.astype("int64") - 1 for row in log.rows(options.length + 1)]
    pq.write_table(pa.table({ITEM: pa.array(rows, pa.list_(pa.int64()))}), file)
    return ParquetModule(
        batch_size=options.batch,
        metadata={"train": {ITEM: {"shape": options.length + 1, "padding": log.n_items}}},
        transforms=make_default_sasrec_transforms(schema),
        config={"train": {"generator": torch.default_generator, "partition_size": PARTITION * options.batch}},
        train_path=str(file),
    )


def score_of(module: LightningModule, n_items: int) -> Score:
    """Return how the model scores items at the end of histories."""

    def score(histories: Tensor) -> Tensor:
        real = (histories > 0).to(module.device)
        items = torch.where(histories > 0, histories - 1, n_items).to(module.device)
        logits = module.model(feature_tensors={ITEM: items}, padding_mask=real)["logits"]
        return torch.nn.functional.pad(logits[:, :n_items].float(), (1, 0), value=-torch.inf)

    return score


def main() -> None:
    options = options_of(
        "replay", lambda parser: parser.add_argument("--bucket", type=int, default=0, help="rows; 0 = one block")
    )
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    log = Log.read(options.log)
    course = Course(log, options)
    schema = schema_of(log.n_items, options.width)
    settings: dict[str, Any] = {
        "embedding_dim": options.width,
        "num_blocks": options.blocks,
        "num_heads": options.heads,
        "dropout": options.dropout,
        "max_sequence_length": options.length,
    }
    model = SasRec.from_params(schema, **settings)
    if options.bucket:
        model.body.encoder = LengthBucketedQueryEncoder(InFloat32(model.body.encoder), options.bucket)
    watch = Watch(
        course,
        targets_of=lambda batch: int(batch["target_padding_mask"].sum()),
        score_of=lambda module: score_of(module, log.n_items),
    )
    trainer = lightning.Trainer(callbacks=[watch], limit_val_batches=0, **trainer_options(options))
    module = LightningModule(model, optimizer_factory=OptimizerFactory(learning_rate=options.rate))
    trainer.fit(module, datamodule=loader_of(log, schema, options))
    told = {**settings, "batch_size": options.batch, "lr": options.rate, "bucket": options.bucket}
    course.answer(
        LIBRARIES, told, ("buckets in float32, without which they fail under autocast",) * bool(options.bucket)
    )


if __name__ == "__main__":
    main()
