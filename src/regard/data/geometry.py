"""From raw vectors to rows of a table: centre, shrink, turn, weigh the spectrum, and match the scale.

Fitted once on the vectors of training items; the same transform then serves items that come later. With the n centred
rows E = U S V', an axis of singular value s gets the length g(s) = sqrt(s² / (s² + softness)). What comes out is U g(S)
times sqrt(n), so that it does not depend on the number of rows. Softness 0 makes all axes equally long (whitening), a
large one leaves their proportions as they were, and all between is one parameter (ACE, arXiv 2605.29322).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from regard.errors import InputError, SettingsError, nearest

Mode = Literal["pca", "soft", "white", "zca"]
Matrix = npt.NDArray[np.floating[Any]]

_CHUNK = 1 << 14  # rows
_FLAT = 1e-12  # an axis whose share of the largest variance is less holds rounding only


@dataclass(frozen=True)
class Geometry:
    """A fitted transform of vectors of length d to rows of length `width`.

    mode: `pca` turns to principal axes and keeps lengths; `white` makes the axes equally long; `soft` lies between, by
        `softness`; `zca` whitens and turns back, so that each value stays near what it was (Kessy et al. 2018).
    softness: in units of the mean of s² over all d axes, so that it means the same for any n and any scale.
    shrink: share of the covariance replaced by its mean variance, 0 to 1 (Ledoit and Wolf 2004).
    mean: float64 (d,). turn: float64 (d, width), scale included. variances: float64 (d,), largest first.
    rank: axes that hold more than rounding; columns beyond it are 0. equal: whether every row is brought to
        length `norm`.
    """

    mode: Mode
    softness: float
    shrink: float
    norm: float | None
    equal: bool
    rank: int
    rows: int
    mean: npt.NDArray[np.float64] = field(repr=False)
    turn: npt.NDArray[np.float64] = field(repr=False)
    variances: npt.NDArray[np.float64] = field(repr=False)

    @classmethod
    def fit(
        cls,
        matrix: Matrix,
        width: int | None = None,
        *,
        mode: Mode = "soft",
        softness: float = 1.0,
        shrink: float = 0.0,
        norm: float | None = None,
        equal: bool = False,
    ) -> Geometry:
        """Fit on the vectors (n, d) of training items, n >= 2; all arithmetic is in float64.

        Args:
            matrix: one row for each item whose vector is known; others do not belong here.
            width: length of the rows to come, None = d. Where there are fewer axes, columns of 0 follow.
            mode: see the class.
            softness: 0 to inf, for `soft`.
            shrink: 0 to 1, against noise in short axes where n is not much larger than d.
            norm: root mean square length of the transformed training rows, None = as they come.
            equal: bring each row to length `norm` (default 1) instead of all by one factor.

        Raises:
            SettingsError: a parameter is out of its range, or `zca` is asked for another width than d.
            InputError: fewer than two rows, rows that are all equal, nan or inf.
        """
        softness = _softness(mode, softness, shrink, norm)
        _check(matrix)
        length = int(matrix.shape[1])
        width = length if width is None else width
        if width < 1 or (mode == "zca" and width != length):
            raise SettingsError(
                f"geometry: {mode} of vectors of {length} values cannot have width {width}; expected "
                f"{'the same' if mode == 'zca' else '1 or more'}"
            )
        mean, covariance = _moments(matrix)
        variances, axes = _axes(covariance)
        rank = min(int((variances > _FLAT * variances[0]).sum()), len(matrix) - 1)
        gains = _gains(variances, rank, softness, shrink)
        if mode == "zca":
            turn = (axes * gains) @ axes.T
        else:
            kept = min(width, rank)
            turn = np.zeros((length, width))
            turn[:, :kept] = axes[:, :kept] * gains[:kept]
        power = math.sqrt(float(np.einsum("ij,ik,kj->", turn, covariance, turn, optimize=True)))
        turn *= (norm or 1.0) / power if norm is not None or equal else 1.0
        return cls(mode, softness, shrink, norm, equal, rank, len(matrix), mean, turn, variances)

    @property
    def width(self) -> int:
        """Length of the rows that come out."""
        return int(self.turn.shape[1])

    def apply(self, matrix: Matrix) -> npt.NDArray[np.float32]:
        """Transform vectors (m, d), seen in fitting or not, to float32 rows (m, width)."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.mean):
            raise InputError(f"geometry: expected vectors (rows, {len(self.mean)}), came {matrix.shape}")
        out = np.empty((len(matrix), self.width), np.float32)
        for start in range(0, len(matrix), _CHUNK):
            rows = (matrix[start : start + _CHUNK].astype(np.float64) - self.mean) @ self.turn
            if self.equal:
                lengths = np.linalg.norm(rows, axis=1, keepdims=True)
                rows *= np.divide(self.norm or 1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            out[start : start + _CHUNK] = rows
        return out

    def centred(self, matrix: Matrix) -> Geometry:
        """The same axes and lengths around the mean of other vectors (n, d), n >= 1."""
        return replace(self, mean=matrix.mean(0, dtype=np.float64))

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the arrays of the state, for safetensors or `.npz`."""
        return {"mean": self.mean, "turn": self.turn, "variances": self.variances}

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state, for JSON: an infinite softness is None."""
        softness = None if math.isinf(self.softness) else self.softness
        told = {"mode": self.mode, "softness": softness, "shrink": self.shrink, "norm": self.norm}
        return told | {"equal": self.equal, "rank": self.rank, "rows": self.rows}

    @classmethod
    def of(cls, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Geometry:
        """Build a geometry from what `facts` and `arrays` have returned."""
        softness = math.inf if facts["softness"] is None else facts["softness"]
        mean, turn, variances = (np.asarray(arrays[name], np.float64) for name in ("mean", "turn", "variances"))
        told = (facts["shrink"], facts["norm"], facts["equal"], facts["rank"], facts["rows"])
        return cls(facts["mode"], softness, *told, mean, turn, variances)


def _softness(mode: Mode, softness: float, shrink: float, norm: float | None) -> float:
    """Check the parameters, and return the softness that the mode stands for."""
    if mode not in get_args(Mode):
        known = get_args(Mode)
        raise SettingsError(f"geometry: no mode {mode!r}{nearest(str(mode), known)}; known: {', '.join(known)}")
    if not softness >= 0:
        raise SettingsError(f"geometry: softness must be 0 or more (inf = as it was), came {softness}")
    if not 0 <= shrink <= 1:
        raise SettingsError(f"geometry: shrink must be between 0 and 1, came {shrink}")
    if norm is not None and not 0 < norm < math.inf:
        raise SettingsError(f"geometry: the norm of a row must be more than 0, came {norm}")
    return {"pca": math.inf, "white": 0.0, "zca": 0.0}.get(mode, softness)


def _check(matrix: Matrix) -> None:
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise InputError(f"geometry: expected vectors (rows, values), came {matrix.shape}")
    if len(matrix) < 2:
        raise InputError(f"geometry: expected the vectors of at least 2 training items, came {len(matrix)}")
    for start in range(0, len(matrix), _CHUNK):
        bad = ~np.isfinite(matrix[start : start + _CHUNK]).all(1)
        if bad.any():
            raise InputError(f"geometry: row {start + int(bad.argmax())} holds nan or inf; expected finite vectors")


def _moments(matrix: Matrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean (d,) and covariance (d, d) of rows, divided by their number, in two passes over pieces."""
    mean = matrix.mean(0, dtype=np.float64)
    total = np.zeros((len(mean), len(mean)))
    for start in range(0, len(matrix), _CHUNK):
        rows = matrix[start : start + _CHUNK].astype(np.float64) - mean
        total += rows.T @ rows
    if not total.trace() > 0:
        raise InputError("geometry: all vectors are equal; expected vectors that tell items apart")
    return mean, total / len(matrix)


def _axes(covariance: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return variances, largest first, and principal axes as columns, each with its largest value positive."""
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])  # else they depend on the library
    return variances, axes * signs


def _gains(variances: npt.NDArray[np.float64], rank: int, softness: float, shrink: float) -> npt.NDArray[np.float64]:
    """Return for each axis what its coordinates are multiplied by: sqrt(n) g(s) / s, as U = E V / s.

    At an infinite softness that is 0 times the same factor for all axes, which is left out.
    """
    level = float(variances.mean())
    if math.isinf(softness):
        gains = np.full(len(variances), 1.0)
    else:
        gains = 1.0 / np.sqrt(np.maximum((1 - shrink) * variances + (shrink + softness) * level, 1e-300))
    gains[rank:] = 0.0
    return gains
