"""`tune`: propose, train, look at validation, remember; until as many settings were tried as asked for."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.text import Text

from regard import pipeline
from regard.config import Settings
from regard.data.knowledge import Knowledge
from regard.data.store import Dataset
from regard.errors import DivergenceError, InputError, ProtocolError, SettingsError, StorageError
from regard.manifest import LOCK, check_free, locked, new_file, read_json, write_json, writing
from regard.model.baseline import BASELINES
from regard.model.models import check_name
from regard.training.protocol import Protocol, with_metric
from regard.training.sizes import by_size
from regard.training.transfer import check_read, of_its_way
from regard.tune.found import BEST, TABLE, TRIALS, Tuned, as_toml, lower_is_better, place
from regard.tune.space import WAY, Dimension, size_of, space_of

if TYPE_CHECKING:
    from regard.tune.study import Study, Trial

KIND = "search"
_TOLD = "search.json"
_OWN = (_TOLD, BEST, TABLE, TRIALS, LOCK, "optuna.journal*", ".*.part")
_WHOSE = {"vectors": "items", "user_vectors": "users"}
_REPEATS = 100  # proposals in a row that are nothing new
_REFUSED = (DivergenceError, SettingsError, ProtocolError, torch.OutOfMemoryError)
"""What settings can be to blame for; everything else ends the search."""


def tune(
    dataset: Dataset | str | Path,
    settings: Settings | None = None,
    out: str | Path = "tuned",
    *,
    trials: int = 20,
    search: Sequence[str] = (),
    vectors: Any = None,
    user_vectors: Any = None,
    console: Console | None = None,
) -> Tuned:
    """Search for settings that are best on validation; test is never looked at.

    A search that was stopped goes on when it is called again with the same arguments, in the midst of a training too;
    with more `trials` a finished one goes on.

    Args:
        dataset: a dataset or its folder.
        settings: whatever was set there is fixed, unless `search` names it. The first trial has these settings as they
            are, where they lie in the space.
        out: folder of the search: `best.toml`, `trials.json`, Optuna's journal, and the run of the best trial.
        trials: how many different settings to try.
        search: what to search, texts such as `train.learning_rate=1e-4..1e-2,log` or `model.width=64,128`; none = what
            is usual for this kind of model.
        vectors: pretrained vectors of items, as `pipeline.train` takes them; they are read once.
        user_vectors: the same for users.
        console: where progress is shown; None = quiet.

    Raises:
        InputError: a baseline, which has nothing to tune; or Optuna is missing.
        SettingsError: what is searched cannot be, or no trial could be trained.
        ProtocolError: nothing is held back to look at.
        StorageError: `out` holds something else, or another search.
    """
    settings = settings or Settings()
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    settings = _checked(dataset, settings, trials)
    given = {name: one for name, one in (("vectors", vectors), ("user_vectors", user_vectors)) if one is not None}
    space = space_of(settings, search, vectors=bool(given))
    check_read(of_its_way(settings) if WAY in space else settings, told=bool(given))
    settings = _begun(dataset, settings, space, vectors="vectors" in given)
    studies = _optuna()
    out = Path(out)
    check_free(out, KIND, _OWN)
    known = {name: _known(dataset, one, _WHOSE[name], settings) for name, one in given.items()}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out), studies.quiet():
        _begin(out, _identity(dataset, settings, space, known))
        study = studies.Study(out, space, rising=not lower_is_better(settings.train.metric), seed=settings.train.seed)
        searching = _Search(dataset, settings, out, study, known, console)
        searching.run(trials)
        return searching.found()


def _begun(dataset: Dataset, settings: Settings, space: Mapping[str, Dimension], *, vectors: bool) -> Settings:
    """Where the search begins: what nobody told, by size. Passes stay open, as what is found may train on less data.

    All of it stays open where ways of transfer are searched, for each has rates of its own.
    """
    if WAY in space:
        return settings
    sized = by_size(Protocol.of(dataset, settings), vectors=vectors)[0]
    return sized if "train.epochs" in space else sized.changed([f"train.epochs={settings.train.epochs}"])


def _known(dataset: Dataset, vectors: Any, whose: str, settings: Settings) -> Knowledge:
    if isinstance(vectors, Knowledge):
        return vectors
    return pipeline.knowledge(dataset, vectors, whose=whose, weights=settings.model.word_weights)


def _checked(dataset: Dataset, settings: Settings, trials: int) -> Settings:
    """Refuse at once what no trial could mend; return the settings with the name of the figure that decides."""
    check_name(settings.model.name)
    if settings.model.name in BASELINES:
        raise InputError(
            f"{settings.model.name} has nothing to tune: `regard train` itself chooses its windows and decays on "
            "validation; expected a model that learns"
        )
    if trials < 1:
        raise InputError(f"--trials expects a number of 1 or more; got {trials}")
    settings = with_metric(settings, dataset)
    if Protocol.of(dataset, settings).split.rule == "none":
        raise ProtocolError(
            "regard tune chooses on validation, and split none holds nothing back; name another --split"
        )
    return settings


def _optuna() -> Any:
    try:
        from regard.tune import study
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "regard":
            raise
        raise InputError(f"regard tune needs Optuna ({error}): pip install 'regard[tune]'") from None
    return study


class _Search:
    """A search in progress."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        out: Path,
        study: Study,
        known: Mapping[str, Knowledge],
        console: Console | None,
    ) -> None:
        self.dataset, self.settings, self.out = dataset, settings, out
        self.study, self.known, self.console = study, known, console

    def run(self, trials: int) -> None:
        """Try settings until there are so many trials, or nothing new to try."""
        start = {name: one.start(self.settings) for name, one in self.study.space.items()}
        first = None if None in start.values() else start
        self._tell_space(trials)
        repeats, every = 0, size_of(self.study.space.values())
        while len(self.study.trials) < trials:
            if len(self.study.trials) >= every or repeats == _REPEATS:
                self._say(f"nothing new to try after {len(self.study.trials)} trials: the search is over")
                break
            asked, settings = self.study.ask(first)
            before = next((one for one in self.study.trials if one.settings == settings), None)
            repeats = repeats + 1 if before else 0
            if before:
                self.study.repeat(asked, before)
                continue
            value, reason, seconds = self._trained(settings, f"trial {len(self.study.trials) + 1}/{trials}")
            done = self.study.tell(asked, value=value, reason=reason, seconds=seconds)
            self._tidy()
            self._tell(done, trials)
        self._tidy()

    def found(self) -> Tuned:
        """What is best so far, written down."""
        best = self.study.best()
        if best is None:
            failed = self.study.trials[0].reason
            raise SettingsError(f"none of {len(self.study.trials)} trials could be trained; the first one: {failed}")
        found = Tuned(
            self.out,
            self.settings.train.metric,
            self._settings(best.settings),
            best,
            tuple(self.study.trials),
            tuple(one.text for one in self.study.space.values()),
            self.study.repeats,
        )
        head = (
            f"# the best of {len(found.trials)} trials of `regard tune`: {found.metric} {best.value:.4f} on validation"
            f"{_beside(self.known)}\n"
        )
        with new_file(self.out / BEST) as aside:
            aside.write_text(head + as_toml(found.settings), encoding="utf-8")
        write_json(self.out / TABLE, found.as_dict())
        return found

    def _settings(self, chosen: Mapping[str, str]) -> Settings:
        """The settings of a trial; where ways of transfer are searched, without what only others read."""
        settings = self.settings.changed([f"{name}={value}" for name, value in chosen.items()])
        return of_its_way(settings) if WAY in chosen else settings

    def _trained(self, chosen: Mapping[str, str], title: str) -> tuple[float | None, str | None, float]:
        """Train with these settings: the figure of validation or the reason why there is none, and seconds."""
        folder, begun = place(self.out, len(self.study.trials) + 1), time.monotonic()
        resume = self.study.began(dict(chosen))
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            settings = self._settings(chosen)
            with self.console.status(Text(f"{title}: {_said(chosen)}")) if self.console else contextlib.nullcontext():
                run = pipeline.train(
                    self.dataset,
                    settings,
                    folder,
                    resume=resume,
                    vectors=self.known.get("vectors"),
                    user_vectors=self.known.get("user_vectors"),
                )
        except _REFUSED as error:
            return None, str(error).splitlines()[0], time.monotonic() - begun
        metric = self.settings.train.metric
        value = run.manifest["validation"].get(metric)
        seconds = sum(row["seconds"] for row in run.manifest["epochs"])
        if value is None or not math.isfinite(value):
            return None, f"validation gave no {metric}", seconds
        return float(value), None, seconds

    def _tidy(self) -> None:
        """Keep the run of the best trial, and what is not finished."""
        best = self.study.best()
        for one in self.study.trials:
            if best is None or one.number != best.number:
                shutil.rmtree(place(self.out, one.number), ignore_errors=True)

    def _tell_space(self, trials: int) -> None:
        done = len(self.study.trials)
        self._say(
            f"searching for the {'lowest' if not self.study.rising else 'highest'} validation "
            f"{self.settings.train.metric} in {trials} trials" + (f", {done} of them done" if done else "")
        )
        for one in self.study.space.values():
            self._say(f"  {one.text}")

    def _tell(self, done: Trial, trials: int) -> None:
        best = self.study.best()
        mark = "*" if best is not None and best.number == done.number else " "
        figure = f"{done.value:.4f} {mark}" if done.value is not None else f"failed: {done.reason}"
        self._say(f"trial {done.number}/{trials}  {figure}  {done.seconds:.1f} s  {_said(done.settings)}")

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _identity(
    dataset: Dataset, settings: Settings, space: Mapping[str, Dimension], known: Mapping[str, Knowledge]
) -> dict[str, Any]:
    """What makes a search this one and no other; JSON-able."""
    return {
        "dataset": dataset.fingerprint,
        **{name: known[name].fingerprint if name in known else None for name in _WHOSE},
        "settings": settings.model_dump(mode="json"),
        "search": [one.text for one in space.values()],
    }


def _begin(out: Path, told: Mapping[str, Any]) -> None:
    """See that a search that goes on is the same one."""
    note = out / _TOLD
    if note.exists():
        before = read_json(note)
        if differing := sorted(key for key in told if before.get(key) != told[key]):
            raise StorageError(
                f"{out} belongs to a search with other {', '.join(differing)}; call it with the same ones to go on, "
                "or choose another folder"
            )
        return
    write_json(note, told)


def _said(chosen: Mapping[str, str]) -> str:
    return ", ".join(f"{name.partition('.')[2]} {value}" for name, value in chosen.items())


def _beside(known: Mapping[str, Knowledge]) -> str:
    return "".join(f"; --{name.replace('_', '-')} beside it" for name in known)
