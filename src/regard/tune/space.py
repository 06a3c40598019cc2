"""What is searched: settings with a range or a list of values, as a person gives them or as each kind of model needs.

Texts are `section.key=low..high`, `section.key=low..high,log` and `section.key=a,b,c`.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Self

from regard.config import Settings, assigned
from regard.errors import SettingsError
from regard.model.encoder import ENCODERS
from regard.model.transfer import mode_of
from regard.training.transfer import OF_VECTORS, OF_WAYS

FORM = "section.key=low..high, section.key=low..high,log or section.key=a,b,c"

WAY = "model.transfer"
"""Where it is searched, settings of all ways may be."""

_JUDGES = ("train.metric", "train.seed", "data.split", "data.target_behaviours", "data.labels")
"""Settings that change the judge and not the model; all of section `evaluate` besides."""

_ALL = (
    "train.learning_rate=3e-4..3e-2,log",
    "train.weight_decay=0.0,0.01,0.1,0.5",
    "train.batch_tokens=1024,2048,4096,8192",
    "model.dropout=0..0.5",
)
_WIDTH, _NARROW = "model.width=64,128,256", {"matrix-factorization": "model.width=16,32,64,128"}
_BLOCKS, _HEADS = "model.blocks=1,2,3", "model.heads=1,2,4"
_SHAPE = {
    "self-attention": (_BLOCKS, _HEADS),
    "hstu": (_BLOCKS, _HEADS),
    "seq2seq": (_BLOCKS, _HEADS),
    "transformer": (_BLOCKS, _HEADS),
    "gru": (_BLOCKS,),
    "lstm": (_BLOCKS,),
    "additive": (_HEADS,),
    "multi-head": (_HEADS,),
    "dual": (_HEADS,),
}
"""What models, and interests of rankers, read of their own; those that are not here read neither."""
_SOFTNESS = "model.softness=0.0,0.3,1.0,3.0,10.0"
_TRANSFER = {
    "gate": (_SOFTNESS, "model.id_dropout=0..0.5"),
    "frozen": (_SOFTNESS,),
    "fuse": (_SOFTNESS, "model.id_width=0,16,32"),
    "init": (_SOFTNESS, "train.vectors_rate=0.1..10,log", "train.freeze=0.0,0.1,0.3"),
}
"""What each way of pretrained vectors reads of its own."""


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched: in a range (`whole` numbers or not), or among `choices`, texts of TOML values."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what a person wrote.

        Raises:
            SettingsError: it is of another form, there is no such setting or it is none to search, or a value does not
                fit it.
        """
        name, equals, values = (part.strip() for part in text.partition("="))
        section, dot, key = name.partition(".")
        if not (equals and dot and key and values):
            raise SettingsError(f"--search expects {FORM}; got {text!r}")
        if section == "evaluate" or name in _JUDGES:
            raise SettingsError(f"--search {text}: {name} changes what is measured, so figures could not be compared")
        return cls._range(name, values) if ".." in values else cls._list(name, values)

    @classmethod
    def _range(cls, name: str, values: str) -> Self:
        bounds, comma, scale = (part.strip() for part in values.partition(","))
        where = f"--search {name}={values}"
        if comma and scale != "log":
            raise SettingsError(f"{where}: after a range only ',log' may follow; got {scale!r}")
        kind = _kind(name, where)
        if kind not in (int, float):
            raise SettingsError(f"{where}: {name} is no number, so it has no range; list its values: {name}=a,b,c")
        low, high = (_typed(name, end, where) for end in bounds.split("..", 1))
        if not low < high:
            raise SettingsError(f"{where}: expected low..high, the low end first; got {bounds}")
        if comma and low <= 0:
            raise SettingsError(f"{where}: a range on a log scale begins above 0; got {low}")
        return cls(name, low, high, bool(comma), kind is int)

    @classmethod
    def _list(cls, name: str, values: str) -> Self:
        where = f"--search {name}={values}"
        try:
            parts = [_toml(part) for part in tomllib.loads(f"values = [{values}]")["values"]]
        except tomllib.TOMLDecodeError:
            parts = [part.strip() for part in values.split(",")]
        choices = tuple(dict.fromkeys(_toml(_typed(name, part, where)) for part in parts))
        if len(choices) < 2:
            raise SettingsError(f"{where}: expected a range low..high, or at least two values; got {values!r}")
        return cls(name, choices=choices)

    @property
    def text(self) -> str:
        """The same in its shortest form."""
        if self.choices:
            return f"{self.name}={','.join(self.choices)}"
        return f"{self.name}={self.low}..{self.high}{',log' if self.log else ''}"

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.choices) or (self.high - self.low + 1 if self.whole else math.inf)

    def start(self, settings: Settings) -> Any:
        """What a sampler has to propose to get the value of `settings`; None where that lies outside."""
        section, key = self.name.split(".")
        value = getattr(getattr(settings, section), key)
        if self.choices:
            return text if (text := _toml(value)) in self.choices else None
        return value if self.low <= value <= self.high else None

    def value(self, proposed: Any) -> str:
        """The text of a proposed value; four digits of a real number are enough."""
        if self.choices or self.whole:
            return str(proposed)
        return repr(min(max(float(f"{proposed:.4g}"), self.low), self.high))


def space_of(settings: Settings, search: Sequence[str], *, vectors: bool) -> dict[str, Dimension]:
    """What to search, by the names of settings: what was asked for, else what is not fixed of the model's own space.

    Args:
        settings: whatever was set there is fixed, unless `search` names it.
        search: texts as `Dimension.read` takes them.
        vectors: whether item vectors start from pretrained ones.

    Raises:
        SettingsError: a text cannot be read, a setting is named twice, no trial could read it, or nothing is left to
            search.
    """
    told = [Dimension.read(text) for text in search]
    _check_read(settings, {one.name for one in told}, vectors)
    if twice := [each.name for at, each in enumerate(told) if each.name in {one.name for one in told[:at]}]:
        raise SettingsError(f"--search names {twice[0]} twice; put all of it into one range or list")
    if not told:
        told = [one for one in map(Dimension.read, default_space(settings, vectors)) if not _fixed(settings, one.name)]
    if not told:
        raise SettingsError(f"every setting of the usual search is fixed here; say what to search: --search {FORM}")
    return {each.name: each for each in told}


def _check_read(settings: Settings, names: Set[str], vectors: bool) -> None:
    """Refuse to search settings of pretrained vectors where trials would fail over them, or not read them."""
    mode = mode_of(settings.model)
    for section, keys in OF_VECTORS.items():
        for name in names & {f"{section}.{key}" for key in keys}:
            ways = [way for way, its in OF_WAYS.items() if name.partition(".")[2] in its.get(section, ())]
            if name == "model.word_weights":
                raise SettingsError(
                    f"--search {name}: vectors are read once for all trials; search with one, then another"
                )
            if not vectors:
                raise SettingsError(f"--search {name} is of pretrained vectors, and none were given: add --vectors")
            if ways and WAY not in names and mode not in ways:
                raise SettingsError(
                    f"--search {name} is for {WAY}={ways[0]}, and {mode} does not read it: leave it out"
                )


def default_space(settings: Settings, vectors: bool) -> list[str]:
    """The usual search for a kind of model, as texts."""
    model = settings.model
    found = [
        *_ALL,
        _NARROW.get(model.name, _WIDTH),
        *_SHAPE.get(model.interest if model.name == "ranker" else model.name, ()),
    ]
    if model.name in ENCODERS and not (vectors and mode_of(model) in ("init", "frozen")):  # a table, from chance
        found.append("train.table_rate=1.0,3.0,10.0,30.0")
    if vectors:
        found += _TRANSFER[mode_of(model)]
    if vectors and model.name in ENCODERS:
        found.append("model.content_weight=0.0,3.0,6.0,12.0")
    return found


def size_of(space: Iterable[Dimension]) -> float:
    """How many different settings there are to try."""
    return math.prod(each.size for each in space)


def _fixed(settings: Settings, name: str) -> bool:
    section, key = name.split(".")
    return key in getattr(settings, section).model_fields_set


def _kind(name: str, where: str) -> Any:
    """The type of a setting; if there is none of this name, the usual error, which names the nearest one."""
    section, key = name.split(".", 1)
    inside: Any = Settings.model_fields[section].annotation if section in Settings.model_fields else None
    if inside is None or key not in inside.model_fields:
        Settings.of(assigned({}, [f"{name}=0"]), where)
    return inside.model_fields[key].annotation


def _typed(name: str, text: str, where: str) -> Any:
    """The value of a setting that a text stands for."""
    section, key = name.split(".", 1)
    settings = Settings.of(assigned({}, [f"{name}={text.strip()}"]), where)
    return getattr(getattr(settings, section), key)


def _toml(value: Any) -> str:
    """A value as TOML: of what settings are made of, JSON writes the same."""
    return json.dumps(value, ensure_ascii=False)
