"""What the documentation shows is what happens: README snippets run, in order, in one folder and one namespace.

`python` blocks are executed; of `console` and `sh` blocks the lines that call `regard` are. An HTML comment on the line
above a block holds it back: `<!-- not run: reason -->`, or `<!-- needs data -->` for files that no clone has.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
HELD_BACK = re.compile(r"<!--\s*(?:not run:\s*(?P<reason>.*?\S)|(?P<data>needs data))\s*-->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and why it is not run if it is not."""

    place: str
    line: int
    language: str
    text: str
    held_back: str | None

    def commands(self) -> Iterator[str]:
        """Yield the calls of `regard`; where some lines have a prompt, the others are what the commands print."""
        lines = self.text.replace("\\\n", " ").splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return (line for line in prompted or lines if line.startswith("regard "))


def blocks(text: str, place: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        above = text[: found.start()]
        mark = HELD_BACK.search(above)
        reason = (mark["reason"] or "needs data that a clone does not have") if mark else None
        yield Block(place, above.count("\n") + 1, found[1], found[2], reason)


@dataclass
class Reader:
    """Somebody who follows a page from top to bottom, in `folder`."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def follow(self, block: Block) -> None:
        if block.language == "python":
            code = compile("\n" * block.line + block.text, block.place, "exec")  # so that a traceback names the line
            exec(code, self.names)
        elif block.language in ("console", "sh"):
            for command in block.commands():
                self.call(command)

    def call(self, command: str) -> None:
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "NO_COLOR": "1"}
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, (
            f"`{command}` exits with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )


README_BLOCKS = list(blocks(README.read_text("utf-8"), README.name))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("block", README_BLOCKS, ids=lambda block: f"line{block.line}-{block.language}")
def test_readme_does_what_it_shows(block: Block, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.held_back:
        pytest.skip(f"{block.place}:{block.line} is not run: {block.held_back}")
    monkeypatch.chdir(reader.folder)
    reader.follow(block)


def test_readme_shows_something_that_runs() -> None:
    text = README.read_text("utf-8")
    runnable = [block for block in README_BLOCKS if block.held_back is None]
    assert runnable or not text.strip()
    assert text.count("```") == 2 * len(FENCE.findall(text)), "every fence names its language and is closed"


SAMPLE = """\
Words.

```python
answer = 42
```

<!-- not run: takes an hour -->
```sh
regard train
```

<!-- needs data -->

```console
$ regard prepare big.csv
```

<!-- a remark -->
```console
$ make test
$ regard --one \\
    'two words'
regard prints this
```
```sh
make demo
regard three  # why
```
"""


def test_blocks_are_found_with_line_language_and_reason() -> None:
    found = [(block.line, block.language, block.held_back) for block in blocks(SAMPLE, "sample")]
    missing = "needs data that a clone does not have"
    expected = [(3, "python", None), (8, "sh", "takes an hour"), (14, "console", missing), (19, "console", None)]
    assert found == [*expected, (25, "sh", None)]


def test_only_calls_of_regard_are_commands() -> None:
    *_, prompted, plain = blocks(SAMPLE, "sample")
    assert list(prompted.commands()) == ["regard --one      'two words'"]
    assert list(plain.commands()) == ["regard three  # why"]


def test_python_blocks_share_names_and_report_their_own_line(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for block in blocks(SAMPLE, "sample"):
        if block.language == "python":
            reader.follow(block)
    assert reader.names["answer"] == 42
    with pytest.raises(ZeroDivisionError) as caught:
        reader.follow(Block("page.md", 7, "python", "answer\n1 / 0\n", None))
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == ("page.md", 9)


def test_commands_run_in_the_readers_folder_and_a_failure_is_seen(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.call("echo told > here.txt")
    assert (tmp_path / "here.txt").read_text() == "told\n"
    with pytest.raises(AssertionError, match=r"(?s)`echo why; exit 3` exits with 3.*why"):
        reader.call("echo why; exit 3")


# Rich draws boxes, click draws none; a continued description is indented further.
COMMAND = re.compile(r"^(?:│ |  )([a-z][a-z-]*)(?: {2,}\S|\s*│?\s*$)", re.MULTILINE)


def test_commands_of_help_are_found() -> None:
    boxed = " Usage: regard\n│ --help  Show │\n╭─ Commands ─╮\n│ add-items   Add │\n│             more │\n"
    assert COMMAND.findall(boxed) == ["add-items"]
    assert COMMAND.findall("Commands:\n  demo      Run\n            on\n  add-items\n") == ["demo", "add-items"]


def test_every_command_is_described() -> None:
    page = ROOT / "docs" / "cli.md"
    if not page.exists():
        pytest.skip("there is no docs/cli.md yet")
    command = [str(Path(sysconfig.get_path("scripts")) / "regard"), "--help"]
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, timeout=60, check=True)
    commands = set(COMMAND.findall(done.stdout))
    described = set(re.findall(r"^#+ .*?`regard ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
    assert commands, done.stdout
    assert commands == described
