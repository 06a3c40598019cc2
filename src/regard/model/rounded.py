"""A table and queries rounded to int8, with a proven bound of how far their products are from the true ones.

int8 is a quarter of the bytes of float32 and, on a CPU with instructions for it, a tenth of the time.

**The bound.** Rows stand in chunks of 32, and a chunk has one scale. A row is x = x' + r and a query q = q' + p, where
x' = a X and q' = b Q are what the int8 vectors X and Q stand for. So by Cauchy-Schwarz

    q.x = a b (Q.X) + p.x' + q.r,      |q.x - a b (Q.X)| <= |p| |x'| + |q| |r|

with Q.X a whole number, free of rounding. The lengths |p| and |q|, and the largest |x'| and |r| of a chunk, are
measured in float64, not estimated: the bound holds for every table, however badly int8 fits it.

**What rounding adds.** Tables and queries are divided by powers of two, so that |x| and |q| are at most 1 and nothing
overflows. Rounding to the nearest moves no number further than to zero, so |r| <= |x| and |x'| <= 2 |x|, likewise for
q, and no number on the way to a bound is above 4 |q| |x|. Some 16 roundings to float32, 2^-24 each, among them the
last one of the product itself, make 2^-18 |q| |x|, beside which the float64 sum counts for nothing; `_ROUNDING`, 2^-16,
is added. An absolute term covers what float32 loses of numbers near its smallest: `_LOST` in the units of the bounds,
`_SMALLEST` in those of the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 32  # rows with one scale and one bound

_NUMBERS = 2**18
_LEVELS = 127
_LEAST_SCALE = 2.0**-100
_ROUNDING = 2.0**-16
_LOST = 2.0**-90
_SMALLEST = 2.0**-125

Product = Callable[[Tensor, Tensor], Tensor]
"""The products (n, B) of int8 (n, D) and int8 (B, D): whole numbers, without rounding, of any type."""


@dataclass(frozen=True)
class RoundedQueries:
    """B queries, divided by `unit` (B, 1) float64; lengths are of the divided ones."""

    cells: Tensor
    """int8 (B, D)."""
    scales: Tensor
    """float32 (B,): a query is about `cells * scales`."""
    norms: Tensor
    lost: Tensor
    """float32 (B,): the length of what was rounded off."""
    tiny: Tensor
    """float32 (B,): what bounds allow for numbers too small for float32."""
    unit: Tensor
    """float64 (B,): products, times this, are those of the caller."""

    @classmethod
    def of(cls, queries: Tensor, table_unit: Tensor) -> RoundedQueries:
        """Round float64 queries (B, D), to be multiplied with a table that was divided by `table_unit`."""
        own = power_above(queries.norm(dim=1))
        exact = queries / own[:, None]
        scales = (exact.abs().amax(1) / _LEVELS).float().clamp_min(_LEAST_SCALE)
        cells = _rounded(exact, scales[:, None])
        rest = exact - cells * scales[:, None].double()
        tiny = _LOST + _SMALLEST / own / table_unit
        norms = exact.norm(dim=1).float()
        return cls(cells.to(torch.int8), scales, norms, rest.norm(dim=1).float(), tiny.float(), own * table_unit)

    def below(self, products: Tensor) -> Tensor:
        """Products float32 (B,) of the caller in the units of the bounds, never above what they are."""
        inner = (products.double() / self.unit).float()
        return inner.nextafter(inner.new_full((), -torch.inf))


class RoundedTable:
    """Rows, longest first, as int8 with the lengths that bounds are made of; C chunks, D + 0.5 bytes a row."""

    def __init__(self, table: Tensor, rows: Tensor, unit: Tensor) -> None:
        """Round `table[rows]`, finite, by pieces; `rows` (C * CHUNK,), and none is longer than `unit`, float64."""
        chunks, width = len(rows) // CHUNK, table.shape[1]
        self.unit = unit
        self.product = product_for(table.device, width)
        self.cells = torch.empty(chunks, CHUNK, width, dtype=torch.int8, device=table.device)
        self._scales, self._kept, self._lost, self.longest = torch.empty(4, chunks, device=table.device).unbind()
        step = max(1, _NUMBERS // (CHUNK * max(1, width)))
        for start in range(0, chunks, step):
            at = slice(start, min(start + step, chunks))
            exact = (table[rows[at.start * CHUNK : at.stop * CHUNK]].double() / unit).view(-1, CHUNK, width)
            scales = (exact.abs().amax((1, 2)) / _LEVELS).float().clamp_min(_LEAST_SCALE)
            cells = _rounded(exact, scales[:, None, None])
            kept = cells * scales[:, None, None].double()
            self.cells[at] = cells.to(torch.int8)
            self._scales[at] = scales
            self.longest[at] = exact.norm(dim=2).amax(1).float()
            self._kept[at] = kept.norm(dim=2).amax(1).float()
            self._lost[at] = (exact - kept).norm(dim=2).amax(1).float() + _ROUNDING * self.longest[at]

    def __len__(self) -> int:
        return len(self.longest)

    def bounds(self, queries: RoundedQueries, whole: Tensor, at: slice) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (n, B) of the best products in chunks `at`, whose largest whole ones are given."""
        error = torch.outer(self._kept[at], queries.lost)
        error.addcmul_(self._lost[at, None], queries.norms[None]).add_(queries.tiny)
        middle = whole.float().mul_(self._scales[at, None]).mul_(queries.scales)
        return middle - error, middle.add_(error)

    def upper(self, queries: RoundedQueries, whole: Tensor, chunks: Tensor, who: Tensor) -> Tensor:
        """Upper bounds (P, CHUNK) of the products of the rows of `chunks` (P,), each with its own query `who` (P,)."""
        error = self._kept[chunks] * queries.lost[who] + self._lost[chunks] * queries.norms[who] + queries.tiny[who]
        middle = whole.float().mul_(self._scales[chunks, None]).mul_(queries.scales[who, None])
        return middle.add_(error[:, None])

    def farthest(self, queries: RoundedQueries, chunk: int) -> Tensor:
        """Upper bounds (B,) of all products from this chunk on: no row there is longer."""
        return self.longest[chunk] * (queries.norms * (1 + _ROUNDING)) + queries.tiny


def power_above(lengths: Tensor) -> Tensor:
    """The power of two above each length float64, 1 for zero."""
    return torch.ldexp(torch.ones_like(lengths), torch.frexp(lengths).exponent)


def product_for(device: torch.device, width: int) -> Product:
    """Return the fastest way to multiply int8 that is found to be exact here.

    PyTorch's own matrix product of int8 uses the CPU's instructions for it. Its name says that it may change, without
    such instructions sums may saturate, and version 2.13 is wrong for D = 1: so it is tried first, on large numbers and
    on mixed ones.
    """
    return _as_integers if device.type == "cpu" and _is_exact(width) else _as_floats


def _is_exact(width: int) -> bool:
    """Try `_as_integers` on rows of the largest numbers, of both signs, and on rows that all differ."""
    mixed = torch.arange(CHUNK * width).mul(37).remainder(2 * _LEVELS + 1).sub(_LEVELS).view(CHUNK, width)
    full = torch.full((2, width), _LEVELS)
    cells = torch.cat([mixed, full, -full, full * mixed[:2].sign()])
    for queries in (cells[-6:], cells[-1:], cells[-3:-2]):
        try:
            found = _as_integers(cells.to(torch.int8), queries.to(torch.int8))
        except (AttributeError, RuntimeError, NotImplementedError):
            return False
        if not torch.equal(found.double(), cells.double() @ queries.double().T):
            return False
    return True


def _as_integers(cells: Tensor, queries: Tensor) -> Tensor:
    return torch._int_mm(cells, queries.T)


def _as_floats(cells: Tensor, queries: Tensor) -> Tensor:
    """Whole numbers up to 2^24 are exact in float32, and int8 in whatever a device multiplies in its place."""
    dtype = torch.float32 if cells.shape[1] * _LEVELS**2 <= 2**24 else torch.float64
    return cells.to(dtype) @ queries.to(dtype).T


def _rounded(exact: Tensor, scales: Tensor) -> Tensor:
    return (exact / scales).round().clamp(-_LEVELS, _LEVELS)
