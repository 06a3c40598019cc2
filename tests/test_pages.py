"""What stands beside the README is true as well: examples run, and the pages describe every flag and every setting.

`python tests/test_pages.py` renews the table of settings in docs/cli.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from regard import cli
from regard.config import Settings
from regard.data.sources import Recipe

ROOT = Path(__file__).parents[1]
CLI_PAGE = ROOT / "docs" / "cli.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_runs(example: Path, tmp_path: Path) -> None:
    assert len(example.read_text("utf-8").splitlines()) < 60
    command = [sys.executable, str(example)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert "ndcg@10" in done.stdout


def settings() -> Iterator[str]:
    yield "| setting | default | meaning |\n|---|---|---|\n"
    for section, inside in Settings.model_fields.items():
        for name, field in inside.annotation.model_fields.items():  # type: ignore[union-attr]
            value = field.default
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            meaning = str(field.description).replace("|", "\\|")
            yield f"| `{section}.{name}` | {shown.lower() if isinstance(value, bool) else shown} | {meaning} |\n"


def test_every_setting_is_described() -> None:
    (table,) = TABLE.findall(CLI_PAGE.read_text("utf-8"))
    assert table == "".join(settings()), "renew it: python tests/test_pages.py"


def test_every_flag_is_described() -> None:
    sections = dict(
        re.findall(r"^## `regard ([a-z-]+)`\n(.*?)(?=^## )", CLI_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(sections) == set(commands)
    for name, command in commands.items():
        flags = {flag for option in command.params for flag in option.opts if flag.startswith("-")}
        absent = {flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", sections[name])}
        assert absent == set(), f"docs/cli.md does not describe these flags of regard {name}"


def test_the_data_file_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "data.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "data.toml").write_text(text, encoding="utf-8")
    recipe = Recipe.read(tmp_path / "data.toml")
    assert [source.behaviour for source in recipe.sources] == ["view", "purchase"]
    assert recipe.items is not None
    assert recipe.items.columns.attributes == ("brand", "price")
    assert recipe.users is not None
    assert recipe.users.columns.attributes == ("age", "gender")


def test_the_settings_file_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", CLI_PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    assert Settings.read(tmp_path / "settings.toml").data.split == "time:0.9"


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/data.md", "docs/evaluation.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in links(ROOT / page):
        if "://" in link:
            continue
        place, _, part = link.partition("#")
        target = (ROOT / page).parent / place if place else ROOT / page
        assert target.exists(), link
        if part:
            heads = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            names = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert part in names, link


if __name__ == "__main__":
    page = CLI_PAGE.read_text("utf-8")
    CLI_PAGE.write_text(TABLE.sub(lambda _: "".join(settings()), page), encoding="utf-8")
