"""What attributes make of the things they belong to, items or users: vectors of values, directions of numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data.attributes import Attribute
from regard.data.shape import Form


class AttributeTable(nn.Module):
    """Attributes of V things, row 0 being the one of which nothing is given.

    A category has a vector for each value; numbers and vectors are projected linearly, and where they are not given a
    learned vector stands for them. Attributes go by name: they lie in alphabetical order, whatever order they are told
    in.

    What `read` is given is kept in buffers, so that saved weights need no dataset: `codes` (categories, V + 1),
    `measures` (V + 1, numbers side by side, each attribute followed by a column that is 1 where it is not given).
    """

    codes: Tensor
    measures: Tensor | None

    def describe(self, forms: Mapping[str, Form], count: int, width: int, scale: float) -> None:
        """Make the weights: vectors of length about `scale` for values, for numbers, and for what is not given."""
        forms = dict(sorted(forms.items()))
        self.categories = [name for name, form in forms.items() if form.kind == "category"]
        self.measured = {name: form.size for name, form in forms.items() if form.kind != "category"}
        self.values = nn.ParameterList([vectors(forms[name].size + 1, width, scale) for name in self.categories])
        self.directions = nn.Parameter(scale * self._directions(width)) if self.measured else None
        self.register_buffer("codes", torch.zeros(len(self.categories), count + 1, dtype=torch.int64))
        columns = sum(self.measured.values()) + len(self.measured)
        self.register_buffer("measures", torch.zeros(count + 1, columns) if self.measured else None)

    def read(self, found: Mapping[str, Attribute]) -> None:
        """Take what a dataset says of the things, by the name of the attribute."""
        for row, name in enumerate(self.categories):
            self.codes[row] = torch.from_numpy(found[name].values)
        if self.measures is not None:
            self.measures.copy_(_flagged([torch.from_numpy(found[name].values) for name in self.measured]))

    @property
    def absent(self) -> Tensor:
        """The row of `measures` where nothing is given."""
        return torch.cat([torch.tensor([0.0] * size + [1.0]) for size in self.measured.values()])

    def append(self, count: int, given: Mapping[str, Tensor] | None = None) -> None:
        """Append `count` things, and what is given of them: codes (count,), or figures (count, size) with NaN = not.

        Of an attribute that is not among those `given`, by name, nothing is.
        """
        given = given or {}
        codes = self.codes.new_zeros(len(self.codes), count)
        for row, name in enumerate(self.categories):
            codes[row] = given.get(name, codes[row])
        self.codes = torch.cat([self.codes, codes], 1)
        if self.measures is not None:
            nothing = {name: torch.full((count, size), torch.nan) for name, size in self.measured.items()}
            more = _flagged([given.get(name, nothing[name]) for name in self.measured])
            self.measures = torch.cat([self.measures, more.to(self.measures)])

    def added_to(self, table: Tensor, rows: Tensor | None) -> Tensor:
        """Vectors (R, width) of the things `rows` (R,), or of all, plus one of each attribute."""
        for values, codes in zip(self.values, self.codes, strict=True):
            table = table + functional.embedding(codes if rows is None else codes[rows], values)
        if self.directions is not None and self.measures is not None:
            table = table + (self.measures if rows is None else self.measures[rows]) @ self.directions
        return table

    def _directions(self, width: int) -> Tensor:
        """Rows of length about one for a number, for a vector as a whole, and for what is not given."""
        parts = [torch.randn(size + 1, width) * width**-0.5 for size in self.measured.values()]
        for part in parts:
            part[:-1] /= max(len(part) - 1, 1) ** 0.5
        return torch.cat(parts)


def _flagged(figures: list[Tensor]) -> Tensor:
    """Figures (n, size) of some attributes side by side, each followed by 1 where it is not given, and then 0s."""
    parts = [part for one in figures for part in (one.nan_to_num(0.0), one.isnan().any(1, keepdim=True))]
    return torch.cat(parts, 1)


def vectors(count: int, width: int, scale: float) -> nn.Parameter:
    """Rows of length about `scale`: with the final norm and 1, logits start near zero mean and unit spread."""
    return nn.Parameter(torch.randn(count, width) * (scale * width**-0.5))
