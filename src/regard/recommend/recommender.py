"""Weights become answers: raw ids in, raw ids out, and a note wherever an answer is not what it seems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from regard.data.batches import Histories, asked_at, gather, newest, with_labels
from regard.data.cases import Bool, Int64, ranges
from regard.data.labels import resolve_history, resolve_labels
from regard.data.store import Dataset
from regard.errors import InputError, nearest
from regard.model.baseline import BASELINES
from regard.model.factorization import Factorization
from regard.model.models import FACTORIZATION
from regard.model.ranker import Ranker
from regard.model.scorer import packed, top_for
from regard.model.topk import UNKNOWN_SCORE, Jagged, rows_per_block
from regard.model.twostage import TwoStage
from regard.recommend.answer import MANY, Item, Recommendation, check_list, named, short
from regard.recommend.lastresort import LastResort
from regard.recommend.request import Moment, checked_moment, codes_of, moments
from regard.recommend.run import Run

_ROWS = 1024  # users answered at once

__all__ = ["Item", "Recommendation", "Recommender"]


class Recommender:
    """Answers for known users (with the dataset) and for live histories (from the run alone).

    Every item is in the catalogue. Of one without training events the model knows what its pretrained vector says, and
    recommends it by that; where there is none, it reads the item as unknown and never recommends it.
    """

    def __init__(self, run: Run | str | Path, dataset: Dataset | str | Path | None = None) -> None:
        """Load a run, or the one in a folder; `dataset` has to be the one it was trained on."""
        self.run = run if isinstance(run, Run) else Run.open(run)
        self._dataset = None if dataset is None else self.run.dataset(dataset)
        self.model = self.run.model(added=True)
        self.window: int | None = getattr(self.model, "window", None)

    @classmethod
    def open(cls, path: str | Path, data: str | Path | None = None) -> Recommender:
        """Load a run; `data` says where its dataset is now, if it moved."""
        return cls(path, data)

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
        context: Mapping[str, str] | None = None,
        at: Moment | None = None,
    ) -> Recommendation:
        """Recommend `k` items for one user of the dataset, or for a history of item ids, oldest first.

        Args:
            user: a raw user id; their history is all their events, held-back ones included.
            history: raw item ids; need not belong to any user. Unknown ids are skipped and named.
            k: how many; fewer come where no more are left, and a note says so.
            candidates: only these items.
            exclude: not these items.
            seen: `filter` leaves out items of the history, `keep` does not; default: the rule of the run.
            context: what is known at the moment of the request, by context column; the rest is not given.
            at: the moment of the request, where the model reads it (`model.request_time`): a date, or its text or
                number as in a log. None assumes the usual time after the last event, and a note says so.

        Raises:
            InputError: neither or both of user and history, an unknown user, no usable candidate, a context column that
                the model does not read, a k below 1; a moment that is not read or lies before the last event.
        """
        if (user is None) == (history is None):
            raise InputError("expected either a user or a history, not both and not neither")
        for name, ids in (("history", history), ("candidates", candidates), ("exclude", exclude)):
            check_list(ids, name, "item")
        most, notes = self._most(k), list[str]()
        if user is not None:
            histories = self._stored(self._user(user))
        else:
            histories = self._live(self._indexes(history or (), "history", notes), notes)
        histories = replace(histories, request=codes_of(context or {}, self.run.context, notes))
        moment = checked_moment(at, self._momentary, user is None, self._gap, notes)
        met = self._met(histories, user) if self._filters(seen) else set()
        excluded = met | set(self._indexes(exclude, "exclude", notes))
        wanted = None if candidates is None else self._indexes(candidates, "candidates", notes)
        if wanted is not None and not wanted:
            raise InputError(
                "none of the candidates is in the catalogue of this run; expected at least one known item id"
            )
        scores, items, popular = self._top(self._readable(histories, moment), most, _row(sorted(excluded)), wanted)
        if popular[0]:
            notes.append("no known item in the history: these are the most popular items")
        elif isinstance(self.model, Factorization):
            notes.extend(self.model.remarks(histories))
        found = [
            Item(self.run.items.id(i), s, self.run.title(i), "popular" if popular[0] else self.model.name)
            for i, s in zip(items[0].tolist(), scores[0].tolist(), strict=True)
            if i > 0
        ]
        return Recommendation(
            found, [*notes, *short(k, len(found), bool(met if wanted is None else met & set(wanted)))]
        )

    def _met(self, histories: Histories, user: str | None) -> set[int]:
        """What has been met: all of a known user's items, or those of a live history."""
        return set((histories if user is None else self._seen(self._user(user))).items.tolist()) - {0}

    def recommend_many(
        self, users: Sequence[str], *, k: int = 10, seen: str | None = None, at: Moment | None = None
    ) -> tuple[pa.Table, list[str]]:
        """Recommend for many known users: a table user, rank, item, score, title, source; and notes.

        Users that the dataset does not know are skipped and counted, users given twice are answered once. `at` is the
        moment of all requests, as in `recommend`.

        Raises:
            InputError: a k below 1, the dataset knows none of the users, or `at` as in `recommend`.
        """
        check_list(users, "users", "user")
        most = self._most(k)
        distinct = list(dict.fromkeys(map(str, users)))
        found = self.dataset.users.index(distinct)
        skipped = [user for user, index in zip(distinct, found, strict=True) if index == 0]
        if distinct and len(skipped) == len(distinct):
            raise InputError(f"none of the {len(skipped)} users is in {self._place}, the first: {skipped[0]!r}")
        notes: list[str] = []
        if skipped:
            many = f"{len(skipped)} unknown user{'s' * (len(skipped) > 1)} skipped"
            notes.append(f"{many}, the first: {', '.join(skipped[:3])}")
        if twice := len(users) - len(distinct):
            notes.append(f"{twice} repeated user id{'s' * (twice > 1)} left out: each user is answered once")
        moment = checked_moment(at, self._momentary, False, self._gap, notes)
        known = found[found > 0]
        lengths = np.diff(self.dataset.offsets)[known]  # a window is read, but whole histories are gathered
        parts = packed(lengths, min(_ROWS, rows_per_block(len(self.model.known))))
        tables = [self._block(known[part], most, seen, moment) for part in parts]
        return (pa.concat_tables(tables) if tables else MANY.empty_table()), notes

    def similar(self, item: str, k: int = 10) -> Recommendation:
        """The `k` items whose vectors have the highest cosine with that of `item`."""
        most = self._most(k)
        (index,) = self._indexes([item], "item", []) or (0,)
        if not index:
            raise InputError(f"item {item!r} is not in the catalogue of this run{self._near(item)}")
        table = self._vectors()
        if not bool(self.model.known[index]):
            raise InputError(f"item {item!r} has no training events, so nothing is known of what it is like")
        unit = torch.nn.functional.normalize(table.float(), dim=1)
        cosine = (unit @ unit[index]).masked_fill(~self.model.known, -torch.inf)
        cosine[index] = -torch.inf
        best = cosine.topk(min(most, max(0, int(self.model.known.sum()) - 1)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        items = [Item(self.run.items.id(i), s, self.run.title(i), self.model.name) for i, s in pairs]
        return Recommendation(items, short(k, len(items)))

    def vectors(self) -> pa.Table:
        """Item vectors: columns item, vector (list of float32, null where nothing is known of the item), trained."""
        table = self._vectors()[1:].float().numpy()
        unknown = pa.array(~self.model.known[1:].numpy())
        flat = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1], mask=unknown)
        ids = self.run.items.ids(np.arange(1, len(table) + 1))
        return pa.table({"item": ids, "vector": flat, "trained": self.run.counts[1:] > 0})

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

    def _most(self, k: int) -> int:
        """Check a length of lists; no list is longer than the catalogue."""
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        return min(k, len(self.run.items))

    @property
    def _place(self) -> str:
        return str(self.dataset.path or "the dataset given")

    def _user(self, user: str) -> Int64:
        index: Int64 = self.dataset.users.index([user])
        if not index[0]:
            raise InputError(
                f"user {user!r} is not in {self._place}; give their events as a history instead (--history)"
            )
        return index

    def _stored(self, users: Int64) -> Histories:
        """All events of users (B,), oldest first; stored rows are part by part, which need not be the order of time."""
        events, offsets = ranges(self.dataset.offsets[users], self.dataset.offsets[users + 1])
        if self.dataset.part is not None and self.dataset.time is not None:
            owner = np.repeat(np.arange(len(users)), np.diff(offsets))
            events = events[np.lexsort((self.dataset.time[events], owner))]
        if self._positive is not None:
            kept = self._positive[events]
            events, offsets = events[kept], np.concatenate([[0], np.cumsum(kept)])[offsets]
        found = replace(gather(self.dataset, events, offsets), users=torch.from_numpy(users))
        explicit = isinstance(self.model, Factorization) and self.model.squared
        return with_labels(found, self.dataset, events) if explicit else found

    def _seen(self, users: Int64) -> Histories:
        """All events of users (B,), also those that a model of labels does not read: they were seen all the same."""
        return gather(self.dataset, *ranges(self.dataset.offsets[users], self.dataset.offsets[users + 1]))

    @cached_property
    def _positive(self) -> Bool | None:
        """The events (N,) that a ranker of labels reads: those of which the label says yes; None = all."""
        data = self.run.settings.data
        if self.run.manifest["model"] not in ("ranker", FACTORIZATION):
            return None
        rule = resolve_labels(self.dataset, data.labels)
        return rule.positive(self.dataset) if resolve_history(rule, data.history) == "positive" else None

    def _indexes(self, ids: Iterable[str], where: str, notes: list[str]) -> list[int]:
        """Look ids up; unknown ones are skipped and named in a note."""
        ids = list(ids)
        found = self.run.items.index(ids) if ids else np.empty(0, np.int64)
        unknown = [name for name, index in zip(ids, found, strict=True) if index == 0]
        if unknown:
            many = f"{len(unknown)} unknown item id{'s' * (len(unknown) > 1)}"
            notes.append(f"{where}: {many} skipped: {named(unknown)}")
        return [int(index) for index in found if index > 0]

    def _near(self, item: str) -> str:
        some = self.run.items.ids(np.argsort(-self.run.counts[1:])[:2000] + 1)
        return nearest(item, some)

    def _live(self, items: list[int], notes: list[str]) -> Histories:
        """A history without behaviours (code 0 = not given), its events as far apart as events commonly are."""
        count = len(items)
        untrained = [index for index in dict.fromkeys(items) if not bool(self.model.known[index])]
        if untrained:
            has = "item has" if len(untrained) == 1 else f"{len(untrained)} items have"
            notes.append(f"history: {has} no training events: read as unknown: {named(self.run.items.ids(untrained))}")
        if items and (missing := self._missing()):
            notes.append(f"this model also reads {missing}, and a history has none: it knows more of a known user")
        timed = self.run.manifest["dataset"]["time_kind"] != "none"
        return Histories(
            torch.tensor(items, dtype=torch.int64),
            torch.tensor([0, count]),
            torch.zeros(count, dtype=torch.int64) if self.run.behaviours else None,
            torch.arange(count) * self._gap if timed else None,
        )

    @property
    def _momentary(self) -> bool:
        """Whether the model reads the moment of a request."""
        return bool(getattr(self.model, "request_time", False))

    @property
    def _gap(self) -> int:
        """The time between two events of a user, commonly: what is assumed where no time is known."""
        return round(self.run.manifest.get("median_gap") or 0)

    def _missing(self) -> str:
        """What the model reads of events beside their items, and a live history does not have."""
        model = self.run.settings.model
        if model.name in (FACTORIZATION, *BASELINES):
            return ""
        behaviours = ["behaviours"] if model.behaviours and len(self.run.behaviours) > 1 else []
        behaviours += [f"the user's {', '.join(model.user_attributes)}"] if model.user_attributes else []
        return " and ".join(behaviours + ["times"] * (model.time_lags or model.time_bias or model.time_gaps))

    def _readable(self, histories: Histories, at: int | None = None) -> Histories:
        """What the model reads of histories: their newest `window` events, items it knows nothing of as unknown."""
        histories = histories if self.window is None else newest(histories, self.window)
        if histories.times is not None and self._momentary:
            histories = asked_at(histories, moments(histories, at, self._gap, self._dataset))
        return replace(histories, items=histories.items.where(self.model.known[histories.items], 0))

    def _top(
        self, histories: Histories, k: int, excluded: Jagged, candidates: list[int] | None = None
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """Best items per readable history; one without a known item gets the popular ones, and 0 is no item."""
        wanted = None if candidates is None else torch.tensor(candidates)
        model = self.model.narrowed(excluded, wanted) if isinstance(self.model, TwoStage) else self.model
        scores, items = top_for(model, histories, k, excluded, wanted)
        popular = [not bool(part.any()) for part in histories.items.split(histories.lengths.tolist())]
        if (known := self._acquainted(histories)) is not None:
            popular = [one and not met for one, met in zip(popular, known.tolist(), strict=True)]
        if any(popular):
            floor = LastResort(self.run.counts)
            other_scores, other_items = top_for(floor, histories, k, excluded, wanted)
            rows = torch.tensor(popular)[:, None]
            scores, items = torch.where(rows, other_scores, scores), torch.where(rows, other_items, items)
        return scores, items.masked_fill(scores <= UNKNOWN_SCORE, 0), popular

    def _acquainted(self, histories: Histories) -> Tensor | None:
        """Of whom (B,) the model knows more than events: who has a vector of their own, or told an attribute."""
        model = self.model.ranker if isinstance(self.model, TwoStage) else self.model
        if histories.users is None or not isinstance(model, Factorization | Ranker):
            return None
        return model.acquainted(histories.users)

    def _block(self, users: Int64, k: int, seen: str | None, at: int | None) -> pa.Table:
        """Answer for users (B,) of the dataset."""
        histories = self._stored(users)
        none = (torch.empty(0, dtype=torch.int64), torch.zeros(len(users) + 1, dtype=torch.int64))
        whole = self._seen(users)
        excluded = (whole.items, whole.offsets) if self._filters(seen) else none
        scores, items, popular = self._top(self._readable(histories, at), k, excluded)
        real = (items > 0).numpy()
        row, rank = np.nonzero(real)
        index = pa.array(items.numpy()[real] - 1)
        sources = np.array([self.model.name, "popular"])[np.array(popular, dtype=np.int64)[row]]
        columns = [
            self.dataset.users.array.take(pa.array(users[row] - 1)),
            pa.array(rank + 1),
            self.run.items.array.take(index),
            pa.array(scores.numpy()[real]),
            self.run.titles.take(index),
            pa.array(sources),
        ]
        return pa.table(columns, names=MANY.names).cast(MANY)


def _row(indexes: list[int]) -> Jagged:
    return torch.tensor(indexes, dtype=torch.int64), torch.tensor([0, len(indexes)])
