"""Which way of reading pays for which length? Encoders side by side, cases grouped by the events in their history.

Every encoder has the same width, reads the same batches in the same order for the same number of epochs, and none stops
early, so all have seen the same targets; the best epoch is chosen on validation. Split `leave-one-out`: the last event
of a user is the target, ranked in the full catalogue. A cell is a model and a seed; finished ones are kept. Beside each
encoder stands what is left of it when every case reads the history of somebody else, of about the same length; and
the most popular items, which read no history.

    python benchmarks/lengths.py [--log ml-1m] [--models gru,lstm] [--seeds 1,2,3] [--set train.epochs=12]
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from regard.data.cases import Int64
from regard.data.split import Cases
from regard.errors import RegardError
from regard.evaluate.bootstrap import interval, resampled_means
from regard.evaluate.compare import compare, verdict
from regard.evaluate.result import Number, Result
from regard.evaluate.strata import user_means
from regard.manifest import locked
from regard.model.encoder import ENCODERS
from regard.model.scorer import CatalogueScorer
from regard.recommend.run import Run
from regard.train.loop import choose_device
from regard.training.protocol import Protocol
from road import DATA, Cell, prepared, read_by, run, settings_for, told_of, write_results
from road_sets import SETS
from road_tables import averaged, front

METRIC = "ndcg@10"
FLOOR = "popular"
REFERENCES = ("mean", "gru", "lstm")
ATTENTION = ("additive", "self-attention", "seq2seq")
MORE = tuple(name for name in ENCODERS if name not in (*REFERENCES, *ATTENTION))  # where they are asked for
SPLIT = "leave-one-out"
SHARED = (
    "model.width=64",
    "model.dropout=0.2",
    "model.covisit_weight=0",  # encoders by themselves
    "train.epochs=6",
    "train.table_rate=10",
    "train.patience=100000",
)
BANDS = {"<50": (0, 50), "50-150": (50, 151), ">150": (151, sys.maxsize)}
"""Events in the history of a case: from the first number to just before the second."""
KEPT = "evaluation-lengths"
STRANGERS = "evaluation-strangers"
OTHERS = "history of somebody else"


class Strangers(CatalogueScorer):
    """Every case reads the history of somebody else, drawn within its band; what it has seen stays its own."""

    def _scores(self, cases: Cases, rows: Int64) -> Tensor:
        return super()._scores(swapped(cases), rows)


def swapped(cases: Cases, seed: int = 0) -> Cases:
    """Deal the histories of a band out anew among its cases."""
    rng, length = np.random.default_rng(seed), cases.history_end - cases.history_start
    other = np.arange(len(cases))
    for low, high in BANDS.values():
        band = np.flatnonzero((length >= low) & (length < high))
        other[band] = rng.permutation(band)
    return replace(cases, history_start=cases.history_start[other], history_end=cases.history_end[other])


@dataclass(frozen=True)
class Row:
    """A model: what its cells found, and their results by band, one for each seed."""

    model: str
    found: list[dict[str, Any]]
    results: list[Result]
    strangers: list[Result]

    @property
    def mean(self) -> Result:
        return averaged(self.results)

    @property
    def validation(self) -> float:
        return float(np.mean([cell["training"]["validation"].get(METRIC, np.nan) for cell in self.found]))


def cells_of(work: Path, log: dict[str, Any], asked: argparse.Namespace) -> Iterator[Cell]:
    """Yield the cells: every encoder with every seed, and the baseline once."""
    pairs = [(FLOOR, 1), *((model, seed) for model in asked.models for seed in asked.seeds)]
    for model, seed in pairs:
        settings = settings_for(SPLIT, model, seed, [*SHARED, *asked.set])
        depends = json.dumps([log["fingerprint"], read_by(settings)], sort_keys=True)
        key = hashlib.blake2b(depends.encode(), digest_size=4).hexdigest()
        told = {"set": asked.log, "model": model, "seed": seed, "split": SPLIT, "fingerprint": log["fingerprint"]}
        yield Cell(
            {"do": "measure", **told, "settings": told_of(settings)}, work / asked.log / f"{model}-{seed}-{key}.json"
        )


def by_length(cell: Cell, dataset: Path, kept: str = KEPT) -> Result:
    """Return the figures of a finished run by the length of histories, from the ranks of its test cases."""
    if (cell.folder / f"{kept}.npz").exists():
        return Result.load(cell.folder, kept)
    whole, trained = Result.load(cell.folder, "evaluation-test"), Run.open(cell.folder)
    protocol = Protocol.of(trained.dataset(dataset), trained.settings)
    cases = protocol.split.cases(protocol.dataset, "test", trained.settings.evaluate.targets)
    model = trained.model(choose_device(trained.settings.train.device))
    scorer = protocol.scorer(model)
    if kept == STRANGERS:
        scorer = Strangers(model, protocol.dataset, scorer.device, scorer.window, precision=scorer.precision)
    ranks, _ = scorer.rank(cases, k=10, filter_seen=protocol.seen == "filter")
    length = (cases.history_end - cases.history_start)[cases.case_of_target]
    everybody = np.full(len(length), True)
    columns = {"all": user_means(ranks, cases, (10,), protocol.dataset.n_items, everybody)[METRIC].astype(np.float32)}
    if kept == KEPT:
        np.testing.assert_allclose(columns["all"], whole.per_user[METRIC], rtol=1e-3, atol=1e-3)
    for band, (low, high) in BANDS.items():
        mask = (length >= low) & (length < high)
        columns[band] = user_means(ranks, cases, (10,), protocol.dataset.n_items, mask)[METRIC].astype(np.float32)
    encoder = getattr(model, "encoder", None)
    told = {
        "encoder_weights": 0 if encoder is None else sum(weights.numel() for weights in encoder.parameters()),
        "targets_seen": round(sum(row["targets_per_second"] * row["seconds"] for row in trained.manifest["epochs"])),
    }
    result = replace(whole, metrics=numbers(columns, whole), per_user=columns, protocol={**whole.protocol, **told})
    result.save(cell.folder, kept)
    return result


def numbers(columns: dict[str, Any], whole: Result) -> dict[str, Number]:
    """Return the mean over users of each column (U,), with its interval."""
    said = whole.protocol["interval"]
    means = resampled_means(columns.values(), said["resamples"], said["seed"])
    found: dict[str, Number] = {}
    for (band, column), resampled in zip(columns.items(), means.T, strict=True):
        there = column[~np.isnan(column)]
        low, high = interval(resampled)
        found[band] = {"value": float(there.mean()) if len(there) else None, "low": low, "high": high}
    return found


def walk(work: Path, asked: argparse.Namespace) -> tuple[dict[str, Any], list[Row]] | None:
    """Measure what is not kept, and publish after every cell; None where the log cannot be read."""
    log = prepared(work, asked.log, SETS[asked.log])
    if log is None:
        return None
    rows: dict[str, Row] = {}
    dataset = work / asked.log / "dataset"
    for cell in cells_of(work, log, asked):
        found = cell.kept()
        kept = f" (kept, of commit {found['code']['commit']})" if found else ""
        if found is None:
            for name in (KEPT, STRANGERS):
                (cell.folder / f"{name}.npz").unlink(missing_ok=True)
            found = run({**cell.task, "dataset": str(dataset), "run": str(cell.folder)}, cell.file)
        print(f"{cell.task['model']:16} seed {cell.task['seed']}  {front(found)}{kept}", flush=True)
        if found and "refused" not in found:
            row = rows.setdefault(cell.task["model"], Row(cell.task["model"], [], [], []))
            row.found.append(found)
            row.results.append(by_length(cell, dataset))
            if cell.task["model"] != FLOOR:
                row.strangers.append(by_length(cell, dataset, STRANGERS))
            publish(list(rows.values()), asked)
    return log, list(rows.values())


def publish(rows: Sequence[Row], asked: argparse.Namespace) -> None:
    """Write the page, and what every cell found beside it, a line of JSON each."""
    raw = [
        {**{key: value for key, value in cell.items() if key != "strata"}, "by_length": result.metrics}
        for row in rows
        for cell, result in zip(row.found, row.results, strict=True)
    ]
    day = f"{datetime.date.today():%Y-%m-%d}"  # noqa: DTZ011 - the reader's day
    write_results("lengths", rows[-1].found[-1]["machine"], page(rows, asked, day), raw, asked.out)


def page(rows: Sequence[Row], asked: argparse.Namespace, day: str) -> str:
    """Return the whole page."""
    first, cells = rows[0].results[0], [cell for row in rows for cell in row.found]
    users = {band: int((~np.isnan(column)).sum()) for band, column in first.per_user.items()}
    told = [result.protocol["targets_seen"] for row in rows for result in row.results]
    seen = " or ".join(f"{many:,}" for many in sorted(set(told) - {0}))
    last = dict(change.partition("=")[::2] for change in (*SHARED, *asked.set))
    shared = ", ".join(f"{name}={value}" for name, value in last.items())
    machine = cells[-1]["machine"]
    commits = " and ".join(dict.fromkeys(cell["code"]["commit"] for cell in cells))
    return f"""\
# Encoders by length of history: {asked.log}

Table of {day}. {METRIC} in the full catalogue of {first.protocol["catalogue"]:,} items, split {SPLIT}, seen items:
{first.protocol["seen"]}. In brackets the 95 % interval over users; then, with several seeds, the range of their values.

```sh
{shlex.join(["python", "benchmarks/lengths.py", *asked.shown])}
```

The same for all: {shared}; {seen} targets seen in training, the same batches
in the same order. No model was tuned.

{machine["processor"]}, {machine["cores"]} cores, {machine["device"]}, threads {machine["threads"]}, products in
{machine["precision"]}, torch {machine["torch"]}, regard at commit {commits}. Load up to
{max(cell["load"] for cell in cells):.1f} before a cell began: seconds suffer from it.

{chr(10).join(table(rows, users))}

{chr(10).join(verdicts(rows))}
"""


def table(rows: Sequence[Row], users: dict[str, int]) -> list[str]:
    """Return a line for each model: quality by band, seconds of learning, targets a second, encoder weights."""
    bands = [f"{band} ({users[band]:,} users)" for band in (*BANDS, "all")]
    lines = [["model", *bands, "learning", "targets/s", "best epoch", "encoder weights"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in rows:
        spent = [cell["training"] for cell in row.found]
        cells = [shown(row.results, band) for band in (*BANDS, "all")]
        if "epochs" in spent[0]:
            cells += [
                f"{np.mean([one['learning_seconds'] for one in spent]):,.0f} s",
                f"{np.mean([one['targets_per_second'] for one in spent]):,.0f}",
                ", ".join(f"{one['best_epoch']} of {one['epochs']}" for one in spent),
                f"{row.results[0].protocol['encoder_weights']:,}",
            ]
        lines.append([row.model, *cells, *[""] * (len(lines[0]) - 1 - len(cells))])
    for row in rows:
        if row.strangers:
            cells = [shown(row.strangers, band) for band in (*BANDS, "all")]
            lines.append([f"{row.model}, {OTHERS}", *cells, *[""] * (len(lines[0]) - 1 - len(cells))])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def shown(results: Sequence[Result], band: str) -> str:
    number = averaged(results).metrics[band]
    if number["value"] is None:
        return "-"
    text = f"{number['value']:.4f}"
    if number["low"] is not None:
        text += f" ({number['low']:.4f}-{number['high']:.4f})"
    values = [result.value(band) or 0.0 for result in results]
    return text if len(values) == 1 else f"{text}, {min(values):.4f}-{max(values):.4f}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Say of every attention form by how much it differs from the reference that validation likes best."""
    references = [row for row in rows if row.model in REFERENCES]
    forms = [row for row in rows if row.model in (*ATTENTION, *MORE)]
    if not (references and forms):
        return []
    base = max(references, key=lambda row: row.validation)
    against = compare({base.model: base.mean, **{row.model: row.mean for row in forms}})["against"]
    words = {"ahead": "attention pays", "behind": "**attention does not pay**", "unclear": "no clear difference"}
    lines = [f"Difference to {base.model}, the reference without attention that validation likes best, same users:", ""]
    for name, found in against.items():
        told = [
            f"{band} {numbers['difference']:+.4f} ({numbers['low']:+.4f} to {numbers['high']:+.4f}), "
            f"{words[verdict(METRIC, numbers)]}"
            for band, numbers in found.items()
            if numbers["low"] is not None
        ]
        lines.append(f"- {name}: {'; '.join(told)}.")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*REFERENCES, *ATTENTION]
    parser.add_argument("--log", default="ml-1m", choices=list(SETS), help="default: ml-1m")
    parser.add_argument("--models", type=lambda text: text.split(","), default=names, help=f"also: {', '.join(MORE)}")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change what all share")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "lengths")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/lengths_HARDWARE_DATE.md")
    asked = parser.parse_args()
    if unknown := set(asked.models) - set(ENCODERS):
        parser.error(f"there is no encoder {', '.join(sorted(unknown))}; known: {', '.join(ENCODERS)}")
    settings_for(SPLIT, names[0], 1, [*SHARED, *asked.set])  # a wrong --set is told before hours of work
    asked.shown = ["--log", asked.log, "--seeds", ",".join(map(str, asked.seeds))]
    asked.shown += [] if asked.models == names else ["--models", ",".join(asked.models)]
    asked.shown += [word for change in asked.set for word in ("--set", change)]
    return asked


def main() -> None:
    asked = arguments()
    if not (DATA / asked.log).is_dir():
        sys.exit(f"lengths: {asked.log} is not in {DATA}; REGARD_DATA says where real data is")
    asked.work.mkdir(parents=True, exist_ok=True)
    with locked(asked.work):
        done = walk(asked.work, asked)
    whole = done is not None and sum(len(row.found) for row in done[1]) == 1 + len(asked.models) * len(asked.seeds)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"lengths: {error}")
