"""Comparison of runs: paired, on the same users, and only under the same protocol."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from regard.errors import ProtocolError
from regard.evaluate.compare import compare, verdict
from regard.evaluate.result import Result

PROTOCOL = {
    "dataset": "f00d",
    "part": "test",
    "split": "time:0.9",
    "split_seed": 0,
    "split_cuts": "beef",
    "targets": "next",
    "target_behaviours": [],
    "candidates": "full catalogue",
    "seen": "filter",
    "users": 499,
    "cases": 499,
}


def result_of(values, **changes) -> Result:
    values = np.asarray(values, np.float32)
    per_user = {"ndcg@10": values, "ndcg@10|trained": np.where(np.arange(len(values)) % 3 == 0, np.nan, values)}
    return Result({}, {}, {**PROTOCOL, **changes}, {}, np.arange(1, len(values) + 1, dtype=np.int32), per_user)


def test_a_small_steady_lead_is_seen_through_the_noise_between_users():
    rng = np.random.default_rng(0)
    noise = rng.random(499)
    found = compare({"a": result_of(noise), "b": result_of(noise + 0.01), "c": result_of(rng.random(499))})
    lead = found["against"]["b"]["ndcg@10"]
    assert lead["difference"] == pytest.approx(0.01, abs=1e-6)
    assert (lead["low"], lead["high"]) == pytest.approx((0.01, 0.01), abs=1e-6)
    assert lead["relative"] == pytest.approx(0.01 / noise.mean(), rel=1e-4)
    assert lead["above_zero"] == 1
    assert verdict("ndcg@10", lead) == "ahead"
    assert verdict("ndcg@10", found["against"]["c"]["ndcg@10"]) == "unclear"
    assert found["base"] == "a"
    trained = found["against"]["b"]["ndcg@10|trained"]
    assert trained["base"] == pytest.approx(noise[np.arange(499) % 3 != 0].mean())
    json.dumps(found, allow_nan=False)


def test_differences_are_paired():
    rng = np.random.default_rng(2)
    first, second = rng.random(499), rng.random(499) + 0.02
    row = compare({"a": result_of(first), "b": result_of(second)}, bootstrap=2000)["against"]["b"]["ndcg@10"]
    difference = second - first
    half = 1.96 * difference.std() / np.sqrt(499)
    assert (row["low"], row["high"]) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.1 * half
    )


def test_a_run_does_not_differ_from_itself():
    values = np.random.default_rng(0).random(499)
    row = compare({"a": result_of(values), "b": result_of(values)})["against"]["b"]["ndcg@10"]
    assert (row["difference"], row["low"], row["high"], row["relative"], row["above_zero"]) == (0, 0, 0, 0, 0)
    assert verdict("ndcg@10", row) == "unclear"
    assert verdict("ndcg@10", {"low": None, "high": None}) == "unclear"
    assert verdict("ndcg@10", {"low": -0.2, "high": -0.1}) == "behind"
    assert verdict("log_loss|by-user|50-sampled", {"low": -0.2, "high": -0.1}) == "ahead"
    assert verdict("mae|by-user", {"low": 0.1, "high": 0.2}) == "behind"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seen": "keep"}, r"seen \(filter / keep\)"),
        ({"dataset": "cafe", "targets": "last"}, r"dataset \(f00d / cafe\), targets \(next / last\)"),
        ({"split": "time:0.8", "split_cuts": "1"}, r"split \(time:0.9 / time:0.8\)"),
        ({"part": "validation"}, "part"),
    ],
)
def test_other_protocols_are_refused_and_named(changes, said):
    values = np.random.default_rng(0).random(499)
    with pytest.raises(ProtocolError, match=f"a and b were measured differently: .*{said}.*under one protocol"):
        compare({"a": result_of(values), "b": result_of(values, **changes)})


def test_other_users_and_lone_runs_are_refused():
    values = np.random.default_rng(0).random(499)
    moved = replace(result_of(values), users=np.arange(2, 501, dtype=np.int32))
    with pytest.raises(ProtocolError, match="do not hold values of the same users"):
        compare({"a": result_of(values), "b": moved})
    with pytest.raises(ProtocolError, match="at least two runs; got 1"):
        compare({"a": result_of(values)})
