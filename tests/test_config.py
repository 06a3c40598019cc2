"""Settings: who is blamed for a mistake, and what short texts stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.config import Settings
from regard.errors import SettingsError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text('[model]\nwidth = 8\nattributes = ["brand"]\n[evaluate]\nk = 5\n', encoding="utf-8")
    return path


def test_an_assignment_goes_on_top_of_the_file_and_leaves_the_rest(small: Path) -> None:
    found = Settings.read(small, ["model.width=16", "train.epochs=3"])
    told = {"model": {"width": 16, "attributes": ("brand",)}, "evaluate": {"k": (5,)}, "train": {"epochs": 3}}
    assert found.model_dump(exclude_unset=True) == told


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.width=abc", "model.width: input should be a valid integer"),
        ("model.widht=3", "did you mean 'width'"),
        ("modle.width=3", "unknown setting 'modle'"),
    ],
)
def test_a_mistake_of_an_assignment_is_not_blamed_on_the_file(small: Path, assignment: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as said:
        Settings.read(small, [assignment])
    assert str(said.value).startswith("--set: ")
    assert "small.toml" not in str(said.value)


@pytest.mark.parametrize("assignments", [[], ["model.width=16"], ["model.heads=abc"]])
def test_a_mistake_of_the_file_is_blamed_on_it_whatever_is_assigned(tmp_path: Path, assignments: list[str]) -> None:
    (tmp_path / "bad.toml").write_text('[model]\nwidth = "wide"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"bad\.toml: model\.width: input should be a valid integer.*'wide'"):
        Settings.read(tmp_path / "bad.toml", assignments)


def test_an_empty_text_is_the_empty_list(small: Path) -> None:
    found = Settings.read(small, ["model.attributes=", "data.histories= ", "model.unit_hidden="])
    assert (found.model.attributes, found.data.histories, found.model.unit_hidden) == ((), (), ())


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.width=", "model.width: input should be a valid integer"),
        ("model.positions=", "model.positions: input should be 'learned'"),
        ("train.zero_shot=", "train.zero_shot: input should be a valid boolean"),
        ("evaluate.k=", "evaluate.k: tuple should have at least 1 item"),
    ],
)
def test_an_empty_text_is_an_error_where_something_is_needed(assignment: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings().changed([assignment])


@pytest.mark.parametrize("name", ["context", "attributes", "user_attributes"])
def test_a_column_is_named_once(name: str) -> None:
    assert getattr(Settings().changed([f"model.{name}=Hour,hour"]).model, name) == ("Hour", "hour")
    words = rf"^--set: model\.{name}: expected each column once, and Hour is named twice; got \['Hour', 'd', 'Hour'\]$"
    with pytest.raises(SettingsError, match=words):
        Settings().changed([f"model.{name}=Hour,d,Hour"])


def test_a_preset_is_written_out_and_what_is_told_beside_it_wins() -> None:
    gated, timed = Settings().changed(["model.name=gated"]), Settings().changed(["model.name=time-attention"])
    assert (gated.model.name, gated.model.residual) == ("self-attention", "gated")
    assert (timed.model.name, timed.model.time_bias) == ("hstu", True)
    assert Settings().changed(["model.time_bias=false", "model.name=time-attention"]).model.time_bias is False
    assert gated.changed(["model.width=64"]).model.residual == "gated"  # told, so no rule by size replaces it


def test_a_comma_is_no_end_of_a_text() -> None:
    assert Settings().changed(["data.split=random:0.9,0.05,0.05"]).data.split == "random:0.9,0.05,0.05"
    assert Settings().changed(["model.attributes=a,b"]).model.attributes == ("a", "b")
