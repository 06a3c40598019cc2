"""Rankers beside the DIN of DeepCTR-Torch, FuxiCTR and torch-rechub: one set of samples, one protocol, one evaluator.

Every side has six declared trials with the first seed, of a few epochs. The AUC of validation chooses one, which is
trained for as long as validation likes, with every seed (of the peers, only the one that validation likes best; the
others with the first seed); only then is test read, once. `mean`, `candidate` and the shuffled history, with the
settings that were chosen for attention, say what attention is worth. Seconds are those of one more epoch, trained for
them alone. A cell is a side, a trial and a seed; it runs in a process of its own and is kept, so a walk that was killed
goes on where it was.

    python benchmarks/ranking.py --peers PEERS/bin/python [--sets amazon-beauty,ml-100k,ml-1m] [--seeds 0,1,2] [--smoke]
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from peers.din_protocol import Samples
from ranking_cells import Way, key_of, tell
from ranking_page import chapter, page
from ranking_samples import BATCH
from regard.errors import InputError, RegardError
from regard.evaluate.figures import Labelled
from regard.manifest import locked, read_json, write_json
from road import DATA, code

HERE = Path(__file__).parent
PEERS = {"deepctr-torch": "din_deepctr.py", "fuxictr": "din_fuxictr.py", "torch-rechub": "din_rechub.py"}
OURS = ("activation-unit", "multi-head")
ABLATIONS = ("mean", "candidate")
BATCH_OF_PEERS = 1024
TRIALS = range(1, 7)
ROUNDS = 2
SETS = {"amazon-beauty": [], "ml-100k": [], "ml-1m": ["--recent", "20", "--length", "200"]}
"""Logs, and what `din_data.py` is told beside the defaults."""


@dataclass(frozen=True)
class Side:
    """Who takes part: a library, or a form of ours; its script in this folder, and what that is told of it."""

    name: str
    script: str
    words: tuple[str, ...] = ()

    @property
    def peer(self) -> bool:
        return self.name in PEERS

    @property
    def trials(self) -> Sequence[dict[str, Any]]:
        """The declared trials, read from the text of the script: its library may be of another environment."""
        found: Any = declared((HERE / self.script).read_text(encoding="utf-8"), "TRIALS")
        if isinstance(found, dict):  # ours: by form
            form = self.words[self.words.index("--interest") + 1]
            found = found.get(form, found[OURS[0]])
        trials: Sequence[dict[str, Any]] = found
        return trials


@dataclass(frozen=True)
class Cell:
    """One training of a side, in a folder of its own: what its script wrote, and `found.json` when it is done."""

    command: list[str]
    folder: Path

    def kept(self) -> dict[str, Any] | None:
        """Return what was found before; None where it was not, or where its probabilities are gone."""
        file = self.folder / "found.json"
        found = read_json(file) if file.exists() else None
        whole = found and ("probabilities" not in found or (self.folder / found["probabilities"]).exists())
        return found if whole else None

    def run(self) -> dict[str, Any] | None:
        """Return what is kept, or train now; None where it broke, and its traceback is on the screen."""
        found = self.kept()
        if found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            load = round(os.getloadavg()[0], 2)
            if subprocess.run(self.command, check=False, env={**os.environ, "TQDM_DISABLE": "1"}).returncode == 0:
                answer = next(iter(self.folder.glob("*_trial*_seed*.json")))
                write_json(self.folder / "found.json", {**read_json(answer), "code": code(), "load": load})
                found = self.kept()
        told = "broke: see above; the next walk tries it again"
        if found:
            auc = f"validation auc {found['validation']['auc']:.4f}, " if "validation" in found else ""
            told = f"{auc}{found['training_rows_per_second']:,.0f} rows/s"
        print(f"{self.folder.name}  {told}", flush=True)
        return found


@dataclass(frozen=True)
class Comparison:
    """One log: its samples, and its cells."""

    name: str
    file: Path
    asked: argparse.Namespace

    @cached_property
    def samples(self) -> Samples:
        return Samples.read(self.file)

    @cached_property
    def content(self) -> str:
        """What the samples are, as a short name."""
        return hashlib.blake2b(self.file.read_bytes(), digest_size=8).hexdigest()

    def cell(self, side: Side, trial: int, seed: int, *words: str, last: bool = False) -> Cell:
        """Name a cell: its key depends on the samples, on the declared trial, and on all that its script is told."""
        told = [*side.words, "--trial", str(trial), "--seed", str(seed), *words]
        told += ["--precision", self.asked.precision.get(side.name, "float32")]
        epochs, patience = (self.asked.last_epochs, 2) if last else (self.asked.epochs, self.asked.patience)
        told += ["--epochs", str(epochs), "--patience", str(patience)]
        for name in ("watch", "threads", "device"):
            told += [f"--{name}", str(getattr(self.asked, name))]
        key = key_of(self.content, side.trials[trial - 1], told)
        folder = self.asked.work / self.name / f"{side.name}-{trial}-seed-{seed}-{key}"
        python = self.asked.peers if side.peer else sys.executable
        return Cell([str(python), str(HERE / side.script), str(self.file), "--out", str(folder), *told], folder)

    def chosen(self, side: Side) -> int | None:
        """Return the trial that validation likes best; None where one broke."""
        first = self.asked.seeds[0]
        tried = {trial: self.cell(side, trial, first).run() for trial in self.asked.trials}
        aucs = {trial: found["validation"]["auc"] for trial, found in tried.items() if found}
        return max(aucs, key=lambda trial: aucs[trial]) if len(aucs) == len(tried) else None

    def rates(self, trials: Mapping[Side, int]) -> dict[str, list[dict[str, Any]]]:
        """Time one epoch of each side, one side after the other, twice: of training alone."""
        found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in trials}
        for seed in range(ROUNDS):
            for side, trial in trials.items():
                one = self.cell(side, trial, seed, "--speed").run()
                found[side.name] += [one] if one else []
        return found

    def seeds(self, side: Side, trials: Mapping[Side, int]) -> list[int]:
        """All seeds; a peer that another one beats on validation has the first one only."""
        first = self.asked.seeds[0]
        tried = {one: self.cell(one, trial, first).kept() for one, trial in trials.items() if one.peer}
        auc = {one.name: found["validation"]["auc"] for one, found in tried.items() if found}
        return [first] if side.peer and auc[side.name] < max(auc.values()) else list(self.asked.seeds)

    def way(self, side: Side, trial: int, seeds: Sequence[int], timed: list[dict[str, Any]]) -> Way | None:
        """Read the test part: what a side said of it with this trial, every seed; None where one is missing."""
        cells = [self.cell(side, trial, seed, last=True) for seed in seeds]
        found = [one for cell in cells if (one := cell.kept())]
        if len(found) < len(cells):
            return None
        said = [np.load(cell.folder / one["probabilities"]) for cell, one in zip(cells, found, strict=True)]
        return Way(side.name, found, [labelled(self.samples, one) for one in said], timed)


def declared(text: str, name: str) -> Any:
    """Return the constant that a script binds to `name`."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value is not None:
            return ast.literal_eval(node.value)
    raise InputError(f"a script of the comparison declares no {name}")


def labelled(samples: Samples, probabilities: np.ndarray) -> Labelled:
    """Return probabilities (P, C) of the test part with its labels and users."""
    test = samples.parts["test"]
    assert probabilities.shape == test.candidates.shape, (probabilities.shape, test.candidates.shape)
    users, user = np.unique(np.repeat(test.user.astype(np.int64), test.candidates.shape[1]), return_inverse=True)
    empty = int((test.lengths == 0).sum())
    return Labelled(
        test.labels.ravel().astype(float), probabilities.ravel().astype(float), user, users, len(test), empty
    )


def sides_of(asked: argparse.Namespace) -> list[Side]:
    """Return the sides of the comparison: the peers where their environment is, and ours."""
    words = ("--batch", str(BATCH_OF_PEERS))
    peers = [Side(name, f"peers/{script}", words) for name, script in PEERS.items()] if asked.peers else []
    return [*peers, *(ours(form) for form in OURS)]


def ours(form: str, *words: str) -> Side:
    label = " ".join([form, *(word.lstrip("-") for word in words)])
    return Side(label.replace(" ", "-"), "ranking_samples.py", ("--batch", str(BATCH), "--interest", form, *words))


def walk(comparison: Comparison) -> tuple[list[Way], bool]:
    """Train what is not kept, then read test; return what there is, and whether that is all."""
    asked = comparison.asked
    trials = {side: comparison.chosen(side) for side in sides_of(asked)}
    for form in OURS if asked.ablations else ():
        trials[ours(form, "--shuffled")] = trials[ours(form)]
    for form in ABLATIONS if asked.ablations else ():
        trials[ours(form)] = trials[ours(OURS[0])]
    whole = {side: trial for side, trial in trials.items() if trial is not None}
    seeds = {side: comparison.seeds(side, whole) for side in whole}
    for side, trial in whole.items():
        for seed in seeds[side]:
            comparison.cell(side, trial, seed, last=True).run()
    timed = comparison.rates(whole)
    ways = [way for side in whole if (way := comparison.way(side, whole[side], seeds[side], timed[side.name]))]
    return ways, len(ways) == len(trials)


def chapter_of(comparison: Comparison, ways: Sequence[Way]) -> str:
    """Sort the ways into peers, ours, and what ours are set beside."""
    by_name = {way.name: way for way in ways}
    peers, forms, plain = ([by_name[name] for name in names if name in by_name] for names in (PEERS, OURS, ABLATIONS))
    own = {way.name: by_name.get(ours(way.name, "--shuffled").name) for way in forms}
    beside = {name: [*plain, *([] if shuffled is None else [shuffled])] for name, shuffled in own.items()}
    return chapter(comparison.name, comparison.samples, peers, forms, beside)


def drawn(name: str, asked: argparse.Namespace) -> Path:
    """Draw the samples of a log unless they are there; return their file."""
    words = [name, "--work", str(asked.work), "--data", str(DATA), *SETS[name]]
    words += ["--sample", str(asked.sample)] if asked.sample < 1 else []
    told = subprocess.run(
        [sys.executable, str(HERE / "peers" / "din_data.py"), *words], check=True, text=True, stdout=-1
    )
    return Path(told.stdout.splitlines()[0])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(one) for one in text.split(",")]  # noqa: E731
    parser.add_argument("--peers", type=Path, help="python of the peers' environment; without it ours run alone")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=["amazon-beauty"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--trials", type=numbers, default=list(TRIALS))
    parser.add_argument("--epochs", type=int, default=5, help="of a trial, at most")
    parser.add_argument("--last-epochs", type=int, default=15, help="of the chosen trial, at most")
    parser.add_argument("--patience", type=int, default=1, help="of a trial: epochs without a better validation AUC")
    parser.add_argument("--watch", type=int, default=0, help="validation requests that decide when to stop; 0 = all")
    parser.add_argument("--sample", type=float, default=1.0, help="share of users")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", action="append", default=[], metavar="SIDE=bfloat16", help="default: float32")
    parser.add_argument("--no-ablations", dest="ablations", action="store_false")
    parser.add_argument("--smoke", action="store_true", help="2 %% of the users, one epoch, two trials, one seed")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "ranking")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/ranking_HARDWARE_DATE.md")
    asked = parser.parse_args()
    if unknown := set(asked.sets) - set(SETS):
        parser.error(f"there is no set {', '.join(sorted(unknown))}; known: {', '.join(SETS)}")
    asked.precision = dict(text.split("=", 1) for text in asked.precision)
    if asked.smoke:
        asked.sample, asked.epochs, asked.trials, asked.seeds = 0.02, 1, [1, 2], asked.seeds[:1]
        asked.last_epochs = 1
        asked.out = asked.out or asked.work / "smoke.md"  # no result
    return asked


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/ranking.py", *sys.argv[1:]])
    chapters: list[str] = []
    everything: list[Way] = []
    whole = True
    with locked(asked.work):
        for name in asked.sets:
            comparison = Comparison(name, drawn(name, asked), asked)
            ways, complete = walk(comparison)
            whole = whole and complete
            if ways:
                everything += ways
                chapters.append(chapter_of(comparison, ways))
                found = [one for way in everything for one in way.found]
                tell("ranking", page(chapters, found, command), found, asked.out)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"ranking: {error}")
