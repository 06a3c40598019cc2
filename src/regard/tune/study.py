"""Optuna proposes settings and remembers how they did, in a journal that a killed process leaves whole enough.

Proposals depend on the seed and on what was finished before, and on nothing else: a search that was stopped and goes on
proposes what one that was never stopped would have.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from regard.errors import StorageError
from regard.tune.space import Dimension

JOURNAL = "optuna.journal"
_LOCK = f"{JOURNAL}.lock"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried: `value` on validation, or the `reason` why there is none; seconds of learning."""

    number: int
    settings: dict[str, str]
    value: float | None
    reason: str | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON; settings are values again."""
        return asdict(self) | {"settings": {name: json.loads(text) for name, text in self.settings.items()}}


class Study:
    """Optuna's study of a search; `folder` is held by one process."""

    def __init__(self, folder: Path, space: Mapping[str, Dimension], *, rising: bool, seed: int) -> None:
        self.space, self.rising, self.seed = space, rising, seed
        self.repeats = 0
        self.trials: list[Trial] = []
        self._stopped: dict[str, str] | None = None
        _mend(folder / JOURNAL)
        (folder / _LOCK).unlink(missing_ok=True)  # of a process that was killed: the folder's own lock is ours now
        file = str(folder / JOURNAL)
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file))),
                study_name="regard",
                direction="maximize" if rising else "minimize",
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise StorageError(f"{file} is damaged ({error}); choose another folder for the search") from None
        for one in self._study.get_trials(deepcopy=False):
            if one.state == TrialState.RUNNING:
                self._study.tell(one.number, state=TrialState.FAIL)
        for one in self._study.get_trials(deepcopy=False):
            self._remember(one)

    def ask(self, start: Mapping[str, Any] | None) -> tuple[optuna.Trial, dict[str, str]]:
        """Propose settings as texts; `start` is what to propose first of all."""
        if start and not self.trials and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(dict(start))
        place = np.random.SeedSequence((self.seed, len(self.trials) + self.repeats)).generate_state(1)
        self._study.sampler = optuna.samplers.TPESampler(seed=int(place[0]))
        asked = self._study.ask({name: _distribution(one) for name, one in self.space.items()})
        settings = {name: one.value(asked.params[name]) for name, one in self.space.items()}
        asked.set_user_attr("settings", settings)
        return asked, settings

    def began(self, settings: Mapping[str, str]) -> bool:
        """Whether the trial that was stopped had these settings, so that its checkpoint can be used."""
        return self._stopped == settings

    def tell(self, asked: optuna.Trial, *, value: float | None, reason: str | None, seconds: float) -> Trial:
        """Keep how a trial went: a value, or the reason why there is none."""
        asked.set_user_attr("seconds", seconds)
        return self._close(asked, value, reason)

    def repeat(self, asked: optuna.Trial, before: Trial) -> None:
        """Settings that were tried already went as they did then."""
        asked.set_user_attr("same_as", before.number)
        self._close(asked, before.value, before.reason)

    def best(self) -> Trial | None:
        """The best trial, the first one of equals."""
        done = [one for one in self.trials if one.value is not None]
        return max(done, key=lambda one: (one.value or 0.0) * (1 if self.rising else -1), default=None)

    def _close(self, asked: optuna.Trial, value: float | None, reason: str | None) -> Trial:
        if reason is not None:
            asked.set_user_attr("reason", reason)
        done = self._study.tell(asked, value, state=TrialState.COMPLETE if reason is None else TrialState.FAIL)
        self._remember(done)
        return self.trials[-1]

    def _remember(self, one: optuna.trial.FrozenTrial) -> None:
        """Trials that failed without a reason were stopped, and are none."""
        told = one.user_attrs
        if one.state == TrialState.COMPLETE or "reason" in told:
            self._stopped = None
            if "same_as" in told:
                self.repeats += 1
                return
            value = one.value if one.state == TrialState.COMPLETE else None
            number, seconds = len(self.trials) + 1, told.get("seconds", 0.0)
            self.trials.append(Trial(number, told["settings"], value, told.get("reason"), seconds))
        elif one.state == TrialState.FAIL:
            self._stopped = told.get("settings")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling on standard error what we tell ourselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(one: Dimension) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _mend(file: Path) -> None:
    """Cut off the line that a killed process left half-written."""
    if file.exists():
        whole = file.read_bytes().rfind(b"\n") + 1
        if whole < file.stat().st_size:
            os.truncate(file, whole)
