"""From words to items: texts are cut into words, words are looked up in pretrained vectors, items are their mean.

A word that is not found as written is tried in lower case, with a capital, without accents, and at last in the pieces
that `-`, `_` and `/` join. Means are weighted, by default as in SIF (Arora et al. 2017): a / (a + p), where p is the
share of the word among all words. Their first principal component is left in: `geometry.py` sees to that.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse

from regard.data.store import Dataset
from regard.data.vectors import Vectors, read_vectors
from regard.errors import InputError, SettingsError, nearest

Weighting = Literal["sif", "idf", "mean"]
Matrix = npt.NDArray[np.float32]
STEPS = ("exact", "lower", "title", "accent", "split")

_WORD = re.compile(r"\w+(?:[-/.'\u2019&]\w+)*")
_JOINTS = re.compile(r"[-_/]+|['\u2019]s$")
_A = 1e-3  # the value of the paper
_MISSING = 20
_CHUNK = 1 << 15  # items


class UnknownWordsError(InputError):
    """A source of vectors knows none of the words of a catalogue."""


def tokenise(text: str) -> list[str]:
    """Cut a text into words as they are written: letters, digits and what joins them (`0.5-Fluid`, `women's`)."""
    return _WORD.findall(unicodedata.normalize("NFC", html.unescape(text)))


def variants(word: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to look up a word, best first: the step's name and the spelling."""
    plain = "".join(one for one in unicodedata.normalize("NFD", word) if not unicodedata.combining(one))
    tried = [("exact", word), ("lower", word.lower()), ("title", word.capitalize())]
    tried += [("accent", one) for one in (plain, plain.lower(), plain.capitalize())]
    seen: set[str] = set()
    for step, spelling in tried:
        if spelling not in seen:
            seen.add(spelling)
            yield step, spelling


def pieces(word: str) -> list[str]:
    """Return what `-`, `_` and `/` join in a word, without the possessive `'s`; nothing where nothing is joined."""
    found = [piece for piece in _JOINTS.split(word) if piece]
    return [] if found == [word] else found


@dataclass(frozen=True)
class WordWeights:
    """How much each word counts in a mean, fitted on the texts of a catalogue, met or not; no event has a part in it.

    kind: `sif` = a / (a + p(word)), a = .001; `idf` = ln((1 + n) / (1 + n(word))) + 1 over n texts; `mean` = 1.
    total: words (sif) or texts (idf). counts: how many of them are, or hold, a word, letter case ignored.
    """

    kind: Weighting
    total: int
    counts: Mapping[str, int] = field(repr=False)

    @classmethod
    def fit(cls, texts: Iterable[str], kind: Weighting = "sif") -> WordWeights:
        """Count the words of texts, and the pieces of joined ones."""
        if kind not in get_args(Weighting):
            known = get_args(Weighting)
            raise SettingsError(f"no weighting {kind!r}{nearest(str(kind), known)}; known: {', '.join(known)}")
        counts: Counter[str] = Counter()
        total = 0
        for text in texts:
            words = tokenise(text)
            counted = [unit.casefold() for word in words for unit in (word, *pieces(word))]
            counts.update(set(counted) if kind == "idf" else counted)
            total += 1 if kind == "idf" else len(words)
        return cls(kind, total, {} if kind == "mean" else dict(counts))

    def of(self, word: str) -> float:
        """Return the weight of a word; one that was not in the texts is as rare as can be."""
        count = self.counts.get(word.casefold(), 0)
        if self.kind == "sif":
            return _A / (_A + count / max(self.total, 1))
        return math.log((1 + self.total) / (1 + count)) + 1 if self.kind == "idf" else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON can hold it; `WordWeights(**state)` brings it back."""
        return {"kind": self.kind, "total": self.total, "counts": dict(self.counts)}


@dataclass(frozen=True)
class Entry:
    """Where a word was found: by which step, the rows of the vectors, and the words or pieces they stand for."""

    step: str = ""
    rows: tuple[int, ...] = ()
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How much of the texts the vectors know.

    words, distinct, items, events: pairs of known and all. Words count as often as they occur, `distinct` ones once; an
    item is known by one known word; events are those of known items, None where they were not given. empty: items
    without any word. steps: distinct words by the step that found them. missing: the most frequent unknown words, in
    lower case.
    """

    words: tuple[int, int]
    distinct: tuple[int, int]
    items: tuple[int, int]
    events: tuple[int, int] | None
    empty: int
    steps: Mapping[str, int]
    missing: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return asdict(self)

    def line(self) -> str:
        """Say it in a line."""
        parts = {"words": self.words, "distinct words": self.distinct, "items": self.items, "events": self.events}
        told = [f"{pair[0] / max(pair[1], 1):.1%} of {pair[1]:,} {name}" for name, pair in parts.items() if pair]
        told += [f"items without any word: {self.empty:,}"] if self.empty else []
        return f"known: {'; '.join(told)}; most frequent unknown words: {', '.join(self.missing) or 'none'}"


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items and how they came about.

    vectors: keys are item ids; rows of items that are not known hold `mean`. weights, mean: what new items need to be
    treated alike.
    """

    vectors: Vectors
    coverage: Coverage
    weights: WordWeights
    mean: npt.NDArray[np.float64]


def item_texts(dataset: Dataset, columns: Sequence[str] = ("title", "text")) -> dict[str, str]:
    """Return the text of every item of a dataset by its id, in the order of the vocabulary; "" where there is none.

    Columns of the item table are joined in the order given; the two default ones may be missing, but not both. Raises
    `InputError`.
    """
    table = dataset.item_table
    names = [] if table is None else table.column_names
    given = [name for name in columns if name in names]
    absent = [name for name in columns if name not in names and name not in ("title", "text")]
    if table is None or absent or not given:
        raise InputError(
            f"item texts: expected {' or '.join(absent or columns)} in the item table; "
            + (f"it has {', '.join(names)}" if names else "this dataset has none: prepare it with --items FILE")
        )
    texts = dict.fromkeys(dataset.items.array.to_pylist(), "")
    return texts | {name: text for name, text in joined_texts(table, given).items() if name in texts}


def joined_texts(table: pa.Table, columns: Sequence[str]) -> dict[str, str]:
    """Return the values of `columns`, those that a table of items has, joined to one text for each id."""
    given = [table[column].to_pylist() for column in columns if column in table.column_names]
    absent = [name for name in columns if name not in table.column_names and name not in ("title", "text")]
    if absent or not given:
        raise InputError(
            f"item texts: expected {' or '.join(absent or columns)} in the item table; it has "
            f"{', '.join(table.column_names)}"
        )
    rows = zip(table["id"].to_pylist(), *given, strict=True)
    return {name: " ".join(_plain(value) for value in values if value is not None) for name, *values in rows}


@dataclass(frozen=True)
class ItemWords:
    """Items cut into words, ready to be looked up in any source.

    ids: of the items. words: of each of them, as written. counts: how often each word occurs. weights: how much it
    counts. spellings: all that may be looked up, words and pieces, each once.
    """

    ids: tuple[str, ...]
    words: Sequence[Sequence[str]] = field(repr=False)
    counts: Counter[str] = field(repr=False)
    weights: WordWeights = field(repr=False)
    spellings: dict[str, None] = field(repr=False)

    @classmethod
    def of(cls, texts: Mapping[str, str], weights: WordWeights | Weighting = "sif") -> ItemWords:
        """Cut texts by item id; weights are fitted on them where they are not given."""
        weights = weights if isinstance(weights, WordWeights) else WordWeights.fit(texts.values(), weights)
        words = [tokenise(text) for text in texts.values()]
        counts = Counter(word for one in words for word in one)
        units = (unit for word in counts for unit in (word, *pieces(word)))
        return cls(tuple(texts), words, counts, weights, {one: None for unit in units for _, one in variants(unit)})

    def entries(self, found: Vectors) -> dict[str, Entry]:
        """Return for each word where it is among vectors, which may be of other keys as well."""
        places = {found.keys[row]: int(row) for row in np.flatnonzero(found.known)}
        return {word: _look_up(word, places) for word in self.counts}

    def known(self, entries: Mapping[str, Entry], *, numbers: bool = True) -> int:
        """Return how many items have a word that was found; without `numbers`, one that is no whole number."""
        met = {
            word
            for word, entry in entries.items()
            if entry.rows and (numbers or not all(unit.isdecimal() for unit in entry.units))
        }
        return sum(not met.isdisjoint(one) for one in self.words)

    def averaged(
        self,
        found: Vectors,
        entries: Mapping[str, Entry],
        *,
        mean: npt.NDArray[np.float64] | None = None,
        events: npt.NDArray[np.integer[Any]] | None = None,
    ) -> ItemVectors:
        """Average the vectors of the words of each item; arguments and errors as of `item_vectors`."""
        met = [spelling for spelling, known in zip(found.keys, found.known, strict=True) if known]
        told = replace(found.report, wanted=len(self.spellings), found=sum(one in self.spellings for one in met))
        if self.counts and not told.found:
            raise UnknownWordsError(
                f"{told.source} knows none of {len(self.counts):,} words, such as {next(iter(self.counts))!r}"
            )
        vectors = Vectors(self.ids, *_averages(self.words, entries, found.matrix, self.weights), told)
        mean = vectors.mean() if mean is None else np.asarray(mean, np.float64)
        if mean.shape != (vectors.width,):
            raise InputError(
                f"the mean of the items has {mean.size} values, the vectors {vectors.width}; they do not fit"
            )
        vectors = replace(vectors, matrix=vectors.filled(mean))
        coverage = _coverage(self.words, self.counts, entries, vectors.known, events)
        return ItemVectors(vectors, coverage, self.weights, mean)


def item_vectors(
    texts: Mapping[str, str],
    source: Any,
    *,
    weights: WordWeights | None = None,
    mean: npt.NDArray[np.float64] | None = None,
    events: npt.NDArray[np.integer[Any]] | None = None,
    ids: Any = None,
    trust: bool = False,
) -> ItemVectors:
    """Average the vectors of the words of each item.

    Args:
        texts: by item id; what is returned has these ids as its keys, in this order.
        source: word vectors, as `read_vectors` takes them; so are `ids` and `trust`.
        weights: fitted on training items, None = SIF on these texts.
        mean: (width,), the vector of items without a known word; None = the mean of the known items among these.
        events: how many events each item has, (len(texts),), for the report.

    Raises:
        InputError: the source cannot be read; `UnknownWordsError`: it knows none of the words.
    """
    words = ItemWords.of(texts, weights or "sif")
    found = read_vectors(source, words.spellings, ids=ids, trust=trust)
    return words.averaged(found, words.entries(found), mean=mean, events=events)


def _look_up(word: str, places: Mapping[str, int]) -> Entry:
    """Find a word, or else its pieces, each in its best spelling."""
    for step, spelling in variants(word):
        if spelling in places:
            return Entry(step, (places[spelling],), (word,))
    units = [(places[one], unit) for unit in pieces(word) for one in [_best(unit, places)] if one is not None]
    return Entry("split", tuple(row for row, _ in units), tuple(unit for _, unit in units)) if units else Entry()


def _best(unit: str, places: Mapping[str, int]) -> str | None:
    return next((spelling for _, spelling in variants(unit) if spelling in places), None)


def _averages(
    words: Sequence[Sequence[str]], entries: Mapping[str, Entry], matrix: Matrix, weights: WordWeights
) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Return weighted means, float32 (items, width), and which items are known; summed in float64."""
    weighed = {word: [weights.of(unit) for unit in entry.units] for word, entry in entries.items()}
    out = np.zeros((len(words), matrix.shape[1]), np.float32)
    known = np.zeros(len(words), bool)
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        rows = [[row for word in one for row in entries[word].rows] for one in part]
        values = np.array([value for one in part for word in one for value in weighed[word]], np.float64)
        columns, places = np.unique(np.array([row for one in rows for row in one], np.int64), return_inverse=True)
        starts = np.cumsum([0, *map(len, rows)])
        sums = scipy.sparse.csr_array((values, places, starts), shape=(len(part), len(columns)))
        totals = sums.sum(1)
        known[start : start + len(part)] = totals > 0
        means = (sums @ matrix[columns].astype(np.float64)) / np.where(totals > 0, totals, 1.0)[:, None]
        out[start : start + len(part)] = means
    return out, known


def _coverage(
    words: Sequence[Sequence[str]],
    counts: Counter[str],
    entries: Mapping[str, Entry],
    known: npt.NDArray[np.bool_],
    events: npt.NDArray[np.integer[Any]] | None,
) -> Coverage:
    if events is not None and len(events) != len(words):
        raise InputError(f"coverage: {len(events):,} counts of events for {len(words):,} items; expected one for each")
    missing = Counter({word: count for word, count in counts.items() if not entries[word].rows})
    folded: Counter[str] = Counter()
    for word, count in missing.items():
        folded[word.casefold()] += count
    steps = Counter(entry.step for entry in entries.values() if entry.rows)
    return Coverage(
        words=(counts.total() - missing.total(), counts.total()),
        distinct=(len(counts) - len(missing), len(counts)),
        items=(int(known.sum()), len(words)),
        events=None if events is None else (int(np.asarray(events)[known].sum()), int(np.sum(events))),
        empty=sum(not one for one in words),
        steps={step: steps[step] for step in STEPS},
        missing=dict(folded.most_common(_MISSING)),
    )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
