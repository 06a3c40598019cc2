"""What people see of a search: a table of trials, the best one first."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.show import print_json
from regard.tune.found import BEST, TABLE, Tuned

_ROWS = 20


def tuning(found: Tuned, console: Console, *, as_json: bool) -> None:
    """Trials, what failed and why, and where the best settings are."""
    if as_json:
        print_json(found.as_dict(), console)
        return
    console.print(_table(found))
    done = [one for one in found.trials if one.value is not None]
    if len(done) > _ROWS:
        console.print(f"{len(done) - _ROWS} more in {found.path / TABLE}", highlight=False, soft_wrap=True)
    for one in found.trials:
        if one.reason is not None:
            text = f"trial {one.number} failed: {one.reason}"
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if found.repeats:
        console.print(f"{found.repeats} proposals had been tried before and were not trained again", highlight=False)
    console.print(
        f"best on validation: trial {found.best.number}, {found.metric} {found.best.value:.4f}; "
        f"its settings are in {found.path / BEST}, its run is {found.run}",
        highlight=False,
        soft_wrap=True,
    )
    told = (
        f"next: regard evaluate {found.run}, or regard train … --config {found.path / BEST}, with the dataset and the "
        "other options of this search"
    )
    console.print(told, style="dim", highlight=False, soft_wrap=True)


def _table(found: Tuned) -> Table:
    """One row a trial; settings that were searched stand under the last part of their names."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("trial", found.metric, "seconds"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    sign = 1 if found.lower_is_better else -1
    done = sorted((one for one in found.trials if one.value is not None), key=lambda one: sign * (one.value or 0.0))
    for one in done[:_ROWS]:
        style = "bold" if one.number == found.best.number else ""
        pairs = (f"{name.partition('.')[2]}={value.strip(chr(34))}" for name, value in one.settings.items())
        table.add_row(str(one.number), f"{one.value:.4f}", f"{one.seconds:.1f}", Text(", ".join(pairs)), style=style)
    return table
