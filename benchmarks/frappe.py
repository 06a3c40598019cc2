"""What context is worth: the ranker on frappe with and without it, beside published figures.

frappe is a log of apps used in a context (time of day, weekday, weather, place, …) without an order. Protocol: for
every use two apps that this user did not use in that very context are drawn as negatives, before splitting; then all is
split at random, 70 % training, 20 % validation, 10 % test; a request reads the other apps that the user used in
training. The cost of an app is an attribute of the app; how often it was used (`cnt`) is an outcome, and not read.

    python benchmarks/frappe.py [--seeds 1,2,3] [--work FOLDER] [--out FILE.md] [--set SECTION.KEY=VALUE]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv

from ranking_cells import Way, difference, measured_by, table, tell, walk
from regard import pipeline
from regard.config import Settings
from regard.data.sources import Columns, ItemColumns, ItemSource
from regard.errors import RegardError
from regard.manifest import locked
from road import DATA

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")
NEGATIVES_SEED = 0
FIGURES = ("auc", "gauc", "log_loss", "calibration_error")
SETTINGS = Settings().changed(
    [
        "data.split='random:0.7,0.2,0.1'",
        "data.labels='given'",
        "model.name='ranker'",
        "model.interest='target'",
        "model.user_ids=true",
        "model.attributes=['cost']",
        "model.positions='none'",
        "model.projections='none'",  # the same app in the history has the largest product
        "model.scale=8",
        "model.width=32",
        "model.window=200",
        "model.hidden=[256, 128]",
        "model.dropout=0.5",
        "train.batch_tokens=4096",
        "train.learning_rate=5e-3",
        "train.weight_decay=0.5",
        "train.epochs=4",
    ]
)
SHOWN = (
    "model.interest",
    "model.user_ids",
    "model.attributes",
    "model.positions",
    "model.projections",
    "model.scale",
    "model.width",
    "model.window",
    "model.hidden",
    "model.dropout",
    "train.batch_tokens",
    "train.learning_rate",
    "train.weight_decay",
    "train.epochs",
)
PUBLISHED = """\
| published, Frappe_x1 of BARS (7:2:1, 2 random negatives, user, item and context fields) | AUC | log loss |
|---|---|---|
| DNN | .9833 | .1622 |
| DCNv2 | .9845 | .1491 |
| FinalMLP | .9861 | .1484 |
| FinalNet | .9857 | .1311 |

Differences of protocol: their negatives, split and seeds are their own; they tuned on the test part (the run logs name
the test file as validation), while here settings were set by trials on validation; their models see
user and item as fields, as ours do, which read the user's other training events too.
"""


def labelled(seed: int) -> tuple[pa.Table, pa.Table]:
    """Return uses and their negatives (label 1 and 0), shuffled, and the table of apps with their cost."""
    file = DATA / "frappe" / "frappe.csv"
    query = f"SELECT * FROM read_csv('{file}', delim='\t', header=true, all_varchar=true)"
    with duckdb.connect() as connection:
        rows = connection.sql(query).to_arrow_table()
    names = ("user", "item", *CONTEXT)
    columns = {name: np.array(rows[name].to_pylist(), dtype=object) for name in names}
    apps, item = np.unique(columns["item"], return_inverse=True)
    _, moment = np.unique(
        np.array(["\t".join(row) for row in zip(columns["user"], *(columns[c] for c in CONTEXT), strict=True)]),
        return_inverse=True,
    )
    used = np.unique(moment * len(apps) + item)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(apps), 2 * len(item))
    asked = np.repeat(moment, 2)
    while (bad := np.isin(asked * len(apps) + drawn, used)).any():
        drawn[bad] = rng.integers(0, len(apps), int(bad.sum()))
    source = np.concatenate([np.arange(len(item)), np.repeat(np.arange(len(item)), 2)])
    label = np.concatenate([np.ones(len(item), np.int64), np.zeros(len(drawn), np.int64)])
    items = np.concatenate([item, drawn])
    order = rng.permutation(len(source))
    log = {name: columns[name][source][order] for name in ("user", *CONTEXT)}
    events = pa.table({**log, "item": apps[items[order]], "label": label[order]})
    first = np.unique(item, return_index=True)[1]
    costs = np.array(rows["cost"].to_pylist(), dtype=object)[first]
    return events, pa.table({"id": apps, "cost": costs})


def prepared(work: Path, seed: int) -> Path:
    """Write the labelled log, and read it as anybody would."""
    dataset = work / f"negatives-{seed}"
    if dataset.is_dir():
        return dataset
    events, apps = labelled(seed)
    files = [work / f"negatives-{seed}-{name}.csv" for name in ("events", "apps")]
    for file, content in zip(files, (events, apps), strict=True):
        pyarrow.csv.write_csv(content, file)
    pipeline.prepare(
        [str(files[0])],
        dataset,
        columns=Columns("user", "item", None, None, "label", CONTEXT),
        items=ItemSource(str(files[1]), ItemColumns("id", None, None, ("cost",))),
    )
    return dataset


def ways(changes: list[str]) -> dict[str, Settings]:
    """Name the rankers: with and without context, and what is left without attention or without a history."""
    context = json.dumps(list(CONTEXT))
    forms = {
        "with context": [f"model.context={context}"],
        "without context": [],
        "with context, mean of the history": [f"model.context={context}", "model.interest=mean"],
        "with context, no history": [f"model.context={context}", "model.interest=candidate"],
    }
    return {name: SETTINGS.changed([*form, *changes]) for name, form in forms.items()}


def page(found: list[Way], command: str) -> str:
    """Return the whole page."""
    by_name = {way.name: way for way in found}
    base = by_name.get("with context")
    others = [] if base is None else [way for way in found if way is not base]
    told = found[0].found[0]["settings"]
    settings = ", ".join(f"{name}={told[name.split('.')[0]][name.split('.')[1]]}" for name in SHOWN)
    seconds = [f"{np.mean([one['training']['learning_seconds'] for one in way.found]):,.0f} s" for way in found]
    parts = [
        "# Context on frappe",
        f"```sh\n{command}\n```",
        (__doc__ or "").strip().split("\n\n")[1],
        "In brackets the 95 % interval over users; then, with several seeds, the range of their values.",
        table(found, FIGURES, {"learning": seconds}),
        "Differences, paired by user:",
        "\n".join(difference(base, way, ("auc", "gauc", "log_loss")) for way in others) if base else "",
        PUBLISHED,
        f"Settings, set after about twenty trials on validation unless the command says otherwise: {settings}.",
        measured_by([one for way in found for one in way.found]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "ranking")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/frappe_HARDWARE_DATE.md")
    asked = parser.parse_args()
    if not (DATA / "frappe").is_dir():
        parser.error(f"frappe is not in {DATA}; REGARD_DATA says where real data is")
    rankers = ways(asked.set)  # a wrong --set is told before any work
    folder = asked.work / "frappe"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        found = walk(folder, prepared(folder, NEGATIVES_SEED), rankers, asked.seeds)
    if found:
        cells = [one for way in found for one in way.found]
        tell("frappe", page(found, shlex.join(["python", "benchmarks/frappe.py", *sys.argv[1:]])), cells, asked.out)
    sys.exit(0 if len(found) == len(rankers) else 1)


if __name__ == "__main__":
    try:
        main()
    except RegardError as error:
        sys.exit(f"frappe: {error}")
