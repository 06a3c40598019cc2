"""What a model must know of a dataset to be built: how many there are of each thing it keeps vectors for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from regard.data.attributes import item_attributes
from regard.data.store import Dataset
from regard.errors import SettingsError, nearest


class Form(NamedTuple):
    """An item attribute: `category` of `size` values, `number` (size 1), or `vector` of `size` numbers."""

    kind: str
    size: int


@dataclass(frozen=True)
class Shape:
    """Counts without the unknown one: items, behaviour types, values of each context column, users.

    histories: the separate histories of a ranker, as (behaviour codes, length); empty = one of all events.
    vectors, user_vectors: values of the pretrained vectors that items and users start from; 0 = there are none.
    attributes, user_attributes: the form of each attribute of items, or of users, by name; a plain count stands for a
        category of so many values.
    """

    items: int
    behaviours: int = 0
    attributes: Mapping[str, Form] = field(default_factory=dict)
    context: Mapping[str, int] = field(default_factory=dict)
    users: int = 0
    histories: tuple[tuple[tuple[int, ...], int], ...] = ()
    vectors: int = 0
    user_vectors: int = 0
    user_attributes: Mapping[str, Form] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read forms as JSON gives them back."""
        for one in ("attributes", "user_attributes"):
            object.__setattr__(self, one, _forms(getattr(self, one)))
        histories = tuple((tuple(codes), length) for codes, length in self.histories)
        object.__setattr__(self, "histories", histories)

    @classmethod
    def of(cls, dataset: Dataset, attributes: Sequence[str] = (), context: Sequence[str] = ()) -> Shape:
        """Count in a dataset; only the named attributes and context columns, or `SettingsError` where there is none."""
        found = item_attributes(dataset, attributes)
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
            {name: Form(one.kind, one.size) for name, one in found.items()},
            {name: len(dataset.context_values[name]) for name in context},
            dataset.n_users,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what `Shape(**body)` takes back, also from JSON."""
        return asdict(self)


def _forms(told: Mapping[str, Any]) -> dict[str, Form]:
    return {name: Form("category", one) if isinstance(one, int) else Form(*one) for name, one in told.items()}
