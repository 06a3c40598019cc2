"""Vectors through gensim: its objects without it, its files and downloads only where they are trusted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from regard.data.vectors import read_vectors
from regard.errors import InputError

IDS = ["b", "a", "7", "ü"]
MATRIX = np.arange(20, dtype=np.float32).reshape(4, 5) - 7.5
WANTED = ["ü", "new", "a"]
KEYED = SimpleNamespace(index_to_key=IDS, vectors=MATRIX)


@pytest.mark.parametrize("source", [KEYED, SimpleNamespace(wv=KEYED)])
def test_gensims_objects_are_read_without_gensim(source: object) -> None:
    found = read_vectors(source, WANTED)
    np.testing.assert_array_equal(found.matrix[[0, 2]], MATRIX[[3, 1]])
    assert found.report.format == "gensim KeyedVectors"


def gensim(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """Put a stand-in for gensim in its place, or nothing that can be imported."""
    for name in ("gensim", "gensim.models", "gensim.models.fasttext", "gensim.downloader"):
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module if parts else None)
    if parts:
        sys.modules["gensim"].downloader = sys.modules["gensim.downloader"]  # type: ignore[attr-defined]


def pickled(folder: Path) -> Path:
    path = folder / "vectors.kv"
    path.write_bytes(b"\x80\x04\x95" + bytes(40))
    return path


def test_pickles_need_trust_and_gensim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(path: str) -> object:
        loaded.append(path)
        return SimpleNamespace(wv=KEYED)

    gensim(monkeypatch, KeyedVectors=SimpleNamespace(load=load))
    with pytest.raises(InputError, match=r"pickle.*--trust"):
        read_vectors(pickled(tmp_path), WANTED)
    assert not loaded
    assert read_vectors(pickled(tmp_path), WANTED, trust=True).known.tolist() == [True, False, True]
    gensim(monkeypatch)
    with pytest.raises(InputError, match=r"pip install 'regard\[gensim\]'"):
        read_vectors(pickled(tmp_path), WANTED, trust=True)


def test_the_downloader_needs_trust_gensim_and_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        if name == "offline":
            raise OSError("no route to host")
        if name == "nothing":
            raise ValueError("unknown")
        return KEYED

    gensim(monkeypatch, load=load)
    with pytest.raises(InputError, match=r"run it.*--trust"):
        read_vectors("gensim:glove-wiki-gigaword-100", WANTED)
    assert read_vectors("gensim:glove-wiki-gigaword-100", WANTED, trust=True).report.found == 2
    with pytest.raises(InputError, match=r"no route to host.*give its path"):
        read_vectors("gensim:offline", WANTED, trust=True)
    with pytest.raises(InputError, match="does not know 'nothing'"):
        read_vectors("gensim:nothing", WANTED, trust=True)
    gensim(monkeypatch)
    with pytest.raises(InputError, match="needs gensim"):
        read_vectors("gensim:glove-wiki-gigaword-100", WANTED, trust=True)


def test_native_fasttext_goes_through_gensim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes((793712314).to_bytes(4, "little") + bytes(60))
    gensim(monkeypatch, load_facebook_vectors=lambda path: KEYED)
    assert read_vectors(path, WANTED).report.format == "fasttext"
    gensim(monkeypatch)
    with pytest.raises(InputError, match="native fastText model, which needs gensim"):
        read_vectors(path, WANTED)


def test_real_gensim_agrees(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    path = real_data("word-vectors/formats/word2vec_pre_kv_c")
    theirs = models.KeyedVectors.load_word2vec_format(str(path))
    wanted = theirs.index_to_key[:50]
    np.testing.assert_array_equal(read_vectors(path, wanted).matrix, read_vectors(theirs, wanted).matrix)
    theirs.save(str(tmp_path / "saved.kv"))
    again = read_vectors(tmp_path / "saved.kv", wanted, trust=True)
    np.testing.assert_array_equal(again.matrix, theirs[wanted])
    native = read_vectors(real_data("word-vectors/formats/lee_fasttext.bin"), ["the", "to"])
    text = read_vectors(real_data("word-vectors/formats/lee_fasttext.vec"), ["the", "to"])
    np.testing.assert_allclose(native.matrix, text.matrix, atol=1e-4)
