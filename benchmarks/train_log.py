"""What the comparison of training gives to peers, and how what they give back is scored.

A peer sees training events, and the histories and targets of validation; of test it sees histories only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peers.sasrec_log import Cases as PeerCases
from peers.sasrec_log import K, Log
from regard.config import Settings
from regard.data.cases import ranges
from regard.data.split import Cases
from regard.data.store import Dataset
from regard.errors import ProtocolError
from regard.evaluate.result import Result
from regard.manifest import new_file
from regard.training.protocol import Protocol, with_metric

SPLIT = "leave-one-out"
KEY = f"ndcg@{K}"


def protocol_of(dataset: Dataset, settings: Settings) -> Protocol:
    """Return the protocol under which all sides are measured."""
    assert settings.data.split == SPLIT, settings.data.split
    assert settings.evaluate.k == (K,), settings.evaluate.k
    return Protocol.of(dataset, with_metric(settings, dataset))


@dataclass
class Told:
    """A `Scorer` of lists that somebody else made: the best K items (C, K) of the cases it is asked about."""

    lists: npt.NDArray[np.int32]
    dataset: Dataset
    uses_request_time: bool = field(default=False, init=False)

    def rank(self, cases: Cases, *, k: int, filter_seen: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return the place of every target in its list, beyond the catalogue where it is not there."""
        if self.lists.shape != (len(cases), k):
            raise ProtocolError(f"a peer's lists: expected {len(cases)} of {k} items; got {self.lists.shape}")
        self._check(cases, filter_seen)
        hit = self.lists[cases.case_of_target] == self.dataset.item[cases.targets][:, None]
        return np.where(hit.any(1), 1 + hit.argmax(1), self.dataset.n_items + 1), self.lists

    def _check(self, cases: Cases, filter_seen: bool) -> None:
        """Refuse lists that name an item twice, an item that does not exist, or one of the history."""
        ordered = np.sort(self.lists, axis=1)
        many = self.dataset.n_items + 1
        if ordered[:, 0].min() < 1 or ordered[:, -1].max() >= many or (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ProtocolError("a peer's lists: expected different items of the catalogue in each")
        events, offsets = cases.events(np.arange(len(cases)))
        owner = np.repeat(np.arange(len(cases)), np.diff(offsets))
        listed = np.arange(len(cases))[:, None] * many + self.lists
        if filter_seen and np.isin(listed, owner * many + self.dataset.item[events]).any():
            raise ProtocolError("a peer's lists: expected no item of the history in them")


def export(protocol: Protocol, name: str, path: Path) -> Path:
    """Write the log of a protocol for the peers."""
    dataset, split = protocol.dataset, protocol.split
    assert split.order is None
    assert protocol.seen == "filter", "the peers filter what was seen"
    places, offsets = ranges(*split.training(dataset))
    validation = protocol.cases()
    assert validation is not None
    about = {
        "set": name,
        "items": dataset.n_items,
        "users": dataset.n_users,
        "dataset": dataset.fingerprint,
        "split": split.fingerprint,
    }
    told = dataset.item[validation.targets].astype(np.int64)
    test = _histories(dataset, split.cases(dataset, "test", protocol.settings.evaluate.targets))
    log = Log(
        about,
        dataset.item[places].astype(np.int64),
        offsets,
        PeerCases(*_histories(dataset, validation), told),
        PeerCases(*test, np.zeros(len(test[1]) - 1, np.int64)),
    )
    with new_file(path) as aside, aside.open("wb") as stream:
        log.write(stream)
    return path


def _histories(dataset: Dataset, cases: Cases) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    events, offsets = cases.events(np.arange(len(cases)))
    return dataset.item[events].astype(np.int64), offsets


def validated(protocol: Protocol, lists: npt.NDArray[np.int32]) -> dict[str, float]:
    """Score a peer's lists for the validation cases as a training of ours scores itself."""
    cases = protocol.cases()
    assert cases is not None
    return protocol.validation(Told(lists, protocol.dataset), cases)


def tested(protocol: Protocol, lists: npt.NDArray[np.int32]) -> Result:
    """Score a peer's lists for the test cases, with intervals and the values of every user."""
    return protocol.measured(Told(lists, protocol.dataset), "test")
