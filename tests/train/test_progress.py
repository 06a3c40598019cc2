"""What a person sees while a model learns, in a terminal of 80 columns and without one."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from regard.train.progress import Watch


def row(epoch: int, figure: float | None, *, best: bool = False, metric: str = "hit_rate@100") -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": 12.3456,
        "validation": {} if figure is None else {metric: figure},
        "best": best,
        "targets_per_second": 1_234_567.8,
        "seconds": 12_345.67,
        "memory_gb": 123.4,
    }


def told(rows: list[dict[str, Any]], epochs: int, *, terminal: bool = False, quiet: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, legacy_windows=False)
    with Watch(console, quiet) as watch:
        watch.start(epochs, steps=10 * epochs, done=0)
        for each in rows:
            watch.step(each["epoch"] - 1, 10 * each["epoch"], 1_234_567.8)
            watch.epoch(each, "hit_rate@100")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_a_table_of_epochs_fits_80_columns() -> None:
    head, first, second = told([row(1, 0.25, best=True), row(1000, 0.125)], 1000)
    assert head.split() == ["epoch", "loss", "validation", "hit_rate@100", "targets/s", "seconds", "memory"]
    assert first.split() == ["1/1000", "12.3456", "0.2500", "*", "1,234,568", "12345.7", "123.4", "GB"]
    assert "*" not in second
    assert first.index("0.2500") == second.index("0.1250")
    assert max(map(len, (head, first, second))) <= 80


def test_where_epochs_are_many_those_are_told_that_validation_looked_at() -> None:
    rows = [row(epoch, 0.5 if epoch % 40 == 0 else None) for epoch in range(1, 201)]
    assert [line.split()[0] for line in told(rows, 200)][-5:] == ["40/200", "80/200", "120/200", "160/200", "200/200"]


@pytest.mark.parametrize("epochs", [1, 7, 24, 25, 667])
def test_without_validation_at_most_a_screenful_and_always_the_last(epochs: int) -> None:
    head, *lines = told([row(epoch, None) for epoch in range(1, epochs + 1)], epochs)
    assert "validation" not in head
    assert 1 <= len(lines) <= 25
    assert lines[-1].split()[0] == f"{epochs}/{epochs}"


def test_the_bar_is_taken_down_and_leaves_the_table() -> None:
    lines = told([row(1, 0.25, best=True), row(2, 0.125)], 2, terminal=True)
    assert any("1/2" in line and "0.2500 *" in line for line in lines)


def test_quiet_says_nothing() -> None:
    assert told([row(1, 0.25, best=True)], 1, quiet=True) == []
