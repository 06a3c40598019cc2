"""Draw the samples of the DIN comparison once, so that every side trains and is tested on the very same rows.

    python benchmarks/peers/din_data.py amazon-beauty --work ~/.cache/regard/din

amazon-beauty, ml-1m: leave-one-out by order. The last event of a user is the positive of test, the one before of
validation, every earlier one with a history trains; negatives are items that the user never used, uniform, all
different within a request. ml-100k: rating >= 4 is the label of every rating, cut at the .8 and .9 quantiles of time,
nothing sampled; a history is what the user rated >= 4 strictly before. The longest history is the 95th percentile of
the histories of training. A file that is there is kept. The files hold data that may not be shared: keep `--work` out
of the repository.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from din_protocol import PARTS, Part, Samples

ORDERED = {"amazon-beauty": "interactions.csv", "ml-1m": "sequences_chronological.csv"}
TRAIN_NEGATIVES, HELD_BACK_NEGATIVES = 4, 50
LIKED = 4
PERCENTILE = 95


class Unused:
    """Draws items that a user never used; codes of items are 1 to `n_items`."""

    def __init__(self, user: np.ndarray, item: np.ndarray, n_items: int, rng: np.random.Generator) -> None:
        self.used = np.unique(user.astype(np.int64) * (n_items + 1) + item)
        self.n_items, self.rng = n_items, rng

    def draw(self, user: np.ndarray, number: int) -> np.ndarray:
        """Return `number` different items for each user (P, number), uniform."""
        drawn = np.zeros((len(user), number), np.int32)
        wrong = np.ones(drawn.shape, bool)
        while wrong.any():
            drawn[wrong] = self.rng.integers(1, self.n_items + 1, int(wrong.sum()))
            wrong = self._known(user, drawn) | _repeated(drawn)
        return drawn

    def _known(self, user: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        keys = user[:, None].astype(np.int64) * (self.n_items + 1) + drawn
        place = np.minimum(np.searchsorted(self.used, keys), len(self.used) - 1)
        return self.used[place] == keys


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Mark every entry that stands further left in its row already."""
    order = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, bool)
    np.put_along_axis(again, order[:, 1:], values[:, 1:] == values[:, :-1], axis=1)
    return again


def ordered(path: Path, options: argparse.Namespace) -> Samples:
    """Leave one out, with sampled negatives, from lines of user, position, item."""
    log = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64)
    log = log[np.lexsort((log[:, 1], log[:, 0]))]
    user_ids, user = np.unique(log[:, 0], return_inverse=True)
    item_ids, item = np.unique(log[:, 2], return_inverse=True)
    events = (item + 1).astype(np.int32)
    offsets = np.searchsorted(user, np.arange(len(user_ids) + 1))
    from_first = np.arange(len(user)) - offsets[user]
    from_last = offsets[user + 1] - 1 - np.arange(len(user))
    kept = _chosen(len(user_ids), options)[user] & (from_first > 0)
    unused = Unused(user, events, len(item_ids), np.random.default_rng(options.seed))
    recent = options.recent or len(user)
    targets = {
        "train": np.flatnonzero(kept & (from_last >= 2) & (from_last < 2 + recent)),
        "validation": np.flatnonzero(kept & (from_last == 1)),
        "test": np.flatnonzero(kept & (from_last == 0)),
    }
    length = options.length or _percentile(from_first[targets["train"]])
    parts = {}
    for part in PARTS:
        end = targets[part]
        negatives = unused.draw(user[end], TRAIN_NEGATIVES if part == "train" else HELD_BACK_NEGATIVES)
        candidates = np.concatenate([events[end][:, None], negatives], axis=1)
        labels = np.zeros(candidates.shape, np.uint8)
        labels[:, 0] = 1
        parts[part] = _part(user[end], offsets[user[end]], end, length, candidates, labels)
    return Samples(_about(options, length), events, offsets, item_ids, user_ids, parts)


def rated(path: Path, options: argparse.Namespace) -> Samples:
    """Every rating is an example: liked or not; from lines of user, item, rating, time."""
    log = np.loadtxt(path, dtype=np.int64)
    log = log[np.lexsort((log[:, 3], log[:, 0]))]
    user_ids, user = np.unique(log[:, 0], return_inverse=True)
    item_ids, item = np.unique(log[:, 1], return_inverse=True)
    liked, time = log[:, 2] >= LIKED, log[:, 3]
    events = (item[liked] + 1).astype(np.int32)
    offsets = np.searchsorted(user[liked], np.arange(len(user_ids) + 1))
    scale = int(time.max()) + 1
    end = np.searchsorted(user[liked] * scale + time[liked], user * scale + time)  # strictly before: ties are unordered
    start = offsets[user]
    first, second = np.quantile(time, [0.8, 0.9], method="inverted_cdf")
    which = (time > first).astype(int) + (time > second)
    kept = _chosen(len(user_ids), options)[user]
    rows = {part: np.flatnonzero(kept & (which == number)) for number, part in enumerate(PARTS)}
    length = options.length or _percentile((end - start)[rows["train"]])
    parts = {
        part: _part(user[at], start[at], end[at], length, item[at][:, None] + 1, liked[at][:, None])
        for part, at in rows.items()
    }
    return Samples(_about(options, length), events, offsets, item_ids, user_ids, parts)


def _part(
    user: np.ndarray, first: np.ndarray, end: np.ndarray, length: int, candidates: np.ndarray, labels: np.ndarray
) -> Part:
    start = np.maximum(first, end - length)
    return Part(user.astype(np.int32), start, end, candidates.astype(np.int32), labels.astype(np.uint8))


def _chosen(users: int, options: argparse.Namespace) -> np.ndarray:
    return np.random.default_rng(options.seed + 1).random(users) < options.sample


def _percentile(lengths: np.ndarray) -> int:
    return max(1, int(np.percentile(lengths, PERCENTILE, method="inverted_cdf")))


def _about(options: argparse.Namespace, length: int) -> dict[str, object]:
    return {
        "dataset": options.dataset,
        "seed": options.seed,
        "sample": options.sample,
        "recent": options.recent,
        "length": length,
        "negatives": [0, 0, 0]
        if options.dataset == "ml-100k"
        else [TRAIN_NEGATIVES, HELD_BACK_NEGATIVES, HELD_BACK_NEGATIVES],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the samples of the DIN comparison")
    parser.add_argument("dataset", choices=(*ORDERED, "ml-100k"))
    parser.add_argument("--work", type=Path, required=True, help="folder outside the repository")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("REGARD_DATA", "../shared/data")))
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--sample", type=float, default=1.0, help="share of users; the catalogue stays whole")
    parser.add_argument("--recent", type=int, default=0, help="training positives of a user, newest; 0 = all")
    parser.add_argument("--length", type=int, default=0, help="longest history; 0 = the 95th percentile")
    options = parser.parse_args()
    folder = options.data / options.dataset
    rest = [f"{name}{getattr(options, name)}" for name in ("recent", "length") if getattr(options, name)]
    rest += [f"sample{options.sample:g}"] if options.sample < 1 else []
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / ("_".join([options.dataset, f"seed{options.seed}", *rest]) + ".npz")
    if path.exists():
        samples = Samples.read(path)
    else:
        samples = (
            rated(folder / "u.data", options)
            if options.dataset == "ml-100k"
            else ordered(folder / ORDERED[options.dataset], options)
        )
        samples.write(path)
    sizes = {part: f"{len(found):,} requests, {found.rows:,} rows" for part, found in samples.parts.items()}
    print(path, samples.about, sizes, sep="\n")


if __name__ == "__main__":
    main()
