"""What a model must know of a dataset to be built: how many there are of each thing it keeps vectors for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from regard.data.attributes import attribute_codes
from regard.data.store import Dataset
from regard.errors import SettingsError, nearest


@dataclass(frozen=True)
class Shape:
    """Counts without the unknown one: items, behaviour types, values of each item attribute and context column."""

    items: int
    behaviours: int = 0
    attributes: Mapping[str, int] = field(default_factory=dict)
    context: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, attributes: Sequence[str] = (), context: Sequence[str] = ()) -> Shape:
        """Count in a dataset; only the named attributes and context columns, or `SettingsError` where there is none."""
        codes = attribute_codes(dataset, attributes)
        for name in context:
            if name not in dataset.context:
                known = list(dataset.context)
                listed = f"known: {', '.join(known)}" if known else "this dataset has none (regard prepare --context)"
                raise SettingsError(
                    f"model.context: there is no context column {name!r}{nearest(name, known)}; {listed}"
                )
        return cls(
            dataset.n_items,
            len(dataset.behaviours),
            {name: int(values.max()) for name, values in codes.items()},
            {name: len(dataset.context_values[name]) for name in context},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what `Shape(**body)` takes back."""
        return asdict(self)
