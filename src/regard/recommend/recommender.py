"""Weights become answers: raw ids in, raw ids out, and a note wherever an answer is not what it seems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from regard.data.batches import Histories, gather
from regard.data.cases import Int64, ranges
from regard.data.store import Dataset
from regard.errors import InputError, nearest
from regard.model.scorer import top_for
from regard.model.topk import Jagged, rows_per_block
from regard.recommend.run import Run


@dataclass(frozen=True)
class Item:
    """One recommended item; `source` is the name of the model, or `popular` where it had nothing to go by."""

    item: str
    score: float
    title: str | None
    source: str


@dataclass(frozen=True)
class Recommendation:
    """Items, best first, and notes on everything that was skipped or done in another way than asked."""

    items: list[Item]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: `{"items": [{"item", "score", "title", "source"}], "notes": []}`."""
        return asdict(self)


class Recommender:
    """Answers for known users (with the dataset) and for live histories (from the run alone)."""

    def __init__(self, run: Run, dataset: Dataset | None = None) -> None:
        self.run = run
        self.model = run.model()
        self.window: int | None = getattr(self.model, "window", None)
        self._dataset = dataset

    @classmethod
    def open(cls, path: str | Path, data: str | Path | None = None) -> Recommender:
        """Load a run; `data` says where its dataset is now, if it moved."""
        run = Run.open(path)
        return cls(run, run.dataset(data) if data is not None else None)

    @property
    def dataset(self) -> Dataset:
        """The dataset of the run, opened when a known user is first asked for."""
        if self._dataset is None:
            self._dataset = self.run.dataset()
        return self._dataset

    def recommend(
        self,
        *,
        user: str | None = None,
        history: Sequence[str] | None = None,
        k: int = 10,
        candidates: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        seen: str | None = None,
    ) -> Recommendation:
        """Recommend `k` items for one user of the dataset, or for a history of item ids, oldest first.

        Args:
            user: a raw user id; their history is all their events, held-back ones included.
            history: raw item ids; need not belong to any user. Unknown ids are skipped and named.
            k: how many.
            candidates: only these items.
            exclude: not these items.
            seen: `filter` leaves out items of the history, `keep` does not; default: the rule of the run.

        Raises:
            InputError: neither or both of user and history, an unknown user, no usable candidate, or a k below 1.
        """
        if (user is None) == (history is None):
            raise InputError("expected either a user or a history, not both and not neither")
        for name, ids in (("history", history), ("candidates", candidates), ("exclude", exclude)):
            if isinstance(ids, str):
                raise InputError(f"{name} must be a list of item ids; got the text {ids!r}")
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        notes: list[str] = []
        if user is not None:
            events = self._events([user])
            histories = gather(self.dataset, *events)
        else:
            histories = self._live(self._indexes(history or (), "history", notes))
        excluded = set(self._indexes(exclude, "exclude", notes))
        if self._filters(seen):
            excluded |= set(histories.items.tolist())
        wanted = None if candidates is None else self._indexes(candidates, "candidates", notes)
        if wanted is not None and not wanted:
            raise InputError(
                "none of the candidates is in the catalogue of this run; expected at least one known item id"
            )
        scores, items, popular = self._top(self._recent(histories), k, _row(sorted(excluded)), wanted)
        if popular[0]:
            notes.append("no known item in the history: these are the most popular items")
        found = [
            Item(self.run.items.id(i), s, self.run.title(i), "popular" if popular[0] else self.model.name)
            for i, s in zip(items[0].tolist(), scores[0].tolist(), strict=True)
            if i > 0
        ]
        if len(found) < k:
            notes.append(f"asked for {k} items, only {len(found)} are left to recommend")
        return Recommendation(found, notes)

    def recommend_many(
        self, users: Sequence[str], *, k: int = 10, seen: str | None = None
    ) -> tuple[pa.Table, list[str]]:
        """Recommend for many known users: a table user, rank, item, score, title, source; and notes.

        Users that the dataset does not know are skipped and counted.
        """
        known = self.dataset.users.index(users)
        skipped = [user for user, index in zip(users, known, strict=True) if index == 0]
        many = f"{len(skipped)} unknown user{'s' * (len(skipped) > 1)} skipped"
        notes = [f"{many}, the first: {', '.join(skipped[:3])}"] if skipped else []
        users = [user for user, index in zip(users, known, strict=True) if index > 0]
        block = max(1, min(1024, rows_per_block(len(self.model.known))))
        tables = [self._block(users[at : at + block], k, seen) for at in range(0, len(users), block)]
        return (pa.concat_tables(tables) if tables else _MANY.empty_table()), notes

    def similar(self, item: str, k: int = 10) -> Recommendation:
        """The `k` items whose vectors have the highest cosine with that of `item`."""
        (index,) = self._indexes([item], "item", []) or (0,)
        if not index:
            raise InputError(f"item {item!r} is not in the catalogue of this run{self._near(item)}")
        table = self._vectors()
        if not bool(self.model.known[index]):
            raise InputError(f"item {item!r} has no training events, so nothing is known of what it is like")
        unit = torch.nn.functional.normalize(table.float(), dim=1)
        cosine = (unit @ unit[index]).masked_fill(~self.model.known, -torch.inf)
        cosine[index] = -torch.inf
        best = cosine.topk(min(k, max(0, int(self.model.known.sum()) - 1)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Recommendation([Item(self.run.items.id(i), s, self.run.title(i), self.model.name) for i, s in pairs], [])

    def vectors(self) -> pa.Table:
        """Item vectors: columns item, vector (list of float32), trained (whether it had training events)."""
        table = self._vectors()[1:].float().numpy()
        flat = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
        ids = self.run.items.ids(np.arange(1, len(table) + 1))
        return pa.table({"item": ids, "vector": flat, "trained": self.model.known[1:].numpy()})

    def _vectors(self) -> Tensor:
        table = getattr(self.model, "table", None)
        if table is None:
            raise InputError(f"{self.model.name} has no item vectors; train a model that learns them (self-attention)")
        vectors: Tensor = table.detach()
        return vectors

    def _filters(self, seen: str | None) -> bool:
        rule = seen or str(self.run.manifest["seen"])
        if rule not in ("filter", "keep"):
            raise InputError(f"seen must be filter or keep; got {rule!r}{nearest(rule, ('filter', 'keep'))}")
        return rule == "filter"

    def _events(self, users: Sequence[str]) -> tuple[Int64, Int64]:
        index = self.dataset.users.index(users)
        for user, at in zip(users, index, strict=True):
            if at == 0:
                raise InputError(
                    f"user {user!r} is not in {self.dataset.path}; give their events with --history instead"
                )
        return ranges(self.dataset.offsets[index], self.dataset.offsets[index + 1])

    def _indexes(self, ids: Iterable[str], where: str, notes: list[str]) -> list[int]:
        """Look ids up; unknown ones are skipped and named in a note."""
        ids = list(ids)
        found = self.run.items.index(ids) if ids else np.empty(0, np.int64)
        unknown = [name for name, index in zip(ids, found, strict=True) if index == 0]
        if unknown:
            names = ", ".join(repr(name) for name in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            notes.append(f"{where}: {len(unknown)} unknown item id{'s' * (len(unknown) > 1)} skipped: {names}")
        return [int(index) for index in found if index > 0]

    def _near(self, item: str) -> str:
        some = self.run.items.ids(np.argsort(-self.run.counts[1:])[:2000] + 1)
        return nearest(item, some)

    def _live(self, items: list[int]) -> Histories:
        """A history without behaviours (code 0 = not given) and with all its events at one time."""
        count = len(items)
        return Histories(
            torch.tensor(items, dtype=torch.int64),
            torch.tensor([0, count]),
            torch.zeros(count, dtype=torch.int64) if self.run.behaviours else None,
            torch.zeros(count, dtype=torch.int64) if self.run.manifest["dataset"]["time_kind"] != "none" else None,
        )

    def _recent(self, histories: Histories) -> Histories:
        """The newest `window` events of each history."""
        if self.window is None or not bool((histories.lengths > self.window).any()):
            return histories
        ends = histories.offsets[1:].numpy()
        kept, offsets = ranges(np.maximum(histories.offsets[:-1].numpy(), ends - self.window), ends)
        rows = torch.from_numpy(kept)
        pick = [None if column is None else column[rows] for column in (histories.behaviours, histories.times)]
        return Histories(histories.items[rows], torch.from_numpy(offsets), *pick)

    def _top(
        self, histories: Histories, k: int, excluded: Jagged, candidates: list[int] | None = None
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """Best items per history; a history without a known item gets the popular ones."""
        wanted = None if candidates is None else torch.tensor(candidates)
        scores, items = top_for(self.model, histories, k, excluded, wanted)
        known = self.model.known[histories.items]
        popular = [not bool(part.any()) for part in known.split(histories.lengths.tolist())]
        if any(popular):
            floor = _Popular(self.run.counts)
            other_scores, other_items = top_for(floor, histories, k, excluded, wanted)
            rows = torch.tensor(popular)[:, None]
            scores, items = torch.where(rows, other_scores, scores), torch.where(rows, other_items, items)
        return scores, items, popular

    def _block(self, users: Sequence[str], k: int, seen: str | None) -> pa.Table:
        histories = gather(self.dataset, *self._events(users))
        none = (torch.empty(0, dtype=torch.int64), torch.zeros(len(users) + 1, dtype=torch.int64))
        excluded = (histories.items, histories.offsets) if self._filters(seen) else none
        scores, items, popular = self._top(self._recent(histories), k, excluded)
        real = (items > 0).numpy()
        row, rank = np.nonzero(real)
        index = items.numpy()[real]
        sources = np.array([self.model.name, "popular"])[np.array(popular, dtype=np.int64)[row]]
        columns = [
            np.array(users, dtype=object)[row],
            rank + 1,
            self.run.items.ids(index),
            scores.numpy()[real],
            [self.run.title(int(i)) for i in index],
            sources,
        ]
        return pa.table([pa.array(c, type=f.type) for c, f in zip(columns, _MANY, strict=True)], schema=_MANY)


_MANY = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float32()),
        ("title", pa.string()),
        ("source", pa.string()),
    ]
)


class _Popular:
    """The last resort, from what the run remembers of its training events."""

    name = "popular"
    training = False

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.counts = torch.from_numpy(counts).float()
        self.known = self.counts > 0

    def scores(self, histories: Histories) -> Tensor:
        """(B, V)."""
        return self.counts.expand(len(histories), -1)

    def train(self, mode: bool = True) -> object:
        """Nothing to switch."""
        return mode


def _row(indexes: list[int]) -> Jagged:
    return torch.tensor(indexes, dtype=torch.int64), torch.tensor([0, len(indexes)])
