"""What a person sees while a model learns: a bar in a terminal, a line per epoch elsewhere, nothing when quiet."""

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


class Watch:
    """Follows a training; rates count targets, that is, events that enter the loss."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = 0.0
        self._headed = False

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
        """An epoch is over: `row` is what goes into the log; the first one is told under a line of heads."""
        if self.quiet:
            return
        validation = row.get("validation", {}).get(metric)
        cells = {
            "epoch": (f"{row['epoch']}/{self.epochs}", 7),
            "loss": (f"{row['loss']:.4f}", 7),
            f"validation {metric}": ("" if validation is None else f"{validation:.4f}{' *' if row['best'] else '  '}", 0),
            "targets/s": (f"{row['targets_per_second']:,.0f}", 10),
            "seconds": (f"{row['seconds']:.1f}", 7),
            "memory": (f"{row['memory_gb']:.1f} GB", 7),
        }
        told = {head: (text, max(width, len(head))) for head, (text, width) in cells.items() if text}
        if not self._headed:
            self._headed = True
            self.note("  ".join(head.rjust(width) for head, (_, width) in told.items()))
        self.note("  ".join(text.rjust(width) for text, width in told.values()))
        if self._bar is not None and self._task is not None and validation is not None and row["best"]:
            self._bar.update(self._task, best=f"best {metric} {validation:.4f}")

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
