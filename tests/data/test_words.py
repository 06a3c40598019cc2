"""From words to items: tokens, the chain of look-ups, weights by hand, coverage, and joining by item id."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data.events import EventLog
from regard.data.items import read_items
from regard.data.store import Dataset
from regard.data.words import WordWeights, item_texts, item_vectors, pieces, tokenise, variants
from regard.errors import InputError, SettingsError

SOURCE = {"red": [1.0, 0.0, 2.0], "nail": [0.0, 3.0, 1.0], "Paris": [5.0, 5.0, 5.0], "cafe": [2.0, 2.0, 2.0]}
SOURCE |= {"well-known": [7.0, 0.0, 0.0], "polish": [0.0, 0.0, 4.0]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OPI Nail Lacquer, 0.5-Fluid Ounce", ["OPI", "Nail", "Lacquer", "0.5-Fluid", "Ounce"]),
        ("Women's AT&amp;T (1995)", ["Women's", "AT&T", "1995"]),
        ("cafe\u0301 na\u00efve и", ["café", "naïve", "и"]),
        ("!? -- ...", []),
        ("", []),
    ],
)
def test_tokens(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


def test_the_chain_of_look_ups() -> None:
    assert list(variants("ÉTÉ")) == [
        ("exact", "ÉTÉ"),
        ("lower", "été"),
        ("title", "Été"),
        ("accent", "ETE"),
        ("accent", "ete"),
        ("accent", "Ete"),
    ]
    assert list(variants("a")) == [("exact", "a"), ("title", "A")]
    assert [pieces(word) for word in ("red/blue-ish_x", "women's", "plain", "-")] == [
        ["red", "blue", "ish", "x"],
        ["women"],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("word", "step", "expected"),
    [
        ("red", "exact", ["red"]),
        ("RED", "lower", ["red"]),
        ("PARIS", "title", ["Paris"]),
        ("Café", "accent", ["cafe"]),
        ("well-known", "exact", ["well-known"]),
        ("Red-Nail", "split", ["red", "nail"]),
        ("red-unheard", "split", ["red"]),
        ("nail's", "split", ["nail"]),
    ],
)
def test_words_are_found_step_by_step(word: str, step: str, expected: list[str]) -> None:
    found = item_vectors({"i": word}, SOURCE, weights=WordWeights.fit([], "mean"))
    np.testing.assert_allclose(found.vectors.matrix[0], np.mean([SOURCE[one] for one in expected], 0))
    assert {name: count for name, count in found.coverage.steps.items() if count} == {step: 1}


TEXTS = {"i": "Red nail red", "j": "Nail polish", "k": "unheard of", "l": "", "m": "Unheard nail"}


@pytest.mark.parametrize("kind", ["sif", "idf", "mean"])
def test_weights_and_means_by_hand(kind: str) -> None:
    counts = {"red": 2, "nail": 3, "polish": 1}  # of 9 words
    texts = {"red": 1, "nail": 3, "polish": 1}  # of 5 texts
    weight = {
        "sif": lambda word: 1e-3 / (1e-3 + counts[word] / 9),
        "idf": lambda word: math.log(6 / (1 + texts[word])) + 1,
        "mean": lambda word: 1.0,
    }[kind]
    found = item_vectors(TEXTS, SOURCE, weights=WordWeights.fit(TEXTS.values(), kind))
    expected = []
    for words in (["red", "nail", "red"], ["nail", "polish"], ["nail"]):
        weights = np.array([weight(word) for word in words])
        expected.append(weights @ np.array([SOURCE[word] for word in words]) / weights.sum())
    matrix, known = found.vectors.matrix, found.vectors.known
    np.testing.assert_allclose(matrix[[0, 1, 4]], expected, rtol=1e-6)
    assert (found.vectors.keys, known.tolist()) == (tuple(TEXTS), [True, True, False, False, True])
    np.testing.assert_allclose(matrix[[2, 3]], np.tile(np.mean(expected, 0), (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(found.mean, np.mean(expected, 0), rtol=1e-6)


def test_new_items_are_treated_like_the_old_ones() -> None:
    old = item_vectors(TEXTS, SOURCE, weights=WordWeights.fit(TEXTS.values(), "idf"))
    state = json.loads(json.dumps(old.weights.as_dict()))
    new = item_vectors(
        {"n": TEXTS["i"], "o": "polish cafe", "p": "?"}, SOURCE, weights=WordWeights(**state), mean=old.mean
    )
    np.testing.assert_array_equal(new.vectors.matrix[0], old.vectors.matrix[0])
    np.testing.assert_array_equal(new.vectors.matrix[2], old.mean.astype(np.float32))
    assert new.weights.of("cafe") == math.log(6) + 1  # not in the old texts: as rare as can be
    with pytest.raises(InputError, match="2 values, the vectors 3"):
        item_vectors(TEXTS, SOURCE, mean=np.zeros(2))


def test_coverage_by_word_item_and_event() -> None:
    told = item_vectors(TEXTS, SOURCE, events=np.array([1, 10, 100, 1000, 5])).coverage
    assert (told.words, told.distinct, told.items, told.events, told.empty) == ((6, 9), (5, 8), (3, 5), (16, 1116), 1)
    assert told.missing == {"unheard": 2, "of": 1}
    assert told.steps == {"exact": 3, "lower": 2, "title": 0, "accent": 0, "split": 0}
    assert told.line().startswith("known: 66.7% of 9 words; 62.5% of 8 distinct words; 60.0% of 5 items; 1.4% of 1,116")
    assert "unheard, of" in told.line()
    json.dumps(told.as_dict())
    assert item_vectors(TEXTS, SOURCE).coverage.events is None
    with pytest.raises(InputError, match="2 counts of events for 5 items"):
        item_vectors(TEXTS, SOURCE, events=np.array([1, 2]))


def test_vectors_that_know_no_word_are_refused() -> None:
    with pytest.raises(InputError, match="knows none of 1 words, such as 'unheard'"):
        item_vectors({"i": "unheard"}, SOURCE)
    with pytest.raises(SettingsError, match=r"no weighting 'tfidf' \(did you mean 'idf'\?\); known: sif, idf, mean"):
        WordWeights.fit([], "tfidf")  # type: ignore[arg-type]


@given(st.permutations(list(TEXTS)))
def test_the_order_of_items_changes_nothing(order: list[str]) -> None:
    base = item_vectors(TEXTS, SOURCE)
    found = item_vectors({name: TEXTS[name] for name in order}, SOURCE)
    places = [found.vectors.keys.index(name) for name in TEXTS]
    np.testing.assert_allclose(found.vectors.matrix[places], base.vectors.matrix, rtol=1e-6)


def test_texts_of_a_dataset_are_joined_by_id() -> None:
    log = EventLog.read(pa.table({"user": ["a", "a", "b"], "item": ["q", "p", "q"], "time": [1, 2, 3]}))
    items = pa.table({"id": ["new", "q", "p"], "title": ["N", "Q", None], "tags": [["x", "y"], [], None]})
    dataset = Dataset.build(log, None, items)
    texts = item_texts(dataset, ["title", "tags"])
    assert texts == {"q": "Q ", "p": "", "new": "N x y"}
    assert list(texts) == dataset.items.array.to_pylist()
    assert item_texts(dataset)["new"] == "N"
    with pytest.raises(InputError, match="expected keywords in the item table; it has id, title, tags"):
        item_texts(dataset, ["title", "keywords"])
    with pytest.raises(InputError, match="prepare it with --items FILE"):
        item_texts(Dataset.build(log, None, None))


@pytest.mark.parametrize("name", ["amazon-beauty", "ml-1m"])
def test_real_titles_meet_real_words(real_data: Callable[[str], Path], name: str) -> None:
    if name == "ml-1m":
        items = read_items(real_data("ml-1m/movies.dat"), id="1", title="2")
    else:
        items = read_items(real_data("amazon-beauty/items.csv"), id="item_id", title="title")
    titles = [title or "" for title in items["title"].to_pylist()]
    texts = dict(zip(items["id"].to_pylist(), titles, strict=True))
    found = item_vectors(texts, real_data("word-vectors/glove.6B.50d.merged7849.txt"))
    known, total = found.coverage.items
    assert known / total > 0.95
    assert np.isfinite(found.vectors.matrix).all()
    assert found.vectors.width == 50
