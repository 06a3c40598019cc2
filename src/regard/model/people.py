"""What is told of the person who asks: a vector for each attribute of theirs.

Letters: U users, R requests, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from regard.data.shape import Shape
from regard.model.attributes import AttributeTable
from regard.model.embedding import FORGOTTEN


class UserAttributes(AttributeTable):
    """Vectors of the attributes of users, one each; they start from zero, so that they say nothing before training.

    In training a share of the requests loses each attribute: what stands where it is not given has a meaning then, also
    where every user of the training has told it.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.describe(shape.user_attributes, shape.users, width, scale=0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes in the order of their vectors."""
        return (*self.categories, *self.measured)

    def forward(self, users: Tensor) -> list[Tensor]:
        """Vectors (R, W) of each attribute of users (R,); 0 = nobody knows who, so nothing is given."""
        found = []
        for values, codes in zip(self.values, self.codes, strict=True):
            found.append(functional.embedding(codes[users] * self._kept(users), values))
        if self.directions is None or self.measures is None:
            return found
        absent, measures, at = self.absent.to(self.measures), self.measures[users], 0
        for size in self.measured.values():
            own = slice(at, at + size + 1)
            told = torch.where(self._kept(users)[:, None], measures[:, own], absent[own])
            found.append(told @ self.directions[own])
            at += size + 1
        return found

    def told(self, users: Tensor) -> Tensor:
        """Of which users (R,) any attribute is given."""
        told = (self.codes[:, users] > 0).any(0)
        if self.measures is not None:
            columns = torch.tensor([*self.measured.values()]).add(1).cumsum(0).sub(1)  # where `absent` is 1
            told = told | (self.measures[users][:, columns.to(users.device)] == 0).any(1)
        return told

    def _kept(self, users: Tensor) -> Tensor:
        """Which requests (R,) still have an attribute: all of them once trained."""
        if not self.training:
            return torch.ones_like(users, dtype=torch.bool)
        return torch.rand(users.shape, device=users.device) >= FORGOTTEN
