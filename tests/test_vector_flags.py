"""What the commands say of `--vectors`: whose they are, that there are some, and what to give where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from regard.cli import app

SMALL = ["--set", "train.epochs=1", "--set", "model.width=4", "--set", "evaluate.bootstrap=0", "--json"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with numbers as ids and a year in every title, of which each is an id too."""
    folder = tmp_path_factory.mktemp("films")
    items = [*range(1, 13), 1995, 1996]
    events = [(user, item) for user in range(9) for item in items[user % 3 : user % 3 + 7]]
    table = {"user": [one[0] for one in events], "item": [one[1] for one in events], "time": list(range(len(events)))}
    pyarrow.csv.write_csv(pa.table(table), folder / "log.csv")
    titles = [f"Story{at % 5} ({1995 + at % 2})" for at in range(len(items))]
    pyarrow.csv.write_csv(pa.table({"id": items, "title": titles}), folder / "items.csv")
    given = ["--items", folder / "items.csv", "--time-kind", "order"]
    assert done("prepare", folder / "log.csv", "--out", folder / "shop", *given).exit_code == 0
    vectors = np.random.default_rng(0).normal(size=(len(items), 3))
    pq.write_table(pa.table({"item": list(map(str, items)), "vector": list(vectors)}), folder / "rv.parquet")
    np.save(folder / "rv.npy", vectors)
    return folder


def done(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def by_of(run: Path) -> str:
    return str(json.loads((run / "manifest.json").read_text())["vectors"]["by"])


def test_vectors_of_ids_are_not_taken_for_words_unless_told(shop: Path, tmp_path: Path) -> None:
    train = ["train", shop / "shop", "--model", "mean", "--vectors", shop / "rv.parquet", *SMALL]
    for by, found in (("auto", "id"), ("id", "id"), ("words", "words"), (None, "id")):
        told = [] if by is None else ["--vectors-by", by]
        assert done(*train, *told, "--out", tmp_path / f"{by}").exit_code == 0
        assert by_of(tmp_path / f"{by}") == found
    assert "vectors by 'item'" in str(done(*train, "--vectors-by", "item", "--out", tmp_path / "x").exception)
    again = ["train", shop / "shop", "--from", tmp_path / "id", "--vectors-by", "words", "--out", tmp_path / "y"]
    assert "--vectors-by words: with --from, vectors are read as those of" in str(done(*again).exception)


def test_other_commands_hand_it_on(shop: Path, tmp_path: Path) -> None:
    given = ["--model", "mean", "--vectors", shop / "rv.parquet", "--vectors-by", "words", *SMALL]
    report = ["--transfer", "--shares", "1", "--modes", "init", "--out", tmp_path / "report"]
    told = done("tune", shop / "shop", "--trials", "1", "--out", tmp_path / "tuned", *given)
    assert told.exit_code == 0, told.output
    assert by_of(Path(json.loads(told.stdout)["run"])) == "words"
    told = done("compare", shop / "shop", *report, *given)
    assert told.exit_code == 0, told.output
    assert json.loads((tmp_path / "report" / "report.json").read_text())["vectors"]["by"] == "words"
    assert "--vectors-by is for --transfer" in str(done("compare", "a", "b", "--vectors-by", "id").exception)


@pytest.mark.parametrize("flag", ["--vectors", "--user-vectors"])
@pytest.mark.parametrize("command", ["train", "tune"])
def test_an_empty_source_is_refused(shop: Path, tmp_path: Path, command: str, flag: str) -> None:
    given = [command, shop / "shop", "--model", "matrix-factorization", "--out", tmp_path / "run", *SMALL]
    for empty in ("", " "):
        told = done(*given, flag, empty)
        assert told.exit_code != 0
        assert "came an empty name" in str(told.exception)


def test_flags_are_named_as_they_are(shop: Path, tmp_path: Path) -> None:
    given = ["train", shop / "shop", "--model", "mean", "--out", tmp_path / "run"]
    for words, said in (
        (["--vectors", shop / "rv.npy"], "--vector-ids FILE"),
        (["--vectors", "text:"], "came an empty name"),
        (["--vector-ids", "ids.txt"], "name them with --vectors SOURCE"),
        (["--user-vector-ids", "ids.txt"], "name them with --user-vectors SOURCE"),
        (["--vectors-by", "id"], "name them with --vectors SOURCE"),
    ):
        assert said in str(done(*given, *words).exception)
