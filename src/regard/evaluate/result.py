"""What an evaluation leaves: numbers with intervals, the protocol beside them, and the values of every user.

As files: `NAME.json` for readers and scripts, `NAME.npz` with the values by user, so that two runs can be paired later.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regard.errors import StorageError
from regard.manifest import new_file, write_json

Number = dict[str, float | None]
"""`value`, and the ends `low` and `high` of its interval; None where there is none."""


@dataclass(frozen=True)
class Result:
    """Metrics by key (`ndcg@10`, `ndcg@10|trained`), strata by name, protocol, timing, and per-user values.

    `users` (U,) are user indexes of the dataset, ascending; `per_user` holds (U,) values by metric key, nan where a
    user has none. A stratum is `{"users": .., "cases": .., "targets": .., "metrics": {key: Number}}`.
    """

    metrics: dict[str, Number]
    strata: dict[str, dict[str, Any]]
    protocol: dict[str, Any]
    timing: dict[str, Any]
    users: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    per_user: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def value(self, key: str) -> float | None:
        """Return the point value of a metric, None where it has none."""
        return self.metrics[key]["value"]

    def to_json(self) -> dict[str, Any]:
        """Return all but the per-user values, ready for `json`."""
        return {"metrics": self.metrics, "strata": self.strata, "protocol": self.protocol, "timing": self.timing}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Result:
        """Return the result that `to_json` wrote, without per-user values."""
        return cls(body["metrics"], body["strata"], body["protocol"], body["timing"])

    def save(self, folder: str | Path, name: str) -> None:
        """Write `name.json` and `name.npz` into `folder`, each whole or not at all."""
        folder = Path(folder)
        keys = list(self.per_user)
        values = np.stack([self.per_user[key] for key in keys], axis=1) if keys else np.zeros((len(self.users), 0))
        with new_file(folder / f"{name}.npz") as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, users=self.users, keys=np.array(keys, dtype=np.str_), values=np.float32(values))
        write_json(folder / f"{name}.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path, name: str) -> Result:
        """Read what `save` wrote; `StorageError` where a file is missing or damaged."""
        path = Path(folder) / f"{name}.json"
        try:
            plain = cls.from_json(json.loads(path.read_text(encoding="utf-8")))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                users, keys, values = (arrays[part] for part in ("users", "keys", "values"))
            per_user = {str(key): values[:, at] for at, key in enumerate(keys)}
        except FileNotFoundError as error:
            raise StorageError(f"no evaluation at {error.filename}; `regard evaluate` makes one") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StorageError(f"evaluation {path} is damaged ({error}); run `regard evaluate` again") from None
        return cls(plain.metrics, plain.strata, plain.protocol, plain.timing, users, per_user)


def as_json(result: Result, baselines: Mapping[str, Result]) -> dict[str, Any]:
    """Return the body of `regard evaluate --json`: a result, and the metrics of the baselines beside it."""
    body = result.to_json()
    beside = {name: baseline.metrics for name, baseline in baselines.items()}
    return {"metrics": body.pop("metrics"), "baselines": beside, **body}
