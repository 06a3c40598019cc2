"""The benchmarks' recipes are what the library reads, and generated tables go between the marks of a page."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from regard.data.cuts import parsed
from regard.data.sources import Recipe

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_recipes_and_splits_are_read(tmp_path: Path) -> None:
    for name, chosen in import_module("road_sets").SETS.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(chosen.recipe.replace("DATA", "/data"))
        assert all(str(one).startswith(f"/data/{name}/") for source in Recipe.read(file).sources for one in source.path)
        for split in (chosen.split, *chosen.refused):
            parsed(split)


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    tables = import_module("road_tables")
    file = tmp_path / "results.md"
    file.write_text("\n".join(["by hand", tables.MARKS[0], "old", tables.MARKS[1], "also by hand"]))
    tables.into_docs(file, "# Title\n\nNew.\n\n## log\n")
    assert file.read_text() == f"by hand\n{tables.MARKS[0]}\n\nNew.\n\n### log\n\n{tables.MARKS[1]}\nalso by hand"
    assert tables.MARKS[0] in (FOLDER.parent / "docs" / "results.md").read_text("utf-8")
