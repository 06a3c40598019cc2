"""`regard tune`: against plain searches, planted optima, interrupted searches, and what a person can get wrong."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from rich.console import Console
from typer.testing import CliRunner

import regard
from regard import pipeline
from regard.cli import app
from regard.config import ModelSettings, Settings
from regard.data.events import EventLog
from regard.data.split import Split
from regard.data.store import Dataset
from regard.errors import DivergenceError, InputError, ProtocolError, RegardError, SettingsError, StorageError
from regard.manifest import locked
from regard.model.models import NAMES
from regard.train import loop
from regard.tune.found import Tuned, as_toml
from regard.tune.search import tune
from regard.tune.space import Dimension, default_space, space_of
from regard.tune.table import tuning


def events(users: int = 60, each: int = 7) -> pa.Table:
    """People go round a circle of 23 items, each from a place of their own."""
    start = np.random.default_rng(0).integers(0, 23, users)
    rows = [(f"u{user}", f"i{(start[user] + step) % 23}", step) for user in range(users) for step in range(each)]
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(("user", "item", "time"))})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.build(EventLog.read(events(), time_kind="order"), None)


def small(**changes: Any) -> Settings:
    told = {"model.name": "mean", "model.width": 8, "data.split": "leave-one-out", "train.epochs": 2}
    told |= {"train.batch_tokens": 64, "train.threads": 1, "train.precision": "float32", "evaluate.bootstrap": 0}
    return Settings().changed([f"{name}={value}" for name, value in (told | changes).items()])


@dataclass
class Planted:
    """Stands for `pipeline.train`: validation is a function of the settings, and training is free of charge."""

    judge: Callable[[Settings], float]
    stop_before: int = 10**9

    def __post_init__(self) -> None:
        self.asked: list[tuple[Settings, Path, bool]] = []

    def __call__(self, dataset: Any, settings: Settings, out: Path, *, resume: bool, **known: Any) -> Any:
        out.mkdir(parents=True, exist_ok=True)
        if len(self.asked) == self.stop_before:
            raise KeyboardInterrupt
        self.asked.append((settings, out, resume))
        figures = {settings.train.metric: self.judge(settings)}
        return type("Run", (), {"manifest": {"validation": figures, "epochs": [{"seconds": 1.5}]}})


def planted(monkeypatch: pytest.MonkeyPatch, judge: Callable[[Settings], float], stop_before: int = 10**9) -> Planted:
    train = Planted(judge, stop_before)
    monkeypatch.setattr(pipeline, "train", train)
    return train


def bowl(settings: Settings) -> float:
    """Best at a rate of 0.003, a dropout of 0.2 and a width of 16."""
    rate, dropout = math.log10(settings.train.learning_rate / 3e-3), settings.model.dropout - 0.2
    return 1 - rate**2 - 4 * dropout**2 - 0.3 * (settings.model.width != 16)


BOWL = ("train.learning_rate=1e-5..1,log", "model.dropout=0..0.9", "model.width=8,16,32,64")


# What is searched.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.dropout=0..0.5", Dimension("model.dropout", 0.0, 0.5)),
        ("train.learning_rate = 1e-4 .. 1e-2 , log", Dimension("train.learning_rate", 1e-4, 1e-2, log=True)),
        ("model.blocks=1..4", Dimension("model.blocks", 1, 4, whole=True)),
        ("model.width=16..256,log", Dimension("model.width", 16, 256, log=True, whole=True)),
        ("model.width=64,128,64", Dimension("model.width", choices=("64", "128"))),
        ("train.learning_rate=1e-3,0.002", Dimension("train.learning_rate", choices=("0.001", "0.002"))),
        ("model.feed_forward=plain,gated", Dimension("model.feed_forward", choices=('"plain"', '"gated"'))),
        ("model.behaviours=true,false", Dimension("model.behaviours", choices=("true", "false"))),
        ("model.hidden=[128,64],[64]", Dimension("model.hidden", choices=("[128, 64]", "[64]"))),
    ],
)
def test_what_a_person_writes_is_read(text: str, expected: Dimension) -> None:
    found = Dimension.read(text)
    assert found == expected
    assert Dimension.read(found.text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.width", "expects section.key=low..high"),
        ("width=8,16", "expects section.key"),
        ("model.widht=8,16", "did you mean 'width'"),
        ("model.widht=8..16", "did you mean 'width'"),
        ("modl.width=8..16", "did you mean 'model'"),
        ("model.width=8", "at least two values"),
        ("model.width=8..big", "model.width.*big"),
        ("model.dropout=0..1.5", "less than 1"),
        ("model.dropout=0.5..0.1", "low end first"),
        ("model.dropout=0..0.5,log", "begins above 0"),
        ("model.dropout=0.1..0.5,lin", "only ',log'"),
        ("model.feed_forward=plain..gated", "is no number"),
        ("model.feed_forward=plain,fancy", "fancy"),
        ("train.seed=1,2,3", "changes what is measured"),
        ("evaluate.k=5,10", "changes what is measured"),
        ("data.split=parts,none", "changes what is measured"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Dimension.read(text)
    assert "\n" not in str(caught.value)
    assert "--search" in str(caught.value)


def test_a_proposal_becomes_a_setting_inside_its_range() -> None:
    rate = Dimension.read("train.learning_rate=0.00123456..0.0123456,log")
    assert rate.value(0.00567891234) == "0.005679"
    assert float(rate.value(0.01234559999)) <= 0.0123456
    assert float(rate.value(0.0012345601)) >= 0.00123456
    assert Dimension.read("model.blocks=1..4").value(3) == "3"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in pipeline.BASELINES])
@pytest.mark.parametrize("transfer", [None, "auto", "init", "frozen", "fuse", "gate"])
def test_the_usual_search_begins_at_the_defaults(name: str, transfer: str | None) -> None:
    settings = Settings().changed([f"model.name={name}", f"model.transfer={transfer or 'auto'}"])
    space = space_of(settings, (), vectors=transfer is not None)
    assert {"train.learning_rate", "model.dropout", "model.width"} <= set(space)
    assert [one.name for one in space.values() if one.start(settings) is None] == []
    assert any(one.startswith("model.softness") for one in space) == (transfer is not None)
    for ends in (0, -1):  # every corner of the space is a model that can be
        chosen = [
            f"{one.name}={one.choices[ends] if one.choices else (one.low, one.high)[ends]}" for one in space.values()
        ]
        assert settings.changed(chosen)


def test_what_was_set_is_fixed_unless_it_is_asked_for() -> None:
    settings = small()
    usual = space_of(settings, (), vectors=False)
    assert set(usual) == {"train.learning_rate", "train.weight_decay", "train.table_rate", "model.dropout"}
    assert set(space_of(settings, ["model.width=8,16"], vectors=False)) == {"model.width"}
    everything = Settings(model=ModelSettings(**ModelSettings().model_dump()))
    assert not any(name.startswith("model") for name in space_of(everything, (), vectors=True))
    fixed = settings.changed([f"{text.partition('=')[0]}=0.25" for text in default_space(settings, False)[:2]])
    with pytest.raises(SettingsError, match="say what to search"):
        space_of(fixed.changed(["model.dropout=0.1", "train.table_rate=2"]), (), vectors=False)
    with pytest.raises(SettingsError, match=r"names model\.width twice"):
        space_of(settings, ["model.width=8,16", "model.width=32..64"], vectors=False)


@pytest.mark.parametrize(
    ("search", "vectors", "words"),
    [
        (["model.word_weights=sif,idf"], True, "read once for all trials"),
        (["model.softness=0..10"], False, r"softness is of pretrained vectors, and none were given: add --vectors"),
        (["model.transfer=init,gate"], False, r"transfer is of pretrained vectors, and none were given"),
        (["model.id_width=8,16"], True, r"id_width is for model\.transfer=fuse, and init does not read it"),
    ],
)
def test_what_no_trial_could_read_is_not_searched(search: list[str], vectors: bool, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        space_of(Settings(), search, vectors=vectors)
    space_of(Settings().changed(["model.transfer=fuse"]), ["model.id_width=8,16"], vectors=True)


# What is found.


def test_a_planted_optimum_is_found(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = planted(monkeypatch, bowl)
    found = regard.tune(dataset, small(), tmp_path / "tuned", trials=60, search=BOWL)
    tried = [bowl(settings) for settings, _, _ in train.asked]
    assert [one.value for one in found.trials] == tried
    assert found.best.value == max(tried)
    assert found.best.value > 0.97
    assert found.settings.model.width == 16
    # chance, drawn as often from the same space
    rng, by_chance = np.random.default_rng(0), []
    for _ in range(200):
        draws = 1 - np.log10(10 ** rng.uniform(-5, 0, 60) / 3e-3) ** 2 - 4 * (rng.uniform(0, 0.9, 60) - 0.2) ** 2
        by_chance.append(np.max(draws - 0.3 * (rng.integers(0, 4, 60) != 1)))
    assert found.best.value > np.median(by_chance)


def test_the_first_trial_has_the_settings_as_they_are(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = planted(monkeypatch, bowl)
    found = tune(dataset, small(), tmp_path / "in", trials=2, search=BOWL)
    of_size = ["model.dropout=0.5", "model.covisit_weight=3.0", "train.table_rate=10.0", "train.learning_rate=1e-3"]
    of_size.append("train.metric=ndcg@10")
    assert train.asked[0][0].model_dump() == small().changed(of_size).model_dump()
    assert found.trials[0].settings == {"train.learning_rate": "0.001", "model.dropout": "0.5", "model.width": "8"}
    tune(dataset, small(), tmp_path / "out", trials=1, search=["model.width=16,32", "model.dropout=0..0.5"])
    assert train.asked[-1][0].model.width != 8


def test_less_is_better_where_the_metric_is_an_error(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, lambda settings: 2 - bowl(settings))
    told = small(**{"model.name": "ranker", "train.metric": '"log_loss|50-sampled"'})
    found = tune(dataset, told, tmp_path / "tuned", trials=25, search=BOWL)
    values = [one.value for one in found.trials if one.value is not None]
    assert found.lower_is_better
    assert found.best.value == min(values)
    assert found.best.value < 1.1


def test_a_trial_is_a_training_and_its_figure_that_of_validation(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = Split.cases
    monkeypatch.setattr(Split, "cases", lambda *words: None if "test" in words else cases(*words))  # nobody looks
    found = tune(dataset, small(), tmp_path / "tuned", trials=3, search=["train.learning_rate=1e-4..0.1,log"])
    monkeypatch.undo()
    assert found.best.value == max(one.value for one in found.trials if one.value is not None)
    assert [path.name for path in (tmp_path / "tuned" / "trials").iterdir()] == [found.run.name]
    measured = pipeline.evaluate(found.run, on="validation", data=dataset).result.metrics["ndcg@10"]["value"]
    assert found.best.value == pytest.approx(measured, abs=1e-6)
    again = pipeline.train(dataset, Settings.read(tmp_path / "tuned" / "best.toml"), tmp_path / "again")
    assert again.manifest["validation"]["ndcg@10"] == found.best.value
    assert again.settings == found.settings
    assert json.loads((tmp_path / "tuned" / "trials.json").read_text()) == found.as_dict()


def test_vectors_reach_every_trial(dataset: Dataset, tmp_path: Path) -> None:
    told = small(**{"model.name": "matrix-factorization", "model.transfer": "fuse"})
    circle = 2 * np.pi * np.arange(23) / 23
    items = {f"i{at}": [math.cos(angle), math.sin(angle)] for at, angle in enumerate(circle)}
    users = {f"u{at}": [float(at), 1.0] for at in range(60)}
    search = ["model.softness=0.0,2.0", "model.id_width=2,4"]
    found = tune(dataset, told, tmp_path / "tuned", trials=4, search=search, vectors=items, user_vectors=users)
    assert [one.reason for one in found.trials] == [None] * 4
    kept = pipeline.Run.open(found.run).manifest
    assert kept["vectors"]["items"] == [23, 23]
    assert kept["user_vectors"]["users"] == [60, 60]
    assert "--vectors beside it; --user-vectors beside it" in (tmp_path / "tuned" / "best.toml").read_text()
    with pytest.raises(StorageError, match="search with other user_vectors"):
        tune(dataset, told, tmp_path / "tuned", trials=4, search=search, vectors=items)


def test_settings_that_fail_are_kept_with_their_reason(dataset: Dataset, tmp_path: Path) -> None:
    told = small(**{"model.name": "self-attention", "model.blocks": 1})
    search = ["model.heads=2,3", "train.learning_rate=0.01,1e30"]
    found = tune(dataset, told, tmp_path / "tuned", trials=50, search=search)
    reasons = {tuple(one.settings.values()): one.reason for one in found.trials}
    assert len(reasons) == len(found.trials) == 4  # all there are; nothing is trained twice
    assert "model.heads=3 must divide model.width=8" in str(reasons["3", "0.01"])
    assert "diverged" in str(reasons["2", "1e+30"])
    assert reasons["2", "0.01"] is None
    with pytest.raises(SettingsError, match=r"none of 1 trials.*must divide"):
        tune(dataset, told.changed(["model.heads=3"]), tmp_path / "none", trials=1, search=["model.heads=3,5"])


def test_nothing_is_trained_twice(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = planted(monkeypatch, bowl)
    found = tune(
        dataset, small(), tmp_path / "tuned", trials=50, search=["model.width=8,16,32,64", "model.blocks=1..2"]
    )
    assert len(found.trials) == len(train.asked) == 8
    assert len({(each.model.width, each.model.blocks) for each, _, _ in train.asked}) == 8
    assert found.repeats > 0
    assert tune(dataset, small(), tmp_path / "tuned", trials=50, search=found.search).repeats == found.repeats


def test_a_figure_that_is_none_is_a_failure(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda settings: math.nan if settings.model.width > 16 else 0.5)
    found = tune(dataset, small(), tmp_path / "tuned", trials=4, search=["model.width=8,16,32,64"])
    assert sorted(one.settings["model.width"] for one in found.trials if one.reason) == ["32", "64"]


# Stopped, and gone on with.


def told_by(found: Tuned) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.as_dict().items() if key != "seconds"} for one in found.trials]


def test_a_search_that_was_stopped_proposes_the_same(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, bowl)
    whole = tune(dataset, small(), tmp_path / "whole", trials=25, search=BOWL)
    for stop_before in (0, 1, 4, 17):
        planted(monkeypatch, bowl, stop_before)
        with pytest.raises(KeyboardInterrupt):
            tune(dataset, small(), tmp_path / str(stop_before), trials=25, search=BOWL)
        train = planted(monkeypatch, bowl)
        parts = tune(dataset, small(), tmp_path / str(stop_before), trials=25, search=BOWL)
        assert told_by(parts) == told_by(whole)
        assert len(train.asked) == 25 - stop_before
        assert [resume for _, _, resume in train.asked] == [True] + [False] * (24 - stop_before)
    train = planted(monkeypatch, bowl)
    assert told_by(tune(dataset, small(), tmp_path / "0", trials=25, search=BOWL)) == told_by(whole)
    assert not train.asked
    tune(dataset, small(), tmp_path / "0", trials=27, search=BOWL)
    assert len(train.asked) == 2


def test_all_ways_of_transfer_can_be_tried(dataset: Dataset, tmp_path: Path) -> None:
    told = Settings().changed(["model.name=mean", "model.width=8", "data.split=leave-one-out", "train.threads=1"])
    told = told.changed(["train.epochs=1", "evaluate.bootstrap=0"])
    rng = np.random.default_rng(0)
    vectors = {dataset.items.id(at + 1): rng.normal(size=8).tolist() for at in range(dataset.n_items)}
    told = told.changed(["model.id_dropout=0.3", "train.freeze=0.1"])  # each is for one way of them
    search = ["model.transfer=init,frozen,fuse,gate", "train.vectors_rate=0.5,1.0"]
    found = tune(dataset, told, tmp_path / "tuned", trials=8, search=search, vectors=vectors)
    assert [one.reason for one in found.trials] == [None] * 8
    mode = found.settings.model.transfer
    assert ("id_dropout" in found.settings.model.model_fields_set) == (mode == "gate")
    assert ("freeze" in found.settings.train.model_fields_set) == (mode == "init")
    with pytest.raises(SettingsError, match=r"train\.freeze=0\.1 is for model\.transfer=init, and gate"):
        tune(dataset, told.changed(["model.transfer=gate"]), tmp_path / "no", trials=1, vectors=vectors)


def test_passes_follow_from_the_data_wherever_what_was_found_trains(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes that suit this log would be far too few on a tenth of it: nobody tells them, unless they are searched."""
    planted(monkeypatch, bowl)
    told = Settings().changed(["data.split=leave-one-out", "train.threads=1"])
    found = tune(dataset, told, tmp_path / "open", trials=2, search=["model.width=8,16"]).settings
    assert (found.train.epochs, found.train.table_rate) == (0, 10.0)
    assert found.model.dropout > 0
    searched = tune(dataset, told, tmp_path / "searched", trials=3, search=["train.epochs=100,200,800"])
    assert {one.settings["train.epochs"] for one in searched.trials} == {"100", "200", "800"}
    assert tune(dataset, small(), tmp_path / "told", trials=2, search=["model.width=8,16"]).settings.train.epochs == 2


def test_a_training_in_the_midst_goes_on(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, search = small(**{"train.epochs": 4}), ["train.learning_rate=1e-3..0.1,log"]
    whole = tune(dataset, told, tmp_path / "whole", trials=3, search=search)
    monkeypatch.setattr(loop, "_EPOCH_SECONDS", -1.0)
    epoch, begun = loop._Training._epoch, []

    def counted(self: Any) -> None:
        begun.append(self.state.epoch)
        if len(begun) == 7:
            raise KeyboardInterrupt
        epoch(self)

    monkeypatch.setattr(loop._Training, "_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        tune(dataset, told, tmp_path / "parts", trials=3, search=search)
    parts = tune(dataset, told, tmp_path / "parts", trials=3, search=search)
    assert begun == [0, 1, 2, 3, 0, 1, 2, 2, 3, 0, 1, 2, 3]
    assert told_by(parts) == told_by(whole)


def test_a_killed_process_leaves_nothing_in_the_way(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, bowl)
    first = tune(dataset, small(), tmp_path / "tuned", trials=3, search=BOWL)
    with (tmp_path / "tuned" / "optuna.journal").open("a") as journal:
        journal.write('{"op_code":4,"worker_id":"killed while it wr')
    (tmp_path / "tuned" / "optuna.journal.lock").touch()
    after = tune(dataset, small(), tmp_path / "tuned", trials=5, search=BOWL)
    assert told_by(after)[:3] == told_by(first)
    assert len(after.trials) == 5
    (tmp_path / "tuned" / "optuna.journal").write_text("what is this\n\n")
    with pytest.raises(StorageError, match=r"optuna\.journal is damaged"):
        tune(dataset, small(), tmp_path / "tuned", trials=5, search=BOWL)


def test_a_folder_holds_one_search(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, bowl)
    tune(dataset, small(), tmp_path / "tuned", trials=1, search=BOWL)
    with pytest.raises(StorageError, match="search with other search"):
        tune(dataset, small(), tmp_path / "tuned", trials=2, search=BOWL[:2])
    with pytest.raises(StorageError, match="search with other settings"):
        tune(dataset, small(**{"train.epochs": 3}), tmp_path / "tuned", trials=2, search=BOWL)
    with locked(tmp_path / "tuned"), pytest.raises(StorageError, match="in use"):
        tune(dataset, small(), tmp_path / "tuned", trials=2, search=BOWL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        tune(dataset, small(), tmp_path / "mine", trials=2, search=BOWL)


# What a person sees.


@pytest.mark.parametrize(
    ("changes", "trials", "kind", "words"),
    [
        ({"model.name": "co-visit"}, 3, InputError, "nothing to tune"),
        ({"model.name": "self-atention"}, 3, SettingsError, "did you mean"),
        ({"data.split": "none"}, 3, ProtocolError, "holds nothing back"),
        ({"train.metric": '"auc"'}, 3, SettingsError, "is not measured"),
        ({}, 0, InputError, "1 or more"),
    ],
)
def test_mistakes_end_before_the_first_trial(
    dataset: Dataset, tmp_path: Path, changes: dict[str, Any], trials: int, kind: type[RegardError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        tune(dataset, small(**changes), tmp_path / "tuned", trials=trials)
    assert not (tmp_path / "tuned").exists()


def test_without_optuna_it_says_what_to_install(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "regard.tune.study", raising=False)
    monkeypatch.delattr("regard.tune.study", raising=False)
    with pytest.raises(InputError, match=r"pip install 'regard\[tune\]'"):
        tune(dataset, small(), tmp_path / "tuned")


def test_what_is_written_as_toml_is_read_as_it_was(tmp_path: Path) -> None:
    told = ["model.hidden=[32,7]", "data.target_behaviours=['say \"hi\"', 'größe']", "train.learning_rate=1e-05"]
    settings = Settings().changed([*told, "model.behaviours=false", "evaluate.k=5,10"])
    (tmp_path / "best.toml").write_text(as_toml(settings), encoding="utf-8")
    assert Settings.read(tmp_path / "best.toml").model_dump(exclude_unset=True) == settings.model_dump(
        exclude_unset=True
    )


def test_the_table_of_many_trials_fits_and_drops_nothing_silently(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def judge(settings: Settings) -> float:
        if settings.model.heads == 4:
            raise DivergenceError("training diverged: because")
        return bowl(settings)

    planted(monkeypatch, judge)
    told = Settings().changed(["model.transfer=init", "data.split=leave-one-out"])
    vectors = pipeline.knowledge(dataset, {dataset.items.id(at + 1): [at, 1.0] for at in range(dataset.n_items)})
    found = tune(dataset, told, tmp_path / "tuned", trials=40, vectors=vectors)
    assert capfd.readouterr() == ("", "")  # nor does Optuna say anything
    assert len(found.best.settings) == 11
    with (tmp_path / "table.txt").open("w") as file:
        tuning(found, Console(file=file, width=100), as_json=False)
    printed = (tmp_path / "table.txt").read_text()
    failed = sum(one.reason is not None for one in found.trials)
    assert max(map(len, printed.splitlines()[:30])) <= 100
    assert f"{20 - failed} more in" in printed
    assert printed.count("failed: training diverged: because") == failed > 0
    assert f"{found.best.value:.4f}" in printed


def test_the_command_goes_on_and_prints_json(tmp_path: Path) -> None:
    pa.csv.write_csv(events(), tmp_path / "log.csv")
    shop, folder = str(tmp_path / "shop"), str(tmp_path / "tuned")
    assert CliRunner().invoke(app, ["prepare", str(tmp_path / "log.csv"), "--out", shop]).exit_code == 0
    (tmp_path / "small.toml").write_text("[model]\nwidth = 8\n[train]\nepochs = 1\nthreads = 1\n")
    words = ["tune", shop, "--model", "mean", "--config", str(tmp_path / "small.toml"), "--out", folder, "--trials"]
    search = ["--search", "train.learning_rate=1e-3..0.1,log"]
    shown = CliRunner().invoke(app, [*words, "2", *search])
    assert shown.exit_code == 0, shown.output
    assert "trial 2/2" in shown.stderr
    assert "best.toml" in shown.stdout
    done = CliRunner().invoke(app, [*words, "3", *search, "--resume", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert [one["number"] for one in told["trials"]] == [1, 2, 3]
    assert told["settings"]["model"] == {"name": "mean", "width": 8, "dropout": 0.5, "covisit_weight": 3.0}
    assert told["best"]["settings"]["train.learning_rate"] == told["settings"]["train"]["learning_rate"]
    with pytest.raises(InputError, match="expected --out FOLDER"):
        CliRunner().invoke(app, ["tune", shop], catch_exceptions=False)
