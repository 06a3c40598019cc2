"""Exact search: the ranks of targets and the best k items, from given scores or from an item table, blocked.

The order is total, so every answer is repeatable on any device and with any block size: higher score first, equal
scores by lower item index. A *rank* is more severe: it counts every candidate that scores at least as high as the
target, so a target stands below its equals and a model cannot gain by giving many items the same score.

Index 0 (unknown) is never a candidate. Items a model knows nothing of are candidates below all that it knows, equal
among themselves whatever their scores say. Excluded items are no candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.errors import DivergenceError, InputError

Jagged = tuple[Tensor, Tensor]
"""Values (T,) and offsets (B+1,), both int64: row b owns values[offsets[b]:offsets[b+1]]."""

UNKNOWN_SCORE = torch.finfo(torch.float32).min
"""The score that a listed item gets of which the model knows nothing."""

BLOCK_BYTES = 8 * 2**20
"""Scores of this size are in memory at once."""

_OUT = -math.inf  # marks what is no candidate
_LOW_BITS = 2**32 - 1
_PIECE = 2**20  # scores compared at once: these stay in a CPU's cache, which is several times faster
NOTHING = -(0x7F800001 << 32) + _LOW_BITS  # the key of (-inf, 0)


def rank_and_top(
    scores: Tensor, targets: Jagged, excluded: Jagged | None, known: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank the targets of each row among all candidates, and list the best `k` candidates of each row.

    Args:
        scores: float32 (B, V), higher is better; column 0 is ignored. The caller blocks, see `rows_per_block`.
        targets: item indexes of each row, possibly several or none.
        excluded: item indexes that are no candidates in that row, in any order, repeats allowed; None for none.
        known: bool (V,), False for items the model knows nothing of.
        k: length of the lists.

    Returns:
        ranks: int64 (T,) aligned with the target values: the number of candidates with a score >= the target's, itself
            included. A target that is no candidate is a miss: `max(V, k + 1)`, beyond every cut-off up to `k`.
        top: int64 (B, k), best first, 0 where there are fewer than `k` candidates.
        top_scores: float32 (B, k), `UNKNOWN_SCORE` for unknown items and -inf beside the zeros.

    Raises:
        DivergenceError: the score of a known item is not finite.
    """
    board = _board(scores, excluded, known)
    ranks = _ranks(board, targets, miss=max(scores.shape[1], k + 1))
    top_scores, top = listed(_best(board, k))
    return ranks, top, top_scores


def top_of(
    scores: Tensor, k: int, known: Tensor, excluded: Jagged | None = None, candidates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (scores float32 (B, k), item indexes int64 (B, k)) of the best `k`, as `rank_and_top` lists them.

    `candidates` (int64, any order) restricts all rows to these items; None takes the whole catalogue.
    """
    board = _board(scores, excluded, known)
    if candidates is not None:
        left_out = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
        left_out[candidates] = False
        board.masked_fill_(left_out, _OUT)
    return listed(_best(board, k))


def top_k(
    queries: Tensor,
    table: Tensor,
    k: int,
    *,
    known: Tensor | None = None,
    excluded: Jagged | None = None,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the `k` rows of `table` with the largest dot product with each query, without writing all products out.

    Args:
        queries: float (B, D).
        table: float (V, D), row 0 is never found.
        k: length of the lists.
        known: bool (V,), as in `rank_and_top`; None when all rows are known.
        excluded: rows of the table that are no candidates for that query.
        block: rows of the table at a time; None keeps the products within `BLOCK_BYTES`.

    Returns:
        (products float32 (B, k), rows int64 (B, k)), best first, equal products by lower row, (-inf, 0) as padding.
        Products of one item may differ in the last bit between block sizes, as matrix kernels sum in their own order.

    Raises:
        DivergenceError: a product with a known row is not finite.
        InputError: `known` is not of the table.
    """
    size = table.shape[0]
    check_known(known, size)
    step = block or rows_per_block(len(queries))
    if known is None:
        known = torch.ones(size, dtype=torch.bool, device=table.device)
    best = torch.full((len(queries), k), NOTHING, dtype=torch.int64, device=queries.device)
    for start in range(0, size, step):
        stop = min(start + step, size)
        products = (queries @ table[start:stop].T).float()
        board = _board(products, _within(excluded, start, stop), known[start:stop], first=start)
        best = largest(torch.cat([best, _best(board, k, first=start)], dim=1), k)
    return listed(best)


def check_known(known: Tensor | None, size: int) -> None:
    """Raise `InputError` where `known` is not of a table of `size` rows."""
    if known is not None and known.shape != (size,):
        raise InputError(
            f"known: expected a bool for each of the {size:,} rows of the table; got the shape {tuple(known.shape)}"
        )


def rows_per_block(width: int) -> int:
    """Return how many rows of `width` float32 numbers fit into `BLOCK_BYTES`, at least one."""
    return max(1, BLOCK_BYTES // (4 * max(1, width)))


def owners(offsets: Tensor) -> Tensor:
    """Return the row of each value of a jagged batch: offsets (B+1,) -> int64 (T,)."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def _board(scores: Tensor, excluded: Jagged | None, known: Tensor, first: int = 0) -> Tensor:
    """Copy scores (B, n) of items first, first + 1, …, with the rules applied: -inf is no candidate."""
    board = torch.where(known, scores, UNKNOWN_SCORE)
    if board.numel():
        low, high = torch.aminmax(board)
        if not (low >= UNKNOWN_SCORE and high < math.inf):  # so written that NaN fails too
            raise DivergenceError(
                "expected finite scores of the items a model knows, got nan or inf: its weights are not finite; "
                "train with a lower train.learning_rate"
            )
    if excluded is not None:
        values, offsets = excluded
        board[owners(offsets), values - first] = _OUT
    if first == 0:
        board[:, :1] = _OUT
    return board


def _within(excluded: Jagged | None, start: int, stop: int) -> Jagged | None:
    """Keep the excluded values that lie in [start, stop)."""
    if excluded is None:
        return None
    values, offsets = excluded
    inside = (values >= start) & (values < stop)
    counted = torch.cat([inside.new_zeros(1, dtype=torch.int64), inside.cumsum(0)])
    return values[inside], counted[offsets]


def _ranks(board: Tensor, targets: Jagged, miss: int) -> Tensor:
    values, offsets = targets
    rows = owners(offsets)
    own = board[rows, values]
    ranks = torch.empty_like(values)
    step = max(1, _PIECE // board.shape[1])
    for piece in (slice(start, start + step) for start in range(0, len(values), step)):
        ranks[piece] = (board[rows[piece]] >= own[piece, None]).sum(dim=1)
    ranks[own == _OUT] = miss
    return ranks


def _best(board: Tensor, k: int, first: int = 0) -> Tensor:
    """Return the keys (B, k) of the best k of each row, best first, the columns being items first, first + 1, ….

    The best k items lie in the k chunks of neighbouring columns whose maxima are best (equal maxima: the earlier
    chunk), as each of those holds an item that comes before all of any other chunk. So one pass of maxima, fast on
    every device, leaves little to sort.
    """
    width = board.shape[1]
    columns = torch.arange(width, device=board.device)
    chunk = math.isqrt(width // max(1, k))
    if chunk < 2:
        return largest(pack(board, columns + first), k)
    chunks = width // chunk
    whole = board[:, : chunks * chunk].reshape(len(board), chunks, chunk)
    chosen = _unpack(largest(pack(whole.amax(dim=2), columns[:chunks]), k))[1]
    scores = whole.gather(1, chosen[:, :, None].expand(-1, -1, chunk)).flatten(1)
    places = (chosen[:, :, None] * chunk + columns[:chunk]).flatten(1)
    keys = pack(scores, places + first)
    rest = pack(board[:, chunks * chunk :], columns[chunks * chunk :] + first)
    return largest(torch.cat([keys, rest], dim=1), k)


def largest(keys: Tensor, k: int) -> Tensor:
    """Return the k largest keys of each row, largest first, short rows filled up with the key of (-inf, 0)."""
    found = keys.topk(min(k, keys.shape[1]), dim=1).values
    return torch.cat([found, keys.new_full((len(keys), k - found.shape[1]), NOTHING)], dim=1)


def pack(scores: Tensor, indexes: Tensor) -> Tensor:
    """Make int64 keys in the total order: the float's bits above, sortable as integers, the reversed index below."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0, equal to 0.0, into 0.0
    return (_ordered(bits).long() << 32) + (_LOW_BITS - indexes)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 scores and int64 indexes that were packed."""
    return _ordered((keys >> 32).int()).view(torch.float32), _LOW_BITS - (keys & _LOW_BITS)


def _ordered(bits: Tensor) -> Tensor:
    """Map float32 bits to integers that sort like the floats; its own inverse (negative floats sort backwards)."""
    return bits ^ ((bits >> 31) & (2**31 - 1))


def listed(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return (scores, items) of keys; what is no candidate becomes item 0."""
    scores, items = _unpack(keys)
    return scores, items.masked_fill(scores == _OUT, 0)
