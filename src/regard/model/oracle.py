"""The sample's oracle as a scorer: the ceiling that a result on the sample stands under."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from regard.data.cases import Cases
from regard.data.sample import Shop
from regard.data.store import Dataset
from regard.model import topk

_BLOCK = 512


class OracleScorer:
    """Ranks targets by the chances that the generator of the sample shop gave them.

    It knows the hidden taste of every user, and the time and context of every request.
    """

    name = "oracle"
    uses_request_time = True

    def __init__(self, shop: Shop, dataset: Dataset) -> None:
        self.shop, self.dataset = shop, dataset
        self.row_of_item = dataset.items.index(shop.items["id"].to_pylist())
        self.ids = np.array(["", *dataset.items.ids(np.arange(1, dataset.n_items + 1))], dtype=object)
        self.columns = {name: _decoded(dataset, name) for name in ("hour", "device")}
        self.behaviours = np.array(["", *dataset.behaviours], dtype=object)

    def rank(self, cases: Cases, *, k: int, filter_seen: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Rank targets and list the best `k`, by the rules of every other scorer; a case has one target."""
        known = torch.ones(self.dataset.n_items + 1, dtype=torch.bool)
        ranks, top = [], []
        for start in range(0, len(cases), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(cases)))
            scores = torch.from_numpy(np.stack([self._scores(cases, row) for row in rows.tolist()]))
            events, offsets = cases.events(rows)
            seen = torch.from_numpy(self.dataset.item[events].astype(np.int64)), torch.from_numpy(offsets)
            targets = torch.from_numpy(self.dataset.item[cases.targets[rows]].astype(np.int64))
            jagged = targets, torch.arange(len(rows) + 1)
            found = topk.rank_and_top(scores, jagged, seen if filter_seen else None, known, k)
            ranks.append(found[0].numpy())
            top.append(found[1].numpy().astype(np.int32))
        return np.concatenate(ranks), np.concatenate(top)

    def _scores(self, cases: Cases, row: int) -> npt.NDArray[np.float32]:
        assert self.dataset.time is not None
        assert self.dataset.behaviour is not None
        events, _ = cases.events(np.array([row]))
        target = cases.targets[cases.target_offsets[row]]
        scores = np.zeros(self.dataset.n_items + 1, dtype=np.float32)
        scores[self.row_of_item] = self.shop.oracle.scores(
            self.dataset.users.id(int(cases.user[row])),
            self.ids[self.dataset.item[events]].tolist(),
            self.dataset.time[events],
            self.behaviours[self.dataset.behaviour[events]].tolist(),
            int(self.dataset.time[target]),
            int(self.columns["hour"][target]),
            str(self.columns["device"][target]),
        )
        return scores


def _decoded(dataset: Dataset, name: str) -> npt.NDArray[np.object_]:
    values = dataset.context_values[name]
    texts = np.array(["", *pa.array(values.ids(np.arange(1, len(values) + 1))).to_pylist()], dtype=object)
    decoded: npt.NDArray[np.object_] = texts[dataset.context[name]]
    return decoded
