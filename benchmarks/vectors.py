"""How fast is a large file of GloVe vectors read for a catalogue, and how much memory does it take?

Bar: 2 GB of text for a catalogue of 50,000 words at >= 100 MB/s and < 500 MB of memory. The file is generated, lies in
the work folder only while it is read, and is read once before, so that the disk is not what is measured.

    python benchmarks/vectors.py [--gigabytes 2] [--words 50000] [--width 50] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

READ = """
import json, resource, sys, time
from regard.data.vectors import read_vectors
wanted = open(sys.argv[2], encoding="utf-8").read().split("\\n")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
begin, cpu = time.perf_counter(), time.process_time()
found = read_vectors(sys.argv[1], wanted)
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(json.dumps({"seconds": seconds, "core_seconds": cpu, "peak_mb": peak, "imports_mb": before,
                  "report": found.report.as_dict()}))
"""


def write_vectors(path: Path, size: int, width: int, seed: int = 0) -> int:
    """Write at least `size` bytes of rows with six significant digits; return how many rows there are."""
    rng = np.random.default_rng(seed)
    pool = [(" " + " ".join(f"{value:.6g}" for value in row) + "\n").encode() for row in rng.normal(size=(5000, width))]
    rows = written = 0
    with path.open("wb") as out:
        while written < size:
            picked = rng.integers(0, len(pool), 50_000)
            block = b"".join(b"word%d" % (rows + at) + pool[pick] for at, pick in enumerate(picked))
            written += out.write(block)
            rows += len(picked)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--words", type=int, default=50_000, help="of the catalogue; nine of ten are in the file")
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the file lies for the time being")
    asked = parser.parse_args()
    if asked.folder:
        Path(asked.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path, words = Path(folder) / "glove.txt", Path(folder) / "words.txt"
        rows = write_vectors(path, int(asked.gigabytes * 1e9), asked.width)
        known = np.random.default_rng(1).choice(rows, min(asked.words * 9 // 10, rows), replace=False)
        wanted = [f"word{at}" for at in known] + [f"unheard{at}" for at in range(asked.words - len(known))]
        words.write_text("\n".join(wanted), "utf-8")
        size = path.stat().st_size
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
        done = subprocess.run([sys.executable, "-c", READ, str(path), str(words)], check=True, capture_output=True)
    found = dict(json.loads(done.stdout))
    assert found["report"]["found"] == len(known)
    assert found["report"]["read"] == rows
    told = {"megabytes": size / 1e6, "rows": rows, "width": asked.width, "words": asked.words, "known": len(known)}
    told |= {"mb_per_second": size / 1e6 / found["seconds"], "mb_per_core_second": size / 1e6 / found["core_seconds"]}
    told |= {name: found[name] for name in ("seconds", "core_seconds", "peak_mb", "imports_mb")}
    print(json.dumps(told | {"machine": platform.processor() or platform.machine()}, indent=1))


if __name__ == "__main__":
    main()
