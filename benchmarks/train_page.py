"""What the comparison of training found, as Markdown: a chapter for each log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.evaluate.compare import compare
from regard.evaluate.report import protocol_lines
from regard.evaluate.result import Number, Result
from regard.training.protocol import Protocol
from train_log import KEY
from train_sides import FREE, OURS, TARGETS

HIT = KEY.replace("ndcg", "hit_rate")
WALL, CORE = "targets_per_second", "targets_per_core_second"
BAR_SECONDS, BAR_RATE = 1 / 20, 6.0
BARS = {"ml-1m": 0.178, "amazon-beauty": 0.0600, "amazon-sports": 0.0340}
HEADS = ("side", "epochs", f"validation {KEY}", f"test {KEY}", f"test {HIT}", "seconds to it", "targets/s")
OF_MODEL = ("width", "blocks", "heads", "dropout", "window", "covisit_weight")
OF_TRAINING = ("batch_tokens", "learning_rate", "table_rate", "vectors_rate", "epochs", "threads")
ABOUT = """\
Leave-one-out by order: the last event of a user is the test target, the one before it that of validation, all earlier
ones train. The full catalogue competes, what a user had is filtered. All sides are given the same training events.
After every epoch a peer lists its ten best items for each validation case, and our evaluator scores the lists; test is
of the epoch that validation likes best. Seconds are those of learning, of the wall, loaders included; validation,
preparing the log and building the model are left out on all sides. Peers have one seed. Ours have default settings but
for what the command says. Where seconds to a quality are asked for, others of ours, "without counts", stand beside, and
their seconds are judged: counts of pairs (`model.covisit_weight`) are made before the first step, so that no second of
learning is in them."""


@dataclass(frozen=True)
class Curve:
    """A side that was trained for its quality, and what it reached on test."""

    label: str
    found: Mapping[str, Any]
    result: Result

    @property
    def seconds(self) -> np.ndarray:
        """Seconds of learning (E,) up to the end of each look."""
        return np.cumsum([row["seconds"] for row in self.found["epochs"]])

    @property
    def quality(self) -> np.ndarray:
        """Validation figures (E,)."""
        return np.array([row["validation"][KEY] for row in self.found["epochs"]])

    @property
    def best(self) -> int:
        return int(self.quality.argmax())

    @property
    def stopped(self) -> bool:
        """Whether it ended where it reached the quality that is timed (`--until`): it could still get better."""
        until = self.found.get("options", {}).get("until")
        return until is not None and bool(self.quality[-1] >= until)

    def reached(self, target: float) -> tuple[float, float] | None:
        """Return the seconds after which a look first saw `target`, and a straight line between looks; None = never.

        Before the first look the line begins at zero seconds and zero quality.
        """
        above = np.flatnonzero(self.quality >= target)
        if not len(above):
            return None
        at = int(above[0])
        seconds, quality = np.append(0.0, self.seconds), np.append(0.0, self.quality)
        share = (target - quality[at]) / (quality[at + 1] - quality[at])
        return float(seconds[at + 1]), float(seconds[at] + share * (seconds[at + 1] - seconds[at]))


@dataclass(frozen=True)
class Chapter:
    """A log, the curves of all sides, ours first, and rounds of rates by side."""

    name: str
    protocol: Protocol
    curves: Sequence[Curve]
    rounds: Sequence[Mapping[str, Mapping[str, Any]]]

    @property
    def ours(self) -> list[Curve]:
        """Those that quality is judged by: with the settings that were told, and no others."""
        return [curve for curve in self.curves if curve.label.startswith(OURS) and FREE not in curve.label]

    @property
    def free(self) -> list[Curve]:
        """Ours that seconds to a quality are judged by: all of it is learned in them."""
        return [curve for curve in self.curves if curve.label.startswith(OURS) and FREE in curve.label]

    @property
    def peers(self) -> list[Curve]:
        return [curve for curve in self.curves if not curve.label.startswith(OURS)]


def page(
    chapters: Sequence[Chapter], raw: Sequence[Mapping[str, Any]], command: str, pictures: Mapping[str, str]
) -> str:
    """Return the whole page."""
    parts = ["# Training beside RecTools, RePlay and RecBole", f"```sh\n{command}\n```", ABOUT]
    for chapter in chapters:
        parts += [f"## {chapter.name}", _log(chapter)]
        if chapter.name in pictures:
            parts.append(f"![{KEY} on validation by seconds of learning]({pictures[chapter.name]})")
        if chapter.curves:
            parts += [_quality(chapter), "\n".join(_lines(chapter)), _protocol(chapter)]
        if chapter.rounds:
            parts += _rates(chapter)
    return "\n\n".join([*parts, "## How", _ways(raw), _machine(raw)]) + "\n"


def _log(chapter: Chapter) -> str:
    dataset, notes = chapter.protocol.dataset, chapter.protocol.split.notes
    cases = chapter.protocol.cases()
    looks = 0 if cases is None else len(cases)
    return (
        f"{dataset.n_events:,} events of {dataset.n_users:,} users on {dataset.n_items:,} items; "
        f"{notes['training_events']:,} of them train. A look at validation is of {looks:,} cases."
    )


def _quality(chapter: Chapter) -> str:
    rows = []
    for curve in chapter.curves:
        epochs, seconds = curve.found["epochs"], curve.seconds
        targets = sum(row["targets"] for row in epochs)
        test = [_number(curve.result.metrics[key]) for key in (KEY, HIT)]
        taken = f"{seconds[curve.best]:,.0f} of {seconds[-1]:,.0f}"
        best = f"{curve.quality[curve.best]:.4f}"
        last = f"{epochs[curve.best]['epoch']} of {epochs[-1]['epoch']}"
        rows.append(
            [curve.label + " (stopped)" * curve.stopped, last, best, *test, taken, f"{targets / seconds[-1]:,.0f}"]
        )
    return _table(HEADS, rows)


def _lines(chapter: Chapter) -> list[str]:
    """Say what the bars ask: seconds to a quality, quality itself, and differences to the peers paired by user."""
    lines = []
    if target := TARGETS.get(chapter.name):
        lines += _seconds(chapter, target)
    if chapter.ours and (bar := BARS.get(chapter.name)):
        mean = float(np.mean([curve.result.value(KEY) for curve in chapter.ours]))
        seeds = f"mean of {len(chapter.ours)} seeds" if len(chapter.ours) > 1 else "one seed"
        lines.append(f"- Test {KEY} of {OURS}, {seeds}: {mean:.4f}; at least {bar:.4f}: **{_met(mean >= bar)}**.")
    for peer in chapter.peers if chapter.ours else ():
        if peer.stopped:
            lines.append(
                f"- {peer.label} was stopped at the quality that is timed (`--until`) and would have gone on: its test "
                "figures are no measure of it, and are not compared."
            )
            continue
        row = compare({peer.label: peer.result, OURS: chapter.ours[0].result})["against"][OURS][KEY]
        ends = f" ({row['low']:+.4f} to {row['high']:+.4f})" if row["low"] is not None else ""
        lines.append(
            f"- {chapter.ours[0].label} beside {peer.label}, test {KEY}, same users: {row['difference']:+.4f}{ends}."
        )
    return lines


def _seconds(chapter: Chapter, target: float) -> list[str]:
    """Say when each side reached a quality, and the slowest of ours without counts beside the fastest peer."""
    lines, reached = [], {curve.label: curve.reached(target) for curve in chapter.curves}
    for curve in chapter.curves:
        seconds = reached[curve.label]
        told = (
            f"never in {curve.seconds[-1]:,.0f} s" if seconds is None else "after {:,.1f} s ({:,.1f})".format(*seconds)
        )
        lines.append(f"- {curve.label} reaches validation {KEY} {target:.3f} {told}.")
    ours = [reached[curve.label] for curve in chapter.free]
    theirs = [(seconds, label) for label, seconds in reached.items() if seconds and not label.startswith(OURS)]
    whole = [seconds for seconds in ours if seconds is not None]
    if theirs and whole and len(whole) == len(ours):
        first, label = min(theirs)
        ratios = [max(seconds[how] for seconds in whole) / first[how] for how in (0, 1)]
        met = _met(max(ratios) <= BAR_SECONDS)
        lines.append(
            f"- {OURS} {FREE} (the slowest seed) beside {label}, the first peer to get there: 1/{1 / ratios[0]:.1f} of "
            f"its seconds (1/{1 / ratios[1]:.1f}); at most 1/{1 / BAR_SECONDS:.0f} by both: **{met}**."
        )
    return [*lines, "", "In brackets: by a straight line between two looks, instead of the look that saw it first.", ""]


def _rates(chapter: Chapter) -> list[str]:
    """Targets per second by round, and the ratio to the fastest peer of the same round."""
    names = list(chapter.rounds[0])
    heads = ["side", *(f"round {turn + 1}" for turn in range(len(chapter.rounds)))]
    rows = []
    for name in names:
        rates = [found[name]["rate"] for found in chapter.rounds]
        sizes = [f"{rates[0]['steps']}", f"{rates[0]['targets'] / rates[0]['steps']:,.0f}"]
        rows.append([name, *(f"{rate[WALL]:,.0f} ({rate[CORE]:,.0f})" for rate in rates), *sizes])
    shape = chapter.rounds[0][OURS]["settings"]["model"]
    about = (
        "Targets per second of learning, in brackets per core-second, at equal architecture: SASRec of width "
        f"{shape['width']}, {shape['blocks']} blocks, heads {shape['heads']}, newest {shape['window']} events, full "
        f"softmax, {shape['feed_forward']} feed-forward {shape['expansion']:g} times as wide as the model, dropout "
        f"{shape['dropout']:g} on all sides, since peers also drop attention weights and ours does not. "
        "Warm-up is left out; in a round one side comes after the other."
    )
    parts = [about, _table([*heads, "steps", "targets a step"], rows)]
    if len(names) > 1:
        best = [max(_others(found, WALL), key=_others(found, WALL).__getitem__) for found in chapter.rounds]
        walls, cores = ([_ratio(found, kind) for found in chapter.rounds] for kind in (WALL, CORE))
        told = f"{np.median(walls):.1f} times the fastest peer ({', '.join(dict.fromkeys(best))})"
        rounds = f"rounds {min(walls):.1f} to {max(walls):.1f}, by core-second {np.median(cores):.1f}"
        met = _met(float(np.median(walls)) >= BAR_RATE)
        parts.append(f"{OURS}, median of rounds: {told}; {rounds}; at least {BAR_RATE:g} times: **{met}**.")
    return parts


def _others(found: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, float]:
    return {name: float(one["rate"][kind]) for name, one in found.items() if name != OURS}


def _ratio(found: Mapping[str, Mapping[str, Any]], kind: str) -> float:
    return float(found[OURS]["rate"][kind]) / max(_others(found, kind).values())


def _ways(raw: Sequence[Mapping[str, Any]]) -> str:
    """Name settings of all curves and rates, and what each trial of a peer's way gave."""
    lines, tried = [], []
    for one in raw:
        options = one.get("options", {})
        if one["cell"].startswith("trial"):
            tried.append(
                f"- {one['cell']}: {options['threads']} threads, {one['rate']['targets_per_second']:,.0f} targets/s"
            )
        elif one["side"] != OURS and not options.get("speed"):
            way = f"{options['precision']}, {options['threads']} threads"
            lines.append(f"- {one['side']}: {_told(one['settings'])}; {way}{_notes(one['notes'])}")
        elif one["side"] == OURS and "epochs" in one:
            told = {name: one["settings"]["model"][name] for name in OF_MODEL}
            told |= {name: one["settings"]["train"][name] for name in OF_TRAINING}
            lines.append(
                f"- {OURS}: {_told(told)}, seed {one['settings']['train']['seed']}; {one['machine']['precision']}"
            )
    parts = ["Settings of the curves:\n\n" + "\n".join(dict.fromkeys(lines))] if lines else []
    parts += ["Trials, of which each peer has the fastest:\n\n" + "\n".join(tried)] if tried else []
    return "\n\n".join(parts)


def _machine(raw: Sequence[Mapping[str, Any]]) -> str:
    versions = {name: number for one in raw for name, number in one["versions"].items()}
    first, load = raw[0]["machine"], max(max(one["load"]) for one in raw)
    commits = ", ".join(dict.fromkeys(one["code"]["commit"] for one in raw))
    return (
        f"{first['processor']}, {first['cores']} cores, {first['device']}; {_told(versions)}; regard at commit "
        f"{commits}. Load up to {load:.1f} beside the cells: seconds suffer from it."
    )


def _protocol(chapter: Chapter) -> str:
    return " ".join(protocol_lines(chapter.curves[0].result)[:-1])  # the last is about seconds


def _number(number: Number) -> str:
    low, high = number["low"], number["high"]
    return f"{number['value']:.4f}" + ("" if low is None else f" ({low:.4f}-{high:.4f})")


def _table(heads: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    head = list(heads)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _notes(notes: Sequence[str]) -> str:
    return f"; {'; '.join(notes)}" if notes else ""


def _met(held: bool) -> str:
    return "met" if held else "missed"
