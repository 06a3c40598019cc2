"""The command line: thin, without logic. Rooms are imported when a command runs, so that `--help` is instant."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from regard.cli import compare, data, models, recommend, tune  # noqa: F401 - they add their commands to the app
from regard.cli.options import app, out, told
from regard.errors import RegardError

MISUSE: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever typer keeps it


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except RegardError as error:
        code = _complain(str(error), 2)
    except MISUSE as error:
        code = _complain(_misuse(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        _complain("stopped", code)
    sys.exit(code or 0)


def _complain(text: str, code: int) -> int:
    told.print(f"regard: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


def _misuse(error: Any) -> str:
    """Say in our own way what the parser did not understand."""
    said = error.format_message().rstrip(".")
    return f"{said[:1].lower()}{said[1:]}; see {error.ctx.command_path if error.ctx else 'regard'} --help"


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        out.print(f"regard {installed('regard')}", highlight=False)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
