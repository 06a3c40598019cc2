"""Ids and indexes: 0 is unknown, what is known keeps its number."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data import vocabulary
from regard.data.vocabulary import Vocabulary

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("many", [1, 10**9])
@given(st.lists(texts, max_size=30), st.lists(texts, max_size=30))
def test_ids_and_indexes_are_each_other(many, known, asked):
    before, vocabulary._MANY = vocabulary._MANY, many
    try:
        words = Vocabulary.of(known)
        distinct = list(dict.fromkeys(known))
        assert len(words) == len(distinct)
        assert words.ids(range(1, len(words) + 1)) == distinct
        assert [words.id(n) for n in range(1, len(words) + 1)] == distinct
        expected = [distinct.index(word) + 1 if word in distinct else 0 for word in known + asked]
        for given_as in (list, pa.array, lambda ids: pa.array(ids, pa.string_view())):
            ids = given_as(known + asked) if known + asked else []
            found = words.index(ids)
            assert (found.tolist(), found.dtype) == (expected, "int64")
    finally:
        vocabulary._MANY = before


@given(st.lists(texts, max_size=20), st.lists(texts, max_size=20))
def test_growing_renumbers_nothing(known, fresh):
    words = Vocabulary.of(known)
    grown = words.grown(fresh)
    assert grown.ids(range(1, len(words) + 1)) == words.ids(range(1, len(words) + 1))
    assert grown == Vocabulary.of(known + fresh)
    assert (grown == words) == (len(grown) == len(words))


def test_indexes_that_mean_nothing():
    words = Vocabulary.of(["a", "b"])
    for wrong in (0, 3, -1):
        with pytest.raises(IndexError, match=r"1\.\.2"):
            words.id(wrong)
        with pytest.raises(IndexError, match=r"1\.\.2"):
            words.ids([1, wrong])
    assert words.ids([]) == []
    assert words.index(["A", "a "]).tolist() == [0, 0]


def test_what_it_is_made_of():
    pieces = pa.chunked_array([["a"], ["b", "c"]])
    assert Vocabulary(pieces) == Vocabulary.of("abc") == Vocabulary(pa.array(["x", "a", "b", "c"]).slice(1))
    assert len(Vocabulary(pa.chunked_array([], pa.string()))) == 0


def test_hashes_are_written_in_stone():
    """Trained runs depend on them."""
    ids = ["p-1", "Bönd", "", "日本"]
    found = Vocabulary.of(ids).hashed(1000, 2)
    assert (found.dtype, found.shape, found[0].tolist()) == ("int32", (5, 2), [0, 0])
    for name, rows in zip(ids, found[1:].tolist(), strict=True):
        digest = hashlib.blake2b(name.encode(), digest_size=16, key=b"regard: rows of ids").digest()
        assert rows == [int.from_bytes(part, "little") % 1000 + 1 for part in (digest[:8], digest[8:])]
    assert found[1:].tolist() == [[906, 904], [650, 179], [683, 165], [561, 30]]
    assert Vocabulary.of([]).hashed(3, 2).tolist() == [[0, 0]]


@given(st.lists(texts, max_size=30, unique=True), st.integers(1, 9), st.integers(1, 3))
def test_collisions_are_counted(ids, rows, functions):
    hashed = Vocabulary.of(ids).hashed(rows, functions)
    told = vocabulary.collisions(hashed, rows)
    own = [sorted(row) for row in hashed[1:].tolist()]
    assert told["items"] == len(ids)
    assert told["shared"] == sum(own.count(row) > 1 for row in own)
    assert told["shared_share"] == told["shared"] / max(len(ids), 1)
    served = [sum(row.count(one) for row in own) for one in range(1, rows + 1)]
    assert told["items_per_row"] == {"mean": pytest.approx(sum(served) / rows), "max": max(served)}
    json.dumps(told)


@pytest.mark.parametrize(("items", "rows", "functions"), [(3000, 3000, 1), (3000, 100, 2), (5000, 40, 3)])
def test_hashing_is_as_uniform_as_expected(items, rows, functions):
    hashed = Vocabulary.of(f"item {n}" for n in range(items)).hashed(rows, functions)
    told = vocabulary.collisions(hashed, rows)
    assert told["shared_share"] == pytest.approx(told["expected_share"], rel=0.15)
    assert told["items_per_row"]["max"] < 1.5 * told["items_per_row"]["mean"] + 8
    line = vocabulary.collision_line(told)
    assert f"{items:,} items share {rows:,} rows" in line
    assert f"{told['expected_share']:.2%}" in line
