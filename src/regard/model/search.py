"""Exact search in a table that stays: int8 rules out nearly all rows, float64 decides about the rest.

`topk.top_k` multiplies every row in full precision. A `SearchIndex` rounds the table once (`rounded.py`), and as it is
proven how far a rounded product can be from the true one, so is which rows cannot be among the best. The answer is that
of multiplying everything: nothing about it is approximate.

Rows stand by falling length. A block of products shrinks to the largest of each chunk of 32 rows while it is in the
cache; a product for every item is never in memory. From these follow a lower and an upper bound of the best product of
a chunk. The k-th best lower bound so far is a *floor*: at least k products reach it. Chunks whose upper bound is below
the floor are out, and so is all the rest of the table once its longest row could not reach it. What is left, some
dozens of rows per query, is multiplied in float64. Where bounds rule out little (equal rows, single numbers that dwarf
all others) more is left: that takes longer and changes nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.errors import DivergenceError
from regard.model.rounded import CHUNK, RoundedQueries, RoundedTable, power_above
from regard.model.topk import NOTHING, UNKNOWN_SCORE, Jagged, check_known, largest, listed, owners, pack

_QUERIES = 64  # at once
_NUMBERS = 2**18  # products at once: 1 MB, which stays in a core's cache
_FIRST = 2**10  # chunks until the first floor
_PAIRS = 2**12  # chunks of some query that are looked into at once
_OUT = -(2**31)  # the whole product of what is no candidate; no other is below half of it


class SearchIndex:
    """Finds the rows of a table with the largest products, exactly; made once, asked often.

    A product is the float64 sum of the products of the numbers, in a fixed order, rounded to float32. So it is the same
    on every device and whatever else is asked or left out, and one of whole numbers is exact.

    Holds the table itself, which must not change afterwards, and D + 13 bytes a row beside it.
    """

    def __init__(self, table: Tensor, known: Tensor | None = None) -> None:
        """Round a table.

        Args:
            table: float (V, D); row 0 is never found.
            known: bool (V,), as in `topk.rank_and_top`; None when all rows are known.

        Raises:
            DivergenceError: a number in a known row is not finite, row 0 among them, as in `topk.top_k`.
            InputError: `known` is not of the table.
        """
        check_known(known, len(table))
        self.table = table.detach()
        found = torch.ones(len(table), dtype=torch.bool, device=table.device) if known is None else known.clone()
        self._unknown = (~found[1:]).nonzero().flatten() + 1
        _check(self.table[:1][found[:1]], "vectors")
        found[:1] = False
        rows = found.nonzero().flatten()
        lengths = _lengths(self.table, rows)
        _check(lengths, "vectors")
        self._count = len(rows)
        rows = rows[lengths.argsort(descending=True, stable=True)]
        self._place = torch.full((len(table),), -1, dtype=torch.int32, device=table.device)
        self._place[rows] = torch.arange(len(rows), dtype=torch.int32, device=table.device)
        self._rows = torch.cat([rows, rows[-1:].expand(-len(rows) % CHUNK)])  # repeated, and never a candidate again
        longest = lengths.amax() if len(rows) else lengths.new_zeros(())
        self._rounded = RoundedTable(self.table, self._rows, power_above(longest))

    def search(self, queries: Tensor, k: int, excluded: Jagged | None = None) -> tuple[Tensor, Tensor]:
        """Find the `k` rows with the largest product with each query.

        Args:
            queries: float (B, D).
            k: length of the lists.
            excluded: rows of the table that are no candidates for that query, in any order, repeats allowed.

        Returns:
            (products float32 (B, k), rows int64 (B, k)), best first, equal products by lower row. Unknown rows come
            below all known ones with `topk.UNKNOWN_SCORE`; (-inf, 0) pads where there are too few.

        Raises:
            DivergenceError: a query, or a product that could be in its list, is not finite.
        """
        exact = queries.detach().to(self.table.device).double()
        _check(exact, "queries")
        if k == 0:
            return listed(self._rows.new_empty(len(exact), 0))
        parts = [self._rows.new_empty(0, k)]
        with torch.autocast(exact.device.type, enabled=False):
            for start in range(0, len(exact), _QUERIES):
                part = exact[start : start + _QUERIES]
                parts.append(self._best(part, k, _Barred.of(excluded, start, len(part), self._place)))
        return listed(torch.cat(parts))

    def _best(self, exact: Tensor, k: int, barred: _Barred | None) -> Tensor:
        """Return the keys (B, k) of the best rows for float64 queries, best first."""
        queries = RoundedQueries.of(exact, self._rounded.unit)
        chunks, who, upper, floor = self._chunks(queries, k, barred)
        best = torch.full((len(exact), k), NOTHING, dtype=torch.int64, device=exact.device)
        for at in (upper - floor[who]).argsort(descending=True, stable=True).split(_PAIRS):
            at = at[upper[at] >= floor[who[at]]]  # the floor may have risen
            if not len(at):
                continue
            rows, owner = self._inside(queries, chunks[at], who[at], floor)
            if barred is not None:
                rows, owner = barred.without(rows, owner)
            if len(rows):
                best = largest(torch.cat([best, self._multiplied(exact, rows, owner)], dim=1), k)
                floor = floor.maximum(queries.below(listed(best[:, -1])[0]))
        return self._filled(best, barred)

    def _chunks(self, queries: RoundedQueries, k: int, barred: _Barred | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what bounds leave of all chunks: chunks, queries, upper bounds (P,); and the floor (B,)."""
        best = queries.norms.new_full((len(queries.norms), k), -math.inf)
        left = [(self._rows.new_empty(0), self._rows.new_empty(0), best.new_empty(0))]
        for at in self._spans(len(best)):
            if not bool((self._rounded.farthest(queries, at.start) >= best[:, -1]).any()):
                break
            whole = self._maxima(queries, at, barred)
            lower, upper = self._rounded.bounds(queries, whole, at)
            if barred is not None:
                lower.masked_fill_(whole < _OUT // 2, -math.inf)
            best = torch.cat([best, _witnesses(lower, k)], dim=1).topk(k, dim=1).values
            chunks, who = (upper >= best[:, -1]).nonzero(as_tuple=True)
            left.append((chunks + at.start, who, upper[chunks, who]))
        chunks, who, upper = (torch.cat(parts) for parts in zip(*left, strict=True))
        still = upper >= best[who, -1]
        return chunks[still], who[still], upper[still], best[:, -1]

    def _spans(self, count: int) -> Iterator[slice]:
        """Yield chunks for `count` queries: few at first, for an early floor, then as many as bounds fit the cache."""
        most = max(1, _NUMBERS // count)
        start, size = 0, max(1, min(_FIRST, most))
        while start < len(self._rounded):
            yield slice(start, min(start + size, len(self._rounded)))
            start, size = start + size, min(2 * size, most)

    def _maxima(self, queries: RoundedQueries, at: slice, barred: _Barred | None) -> Tensor:
        """The largest whole product of each chunk (n, B); `_OUT` where there is no candidate."""
        step = max(1, _NUMBERS // (CHUNK * len(queries.norms)))
        parts = []
        for start in range(at.start, at.stop, step):
            stop = min(start + step, at.stop)
            whole = self._rounded.product(self._rounded.cells[start:stop].flatten(0, 1), queries.cells)
            whole[self._count - start * CHUNK :] = _OUT
            if barred is not None:
                barred.mark(whole, start * CHUNK)
            parts.append(whole.view(stop - start, CHUNK, -1).amax(1))
        return torch.cat(parts)

    def _inside(self, queries: RoundedQueries, chunks: Tensor, who: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (R,) that bounds leave of chunks (P,), and whose they are; each chunk is multiplied once."""
        distinct, at = chunks.unique(return_inverse=True)
        whole = self._rounded.product(self._rounded.cells.index_select(0, distinct).flatten(0, 1), queries.cells)
        whole = whole.view(len(distinct), CHUNK, -1)[at, :, who]
        pair, lane = (self._rounded.upper(queries, whole, chunks, who) >= floor[who, None]).nonzero(as_tuple=True)
        places = chunks[pair] * CHUNK + lane
        real = places < self._count
        return self._rows[places[real]], who[pair[real]]

    def _multiplied(self, exact: Tensor, rows: Tensor, who: Tensor) -> Tensor:
        """Multiply rows with their queries (R,) and return keys (B, n), those of a query side by side."""
        step = max(1, _NUMBERS // max(1, exact.shape[1]))
        pieces = zip(rows.split(step), who.split(step), strict=True)
        scores = torch.cat([_sum(self.table[row].double() * exact[one]) for row, one in pieces]).float()
        _check(scores, "scores")
        order = who.argsort(stable=True)
        counts = who.bincount(minlength=len(exact))
        column = torch.arange(len(who), device=who.device) - (counts.cumsum(0) - counts)[who[order]]
        keys = who.new_full((len(exact), int(counts.max())), NOTHING)
        keys[who[order], column] = pack(scores, rows)[order]
        return keys

    def _filled(self, best: Tensor, barred: _Barred | None) -> Tensor:
        """Add unknown rows to lists with too few known ones."""
        short = (listed(best[:, -1])[0] <= UNKNOWN_SCORE).nonzero().flatten() if len(self._unknown) else ()
        for one in short:
            rows = self._unknown
            if barred is not None:
                rows = barred.without(rows, one.expand(len(rows)))[0]
            rows = rows[: best.shape[1]]
            keys = pack(torch.full(rows.shape, UNKNOWN_SCORE, device=rows.device), rows)
            best[one] = largest(torch.cat([best[one], keys])[None], best.shape[1])[0]
        return best


@dataclass(frozen=True)
class _Barred:
    """Pairs of rows and queries that are no candidates."""

    pairs: Tensor
    """int64 (E,): row + query * V."""
    places: Tensor
    """int64 (F,), rising: where in the rounded table the known ones of them stand."""
    who: Tensor
    """int64 (F,): their queries."""
    ordered: list[int]
    """`places`."""
    size: int

    @classmethod
    def of(cls, excluded: Jagged | None, first: int, count: int, place: Tensor) -> _Barred | None:
        """Choose what is excluded for `count` queries from the `first` on."""
        if excluded is None:
            return None
        offsets = excluded[1][first : first + count + 1].to(place.device)
        rows = excluded[0][int(offsets[0]) : int(offsets[-1])].to(place.device)
        who = owners(offsets)
        places, order = place[rows].long().sort(stable=True)
        known = places >= 0
        pairs = rows + who * len(place)
        return cls(pairs, places[known], who[order][known], places[known].tolist(), len(place))

    def mark(self, whole: Tensor, start: int) -> None:
        """Overwrite their products in (n, B) whole ones of the places from `start` on."""
        here = slice(bisect_left(self.ordered, start), bisect_left(self.ordered, start + len(whole)))
        if here.start < here.stop:
            whole[self.places[here] - start, self.who[here]] = _OUT

    def without(self, rows: Tensor, who: Tensor) -> tuple[Tensor, Tensor]:
        """Leave them out of rows and queries (R,)."""
        inside = ~torch.isin(rows + who * self.size, self.pairs)
        return rows[inside], who[inside]


def _lengths(table: Tensor, rows: Tensor) -> Tensor:
    """Float64 lengths of rows, by pieces."""
    step = max(1, _NUMBERS // max(1, table.shape[1]))
    parts = [table[piece].double().norm(dim=1) for piece in rows.split(step)]
    return torch.cat([*parts, torch.empty(0, dtype=torch.float64, device=table.device)])


def _check(numbers: Tensor, name: str) -> None:
    if not bool(numbers.isfinite().all()):
        raise DivergenceError(
            f"expected finite {name} of the items a model knows, got nan or inf: its weights are not finite; "
            "train with a lower train.learning_rate"
        )


def _witnesses(lower: Tensor, k: int) -> Tensor:
    """Lower bounds (B, m) of products of different rows, out of those (n, B) of chunks: enough of them for k."""
    group = max(1, len(lower) // (8 * k))
    whole = lower[: len(lower) // group * group]
    return whole.view(-1, group, lower.shape[1]).amax(1).T


def _sum(numbers: Tensor) -> Tensor:
    """Sum rows (R, D) by halves, the same on every device and for every R: exact up to log2(D) roundings."""
    while (width := numbers.shape[1]) > 1:
        half = width // 2
        halves = numbers[:, :half] + numbers[:, half : 2 * half]
        numbers = halves if width % 2 == 0 else torch.cat([halves, numbers[:, -1:]], dim=1)
    return numbers.sum(1)
