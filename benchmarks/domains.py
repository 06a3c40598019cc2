"""What is learned in one shop worth in another? amazon-beauty <-> amazon-sports, by the words of their items alone.

Both sides have the column `keywords` as the text of an item, the same source of vectors, and self-attention with
`model.transfer=frozen`, which has no ids. The run of the first shop is measured in the second one without any training
(zero-shot), and trained on with the events of 1, 5, 20 and 100 % of the users; beside it the same from chance, a model
of ids only, popularity and raw cosine. Everybody is measured, with their whole histories, on test, once. A finished
cell is kept in the work folder, and one that was killed goes on from its checkpoint.

    python benchmarks/domains.py [--vectors SOURCE] [--shares 0.01,0.05,0.2,1] [--seeds 1] [--change SECTION.KEY=VALUE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from regard.config import Settings
from regard.data.knowledge import Knowledge
from regard.data.store import Dataset
from regard.errors import RegardError
from regard.evaluate.compare import compare
from regard.evaluate.report import protocol_lines
from regard.evaluate.result import Result
from regard.manifest import locked
from regard.model.zeroshot import RawCosine
from regard.recommend.run import WEIGHTS, Run
from regard.training.protocol import Protocol
from road import DATA, Cell, prepared, read_by, run, settings_for, told_of, write_results
from road_sets import SETS, RealSet
from road_tables import averaged, front

PAIR = ("amazon-beauty", "amazon-sports")
SPLIT = "leave-one-out"
KEY = "ndcg@10"
FROZEN = "model.transfer=frozen"
GLOVE = DATA / "word-vectors" / "glove.6B.50d.merged7849.txt"
ITEMS = '\n[items]\npath = "DATA/{name}/items.csv"\nid = "item_id"\ntext = "keywords"\n'
HEADS = ("users that train", "from the other shop", "from chance", "difference", "relative", "ids only")


@dataclass(frozen=True)
class Shop:
    """A prepared log: where it is, and what is told of it."""

    name: str
    log: dict[str, Any]
    folder: Path

    @property
    def dataset(self) -> str:
        return str(self.folder / "dataset")


@dataclass
class Walk:
    """Cells, measured where they are not kept; `broken` counts those that gave nothing."""

    asked: argparse.Namespace
    broken: int = 0
    load: list[float] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    def shop(self, name: str) -> Shop:
        """Read a log with the keywords of its items."""
        chosen: RealSet = replace(SETS[name], recipe=SETS[name].recipe + ITEMS.format(name=name))
        log = prepared(self.asked.work, name, chosen)
        if log is None:
            raise RegardError(f"{name} could not be prepared; see above")
        return Shop(name, log, self.asked.work / name)

    def settings(self, seed: int, *more: str) -> Settings:
        return settings_for(SPLIT, "self-attention", seed, [*changed(self.asked), *more])

    def measured(self, shop: Shop, label: str, settings: Settings, start: Path | None, vectors: bool) -> Path | None:
        """The folder of a run that is measured on test; None where it broke."""
        cell = self.cell(shop, label, settings, start, str(self.asked.vectors) if vectors else None)
        kept = cell.kept()
        where = {"dataset": shop.dataset, "run": str(cell.folder), "start": None if start is None else str(start)}
        found = kept or run({**cell.task, **where}, cell.file)
        print(f"{shop.name:14} {label:14} {front(found)}{' (kept)' * bool(kept)}", flush=True)
        if not found or "refused" in found:
            self.broken += 1
            return None
        self.load.append(found["load"])
        self.told = found
        return cell.folder

    def cell(self, shop: Shop, label: str, settings: Settings, start: Path | None, vectors: str | None) -> Cell:
        """Where a measurement is kept, by all that it depends on: the weights it starts from, too."""
        begun = None if start is None else Run.open(start).manifest["files"][WEIGHTS]["sha256"]
        depends = json.dumps([shop.log["fingerprint"], read_by(settings), begun, vectors], sort_keys=True)
        key = hashlib.blake2b(depends.encode(), digest_size=6).hexdigest()
        task = {"model": settings.model.name, "split": SPLIT, "seed": settings.train.seed, "vectors": vectors}
        task |= {"fingerprint": shop.log["fingerprint"], "from": begun}
        file = shop.folder / f"{label.replace(' ', '-')}-seed-{settings.train.seed}-{key}.json"
        return Cell({"do": "measure", **task, "settings": told_of(settings)}, file)

    def first(self, shop: Shop) -> dict[int, Path]:
        """The runs of a shop that others start from, by seed."""
        found = {
            seed: self.measured(shop, "chance 1", self.settings(seed, FROZEN), None, True) for seed in self.asked.seeds
        }
        return {seed: folder for seed, folder in found.items() if folder is not None}

    def ways(self, share: float) -> Iterator[tuple[str, list[str], bool, bool]]:
        """Yield label, settings, whether it starts from the other shop, and whether it has vectors."""
        keep = f"data.keep={share}"
        yield "from", [FROZEN, *self.asked.further, keep], True, True
        yield "chance", [FROZEN, keep] if share < 1 else [FROZEN], False, True
        if self.asked.ids:
            yield "ids", [keep] if share < 1 else [], False, False

    def curve(self, shop: Shop, begun: dict[int, Path]) -> dict[str, Result]:
        """All results in a shop, means over seeds, by label: `zero`, and `WAY SHARE`."""
        found: dict[str, list[Path | None]] = {"zero": []}
        for seed, start in begun.items():
            zero = self.settings(seed, FROZEN, "train.zero_shot=true")
            found["zero"].append(self.measured(shop, "zero", zero, start, True))
            for share in self.asked.shares:
                for way, own, starts, vectors in self.ways(share):
                    label, place = f"{way} {share:g}", start if starts else None
                    one = self.measured(shop, label, self.settings(seed, *own), place, vectors)
                    found.setdefault(label, []).append(one)
        whole = {label: [one for one in each if one] for label, each in found.items() if each and all(each)}
        return {label: averaged([Result.load(one, "evaluation-test") for one in each]) for label, each in whole.items()}

    def cosine(self, shop: Shop) -> Result:
        """Raw cosine of the vectors as they were read: what needs no shop at all."""
        dataset = Dataset.open(shop.dataset)
        protocol = Protocol.of(dataset, self.settings(1))
        known = Knowledge.read(dataset, str(self.asked.vectors))
        print("\n".join(f"{shop.name:14} {line}" for line in known.lines()), flush=True)
        model: Any = RawCosine(torch.from_numpy(known.rows), torch.from_numpy(known.known))
        return protocol.measured(protocol.scorer(model), "test")

    def popular(self, shop: Shop) -> Result | None:
        """Popularity among all users: a floor that knows the second shop."""
        settings = settings_for(SPLIT, "popular", 1, [])
        folder = self.measured(shop, "popular", settings, None, False)
        return Result.load(folder, "evaluation-test") if folder else None


def changed(asked: argparse.Namespace) -> list[str]:
    """Settings that are not the defaults."""
    return [*[f"train.epochs={asked.epochs}"] * (asked.epochs > 0), *asked.change]


def said(result: Result | None) -> str:
    """A figure with its interval."""
    if result is None:
        return "-"
    number = result.metrics[KEY]
    return f"{number['value']:.4f} ({number['low']:.4f}-{number['high']:.4f})"


def rows(found: dict[str, Result], shares: list[float]) -> list[list[str]]:
    """A line for each share, that without training first."""
    lines = [["none (zero-shot)", said(found.get("zero")), "", "", "", ""]]
    for share in shares:
        start, chance = found.get(f"from {share:g}"), found.get(f"chance {share:g}")
        cells = [f"{share:.0%}", said(start), said(chance)]
        if start is None or chance is None:
            cells += ["-", "-"]
        else:
            beside = compare({"chance": chance, "from": start})["against"]["from"][KEY]
            relative = beside["relative"]
            cells.append(f"{beside['difference']:+.4f} ({beside['low']:+.4f} to {beside['high']:+.4f})")
            cells.append("-" if relative is None else f"{relative:+.1%}")
        lines.append([*cells, said(found.get(f"ids {share:g}"))])
    return lines


def chapter(walk: Walk, before: Shop, shop: Shop, found: dict[str, Result]) -> str:
    """The curve of one direction."""
    counts = shop.log["found"]["counts"]
    lines = [list(HEADS), ["---", *["---:"] * (len(HEADS) - 1)], *rows(found, walk.asked.shares)]
    about = (
        f"{counts['events']:,} events of {counts['users']:,} users on {counts['items']:,} items. Without any training "
        f"here, popularity aside: raw cosine {said(walk.cosine(shop))}; popularity {said(walk.popular(shop))}."
    )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    stated = " ".join(protocol_lines(next(iter(found.values())))[:-1]) if found else ""  # the last is about seconds
    return f"## {before.name} -> {shop.name}\n\n{about}\n\n{table}\n\n{stated}"


def page(walk: Walk, chapters: list[str]) -> str:
    asked, machine, code = walk.asked, walk.told["machine"], walk.told["code"]
    seeds = f"mean of seeds {', '.join(map(str, asked.seeds))}" if len(asked.seeds) > 1 else f"seed {asked.seeds[0]}"
    source = Path(asked.vectors).name if Path(asked.vectors).exists() else asked.vectors
    about = (
        f"Vectors from `{source}`, by the keywords "
        f"of items; self-attention, {', '.join(changed(asked)) or 'default settings'}, {seeds}; trained on with "
        f"{', '.join(asked.further) or 'the same settings'}. {KEY} on test; intervals are those of users, differences "
        "are paired by user."
    )
    by = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['device']}, threads {machine['threads']}, "
        f"{machine['precision']}; torch {machine['torch']}; regard {code['regard']} at commit {code['commit']}; load "
        f"up to {max(walk.load):.1f} before a cell began."
    )
    command = shlex.join(["python", "benchmarks/domains.py", *sys.argv[1:]])
    return "\n\n".join(["# From one shop to another", f"```sh\n{command}\n```", about, *chapters, by]) + "\n"


def publish(walk: Walk, chapters: list[str]) -> None:
    text = page(walk, chapters)
    out = write_results("domains", walk.told["machine"], text, "", walk.asked.out)
    print(f"\n{text}\nwritten to {out}")


def arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[float]:
        return [float(one) for one in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vectors", default=str(GLOVE), help="words, or text:MODEL; default: the GloVe words in the data"
    )
    parser.add_argument("--shares", type=numbers, default=[0.01, 0.05, 0.2, 1.0], help="of users whose events train")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[1])
    parser.add_argument("--epochs", type=int, default=0, help="0 = as the settings say")
    parser.add_argument("--change", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default")
    parser.add_argument(
        "--further", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting of what is trained on"
    )
    parser.add_argument("--no-ids", dest="ids", action="store_false", help="leave out the model of ids only")
    parser.add_argument("--one-way", action="store_true", help=f"only {PAIR[0]} -> {PAIR[1]}")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "domains")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/domains_HARDWARE_DATE.md")
    asked = parser.parse_args()
    for name in PAIR:
        if not (DATA / name).is_dir():
            parser.error(f"{name} is not in {DATA}; REGARD_DATA says where real data is")
    Settings().changed([*changed(asked), *asked.further])  # a wrong --change is told before any work
    return asked


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    with locked(asked.work):
        walk = Walk(asked)
        shops = [walk.shop(name) for name in PAIR]
        chapters = []
        for before, shop in [shops] if asked.one_way else [shops, shops[::-1]]:
            found = walk.curve(shop, walk.first(before))
            chapters.append(chapter(walk, before, shop, found))
        if not walk.told:
            sys.exit("domains: nothing could be measured; see above")
        publish(walk, chapters)
    sys.exit(1 if walk.broken else 0)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"domains: {error}")
