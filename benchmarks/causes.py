"""Do attention weights find causes? Planted ones, on the embedded sample, for people that no model has seen.

Whoever buys one of certain items comes back days later for one of its accessories; the generator keeps which purchase
caused which event, models see only what was chosen. For every caused event of held-out people (split `users:0.1`): does
the true cause have the largest weight when the ranker reads the history for the item that was chosen? Of several heads,
validation chooses which one is read, or their mean; raw weights are read by their size.

Every form gets its declared trials; validation people choose the trial, the test people are read once. The oracle knows
the generator's rules and the person's hidden taste, and names the event of the largest probability. A finished training
is kept in the work folder.

    python benchmarks/causes.py [--forms 'target;multi-head'] [--seeds 1,2,3] [--work FOLDER] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causes_sample import SPLIT, Sample, beside, interval, named
from ranking_cells import key_of, measured_by, tell
from regard import pipeline
from regard.config import Settings
from regard.data.cases import Bool
from regard.errors import RegardError
from regard.manifest import NAME, locked, read_json, write_json
from regard.model.ranker import Ranker
from regard.recommend.run import PROGRESS, Run
from regard.train.loop import choose_device
from road import code
from road_cell import machine

BAR = 0.8
SETTINGS = {
    "data.split": SPLIT,
    "data.negatives": 8,
    "data.sampling": "popularity",
    "model.name": "ranker",
    "model.width": 64,
    "model.window": 100,
    "model.heads": 2,
    "model.positions": "none",
    "model.request_time": True,
    "model.attributes": ["category"],
    "model.context": ["hour", "device"],
    "model.dropout": 0.1,
    "model.vector_scale": 1.0,
    "train.epochs": 6,
    "train.batch_tokens": 512,
    "train.learning_rate": 5e-3,
    "train.weight_decay": 0.05,
    "train.validations": 2,
    "train.precision": "float32",
    "train.threads": 1,
    "evaluate.validation_cases": 500,
}
ONE = {"model.heads": 1}
LONGER = {"train.epochs": 12, "train.learning_rate": 1e-2}
WHOLE = {"model.dropout": 0.0}
FORMS: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "target": ({"model.interest": "target"}, ({}, WHOLE, LONGER)),
    "activation unit, softmax": ({"model.interest": "activation-unit"}, ({}, WHOLE)),
    "activation unit, raw": ({"model.interest": "activation-unit", "model.normalize": "none"}, ({},)),
    "additive pooling": ({"model.interest": "additive", "model.score_hidden": 32}, ({}, ONE)),
    "additive pooling, conditioned": (
        {"model.interest": "additive", "model.score_hidden": 32, "model.conditioned": True},
        ({}, ONE),
    ),
    "multi-head": ({"model.interest": "multi-head"}, ({}, {"model.heads": 4, **WHOLE})),
    "dual, self-attention in the history": ({"model.interest": "dual"}, ({}, ONE)),
    "dual, among candidates": ({"model.interest": "dual", "model.dual_self": "target"}, ({}, ONE)),
    "transformer": (  # a row for every candidate: a small run
        {"model.interest": "transformer", "model.blocks": 1, "data.negatives": 2, "train.epochs": 2},
        ({},),
    ),
}


@dataclass(frozen=True)
class Trial:
    """A training: what it found on validation people, and where the run is."""

    form: str
    number: int
    settings: Settings
    run: Run
    found: dict[str, Any]

    @property
    def head(self) -> int:
        """The column that validation likes best: 0 = the mean of all heads."""
        return int(np.argmax(self.found["validation"]))

    @property
    def value(self) -> float:
        return float(max(self.found["validation"]))

    def model(self) -> Ranker:
        model = self.run.stage(choose_device(self.settings.train.device))
        assert isinstance(model, Ranker)
        return model


def settings_of(form: str, number: int, seed: int) -> Settings:
    own, trials = FORMS[form]
    told = {**SETTINGS, **own, **trials[number], "train.seed": seed}
    return Settings().changed([f"{name}={json.dumps(value)}" for name, value in told.items()])


def trained(work: Path, sample: Sample, settings: Settings) -> Run:
    """Train, go on with what was killed, or take what is kept."""
    model = settings.model
    label = model.interest if model.name == "ranker" else model.name
    folder = work / f"{label}-seed-{settings.train.seed}-{key_of(settings.model_dump(mode='json'))}"
    if (folder / NAME).exists():
        return Run.open(folder)
    return pipeline.train(sample.dataset, settings, folder, resume=(folder / PROGRESS).is_dir())


def tried(work: Path, sample: Sample, form: str, number: int, seed: int) -> Trial:
    """Train, or take what is kept, and read validation people."""
    settings, load = settings_of(form, number, seed), round(os.getloadavg()[0], 2)
    run = trained(work, sample, settings)
    trial = Trial(form, number, settings, run, {"form": form, "trial": FORMS[form][1][number], "seed": seed})
    kept = run.path / "evaluation-causes.json"
    if kept.exists():
        trial.found.update(read_json(kept))
        return trial
    rows, _ = sample.caused("validation")
    hits = named(trial.model(), sample, settings, "validation") == sample.cause[rows][:, None]
    found = {
        "validation": hits.mean(0).tolist(),
        "figures": run.manifest["validation"],
        "seconds": round(sum(epoch["seconds"] for epoch in run.manifest["epochs"]), 1),
        "machine": {**machine(settings), "load": load},
        "code": code(),
    }
    write_json(kept, found)
    trial.found.update(found)
    return trial


@dataclass(frozen=True)
class Way:
    """A form with the trial that validation chose, and what it does on test people with every seed."""

    form: str
    trials: list[Trial]  # of the first seed
    chosen: list[Trial]  # one for each seed
    hits: list[Bool]  # of each, (n,)

    @property
    def rates(self) -> list[float]:
        return [float(hits.mean()) for hits in self.hits]

    @property
    def validation(self) -> float:
        """What the forms are compared by."""
        return float(np.mean([trial.value for trial in self.chosen]))


def way(work: Path, sample: Sample, form: str, seeds: Sequence[int]) -> Way:
    """Try a form, and read the test people by the trial that validation likes best."""
    trials = []
    for number in range(len(FORMS[form][1])):
        trials.append(tried(work, sample, form, number, seeds[0]))
        print(f"{form:36} trial {number + 1}  {line(trials[-1])}", flush=True)
    best = max(trials, key=lambda trial: trial.value)
    chosen, hits = [best], []
    for seed in seeds[1:]:
        chosen.append(tried(work, sample, form, best.number, seed))
        print(f"{form:36} seed {seed}   {line(chosen[-1])}", flush=True)
    rows, _ = sample.caused("test")
    for trial in chosen:
        pointed = named(trial.model(), sample, trial.settings, "test")[:, trial.head]
        hits.append(pointed == sample.cause[rows])
    return Way(form, trials, chosen, hits)


def line(trial: Trial) -> str:
    heads = ", ".join(f"{value:.3f}" for value in trial.found["validation"])
    return f"{trial.found['seconds']:.0f} s; true cause first on validation: {heads}"


def table(sample: Sample, ways: Sequence[Way]) -> list[str]:
    """Return a row for each form, in the order of validation, and the floors and the ceiling beneath."""
    _, people = sample.caused("test")
    floors, before = beside(sample, "test"), beside(sample, "validation")
    ceiling = float(floors["oracle"].mean())
    lines = [["", "validation", "test", "of the oracle", "heads", "validation AUC", "training", "trial"]]
    lines.append(["---", *["---:"] * 3, "---", "---:", "---:", "---"])
    for one in ways:
        low, high = interval(np.mean(one.hits, axis=0), people)
        auc = np.mean([trial.found["figures"]["auc|50-sampled"] for trial in one.chosen])
        lines.append(
            [
                one.form,
                f"{one.validation:.3f}",
                f"{np.mean(one.rates):.3f} ({low:.3f}-{high:.3f}){spread(one.rates)}",
                f"{np.mean(one.rates) / ceiling:.1%}",
                heads(one.chosen),
                f"{auc:.4f}",
                f"{np.mean([trial.found['seconds'] for trial in one.chosen]):.0f} s",
                shown(one.chosen[0].found["trial"]),
            ]
        )
    for name, right in floors.items():
        low, high = interval(right, people)
        numbers = [f"{before[name].mean():.3f}", f"{right.mean():.3f} ({low:.3f}-{high:.3f})"]
        lines.append([name, *numbers, f"{right.mean() / ceiling:.1%}", "", "", "", ""])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def spread(rates: Sequence[float]) -> str:
    return f", {min(rates):.3f}-{max(rates):.3f}" if len(rates) > 1 else ""


def heads(trials: Iterable[Trial]) -> str:
    """Say by which column the weights were read."""
    many = [len(trial.found["validation"]) - 1 for trial in trials]
    told = [f"head {trial.head}" if trial.head else "mean" for trial in trials]
    return "one" if max(many) == 1 else " / ".join(told)


def shown(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "as all"


def page(sample: Sample, ways: Sequence[Way], asked: argparse.Namespace) -> str:
    """Return the whole page."""
    rows, people = sample.caused("test")
    best = ways[0]
    share = float(np.mean(best.rates) / beside(sample, "test")["oracle"].mean())
    tries = [
        f"- {one.form} ({shown(FORMS[one.form][0])}): "
        + "; ".join(f"{shown(trial.found['trial'])}: {trial.value:.3f}" for trial in one.trials)
        for one in ways
    ]
    found = [trial.found for one in ways for trial in one.chosen]
    return f"""\
# Planted causes: does the true cause have the largest weight?

{(__doc__ or "").split(chr(10) * 2, 1)[1].rsplit(chr(10) * 2, 1)[0]}

```sh
{shlex.join(["python", "benchmarks/causes.py", *asked.shown])}
```

{len(rows):,} caused events of {len(np.unique(people))} test people. In brackets the 95 % interval when people are drawn
anew; then, with several seeds, the range of their values. The order is that of validation.

{chr(10).join(table(sample, ways))}

**{best.form}**, the best form by validation, reaches {share:.1%} of the oracle; the bar is {BAR:.0%}:
{"reached" if share >= BAR else "**missed**"}.

Shared by all: {shown(SETTINGS)}.

Trials of the first seed, share of validation events whose true cause has the largest weight:
{chr(10).join(tries)}

{measured_by(found)}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", type=lambda text: text.split(";"), default=list(FORMS), help="with ; between")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "causes")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/causes_HARDWARE_DATE.md")
    asked = parser.parse_args()
    if unknown := set(asked.forms) - set(FORMS):
        parser.error(f"there is no form {', '.join(sorted(unknown))}; known: {'; '.join(FORMS)}")
    asked.shown = [] if asked.forms == list(FORMS) else ["--forms", ";".join(asked.forms)]
    asked.shown += ["--seeds", ",".join(map(str, asked.seeds))]
    return asked


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    with locked(asked.work):
        sample = Sample.draw(asked.work / "dataset")
        ways = [way(asked.work, sample, form, asked.seeds) for form in asked.forms]
        ways.sort(key=lambda one: one.validation, reverse=True)
        found = [trial.found for one in ways for trial in {id(each): each for each in one.trials + one.chosen}.values()]
        tell("causes", page(sample, ways, asked), found, asked.out)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"causes: {error}")
