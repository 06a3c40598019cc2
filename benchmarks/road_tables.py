"""What the road found, as Markdown: a chapter for each log, and who measured it with what."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regard.evaluate.bootstrap import interval, resampled_means
from regard.evaluate.report import outcome, protocol_lines
from regard.evaluate.result import Number, Result
from road_sets import RealSet

Found = dict[str, Any]
KEYS = ("ndcg@10", "hit_rate@10", "coverage@10", "ndcg@10|trained")
HEADS = ("model", *KEYS, "training", "ranking", "peak memory")
MARKS = ("<!-- road: begin, written by benchmarks/road.py -->", "<!-- road: end -->")


@dataclass(frozen=True)
class Chapter:
    """A log, what preparing it gave, and its cells: task, what was found (None: it broke), folder of the run."""

    name: str
    about: RealSet
    log: Found
    cells: list[tuple[Found, Found | None, Path]]

    def of_split(self, *, main: bool) -> list[tuple[Found, Found | None, Path]]:
        """Return the cells of the split that the tables show, or of those that are asked to be refused."""
        return [cell for cell in self.cells if (cell[0]["split"] == self.about.split) is main]

    @cached_property
    def results(self) -> dict[str, list[Result]]:
        """Results by model, one for each seed."""
        results: dict[str, list[Result]] = {}
        for task, found, folder in self.of_split(main=True):
            if found and "refused" not in found:
                results.setdefault(task["model"], []).append(Result.load(folder, "evaluation-test"))
        return results


def page(chapters: Sequence[Chapter], command: str, changes: Sequence[str]) -> str:
    """Return the whole page: command, settings and machine, then a chapter for each log."""
    cells = [found for chapter in chapters for _, found, _ in chapter.cells if found]
    day = f"{datetime.date.today():%Y-%m-%d}"  # noqa: DTZ011 - the reader's day
    settings = (
        f"**Not with the default settings**: {', '.join(changes)}."
        if changes
        else "Default settings throughout, but where a log says otherwise."
    )
    head = f"# The road on real data\n\nTables of {day}. {settings}\n\n```sh\n{command}\n```"
    body = "\n".join(_chapter(chapter) for chapter in chapters)
    return f"{head}\n\n{_measured_by(cells)}\n\n{body}"


def into_docs(path: Path, text: str) -> None:
    """Put the page between the marks of a file whose other lines are written by hand."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert begin, f"{path} has lost its mark {MARKS[0]}"
    assert end, f"{path} has lost its mark {MARKS[1]}"
    own = "\n".join(text.splitlines()[1:]).strip().replace("\n## ", "\n### ")
    path.write_text(f"{before}{begin}\n\n{own}\n\n{end}{after}", encoding="utf-8")


def raw(chapters: Sequence[Chapter]) -> str:
    """Return all that was found, a line of JSON for each cell, the strata apart."""
    cells = [
        found for chapter in chapters for found in (chapter.log, *(found for _, found, _ in chapter.cells)) if found
    ]
    rows = ({name: value for name, value in cell.items() if name != "strata"} for cell in cells)
    return "".join(json.dumps(_rounded(row)) + "\n" for row in rows)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def front(found: Found | None) -> str:
    """Say in a few words what came of a cell."""
    if found is None:
        return "broke: see above; the next walk tries it again"
    if "refused" in found:
        return f"refused: {found['refused']}"
    number = found["metrics"]["ndcg@10"]
    return f"ndcg@10 {_with_interval(number)}, {found['training']['seconds']:.1f} s, {found['peak_gb']:.1f} GB"


def _measured_by(cells: Sequence[Found]) -> str:
    """Name machine, versions and precision, whatever there is of each."""
    ran = [cell for cell in cells if "refused" not in cell]
    if not ran:
        return "Nothing could be measured."

    def all_of(kind: str, name: str) -> str:
        return " and ".join(dict.fromkeys(str(cell[kind][name]) for cell in ran))

    return (
        f"{all_of('machine', 'processor')}, {all_of('machine', 'cores')} cores, {all_of('machine', 'device')}, "
        f"threads {all_of('machine', 'threads')}; self-attention multiplies in {all_of('machine', 'precision')}; "
        f"torch {all_of('machine', 'torch')}, Python {all_of('machine', 'python')}; "
        f"regard {all_of('code', 'regard')} at commit {all_of('code', 'commit')}.\n\n"
        f"Other work on the machine: load up to {max(cell['load'] for cell in ran):.1f} before a cell began; "
        "seconds suffer from it."
    )


def _chapter(chapter: Chapter) -> str:
    lines = [f"## {chapter.name}", "", f"{chapter.about.about} {_log(chapter.log)}", ""]
    if chapter.results:
        result = next(iter(chapter.results.values()))[0]
        first, *others, _ = protocol_lines(result)  # the last is about seconds
        new = result.protocol["split_counts"]["test_users_never_trained"]
        lines += [" ".join([first, f"{new:,} of the users have no training event.", *others]), ""]
    lines += _table(chapter)
    notes = [*_outcome(chapter), *_resumed(chapter), *_others(chapter)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _log(log: Found) -> str:
    found = log["found"]
    counts, time, rows = found["counts"], found["time"], found["import"]
    span = f", {time['first'][:10]} to {time['last'][:10]}" if time["kind"] == "timestamp" else ""
    parts = [
        f"{counts['events']:,} events of {counts['users']:,} users on {counts['items']:,} items",
        f"time kind {time['kind']}{span}",
    ]
    kinds = [found[kind] for kind in ("parts", "behaviours") if kind in found]
    parts += [", ".join(f"{name} {many:,}" for name, many in kind.items()) for kind in kinds]
    if refused := rows["rows_read"] - rows["rows_kept"]:
        parts.append(f"{refused:,} rows refused")
    parts.append(f"prepared in {log['seconds']:.1f} s with {log['peak_gb']:.1f} GB")
    return "; ".join(parts) + "."


def _table(chapter: Chapter) -> list[str]:
    rows = [_row(task, found) for task, found, _ in chapter.of_split(main=True)]
    for name, results in chapter.results.items():
        if len(results) > 1:
            rows.append(_mean_row(name, results))
    rows = [row for at, row in enumerate(rows) if row not in rows[:at]]  # each seed is refused in the same words
    best = max((row.ndcg for row in rows), default=0.0)
    heads = [head.replace("|", r"\|") for head in HEADS]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    lines += [[row.cells[0], f"**{row.cells[1]}**", *row.cells[2:]] if row.ndcg == best else row.cells for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


@dataclass(frozen=True)
class _Row:
    cells: list[str]
    ndcg: float = -1.0


def _row(task: Found, found: Found | None) -> _Row:
    label = task["model"] + (f", seed {task['seed']}" if "epochs" in (found or {}).get("training", {}) else "")
    if found is None or "refused" in found:
        reason = "it broke; the next walk tries it again" if found is None else f"refused: {found['refused']}"
        return _Row([label, reason, *[""] * (len(HEADS) - 2)])
    spent, ranking = found["training"], found["timing"]["ranking_seconds"]
    training = f"{spent['seconds']:,.1f} s"
    if "epochs" in spent:
        rate = f"{spent['targets_per_second']:,} targets/s"
        training += f", best epoch {spent['best_epoch']} of {spent['epochs']}, {rate}"
    numbers = [_shown(key, found["metrics"][key]) for key in KEYS]
    return _Row(
        [label, *numbers, training, f"{ranking:.2f} s", f"{found['peak_gb']:.1f} GB"],
        found["metrics"]["ndcg@10"]["value"],
    )


def _mean_row(name: str, results: Sequence[Result]) -> _Row:
    """Return the mean of seeds; the interval is that of users, the range is that of seeds."""
    mean = averaged(results)
    values = [result.value("ndcg@10") or 0.0 for result in results]
    numbers = [_shown(key, mean.metrics[key]) for key in KEYS]
    spread = f"ndcg@10 of seeds {_point(min(values))} to {_point(max(values))}"
    return _Row([f"{name}, mean of {len(results)} seeds", *numbers, spread, "", ""])


def averaged(results: Sequence[Result]) -> Result:
    """Return the result of the mean over seeds of every user's value, so that it can be paired with others."""
    first, said = results[0], results[0].protocol["interval"]
    per_user = {key: np.mean([result.per_user[key] for result in results], axis=0) for key in first.per_user}
    means = resampled_means(per_user.values(), said["resamples"], said["seed"])
    ends = dict(zip(per_user, map(interval, means.T), strict=True))
    metrics: dict[str, Number] = {}
    for key in first.metrics:
        values = [value for result in results if (value := result.value(key)) is not None]
        low, high = ends.get(key, (None, None))
        metrics[key] = {"value": float(np.mean(values)) if values else None, "low": low, "high": high}
    return replace(first, metrics=metrics, per_user=per_user)


def _outcome(chapter: Chapter) -> list[str]:
    """Say who wins, in the words of the library; a baseline's win stands out."""
    trained = {name: results for name, results in chapter.results.items() if name == "self-attention"}
    baselines = {name: results[0] for name, results in chapter.results.items() if name not in trained}
    lines = []
    for name, results in trained.items():
        seeds = f" (mean of {len(results)} seeds)" if len(results) > 1 else ""
        main, *others = outcome(name + seeds, averaged(results), baselines) or [""]
        lines += [line for line in (main, " ".join(others)) if line]
    if not trained and baselines:
        best = max(baselines, key=lambda name: baselines[name].value("ndcg@10") or 0.0)
        lines.append(f"Among those that ran, {best} has the highest ndcg@10.")
    return [line.replace("A baseline wins", "**A baseline wins**").replace("|", r"\|") for line in lines]


def _resumed(chapter: Chapter) -> list[str]:
    """Name the trainings whose seconds are only those of the last stretch."""
    names = [task["model"] for task, found, _ in chapter.cells if (found or {}).get("training", {}).get("resumed")]
    return [f"Stopped and resumed, so seconds of training are those after that: {', '.join(names)}."] if names else []


def _others(chapter: Chapter) -> list[str]:
    """Say what became of the splits that this log cannot have."""
    cells = chapter.of_split(main=False)
    return [f"Asked for split `{task['split']}`, {task['model']}: {front(found)}." for task, found, _ in cells]


def _shown(key: str, number: Number) -> str:
    if key.startswith("coverage"):
        return f"{100 * (number['value'] or 0.0):.1f} %"
    return _with_interval(number) if key.startswith("ndcg") else _point(number["value"])


def _with_interval(number: Number) -> str:
    if number["low"] is None or number["high"] is None:
        return _point(number["value"])
    return f"{_point(number['value'])} ({_point(number['low'])}-{_point(number['high'])})"


def _point(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
