"""What a search has found, and the files that keep it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.config import Settings
from regard.evaluate.compare import ERRORS

if TYPE_CHECKING:
    from regard.tune.study import Trial

BEST, TABLE, TRIALS = "best.toml", "trials.json", "trials"


@dataclass(frozen=True)
class Tuned:
    """What a search has found; `path` holds `best.toml`, `trials.json` and the run of the best trial."""

    path: Path
    metric: str
    settings: Settings
    best: Trial
    trials: tuple[Trial, ...]
    search: tuple[str, ...]
    repeats: int

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return lower_is_better(self.metric)

    @property
    def run(self) -> Path:
        """The run of the best trial; those of all others are removed."""
        return place(self.path, self.best.number)

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "path": str(self.path),
            "run": str(self.run),
            "metric": self.metric,
            "on": "validation",
            "lower_is_better": self.lower_is_better,
            "best": self.best.as_dict(),
            "settings": self.settings.model_dump(mode="json", exclude_unset=True),
            "search": list(self.search),
            "trials": [one.as_dict() for one in self.trials],
            "repeats": self.repeats,
        }


def as_toml(settings: Settings) -> str:
    """What was set, as a file that `--config` reads."""
    lines = []
    for section, values in settings.model_dump(mode="json", exclude_unset=True).items():
        if values:
            lines += [
                f"[{section}]",
                *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()),
                "",
            ]
    return "\n".join(lines)


def place(out: Path, number: int) -> Path:
    """Where the run of a trial lies."""
    return out / TRIALS / f"{number:04d}"


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error."""
    return metric.partition("|")[0] in ERRORS
