"""What the comparison of rankers found, as Markdown: a chapter for each log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peers.din_protocol import Samples
from ranking_cells import Way, difference, measured_by, table

FIGURES = ("auc", "gauc", "log_loss")
PAIRED = ("auc", "gauc")
RATES = {"rows/s": "training_rows_per_second", "rows/core-second": "training_rows_per_core_second"}
BAR_DIFFERENCE, BAR_SPEED = -0.005, 3.0


def page(chapters: Sequence[str], found: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the whole page."""
    versions = {name: number for one in found for name, number in one["versions"].items()}
    options = found[0]["options"]
    protocol = (
        f"At most {options['epochs']} epochs, stopped after {options['patience']} without a better validation AUC "
        "(trials: fewer, see the command); ours end by a schedule of their own. In "
        "brackets the 95 % interval over users, then, with several seeds, the range of their values; differences are "
        "those of the means over seeds, paired by user. Rows are candidates that enter the loss, seconds those of "
        "learning in epochs run for that, one side after the other, twice; core-seconds what the processor worked."
    )
    head = ["# Rankers beside the DIN of three libraries", f"```sh\n{command}\n```", protocol]
    return "\n\n".join([*head, *chapters, measured_by(found), f"Versions: {_told(versions)}."]) + "\n"


def chapter(
    name: str, samples: Samples, peers: Sequence[Way], forms: Sequence[Way], beside: Mapping[str, Sequence[Way]]
) -> str:
    """Return what there is to say of a log; `beside` has, by form, what is left without attention."""
    others = {way.name: way for name in beside for way in beside[name]}
    ways = [*peers, *forms, *others.values()]
    rates = {head: [f"{rate(way, kind):,.0f}" for way in ways] for head, kind in RATES.items()}
    parts = [f"## {name}", _drawn(samples), table(ways, FIGURES, rates)]
    if peers and forms:
        parts.append("\n".join(against_peers(peers, forms)))
    if others:
        lines = [difference(way, other, PAIRED) for way in forms for other in beside[way.name]]
        parts.append("What attention is worth:\n\n" + "\n".join(lines))
    chosen = [
        f"- {way.name}: trial {way.found[0]['options']['trial']}; {_told(way.found[0]['settings'])}" for way in ways
    ]
    return "\n\n".join([*parts, "Settings, chosen by the AUC of validation:\n\n" + "\n".join(chosen)])


def against_peers(peers: Sequence[Way], forms: Sequence[Way]) -> list[str]:
    """Set each form against every peer; the bar is about the peer that is best on test, and the one that is fastest."""
    best = max(peers, key=lambda way: np.mean(way.values("auc")))
    lines = [f"Best peer on test: {best.name}.", ""]
    for way in forms:
        lines += [difference(way, peer, PAIRED) for peer in peers]
        ends = [number["low"] for number in way.beside(best, PAIRED).values()]
        close = all(end is not None and end >= BAR_DIFFERENCE for end in ends)
        ratios = [rate(way, kind) / max(rate(peer, kind) for peer in peers) for kind in RATES.values()]
        lines.append(
            f"- {way.name}: lower ends beside {best.name} at least {BAR_DIFFERENCE}: **{_met(close)}**; "
            f"{ratios[0]:.1f} times the rows/s of the fastest peer, {ratios[1]:.1f} times by core-second, at least "
            f"{BAR_SPEED:g} times: **{_met(min(ratios) >= BAR_SPEED)}**."
        )
    return lines


def rate(way: Way, kind: str) -> float:
    """Return training rows a second, the mean over the cells that were trained for their seconds."""
    return float(np.mean([one[kind] for one in way.timed or way.found]))


def _setting(way: Way) -> str:
    first = way.found[0]
    options, facts = first["options"], {**first["settings"], "notes": "; ".join(first["notes"]) or "none"}
    return f"- {way.name}: trial {options['trial']}, batches of {options['batch']:,}, {_told(facts)}."


def _drawn(samples: Samples) -> str:
    about = samples.about
    sizes = [f"{name} {len(part):,} requests, {part.rows:,} rows" for name, part in samples.parts.items()]
    negatives = f"negatives {', '.join(map(str, about['negatives']))}" if any(about["negatives"]) else "nothing sampled"
    share = f"; {about['sample']:.0%} of the users" if about["sample"] < 1 else ""
    return (
        f"{'; '.join(sizes)}; {negatives}; histories of at most {samples.length} events; seed {about['seed']}{share}."
    )


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _met(held: bool) -> str:
    return "met" if held else "missed"
