"""How long does an event log of N lines take from CSV to a dataset on disk, and how much memory?

Bar: 10 million events of 500,000 users and 200,000 items with text ids, unsorted, in <= 20 s and <= 3 GB on 2 cores;
opening the dataset in < 50 ms.

    python benchmarks/prepare.py [--events 10000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

IMPORT = """
import json, resource, sys, time
begin = time.perf_counter()
from regard.data.events import EventLog
from regard.data.store import Dataset
loaded = time.perf_counter()
log = EventLog.read(sys.argv[1], workspace=sys.argv[2])
read = time.perf_counter()
dataset = Dataset.build(log, sys.argv[2] + "/dataset")
built = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"imports": loaded - begin, "read": read - loaded, "build": built - read, "seconds": built - loaded,
                  "peak_gb": peak, "events": dataset.n_events, "users": dataset.n_users, "items": dataset.n_items}))
"""
OPEN = """
import json, sys, time
from regard.data.store import Dataset
begin = time.perf_counter()
dataset = Dataset.open(sys.argv[1])
opened = time.perf_counter()
dataset.items.index(["sku_1"])
print(json.dumps({"open_ms": 1e3 * (opened - begin), "first_lookup_ms": 1e3 * (time.perf_counter() - opened)}))
"""


def write_log(path: Path, events: int, seed: int = 0) -> None:
    """Write a log whose items follow a power law and whose lines are in no order."""
    rng = np.random.default_rng(seed)
    users, items = max(1, events // 20), max(1, events // 50)
    columns = {
        "user": pa.array([f"user-{n:07d}" for n in range(users)]).take(pa.array(rng.integers(0, users, events))),
        "item": pa.array([f"sku_{n}" for n in range(items)]).take(
            pa.array((items * rng.random(events) ** 2).astype(np.int64))
        ),
        "timestamp": pa.array(1_600_000_000 + rng.integers(0, 30_000_000, events)),
    }
    pyarrow.csv.write_csv(pa.table(columns), path, pyarrow.csv.WriteOptions(quoting_style="none"))


def measured(code: str, *arguments: object) -> dict[str, float]:
    """Run code in a process of its own, so that its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the log and the dataset go for the time being")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        log = Path(folder) / "log.csv"
        write_log(log, asked.events)
        size = log.stat().st_size
        found = measured(IMPORT, log, folder) | measured(OPEN, f"{folder}/dataset")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{found['events']:,} events of {found['users']:,} users and {found['items']:,} items, {size / 1e6:.0f} MB")
    print(f"read {found['read']:.1f} s + build {found['build']:.1f} s = {found['seconds']:.1f} s")
    print(f"peak memory {found['peak_gb']:.2f} GB, opening {found['open_ms']:.1f} ms")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
