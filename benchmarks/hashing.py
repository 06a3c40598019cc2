"""What does it cost to hash item ids into fewer rows than there are items, beside a row for each?

The self-attention retriever, default settings, on one log of the road: with the exact table, and with 1/2, 1/4 and 1/10
as many rows as items. Trained, chosen on validation, measured once on test; differences are paired by user. A finished
cell is kept in the work folder, and one that was killed goes on from its checkpoint.

    python benchmarks/hashing.py [--set ml-1m] [--epochs N] [--seeds 1,2] [--functions 2] [--change SECTION.KEY=VALUE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.config import Settings
from regard.data.vocabulary import collision_line
from regard.errors import RegardError
from regard.evaluate.compare import compare
from regard.evaluate.report import protocol_lines
from regard.evaluate.result import Result
from regard.manifest import locked
from regard.recommend.run import Run
from road import DATA, Cell, prepared, read_by, run, settings_for, told_of, write_results
from road_sets import SETS
from road_tables import averaged, front

SHARES = (1, 2, 4, 10)  # items for a row; 1 = the exact table
KEY = "ndcg@10"
HEADS = ("item table", "rows", "item weights", "items told apart", KEY, "beside exact", "relative", "training")


@dataclass(frozen=True)
class Table:
    """One way to keep item vectors, and what was found of it, a cell for each seed."""

    label: str
    rows: int
    found: list[tuple[dict[str, Any], Path]]

    @property
    def result(self) -> Result:
        """The mean over seeds of every user's values."""
        return averaged([Result.load(folder, "evaluation-test") for _, folder in self.found])

    @property
    def hashing(self) -> dict[str, Any] | None:
        """The collision report; the same for all seeds."""
        report: dict[str, Any] | None = Run.open(self.found[0][1]).manifest["hashing"]
        return report


def changed(asked: argparse.Namespace) -> list[str]:
    """Settings that are not the defaults."""
    return ["model.covisit_weight=0", *[f"train.epochs={asked.epochs}"] * (asked.epochs > 0), *asked.change]


def cells(log: dict[str, Any], asked: argparse.Namespace) -> Iterator[tuple[str, int, list[Cell]]]:
    """Yield label, rows and cells of every table; seeds inside."""
    items = log["found"]["counts"]["items"]
    for share in SHARES:
        rows = 0 if share == 1 else max(1, round(items / share))
        for functions in asked.functions if rows else [1]:
            label = f"1/{share}, {functions} hash{'es' * (functions > 1)}" if rows else "exact"
            own = [f"model.hash_rows={rows}", f"model.hash_functions={functions}"] if rows else []
            each = [
                settings_for(SETS[asked.set].split, "self-attention", seed, [*changed(asked), *own])
                for seed in asked.seeds
            ]
            yield label, rows or items, [cell_of(asked.work / asked.set, log["fingerprint"], one) for one in each]


def cell_of(work: Path, fingerprint: str, settings: Settings) -> Cell:
    key = hashlib.blake2b(
        json.dumps([fingerprint, read_by(settings)], sort_keys=True).encode(), digest_size=6
    ).hexdigest()
    name = f"rows-{settings.model.hash_rows or 'exact'}-seed-{settings.train.seed}-{key}"
    task = {"model": "self-attention", "split": settings.data.split, "seed": settings.train.seed}
    return Cell(
        {"do": "measure", **task, "fingerprint": fingerprint, "settings": told_of(settings)}, work / f"{name}.json"
    )


def walk(asked: argparse.Namespace) -> tuple[dict[str, Any], list[Table]]:
    """Measure what is not kept; a table with a cell that broke is left out."""
    log = prepared(asked.work, asked.set, SETS[asked.set])
    if log is None:
        raise RegardError(f"{asked.set} could not be prepared; see above")
    tables = []
    for label, rows, of_seeds in cells(log, asked):
        done = []
        for cell in of_seeds:
            kept = cell.kept()
            dataset = str(asked.work / asked.set / "dataset")
            found = kept or run({**cell.task, "dataset": dataset, "run": str(cell.folder)}, cell.file)
            print(f"{label:16} seed {cell.task['seed']}  {front(found)}{' (kept)' * bool(kept)}", flush=True)
            if found and "refused" not in found:
                done.append((found, cell.folder))
        if len(done) == len(of_seeds):
            tables.append(Table(label, rows, done))
    return log, tables


def row(table: Table, exact: Result, width: int) -> list[str]:
    result, report = table.result, table.hashing
    number = result.metrics[KEY]
    seconds = sum(found["training"]["seconds"] for found, _ in table.found) / len(table.found)
    apart = (
        "all" if report is None else f"{1 - report['shared_share']:.2%}, expected {1 - report['expected_share']:.2%}"
    )
    cells = [table.label, f"{table.rows:,}", f"{table.rows * width:,}", apart]
    cells.append(f"{number['value']:.4f} ({number['low']:.4f}-{number['high']:.4f})")
    if report is None:
        return [*cells, "", "", f"{seconds:,.0f} s"]
    beside = compare({"exact": exact, "hashed": result})["against"]["hashed"][KEY]
    cells.append(f"{beside['difference']:+.4f} ({beside['low']:+.4f} to {beside['high']:+.4f})")
    relative = beside["relative"]
    return [*cells, "-" if relative is None else f"{relative:+.1%}", f"{seconds:,.0f} s"]


def page(log: dict[str, Any], tables: Sequence[Table], asked: argparse.Namespace) -> str:
    first = tables[0].found[0][0]
    machine, code = first["machine"], first["code"]
    exact, width = tables[0].result, Settings.of(first["settings"]).model.width
    counts, changes = log["found"]["counts"], changed(asked)
    lines = [["---", *["---:"] * (len(HEADS) - 1)], *(row(table, exact, width) for table in tables)]
    body = ["| " + " | ".join(cells) + " |" for cells in [list(HEADS), *lines]]
    seeds = f"mean of seeds {', '.join(map(str, asked.seeds))}" if len(asked.seeds) > 1 else f"seed {asked.seeds[0]}"
    about = (
        f"{counts['events']:,} events of {counts['users']:,} users on {counts['items']:,} items. Self-attention, width "
        f"{width}, {', '.join(changes) or 'default settings'}, {seeds}. Intervals are those of users, differences are "
        "paired by user. Item weights are the rows times the width; items that are not told apart share all their rows."
    )
    by = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['device']}, threads {machine['threads']}, "
        f"{machine['precision']}; torch {machine['torch']}; regard {code['regard']} at commit {code['commit']}; load "
        f"up to {max(found['load'] for table in tables for found, _ in table.found):.1f} before a cell began."
    )
    command = shlex.join(["python", "benchmarks/hashing.py", *sys.argv[1:]])
    reports = "\n".join(f"- {table.label}: {collision_line(table.hashing)}." for table in tables if table.hashing)
    stated = " ".join(protocol_lines(exact)[:-1])  # the last is about seconds
    head = f"# Hashed item vectors beside exact ones: {asked.set}\n\n```sh\n{command}\n```"
    return "\n\n".join([head, about, "\n".join(body), reports, stated, by]) + "\n"


def publish(log: dict[str, Any], tables: Sequence[Table], asked: argparse.Namespace) -> None:
    text = page(log, tables, asked)
    out = write_results("hashing", tables[0].found[0][0]["machine"], text, "", asked.out)
    print(f"\n{text}\nwritten to {out}")


def arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(one) for one in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="ml-1m", choices=list(SETS), help="which log of the road")
    parser.add_argument("--epochs", type=int, default=0, help="0 = as the settings say")
    parser.add_argument("--seeds", type=numbers, default=[1])
    parser.add_argument("--functions", type=numbers, default=[2], help="hash functions, one or several numbers")
    parser.add_argument("--change", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "hashing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/hashing_HARDWARE_DATE.md")
    asked = parser.parse_args()
    if not (DATA / asked.set).is_dir():
        parser.error(f"{asked.set} is not in {DATA}; REGARD_DATA says where real data is")
    Settings().changed(changed(asked))  # a wrong --change is told before any work
    return asked


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    with locked(asked.work):
        log, tables = walk(asked)
        if not tables or tables[0].label != "exact":
            sys.exit("hashing: the exact table could not be measured; see above")
        publish(log, tables, asked)
    sys.exit(0 if len(tables) == 1 + (len(SHARES) - 1) * len(asked.functions) else 1)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"hashing: {error}")
