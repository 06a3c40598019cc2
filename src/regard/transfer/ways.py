"""What a transfer report sets side by side: the ways, what each learns from, and the settings of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regard.config import ModelSettings, Settings
from regard.data.knowledge import Knowledge
from regard.data.store import Dataset
from regard.data.words import Weighting
from regard.errors import InputError, ProtocolError, SettingsError, nearest
from regard.model.baseline import BASELINES
from regard.model.models import check_name
from regard.model.transfer import MODES
from regard.training.protocol import Protocol, asks_labels, with_metric
from regard.training.transfer import OF_VECTORS, of_its_way, without

ID_ONLY, SHUFFLED, RANDOM = "id-only", "shuffled vectors", "random vectors"
RAW, POPULAR, UNIFORM = "raw cosine", "popular", "uniform random"
CONTROLS = (SHUFFLED, RANDOM)
REFERENCES = (RAW, POPULAR, UNIFORM)
"""What is not trained."""

SHARES, SEEDS = (0.1, 0.3, 1.0), (1,)
"""What a report walks unless told otherwise: shares of users whose events train, and seeds of the trainings."""

_OF_TABLE = {"train": ("table_rate", "table_optimizer")}
_ALIKE = ("data", "evaluate")  # sections of settings that say what is asked


@dataclass(frozen=True)
class Plan:
    """What is walked: `own` are settings by way, of `id-only` and of every mode; shares ascend."""

    own: Mapping[str, Settings]
    shares: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes of `model.transfer`."""
        return tuple(name for name in self.own if name != ID_ONLY)

    @property
    def word_weights(self) -> Weighting:
        """How words are weighed: the vectors are read once, for all modes."""
        return self.own[self.modes[0]].model.word_weights

    @property
    def metric(self) -> str:
        """The figure that the report is about."""
        return f"ndcg@{self.own[ID_ONLY].evaluate.k[0]}"

    @property
    def trainings(self) -> int:
        """How many models are trained in all."""
        return len(self.shares) * len(self.seeds) * (1 + len(self.modes) + len(CONTROLS))

    def settings(self, way: str, share: float, seed: int, best: str = "") -> Settings:
        """Settings of one training; `best` is the mode that controls use. Intervals are made later, for all at once."""
        mode = best if way in CONTROLS else way
        given = [f"data.keep={share}", f"train.seed={seed}", "evaluate.bootstrap=0"]
        if mode == ID_ONLY:
            return _without_vectors(self.own[ID_ONLY]).changed(given)
        own = _without_table(self.own[mode]) if mode == "frozen" else self.own[mode]
        return of_its_way(own.changed([*given, f"model.transfer={mode}"]))

    def reference(self, share: float) -> Settings:
        """Settings of what is not trained: only what is asked matters."""
        base = self.own[ID_ONLY].model_dump(mode="json", exclude_unset=True)
        kept = {name: base[name] for name in _ALIKE if name in base}
        device = self.own[ID_ONLY].train.device
        given = [f"data.keep={share}", "evaluate.bootstrap=0", f'train.device="{device}"', 'model.name="popular"']
        return Settings.of(kept).changed(given)


def plan(
    dataset: Dataset,
    settings: Settings | Mapping[str, Settings],
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = SEEDS,
    modes: Sequence[str] = MODES,
) -> Plan:
    """Check at once, before vectors are read, what hours of training would otherwise stumble over.

    Args:
        dataset: what is trained on.
        settings: of all ways; or of single ways by name, the entry "" being for all others.
        shares: of users whose events train.
        seeds: of the trainings.
        modes: of `model.transfer`.

    Raises:
        InputError: shares, seeds, modes or names of ways that cannot be.
        SettingsError: settings that do not fit a report, or ask different things of different ways.
        ProtocolError: nothing is held back.
    """
    for name, values in (("--shares", shares), ("--seeds", seeds), ("--modes", modes)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name} expects different values separated by commas; got {_listed(values) or 'none'}")
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise InputError(f"--shares expects shares of users above 0 and up to 1, such as 0.1,0.3,1; got {wrong[0]:g}")
    for mode in modes:
        if mode not in MODES:
            raise InputError(f"--modes: there is no mode {mode!r}{nearest(mode, MODES)}; known: {', '.join(MODES)}")
    names = (ID_ONLY, *modes)
    given = {"": settings} if isinstance(settings, Settings) else settings
    for way in given:
        if way and way not in names:
            raise InputError(f"settings for {way!r}{nearest(way, names)}; the ways of this report: {', '.join(names)}")
    own = {way: _checked(dataset, given.get(way, given.get("", Settings())), way) for way in names}
    for way, one in own.items():
        _alike(own[ID_ONLY], one, way)
    _check_vectors({mode: own[mode].model for mode in modes})
    return Plan(own, tuple(sorted(map(float, shares))), tuple(seeds))


def dealt(way: str, knowledge: Knowledge, seed: int) -> Knowledge | None:
    """The vectors that a way learns from; controls are dealt out anew for every seed."""
    if way == ID_ONLY:
        return None
    return {SHUFFLED: knowledge.shuffled, RANDOM: knowledge.random}[way](seed) if way in CONTROLS else knowledge


def _checked(dataset: Dataset, settings: Settings, way: str) -> Settings:
    name = settings.model.name
    check_name(name)
    if name in BASELINES:
        raise InputError(f"--transfer is for models that learn item vectors; {name} counts")
    if settings.data.keep != 1:
        raise SettingsError("data.keep is what --shares says in a transfer report; leave it out")
    if asks_labels(settings, dataset):
        raise InputError(
            f"a transfer report ranks the whole catalogue, and {name} is measured on labelled candidates here; "
            "expected a model that finds items, such as self-attention, or matrix-factorization of sampled labels"
        )
    settings = with_metric(settings, dataset)
    if way == ID_ONLY and Protocol.of(dataset, settings).split.rule == "none":
        raise ProtocolError("a transfer report measures what was held back, and split none holds nothing back")
    return settings


def _alike(first: Settings, other: Settings, way: str) -> None:
    """Refuse ways that are asked different things: their figures would not compare."""
    pairs = {
        f"{name}.{key}": (value, getattr(getattr(other, name), key))
        for name in _ALIKE
        for key, value in getattr(first, name)
    }
    pairs["train.metric"] = (first.train.metric, other.train.metric)
    if differ := [name for name, (left, right) in pairs.items() if left != right]:
        raise SettingsError(f"the settings of {ID_ONLY} and {way} differ in {', '.join(differ)}: say it once, for all")


def _check_vectors(models: Mapping[str, ModelSettings]) -> None:
    """Refuse modes that cannot learn from vectors, or not from the same: they are read once, for all."""
    weighed = {mode: one.word_weights for mode, one in models.items()}
    if len(set(weighed.values())) > 1:
        listed = ", ".join(f"{kind} for {mode}" for mode, kind in weighed.items())
        raise SettingsError(f"vectors are read once for all modes, and model.word_weights is {listed}: say one for all")
    if hashed := [mode for mode, one in models.items() if one.hash_rows]:
        raise SettingsError(
            f"model.hash_rows={models[hashed[0]].hash_rows} and pretrained vectors exclude each other; leave it out of "
            f"the settings of {', '.join(hashed)}"
        )


def _without_vectors(settings: Settings) -> Settings:
    """Leave out what only vectors read, so that a finished training serves whatever the vectors are."""
    return without(settings, OF_VECTORS)


def _without_table(settings: Settings) -> Settings:
    """Leave out what is said of a table of ids, which `frozen` has not."""
    return without(settings, _OF_TABLE)


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
