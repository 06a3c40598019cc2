"""The public names: listed once, all documented, and free of charge until they are used."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import regard

LISTED: list[str] = list(getattr(regard, "__all__", []))
HEAVY = ("torch", "numpy", "duckdb", "pyarrow", "scipy", "pydantic", "typer", "rich")


def exported() -> Iterator[str]:
    """Yield the names that a reader, or a type checker, sees `regard/__init__.py` import from the rooms."""
    for node in ast.walk(ast.parse(Path(regard.__file__).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regard."):
            yield from (alias.asname or alias.name for alias in node.names)


def test_all_lists_exactly_what_is_exported() -> None:
    assert sorted(name for name in LISTED if not name.startswith("__")) == sorted(set(exported()))


def test_all_is_sorted() -> None:
    assert sorted(LISTED) == LISTED


def test_dir_shows_what_is_listed() -> None:
    assert set(LISTED) <= set(dir(regard))


@pytest.mark.parametrize("name", [name for name in LISTED if not name.startswith("__")])
def test_public_name_is_documented(name: str) -> None:
    assert (getattr(regard, name).__doc__ or "").strip()


def test_no_public_name_is_hidden_by_a_room() -> None:
    """Importing `regard.train.loop` sets `regard.train` to the room, and a function of that name would be lost."""
    for name in LISTED:
        if importlib.util.find_spec(f"regard.{name}"):
            importlib.import_module(f"regard.{name}")
    values = {name: getattr(regard, name) for name in LISTED}
    assert [name for name, value in values.items() if isinstance(value, ModuleType) and not callable(value)] == []


def test_the_version_is_that_of_the_package() -> None:
    assert regard.__version__ == importlib.metadata.version("regard")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="recomend"):
        regard.recomend  # noqa: B018


def loaded_by(*arguments: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has imported after running with these arguments."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.split(".")[0] for line in lines}


def test_import_brings_no_library_along() -> None:
    assert loaded_by("-c", "import regard") & set(HEAVY) == set()


def test_the_measure_of_imports_works() -> None:
    assert loaded_by("-c", "import numpy") & set(HEAVY) == {"numpy"}


def test_help_does_not_wait_for_torch() -> None:
    if not Path(regard.__file__).with_name("cli").exists():
        pytest.skip("there is no command line yet")
    command = Path(sysconfig.get_path("scripts")) / "regard"
    assert os.access(command, os.X_OK), "regard is not installed in this environment"
    assert loaded_by(str(command), "--help") & {"torch", "duckdb", "pyarrow"} == set()
