"""What the ranking benchmarks share: cells that are kept, figures over seeds, differences paired by user, the page.

A cell is a way to rank and a seed. It is kept in the work folder under a key of the data and of the settings, so a walk
that was killed goes on where it was. Test predictions are kept too: AUC is no mean over users, so its difference is
paired by what both sides say of the same candidates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regard.config import Settings
from regard.data.store import Dataset
from regard.evaluate.figures import BINS, Figure, Labelled, equal_mass, figures_of, numbers
from regard.evaluate.labelled import collected
from regard.evaluate.result import Number
from regard.manifest import new_file
from regard.model.factorization import Factorization
from regard.model.ranker import Ranker
from regard.recommend.run import Run
from regard.train.loop import choose_device
from regard.training.learning import ranker_scorer
from regard.training.protocol import Protocol
from road import Cell, run, write_results

RESAMPLES, SEED = 1000, 0
KEPT = "predictions-test.npz"
DIGITS = {"auc": 4, "gauc": 4, "log_loss": 4, "calibration_error": 4}


@dataclass(frozen=True)
class Way:
    """A way to rank: what its cells found, and what they predicted on test, one for each seed.

    `timed`: what cells found that were trained for their seconds only.
    """

    name: str
    found: list[dict[str, Any]]
    predicted: list[Labelled]
    timed: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def of_seeds(self) -> list[dict[str, Figure]]:
        """Figures of each seed, under any weights of users."""
        return [figures_of(one, True, equal_mass(one.predictions, BINS))[0] for one in self.predicted]

    def values(self, name: str) -> list[float]:
        """Return a figure of each seed."""
        once = np.ones((len(self.predicted[0].users), 1))
        return [float(figures[name](once)[0]) for figures in self.of_seeds]

    def mean(self, name: str) -> Figure:
        """Return the mean over seeds of a figure, under any weights of users."""
        return lambda weights: np.mean([figures[name](weights) for figures in self.of_seeds], axis=0)

    def numbers(self, names: Iterable[str]) -> dict[str, Number]:
        """Return the means over seeds, with the intervals of a bootstrap over users."""
        return numbers({name: self.mean(name) for name in names}, self.predicted[0], RESAMPLES, SEED)

    def beside(self, base: Way, names: Iterable[str]) -> dict[str, Number]:
        """Return this - base in the means over seeds; both see the same resamples of users."""
        mine, other = self.predicted[0], base.predicted[0]
        same = all(np.array_equal(getattr(mine, part), getattr(other, part)) for part in ("labels", "user", "users"))
        assert same, f"{self.name} and {base.name} must have been asked the same"

        def difference(name: str) -> Figure:
            mean, beside = self.mean(name), base.mean(name)
            return lambda weights: mean(weights) - beside(weights)

        return numbers({name: difference(name) for name in names}, mine, RESAMPLES, SEED)


def key_of(*depends: Any) -> str:
    """Return a short name for everything that a measurement depends on; all of it JSON-able."""
    return hashlib.blake2b(json.dumps(depends, sort_keys=True).encode(), digest_size=6).hexdigest()


def cell_of(work: Path, name: str, fingerprint: str, settings: Settings) -> Cell:
    """Name the cell of these settings on the data of this fingerprint."""
    told = settings.model_dump(mode="json")
    seed, model = settings.train.seed, settings.model.name
    label = re.sub(r"[^\w.]+", "-", f"{name}-seed-{seed}-{key_of(fingerprint, told)}")
    task = {"way": name, "model": model, "seed": seed, "split": settings.data.split, "fingerprint": fingerprint}
    return Cell({"do": "measure", **task, "settings": told}, work / f"{label}.json")


def walk(work: Path, dataset: Path, ways: Mapping[str, Settings], seeds: Sequence[int]) -> list[Way]:
    """Train and measure every way with every seed, as far as that is not kept; one that broke is left out."""
    fingerprint = Dataset.open(dataset).fingerprint
    done = []
    for name, settings in ways.items():
        cells = [cell_of(work, name, fingerprint, settings.changed([f"train.seed={seed}"])) for seed in seeds]
        found = []
        for cell in cells:
            kept = cell.kept()
            if kept is None:
                (cell.folder / KEPT).unlink(missing_ok=True)
            one = kept or run({**cell.task, "dataset": str(dataset), "run": str(cell.folder)}, cell.file)
            print(f"{name:36} seed {cell.task['seed']}  {front(one)}{' (kept)' * bool(kept)}", flush=True)
            found.append(one)
        whole = [one for one in found if one and "refused" not in one]
        if len(whole) == len(cells):
            done.append(Way(name, whole, [predicted(cell.folder, dataset) for cell in cells]))
    return done


def front(found: Mapping[str, Any] | None) -> str:
    """Say in a few words what came of a cell."""
    if found is None:
        return "broke: see above; the next walk tries it again"
    if "refused" in found:
        return f"refused: {found['refused']}"
    told = found["training"]["validation"]
    validation = ", ".join(f"{name} {told[name]:.4f}" for name in ("auc", "gauc", "log_loss") if name in told)
    return f"{found['training']['seconds']:.0f} s; validation {validation}"


def predicted(folder: Path, dataset: Path) -> Labelled:
    """Return what the run in `folder` says of the candidates of test; asked once."""
    file = folder / KEPT
    if not file.exists():
        trained = Run.open(folder)
        protocol = Protocol.of(trained.dataset(dataset), trained.settings)
        model = trained.stage(choose_device(trained.settings.train.device))
        assert isinstance(model, Ranker | Factorization), f"{folder} does not hold a ranker"
        found = collected(ranker_scorer(protocol, model), protocol.requests("test"))
        with new_file(file) as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, **vars(found))
    with np.load(file) as kept:
        arrays = {name: kept[name] for name in kept.files}
    parts: dict[str, Any] = {name: array if array.ndim else int(array) for name, array in arrays.items()}
    return Labelled(**parts)


def table(ways: Sequence[Way], names: Sequence[str], extra: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a table: means over seeds with the interval over users and the range of seeds; `extra` columns behind."""
    extra = extra or {}
    lines = [["", *(name.replace("_", " ") for name in names), *extra]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for at, way in enumerate(ways):
        found = way.numbers(names)
        cells = [shown(name, found[name], way.values(name)) for name in names]
        lines.append([way.name, *cells, *(column[at] for column in extra.values())])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def shown(name: str, number: Number, values: Sequence[float]) -> str:
    digits = DIGITS.get(name, 4)
    text = f"{number['value']:.{digits}f}" + _ends(number, digits, "-", "")
    return text if len(values) < 2 else f"{text}, {min(values):.{digits}f}-{max(values):.{digits}f}"


def difference(way: Way, base: Way, names: Sequence[str]) -> str:
    """Return a line: by how much a way differs from another, with paired intervals, and whether that is clear."""
    told = []
    for name, number in way.beside(base, names).items():
        low, high = number["low"], number["high"]
        clear = low is not None and high is not None and (low > 0 or high < 0)
        verdict = "clear" if clear else "not clear"
        told.append(f"{name.replace('_', ' ')} {number['value']:+.4f}{_ends(number, 4, ' to ', '+')}, {verdict}")
    return f"- {way.name}, beside {base.name}: {'; '.join(told)}."


def _ends(number: Number, digits: int, between: str, sign: str) -> str:
    low, high = number["low"], number["high"]
    return "" if low is None or high is None else f" ({low:{sign}.{digits}f}{between}{high:{sign}.{digits}f})"


def measured_by(found: Sequence[Mapping[str, Any]]) -> str:
    """Name machine, versions and code of cells, whatever there is of each."""

    def all_of(kind: str, name: str) -> str:
        return " and ".join(dict.fromkeys(str(one[kind][name]) for one in found if name in one.get(kind, {})))

    load = max(one["load"] if "load" in one else one["machine"]["load"] for one in found)
    return (
        f"{all_of('machine', 'processor')}, {all_of('machine', 'cores')} cores, {all_of('machine', 'device')}, threads "
        f"{all_of('machine', 'threads')}, products in {all_of('machine', 'precision')}, torch "
        f"{all_of('machine', 'torch')}; regard at commit {all_of('code', 'commit')}. Load up to {load:.1f} before a "
        "cell began: seconds suffer from it."
    )


def tell(theme: str, text: str, found: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Write the page, and what every cell found beside it; show it, and say where it is."""
    raw = [{name: value for name, value in one.items() if name != "strata"} for one in found]
    print(f"\n{text}\nwritten to {write_results(theme, found[-1]['machine'], text, raw, out)}", flush=True)
