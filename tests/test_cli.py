"""The shell around the commands: help that is complete, misuse in one line, and how wide it prints."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from regard import cli
from regard.cli import options
from regard.data.cuts import FORMS
from regard.model.models import NAMES

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def regard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["regard", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed, said = capfd.readouterr()
        return int(end.value.code or 0), printed, said

    return run


def test_without_a_command_it_shows_all_of_them(regard: Command) -> None:
    code, printed, _ = regard()
    assert code == 0
    assert all(command in printed for command in ("demo", "prepare", "train", "evaluate", "recommend"))
    code, printed, _ = regard("--version")
    assert code == 0
    assert printed.startswith("regard 0.")


def test_help_of_train_names_every_model_and_split(regard: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, printed, _ = regard("train", "--help")
    assert [name for name in NAMES if name not in printed] == []
    assert [form for form in FORMS.split(" | ") if form != "auto" and form not in printed] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("inspct",), "did you mean 'inspect'"),
        (("inspect",), "missing argument"),
        (("prepare", "a.csv", "--usr", "x"), "--user"),
        (("recommend", "run", "-k", "many"), "-k"),
        (("train", "data", "more"), "more"),
    ],
)
def test_misuse_is_told_in_one_line_that_names_the_help(regard: Command, words: tuple[str, ...], expected: str) -> None:
    code, printed, said = regard(*words)
    assert code == 2
    assert printed == ""
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("regard: ")
    assert expected.casefold() in said.casefold()
    assert "--help" in said


def test_a_pipe_is_100_columns_wide_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert options._console(io.StringIO()).width == 100
    monkeypatch.setenv("COLUMNS", "72")
    assert options._console(io.StringIO()).width == 72


def test_an_interrupt_says_so_and_has_its_exit_code(tmp_path: Path) -> None:
    script = """
        import sys, time
        from regard import cli

        @cli.app.command()
        def wait() -> None:
            print("ready", flush=True)
            time.sleep(60)

        sys.argv = ["regard", "wait"]
        cli.main()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "regard: stopped\n"
