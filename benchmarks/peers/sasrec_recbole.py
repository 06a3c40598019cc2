"""SASRec of RecBole on a log of benchmarks/train.py: its dataset, loader, model and trainer.

Full softmax (`loss_type: CE`), Adam, its own start of weights. It makes a row of every prefix of a history, so a row of
`--length` events has one target: `--batch` are such rows. The peer's measure is fair in targets, not in rows.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sasrec_log import Log
from sasrec_protocol import Course, Score, options_of
from torch import Tensor

sys.argv, ARGUMENTS = sys.argv[:1], sys.argv[1:]  # RecBole reads the command line of whoever imports it
warnings.simplefilter("ignore")
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset  # noqa: E402
from recbole.data.dataloader import TrainDataLoader  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

LIBRARIES = ("recbole",)
NAME = "log"


class Counted:
    """The library's loader, whose steps a course counts and may end."""

    def __init__(self, loader: Any, course: Course) -> None:
        self.loader, self.course = loader, course

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield batch
            self.course.step(len(batch))
            if self.course.timed:
                return


def settings_of(options: Any) -> dict[str, Any]:
    return {
        "hidden_size": options.width,
        "inner_size": options.width,
        "n_layers": options.blocks,
        "n_heads": options.heads,
        "hidden_dropout_prob": options.dropout,
        "attn_dropout_prob": options.dropout,
        "MAX_ITEM_LIST_LENGTH": options.length,
        "loss_type": "CE",
        "train_batch_size": options.batch,
        "learning_rate": options.rate,
        "enable_amp": options.precision == "bfloat16",
    }


def config_of(log: Log, options: Any) -> Config:
    """Write the log as the library's atomic file, and say how it is read."""
    folder = Path(options.out) / NAME
    folder.mkdir(exist_ok=True)
    rows = np.stack([log.user, log.items, log.order], axis=1)
    head = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(folder / f"{NAME}.inter", rows, fmt="%d", delimiter="\t", header=head, comments="")
    told = {
        "data_path": str(options.out),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [1.0]}, "order": "TO", "group_by": "none", "mode": "full"},
        "checkpoint_dir": str(options.out),
        "use_gpu": torch.device(options.device).type == "cuda",
        "seed": options.seed,
        "show_progress": False,
        "state": "ERROR",
    }
    return Config(model="SASRec", dataset=NAME, config_dict=told | settings_of(options))


def score_of(model: SASRec, codes: Tensor) -> Score:
    """Return how the model scores items at the end of histories; `codes` are its own (n_items + 1,), 0 = unknown."""

    def score(histories: Tensor) -> Tensor:
        lengths = (histories > 0).sum(1)
        begun = torch.arange(histories.shape[1])[None] + histories.shape[1] - lengths[:, None]  # it pads behind
        read = codes[histories.gather(1, begun.clamp(max=histories.shape[1] - 1))]
        read = read * (torch.arange(histories.shape[1])[None] < lengths[:, None])
        states = model.forward(read.to(model.device), lengths.clamp(min=1).to(model.device))
        scores = states @ model.item_embedding.weight.T
        return torch.where(codes.to(model.device) > 0, scores[:, codes.to(model.device)], -torch.inf)

    return score


def main() -> None:
    sys.argv += ARGUMENTS
    options = options_of("recbole")
    sys.argv = sys.argv[:1]
    log = Log.read(options.log)
    course = Course(log, options)
    config = config_of(log, options)
    init_seed(options.seed, True)
    torch.set_num_threads(options.threads)
    dataset = create_dataset(config)
    (training,) = dataset.build()
    loader = TrainDataLoader(config, training, None, shuffle=True)
    model = SASRec(config, loader.dataset).to(config["device"])
    tokens = dataset.field2id_token["item_id"]
    codes = torch.zeros(log.n_items + 1, dtype=torch.int64)
    codes[torch.from_numpy(tokens[1:].astype(np.int64))] = torch.arange(1, len(tokens))
    trainer, over = Trainer(config, model), False
    while not over:
        course.start()
        trainer._train_epoch(Counted(loader, course), len(course.epochs))
        course.stop()
        model.eval()
        over = course.look(score_of(model, codes), options.length, codes.numpy() > 0)
    course.answer(LIBRARIES, settings_of(options), ("a row for every prefix of a history: one target each",))


if __name__ == "__main__":
    main()
