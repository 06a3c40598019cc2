"""The road on real data: every model on every log, with default settings, under one protocol.

A cell is a log, a model and a seed: trained, chosen on validation, measured once on test. It runs in a process of its
own and is kept in the work folder until the log or a setting it depends on changes, so a walk that was killed goes on
where it was. Tables and raw numbers are written anew after each log.

    python benchmarks/road.py [--sets ml-100k,frappe] [--seeds 1,2,3] [--work FOLDER] [--out FILE.md] [--docs]
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regard.config import Settings
from regard.data.sources import Recipe, find_files
from regard.errors import RegardError
from regard.manifest import locked, new_file, read_json
from regard.training.sizes import RULE
from road_sets import SETS, RealSet
from road_tables import Chapter, front, into_docs, page, raw

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("REGARD_DATA", ROOT.parent / "shared" / "data"))
BASELINES = ("popular", "recent-popular", "repeat", "co-visit")
MODELS = (*BASELINES, "self-attention")


@dataclass(frozen=True)
class Cell:
    """Where one measurement is kept: `file` when it is done, and the run in `folder`."""

    task: dict[str, Any]
    file: Path

    @property
    def folder(self) -> Path:
        return self.file.with_suffix(".run")

    def kept(self) -> dict[str, Any] | None:
        """Return what was found, if it is all there."""
        if not self.file.exists():
            return None
        found = read_json(self.file)
        return found if "refused" in found or (self.folder / "evaluation-test.npz").exists() else None


def settings_for(split: str, model: str, seed: int, changes: Sequence[str]) -> Settings:
    own = (f"data.split={split!r}", f"model.name={model!r}", f"train.seed={seed}")
    return Settings().changed([*changes, *own])


def read_by(settings: Settings) -> dict[str, Any]:
    """Return the settings that matter to a model: baselines ask nothing of how others are shaped and trained."""
    read = settings.model_dump(mode="json")
    if settings.model.name in BASELINES:
        read["model"] = {"name": settings.model.name}
        read["train"] = {key: read["train"][key] for key in ("metric", "device", "threads")}
        return read
    return {**read, "told": told_of(settings), "rule": RULE}  # the rest follows from the size of the data


def told_of(settings: Settings) -> dict[str, Any]:
    """Return the settings that were told, as a cell is: the size of the data decides some of the others."""
    return settings.model_dump(mode="json", exclude_unset=True)


def cells_of(work: Path, name: str, fingerprint: str, seeds: Sequence[int], changes: Sequence[str]) -> Iterator[Cell]:
    """Yield the cells of a log; only a trained model differs by seed, and the refused splits are asked of one model."""
    chosen = SETS[name]
    asked = [(chosen.split, model, 1) for model in BASELINES]
    asked += [(chosen.split, MODELS[-1], seed) for seed in seeds or chosen.seeds]
    asked += [(split, BASELINES[0], 1) for split in chosen.refused]
    for split, model, seed in asked:
        own = chosen.changes if model == MODELS[-1] else ()
        settings = settings_for(split, model, seed, [*own, *changes])
        depends = json.dumps([fingerprint, read_by(settings)], sort_keys=True)
        key = hashlib.blake2b(depends.encode(), digest_size=4).hexdigest()
        label = re.sub(r"[^\w.]+", "-", f"{model}-{split}-seed-{seed}-{key}")
        told = {"set": name, "model": model, "seed": seed, "split": split, "fingerprint": fingerprint}
        yield Cell({"do": "measure", **told, "settings": told_of(settings)}, work / name / f"{label}.json")


def run(task: dict[str, Any], out: Path) -> dict[str, Any] | None:
    """Run a task in a process of its own; None where it broke, and its traceback is on the screen."""
    script = Path(__file__).with_name("road_cell.py")
    whole = {**task, "out": str(out), "code": code(), "load": round(os.getloadavg()[0], 2)}
    done = subprocess.run([sys.executable, str(script), json.dumps(whole)], check=False)
    return read_json(out) if done.returncode == 0 else None


def prepared(work: Path, name: str, chosen: RealSet) -> dict[str, Any] | None:
    """Prepare a log unless it is there as its recipe and files say."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "data.toml"
    recipe.write_text(chosen.recipe.replace("DATA", str(DATA.resolve())), encoding="utf-8")
    files = [file for source in Recipe.read(recipe).sources for file in find_files(source.path)]
    task = {"do": "prepare", "set": name, "recipe": chosen.recipe, "bytes": [file.stat().st_size for file in files]}
    out = folder / "prepare.json"
    if out.exists() and (folder / "dataset").is_dir():
        before = read_json(out)
        if all(before.get(key) == value for key, value in task.items()):
            return before
    return run({**task, "recipe_file": str(recipe), "dataset": str(folder / "dataset")}, out)


def walk(work: Path, name: str, asked: argparse.Namespace) -> Chapter | None:
    """Take one log down the road; None where it could not even be read."""
    log = prepared(work, name, SETS[name])
    if log is None:
        return None
    done = []
    for cell in cells_of(work, name, log["fingerprint"], asked.seeds, asked.set):
        found = cell.kept()
        kept = f" (kept, of commit {found['code']['commit']})" if found else ""
        if found is None:
            found = run({**cell.task, "dataset": str(work / name / "dataset"), "run": str(cell.folder)}, cell.file)
        print(f"{name:16} {cell.task['model']:15} {cell.task['split']:20} {front(found)}{kept}", flush=True)
        done.append((cell.task, found, cell.folder))
    return Chapter(name, SETS[name], log, done)


def code() -> dict[str, str]:
    """Name the code: version, commit, and whether the package was changed since."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return told.stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--", "src") else ""
    return {"regard": version("regard"), "commit": git("rev-parse", "--short", "HEAD") + changed}


def write_results(
    theme: str, machine: Mapping[str, Any], text: str, raw: Sequence[Mapping[str, Any]] | str, out: Path | None
) -> Path:
    """Write the page of a benchmark, and what every cell found beside it, a line of JSON each; return where.

    Pages are named by theme, hardware and day unless `out` says where. Where logs lie is nobody's business.
    """
    hardware = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{hardware} {machine['cores']} cores".lower()).strip("-")
    day = f"{datetime.date.today():%Y-%m-%d}"  # noqa: DTZ011 - the reader's day
    out = out or ROOT / "benchmarks" / "results" / f"{theme}_{slug}_{day}.md"
    lines = raw if isinstance(raw, str) else "".join(json.dumps(one) + "\n" for one in raw)
    for path, body in ((out, text), (out.with_suffix(".jsonl"), lines)):
        if body:
            with new_file(path) as aside:
                aside.write_text(body.replace(str(DATA.resolve()), "DATA"), encoding="utf-8")
    return out


def publish(chapters: Sequence[Chapter], asked: argparse.Namespace) -> str:
    """Write the tables, and the raw numbers beside them; return the tables."""
    text = page(chapters, shlex.join(["python", "benchmarks/road.py", *asked.shown]), asked.set)
    out = write_results("road", chapters[0].log["machine"], text, raw(chapters), asked.out)
    print(f"written to {out}", flush=True)
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS), help="default: all")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "road")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/road_HARDWARE_DATE.md")
    parser.add_argument("--docs", action="store_true", help="at the end, renew the tables in docs/results.md")
    asked = parser.parse_args()
    if unknown := set(asked.sets) - set(SETS):
        parser.error(f"there is no set {', '.join(sorted(unknown))}; known: {', '.join(SETS)}")
    settings_for("auto", MODELS[-1], 1, asked.set)  # a wrong --set is told before hours of work
    shown = [] if asked.sets == list(SETS) else ["--sets", ",".join(asked.sets)]
    shown += ["--seeds", ",".join(map(str, asked.seeds))] if asked.seeds else []
    asked.shown = shown + [word for change in asked.set for word in ("--set", change)]
    return asked


def main() -> None:
    asked = arguments()
    chapters: list[Chapter] = []
    asked.work.mkdir(parents=True, exist_ok=True)
    text = ""
    with locked(asked.work):
        for name in asked.sets:
            if not (DATA / name).is_dir():
                print(f"{name:16} is not in {DATA}; REGARD_DATA says where real data is", flush=True)
            elif chapter := walk(asked.work, name, asked):
                chapters.append(chapter)
                text = publish(chapters, asked)
    if asked.docs and text:
        into_docs(ROOT / "docs" / "results.md", text)
    whole = len(chapters) == len(asked.sets) and all(found for chapter in chapters for _, found, _ in chapter.cells)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"road: {error}")
