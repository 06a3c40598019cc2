"""Folders are whole or absent, and nothing of somebody else's is ever removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.errors import StorageError
from regard.manifest import check_free, damaged_files, new_file, new_folder, read_manifest, write_manifest


def made(path: Path, text: str = "one") -> Path:
    with new_folder(path, "run", ("extra-*",)) as aside:
        (aside / "a.txt").write_text(text)
        write_manifest(aside, "run", {"told": text})
    return path


def test_a_folder_is_replaced_by_one_of_its_kind_only_when_it_is_complete(tmp_path: Path) -> None:
    path = made(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), new_folder(path, "run") as aside:
        (aside / "a.txt").write_text(str(1 // 0))
    assert read_manifest(path, "run")["told"] == "one"
    made(path, "two")
    assert (path / "a.txt").read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_what_is_not_ours_is_refused_and_stays(tmp_path: Path) -> None:
    path = made(tmp_path / "out")
    (path / "extra-1").write_text("ours, written later")
    check_free(path, "run", ("extra-*",))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds more than a run \(notes.txt\)"):
        made(path)
    assert (path / "notes.txt").read_text() == "mine"
    with pytest.raises(StorageError, match="exists and is not a dataset"):
        check_free(path, "dataset")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="exists and is not a run"):
        check_free(tmp_path / "file", "run")
    with pytest.raises(StorageError, match="is not a run"):
        check_free(tmp_path, "run")


def test_damage_is_found(tmp_path: Path) -> None:
    path = made(tmp_path / "out")
    assert damaged_files(path, "run") == []
    (path / "a.txt").write_text("onx")
    assert damaged_files(path, "run") == ["a.txt"]
    (path / "a.txt").write_text("longer")
    with pytest.raises(StorageError, match="not 3 bytes long"):
        read_manifest(path, "run")


def test_a_file_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(path) as aside:
        aside.write_text(str(1 // 0))
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
