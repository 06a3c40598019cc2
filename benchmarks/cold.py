"""Are new items found, and what does it cost? A tenth of the catalogue is held out of training.

The items are drawn by `--draw` among those with events. Of their events only those stay that are the last one of a
user, which leave-one-out asks on test; so nobody has met these items, in training, on validation or in a history, as if
they had come today. They keep their row in the item table. Models with text (`--ways`) stand beside one of ids only on
the same log, and beside raw cosine, popularity and uniform random (by formula). Everything is measured on test, once,
and a finished cell is kept in the work folder; one that was killed goes on from its checkpoint.

    python benchmarks/cold.py [--set amazon-beauty] [--vectors SOURCE] [--column title|keywords] [--ways gate,frozen]
        [--seeds 1,2,3] [--change SECTION.KEY=VALUE] [--change-of WAY:SECTION.KEY=VALUE] [--config-of WAY=FILE]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cold_bars import KEY, Verdict, differences, figures, machine_lines, numbers_of, verdicts
from cold_log import TABLES, hold_out
from cold_walk import MODEL, OWN, Walk, settings_of
from regard.data.knowledge import TEXT
from regard.errors import RegardError
from regard.evaluate.report import protocol_lines
from regard.evaluate.result import Result
from regard.manifest import locked
from regard.model.transfer import MODES
from regard.transfer.ways import ID_ONLY, Plan
from road import DATA, write_results

GLOVE = DATA / "word-vectors" / "glove.6B.50d.merged7849.txt"
TOOK = {"ranking_seconds": 0.0, "metrics_seconds": 0.0, "machine": "", "cores": 0, "device": ""}  # asked for, not shown


def short(source: str) -> str:
    """A source of vectors as a page may name it: where it lies on this machine is nobody's business."""
    prefix = TEXT if source.startswith(TEXT) else ""
    path = Path(source.removeprefix(prefix))
    return f"{prefix}{path.name}" if path.exists() else source


def shown(asked: argparse.Namespace) -> str:
    """The command as anybody may give it."""
    told = {"--set": asked.set, "--vectors": short(asked.vectors), "--column": asked.column}
    told |= {"--ways": ",".join(asked.ways), "--seeds": ",".join(map(str, asked.seeds))}
    told |= {"--share": f"{asked.share:g}", "--draw": str(asked.draw)}
    words = [word for pair in told.items() for word in pair]
    words += [word for one in asked.change for word in ("--change", one)]
    words += [word for way, one in asked.change_of for word in ("--change-of", f"{way}:{one}")]
    words += [word for way, file in asked.config_of.items() for word in ("--config-of", f"{way}={file.name}")]
    return shlex.join(["python", "benchmarks/cold.py", *words])


def told_of(plan: Plan) -> str:
    """Settings that are not the defaults, by way."""
    lines = []
    for way, settings in plan.own.items():
        body = settings.model_dump(mode="json", exclude_unset=True)
        given = {f"{section}.{key}": value for section, values in body.items() for key, value in values.items()}
        given = {name: value for name, value in given.items() if name not in (*OWN, "train.seed", "train.metric")}
        lines.append(f"{way}: {', '.join(f'{name}={value}' for name, value in given.items()) or 'none'}")
    return "; ".join(lines)


def about_log(walk: Walk) -> str:
    """What was held out, and who is asked."""
    facts, counts, test = walk.log.facts, walk.log.log["found"]["counts"], walk.test
    cold = test.trained == 0
    planned = walk.log.held(walk.dataset)[walk.dataset.item[test.cases.targets]]
    return (
        f"{walk.asked.set}: {facts['items_held_out']:,} of {facts['items_with_events']:,} items with events are held "
        f"out, drawn with seed {walk.asked.draw}. Of their events only those stay that are the last of a user, whom "
        f"test asks for them; {facts['events_taken_out']:,} others are taken out of training, validation and "
        "histories, as if these items had come after all that. So the choice of weights, on validation, knows nothing "
        f"of them. {facts['users_no_longer_asked']:,} users are left with fewer than three events and are not asked. "
        f"What stays: {counts['events']:,} events of {counts['users']:,} users; the catalogue, in which everything "
        f"competes, has {counts['items']:,} items.\n\n"
        f"Cold targets: {int((cold & planned).sum()):,} of held-out items, {int((cold & ~planned).sum()):,} of others "
        f"without a training event; warm targets: {int((~cold).sum()):,}. *Among cold items*: only the "
        f"{int(test.unmet.sum()):,} items without a training event compete."
    )


def about_models(walk: Walk) -> str:
    """What is read, and with which settings."""
    asked, known = walk.asked, walk.knowledge.known
    held = known & walk.log.held(walk.dataset)
    seeds = f"mean of seeds {', '.join(map(str, asked.seeds))}" if len(asked.seeds) > 1 else f"seed {asked.seeds[0]}"
    return (
        f"Vectors from `{short(asked.vectors)}` by the column {asked.column}: {int(known.sum()):,} of "
        f"{walk.dataset.n_items:,} items have one, {int(held.sum()):,} of those held out. {MODEL}, {seeds}; settings "
        f"other than the defaults: {told_of(walk.plan)}. A user's values are averaged over the seeds first; "
        "differences are paired by user."
    )


def page(walk: Walk, results: Mapping[str, Result], bars: Sequence[Verdict]) -> str:
    stated = protocol_lines(replace(results[ID_ONLY], timing=TOOK))[:-1]  # the last is about seconds
    parts = [
        "# New items",
        f"```sh\n{shown(walk.asked)}\n```",
        about_log(walk),
        about_models(walk),
        f"## {KEY} on test",
        figures(results),
        "## Differences",
        differences(results, walk.asked.ways, walk.resamples),
        "## Bars",
        "\n".join(one.line for one in bars),
        " ".join(stated),
        machine_lines(walk.trainings),
    ]
    return "\n\n".join(parts) + "\n"


def publish(walk: Walk, results: Mapping[str, Result]) -> None:
    """Write the page, and all figures beside it: a line for each training, each way, and the bars."""
    bars = list(verdicts(results, walk.asked.ways, walk.resamples))
    text = page(walk, results, bars)
    rows = [{name: one[name] for name in one if name not in ("strata", "vectors")} for one in walk.trainings]
    rows += [{"way": way, "mean_of_seeds": numbers_of(one)} for way, one in results.items()]
    rows.append({"bars": [vars(one) for one in bars]})
    out = write_results("cold", walk.trainings[0]["machine"], text, rows, walk.asked.out)
    print(f"\n{text}\nwritten to {out}")


def _of_way(mark: str) -> Callable[[str], tuple[str, str]]:
    """Read a way, the mark, and what is said of the way."""

    def read(text: str) -> tuple[str, str]:
        way, _, rest = text.partition(mark)
        if not rest or way not in (ID_ONLY, *MODES):
            raise argparse.ArgumentTypeError(f"expected WAY{mark}…, WAY of {ID_ONLY}, {', '.join(MODES)}; got {text!r}")
        return way, rest

    return read


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say = found.add_argument
    say("--set", choices=list(TABLES), default="amazon-beauty")
    say("--vectors", default=str(GLOVE), help="words, or text:MODEL; default: the GloVe words in the data")
    say("--column", default="title", help="of the item table, whose words are read: title or keywords")
    say("--ways", type=lambda text: text.split(","), default=["gate"], help=f"of {', '.join(MODES)}; default gate")
    say("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[1, 2, 3])
    say("--share", type=float, default=0.1, help="of the items with events that are held out")
    say("--draw", type=int, default=1, help="seed of the draw of held-out items")
    say("--change", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a default for all ways")
    say("--change-of", action="append", default=[], metavar="WAY:SECTION.KEY=VALUE", type=_of_way(":"))
    say("--config-of", action="append", default=[], metavar="WAY=FILE", type=_of_way("="), help="settings of one way")
    say("--work", type=Path, default=Path.home() / ".cache" / "regard" / "cold")
    say("--out", type=Path, help="default: benchmarks/results/cold_HARDWARE_DATE.md")
    return found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is wrong is told before any work."""
    line = parser()
    asked = line.parse_args(words)
    asked.config_of = {way: Path(file) for way, file in asked.config_of}
    if not 0 < asked.share < 1:
        line.error(f"--share: expected a share of items between 0 and 1; got {asked.share:g}")
    if unknown := set(asked.ways) - set(MODES):
        line.error(f"--ways: there is no {', '.join(sorted(unknown))}; known: {', '.join(MODES)}")
    if unasked := ({way for way, _ in asked.change_of} | set(asked.config_of)) - {ID_ONLY, *asked.ways}:
        line.error(f"settings of {', '.join(sorted(unasked))}, which is not among --ways {','.join(asked.ways)}")
    if not (DATA / asked.set).is_dir():
        line.error(f"{asked.set} is not in {DATA}; REGARD_DATA says where real data is")
    for way in (ID_ONLY, *asked.ways):
        settings_of(asked, way)
    return asked


def main(words: Sequence[str] | None = None) -> None:
    asked = arguments(words)
    asked.work.mkdir(parents=True, exist_ok=True)
    with locked(asked.work):
        walk = Walk(asked, hold_out(asked.work, asked.set, asked.column, asked.share, asked.draw))
        results = walk.results()
        if not set(results).issuperset((ID_ONLY, asked.ways[0])):
            sys.exit(f"cold: {ID_ONLY} or {asked.ways[0]} could not be measured; see above")
        publish(walk, results)
    sys.exit(1 if walk.broken else 0)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"cold: {error}")
