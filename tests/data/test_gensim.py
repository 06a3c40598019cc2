"""Vectors through gensim: its objects without it, its files and downloads only where they are trusted."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest

from conftest import missing
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
        if name == "offline":  # gensim has no list of names yet, and looks for it where it keeps one
            raise ValueError(
                "unable to read local cache '/root/gensim-data/information.json' during fallback, connect to the "
                "Internet and retry"
            )
        if name == "offline, listed":
            raise URLError("no route to host")
        if name == "nothing":
            raise ValueError("Incorrect model/corpus name")
        if name == "damaged":
            raise Exception("Checksum comparison failed, try again")
        return KEYED

    gensim(monkeypatch, load=load)
    with pytest.raises(InputError, match=r"run it.*--trust"):
        read_vectors("gensim:glove-wiki-gigaword-100", WANTED)
    assert read_vectors("gensim:glove-wiki-gigaword-100", WANTED, trust=True).report.found == 2
    for name, said in (("offline", "Internet"), ("offline, listed", "no route to host"), ("damaged", "Checksum")):
        with pytest.raises(InputError, match=rf"could not fetch '{name}' \(.*{said}.*no network, .* give its path"):
            read_vectors(f"gensim:{name}", WANTED, trust=True)
    with pytest.raises(InputError, match="does not know 'nothing'"):
        read_vectors("gensim:nothing", WANTED, trust=True)
    gensim(monkeypatch)
    with pytest.raises(InputError, match="needs gensim"):
        read_vectors("gensim:glove-wiki-gigaword-100", WANTED, trust=True)


def test_native_fasttext_goes_through_gensim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(fasttext())
    gensim(monkeypatch, load_facebook_vectors=lambda path: KEYED)
    assert read_vectors(path, WANTED).report.format == "fasttext"
    gensim(monkeypatch)
    with pytest.raises(InputError, match="native fastText model, which needs gensim"):
        read_vectors(path, WANTED)


def fasttext(new: bool = True, entries: int = 2, labels: int = 0, quantised: bool = False) -> bytes:
    """Two words and an n-gram, five values each, as fastText saves them: args.cc, dictionary.cc, matrix.cc."""
    head = struct.pack("<2i", 793712314, 12) if new else b""
    settings = struct.pack("<12id", 5, 5, 5, 1, 5, 1, 1, 2, 1, 3, 6, 100, 1e-4)
    words = struct.pack("<3iq", entries, 2, labels, 9) + (struct.pack("<q", -1) if new else b"")
    words += b"".join(word.encode() + b"\0" + struct.pack("<qb", 3, 0) for word in ("ü", "a"))
    rows = struct.pack("<2q", 3, 5) + MATRIX[:3].tobytes()
    return head + settings + words + (struct.pack("<?", quantised) if new else b"") + rows


@pytest.mark.parametrize("new", [True, False])
def test_damaged_fasttext_is_refused_before_gensim_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    """gensim reads on for ever where a word has no end."""
    read: list[str] = []
    gensim(monkeypatch, load_facebook_vectors=lambda path: read.append(path) or KEYED)
    path, whole = tmp_path / "model.bin", fasttext(new)
    for length in range(60, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cannot be read as a fastText model: .*\.vec file"):
            read_vectors(path, WANTED)
    for odd, said in (
        (fasttext(new, entries=2**31 - 1), "damaged"),
        (fasttext(new, labels=1), "supervised"),
        (fasttext(quantised=True), "quantised"),
        (whole.replace(struct.pack("<2q", 3, 5), struct.pack("<2q", 3, 7)), "3 vectors of 7 values"),
        (whole.replace(struct.pack("<2q", 3, 5), struct.pack("<2q", 2**60, 5)), "damaged"),
    ):
        path.write_bytes(odd)
        with pytest.raises(InputError, match=said):
            read_vectors(path, WANTED)
    assert not read
    path.write_bytes(whole)
    assert read_vectors(path, WANTED).report.found == 2


@pytest.mark.parametrize("error", [UnpicklingError("cut"), ModuleNotFoundError(), struct.error("4 bytes"), KeyError()])
def test_whatever_gensim_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(path: str) -> object:
        raise error

    gensim(monkeypatch, KeyedVectors=SimpleNamespace(load=load), load_facebook_vectors=load)
    (tmp_path / "model.bin").write_bytes(fasttext())
    for path in (pickled(tmp_path), tmp_path / "model.bin"):
        with pytest.raises(InputError, match=f"gensim cannot .*{type(error).__name__}") as caught:
            read_vectors(path, WANTED, trust=True)
        assert "\n" not in str(caught.value)


def test_real_gensim_agrees(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    if not find_spec("gensim"):
        missing("gensim", required="gensim")
    models = import_module("gensim.models")
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
    (tmp_path / "model.bin").write_bytes(fasttext())
    ours = read_vectors(tmp_path / "model.bin", ["a", "ü"])
    np.testing.assert_array_equal(
        ours.matrix, models.fasttext.load_facebook_vectors(str(tmp_path / "model.bin")).vectors[[1, 0]]
    )
    whole = (tmp_path / "saved.kv").read_bytes()
    for length in (1, 60, len(whole) // 2, len(whole) - 1):
        (tmp_path / "saved.kv").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_vectors(tmp_path / "saved.kv", wanted, trust=True)
