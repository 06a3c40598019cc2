"""How long does the full test evaluation of ML-1M take, and which part of it?

Bar: 2.5 s on 2 cores for 6,040 users against the full catalogue; width 128, 2 blocks. An untrained model costs what
a trained one does. Loading, bootstrap and baselines do not count.

    python benchmarks/evaluation.py [--repeat 5] [--threads 2] [--set model.width=128]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.shape import Shape
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.evaluate.protocol import processor
from regard.model import topk
from regard.model.models import build
from regard.model.neighbourhood import MOST, NEWEST
from regard.model.retriever import Retriever
from regard.train.loop import autocast_type, choose_device, set_threads
from regard.training.protocol import Protocol
from regard.training.sizes import by_size

DATA = Path(os.environ.get("REGARD_DATA", Path(__file__).parents[2] / "shared" / "data"))
LOG = DATA / "ml-1m" / "sequences_chronological.csv"
PARTS = ("histories and cases", "encode", "count", "score", "rank", "metrics")


@contextmanager
def clocks(model: Retriever) -> Iterator[dict[str, float]]:
    """Time the stations of a ranking where they are called; what one calls inside another counts in both."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name] += time.perf_counter() - began
            return result

        return run

    with (
        patch.object(model, "users", timed("users", model.users)),
        patch.object(model.near, "forward", timed("count", model.near.forward)) if model.near else nullcontext(),
        patch.object(model, "scores", timed("scores", model.scores)),
        patch.object(topk, "rank_and_top", timed("rank", topk.rank_and_top)),
    ):
        yield seconds


def evaluated(protocol: Protocol, model: Retriever) -> dict[str, float]:
    """Measure once, and say where the seconds went."""
    with clocks(model) as seconds:
        began = time.perf_counter()
        result = protocol.measured(protocol.scorer(model), "test")
        total = time.perf_counter() - began
    metrics = result.timing["metrics_seconds"]
    encode, count, rank = seconds["users"], seconds["count"], seconds["rank"]
    score = seconds["scores"] - encode - count
    found = (total - metrics - encode - count - score - rank, encode, count, score, rank, metrics)
    return dict(zip(PARTS, found, strict=True)) | {"total": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 = as many as cores")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default")
    asked = parser.parse_args()
    if not LOG.exists():
        parser.error(f"there is no {LOG}; REGARD_DATA says where real data is")
    settings = Settings().changed(["data.split='leave-one-out'", "evaluate.bootstrap=0", *asked.set])
    set_threads(asked.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.build(EventLog.read(str(LOG), Columns("user_id", "movie_id", "position")), Path(folder) / "d")
        settings = by_size(Protocol.of(dataset, settings))[0]
        protocol = Protocol.of(dataset, settings)
        device = choose_device(settings.train.device)
        model = build(settings, Shape.of(dataset))
        assert isinstance(model, Retriever)
        model.known = torch.from_numpy(protocol.split.training_item_counts(dataset) > 0)
        if model.near is not None:
            model.near.count(dataset, protocol.split, most=MOST, newest=NEWEST)
        model.to(device)
        found = [evaluated(protocol, model) for _ in range(asked.repeat)]
    precision = autocast_type(settings.train.precision, device) or torch.float32
    print(
        f"{processor()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}, "
        f"load {os.getloadavg()[0]:.1f}; width {settings.model.width}, {settings.model.blocks} blocks"
    )
    print(f"{'seconds':20} {'best':>7} {'median':>7}")
    for part in (*PARTS, "total"):
        times = [each[part] for each in found]
        print(f"{part:20} {min(times):7.2f} {median(times):7.2f}")
    print(json.dumps([{part: round(value, 3) for part, value in each.items()} for each in found]))


if __name__ == "__main__":
    main()
