"""What is known of items before anybody has met them: a vector for each, by its id, by its words, or from its text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from regard.data.store import Dataset
from regard.data.textencoder import text_vectors
from regard.data.vectorfile import VectorReport
from regard.data.vectors import Vectors, read_vectors
from regard.data.vectortable import Ids
from regard.data.words import Entry, ItemWords, UnknownWordsError, Weighting, WordWeights, item_texts, item_vectors
from regard.errors import InputError, SettingsError, nearest

By = Literal["auto", "id", "words"]
TEXT = "text:"
COLUMNS = ("title", "text")
_REPEATS = 10  # rows with the key of an earlier one that may be a slip


@dataclass(frozen=True)
class VectorRecipe:
    """How vectors of items came about, so that those of items to come are made alike; fit for JSON.

    source: where they were read, None where they were handed over in memory. by: as in `Knowledge.read`, or `text`.
    weights, mean: how words are weighed, and the vector of an item without a known word (`words` only).
    """

    source: str | None
    by: str
    columns: tuple[str, ...] = ()
    weights: Mapping[str, Any] | None = field(default=None, repr=False)
    mean: tuple[float, ...] | None = field(default=None, repr=False)

    def read(
        self, texts: Mapping[str, str], source: Any = None, *, ids: Ids | None = None, trust: bool = False
    ) -> Vectors:
        """Return vectors of items by id, from their texts where that is how others got theirs.

        Args:
            texts: by item id; may be empty where vectors belong to ids.
            source: where to read, None = where the others were read.
            ids: as in `Knowledge.read`; so is `trust`.
        """
        source = self.source if source is None else source
        if source is None:
            raise InputError("the vectors of this run were handed over in memory; say where those of new items are")
        if self.by == "id":
            return read_vectors(source, texts, ids=ids, trust=trust)
        if not any(text.strip() for text in texts.values()):
            return _unknown(texts, str(source))
        if self.by == "text":
            return text_vectors(texts, str(source).removeprefix(TEXT))
        weights = None if self.weights is None else WordWeights(**self.weights)
        mean = None if self.mean is None else np.array(self.mean)
        try:
            return item_vectors(texts, source, weights=weights, mean=mean, ids=ids, trust=trust).vectors
        except UnknownWordsError:
            return _unknown(texts, str(source))


@dataclass(frozen=True)
class Knowledge:
    """Pretrained vectors of the items of a dataset, or of its users, joined by id and never by the order of rows.

    rows: float32 (n_items + 1, D), 0 where nothing is known; row 0 is the unknown item. known: bool (n_items + 1,).
    facts: where they come from and how much of the log they cover, fit for JSON. recipe: for items to come.
    """

    rows: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    facts: Mapping[str, Any] = field(repr=False)
    recipe: VectorRecipe = field(repr=False)

    @classmethod
    def read(
        cls,
        dataset: Dataset,
        source: Any,
        *,
        by: By = "auto",
        ids: Ids | None = None,
        trust: bool = False,
        columns: Sequence[str] = COLUMNS,
        weights: Weighting = "sif",
    ) -> Knowledge:
        """Read what a source says of the items of a dataset.

        Args:
            dataset: gives ids, and the texts of the item table.
            source: `text:MODEL` (a sentence encoder reads the texts), or vectors as `read_vectors` takes them.
            by: whose vectors these are: of item ids (`id`), or of words, averaged over the text of an item (`words`);
                `auto` takes ids where they are at least half of the source, else what knows more items, ids where both
                know as many. Ids that are numbers have to know twice as many, as numbers are words of many a source;
                beside them words that are numbers do not count, as these are ids of many another.
            ids: whose rows they are, for formats that do not say it themselves.
            trust: allow formats that can run code while they are read.
            columns: of the item table, whose values are the text of an item.
            weights: how words count in the mean of an item: `sif`, `idf` or `mean`, see `WordWeights`.

        Raises:
            InputError: the source cannot be read, or knows none of the items.
            SettingsError: `by` or `weights` is none of these.
        """
        if by not in get_args(By):
            raise SettingsError(f"vectors by {by!r}{nearest(str(by), get_args(By))}; known: {', '.join(get_args(By))}")
        events = np.bincount(dataset.item, minlength=dataset.n_items + 1)
        where, own = _where(source), dataset.items.array.to_pylist()
        if isinstance(source, str) and source.startswith(TEXT):
            if ids is not None or by != "auto":
                raise InputError(
                    f"{source} reads the texts of items, so its vectors are of neither ids nor words; leave out "
                    + ("--vector-ids (ids=)" if ids is not None else "--vectors-by (by=)")
                )
            found = text_vectors(item_texts(dataset, columns), source.removeprefix(TEXT))
            return cls._of(found, events, VectorRecipe(where, "text", tuple(columns)))
        if by == "id" or (by == "auto" and not _described(dataset, columns)):
            of_ids = read_vectors(source, own, ids=ids, trust=trust)
            return cls._of(of_ids if by == "id" else _doubted(_no_log(of_ids)), events, VectorRecipe(where, "id"))
        words = ItemWords.of(item_texts(dataset, columns), weights)
        wanted = dict.fromkeys(own if by == "auto" else ()) | words.spellings  # the source is read once for both
        found = read_vectors(source, wanted, ids=ids, trust=trust)
        entries = words.entries(found)
        if by == "auto" and _of_ids(of_ids := found.first(len(own)), words, entries):
            return cls._of(_no_log(of_ids), events, VectorRecipe(where, "id"))
        by_words = words.averaged(found, entries, events=events[1:])
        how = (words.weights.as_dict(), tuple(by_words.mean.tolist()))
        told = {"words": by_words.coverage.as_dict(), "line": by_words.coverage.line()}
        return cls._of(by_words.vectors, events, VectorRecipe(where, "words", tuple(columns), *how), told)

    @classmethod
    def like(
        cls,
        dataset: Dataset,
        recipe: VectorRecipe,
        source: Any = None,
        *,
        whose: str = "items",
        ids: Ids | None = None,
        trust: bool = False,
    ) -> Knowledge:
        """Make vectors of the items of a dataset, or of its `users`, as a recipe made those of another one.

        The same words and weights, or the same encoder; `source`, `ids` and `trust` as in `VectorRecipe.read`.

        Raises:
            InputError: the source is not told or cannot be read, or knows nobody here.
        """
        vocabulary, offsets = (dataset.users, dataset.offsets) if whose == "users" else (dataset.items, None)
        texts = dict.fromkeys(vocabulary.array.to_pylist(), "")
        texts = item_texts(dataset, recipe.columns) if recipe.columns else texts
        where = recipe.source if source is None else _where(source)
        found = recipe.read(texts, source, ids=ids, trust=trust)
        events = np.bincount(dataset.item, minlength=dataset.n_items + 1) if offsets is None else np.diff(offsets)
        return cls._of(found, events, replace(recipe, source=where), {"whose": whose})

    @classmethod
    def of_users(cls, dataset: Dataset, source: Any, *, ids: Ids | None = None, trust: bool = False) -> Knowledge:
        """Read what a source says of the users of a dataset, by their ids; `ids` and `trust` as in `read`.

        Raises:
            InputError: the source cannot be read, or knows none of the users.
        """
        found = read_vectors(source, dataset.users.array.to_pylist(), ids=ids, trust=trust)
        recipe = VectorRecipe(_where(source), "id")
        return cls._of(_no_log(found), np.diff(dataset.offsets), recipe, {"whose": "users"})

    @classmethod
    def _of(
        cls,
        vectors: Vectors,
        events: npt.NDArray[np.integer[Any]],
        recipe: VectorRecipe,
        told: Mapping[str, Any] | None = None,
    ) -> Knowledge:
        told = {"whose": "items", **(told or {})}
        if not vectors.known.any():
            words = ", or of the words of a title in the item table" if told["whose"] == "items" else ""
            raise InputError(
                f"{vectors.report.source} knows none of the {len(vectors.keys):,} {told['whose']} of this dataset, "
                f"such as {vectors.keys[0]!r}; expected vectors of {told['whose'][:-1]} ids{words}"
            )
        known = np.concatenate([[False], vectors.known])
        rows = np.concatenate([np.zeros((1, vectors.width), np.float32), vectors.matrix])
        rows[~known] = 0.0
        facts = {
            "by": recipe.by,
            "columns": list(recipe.columns),
            told["whose"]: [int(known.sum()), len(vectors.keys)],
            "events": [int(events[known].sum()), int(events.sum())],
            "report": vectors.report.as_dict(),
        }
        return cls(rows, known, {**facts, **told}, recipe)

    @property
    def whose(self) -> str:
        """`items` or `users`."""
        return str(self.facts["whose"])

    def shuffled(self, seed: int = 0) -> Knowledge:
        """The same vectors dealt out anew among the items that have one: a control without meaning."""
        places = np.flatnonzero(self.known)
        rows = self.rows.copy()
        rows[places] = self.rows[np.random.default_rng(seed).permutation(places)]
        return replace(self, rows=rows, facts={**self.facts, "control": "shuffled"})

    def random(self, seed: int = 0) -> Knowledge:
        """Normal vectors with the mean and the covariance of these: a control without meaning or order."""
        mine = self.rows[self.known].astype(np.float64)
        centred = mine - mine.mean(0)
        mixing = np.random.default_rng(seed).normal(size=(len(mine), len(mine[0])))
        _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
        rows = self.rows.copy()
        rows[self.known] = mine.mean(0) + mixing[:, : len(sizes)] * (sizes / len(mine) ** 0.5) @ axes
        return replace(self, rows=rows, facts={**self.facts, "control": "random"})

    @property
    def width(self) -> int:
        """Number of values of a vector."""
        return int(self.rows.shape[1])

    @property
    def fingerprint(self) -> str:
        """What tells these vectors from others."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.rows).tobytes(), digest_size=16)
        digest.update(self.known.tobytes())
        return digest.hexdigest()

    def lines(self) -> list[str]:
        """Say in plain words what is known, and what was odd in the source, before training begins."""
        (known, everybody), (events, all_events) = self.facts[self.whose], self.facts["events"]
        source = self.facts["report"]["source"]
        means = {"id": "by id", "words": "by the words of an item", "text": "from the text of an item"}
        first = (
            f"vectors of {self.width} values from {source}, {means[self.facts['by']]}: "
            f"{known:,} of {everybody:,} {self.whose}, {events / max(all_events, 1):.1%} of the events"
        )
        notes = [f"note: {source}: {one}" for one in self.facts["report"]["notes"]]
        return [first, *([self.facts["line"]] if "line" in self.facts else []), *notes]


def _unknown(texts: Mapping[str, str], source: str) -> Vectors:
    """Vectors of items of which nothing is known."""
    report = VectorReport(source, "none", 0, 0, 0, 0, len(texts), 0)
    return Vectors(tuple(texts), np.zeros((len(texts), 0), np.float32), np.zeros(len(texts), bool), report)


def _where(source: Any) -> str | None:
    """What is kept of where vectors were read: a whole path, as a later command may run in another folder."""
    if not isinstance(source, str | Path):
        return None
    prefix = TEXT if str(source).startswith(TEXT) else ""
    path = Path(str(source).removeprefix(prefix))
    return prefix + str(path.resolve()) if path.exists() else str(source)


def _no_log(found: Vectors) -> Vectors:
    """Vectors of ids, refused where most rows of the source are of ids that it had before."""
    report = found.report
    if report.duplicates > max(_REPEATS, int(found.known.sum())):
        raise InputError(
            f"{report.source} is no table of vectors: {report.duplicates:,} rows repeat the key of an earlier one, as "
            "in a log; expected one row for each id (--vectors-by id takes the first of an item)"
        )
    return found


def _doubted(own: Vectors) -> Vectors:
    """Vectors of ids, with a note where these are numbers, which a source of words has too."""
    known, read = int(own.known.sum()), own.report.read - own.report.duplicates
    if 2 * known >= read or not all(own.keys[at].isdecimal() for at in np.flatnonzero(own.known)):
        return own
    note = (
        f"{known:,} of its {read:,} keys are ids of items, which are numbers; where they are words, items need titles "
        "(regard prepare --items … --title …), and where they are ids, --vectors-by id says so"
    )
    return replace(own, report=replace(own.report, notes=(*own.report.notes, note)))


def _of_ids(own: Vectors, words: ItemWords, entries: Mapping[str, Entry]) -> bool:
    """Whether a source is about ids and not about words.

    Numbers are words of many a source, whatever they number, and ids of many another; so they say little for either.
    """
    known, met = int(own.known.sum()), any(entry.rows for entry in entries.values())
    if not (known and met):
        return not met
    if 2 * known >= own.report.read - own.report.duplicates:
        return True
    numbers = all(own.keys[at].isdecimal() for at in np.flatnonzero(own.known))
    by_words = words.known(entries, numbers=not numbers)
    return known > 2 * by_words if numbers else known >= by_words


def _described(dataset: Dataset, columns: Sequence[str]) -> bool:
    table = dataset.item_table
    return table is not None and any(name in table.column_names for name in columns)
