"""Whether a run has learned from what is held back elsewhere: every event is found again, in whatever log it stands."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from regard import pipeline
from regard.config import Settings
from regard.data.events import EventLog
from regard.data.split import make_split
from regard.data.store import Dataset
from regard.errors import InputError
from regard.recommend.run import Run
from regard.training import marks
from regard.training.start import start_line

Event = tuple[str, str, int]
DAY = 86_400
BEGIN = 1_700_000_000


def built(rows: list[Event], kind: str = "timestamp") -> Dataset:
    names = ("user", "item", "time")
    log = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    return Dataset.build(EventLog.read(log, time_kind=kind), None)


def events_of(dataset: Dataset) -> list[Event]:
    """Every event in stored order, in the user's own words; without timestamps, times say nothing."""
    owner = np.repeat(np.arange(dataset.n_users + 1), np.diff(dataset.offsets))
    assert dataset.time is not None
    times = dataset.time if dataset.time_kind == "timestamp" else np.zeros(dataset.n_events)
    ids = zip(dataset.users.ids(owner), dataset.items.ids(dataset.item), times.tolist(), strict=True)
    return list(ids)


def numbered(events: list[Event]) -> list[tuple[Event, int]]:
    """The slow twin: each event, and how many equal ones came before it."""
    before: Counter[Event] = Counter()
    found = []
    for event in events:
        found.append((event, before[event]))
        before[event] += 1
    return found


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abxy"), st.integers(BEGIN, BEGIN + 3)), min_size=1, max_size=25
)


@pytest.mark.parametrize("kind", ["timestamp", "order"])
@examples(max_examples=40)
@given(there=rows, here=rows, share=st.floats(0, 1))
def test_marks_find_the_very_events(kind: str, there: list[Event], here: list[Event], share: float) -> None:
    """Equal ids of a user and an item are two things, and of equal events as many are found as there were."""
    before, after = built(there, kind), built(here, kind)
    wanted = np.flatnonzero(np.random.default_rng(3).random(before.n_events) < share)
    own = marks.marks_of(before, wanted)
    twins = numbered(events_of(before))
    known = {twins[at] for at in wanted}
    looked, met = marks.found(own, after)
    assert looked.all()
    assert len(own) == len(known)
    assert met.tolist() == [one in known for one in numbered(events_of(after))]
    other = marks.marks_of(after, np.arange(after.n_events))
    both = marks.found(marks.joined(own, other), before)[1]
    everywhere = known | set(numbered(events_of(after)))
    assert both.tolist() == [one in everywhere for one in twins]


def test_of_many_marks_a_sample_is_kept_that_is_right_wherever_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST", 100)
    rng = np.random.default_rng(1)
    log = [(f"u{user}", f"i{item}", BEGIN + int(at)) for at, (user, item) in enumerate(rng.integers(0, 40, (3000, 2)))]
    first, second = built(log[:2000]), built(log[1000:])
    own = marks.marks_of(first, np.arange(2000))
    assert len(own) == 100
    looked, met = marks.found(own, second)
    truth = np.array([event in set(events_of(first)) for event in events_of(second)])
    assert 0.02 < looked.mean() < 0.1
    assert (met == (truth & looked)).all()
    assert met.sum() > 20
    both = marks.joined(own, marks.marks_of(second, np.arange(1000)))
    assert len(both) == 100
    looked, met = marks.found(both, built(log))
    assert (met <= looked).all()
    assert met[looked].mean() > 0.5


def settings(**changes: Any) -> Settings:
    told = {"model.name": "mean", "model.width": 8, "data.split": "leave-one-out", "train.epochs": 1}
    told |= {"train.batch_tokens": 256, "train.threads": 1, "train.validations": 1, "evaluate.bootstrap": 0, **changes}
    return Settings().changed([f"{name}={value}" for name, value in told.items()])


def people(many: int, each: int, name: str = "u", start: int = 0) -> list[Event]:
    """Events from day `start` on, one a day for each; what somebody takes on a day is the same in every log."""
    return [
        (f"{name}{user}", f"i{np.random.default_rng([user, day]).integers(12)}", BEGIN + DAY * day + user)
        for user in range(many)
        for day in range(start, start + each)
    ]


def leaked(run: Run, there: Dataset, here: Dataset, rule: str = "leave-one-out") -> dict[str, list[int]]:
    """How many held-back targets here were training events there, and how many there are, by plain sets."""
    learned = {events_of(there)[at] for at in make_split(there, rule).training_rows(there)}
    split, events = make_split(here, rule), events_of(here)
    found = {}
    for part in ("validation", "test"):
        cases = split.cases(here, part)  # type: ignore[arg-type]
        found[part] = [sum(events[at] in learned for at in cases.targets), len(cases.targets)]
    assert run.manifest["split"]["rule"] == rule
    return found


def test_a_snapshot_that_is_older_than_the_run_is_refused(tmp_path: Path) -> None:
    """The same rule, cut elsewhere: the end of the older log is the middle of what the run learned from."""
    full, older = built(people(30, 8)), built([row for row in people(30, 8) if row[2] < BEGIN + 6 * DAY])
    run = pipeline.train(full, settings(), tmp_path / "run")
    counts = leaked(run, full, older)
    assert counts == {"validation": [30, 30], "test": [30, 30]}
    with pytest.raises(InputError, match="learned from 30 of 30 validation targets and 30 of 30 test targets"):
        pipeline.train(older, settings(), tmp_path / "older", start=run)
    one = built([row for row in people(30, 8) if row[2] < BEGIN + 7 * DAY])  # of these only validation is known
    with pytest.raises(InputError, match="from 30 of 30 validation targets and 0 of 30 test"):
        pipeline.train(one, settings(), tmp_path / "one", start=run)
    nothing = pipeline.train(older, settings(**{"data.split": "none"}), tmp_path / "none", start=run)
    assert nothing.manifest["from"]["notes"] == []


def test_a_log_that_has_grown_is_taken(tmp_path: Path) -> None:
    old = built(people(30, 5))
    run = pipeline.train(old, settings(), tmp_path / "run")
    for name, new in (("any order", built(people(40, 8)[::-1])), ("nobody came", built(people(40, 5)))):
        assert leaked(run, old, new)["test"] == [0, 40]
        assert marks.found(run.marks, new)[1].sum() == 90  # type: ignore[arg-type]
        assert pipeline.train(new, settings(), tmp_path / name, start=run).manifest["from"]["notes"] == []


def test_a_log_that_grew_at_its_beginning_moves_the_cut_and_is_refused(tmp_path: Path) -> None:
    rule = {"data.split": "time:0.5"}
    late = built(people(30, 8, start=20))
    both = built(people(30, 8, start=20) + people(30, 20))
    run = pipeline.train(late, settings(**rule), tmp_path / "run")
    counts = leaked(run, late, both, "time:0.5")
    said = " and ".join(f"{n} of {m} {part} targets" for part, (n, m) in counts.items())
    assert counts["test"][0] > 0
    with pytest.raises(InputError, match=said):
        pipeline.train(both, settings(**rule), tmp_path / "both", start=run)


def test_people_whose_history_was_too_short_to_hold_back_are_told(tmp_path: Path) -> None:
    """Leave-one-out trains on all of two events; when a third comes, the second one is a validation target."""
    before = people(20, 2, "short") + people(10, 6)
    old, new = built(before), built(people(20, 3, "short") + people(10, 6))
    run = pipeline.train(old, settings(), tmp_path / "run")
    counts = leaked(run, old, new)
    assert counts == {"validation": [20, 30], "test": [0, 30]}
    grown = pipeline.train(new, settings(), tmp_path / "grown", start=run)
    (note,) = grown.manifest["from"]["notes"]
    assert "learned from 20 of 30 validation targets" in note
    assert start_line(grown.manifest["from"]).splitlines()[1] == f"note: {note}"


def test_what_the_run_before_a_run_learned_from_counts_too(tmp_path: Path) -> None:
    """Through another shop, with frozen vectors and without any training there, back to an older log of the first."""
    log = people(30, 8)
    full, older = built(log), built([row for row in log if row[2] < BEGIN + 6 * DAY])
    other = built([(f"other {user}", f"other {item}", time) for user, item, time in people(12, 5)])
    rng = np.random.default_rng(2)
    vectors = {name: rng.normal(size=4).tolist() for one in (full, other) for name in one.items.array.to_pylist()}
    own = settings(**{"model.transfer": "frozen"})
    run = pipeline.train(full, own, tmp_path / "run", vectors=vectors)
    there = pipeline.train(
        other, settings(**{"train.zero_shot": "true"}), tmp_path / "there", start=run, vectors=vectors
    )
    np.testing.assert_array_equal(there.marks, run.marks)
    for start in (run, there):
        with pytest.raises(InputError, match="30 of 30 test targets"):
            pipeline.train(older, own, tmp_path / "back", start=start, vectors=vectors)


def test_a_run_that_kept_no_marks_is_compared_by_its_split_and_says_so(tmp_path: Path) -> None:
    old, new = built(people(20, 5)), built(people(20, 7))
    path = tmp_path / "run"
    pipeline.train(old, settings(), path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["marks.npy"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "marks.npy").unlink()
    run = pipeline.train(new, settings(), tmp_path / "new", start=path)
    assert "only its split was compared" in run.manifest["from"]["notes"][0]
    assert run.marks is None  # what it has learned from is not known as a whole
    with pytest.raises(InputError, match="split leave-one-out, and here it is time"):
        pipeline.train(new, settings(**{"data.split": "time:0.9"}), tmp_path / "other", start=path)
    assert pipeline.train(new, settings(**{"model.name": "popular"}), tmp_path / "popular").marks is None
