"""Seeds, threads and determinism for every test, in one place; and where real data lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("regard", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("regard")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.set_num_threads(2)  # a run of an earlier test may have asked for another number
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under comparison may use the global generator


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return the path of a real data file, or skip: such data is on development machines only."""
    root = Path(os.environ.get("REGARD_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            missing(f"real data {name} (set REGARD_DATA)", required="data")
        return path

    return find


def missing(what: str, required: str) -> None:
    """Skip a test whose tool is missing; fail instead where `REGARD_REQUIRE` (words, comma-separated) names it."""
    if required in os.environ.get("REGARD_REQUIRE", "").split(","):
        pytest.fail(f"{what} is missing, and REGARD_REQUIRE asks for {required!r}")
    pytest.skip(f"{what} is not here")
