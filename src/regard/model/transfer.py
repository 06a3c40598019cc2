"""Four ways for item vectors to start from pretrained ones; all end as one table, for scoring and for export.

    init    the table starts from the vectors and is learned on
    frozen  vectors and what a two-layer adapter makes of them; no ids
    fuse    vectors, frozen, beside a short learned id (as AlphaFuse, Hu et al. 2025, arXiv 2504.19218, which whitens
            them: model.softness=0)
    gate    an id plus the adapted vector, which counts the more the fewer training events an item has

Letters: V items, W width, K values of a pretrained vector, R rows asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import ModelSettings
from regard.errors import SettingsError
from regard.model.dropout import Dropout

MODES = ("init", "frozen", "fuse", "gate")
NO_RETRIEVERS = ("ranker", "matrix-factorization")


class Pretrained(nn.Module):
    """What is known of items beforehand: `rows` (V + 1, K), 0 where nothing is; `told` (V + 1,) says of which it is.

    Both are buffers, so that saved weights need no file of vectors. `ids` are the learned rows (V + 1, id_width), or
    None where there are none.
    """

    rows: Tensor
    told: Tensor

    def __init__(self, items: int, size: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(items + 1, size))
        self.register_buffer("told", torch.zeros(items + 1, dtype=torch.bool))

    def take(self, rows: Tensor, told: Tensor, counts: Tensor) -> None:  # noqa: ARG002 - not all ways read counts
        """Read vectors (V + 1, K), which items have one, and how many training events each item has (V + 1,)."""
        self.rows.copy_(rows)
        self.told.copy_(told)

    def grow(self, rows: Tensor, told: Tensor) -> None:
        """Append items that came after training: vectors (n, K), and which items have one (n,)."""
        self.rows = torch.cat([self.rows, rows.to(self.rows)[:, : self.rows.shape[1]]])
        self.told = torch.cat([self.told, told.to(self.told.device)])

    def of(self, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows and `told` of the items (R,), or of all."""
        return (self.rows, self.told) if items is None else (self.rows[items], self.told[items])


class Adapter(nn.Module):
    """K values -> W: norm(x + f(x)), x the first W values, f two linear maps with a GELU between.

    f starts from zero, so an item starts as what its vector says: values come along principal axes, the longest first.
    The norm is at the scale of all other item vectors. Items of which nothing is told share a learned vector.
    """

    def __init__(self, size: int, settings: ModelSettings, scale: float) -> None:
        super().__init__()
        self.width = width = settings.width
        self.layers = nn.Sequential(
            nn.Linear(size, width),
            nn.GELU(),
            Dropout(settings.dropout),
            nn.Linear(width, width),
        )
        for each in self.layers[-1].parameters():
            nn.init.zeros_(each)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, scale * width**-0.5)
        self.nothing = nn.Parameter(torch.randn(width) * (scale * width**-0.5))

    def forward(self, rows: Tensor, told: Tensor) -> Tensor:
        """(R, K), (R,) -> (R, W); in full precision once trained, or items would tie."""
        kind = rows.device.type
        with torch.autocast(kind, enabled=self.training and torch.is_autocast_enabled(kind)):
            start = functional.pad(rows[:, : self.width], (0, max(0, self.width - rows.shape[1])))
            adapted: Tensor = self.norm(start + self.layers(rows))
        return torch.where(told[:, None], adapted, self.nothing.to(adapted.dtype))


class Frozen(Pretrained):
    """No ids: an item is what its vector says."""

    def __init__(self, items: int, size: int, settings: ModelSettings, scale: float) -> None:
        super().__init__(items, size)
        self.adapter = Adapter(size, settings, scale)

    def forward(self, ids: Tensor | None, items: Tensor | None) -> Tensor:  # noqa: ARG002 - there are no ids
        """-> (R, W)."""
        adapted: Tensor = self.adapter(*self.of(items))
        return adapted


class Fused(Pretrained):
    """The vector as it is, beside an id of `model.id_width` values that starts from zero."""

    def __init__(self, items: int, size: int, scale: float = 0.0) -> None:
        super().__init__(items, size)
        self.nothing = nn.Parameter(first_nothing(size, scale))

    def forward(self, ids: Tensor | None, items: Tensor | None) -> Tensor:
        """(R, id_width) -> (R, W)."""
        assert ids is not None
        rows, told = self.of(items)
        return torch.cat([torch.where(told[:, None], rows, self.nothing), ids], 1)


class Gated(Pretrained):
    """id + g adapter(vector), g = m / (n + m) with n training events and m their mean over items that have any.

    Ids start from zero, and in training a share of the items goes without theirs, so that the vector alone is
    enough for an item that nobody has met.
    """

    gate: Tensor

    def __init__(self, items: int, size: int, settings: ModelSettings, scale: float) -> None:
        super().__init__(items, size)
        self.adapter, self.without = Adapter(size, settings, scale), settings.id_dropout
        self.register_buffer("gate", torch.ones(items + 1))

    def take(self, rows: Tensor, told: Tensor, counts: Tensor) -> None:
        """Read vectors, and weigh them by training events."""
        super().take(rows, told, counts)
        met = counts[1:][counts[1:] > 0].float()
        mean = met.mean() if len(met) else torch.ones(())
        self.gate.copy_(mean / (counts + mean))

    def grow(self, rows: Tensor, told: Tensor) -> None:
        """Append items that came after training, which nobody has met."""
        super().grow(rows, told)
        self.gate = torch.cat([self.gate, self.gate.new_ones(len(told))])

    def forward(self, ids: Tensor | None, items: Tensor | None) -> Tensor:
        """(R, W) -> (R, W)."""
        assert ids is not None
        rows, told = self.of(items)
        gate = self.gate if items is None else self.gate[items]
        if self.training and self.without:
            ids = ids * (torch.rand(len(ids), 1, device=ids.device) >= self.without)
        adapted: Tensor = self.adapter(rows, told)
        return ids + gate[:, None] * adapted


class Initial(Pretrained):
    """The table itself, which `ItemTable` starts from the rows; they are not needed again."""

    def __init__(self, items: int) -> None:
        super().__init__(items, 0)

    def take(self, rows: Tensor, told: Tensor, counts: Tensor) -> None:  # noqa: ARG002 - one signature for all
        """Remember which items started from a vector."""
        self.told.copy_(told)

    def forward(self, ids: Tensor | None, items: Tensor | None) -> Tensor:  # noqa: ARG002 - one signature for all
        """(R, W) -> (R, W)."""
        assert ids is not None
        return ids


def first_nothing(size: int, scale: float) -> Tensor:
    """What stands for nothing told before training, (size,), of a length of about `scale`.

    Zero is the neutral one, but not where vectors are brought to length 1: its gradient there is without bounds.
    """
    return torch.randn(size) * (scale * size**-0.5) if scale else torch.zeros(size)


def mode_of(settings: ModelSettings) -> str:
    """What `model.transfer` names; `auto` is `init` for retrievers, where it was measured to be best, else `gate`."""
    if settings.transfer != "auto":
        return settings.transfer
    return "gate" if settings.name in NO_RETRIEVERS else "init"


def build_transfer(items: int, size: int, settings: ModelSettings, scale: float) -> Pretrained | None:
    """Return what `model.transfer` names, for vectors of `size` values; None without vectors."""
    if not size:
        return None
    if settings.hash_rows:
        raise SettingsError(
            f"model.hash_rows={settings.hash_rows} and pretrained vectors exclude each other: hashed rows are shared "
            "by items that have nothing to do with each other; leave out one of them"
        )
    mode = mode_of(settings)
    if mode == "frozen":
        return Frozen(items, size, settings, scale)
    if mode == "fuse":
        return Fused(items, size, scale if settings.temperature else 0.0)
    return Initial(items) if mode == "init" else Gated(items, size, settings, scale)


def vector_width(settings: ModelSettings) -> int | None:
    """How many values a vector is brought to before training; None = as many as it has."""
    mode = mode_of(settings)
    if mode == "fuse":
        return settings.width - id_width(settings)
    return settings.width if mode == "init" else None


def id_width(settings: ModelSettings) -> int:
    """Width of the learned id of an item; 0 = there is none."""
    if settings.transfer == "frozen":
        return 0
    if settings.transfer != "fuse":
        return settings.width
    width = settings.id_width or max(1, settings.width // 4)
    if width >= settings.width:
        raise SettingsError(
            f"model.id_width={width} leaves nothing of model.width={settings.width} for pretrained vectors"
        )
    return width


__all__ = [
    "MODES",
    "NO_RETRIEVERS",
    "Initial",
    "Pretrained",
    "build_transfer",
    "first_nothing",
    "id_width",
    "mode_of",
    "vector_width",
]
