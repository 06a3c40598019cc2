"""Requests drawn at random, rankers with nothing left at zero, and requests taken apart by plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import ModelSettings
from regard.data.batches import Histories
from regard.data.requests import Requests
from regard.data.shape import Form, Shape
from regard.model.interest import INTERESTS
from regard.model.ranker import Ranker
from regard.model.unit import Dice

ITEMS, USERS, BEHAVIOURS, CONTEXT = 23, 7, 3, {"hour": 4, "device": 2}
WIDTH, HEADS, WINDOW = 6, 3, 5
HOUR = 3_600_000_000

INTEREST: dict[str, dict[str, Any]] = {
    **{name: {"interest": name} for name in INTERESTS},
    "additive, conditioned": {"interest": "additive", "score_hidden": 5, "conditioned": True},
    "unit, raw": {"interest": "activation-unit", "normalize": "none", "unit_activation": "prelu"},
    "unit on the event": {"interest": "activation-unit", "unit_on": "event", "unit_hidden": (), "normalize": "none"},
    "target, projection-free": {"interest": "target", "projections": "none", "scale": 1.0},
    "multi-head, shared": {"interest": "multi-head", "projections": "shared", "projection_activation": "relu"},
    "dual, list-wise": {"interest": "dual", "dual_self": "target"},
}
"""Every interest by settings."""
READ: dict[str, dict[str, Any]] = {
    "plain": {"positions": "none", "behaviours": False},
    "all": {"positions": "learned", "request_time": True, "time_gaps": True, "user_ids": True},
    "gaps": {"positions": "none", "time_gaps": True},
    "several": {"positions": "none"},
}
"""What a ranker reads beside items; `all` has context and attributes too, `several` separate histories and context."""


def ranker(interest: str, reads: str = "plain", head: str = "mlp", **changes: Any) -> Ranker:
    """A ranker in double precision, so that equal means equal; every parameter and statistic is random."""
    torch.manual_seed(0)
    body = {"width": WIDTH, "heads": HEADS, "window": WINDOW, "hidden": (8, 5), "blocks": 1, "dropout": 0.3}
    settings = ModelSettings(name="ranker", head=head, **{**body, **INTEREST[interest], **READ[reads], **changes})
    shape = Shape(
        ITEMS,
        behaviours=BEHAVIOURS,
        users=USERS,
        context=CONTEXT if reads in ("all", "several") else {},
        attributes={"brand": 3} if reads == "all" else {},
        user_attributes={"sex": 2, "age": Form("number", 1)} if reads == "all" else {},
        histories=(((1, 2), 2), ((3,), 2**31)) if reads == "several" else (),
    )
    model = Ranker(shape, settings).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in model.modules():
        if isinstance(module, Dice):
            module.norm.running_mean.normal_()
            module.norm.running_var.uniform_(0.5, 2.0)
    for codes in model.item_embedding.codes:
        codes.random_(0, 4)
    if model.user_attributes is not None:
        model.user_attributes.codes.random_(0, 3)
        assert model.user_attributes.measures is not None
        model.user_attributes.measures.normal_()
    model.known[1:] = True
    return model


def draw(lengths: Sequence[int], *, requests: int = 2, most: int = 4, seed: int = 0) -> Requests:
    """Rows of these lengths with some requests each, every one with 0 to `most` candidates.

    A request reads the newest `WINDOW` events before a place of its row, at most.
    """
    torch.manual_seed(seed)
    total, count = sum(lengths), requests * len(lengths)
    offsets = ends_of(lengths)
    ends = torch.cat([torch.randint(0, length + 1, (requests,)).sort().values for length in lengths])
    many = torch.randint(0, most + 1, (count,))
    times = torch.cat([torch.randint(1, 90 * 24, (length,)).cumsum(0) for length in lengths]) * HOUR
    first = offsets[:-1].repeat_interleave(requests)
    newest = torch.cat([times, times.new_zeros(1)])[first + ends - 1].where(ends > 0, 0)
    users = torch.randint(0, USERS + 1, (len(lengths),))
    return Requests(
        histories=Histories(
            torch.randint(0, ITEMS + 1, (total,)), offsets, torch.randint(0, BEHAVIOURS + 1, (total,)), times
        ),
        row_offsets=torch.arange(len(lengths) + 1) * requests,
        spans=torch.stack([(ends - WINDOW).clamp_min(0), ends], 1),
        candidates=torch.randint(1, ITEMS + 1, (int(many.sum()),)),
        offsets=ends_of(many.tolist()),
        labels=torch.randint(0, 2, (int(many.sum()),)).float(),
        log_rates=torch.randn(int(many.sum())),
        context=torch.stack([torch.randint(0, size + 1, (count,)) for size in CONTEXT.values()], 1),
        users=users.repeat_interleave(requests),
        moments=newest + torch.randint(1, 9 * 24, (count,)) * HOUR,
    )


def ends_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def alone(requests: Requests, at: int, candidates: slice = slice(None)) -> Requests:
    """One request by itself, or some of its candidates: a row that holds what it may read and nothing else."""
    row = next(i for i, end in enumerate(requests.row_offsets[1:].tolist()) if at < end)
    start = int(requests.histories.offsets[row])
    low, high = (start + requests.spans[at]).tolist()
    own = slice(*requests.offsets[at : at + 2].tolist())
    histories = requests.histories
    assert histories.behaviours is not None
    assert histories.times is not None
    assert requests.context is not None
    assert requests.moments is not None
    assert requests.log_rates is not None
    return Requests(
        histories=Histories(
            histories.items[low:high],
            torch.tensor([0, high - low]),
            histories.behaviours[low:high],
            histories.times[low:high],
        ),
        row_offsets=torch.tensor([0, 1]),
        spans=torch.tensor([[0, high - low]]),
        candidates=requests.candidates[own][candidates],
        offsets=torch.tensor([0, len(requests.candidates[own][candidates])]),
        labels=requests.labels[own][candidates],
        log_rates=requests.log_rates[own][candidates],
        context=requests.context[at : at + 1],
        users=requests.users[at : at + 1],
        moments=requests.moments[at : at + 1],
    )


def with_events(requests: Requests, changes: Mapping[str, Tensor]) -> Requests:
    """The same requests over other events."""
    return replace(requests, histories=replace(requests.histories, **changes))
