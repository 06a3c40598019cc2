"""Label rules: what `auto` chooses, and one clear line where labels do not fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from regard.data.labels import resolve_labels
from regard.errors import SettingsError

NAN = float("nan")


def test_auto_labels_and_what_does_not_fit():
    def log(*values):
        return SimpleNamespace(label=np.array(values, np.float32) if values else None)

    assert str(resolve_labels(log(), "auto")) == "sampled"
    assert str(resolve_labels(log(1, 1, NAN), "auto")) == "sampled"  # nobody ever says no
    assert str(resolve_labels(log(NAN), "auto")) == "sampled"
    assert str(resolve_labels(log(1, 0, NAN), "auto")) == "given"
    assert str(resolve_labels(log(1, 5), ">=4")) == ">=4"
    assert str(resolve_labels(log(1, 5), "value")) == "value"
    assert str(resolve_labels(log(1, 5), "sampled")) == "sampled"
    for labels, rule, words in (
        ((1, 3, 5), "auto", r"expected labels 0 and 1; this log has 1, 3, 5; .* data.labels='>=5'.*value"),
        ((0, 2), "given", "expected labels 0 and 1"),
        ((), "value", "needs labels, and this log has none"),
        ((), ">=3", "needs labels"),
        ((1,), ">=x", "expected >=X with a number"),
        ((1,), ">=nan", "expected >=X with a number"),
        ((1,), "positive", "expected sampled"),
    ):
        with pytest.raises(SettingsError, match=words):
            resolve_labels(log(*labels), rule)
