"""Tables and sentences: what they must say, and that they fit a terminal."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from reference import dataset_of
from regard.data.split import make_split
from regard.evaluate.compare import compare
from regard.evaluate.protocol import evaluate
from regard.evaluate.report import comparison_tables, outcome, protocol_lines, report, strata_table

DAY = 86_400_000_000


class Skilled:
    """Ranks targets at random; the higher the skill, the nearer to the top."""

    def __init__(self, skill, items):
        self.skill, self.items = skill, items

    def rank(self, cases, *, k, filter_seen):
        draw = np.random.default_rng(0)
        sizes = np.diff(cases.target_offsets)
        first = (self.items * draw.random(len(cases)) ** self.skill / 2).astype(np.int64) + 1
        ranks = np.concatenate([start + np.arange(size) for start, size in zip(first, sizes, strict=True)])
        return ranks, draw.integers(1, 9, (len(cases), k)).astype(np.int32)


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    rows = [
        (user, int(item), int(n + user % 7) * DAY, 0, 0)
        for user in range(1, 90)
        for n, item in enumerate(rng.integers(1, 60, 5 + user % 31))
    ]
    dataset, _ = dataset_of(rows, parts=False)
    split = make_split(dataset, "time:0.8")

    def of(skill, **choices):
        return evaluate(Skilled(skill, dataset.n_items), dataset, split, **choices)

    return of


def shown(thing, width=100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as text:
        console.print(thing)
    return text.get()


def test_a_report_of_one_target_a_case_fits_80_columns(measured):
    text = shown(report("self-attention", measured(5), {"recent-popular": measured(2), "popular": measured(1)}), 80)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("choices", [{}, {"targets": "set", "k": (5, 20)}, {"bootstrap": 0}])
def test_a_report_fits_and_marks_the_best(measured, choices):
    baselines = {"popular": measured(1, **choices), "recent-popular": measured(2, **choices)}
    text = shown(report("self-attention", measured(5, **choices), baselines, measured(9, **choices)))
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    rows = {line.split()[0]: line for line in reversed(text.splitlines()) if line.split()}  # the upper table wins
    assert "*" in rows["self-attention"]
    assert "*" not in rows["popular"] + rows["oracle"]
    assert "Test part of split time:0.8" in text
    assert "history 5-19" in text
    assert "target events" in text


def test_it_says_who_is_ahead(measured):
    weak, strong = measured(1), measured(6)
    (line,) = outcome("self-attention", strong, {"popular": weak})
    assert line.startswith("self-attention is ahead of the best baseline, popular: ndcg@10 +0.")
    lines = outcome("self-attention", weak, {"popular": measured(0.9), "repeat": strong})
    assert lines[0].startswith("A baseline wins: repeat is ahead of self-attention, whose ndcg@10 differs by -0.")
    assert any(line.startswith("On hit_rate@10 a baseline is ahead: repeat ") for line in lines[1:])
    (same,) = outcome("self-attention", weak, {"popular": weak})
    assert "cannot be told apart" in same
    assert outcome("self-attention", weak, {}) == []
    (bare,) = outcome("self-attention", measured(6, bootstrap=0), {"popular": measured(1, bootstrap=0)})
    assert bare.startswith("self-attention has a higher value than the best baseline, popular: ndcg@10 +0.")
    assert bare.endswith("no interval.")


def test_it_says_how_a_pair_stands_to_its_retriever(measured):
    weak, middle, strong = measured(1), measured(3), measured(6)
    lines = outcome("ranker", middle, {"retriever": weak, "popular": measured(0.9)})
    assert lines[0].startswith("ranker is ahead of its retriever by itself: ndcg@10 +0.")
    assert lines[1].startswith("ranker is ahead of the best baseline, popular: ndcg@10 +0.")
    lines = outcome("ranker", middle, {"popular": weak, "retriever": strong})
    assert lines[0].startswith("The retriever wins: by itself it is ahead of ranker, whose ndcg@10 differs by -0.")
    assert lines[1].startswith("ranker is ahead of the best baseline, popular: ")
    assert any(line.startswith("On hit_rate@10 its retriever is ahead: retriever ") for line in lines[2:])
    (same,) = outcome("ranker", weak, {"retriever": weak})
    assert same.startswith("ranker and its retriever by itself cannot be told apart: ndcg@10 +0.0000")


def test_popular_stands_beside_every_stratum(measured):
    text = shown(strata_table("self-attention", measured(5), measured(1)))
    assert text.splitlines()[0].strip() == "ndcg@10 by what was known"
    assert "popular" in text
    assert all(len(line.split()) >= 7 for line in text.splitlines() if line.startswith((" history", " target")))


def test_the_protocol_in_words(measured):
    lines = protocol_lines(measured(5, seen="filter", bootstrap=0))
    assert any("count as misses" in line or "are misses" in line for line in lines)
    assert any("no intervals were asked for" in line for line in lines)
    assert any("Request time not used" in line for line in lines)
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("width", [80, 100])
def test_comparison_tables_fit(measured, width):
    found = compare({"runs/first": measured(2), "runs/second": measured(5), "runs/third": measured(2)})
    text = shown(comparison_tables(found), width)
    assert "…" not in text
    assert "runs/second against runs/first" in text
    assert "ahead" in text
    assert "unclear" in text
    assert "recall@10" not in text, "recall says what hit rate says where every case has one target"
