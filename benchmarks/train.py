"""Ours and the peers (RecTools, RePlay, RecBole) trained on the same logs and machine in one run: quality by seconds.

On each log every side learns from the same training events of a leave-one-out split; what it would recommend after each
epoch is scored by our evaluator, and only seconds of learning count. Each peer first shows in which precision, with how
many threads and in which way of its own it is fastest. `--rates`: targets per second at equal architecture, in rounds,
one side after the other. Cells are kept, so a walk that was killed goes on where it was.

    python benchmarks/train.py --peers PEERS/bin/python [--sets ml-1m,amazon-beauty] [--rates ml-1m] [--smoke]
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from regard.data.store import Dataset
from regard.errors import RegardError
from regard.manifest import locked
from regard.training.protocol import Protocol
from road import prepared, settings_for, write_results
from road_sets import SETS as LOGS
from train_log import SPLIT, export, protocol_of
from train_page import Chapter, Curve, page
from train_plot import draw
from train_sides import (
    FREE,
    OF_OURS,
    OURS,
    PEERS,
    RATE_SHAPE,
    SETS,
    SHAPE,
    TARGETS,
    Cell,
    equal_settings,
    our_cell,
    peer_cell,
)

Found = dict[str, Any]


@dataclass
class Comparison:
    """One log: prepared, given to the peers, and all cells on it."""

    name: str
    asked: argparse.Namespace
    cells: dict[str, Cell] = field(default_factory=dict)
    broke: int = 0

    @property
    def work(self) -> Path:
        return Path(self.asked.work) / self.name

    @cached_property
    def protocol(self) -> Protocol:
        if prepared(self.asked.work, self.name, LOGS[self.name]) is None:
            raise RegardError(f"{self.name} could not be prepared; see above")
        settings = settings_for(SPLIT, "self-attention", self.asked.seeds[0], self.asked.set)
        return protocol_of(Dataset.open(self.work / "dataset"), settings)

    @cached_property
    def log(self) -> Path:
        return export(self.protocol, self.name, self.work / "log.npz")

    @property
    def fingerprint(self) -> str:
        return self.protocol.dataset.fingerprint

    def found(self, cell: Cell) -> Found | None:
        """Run a cell unless it is kept, and note it."""
        found = cell.run(self.protocol)
        self.cells[cell.folder.name] = cell
        self.broke += found is None
        return found

    def shape(self, kind: str) -> Found:
        """Return the architecture that peers are told: equal to ours where rates are taken, else as the log asks."""
        if kind == "rate":
            return {**RATE_SHAPE, **self.asked.rate_set}
        own = {name: value for name, value in SETS[self.name].items() if name in SHAPE}
        return {**SHAPE, **own, **self.asked.peer_set}

    def peer(self, kind: str, name: str, way: Found, turn: int = 0, **options: Any) -> Cell:
        """Name the training of a peer in a way of its own."""
        told = {"precision": way["precision"], "threads": way["threads"], **options}
        about = {"kind": kind, "own": way["own"], "options": told, "fingerprint": self.fingerprint, "round": turn}
        return peer_cell(self.work, self.asked.peers, self.log, name, about)

    def own(self, kind: str, seed: int, changes: Sequence[str] = (), turn: int = 0) -> Cell:
        """Name a training of ours."""
        told = [f"train.threads={max(self.asked.threads)}", *self.asked.set, *changes]
        about = {"kind": kind, "seed": seed, "changes": told, "fingerprint": self.fingerprint, "round": turn}
        return our_cell(self.work, self.work / "dataset", about | {"speed": kind == "rate"})

    def fastest(self, name: str, kind: str) -> Found | None:
        """Return the way in which a peer is fastest, by a short trial of each that works at all."""
        every = itertools.product(PEERS[name][1], self.asked.precisions, self.asked.threads)
        ways = [{"own": own, "precision": precision, "threads": threads} for own, precision, threads in every]
        if len(ways) == 1:
            return ways[0]
        steps = {"speed": self.asked.trial_steps, "warm-up": self.asked.trial_warm_up}
        tried = [(way, self.found(self.peer("trial", name, way, **self.shape(kind), **steps))) for way in ways]
        works = [(found["rate"]["targets_per_second"], way) for way, found in tried if found]
        return max(works, key=lambda pair: float(pair[0]))[1] if works else None

    def ours(self) -> dict[str, Cell]:
        """Name our trainings for quality; where seconds are asked for, also without counts beside what is learned.

        Counts are made before the first step, so seconds of learning say nothing of them.
        """
        ways: dict[str, list[str]] = {OURS: []}
        if self.name in TARGETS:
            ways[f"{OURS}, {FREE}"] = ["model.covisit_weight=0"]
        many = {seed: f", seed {seed}" * (len(self.asked.seeds) > 1) for seed in self.asked.seeds}
        return {
            label + told: self.own("curve", seed, changes)
            for label, changes in ways.items()
            for seed, told in many.items()
        }

    def curves(self) -> list[Curve]:
        """Train every side for its quality."""
        cells = self.ours()
        more = {"epochs": self.asked.epochs or SETS[self.name]["epochs"], "patience": self.asked.patience}
        if self.asked.until and self.name in TARGETS:
            more["until"] = TARGETS[self.name]
        for name in self.asked.sides:
            if way := self.fastest(name, "curve"):
                cells[name] = self.peer("curve", name, way, **self.shape("curve"), **more)
        return [Curve(label, found, cell.result) for label, cell in cells.items() if (found := self.found(cell))]

    def rates(self) -> list[dict[str, Found]]:
        """Time every side at equal architecture, one after the other, in rounds; only whole rounds are returned.

        The cells of a round are of one time: where one is missing, all are run.
        """
        ways = {name: way for name in self.asked.rate_sides if (way := self.fastest(name, "rate"))}
        shape = self.shape("rate")
        sizes = [f"train.epochs={self.asked.rate_epochs}", f"train.batch_tokens={self.asked.batch_tokens}"]
        sizes += [f"model.{OF_OURS.get(name, name)}={value}" for name, value in shape.items()]
        steps = {"speed": self.asked.steps, "warm-up": self.asked.warm_up}
        rounds = []
        for turn in range(self.asked.rounds):
            cells = {OURS: self.own("rate", 1, equal_settings(sizes), turn)}
            for name, way in ways.items():
                cells[name] = self.peer("rate", name, way, turn, **shape, **steps)
            if not all(cell.kept() for cell in cells.values()):
                for cell in cells.values():
                    cell.forget()
            found = {name: one for name, cell in cells.items() if (one := self.found(cell))}
            rounds += [found] if len(found) == len(cells) else []
        return rounds

    def chapter(self) -> Chapter:
        """Walk all cells of this log and sort what was found."""
        curves = self.curves() if self.name in self.asked.sets else []
        rounds = self.rates() if self.name in self.asked.rates else []
        return Chapter(self.name, self.protocol, curves, rounds)


def shown(words: Sequence[str]) -> str:
    """Return the command as anybody may give it: where things lie on this machine is nobody's business."""
    told, places = (
        ["python", "benchmarks/train.py"],
        {"--peers": ["--peers", "PEERS/bin/python"], "--work": [], "--out": []},
    )
    rest = iter([part for word in words for part in (word.split("=", 1) if word.startswith(tuple(places)) else [word])])
    for word in rest:
        told += places.get(word, [word])
        if word in places:
            next(rest)
    return shlex.join(told)


def publish(chapters: Sequence[Chapter], cells: Sequence[Cell], asked: argparse.Namespace) -> None:
    """Write page, raw numbers and pictures."""
    raw = [{"cell": cell.folder.name, **found} for cell in cells if (found := cell.kept())]
    if not raw:
        return
    machine = raw[-1]["machine"]
    command = shown(sys.argv[1:])
    out = write_results("train", machine, "", raw, asked.out)
    pictures = {}
    for chapter in chapters:
        if chapter.curves:
            pictures[chapter.name] = out.with_name(f"{out.stem}_{chapter.name}.png").name
            draw(chapter, out.with_name(pictures[chapter.name]))
    write_results("train", machine, page(chapters, raw, command, pictures), raw, out)
    print(f"written to {out}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    numbers = lambda text: [int(one) for one in text.split(",")]  # noqa: E731
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--peers", type=Path, help="python of the peers' environment; without it ours run alone")
    parser.add_argument("--sets", type=names, default=["ml-1m"], help="logs of the curves; '' = none")
    parser.add_argument("--rates", type=names, default=["ml-1m"], help="logs of targets per second; '' = none")
    parser.add_argument("--sides", type=names, default=["rectools", "replay"], help="peers of the curves")
    parser.add_argument(
        "--rate-sides", type=names, default=["rectools", "replay", "recbole"], help="peers of the rates"
    )
    parser.add_argument("--seeds", type=numbers, default=[1], help="of ours; peers have one")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of ours, not default")
    parser.add_argument("--peer-set", action="append", default=[], metavar="OPTION=VALUE", help="of the peers' curves")
    shape = ", ".join(f"{name} {value}" for name, value in RATE_SHAPE.items())
    parser.add_argument(
        "--rate-set", action="append", default=[], metavar="OPTION=VALUE", help=f"of all sides in rates; as is: {shape}"
    )
    parser.add_argument("--epochs", type=int, default=0, help="of peers, at most; 0 = as the log says")
    parser.add_argument("--patience", type=int, default=10, help="of peers: epochs without a better validation NDCG@10")
    parser.add_argument("--until", action="store_true", help="peers stop at the quality that is timed: no test")
    parser.add_argument("--precisions", type=names, default=["float32", "bfloat16"], help="of peers, tried")
    parser.add_argument("--threads", type=numbers, default=sorted({1, cores}), help="of peers, tried; ours: the most")
    parser.add_argument("--trial-steps", type=int, default=12)
    parser.add_argument("--trial-warm-up", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="of peers, timed in a round")
    parser.add_argument("--warm-up", type=int, default=20, help="of peers, before them; of ours: the first epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate-epochs", type=int, default=4, help="of ours in a round; the first is its warm-up")
    parser.add_argument("--batch-tokens", type=int, default=13_000, help="of ours in a round: targets of a peer's step")
    parser.add_argument("--smoke", action="store_true", help="ml-100k, two epochs, a few steps: is everything there?")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "train")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/train_HARDWARE_DATE.md")
    return checked(parser, parser.parse_args())


def checked(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> argparse.Namespace:
    """Refuse what does not exist before hours of work."""
    asked.work = asked.work.absolute()
    asked.peers = asked.peers and asked.peers.absolute()  # not resolved: it may be a link of an environment
    if asked.smoke:
        asked.sets, asked.rates, asked.rounds, asked.seeds = ["ml-100k"], ["ml-100k"], 1, asked.seeds[:1]
        asked.threads = asked.threads[-1:]
        asked.epochs, asked.steps, asked.warm_up, asked.trial_steps, asked.trial_warm_up = 2, 3, 2, 2, 1
        asked.rate_epochs, asked.set = 2, [*asked.set, "train.epochs=3"]
        asked.rate_set = ["length=50", "width=16", *asked.rate_set]
        asked.peer_set = ["length=50", "width=16", *asked.peer_set]
        asked.out = asked.out or asked.work / "smoke.md"  # no result
    if not asked.peers:
        asked.sides = asked.rate_sides = []
    for kind, known in (("sets", SETS), ("rates", SETS), ("sides", PEERS), ("rate_sides", PEERS)):
        if unknown := set(getattr(asked, kind)) - set(known):
            parser.error(f"--{kind.replace('_', '-')} {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    if min(asked.warm_up, asked.trial_warm_up) < 1:
        parser.error("--warm-up, --trial-warm-up: expected at least 1, as the clock starts at the end of a step")
    settings_for(SPLIT, "self-attention", 1, asked.set)
    for kind in ("peer_set", "rate_set"):
        flag = f"--{kind.replace('_', '-')}"
        if wrong := [text for text in getattr(asked, kind) if "=" not in text]:
            parser.error(f"{flag}: expected OPTION=VALUE, for example width=64; got {wrong[0]}")
        setattr(asked, kind, dict(text.split("=", 1) for text in getattr(asked, kind)))
    if unknown := set(asked.rate_set) - set(RATE_SHAPE):
        parser.error(f"--rate-set {', '.join(sorted(unknown))}: known are {', '.join(RATE_SHAPE)}")
    return asked


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    chapters: list[Chapter] = []
    cells: list[Cell] = []
    broke = 0
    with locked(asked.work):
        for name in dict.fromkeys([*asked.sets, *asked.rates]):
            comparison = Comparison(name, asked)
            chapters.append(comparison.chapter())
            cells += comparison.cells.values()
            broke += comparison.broke
            publish(chapters, cells, asked)
    sys.exit(1 if broke else 0)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"train: {error}")
