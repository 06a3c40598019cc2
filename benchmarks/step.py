"""What does a training step cost, and where do its seconds go? Seconds, bytes and products by kind of operation.

Every operation of PyTorch that a step runs, forward, backward and optimiser, is counted where it is called: processor
seconds of one thread, bytes of the tensors that it reads and writes, and FLOPs by PyTorch's own formulas. A bound
stands beside: as fast as one large product of this type, or as one large copy, can go here. Training on ML-1M,
`leave-one-out`, default settings; what a step costs does not depend on how far training has come.

    python benchmarks/step.py [--steps 10] [--set model.width=128]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from regard.config import Settings
from regard.data.events import EventLog
from regard.data.sources import Columns
from regard.data.store import Dataset
from regard.evaluate.protocol import processor
from regard.train.heap import keep_freed
from regard.train.loop import _Training, autocast_type, set_threads
from regard.train.progress import Watch
from regard.training.learning import _ready, _shape, _task
from regard.training.protocol import Protocol
from regard.training.sizes import by_size

DATA = Path(os.environ.get("REGARD_DATA", Path(__file__).parents[2] / "shared" / "data"))
LOG = DATA / "ml-1m" / "sequences_chronological.csv"
KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "linear", "_addmm_activation"),
    "attention": ("_scaled_dot_product", "_flash_attention"),
    "optimiser": ("_fused_adam", "_foreach", "_fused_"),
    "random numbers": ("random_", "bernoulli", "rand", "native_dropout"),
    "norms": ("native_layer_norm", "_fused_rms_norm", "rsqrt"),
    "copies and casts": ("_to_copy", "copy_", "clone", "cat", "constant_pad", "_pad", "new_", "empty", "zero", "fill"),
    "rows taken and put back": ("index", "embedding", "gather", "scatter", "select", "masked", "where"),
}
"""Starts of names, in the order in which they are asked; all else are sums, products and functions of each value."""
REST = "value by value"


@dataclass
class Cost:
    """What operations of one kind took."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flops: float = 0.0


class Meter(TorchDispatchMode):
    """Counts every operation that is run inside, by its name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def __enter__(self) -> Self:
        self.costs.clear()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        began = time.thread_time()
        found = func(*args, **kwargs)
        took = time.thread_time() - began
        packet = func.overloadpacket
        cost = self.costs[packet.__name__]
        cost.calls, cost.seconds = cost.calls + 1, cost.seconds + took
        if not func.is_view:
            cost.bytes += sum(one.nbytes for one in tree_leaves((args, kwargs, found)) if isinstance(one, Tensor))
        if packet in flop_registry:
            cost.flops += flop_registry[packet](*args, **kwargs, out_val=found)
        return found


def kind_of(name: str) -> str:
    """The kind of an operation."""
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), REST)


def rates(kind: torch.dtype) -> tuple[float, float]:
    """FLOPs and bytes a second of one large product and one large copy here."""
    left, right = torch.randn(2048, 2048).to(kind), torch.randn(2048, 2048).to(kind)
    large = torch.zeros(64 * 2**20, dtype=torch.uint8)
    other = torch.empty_like(large)
    return 2 * 2048**3 / best_of(lambda: left @ right), 2 * large.nbytes / best_of(lambda: other.copy_(large))


def best_of(work: Callable[[], Any], times: int = 7) -> float:
    """The least seconds of a call."""
    found = []
    for _ in range(times):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


def training(settings: Settings, folder: Path) -> tuple[_Training, Iterator[Any]]:
    """Our own training of ML-1M as it is before its first step, and batches without end.

    Private names are used here, since the public way to train has no hook for a step.
    """
    dataset = Dataset.build(EventLog.read(str(LOG), Columns("user_id", "movie_id", "position")), folder / "d")
    settings = by_size(Protocol.of(dataset, settings))[0]
    protocol = Protocol.of(dataset, settings)
    model = _ready(protocol, _shape(protocol, {}, None, None), {}, None, None)
    batches = _task(protocol, model)[0]
    found = _Training(model, batches, settings.train, folder, None, Watch(quiet=True))
    model.train()
    return found, itertools.chain.from_iterable(iter(lambda: batches, None))


def measured(asked: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Run some steps with the meter, and as many without."""
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        steps, batches = training(settings, Path(folder))
        few = list(itertools.islice(batches, asked.steps))
        for batch in few:  # memory is asked for in the first steps, and kept
            steps._step(batch)
        began = time.thread_time()
        for batch in few:
            steps._step(batch)
        plain = time.thread_time() - began
        with meter:
            for batch in few:
                steps._step(batch)
    targets = sum(int((batch.targets > 0).sum()) + int((batch.first_targets > 0).sum()) for batch in few)
    kinds: dict[str, Cost] = defaultdict(Cost)
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for name, cost in meter.costs.items():
        kind = kind_of(name)
        names[kind][name] += round(cost.seconds / asked.steps * 1e6)
        for key, value in vars(cost).items():
            setattr(kinds[kind], key, getattr(kinds[kind], key) + value / asked.steps)
    return {
        "targets": targets / asked.steps,
        "seconds": plain / asked.steps,
        "kinds": {kind: vars(cost) for kind, cost in kinds.items()},
        "names": {kind: dict(each.most_common(5)) for kind, each in names.items()},
    }


def printed(found: dict[str, Any], flops: float, bandwidth: float) -> None:
    """A line for each kind, the largest first."""
    print(f"{found['targets']:,.0f} targets and {found['seconds'] * 1e3:.0f} ms a step, without the meter")
    print(f"one product of 2,048 x 2,048: {flops / 1e9:.0f} GFLOP/s; a copy: {bandwidth / 1e9:.1f} GB/s\n")
    print("| kind | ms | share | calls | MB read and written | GFLOP | bound, ms | most of it |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    whole = sum(one["seconds"] for one in found["kinds"].values())
    for kind, one in sorted(found["kinds"].items(), key=lambda pair: -pair[1]["seconds"]):
        bound = max(one["flops"] / flops, one["bytes"] / bandwidth)
        most = ", ".join(f"{name} {micro / 1e3:.1f}" for name, micro in list(found["names"][kind].items())[:3])
        print(
            f"| {kind} | {one['seconds'] * 1e3:.1f} | {one['seconds'] / whole:.0%} | {one['calls']:.0f} "
            f"| {one['bytes'] / 1e6:.0f} | {one['flops'] / 1e9:.1f} | {bound * 1e3:.1f} | {most} |"
        )
    print(f"| all | {whole * 1e3:.1f} | | | | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default")
    asked = parser.parse_args()
    if not LOG.exists():
        parser.error(f"there is no {LOG}; REGARD_DATA says where real data is")
    settings = Settings().changed(["data.split='leave-one-out'", *asked.set])
    keep_freed()
    set_threads(1)  # the seconds of one thread are the seconds of its operations
    torch.manual_seed(0)
    precision = autocast_type(settings.train.precision, torch.device("cpu")) or torch.float32
    found = measured(asked, settings)
    print(f"{processor()}, one thread, torch {torch.__version__}, {precision}, load {os.getloadavg()[0]:.1f}")
    printed(found, *rates(precision))
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
