"""Training batches: every event is a target once, order is a function of seed and epoch, positions are restored."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.data.batches import Histories, TrainingBatch, TrainingBatches, gather, newest

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 13, 29]), min_size=1, max_size=9).filter(any)


def loader(lengths: list[int], window: int, tokens: int, seed: int = 3, wanted: np.ndarray | None = None):
    """Users with the given numbers of events; every event has an item of its own, so batches can be read back."""
    ends = np.cumsum([0, *lengths])
    dataset = SimpleNamespace(item=np.arange(1, ends[-1] + 1, dtype=np.int32), behaviour=None, time=None)
    split = SimpleNamespace(
        order=None,
        training=lambda _: (ends[:-1].astype(np.int64), ends[1:].astype(np.int64)),
        target_events=lambda _: wanted,
    )
    return TrainingBatches(dataset, split, window=window, batch_tokens=tokens, seed=seed), ends


def targets_of(batch: TrainingBatch) -> list[int]:
    return [*batch.targets[batch.targets > 0].tolist(), *batch.first_targets[batch.first_targets > 0].tolist()]


@given(LENGTHS, st.sampled_from([1, 2, 7, 200]), st.sampled_from([1, 5, 64]))
def test_every_training_event_is_a_target_once_an_epoch(lengths: list[int], window: int, tokens: int) -> None:
    batches, ends = loader(lengths, window, tokens)
    for _ in range(2):
        seen: list[int] = []
        for batch in batches:
            rows = batch.histories
            assert int(rows.lengths.max()) <= window
            seen += targets_of(batch)
            inputs, following = rows.items, batch.targets
            assert torch.equal(following, inputs + 1), "the target is the event right after the input"
            owner = np.searchsorted(ends[1:], rows.items.numpy() - 1, side="right")
            starts = np.repeat(np.arange(len(rows)), rows.lengths.numpy())
            assert all(len(set(owner[starts == row])) <= 1 for row in range(len(rows))), "windows stay within a user"
        assert sorted(seen) == list(range(1, ends[-1] + 1))


def test_windows_move_from_epoch_to_epoch_and_batches_keep_their_budget() -> None:
    batches, _ = loader([500, 40, 40, 7], window=20, tokens=60)
    first = [batch.histories.items.tolist() for batch in batches]
    second = [batch.histories.items.tolist() for batch in batches]
    assert first != second
    assert max(map(len, first)) <= 60 + 20
    again, _ = loader([500, 40, 40, 7], window=20, tokens=60)
    assert first == [batch.histories.items.tolist() for batch in again]


def test_a_restored_loader_goes_on_where_it_was() -> None:
    batches, _ = loader([50, 30, 9, 2], window=7, tokens=13)
    for _ in batches:
        pass
    iterator = iter(batches)
    next(iterator)
    next(iterator)
    state = batches.state()
    rest = [batch.histories.items.tolist() for batch in iterator]
    other, _ = loader([50, 30, 9, 2], window=7, tokens=13)
    other.restore(state)
    assert rest == [batch.histories.items.tolist() for batch in other]


def test_only_wanted_behaviours_are_targets_but_all_stay_in_the_history() -> None:
    wanted = np.array([False, True, False, True])
    batches, _ = loader([4], window=10, tokens=100, wanted=wanted)
    (batch,) = batches
    assert batch.histories.items.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [2, 0, 4]
    assert batch.first_targets.tolist() == [0]


def test_gather_and_to_keep_every_column() -> None:
    dataset = SimpleNamespace(
        item=np.array([5, 6, 7], np.int32), behaviour=np.array([1, 2, 1], np.uint8), time=np.array([10, 20, 30])
    )
    histories = gather(dataset, np.array([2, 0]), np.array([0, 1, 2]))
    assert isinstance(histories.to("cpu"), Histories)
    assert histories.items.tolist() == [7, 5]
    assert histories.behaviours is not None
    assert histories.behaviours.tolist() == [1, 1]
    assert histories.times is not None
    assert histories.times.tolist() == [30, 10]
    assert histories.items.dtype == torch.int64


def test_a_user_with_one_event_still_trains_the_empty_history() -> None:
    batches, _ = loader([1, 1], window=5, tokens=10)
    (batch,) = batches
    assert len(batch.histories.items) == 0
    assert sorted(batch.first_targets.tolist()) == [1, 2]


@given(LENGTHS, st.sampled_from([1, 5, 64]))
def test_the_schedule_knows_how_many_steps_an_epoch_has(lengths: list[int], tokens: int) -> None:
    batches, ends = loader(lengths, window=7, tokens=tokens)
    assert batches.steps_per_epoch() == len(list(batches))
    assert batches.targets_per_epoch == ends[-1]
    wanted = np.arange(ends[-1]) % 2 == 0
    assert loader(lengths, window=7, tokens=tokens, wanted=wanted)[0].targets_per_epoch == wanted.sum()


def test_every_state_knows_when_it_is_asked_and_in_which_context() -> None:
    batches, ends = loader([5, 1, 3], window=2, tokens=100)
    dataset = batches.dataset
    dataset.time = np.arange(int(ends[-1])) * 10
    dataset.context = {"hour": np.arange(int(ends[-1])) + 100}
    batches.request_time, batches.context = True, ["hour"]
    (batch,) = batches
    histories = batch.histories
    assert histories.times is not None
    assert histories.asked is not None
    assert batch.contexts is not None
    assert batch.first_contexts is not None
    assert torch.equal(histories.asked, histories.times + 10)  # the next event of the user is ten later
    assert torch.equal(batch.contexts[:, 0], histories.times // 10 + 101)
    first = batch.first_targets > 0
    assert sorted((batch.first_contexts[first, 0] - 100).tolist()) == sorted((batch.first_targets[first] - 1).tolist())


@given(LENGTHS, st.integers(1, 9), st.booleans())
def test_newest_keeps_the_end_of_every_history_and_all_columns_together(
    lengths: list[int], window: int, full: bool
) -> None:
    ends = np.cumsum([0, *lengths])
    items = torch.arange(1, int(ends[-1]) + 1)
    columns = {"behaviours": items + 100, "times": items * 10, "asked": items * 10 + 10} if full else {}
    users = torch.arange(len(lengths)) + 7
    histories = newest(Histories(items, torch.from_numpy(ends), users=users, **columns), window)
    expected = [items[start:end][-window:].tolist() for start, end in itertools.pairwise(ends.tolist())]
    offsets = histories.offsets.tolist()
    assert [histories.items[start:end].tolist() for start, end in itertools.pairwise(offsets)] == expected
    assert histories.users is users
    for name in columns:
        assert torch.equal(getattr(histories, name), columns[name][histories.items - 1])
    codes = torch.zeros(len(lengths), 2, dtype=torch.int64)
    assert histories.with_request(codes).request is codes
