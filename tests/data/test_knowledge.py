"""Pretrained vectors of items: joined by id, by words where these know more, and never by the order of rows."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from regard.config import ModelSettings
from regard.data import knowledge, textencoder, words
from regard.data.events import EventLog
from regard.data.knowledge import By, Knowledge
from regard.data.store import Dataset
from regard.data.vectors import Vectors, read_vectors
from regard.data.words import Weighting
from regard.errors import InputError, SettingsError

TITLES = {"b": "red shoe", "a": "blue shoe", "c": "zzz", "d": None, "e": "red red hat"}
WORDS = {"red": [1.0, 0.0], "blue": [0.0, 1.0], "shoe": [2.0, 2.0], "hat": [4.0, 0.0]}


def shop(titles: bool = True) -> Dataset:
    log = EventLog.read(pa.table({"user": ["u"] * 4, "item": ["a", "b", "c", "a"], "time": [1, 2, 3, 4]}))
    table = {"id": list(TITLES), **({"title": list(TITLES.values())} if titles else {"price": [1.0] * 5})}
    return Dataset.build(log, None, pa.table(table))


def row(knowledge: Knowledge, dataset: Dataset, name: str) -> list[float]:
    found: list[float] = knowledge.rows[int(dataset.items.index([name])[0])].tolist()
    return found


def test_vectors_of_ids_are_joined_by_id() -> None:
    dataset = shop()
    found = Knowledge.read(dataset, {"e": [5.0, 1.0], "a": [1.0, 2.0], "nobody": [9.0, 9.0], "c": [3.0, 3.0]})
    assert found.facts["by"] == "id"
    assert (row(found, dataset, "a"), row(found, dataset, "e")) == ([1.0, 2.0], [5.0, 1.0])
    assert row(found, dataset, "b") == [0.0, 0.0]
    assert not found.known[0]
    assert found.known.sum() == 3
    assert found.facts["items"] == [3, 5]
    assert found.facts["events"] == [3, 4]  # a twice, c once


def test_words_are_averaged_where_they_know_more_items(tmp_path: Path) -> None:
    dataset = shop()
    file = tmp_path / "words.txt"
    file.write_text("".join(f"{word} {x} {y}\n" for word, (x, y) in WORDS.items()))
    found = Knowledge.read(dataset, file)
    assert found.facts["by"] == "words"
    x, y = row(found, dataset, "a")  # blue weighs at least as much as shoe, which two titles share
    assert 0 < x < y <= 2
    assert row(found, dataset, "c") == row(found, dataset, "d") == [0.0, 0.0]
    assert found.known.sum() == 3
    assert "by the words of an item: 3 of 5 items, 75.0% of the events" in found.lines()[0]
    assert "zzz" in found.lines()[1]


def by_hand(kind: str) -> dict[str, list[float]]:
    """Means of the vectors of known words, weighed as the papers say."""
    texts = [(title or "").split() for title in TITLES.values()]
    counts = Counter(word for text in texts for word in text)
    weight = {
        "sif": lambda word: 1e-3 / (1e-3 + counts[word] / counts.total()),
        "idf": lambda word: math.log((1 + len(texts)) / (1 + sum(word in text for text in texts))) + 1,
        "mean": lambda _: 1.0,
    }[kind]
    found = {}
    for name, text in zip(TITLES, texts, strict=True):
        if known := [(weight(word), np.array(WORDS[word])) for word in text if word in WORDS]:
            found[name] = (sum(w * v for w, v in known) / sum(w for w, _ in known)).tolist()
    return found


@pytest.mark.parametrize("kind", get_args(Weighting))
def test_words_are_weighed_as_asked_and_those_to_come_alike(kind: Weighting) -> None:
    dataset = shop()
    found = Knowledge.read(dataset, WORDS, weights=kind)
    for name, expected in by_hand(kind).items():
        np.testing.assert_allclose(row(found, dataset, name), expected, rtol=1e-5)
    again = Knowledge.like(dataset, found.recipe, WORDS)
    np.testing.assert_array_equal(again.rows, found.rows)
    assert found.recipe.weights is not None
    assert found.recipe.weights["kind"] == kind
    others = [other for other in get_args(Weighting) if other != kind]
    assert all(not np.allclose(Knowledge.read(dataset, WORDS, weights=one).rows, found.rows) for one in others)


def test_the_setting_has_the_names_of_the_weights() -> None:
    assert ModelSettings.model_fields["word_weights"].annotation == Weighting
    with pytest.raises(SettingsError, match=r"no weighting 'tf'; known: sif, idf, mean"):
        Knowledge.read(shop(), WORDS, weights="tf")  # type: ignore[arg-type]


def test_ids_win_where_both_know_as_many_and_a_choice_can_be_forced() -> None:
    dataset = shop()
    both = {**WORDS, **{name: [1.0, 1.0] for name in "abe"}}
    assert Knowledge.read(dataset, both).facts["by"] == "id"
    assert Knowledge.read(dataset, both, by="words").facts["by"] == "words"
    with pytest.raises(SettingsError, match=r"vectors by 'word' \(did you mean 'words'"):
        Knowledge.read(dataset, both, by="word")  # type: ignore[arg-type]


def test_ids_that_are_numbers_are_not_mistaken_for_words_of_a_source() -> None:
    """GloVe has a vector of "7" too; it says nothing of item 7."""
    log = EventLog.read(pa.table({"user": ["u"] * 3, "item": ["1", "2", "3"], "time": [1, 2, 3]}))
    table = pa.table({"id": ["1", "2", "3"], "title": ["red shoe", "blue shoe", "hat"]})
    dataset, numbers = Dataset.build(log, None, table), {name: [1.0, 1.0] for name in "123"}
    assert Knowledge.read(dataset, {**numbers, **WORDS}).facts["by"] == "words"
    assert Knowledge.read(dataset, numbers).facts["by"] == "id"
    assert Knowledge.read(dataset, {**numbers, "hat": [0.0, 1.0]}).facts["by"] == "id"


def films() -> Dataset:
    """Ids are numbers, and so are the years in titles: some of them are ids as well."""
    log = EventLog.read(pa.table({"user": ["u"] * 3, "item": ["1", "2", "1995"], "time": [1, 2, 3]}))
    years = ["1995", "1996", "1997", "2001", "2002", "1995", "1996", "1997"]
    titles = [f"Story{at} ({year})" for at, year in enumerate(years)]
    return Dataset.build(log, None, pa.table({"id": list(IDS), "title": titles}))


IDS = {name: [float(at), 1.0] for at, name in enumerate(["1", "2", "3", "4", "5", "1995", "1996", "1997"])}


@pytest.mark.parametrize("more", [0, 99])
def test_years_in_titles_do_not_make_words_of_ids(more: int) -> None:
    """A source of ids knows every title by its year, be it of this catalogue alone or of a larger one."""
    dataset, larger = films(), {str(2000 + at): [7.0, 7.0] for at in range(more)}
    found = Knowledge.read(dataset, {**IDS, **larger})
    assert (found.facts["by"], found.facts["items"]) == ("id", [8, 8])
    assert row(found, dataset, "1996") == IDS["1996"]
    asked = Knowledge.read(dataset, {**IDS, **larger}, by="words")
    assert (asked.facts["by"], row(asked, dataset, "1")) == ("words", IDS["1995"])
    part = {name: IDS[name] for name in ("1", "2", "1995")}
    assert Knowledge.read(dataset, {**part, **larger}).facts["by"] == "id"


def test_words_of_titles_win_over_numbers_among_them() -> None:
    """GloVe has nearly all numbers beside its words, and few of its rows are ids of a catalogue."""
    dataset, known = films(), {f"story{at}": [1.0, float(at)] for at in range(6)}
    glove = {**IDS, **known, **{f"word{at}": [0.0, 0.0] for at in range(40)}}
    found = Knowledge.read(dataset, glove)
    assert (found.facts["by"], found.facts["items"]) == ("words", [8, 8])
    assert Knowledge.read(dataset, glove, by="id").facts["by"] == "id"


@pytest.mark.parametrize("by", ["auto", "words", "id"])
def test_a_source_is_read_once(by: By, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def reading(source: object, keys: list[str], **options: Any) -> Vectors:
        asked.append(list(keys))
        return read_vectors(source, keys, **options)

    for module in (knowledge, words):
        monkeypatch.setattr(module, "read_vectors", reading)
    report = Knowledge.read(shop(), {**WORDS, "a": [1.0, 1.0]}, by=by).facts["report"]
    assert len(asked) == 1
    assert len(asked[0]) == len(set(asked[0]))
    assert by == "words" or set(TITLES) <= set(asked[0])
    assert report["wanted"] == len(asked[0]) - (len(TITLES) if by == "auto" else 0)
    assert (report["found"], report["read"]) == (1 if by == "id" else 4, 5)


def test_texts_go_through_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(texts: list[str], model: str, **options: object) -> np.ndarray:
        assert model == "some-model"
        return np.array([[len(text), 1.0, 0.5] for text in texts], np.float32)

    monkeypatch.setattr(textencoder, "encode", encode)
    dataset = shop()
    found = Knowledge.read(dataset, "text:some-model")
    assert row(found, dataset, "b") == [8.0, 1.0, 0.5]
    assert found.known.sum() == 4
    assert "from the text of an item" in found.lines()[0]
    with pytest.raises(InputError, match=r"text:some-model reads the texts of items.*leave out --vectors-by \(by=\)"):
        Knowledge.read(dataset, "text:some-model", by="words")
    with pytest.raises(InputError, match=r"text:some-model reads the texts of items.*leave out --vector-ids \(ids=\)"):
        Knowledge.read(dataset, "text:some-model", ids=["b"])


def test_what_tells_vectors_apart() -> None:
    dataset = shop()
    one, two = ({"a": [1.0, 2.0], "b": [1.0, last]} for last in (3.0, 4.0))
    assert Knowledge.read(dataset, one).fingerprint == Knowledge.read(dataset, dict(one)).fingerprint
    assert Knowledge.read(dataset, one).fingerprint != Knowledge.read(dataset, two).fingerprint


@pytest.mark.parametrize("titles", [True, False])
def test_vectors_that_know_nothing_are_refused(titles: bool) -> None:
    with pytest.raises(InputError, match=r"knows none of .*, such as '"):
        Knowledge.read(shop(titles), {"elsewhere": [1.0, 2.0]})


def test_what_is_odd_in_a_source_is_told_before_training(tmp_path: Path) -> None:
    file = tmp_path / "cut.vec"
    file.write_text("9 2\nred 1.0 0.0\nshoe 2.0 2.0")
    said = Knowledge.read(shop(), file).lines()[2:]
    assert [line.startswith(f"note: {file}: the ") for line in said] == [True, True]
    assert "promises 9 vectors, 2 came" in said[0]
    assert "the last line has no end" in said[1]
    file.write_bytes(b"red 1.0 0.0\nred 9.0 9.0\nshoe 2.0 2.0\nclich\xe9s 1.0 1.0\n")
    assert Knowledge.read(shop(), file).lines()[2:] == [
        f"note: {file}: 1 rows repeat a wanted key; its first row counts",
        f"note: {file}: 1 keys are not UTF-8, so nothing finds them",
    ]


def test_where_vectors_were_read_holds_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = shop()
    (tmp_path / "v.txt").write_text("a 1.0 2.0\nb 2.0 1.0\nu 3.0 4.0\n")
    monkeypatch.chdir(tmp_path)
    recipes = Knowledge.read(dataset, "v.txt", by="id").recipe, Knowledge.of_users(dataset, "v.txt").recipe
    assert [one.source for one in recipes] == [str(tmp_path / "v.txt")] * 2
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Knowledge.like(dataset, recipes[1], whose="users")
    assert again.rows[int(dataset.users.index(["u"])[0])].tolist() == [3.0, 4.0]
    assert Knowledge.of_users(dataset, {"u": [1.0]}).recipe.source is None


def test_a_log_is_no_table_of_vectors(tmp_path: Path) -> None:
    """Its first column has ids too, but of users, and each many times."""
    rows = [f"{name}\t{at}\t{at % 5}.5" for at in range(12) for name in "abc"]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"u.data is no table of vectors: 33 rows repeat the key of an earlier one"):
        Knowledge.read(shop(), str(tmp_path / "u.data"))


@pytest.mark.parametrize("by", ["auto", "id"])
def test_ids_that_may_be_words_are_told_where_items_have_no_titles(by: By) -> None:
    log = EventLog.read(pa.table({"user": ["u"] * 3, "item": ["1", "2", "3"], "time": [1, 2, 3]}))
    numbers = {name: [1.0, 1.0] for name in "123"}
    for source, doubtful in (({**numbers, **WORDS}, True), (numbers, False)):
        lines = Knowledge.read(Dataset.build(log, None), source, by=by).lines()
        found = any("3 of its 7 keys are ids of items, which are numbers" in line for line in lines)
        assert found == (doubtful and by == "auto")
