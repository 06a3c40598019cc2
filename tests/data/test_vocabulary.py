"""Ids and indexes: 0 is unknown, what is known keeps its number."""

from __future__ import annotations

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
