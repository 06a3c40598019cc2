"""How long does a request take, and how much memory? One history, 500 candidates, one core.

Target attention (one head, separate projections) and the activation unit (hidden 64 and 16, Dice, softmax), width 64,
float32, no gradients: from candidate and event vectors to interests. Every cell runs in a process of its own, and the
best of several forwards counts, as all that disturbs one makes it longer. Memory is what the resident peak grows by.

    python benchmarks/latency.py [--out FILE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ranking_cells import tell
from regard.config import Settings
from regard.model.attention import ActivationUnit, DotAttention
from road import code
from road_cell import machine, peak_gb

EVENTS = (10, 100, 1_000, 10_000)
CANDIDATES, WIDTH = 500, 64
FORMS: dict[str, Callable[[], nn.Module]] = {
    "target attention": lambda: DotAttention(WIDTH),
    "activation unit": lambda: ActivationUnit(WIDTH),
}
BARS = {"target attention": 20.0, "activation unit": 150.0}  # milliseconds, at so many events:
AT = 1_000
SECONDS, LEAST = 4.0, 5  # of forwards, and how many at least


def measure(form: str, events: int) -> dict[str, Any]:
    """Time one form on one history; called in a fresh process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = FORMS[form]().eval()
    candidates, history = torch.randn(CANDIDATES, WIDTH), torch.randn(events, WIDTH)
    with torch.inference_mode():
        forward(model, candidates[:1], history[:1])  # libraries are loaded, kernels chosen
        before = peak_gb()
        taken: list[float] = []
        while len(taken) < LEAST or sum(taken) < SECONDS:
            began = time.perf_counter()
            forward(model, candidates, history)
            taken.append(time.perf_counter() - began)
    told = {"form": form, "events": events, "milliseconds": 1e3 * min(taken), "times": len(taken)}
    middle = sorted(taken)[len(taken) // 2]
    return told | {"median_milliseconds": 1e3 * middle, "megabytes": 2**10 * (peak_gb() - before)}


def forward(model: nn.Module, candidates: Tensor, events: Tensor) -> Tensor:
    offsets = torch.tensor([0, len(candidates)]), torch.tensor([0, len(events)])
    interests: Tensor = model(candidates, events, candidate_offsets=offsets[0], event_offsets=offsets[1])[0]
    return interests


def cell(form: str, events: int) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    done = subprocess.run(
        [sys.executable, __file__, "--cell", json.dumps([form, events])],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{form:17} {events:6,} events  {found['milliseconds']:9.2f} ms", flush=True)
    settings = Settings().changed(["train.threads=1", "train.precision='float32'", "train.device='cpu'"])
    return {**found, "machine": {**machine(settings), "threads": 1, "load": load}, "code": code()}


def page(found: Sequence[dict[str, Any]]) -> str:
    """Return the whole page."""
    lines = [
        ["", *(f"{events:,} events" for events in EVENTS), f"bar at {AT:,}"],
        ["---", *["---:"] * (len(EVENTS) + 1)],
    ]
    for form, bar in BARS.items():
        cells = {one["events"]: one for one in found if one["form"] == form}
        verdict = "reached" if cells[AT]["milliseconds"] <= bar else "**missed**"
        fast = [f"{cells[n]['milliseconds']:,.2f} ms (median {cells[n]['median_milliseconds']:,.2f})" for n in EVENTS]
        lines.append([form, *fast, f"{bar:g} ms: {verdict}"])
        lines.append([f"{form}, an event", *(f"{1e3 * cells[n]['milliseconds'] / n:,.1f} µs" for n in EVENTS), ""])
        lines.append([f"{form}, memory", *(f"{cells[n]['megabytes']:,.0f} MB" for n in EVENTS), ""])
    told = found[-1]["machine"]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"""\
# Latency and memory by length of history

{(__doc__ or "").split(chr(10) * 2, 1)[1].rsplit(chr(10) * 2, 1)[0]}

```sh
python benchmarks/latency.py
```

{table}

An event's share, for all {CANDIDATES} candidates together, says whether time is linear in the length of the history.

{told["processor"]}, one core of {told["cores"]}, torch {told["torch"]}, regard at commit {found[-1]["code"]["commit"]}.
Load {min(one["machine"]["load"] for one in found):.1f} to {max(one["machine"]["load"] for one in found):.1f} when
cells began; the best of at least {min(one["times"] for one in found)} forwards is what a free core takes.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/latency_HARDWARE_DATE.md")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(measure(*json.loads(asked.cell))))
        return
    found = [cell(form, events) for form in FORMS for events in EVENTS]
    tell("latency", page(found), found, asked.out)


if __name__ == "__main__":
    main()
