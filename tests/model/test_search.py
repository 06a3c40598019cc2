"""The search index against multiplying every row: adversarial tables, any company, and the bound itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import candidates_in_order
from regard.errors import DivergenceError, InputError
from regard.model import rounded, search
from regard.model.rounded import CHUNK, RoundedQueries, RoundedTable, power_above, product_for
from regard.model.search import SearchIndex
from regard.model.topk import UNKNOWN_SCORE, top_k

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1 + 2**-23, 1e-45, -1e-38, 1e-30, 3e-5, -0.1, 127.5, -4096.0, 1e9, -1e18, 1e18]


def jagged(rows):
    lengths = [len(row) for row in rows]
    return torch.tensor([v for row in rows for v in row], dtype=torch.int64), torch.tensor([0, *lengths]).cumsum(0)


def one_product(query, row):
    """The product as the index defines it, in plain Python: float64, halves added, odd ones out at the end."""
    parts = [a * b for a, b in zip(query, row, strict=True)]
    while len(parts) > 1:
        half = len(parts) // 2
        odd = parts[2 * half :]
        parts = [a + b for a, b in zip(parts[:half], parts[half : 2 * half], strict=True)] + odd
    return float(np.float32(parts[0]))


def brute(queries, table, k, known, excluded):
    found = []
    for query, left_out in zip(queries.tolist(), excluded, strict=True):
        scores = [one_product(query, row) for row in table.tolist()]
        best = candidates_in_order(scores, known, left_out)[:k]
        listed = [scores[item] if known[item] else UNKNOWN_SCORE for item in best]
        fill = k - len(best)
        found.append((listed + [-math.inf] * fill, best + [0] * fill))
    return found


def same(found, expected):
    assert [(scores, items) for scores, items in zip(found[0].tolist(), found[1].tolist(), strict=True)] == expected


@st.composite
def tasks(draw):
    """Tables with repeated rows, numbers of every size, unknown and excluded rows, and lists longer than the table."""
    width, kinds = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    pool = draw(st.sampled_from([NUMBERS, [-1.0, 0.0, 1.0], [0.0, 1e18], [1.0, 1 + 2**-23, 1 - 2**-24]]))
    vector = st.lists(st.sampled_from(pool), min_size=width, max_size=width)
    rows = draw(st.lists(vector, min_size=kinds, max_size=kinds))
    size = draw(st.integers(1, 150))
    table = [rows[i] for i in draw(st.lists(st.integers(0, kinds - 1), min_size=size, max_size=size))]
    queries = draw(st.lists(vector, max_size=5))
    known = draw(st.lists(st.booleans(), min_size=size, max_size=size)) if draw(st.booleans()) else [True] * size
    items = st.lists(st.integers(1, size - 1), max_size=20) if size > 1 else st.just([])
    shape = torch.tensor(queries).reshape(-1, width), torch.tensor(table)
    return *shape, draw(st.integers(1, 40)), known, [draw(items) for _ in queries]


@pytest.mark.parametrize("fast", [True, False])
@settings(deadline=None)
@given(task=tasks())
def test_the_answer_is_that_of_multiplying_every_row(fast, task):
    queries, table, k, known, excluded = task
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounded, "product_for", product_for if fast else lambda *_: rounded._as_floats)
        for name in ("_FIRST", "_PAIRS", "_QUERIES"):
            patch.setattr(search, name, 2)
        patch.setattr(search, "_NUMBERS", 8)
        index = SearchIndex(table, torch.tensor(known))
        same(index.search(queries, k, jagged(excluded)), brute(queries, table, k, known, excluded))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["normal", "lengths", "outliers", "whole", "small", "one direction"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_larger_tables(kind, k, device):
    generator = torch.Generator().manual_seed(k)
    table, queries = torch.randn(3_001, 19, generator=generator), torch.randn(70, 19, generator=generator)
    table *= {"lengths": torch.rand(3_001, 1, generator=generator) ** 3, "small": torch.tensor(1e-25)}.get(kind, 1)
    if kind == "outliers":
        table[:, 3] *= 1e4
    if kind == "one direction":
        table = 100 + table
    if kind == "whole":
        table, queries = table.round(), queries.round()
    known = torch.rand(3_001, generator=generator) < 0.9
    excluded = torch.randint(1, 3_001, (70, 40), generator=generator)
    offsets = torch.arange(71) * 40
    exact = (queries.double() @ table.double().T).float()
    board = exact.where(known, UNKNOWN_SCORE).scatter(1, excluded, -math.inf)
    board[:, 0] = -math.inf
    scores, items = board.sort(dim=1, descending=True, stable=True)
    index = SearchIndex(table.to(device), known.to(device))
    found = index.search(queries.to(device), k, (excluded.flatten().to(device), offsets.to(device)))
    assert torch.equal(found[1].cpu(), items[:, :k])
    assert torch.equal(found[0].cpu(), scores[:, :k])


def test_whole_numbers_are_listed_as_top_k_lists_them():
    table, queries = torch.randint(-4, 5, (3_001, 8)).float(), torch.randint(-4, 5, (9, 8)).float()
    excluded = jagged([list(range(at, 3_001, 7)) for at in range(1, 10)])
    expected = top_k(queries, table, 50, excluded=excluded)
    found = SearchIndex(table).search(queries, 50, excluded)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@settings(deadline=None)
@given(task=tasks())
def test_bounds_hold_for_every_row(task):
    queries, table, *_ = task
    table = table.repeat(CHUNK, 1)[: len(table) // CHUNK * CHUNK + CHUNK]
    lengths = table.double().norm(dim=1)
    rows = lengths.argsort(descending=True)
    held = RoundedTable(table, rows, power_above(lengths.amax()))
    asked = RoundedQueries.of(queries.double(), held.unit)
    whole = held.cells.flatten(0, 1).double() @ asked.cells.double().T
    chunks = whole.view(len(held), CHUNK, len(queries)).amax(1)
    lower, upper = held.bounds(asked, chunks, slice(0, len(held)))
    for who, query in enumerate(queries.tolist()):
        products = torch.tensor([one_product(query, table[row].tolist()) for row in rows]).double()
        inner = (products / asked.unit[who]).view(-1, CHUNK)
        assert (inner.amax(1) >= lower[:, who]).all()
        assert (inner.amax(1) <= upper[:, who]).all()
        at = torch.arange(len(held))
        each = held.upper(asked, whole[:, who].view(len(held), CHUNK), at, torch.full_like(at, who))
        assert (inner <= each).all()
        assert all((inner[chunk:] <= held.farthest(asked, chunk)[who]).all() for chunk in range(len(held)))


def test_little_is_multiplied_where_int8_fits(monkeypatch):
    """Else the index would be right, and slow without anybody noticing."""
    torch.manual_seed(5)
    index, multiplied = SearchIndex(torch.randn(40_000, 32)), []
    inner = index._multiplied
    monkeypatch.setattr(index, "_multiplied", lambda *args: multiplied.append(len(args[1])) or inner(*args))
    index.search(torch.randn(8, 32), 10)
    assert 80 <= sum(multiplied) < 8 * 40_000 / 200
    looked, maxima = [], index._maxima
    monkeypatch.setattr(index, "_maxima", lambda *args: looked.append(args[1].stop) or maxima(*args))
    index.search(torch.randn(8, 32), 10)
    assert looked[-1] == len(index._rounded)


def test_short_rows_are_not_even_looked_at(monkeypatch):
    torch.manual_seed(5)
    table = torch.randn(40_000, 8)
    table[2_000:] *= 1e-3
    index, looked = SearchIndex(table), []
    monkeypatch.setattr(search, "_FIRST", 32)
    maxima = index._maxima
    monkeypatch.setattr(index, "_maxima", lambda *args: looked.append(args[1].stop) or maxima(*args))
    queries = torch.randn(3, 8)
    found = index.search(queries, 10)
    assert looked[-1] < 300 < len(index._rounded)
    assert torch.equal(found[1], top_k(queries, table, 10)[1])


def test_an_answer_does_not_depend_on_company():
    torch.manual_seed(2)
    index, queries = SearchIndex(torch.randn(3_000, 33)), torch.randn(130, 33)
    whole = index.search(queries, 7)
    for at in (0, 63, 64, 129):
        alone = index.search(queries[at : at + 1], 7)
        assert torch.equal(alone[0][0], whole[0][at])
        assert torch.equal(alone[1][0], whole[1][at])
    assert index.search(queries[:0], 7)[0].shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_type_of_table_and_autocast(dtype):
    torch.manual_seed(4)
    table, queries = torch.randn(2_000, 16).to(dtype).requires_grad_(), torch.randn(5, 16)
    exact = (queries.double() @ table.detach().double().T).float()
    exact[:, 0] = -math.inf
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SearchIndex(table).search(queries.requires_grad_(), 12)
    assert torch.equal(found[0], exact.sort(dim=1, descending=True).values[:, :12])
    assert not found[0].requires_grad


@pytest.mark.parametrize("width", [1, 19, 128, 1_100])
def test_products_of_int8_are_exact(width):
    cells = torch.randint(-127, 128, (96, width), dtype=torch.int8)
    cells[:32], cells[32:64] = 127, -127
    queries = torch.cat([cells[:1], cells[40:41], torch.randint(-127, 128, (3, width), dtype=torch.int8)])
    expected = cells.long() @ queries.long().T
    for product in (product_for(torch.device("cpu"), width), rounded._as_floats):
        assert torch.equal(product(cells, queries).long(), expected)


@pytest.mark.parametrize("broken", ["saturates", "is gone", "is mixed up"])
def test_a_product_that_is_not_exact_is_not_used(broken, monkeypatch):
    def product(cells, queries):
        if broken == "is gone":
            raise NotImplementedError
        if broken == "is mixed up":
            return cells.flip(0).int() @ queries.int().T
        return (cells.int() @ queries.int().T).clamp(-(2**15), 2**15 - 1)

    monkeypatch.setattr(rounded, "_as_integers", product)
    assert product_for(torch.device("cpu"), 128) is rounded._as_floats


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_where_the_item_is_known(bad):
    table = torch.ones(70, 3)
    table[5, 1] = bad
    with pytest.raises(DivergenceError, match="expected finite vectors"):
        SearchIndex(table)
    known = torch.ones(70, dtype=torch.bool)
    known[5] = False
    index = SearchIndex(table, known)
    assert index.search(torch.ones(1, 3), 69)[1][0].tolist() == [*range(1, 5), *range(6, 70), 5]
    with pytest.raises(DivergenceError, match="expected finite queries"):
        index.search(torch.full((2, 3), bad), 2)


def test_products_beyond_float32_are_refused():
    with pytest.raises(DivergenceError, match="expected finite scores"):
        SearchIndex(torch.full((4, 2), 1e30)).search(torch.full((1, 2), 1e30), 2)


def test_nobody_is_known():
    index = SearchIndex(torch.randn(4, 2), torch.zeros(4, dtype=torch.bool))
    scores, items = index.search(torch.randn(2, 2), 3, jagged([[2], []]))
    assert items.tolist() == [[1, 3, 0], [1, 2, 3]]
    assert scores[0].tolist() == [UNKNOWN_SCORE, UNKNOWN_SCORE, -math.inf]
    assert SearchIndex(torch.randn(1, 2)).search(torch.randn(1, 2), 2)[1].tolist() == [[0, 0]]


@pytest.mark.parametrize("excluded", [None, jagged([[1], [], [2, 3]])])
def test_a_list_of_nothing_is_one_of_no_columns_either_way(excluded):
    table, queries = torch.randn(40, 4), torch.randn(3, 4)
    for found in (SearchIndex(table).search(queries, 0, excluded), top_k(queries, table, 0, excluded=excluded)):
        assert [(one.shape, one.dtype) for one in found] == [((3, 0), torch.float32), ((3, 0), torch.int64)]


@pytest.mark.parametrize("many", [1, 39, 41])
def test_what_is_known_is_said_of_every_row(many):
    table, known = torch.randn(40, 4), torch.ones(many, dtype=torch.bool)
    told = rf"known: expected a bool for each of the 40 rows of the table; got the shape \({many},\)"
    with pytest.raises(InputError, match=told):
        SearchIndex(table, known)
    with pytest.raises(InputError, match=told):
        top_k(torch.randn(2, 4), table, 3, known=known)


@pytest.mark.parametrize("row", [0, 1, 39])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused_either_way_unless_unknown(row, bad):
    table, queries = torch.randn(40, 4).abs(), torch.ones(2, 4)
    table[row, 2] = bad
    ways = [
        lambda known=None: SearchIndex(table, known).search(queries, 3),
        lambda known=None: top_k(queries, table, 3, known=known),
    ]
    for ask in ways:
        with pytest.raises(DivergenceError, match="expected finite"):
            ask()
        others = torch.arange(40) != row
        assert row not in ask(known=others)[1]
