"""Files of word vectors: every format by its content, every trap of the formats, on made-up and on real files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data import vectorfile, vectorkind
from regard.data.vectorkind import kind_of
from regard.data.vectors import read_vectors
from regard.errors import InputError

WIDTH = 3
WORDS = {"the": [0.418, -0.25, 1.5], "to": [1e-5, 2.0, -3.25], "café": [0.1, 0.2, 0.3]}


def text_of(words: dict[str, list[float]], end: str = "\n") -> bytes:
    return "".join(f"{word} {' '.join(map(str, values))}{end}" for word, values in words.items()).encode()


def binary_of(words: dict[str, list[float]], end: bytes = b"\n") -> bytes:
    head = f"{len(words)} {len(next(iter(words.values())))}\n".encode()
    return head + b"".join(w.encode() + b" " + np.array(v, "<f4").tobytes() + end for w, v in words.items())


def file_of(folder: Path, content: bytes, name: str = "vectors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


HEADED = b"3 3\n" + text_of(WORDS)
FORMS = {
    "glove": ("glove", text_of(WORDS)),
    "glove, no last line end": ("glove", text_of(WORDS)[:-1]),
    "glove, windows line ends": ("glove", text_of(WORDS, "\r\n")),
    "glove, byte order mark": ("glove", b"\xef\xbb\xbf" + text_of(WORDS)),
    "glove, tabs": ("glove", text_of(WORDS).replace(b" ", b"\t")),
    "glove, two blanks": ("glove", text_of(WORDS).replace(b" ", b"  ")),
    "glove, blank lines": ("glove", text_of(WORDS).replace(b"\n", b"\n\n")),
    "word2vec": ("word2vec text", HEADED),
    "word2vec, byte order mark": ("word2vec text", b"\xef\xbb\xbf" + HEADED),
    "fasttext, blanks at line ends": ("word2vec text", b"3 3\n" + text_of(WORDS, " \n")),
    "binary": ("word2vec binary", binary_of(WORDS)),
    "binary without line ends": ("word2vec binary", binary_of(WORDS, b"")),
    "gzip": ("glove", gzip.compress(text_of(WORDS))),
    "gzip of binary": ("word2vec binary", gzip.compress(binary_of(WORDS))),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_every_form_gives_the_same_vectors(
    tmp_path: Path, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectorkind, "_BLOCK", block)
    monkeypatch.setattr(vectorfile.blocks, "__defaults__", (block,))
    form, content = FORMS[name]
    found = read_vectors(file_of(tmp_path, content, "of-no-known-name"), ["café", "unseen", "the", "the"])
    np.testing.assert_array_equal(found.matrix, np.array([WORDS["café"], [0] * 3, WORDS["the"], WORDS["the"]], "f4"))
    assert (found.matrix.dtype, found.known.tolist()) == (np.float32, [True, False, True, True])
    report = found.report
    assert (report.format, report.width, report.read, report.wanted, report.found) == (form, 3, 3, 3, 2)
    assert (report.duplicates, report.undecodable) == (0, 0)


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=4)


@settings(max_examples=30)
@given(st.dictionaries(names, st.lists(floats, min_size=5, max_size=5), min_size=1, max_size=12), st.booleans())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, words, is_binary) -> None:
    content = binary_of(words) if is_binary else f"{len(words)} 5\n".encode() + text_of(words)
    found = read_vectors(file_of(tmp_path_factory.mktemp("v"), content), words)
    np.testing.assert_array_equal(found.matrix, np.array(list(words.values()), np.float32))
    assert found.report.read == len(words)
    assert found.known.all()


def test_words_with_spaces_are_counted_from_the_end(tmp_path: Path) -> None:
    words = {". . .": [0.1, 0.2, 0.3], "at name@domain.com": [1.0, 2.0, 3.0], "a\u00a0b": [4.0, 5.0, 6.0]}
    words |= {"\u0085": [7.0, 8.0, 9.0], "windows 10": [1.5, 2.5, 3.5], ".": [9.0, 9.0, 9.0]}
    for content in (text_of(words), b"6 3\n" + text_of(words)):
        found = read_vectors(file_of(tmp_path, content), words)
        np.testing.assert_array_equal(found.matrix, np.array(list(words.values()), np.float32))
        assert found.report.read == 6


def test_words_that_are_numbers_are_words(tmp_path: Path) -> None:
    words = {"7": [0.1, 0.2, 0.3], "0.5": [0.4, 0.5, 0.6], "nan": [0.7, 0.8, 0.9]}
    found = read_vectors(file_of(tmp_path, text_of(words)), words)
    np.testing.assert_array_equal(found.matrix, np.array(list(words.values()), np.float32))


def test_a_first_row_of_two_numbers_is_a_header_only_if_rows_fit_it(tmp_path: Path) -> None:
    narrow = read_vectors(file_of(tmp_path, b"7 3\n8 4\n9 5\n"), ["7", "9"])
    assert (narrow.report.format, narrow.matrix.tolist()) == ("glove", [[3.0], [5.0]])
    assert kind_of(file_of(tmp_path, b"2 1\n8 4\n9 5\n")).entries == 2


def test_a_row_without_a_word_is_a_row(tmp_path: Path) -> None:
    found = read_vectors(file_of(tmp_path, text_of(WORDS) + b" 0.1 0.2 0.3\n"), WORDS)
    assert (found.report.read, found.report.found) == (4, 3)


def test_of_repeated_words_the_first_counts(tmp_path: Path) -> None:
    again = {"the": [9.0, 9.0, 9.0], "other": [1.0, 1.0, 1.0]}
    for content in (text_of(WORDS) + text_of(again), binary_of(WORDS).replace(b"3 3", b"5 3") + binary_of(again)[4:]):
        found = read_vectors(file_of(tmp_path, content), ["the"])
        np.testing.assert_array_equal(found.matrix[0], np.float32(WORDS["the"]))
        assert (found.report.duplicates, found.report.read) == (1, 5)
        assert found.report.notes == ("1 rows repeat a wanted key; its first row counts",)


def test_words_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    content = text_of(WORDS) + b"clich\xe9s 1 2 3\n\x97 1 2 3\n"
    found = read_vectors(file_of(tmp_path, content), ["café", "clich\ufffds", "lone\ud800"])
    assert (found.known.tolist(), found.report.undecodable, found.report.read) == ([True, False, False], 2, 5)
    assert found.report.notes == ("2 keys are not UTF-8, so nothing finds them",)
    binary = binary_of(WORDS).replace("café".encode(), b"caf\xe9")
    assert read_vectors(file_of(tmp_path, binary), ["the"]).report.undecodable == 1


def test_rows_of_another_width_are_counted_however_few_decimals_their_numbers_have(tmp_path: Path) -> None:
    """Nothing tells `shoe 0.1 0.2 0.5 0.4` from a word `shoe 0.1` with three numbers, or `windows 10` from a row."""
    rows = [f"i{at} 0.{at} 0.2 0.{at}" + " 0.4" * (at % 3 == 1) for at in range(9)]
    content = "\n".join([*rows, "windows 10 1 2 3", "now here 1 2 3", ""]).encode()
    for head, line in ((b"", 2), (b"11 3\n", 3)):
        found = read_vectors(file_of(tmp_path, head + content), [f"i{at}" for at in range(9)])
        assert found.known.tolist() == [at % 3 != 1 for at in range(9)]
        told = f"4 rows have more than 3 numbers, the first in line {line}; what comes before the last 3 was read as a "
        assert found.report.notes == (told + "word with blanks",)
    wanted = read_vectors(file_of(tmp_path, content), ["windows 10"])
    assert wanted.matrix.tolist() == [[1.0, 2.0, 3.0]]
    assert "3 rows have more" in wanted.report.notes[0]  # what is wanted with its blank is no such row


def test_a_first_line_that_promises_otherwise_is_noted(tmp_path: Path) -> None:
    found = read_vectors(file_of(tmp_path, b"5 3\n" + text_of(WORDS)), ["the"])
    assert found.report.notes == ("the first line promises 5 vectors, 3 came",)


NO_END = "the last line has no end: if the file was cut off there, its last number is wrong"


@pytest.mark.parametrize("head", [b"", b"3 3\n", b"\xef\xbb\xbf3 3\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_last_line_without_an_end_may_be_cut_and_is_noted(
    tmp_path: Path, head: bytes, pack: Callable[[bytes], bytes]
) -> None:
    """Nothing tells a file that was cut inside its last number from one that was written so."""
    words = {**WORDS, "last": [1.25, 2.5, 3.125]}
    whole = head.replace(b"3 3", b"4 3") + text_of(words)
    ended = read_vectors(file_of(tmp_path, pack(whole)), words)
    bare = read_vectors(file_of(tmp_path, pack(whole[:-1])), words)
    cut = read_vectors(file_of(tmp_path, pack(whole[:-3])), words)
    assert (ended.report.notes, bare.report.notes, cut.report.notes) == ((), (NO_END,), (NO_END,))
    np.testing.assert_array_equal(bare.matrix, ended.matrix)
    np.testing.assert_array_equal(cut.matrix[:-1], ended.matrix[:-1])
    assert cut.matrix[-1].tolist() == [1.25, 2.5, np.float32(3.1)]
    promised = read_vectors(file_of(tmp_path, b"5 3\n" + text_of(WORDS)[:-1]), words)
    assert promised.report.notes == ("the first line promises 5 vectors, 3 came", NO_END)


REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "prose": (b"It was the best of times,\nit was the worst\n", "no file of vectors"),
    "image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no file of vectors"),
    "zip": (b"PK\x03\x04" + b"glove.6B.50d.txt" * 20, "zip archive; unpack it"),
    "bzip2": (b"BZh91AY", "bzip2"),
    "cut row": (text_of(WORDS) + b"of 0.5 0.5", "line 4: 2 numbers after the word, expected 3"),
    "narrow row": (text_of(WORDS) + b"of 0.5\nin 1 2 3\n", "line 4: 1 numbers after the word, expected 3"),
    "wide row": (text_of(WORDS) + b"of 0.125 0.525 0.1 0.2\n", "line 4: 4 numbers after the word, expected 3"),
    "narrower than promised": (b"3 4\n" + text_of(WORDS), "line 2: 3 numbers.*expected 4 as the first line says"),
    "wider than promised": (b"3 2\n" + text_of({"the": [0.418, 0.25, 1.0]}), "line 2: 3 numbers.*expected 2"),
    "no width": (b"3 0\n" + text_of(WORDS), "vectors of 0 values"),
    "too wide": (b"1 99999999\nthe 0.1 0.2\n", "vectors of 99999999 values"),
    "nan": (text_of(WORDS | {"the": [1.0, float("nan"), 2.0]}), "line 1: the vector of 'the' holds nan or inf"),
    "beyond float32": (text_of(WORDS | {"the": [1.0, 1e39, 2.0]}), "line 1: the vector of 'the' holds nan or inf"),
    "not a number": (text_of(WORDS) + text_of(WORDS).replace(b"the 0.418", b"of 0.4x8"), "line 4"),
    "cut binary": (binary_of(WORDS)[:-5], "vector 3 of 3, byte 36: the file ends within it"),
    "binary of fewer": (binary_of(WORDS).replace(b"3 3", b"9 3"), "vector 4 of 9"),
    "binary of more": (binary_of(WORDS).replace(b"3 3", b"2 3"), "bytes are left after all 2 vectors"),
    "binary of another width": (binary_of(WORDS).replace(b"3 3", b"3 2"), "first line"),
    "binary nan": (binary_of(WORDS | {"the": [1.0, float("inf"), 2.0]}), "vector 1, byte 4: the vector of 'the'"),
    "cut gzip": (gzip.compress(text_of(WORDS) * 99)[:-20], "cannot read"),
    "gzip of a table": (gzip.compress(b"PAR1" * 9), "parquet file packed by gzip; unpack"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        read_vectors(file_of(tmp_path, content), ["the", "of"])
    assert "\n" not in str(caught.value)
    assert name == "nan" or str(tmp_path) in str(caught.value)


def test_nan_in_a_row_that_nobody_wants_is_no_harm(tmp_path: Path) -> None:
    content = text_of(WORDS | {"to": [float("nan"), 1.0, 1.0]})
    assert read_vectors(file_of(tmp_path, content), ["the"]).known.all()


def test_a_line_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorfile, "_LONGEST_LINE", 1 << 10)
    monkeypatch.setattr(vectorfile.blocks, "__defaults__", (1 << 9,))
    with pytest.raises(InputError, match="a line of more than"):
        read_vectors(file_of(tmp_path, b"word" + b" 0.1" * 2000), ["the"])


REAL = [  # file, format, width, entries, undecodable, wanted words that are there
    ("glove.6B.50d.merged7849.txt", "glove", 50, 7849, 0, ["the", "\u2013"]),
    ("glove.6B.50d.top2446.txt", "glove", 50, 2446, 5, ["the", "of"]),
    ("glove.6B.50d.mid5403.txt", "glove", 50, 5403, 0, ["involves"]),
    ("formats/test_glove.txt", "glove", 50, 76, 0, ["the"]),
    ("formats/word2vec_pre_kv_c", "word2vec text", 10, 1750, 0, ["the", "to"]),
    ("formats/EN.1-10.cbow1_wind5_hs0_neg10_size300_smpl1e-05.txt", "word2vec text", 300, 20, 0, ["one"]),
    ("formats/high_precision.kv.txt", "word2vec text", 2, 2, 0, ["kangaroo.n.01", "horse.n.01"]),
    ("formats/high_precision.kv.bin", "word2vec binary", 2, 2, 0, ["kangaroo.n.01", "horse.n.01"]),
    ("formats/euclidean_vectors.bin", "word2vec binary", 10, 2747, 0, ["the", "of"]),
    ("formats/crime-and-punishment.vec", "word2vec text", 5, 291, 0, ["и", "на"]),
    ("formats/pang_lee_polarity_fasttext.vec", "word2vec text", 100, 1694, 5, [".", "the"]),
    ("formats/lee_fasttext.vec", "word2vec text", 10, 1762, 0, ["the", "to"]),
    ("formats/toy-model.vec", "word2vec text", 5, 22, 0, ["of", "and"]),
    ("formats/pretrained.vec", "word2vec text", 5, 1, 0, ["dummy"]),
]


@pytest.mark.parametrize(("name", "form", "width", "read", "undecodable", "there"), REAL)
def test_real_files(
    real_data: Callable[[str], Path],
    name: str,
    form: str,
    width: int,
    read: int,
    undecodable: int,
    there: list[str],
) -> None:
    path = real_data(f"word-vectors/{name}")
    found = read_vectors(path, [*there, "no such word"])
    report = found.report
    assert (report.format, report.width, report.read, report.undecodable) == (form, width, read, undecodable)
    assert found.known.tolist() == [True] * len(there) + [False]
    if "text" in form or form == "glove":  # taken apart in the plainest way
        lines = [line.split(" ") for line in path.read_bytes().decode("utf-8", "replace").split("\n")]
        rows = {line[0]: line[1 : width + 1] for line in lines if len(line) > 2}
        np.testing.assert_array_equal(found.matrix[:-1], np.array([rows[word] for word in there]).astype(np.float32))
        assert (NO_END in report.notes) == (not path.read_bytes().endswith(b"\n"))
        last = [line[0] for line in lines if len(line) > 2][-1]  # what ends without a line end is read as it stands
        np.testing.assert_array_equal(read_vectors(path, [last]).matrix, np.array([rows[last]]).astype(np.float32))


def test_the_same_vectors_in_text_and_binary(real_data: Callable[[str], Path]) -> None:
    wanted = ["kangaroo.n.01", "horse.n.01"]
    text, binary = (
        read_vectors(real_data(f"word-vectors/formats/high_precision.kv.{end}"), wanted) for end in ("txt", "bin")
    )
    np.testing.assert_allclose(text.matrix, binary.matrix, atol=3e-7)  # its values were rounded to half precision


def test_a_real_file_cut_off_is_refused(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    for name, place in (("glove.6B.50d.top2446.txt", "line "), ("formats/euclidean_vectors.bin", "byte ")):
        content = real_data(f"word-vectors/{name}").read_bytes()
        with pytest.raises(InputError, match=place):
            read_vectors(file_of(tmp_path, content[: len(content) // 2 + 11]), ["the"])


@pytest.mark.parametrize("name", ["cp852", "lee", "toy", "crime", "non_ascii", "pang_lee"])
def test_native_fasttext_is_recognised_old_and_new(real_data: Callable[[str], Path], name: str) -> None:
    folder = real_data("word-vectors/formats")
    path = next(iter(folder.glob(f"{name}*.bin")))
    assert kind_of(path).name == "fasttext"
