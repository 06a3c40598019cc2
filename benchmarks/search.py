"""How long does it take to find the best 10 of a million items, exactly?

1,000,000 items of width 128, float32, generated: `normal` numbers; `lengths`, as trained tables are, with lengths that
differ (log-normal, sigma .4) and coordinates that matter less and less; and two that int8 fits badly: `one direction`,
where all items share most of their vector, and `ties`, the numbers -1, 0 and 1. `index` is
`regard.model.search.SearchIndex`, `top_k` multiplies all in float32 by blocks, `float32` is one product and PyTorch's
`topk`, and `bfloat16` is that in bfloat16, which is *not* exact and only there for its time. The answers of `index` are
compared with multiplying every row in float64: the same items in the same order, the same scores. Every table has a
process of its own, and sides take turns, so that what disturbs one disturbs all.

    python benchmarks/search.py [--tables normal,lengths] [--items 1000000] [--seconds 6] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ranking_cells import tell
from regard.config import Settings
from regard.model.search import SearchIndex
from regard.model.topk import top_k
from road import code
from road_cell import machine, peak_gb

WIDTH, K, EXCLUDED = 128, 10, 100
TABLES = ("normal", "lengths", "one direction", "ties")
BATCHES = {1: 12.0, 64: 64.0}  # queries at once, and the bar in milliseconds for all of them
BARRED = ("normal", "lengths")  # the tables that the bar is about
LEAST = 3  # rounds
STEPS = {"_maxima": "int8 products, largest of each chunk", "_inside": "inside of chunks", "_multiplied": "float64"}


def made(kind: str, items: int) -> tuple[Tensor, Tensor]:
    """A table (V, 128) and 64 queries."""
    torch.manual_seed(20261123)
    table, queries = torch.randn(items, WIDTH), torch.randn(max(BATCHES), WIDTH)
    if kind == "lengths":
        spectrum = torch.arange(1, WIDTH + 1) ** -0.5
        return table * spectrum * torch.randn(items, 1).mul(0.4).exp(), queries * spectrum
    if kind == "one direction":
        return table + 3, queries
    return (table.sign() * (table.abs() > 0.5), queries.round()) if kind == "ties" else (table, queries)


def measure(kind: str, items: int, seconds: float) -> dict[str, Any]:
    """Time all sides on one table; called in a fresh process."""
    table, queries = made(kind, items)
    before, began = peak_gb(), time.perf_counter()
    index = SearchIndex(table)
    told: dict[str, Any] = {"table": kind, "items": items, "build_seconds": round(time.perf_counter() - began, 2)}
    told |= {"build_gb": round(peak_gb() - before, 2), "product": index._rounded.product.__name__, "batches": {}}
    small = table.bfloat16()
    for count in BATCHES:
        asked = queries[:count]
        excluded = torch.randint(1, items, (count * EXCLUDED,)), torch.arange(count + 1) * EXCLUDED
        sides: dict[str, Callable[[], object]] = {
            "index": lambda q=asked: index.search(q, K),  # type: ignore[misc]
            f"index, {EXCLUDED} excluded": lambda q=asked, e=excluded: index.search(q, K, e),  # type: ignore[misc]
            "top_k": lambda q=asked: top_k(q, table, K),  # type: ignore[misc]
            "float32": lambda q=asked: (q @ table.T).topk(K),  # type: ignore[misc]
            "bfloat16": lambda q=asked: (q.bfloat16() @ small.T).topk(K),  # type: ignore[misc]
        }
        told["batches"][count] = {**timed(sides, seconds), "steps": steps(index, asked), "same": same(index, asked)}
    return told


def timed(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of each side, the wall's and the processor's: all sides in turn, again and again."""
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    began = time.perf_counter()
    rounds = 0
    while rounds < LEAST or time.perf_counter() - began < seconds:
        for name, search in sides.items():
            wall, work = time.perf_counter(), time.process_time()
            search()
            if rounds:  # in the first one libraries are loaded
                taken[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - work)))
        rounds += 1
    return {name: figures(times) for name, times in taken.items()}


def figures(times: list[tuple[float, float]]) -> dict[str, float]:
    walls, works = sorted(wall for wall, _ in times), sorted(work for _, work in times)
    return {"best": walls[0], "median": walls[len(walls) // 2], "processor": works[0], "times": len(times)}


def steps(index: SearchIndex, queries: Tensor) -> dict[str, dict[str, float]]:
    """Milliseconds of the parts of the best of some searches, and how many rows reach them."""
    found = []
    for _ in range(2 * LEAST):
        parts: dict[str, dict[str, float]] = {label: {"ms": 0.0, "rows": 0} for label in STEPS.values()}
        with spied(index, parts):
            began = time.perf_counter()
            index.search(queries, K)
            whole = 1e3 * (time.perf_counter() - began)
        rest = {"ms": whole - sum(part["ms"] for part in parts.values()), "rows": 0}
        found.append((whole, {**parts, "bounds, floors, the rest": rest}))
    return min(found, key=lambda one: one[0])[1]


@contextmanager
def spied(index: SearchIndex, parts: dict[str, dict[str, float]]) -> Iterator[None]:
    """Count the time and rows of the steps."""

    def around(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            began = time.perf_counter()
            done = inner(*args)
            part = parts[STEPS[name]]
            part["ms"] += 1e3 * (time.perf_counter() - began)
            many = args[1].stop - args[1].start if isinstance(args[1], slice) else len(args[1])
            part["rows"] += many if name == "_multiplied" else 32 * many
            return done

        return step

    for name in STEPS:
        setattr(index, name, around(name, getattr(index, name)))
    try:
        yield
    finally:
        for name in STEPS:
            delattr(index, name)


def same(index: SearchIndex, queries: Tensor) -> int:
    """How many queries have the very answer of multiplying every row in float64."""
    scores, items = index.search(queries, K)
    equal = 0
    for at, query in enumerate(queries.double()):
        exact = torch.cat([(part.double() @ query).float() for part in index.table.split(2**16)])
        exact[0] = -torch.inf
        expected, order = exact.sort(descending=True, stable=True)
        equal += int(torch.equal(items[at], order[:K]) and torch.equal(scores[at], expected[:K]))
    return equal


def cell(kind: str, items: int, seconds: float) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    command = [sys.executable, __file__, "--cell", json.dumps([kind, items, seconds])]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for count, part in found["batches"].items():
        print(f"{kind:13} {count:>2} queries {part['index']['median']:9.2f} ms, {part['same']} the same", flush=True)
    settings = Settings().changed(["train.precision='float32'", "train.device='cpu'"])
    return {**found, "machine": {**machine(settings), "load": load}, "code": code()}


def rows(lines: list[list[str]]) -> str:
    head = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)], *lines[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in head)


def page(found: Sequence[dict[str, Any]]) -> str:
    """Return the whole page."""
    lines = [["table, queries at once", "index", "with excluded", "top_k", "float32", "bfloat16", "the same", "bar"]]
    parts = [["step, ms and rows", *(f"{one['table']}, {count}" for one in found for count in one["batches"])]]
    for one in found:
        for count, part in one["batches"].items():
            bar = BATCHES[int(count)]
            times = [figure for figure in part.values() if isinstance(figure, dict) and "best" in figure]
            cells = [f"{time['median']:,.1f} ms ({time['processor']:,.1f})" for time in times]
            verdict = "reached" if part["index"]["median"] <= bar else "**missed**"
            about = one["table"] in BARRED and one["items"] == 1_000_000
            told = f"{bar:g} ms: {verdict}" if about else ""
            lines.append([f"{one['table']}, {count}", *cells, f"{part['same']} of {count}", told])
    for label in found[0]["batches"][next(iter(found[0]["batches"]))]["steps"]:
        each = [part["steps"][label] for one in found for part in one["batches"].values()]
        parts.append([label, *(f"{one['ms']:,.1f}" + f" ({one['rows']:,})" * bool(one["rows"]) for one in each)])
    built = ", ".join(f"{one['table']} {one['build_seconds']:.1f} s" for one in found)
    told, loads = found[-1]["machine"], [one["machine"]["load"] for one in found]
    return f"""\
# Exact search: the best {K} of {found[0]["items"]:,} items

{(__doc__ or "").split(chr(10) * 2, 1)[1].rsplit(chr(10) * 2, 1)[0]}

```sh
python benchmarks/search.py
```

{rows(lines)}

Times are medians, for all queries together; in brackets, what the processors worked in the quickest one, all threads
added up. Steps are those of the quickest. "With excluded": {EXCLUDED} items of each query are no candidates.

{rows(parts)}

Making the index: {built}; products by `{found[0]["product"]}`.

{told["processor"]}, {told["cores"]} cores, torch {told["torch"]}, regard at commit {found[-1]["code"]["commit"]}. Load
{min(loads):.1f} to {max(loads):.1f} when tables began.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES), help=f"some of: {', '.join(TABLES)}")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of searches for each table and batch")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/search_HARDWARE_DATE.md")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(measure(*json.loads(asked.cell))))
        return
    kinds = asked.tables.split(",")
    if unknown := set(kinds) - set(TABLES):
        parser.error(f"--tables: expected some of {', '.join(TABLES)}, got {', '.join(sorted(unknown))}")
    found = [cell(kind, asked.items, asked.seconds) for kind in kinds]
    tell("search", page(found), found, asked.out)


if __name__ == "__main__":
    main()
