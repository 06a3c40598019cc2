"""User tables: found by id and never by the order of rows, counted where they and the log do not meet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from regard.cli import app
from regard.data.attributes import user_attributes
from regard.data.describe import describe
from regard.data.events import EventLog
from regard.data.sources import Recipe, UserColumns, UserSource
from regard.data.store import Dataset
from regard.data.users import checked_users, read_users, user_report
from regard.errors import InputError, SettingsError, StorageError

PEOPLE = ["a", "b", "c", "d", "e", "f"]
numbers = st.floats(-1e4, 1e4, width=32) | st.none()
words = st.sampled_from(["x", "y", "z"]) | st.none()


def built(users: list[str], table: object, out: Path | None = None) -> Dataset:
    log = pa.table({"user": users, "item": ["i"] * len(users), "time": list(range(len(users)))})
    return Dataset.build(EventLog.read(log), out, None, table)


def everybody(dataset: Dataset) -> np.ndarray:
    return np.concatenate([[False], np.full(dataset.n_users, True)])


@settings(max_examples=12)  # each builds datasets
@given(
    st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=9),
    st.dictionaries(st.sampled_from([*PEOPLE, "nobody", "no one"]), st.tuples(numbers, words), min_size=1),
    st.randoms(use_true_random=False),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_attributes_are_found_by_id_whatever_the_order(log, rows, draw, training):
    """Against plain lines: each user's own values, standardised by the training users alone."""
    found = []
    for _ in range(2):
        order = draw.sample(list(rows), len(rows))
        kinds = {"id": pa.string(), "age": pa.float64(), "type": pa.string()}
        columns = {"id": order, "age": [rows[one][0] for one in order], "type": [rows[one][1] for one in order]}
        found.append(built(log, pa.table({name: pa.array(columns[name], kinds[name]) for name in kinds})))
    assert found[0].fingerprint == found[1].fingerprint
    dataset = found[0]
    names = dataset.users.ids(range(1, dataset.n_users + 1))
    told = [rows.get(name, (None, None)) for name in names]
    trains = training[: len(names)]
    age, kind = user_attributes(dataset, ["age", "type"], np.array([False, *trains])).values()
    met = [own for own, here in zip(told, trains, strict=True) if here]
    ages = [one for one, _ in met if one is not None]
    for at, (own, word) in enumerate(told, 1):
        if own is None or not ages:
            assert np.isnan(age.values[at, 0])
        elif np.std(ages) > 1e-3:
            assert age.values[at, 0] == pytest.approx((own - np.mean(ages)) / np.std(ages), rel=1e-3, abs=1e-3)
        code = int(kind.values[at])
        assert (kind.names[code - 1] if code else None) == (word if word in [other for _, other in met] else None)
    assert (age.values.shape, kind.values.shape, int(kind.values[0])) == ((len(names) + 1, 1), (len(names) + 1,), 0)
    assert kind.unseen == sum(word is not None and word not in kind.names for _, word in told)
    report = describe(dataset)["users"]
    described = sum(name in rows for name in names)
    assert (report["described"], report["only_in_table"], report["only_in_events"]) == (
        described,
        len(rows) - described,
        len(names) - described,
    )
    assert report["columns"] == {
        "age": sum(own is not None for own, _ in told),
        "type": sum(word is not None for _, word in told),
    }


def test_lists_of_training_users_say_how_long_vectors_are() -> None:
    look = pa.array([[3.0, 4.0], None, [6.0, 8.0], [0.5, float("nan")]])
    dataset = built(list("abcd"), pa.table({"id": list("abcd"), "look": look}))
    found = user_attributes(dataset, ["look"], np.array([False, True, True, False, True]))["look"]
    power = 12.5**0.5
    np.testing.assert_allclose(found.values[[1, 3]], np.array([[3.0, 4.0], [6.0, 8.0]]) / power, rtol=1e-6)
    assert np.isnan(found.values[[0, 2, 4]]).all()
    nobody = user_attributes(dataset, ["look"], np.array([False, False, True, False, True]))["look"]
    assert np.isnan(nobody.values).all()
    assert (found.unseen, nobody.unseen) == (0, 2)


def test_names_that_are_not_there_are_answered_by_the_nearest() -> None:
    dataset = built(["a"], pa.table({"id": ["a"], "age": [1.5], "gender": ["f"]}))
    with pytest.raises(
        SettingsError, match=r"no user attribute 'gendr' \(did you mean 'gender'\?\); known: age, gender"
    ):
        user_attributes(dataset, ["gendr"], everybody(dataset))
    with pytest.raises(SettingsError, match=r"model.user_attributes: .* has no user table .*prepare --users"):
        user_attributes(built(["a"], None), ["age"], everybody(dataset))
    odd = built(["a"], pa.table({"id": ["a"], "it": [{"deep": 1}]}))
    with pytest.raises(SettingsError, match=r"model.user_attributes: user attribute 'it' holds struct"):
        user_attributes(odd, ["it"], everybody(odd))


def test_on_disk_as_in_memory_and_datasets_of_before_open(tmp_path: Path) -> None:
    table = pa.table({"id": ["b", "new", "a"], "age": [1.5, 2.5, None], "tags": [["x"], [], None]})
    kept, stored = built(["a", "b", "c"], table), built(["a", "b", "c"], table, tmp_path / "with")
    assert stored.user_table.equals(kept.user_table)
    assert stored.user_table.to_pydict() == {
        "id": ["a", "b", "c"],
        "age": [None, 1.5, None],
        "tags": [None, ["x"], None],
    }
    assert (stored.fingerprint, describe(stored)) == (kept.fingerprint, describe(kept))
    bare = built(["a", "b", "c"], None, tmp_path / "without")
    assert bare.user_table is None
    assert bare.fingerprint != stored.fingerprint
    manifest = tmp_path / "without" / "manifest.json"
    body = json.loads(manifest.read_text())
    del body["user_table"]
    manifest.write_text(json.dumps(body))
    before = Dataset.open(tmp_path / "without")
    assert before.user_table is None
    assert before.fingerprint == bare.fingerprint
    assert "users" not in describe(before)
    (tmp_path / "with" / "user-table.arrow").unlink()
    with pytest.raises(StorageError, match=r"user-table\.arrow is missing"):
        Dataset.open(tmp_path / "with")


def test_formats_give_one_table(tmp_path: Path) -> None:
    rows = {"id": ["007", "a b"], "job": ["clerk", None]}
    (tmp_path / "u.csv").write_text("job,user_id\nclerk,007\n,a b\nlate,007\nlost,\n")
    (tmp_path / "u.dat").write_bytes(b"007::clerk\na b::\n")
    (tmp_path / "u.jsonl").write_text('{"customer": "007", "job": "clerk"}\n{"customer": "a b"}\n')
    pq.write_table(pa.table(rows), tmp_path / "u.parquet")
    for source in ("u.csv", "u.jsonl", "u.parquet"):
        assert read_users(tmp_path / source, attributes=["job"]).to_pydict() == rows
    assert read_users(pd.DataFrame(rows), "id", ["job"]).to_pydict() == rows
    numbered = read_users(UserSource(tmp_path / "u.dat", UserColumns("1", ("2",))))
    assert numbered.rename_columns(list(rows)).to_pydict() == rows
    report = user_report(read_users(tmp_path / "u.csv", attributes=["job"]))
    assert (report["rows_read"], report["missing_ids"], report["duplicate_ids"]) == (4, 1, 1)
    whole = checked_users(pd.DataFrame(rows))
    assert whole.to_pydict() == rows
    assert checked_users(whole) is whole


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (b"user,age\n1,2\n", {}, "is read for its attributes; name them .*columns found: 'user', 'age'"),
        (b"user,age\n1,2\n", {"attributes": ["agee"]}, "no column 'agee' .did you mean 'age'"),
        (b"user,age\n,2\n", {"attributes": ["age"]}, "no row has a user id"),
        (b"name,age\n1,2\n", {"attributes": ["age"]}, "cannot tell which column is the id"),
        (b"user,id\n1,2\n", {"id": "user", "attributes": ["id"]}, "cannot be called 'id'; give it as --user-id"),
        (b"user,age\n1,2\n", {"id": "age", "attributes": ["age"]}, "given twice, as id and as attribute"),
    ],
)
def test_bad_user_tables(data, given, message, tmp_path):
    (tmp_path / "users.csv").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_users(tmp_path / "users.csv", **given)
    assert "\n" not in str(caught.value)


def test_a_recipe_has_users(tmp_path: Path) -> None:
    text = '[[source]]\npath = "log.csv"\n[users]\npath = "u.csv"\nid = 2\nattributes = [1]\nseparator = ";"\n'
    (tmp_path / "data.toml").write_text(text)
    assert Recipe.read(tmp_path / "data.toml").users == UserSource(
        [str(tmp_path / "u.csv")], UserColumns("2", ("1",)), ";"
    )
    (tmp_path / "data.toml").write_text(text.replace("attributes", "atributes"))
    with pytest.raises(SettingsError, match=r"users.atributes' \(did you mean 'attributes'\?\)"):
        Recipe.read(tmp_path / "data.toml")


def test_prepare_and_inspect_say_how_table_and_log_meet(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nb,x,1\na,y,2\nc,x,3\n")
    (tmp_path / "people.csv").write_text("who,age,gender\na,20.5,f\nz,30.5,m\nb,,m\na,9.5,m\n,9.5,m\n")
    words = ["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "shop"), "--users"]
    words += [str(tmp_path / "people.csv"), "--user-id", "who", "--user-attribute", "age", "--user-attribute", "gender"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)["users"]
    assert told["columns"] == {"age": 1, "gender": 2}
    keys = ("described", "only_in_table", "only_in_events", "duplicate_ids", "missing_ids")
    assert [told[key] for key in keys] == [2, 1, 1, 1, 1]
    shown = " ".join(CliRunner().invoke(app, ["inspect", str(tmp_path / "shop"), "--verify"]).output.split())
    assert "user table 2 users, with age (1), gender (2); 1 users of the log without a row; 1 rows of users" in shown
    lost = CliRunner().invoke(app, [*words[:4], "--user-attribute", "age"])
    assert "'age' is one of a table beside the log; say which with --users FILE" in str(lost.exception)
    (tmp_path / "data.toml").write_text(
        '[[source]]\npath = "log.csv"\n[users]\npath = "people.csv"\nid = "who"\nattributes = ["age", "gender"]\n'
    )
    same = CliRunner().invoke(app, ["prepare", "--config", str(tmp_path / "data.toml"), "--out", str(tmp_path / "too")])
    assert same.exit_code == 0, same.output
    assert Dataset.open(tmp_path / "too").fingerprint == Dataset.open(tmp_path / "shop").fingerprint
    for beside in ([*words[4:]], ["--items", "people.csv"], ["--user", "user"], ["--separator", ";"]):
        both = ["prepare", "--config", str(tmp_path / "data.toml"), "--out", str(tmp_path / "both"), *beside]
        with pytest.raises(InputError, match=r"data.toml says it all: leave out what is said beside it"):
            CliRunner().invoke(app, both, catch_exceptions=False)
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("whose", ["user", "item"])
def test_a_table_whose_ids_are_written_in_another_way_is_noted(whose: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\n1,1,1\n2,2,2\n1,2,3\n")
    (tmp_path / "table.csv").write_text(f"{whose},age\n1.0,20\n2.0,30\n")
    words = ["prepare", str(tmp_path / "log.csv"), "--out", str(tmp_path / "shop"), f"--{whose}s"]
    words += [
        str(tmp_path / "table.csv"),
        *(["--user-attribute", "age"] if whose == "user" else ["--attribute", "age"]),
    ]
    (note,) = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["import"]["notes"]
    assert note == (
        f"no row of the {whose} table is of the events: ids there are like '1.0', in the events like '1'; write "
        "both in the same way"
    )
    shown = " ".join(CliRunner().invoke(app, ["inspect", str(tmp_path / "shop")]).output.split())
    assert f"note: {note}" in shown
    (tmp_path / "table.csv").write_text(f"{whose},age\n1.0,20\n2,30\n")
    assert not json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["import"]["notes"]
