"""What a person sees while a model learns: a row per epoch, a bar below it in a terminal, nothing when quiet."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_ROWS = 24  # of a table of epochs, where nobody looks at validation


class Watch:
    """Follows a training; rates count targets, that is, events that enter the loss."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = 0.0
        self._looks = False
        self._heads: list[str] = []

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Begin; `steps` is the number of steps of the whole schedule, `done` how many of them lie behind."""
        self.epochs = epochs
        if self.quiet or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]} {task.fields[memory]} {task.fields[best]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(f"epoch 1/{epochs}", total=steps, completed=done, rate="", memory="", best="")
        self._bar.start()

    def step(self, epoch: int, step: int, rate: float) -> None:
        """One step is done; the picture is drawn at most ten times a second."""
        if self._bar is None or self._task is None or time.monotonic() - self._shown < 0.1:
            return
        self._shown = time.monotonic()
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch + 1}/{self.epochs}",
            rate=f"{rate:,.0f} targets/s",
            memory=f"{memory_used() / 2**30:.1f} GB",
        )

    def epoch(self, row: Mapping[str, Any], metric: str) -> None:
        """An epoch is over: `row` is what goes into the log. Where epochs are many, those that were looked at are told.

        Lines have 80 columns at most; the first one comes under a line of heads.
        """
        if self.quiet:
            return
        figure = row.get("validation", {}).get(metric)
        self._looks = self._looks or figure is not None
        turn = row["epoch"] == self.epochs or row["epoch"] % -(-self.epochs // _ROWS) == 0
        if figure is None and (self._looks or not turn):
            return
        best = " *" if row["best"] else "  "
        loss = "start" if row["loss"] is None else f"{row['loss']:.4f}"
        cells = {"epoch": (f"{row['epoch']}/{self.epochs}", 9), "loss": (loss, 7)}
        if self._looks:
            cells[f"validation {metric}"] = (f"{figure:.4f}{best}", 0)
        cells["targets/s"] = (f"{row['targets_per_second']:,.0f}", 10)
        cells["seconds"] = (f"{row['seconds']:.1f}", 0)
        cells["memory"] = (f"{row['memory_gb']:.1f} GB", 7)
        self._row(cells)
        if self._bar is not None and self._task is not None and row["best"]:
            self._bar.update(self._task, best=f"best {metric} {figure:.4f}")

    def _row(self, cells: Mapping[str, tuple[str, int]]) -> None:
        """Print texts under their heads, right-aligned; the numbers are least widths."""
        widths = {head: max(width, len(head)) for head, (_, width) in cells.items()}
        if list(cells) != self._heads:
            self._heads = list(cells)
            self.note("  ".join(head.rjust(width) for head, width in widths.items()))
        self.note("  ".join(text.rjust(widths[head]) for head, (text, _) in cells.items()))

    def note(self, text: str) -> None:
        """Say something once."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        """Use as a context, so that the bar is taken down whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def memory_used() -> int:
    """Resident memory of this process in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
