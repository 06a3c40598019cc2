"""Time kinds: detected over the whole column of a source, shown, and overruled only by `time_kind`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.events import EventLog
from regard.data.sources import Columns, Source
from regard.data.store import Dataset

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
moments = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31)).map(lambda when: when.replace(tzinfo=UTC))  # noqa: DTZ001


def read(times, **options):
    table = pa.table({"user": ["u"] * len(times), "item": [f"i{n}" for n in range(len(times))], "time": times})
    log = EventLog.read(table, Columns("user", "item", "time"), **options)
    return log, log.connection.execute("SELECT time FROM events ORDER BY row").fetchnumpy()["time"].tolist()


def counts(log):
    return {reason: entry["count"] for reason, entry in log.report["refused"].items()}


WRITTEN = {
    "s": lambda us: str(us // 10**6),
    "s with fraction": lambda us: str(Decimal(us) / 10**6),
    "ms": lambda us: str(us // 10**3),
    "ms with fraction": lambda us: str(Decimal(us) / 10**3),
    "us": str,
    "ns": lambda us: str(us * 1000 + 999),
}


@pytest.mark.parametrize("unit", WRITTEN)
@settings(max_examples=10)  # each with a column of values
@given(st.lists(moments, min_size=1, max_size=20))
def test_numbers_that_are_dates(unit, when):
    exact = [(one - EPOCH) // MICROSECOND for one in when]
    log, found = read([WRITTEN[unit](us) for us in exact])
    step = {"s": 10**6, "ms": 10**3}.get(unit, 1)
    assert (log.time_kind, log.report["time_unit"]) == ("timestamp", unit.split()[0])
    assert found == [us // step * step for us in exact]


@settings(max_examples=10)  # each with a column of values
@given(st.lists(moments, min_size=1, max_size=20), st.sampled_from(["Z", "+00:00", "", "-05:30", " Europe/Paris"]))
def test_iso_dates(when, zone):
    shift = {"-05:30": timedelta(hours=5, minutes=30)}.get(zone, timedelta())
    texts = [one.replace(tzinfo=None).isoformat() + zone for one in when]
    log, found = read(texts)
    assert (log.time_kind, log.report["time_unit"]) == ("timestamp", "iso")
    if "Paris" in zone:
        from zoneinfo import ZoneInfo

        hours = {(one.replace(tzinfo=ZoneInfo("Europe/Paris")).utcoffset()) for one in when}
        assert all(
            timedelta(microseconds=(a - EPOCH) // MICROSECOND - b) in hours for a, b in zip(when, found, strict=True)
        )
    else:
        assert found == [(one + shift - EPOCH) // MICROSECOND for one in when]


@pytest.mark.parametrize(
    ("texts", "microseconds"),
    [
        (["2024-01-31"], 1_706_659_200_000_000),
        (["2024-01-31 12:30"], 1_706_704_200_000_000),
        (["2024-01-31T12:30:00.5Z"], 1_706_704_200_500_000),
        (["1969-12-31T23:59:59.999999Z"], -1),
    ],
)
def test_shapes_of_dates(texts, microseconds):
    assert read(texts)[1] == [microseconds]


@settings(max_examples=10)  # each with a column of values
@given(st.lists(st.integers(-(2**62), 2**62).filter(lambda n: not n >= 631_152_000), min_size=1, max_size=20))
def test_other_integers_are_an_order(times):
    log, found = read(times)
    assert (log.time_kind, log.report["time_unit"]) == ("order", "integer")
    assert found == times


def test_big_integers_keep_every_digit():
    times = [2**63 - 1, 2**63 - 2, 2**53 + 1, 0]
    assert read(times)[1] == times


def test_the_unit_is_that_of_the_column():
    log, found = read(
        ["1511658000", "1511658001.5", "1511658002000", "0", "-1", "1e9", " 1511658003 ", "soon", "", None]
    )
    assert log.report["time_unit"] == "s"
    assert found == [1_511_658_000_000_000, 1_511_658_001_500_000, 10**15, 1_511_658_003_000_000]
    assert counts(log) == {"time out of range": 3, "missing time": 2, "unparsable time": 1}


def test_dates_among_garbage_are_dates_and_garbage_is_refused():
    log, found = read(
        ["2024-01-01", "2024-02-30", "yesterday", "12", "0001-01-01", "9999-12-31", "infinity", "2024-01-02"]
    )
    assert log.time_kind == "timestamp"
    assert found == [1_704_067_200_000_000, 1_704_153_600_000_000]
    assert counts(log) == {"unparsable time": 4, "time out of range": 2}


def test_an_order_is_made_of_whole_numbers():
    log, found = read(["1", "2.0", "2.5", "x", "99999999999999999999"])
    assert (log.time_kind, found) == ("order", [1, 2])
    assert counts(log) == {"unparsable time": 3}


def test_a_log_that_mixes_small_and_large_numbers_goes_by_the_most():
    assert read([1, 2, 1_511_658_000])[0].time_kind == "order"
    assert read([1, 1_511_658_000, 1_511_658_001])[0].time_kind == "timestamp"


@pytest.mark.parametrize(
    ("times", "kind", "stored"),
    [
        ([1_511_658_001, 1_511_658_000], "order", [1_511_658_001, 1_511_658_000]),
        (["2024-01-02", "2024-01-01"], "order", [1_704_153_600_000_000, 1_704_067_200_000_000]),
        (["1511658000.5", "1511658000.25"], "order", [1_511_658_000_500_000, 1_511_658_000_250_000]),
        ([86_400, 0, -1], "timestamp", [86_400_000_000, 0, -1_000_000]),
        ([3 * 10**11, 1], "timestamp", [3 * 10**14, 1000]),
        ([1_511_658_000_123, 5 * 10**12], "timestamp", [1_511_658_000_123_000, 5 * 10**15]),
    ],
)
def test_the_kind_can_be_declared(times, kind, stored):
    log, found = read(times, time_kind=kind)
    assert (log.time_kind, found) == (kind, stored)


def test_without_a_kind_the_time_column_counts_for_nothing():
    log, _ = read(["soon", None, "7"], time_kind="none")
    dataset = Dataset.build(log, None)
    assert (dataset.time_kind, dataset.time, dataset.n_events) == ("none", None, 3)


def test_file_order_can_be_declared(tmp_path):
    (tmp_path / "1.csv").write_text("user,item\na,x\nb,\na,y\n")
    (tmp_path / "2.csv").write_text("user,item\na,z\n")
    none = Dataset.build(EventLog.read(str(tmp_path / "*.csv")), None)
    assert (none.time_kind, none.time) == ("none", None)
    order = Dataset.build(EventLog.read(str(tmp_path / "*.csv"), time_kind="order"), None)
    assert (order.time_kind, order.time.tolist()) == ("order", [0, 2, 3])
    assert order.manifest["report"]["time_unit"] == "row"


def test_each_source_has_its_own_unit():
    columns = Columns("user", "item", "time")
    tables = [
        pa.table({"user": ["a"], "item": ["x"], "time": [time]})
        for time in ("1511658000", "1511658001000", "2017-11-26T01:00:02Z")
    ]
    log = EventLog.read([Source(table, columns) for table in tables])
    assert log.report["time_unit"] == "s, ms, iso"
    assert Dataset.build(log, None).time.tolist() == [1_511_658_000_000_000 + 10**6 * n for n in range(3)]
