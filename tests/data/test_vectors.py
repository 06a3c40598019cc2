"""Vectors by id from tables and objects: joined by id or refused, and nothing is run untrusted."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from regard.data import vectortable
from regard.data.vectors import read_vectors
from regard.data.vectortable import read_ids
from regard.errors import InputError

IDS = ["b", "a", "7", "ü"]
MATRIX = np.arange(20, dtype=np.float32).reshape(4, 5) - 7.5
WANTED = ["ü", "new", "a"]


def save(folder: Path, form: str, matrix: np.ndarray = MATRIX, ids: list[str] = IDS) -> tuple[Path, Any]:
    """Write vectors in a format; return the path and the id file that it needs."""
    path, names = folder / "vectors", folder / "ids.txt"
    names.write_text("".join(f"{one}\n" for one in ids), "utf-8")
    if form == "npy":
        with path.open("wb") as file:
            np.save(file, matrix)
        return path, names
    if form.startswith("npz"):
        told = {"ids": np.array(ids)} if form == "npz" else {}
        with path.open("wb") as file:
            np.savez(file, vectors=matrix, **told)
        return path, None if told else names
    if form.startswith("safetensors"):
        told = {"ids": json.dumps(ids)} if form == "safetensors" else None
        save_file({"embedding": np.ascontiguousarray(matrix)}, path, metadata=told)
        return path, None if told else names
    column = pa.array(list(matrix), pa.list_(pa.float32()))
    if form == "parquet of fixed lists":
        column = column.cast(pa.list_(pa.float32(), matrix.shape[1]))
    pq.write_table(pa.table({"title": ["x"] * len(ids), "id": ids, "vector": column}), path, row_group_size=3)
    return path, None


FORMS = ["npy", "npz", "npz and ids", "safetensors", "safetensors and ids", "parquet", "parquet of fixed lists"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_rows_are_joined_by_id(tmp_path: Path, form: str, kind: type) -> None:
    path, ids = save(tmp_path, form, MATRIX.astype(kind))
    found = read_vectors(path, WANTED, ids=ids)
    np.testing.assert_array_equal(found.matrix, np.stack([MATRIX[3], np.zeros(5, "f4"), MATRIX[1]]))
    assert (found.keys, found.known.tolist(), found.width) == (tuple(WANTED), [True, False, True], 5)
    assert (found.report.read, found.report.found, found.report.wanted) == (4, 2, 3)
    assert found.report.format == form.split(" ")[0]
    json.dumps(found.report.as_dict())
    order = [2, 0, 3, 1]  # whatever the order of the rows
    other, ids = save(tmp_path, form, MATRIX[order].astype(kind), [IDS[at] for at in order])
    np.testing.assert_array_equal(read_vectors(other, WANTED, ids=ids).matrix, found.matrix)


def test_unknown_rows_may_be_the_mean() -> None:
    found = read_vectors(dict(zip(IDS, MATRIX, strict=True)), WANTED)
    np.testing.assert_allclose(found.filled()[1], (MATRIX[3] + MATRIX[1]) / 2)
    np.testing.assert_array_equal(found.filled(np.ones(5))[1], np.ones(5))
    np.testing.assert_array_equal(found.matrix[1], np.zeros(5))
    nothing = read_vectors({"x": [1.0, 2.0]}, ["y"])
    np.testing.assert_array_equal(nothing.filled(), [[0.0, 0.0]])


@pytest.mark.parametrize("form", FORMS)
def test_repeated_ids_keep_the_first_row(tmp_path: Path, form: str) -> None:
    path, ids = save(tmp_path, form, MATRIX, ["a", "b", "a", "c"])
    found = read_vectors(path, ["a"], ids=ids)
    np.testing.assert_array_equal(found.matrix[0], MATRIX[0])
    assert found.report.duplicates == 1
    assert found.report.notes == ("1 rows repeat a wanted key; its first row counts",)


def test_a_wanted_id_twice_has_its_row_twice(tmp_path: Path) -> None:
    path, ids = save(tmp_path, "npy")
    found = read_vectors(path, ["a", "b", "a"], ids=ids)
    np.testing.assert_array_equal(found.matrix, MATRIX[[1, 0, 1]])


@pytest.mark.parametrize("form", FORMS)
def test_ids_must_be_one_for_each_row(tmp_path: Path, form: str) -> None:
    if "parquet" in form:
        return
    path, ids = save(tmp_path, form, MATRIX, [*IDS, "more"])
    with pytest.raises(InputError, match="4 rows, but there are 5 ids"):
        read_vectors(path, WANTED, ids=ids)


@pytest.mark.parametrize("form", FORMS)
def test_nan_in_a_wanted_row_is_refused_with_its_row(tmp_path: Path, form: str) -> None:
    matrix = MATRIX.copy()
    matrix[3, 1] = np.nan
    path, ids = save(tmp_path, form, matrix)
    with pytest.raises(InputError, match="row 4: the vector of 'ü' holds nan or inf"):
        read_vectors(path, WANTED, ids=ids)
    assert read_vectors(path, ["a"], ids=ids).known.all()


@pytest.mark.parametrize("form", ["npy", "npz and ids", "safetensors and ids"])
def test_rows_without_names_need_ids(tmp_path: Path, form: str) -> None:
    path, _ = save(tmp_path, form)
    with pytest.raises(InputError, match=r"--vector-ids FILE \(users: --user-vector-ids, Python: ids=\)"):
        read_vectors(path, WANTED)


def test_ids_come_in_lines_or_json(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    for content in ("b\na\n7\nü\n", "b\r\na\r\n7\r\nü", "\ufeffb\na\n7\nü\n", json.dumps(IDS)):
        file.write_bytes(content.encode())
        assert [one.decode() for one in read_ids(file)] == IDS
    file.write_text(json.dumps({"a": 1, "b": 0, "7": 2, "ü": 3}))
    assert [one.decode() for one in read_ids(file)] == IDS
    file.write_text("[PAD]\n\nx\n")
    assert read_ids(file) == [b"[PAD]", b"", b"x"]  # a blank line has a row
    file.write_text(json.dumps({"a": 1, "b": 1}))
    with pytest.raises(InputError, match="rows 0 to 1"):
        read_ids(file)
    with pytest.raises(InputError, match="cannot read the ids"):
        read_ids(tmp_path / "nowhere")


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with path.open("wb") as file:
        np.savez(file, ids=np.array([3, 1]), embeddings=MATRIX[:2])
    np.testing.assert_array_equal(read_vectors(path, ["1"]).matrix, MATRIX[1:2])
    pq.write_table(pa.table({"item": [3, 1], "v": list(MATRIX[:2])}), path)
    np.testing.assert_array_equal(read_vectors(path, ["1"]).matrix, MATRIX[1:2])


@pytest.mark.parametrize("name", ["item", "user", "user_id", "item_id"])
def test_the_usual_names_of_ids_are_known_among_other_columns(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"city": ["x"] * 4, name: IDS, "vector": list(MATRIX)}), tmp_path / "v")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v", ["a"]).matrix, MATRIX[1:2])


def test_tensors_that_are_still_learned_are_read() -> None:
    found = read_vectors({"a": torch.ones(3, requires_grad=True), "b": torch.zeros(3)}, ["a", "b"])
    assert found.matrix.tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("modern", [True, False])
def test_torch_files_are_named_and_never_unpickled(tmp_path: Path, modern: bool) -> None:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "t.pt", _use_new_zipfile_serialization=modern)
    with pytest.raises(InputError, match=r"torch\.save, a pickle that is never read .* safetensors, or as \.npy"):
        read_vectors(tmp_path / "t.pt", ["a"], trust=True)


def test_parquet_rows_without_id_or_vector_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "v"
    pq.write_table(pa.table({"id": ["a", None, "c"], "vector": [None, [1.0, 2.0], [3.0, 4.0]]}), path)
    found = read_vectors(path, ["a", "c"])
    assert (found.known.tolist(), found.report.read) == ([False, True], 3)
    assert found.report.notes == ("2 rows have no id or no vector",)
    pq.write_table(pa.table({"id": ["a", "b", "c"], "vector": [[1.0, 2.0], None, [3.0]]}), path)
    with pytest.raises(InputError, match="row 3: 1 numbers, expected 2"):
        read_vectors(path, ["a"])
    for columns, words in (
        ({"id": ["a"], "x": [1.0]}, "one column of lists, came none"),
        ({"p": ["a"], "q": ["b"], "v": [[1.0]]}, "one column of ids, came one of p, q"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(InputError, match=words):
            read_vectors(path, ["a"])


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("given", ["last", "first", "middle", "ends", "none"])
def test_pieces_of_a_parquet_file_without_any_vector_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, fixed: bool
) -> None:
    """A piece is what is read at once: of 16,384 rows, here of 4."""
    monkeypatch.setattr(vectortable, "_CHUNK", 4)
    told = {"last": {9}, "first": {0, 3}, "middle": {5, 6}, "ends": {1, 9}, "none": set()}[given]
    column = pa.array(
        [[float(at), -1.0] if at in told else None for at in range(10)],
        pa.list_(pa.float32(), 2) if fixed else pa.list_(pa.float32()),
    )
    path = tmp_path / "v"
    pq.write_table(pa.table({"id": [f"i{at}" for at in range(10)], "vector": column}), path)
    if not told:
        with pytest.raises(InputError, match="none of its 10 rows has both an id and a vector"):
            read_vectors(path, ["i1"])
        return
    found = read_vectors(path, [f"i{at}" for at in range(10)])
    assert set(np.flatnonzero(found.known).tolist()) == told
    assert found.matrix[found.known].tolist() == [[float(at), -1.0] for at in sorted(told)]
    assert (found.report.read, found.report.found) == (10, len(told))
    assert found.report.notes == (f"{10 - len(told)} rows have no id or no vector",)


def test_what_is_not_a_file_of_vectors_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere", "does not exist"),
        (7, "cannot be read from int"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "one width"),
        ("", "came an empty name"),
        (" ", "came an empty name"),
        ({}, "the mapping holds no vectors|of shape"),
        (SimpleNamespace(index_to_key=[], vectors=MATRIX[:0]), "holds no vectors"),
    ]
    for source, words in cases:
        with pytest.raises(InputError, match=words):
            read_vectors(source, ["a"])
    assert read_vectors({"ab": [1.0]}, "ab").known.all()  # one key, not its letters
    text = tmp_path / "glove"
    text.write_text("a 1 2\n")
    with pytest.raises(InputError, match=r"leave out --vector-ids \(ids=\)"):
        read_vectors(text, ["a"], ids=["a"])
    for form in ("npy", "npz", "safetensors", "parquet"):
        path, ids = save(tmp_path, form)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InputError, match="cannot read"):
            read_vectors(path, ["a"], ids=ids)


def test_python_objects_in_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        read_vectors(path, ["a"], ids=["a"])
    with path.open("wb") as file:
        np.savez(file, ids=np.array(["a", None], object), vectors=MATRIX[:2])
    with pytest.raises(InputError, match=r"Python objects.*dtype=str"):
        read_vectors(path, ["a"])
    with path.open("wb") as file:
        np.save(file, np.array([["a"]]))
    with pytest.raises(InputError, match="expected numbers"):
        read_vectors(path, ["a"], ids=["a"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*FORMS, "text", "binary"]), st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, form: str, data: st.DataObject) -> None:
    path, ids = tmp_path / "vectors", None
    if form in ("text", "binary"):
        rows = {"text": b"a 1 2\nb 3 4\n", "binary": b"a " + bytes(8) + b"\nb " + bytes(8)}
        path.write_bytes(b"2 2\n" + rows[form])
    else:
        path, ids = save(tmp_path, form)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1)) if content else 0
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content[: data.draw(st.integers(0, 2 * len(content)))])
    with contextlib.suppress(InputError):
        assert np.isfinite(read_vectors(path, IDS, ids=ids).matrix).all()


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [("npy", b"}", b"("), ("npz", b"PK\x01\x02-\x03-", b"PK\x01\x02-\x03\xfd"), ("safetensors", b"F32", b"F33")],
)
def test_headers_that_cannot_be_read_are_refused(tmp_path: Path, form: str, old: bytes, new: bytes) -> None:
    path, ids = save(tmp_path, form)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match="cannot read"):
        read_vectors(path, IDS, ids=ids)
