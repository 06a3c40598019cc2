"""Item vectors: ids with a row of their own or hashed ones, and attributes of every kind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from regard.config import ModelSettings
from regard.data.events import EventLog
from regard.data.shape import Shape
from regard.data.store import Dataset
from regard.model.embedding import EventEmbedding
from regard.model.items import ItemTable

WIDTH = 7
NAMES = ["type", "price", "look", "a.b"]
COLUMNS = {
    "type": ["x", "y", None, "x", "z"],
    "price": [1.0, None, 3.0, 11.0, 5.0],
    "look": [[1.0, 2.0, 2.0], [0.0, 3.0, 4.0], None, [1.0, 0.0, 0.0], None],
    "a.b": [1, 1, 2, None, 3],
}


def dataset(order: list[int], names: list[str] = NAMES) -> Dataset:
    ids = [f"item {n}" for n in range(5)]
    log = EventLog.read(pa.table({"user": ["u"] * 3, "item": [ids[n] for n in (3, 0, 4)], "time": [1, 2, 3]}))
    table = pa.table({"id": ids, **{name: COLUMNS[name] for name in names}})
    return Dataset.build(log, None, table.take(pa.array(order)))


def filled(built: Dataset, names: list[str] = NAMES, **changes: int) -> ItemTable:
    torch.manual_seed(0)
    table = ItemTable(Shape.of(built, names), ModelSettings(width=WIDTH, attributes=tuple(names), **changes))
    table.fill(built)
    return table


def vector(table: ItemTable, built: Dataset, name: str | None) -> Tensor:
    """Vector of an item from the columns as they are written above; None = the unknown item."""
    index = int(built.items.index([name])[0]) if name else 0
    row = int(name.split()[1]) if name else None
    values = {key: None if row is None else column[row] for key, column in COLUMNS.items()}
    total = table.item[index]
    for place, key in enumerate(["a.b", "type"]):  # in alphabetical order
        code = int(table.codes[place, index])
        assert (code == 0) == (values[key] is None)
        total = total + table.values[place][code]
    assert table.directions is not None
    look, price = table.directions[:4], table.directions[4:]
    if values["look"] is None:
        total = total + look[3]
    else:
        power = (35 / 9) ** 0.5
        total = total + torch.tensor(values["look"]) @ look[:3] / power
    if values["price"] is None:
        return total + price[1]
    return total + (values["price"] - 5.0) / 14.0**0.5 * price[0]


@settings(max_examples=12)  # each builds datasets
@given(st.permutations(range(5)), st.permutations(NAMES))
def test_a_vector_is_the_sum_of_what_is_known_of_the_item(order: list[int], names: list[str]) -> None:
    built = dataset(order, names)
    table = filled(built, names)
    whole = table()
    assert whole.shape == (6, WIDTH)
    for name in [None, *(f"item {n}" for n in range(5))]:
        index = int(built.items.index([name])[0]) if name else 0
        torch.testing.assert_close(whole[index], vector(table, built, name))


@pytest.mark.parametrize("changes", [{}, {"hash_rows": 4}, {"hash_rows": 3, "hash_functions": 1}])
def test_some_items_are_rows_of_all_and_learn_the_same(changes: dict[str, int]) -> None:
    table = filled(dataset([0, 1, 2, 3, 4]), **changes)
    items = torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(table(items), table()[items])
    assert table(items[:0]).shape == (0, WIDTH)
    grown = torch.randn(4, WIDTH)
    slopes = [
        torch.autograd.grad((vectors * grown).sum(), list(table.parameters()))
        for vectors in (table(items), table()[items])
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


def test_what_is_saved_needs_no_dataset(tmp_path: Path) -> None:
    built = dataset([4, 2, 0, 1, 3])
    table = filled(built, hash_rows=4)
    save_file(table.state_dict(), tmp_path / "weights")
    told = {**Shape.of(built, NAMES).as_dict()}
    told["attributes"] = {name: list(form) for name, form in sorted(told["attributes"].items(), reverse=True)}
    again = ItemTable(Shape(**told), ModelSettings(width=WIDTH, hash_rows=4))
    again.load_state_dict(load_file(tmp_path / "weights"))
    assert torch.equal(again(), table())


def of_ids(ids: list[str], rows: int, functions: int) -> tuple[ItemTable, Dataset]:
    log = EventLog.read(pa.table({"user": ["u"] * len(ids), "item": ids, "time": range(len(ids))}))
    built = Dataset.build(log, None)
    shaped = ModelSettings(width=WIDTH, hash_rows=rows, hash_functions=functions)
    torch.manual_seed(0)
    table = ItemTable(Shape.of(built), shaped)
    table.fill(built)
    return table, built


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5)


@settings(max_examples=12)  # each builds datasets
@given(
    st.lists(names, min_size=1, max_size=20, unique=True),
    st.lists(names, min_size=1, max_size=20, unique=True),
    st.integers(1, 30),
    st.integers(1, 8),
)
def test_a_hashed_vector_depends_on_nothing_but_the_id(
    here: list[str], there: list[str], rows: int, functions: int
) -> None:
    (one, known), (other, elsewhere) = of_ids(here, rows, functions), of_ids([*there, here[0]], rows, functions)
    assert one.item.shape == other.item.shape == (rows + 1, WIDTH)  # the seed is the same, so rows are alike
    for name in set(here) & {*there, here[0]}:
        ours, theirs = one()[known.items.index([name])], other()[elsewhere.items.index([name])]
        assert torch.equal(ours, theirs)


def test_a_hashed_vector_is_the_mean_of_its_rows_times_the_root_of_their_number() -> None:
    table, _ = of_ids([f"item {n}" for n in range(50)], 11, 3)
    assert table.hashes is not None
    for index in (0, 1, 17, 50):
        expected = sum(table.item[int(row)] for row in table.hashes[index]) / 3**0.5
        torch.testing.assert_close(table()[index], expected)
    assert not table.hashes[0].any()
    assert table.hashes[1:].min() > 0
    told = table.collisions()
    assert told is not None
    assert (told["rows"], told["functions"], told["items"]) == (11, 3, 50)


def test_memory_is_that_of_the_rows_and_not_of_the_items() -> None:
    table = ItemTable(Shape(100_000), ModelSettings(width=WIDTH, hash_rows=10))
    assert sum(each.numel() for each in table.parameters()) == 11 * WIDTH
    assert ItemTable(Shape(10), ModelSettings(width=WIDTH)).collisions() is None


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative", "none"])
def test_only_learned_positions_have_a_table(positions: str) -> None:
    made = EventEmbedding(0, ModelSettings(positions=positions))
    assert (made.position is not None) == (positions == "learned")
