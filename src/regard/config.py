"""Settings: strict, typed, frozen, and the same in Python, TOML, JSON and `--set section.key=value`.

An unknown key is an error that names the nearest known one. Every field's description is its documentation.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from regard.errors import InputError, SettingsError, nearest


class Section(BaseModel):
    """One group of settings; frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Let `evaluate.k=10` stand for `[10]`, and `model.attributes=` for `[]`."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if get_origin(kind) is not tuple or not isinstance(value, (str, int)):
            return value
        return [] if str(value).strip() == "" else [value]


class DataSettings(Section):
    """Which events train, which are held back, and which count as targets."""

    split: str = Field(
        "auto", description="leave-one-out | time:Q | last-days:N | users:F | parts | random:A,B,C | none | auto"
    )
    target_behaviours: tuple[str, ...] = Field((), description="only these behaviours are targets; empty = all")
    keep: float = Field(
        1.0, gt=0, le=1, description="share of users whose events train; all are evaluated, with their whole histories"
    )
    labels: str = Field(
        "auto",
        description="what a ranker or matrix-factorization learns: sampled | given (0 or 1) | >=X | value | auto",
    )
    history: Literal["auto", "positive", "all"] = Field(
        "auto", description="events a ranker reads: those with a positive label, or all; auto = positive where given"
    )
    histories: tuple[str, ...] = Field(
        (), description="separate histories of a ranker, each BEHAVIOUR+BEHAVIOUR:LENGTH; empty = one of all events"
    )
    negatives: int = Field(4, ge=1, description="sampled negatives for each positive of a ranker")
    sampling: Literal["uniform", "popularity"] = Field("uniform", description="how a ranker's negatives are drawn")


Size = Annotated[int, Field(ge=1)]


PRESETS: dict[str, dict[str, Any]] = {
    "gated": {"name": "self-attention", "residual": "gated"},
    "time-attention": {"name": "hstu", "time_bias": True},
}
"""Names of models that are another one with settings of its own, which may be told otherwise."""


class ModelSettings(Section):
    """The shape of the model. Baselines read none of it but `name`."""

    name: str = Field("self-attention", description="which model; `regard train --help` lists them")
    width: int = Field(128, ge=1, description="size of item vectors and states")
    blocks: int = Field(2, ge=1, description="attention blocks")
    heads: int = Field(2, ge=1, description="attention heads; must divide width")
    feed_forward: Literal["plain", "gated"] = Field("gated", description="plain (GELU) or gated (SwiGLU) feed-forward")
    residual: Literal["plain", "gated"] = Field(
        "plain", description="what a block makes is added as it is, or times a learned gate (LiGR)"
    )
    expansion: float = Field(2.0, gt=0, description="hidden size of the feed-forward, as a multiple of width")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="share of values dropped after embedding and in every block; retrievers: by size"
    )
    window: int = Field(200, ge=1, le=100_000, description="most recent events that the model reads at once")
    positions: Literal["learned", "rotary", "relative", "none"] = Field(
        "learned", description="where an event stands: embedded, by rotary angles, or as a bias of attention"
    )
    behaviours: bool = Field(True, description="embed behaviour types where the data has more than one")
    attributes: tuple[str, ...] = Field((), description="columns of the item table whose values are embedded too")
    user_attributes: tuple[str, ...] = Field((), description="columns of the user table that a ranker reads")
    context: tuple[str, ...] = Field((), description="context columns read at the moment of the request")
    request_time: bool = Field(False, description="read the moment of the request too: extra information; timestamps")
    time_gaps: bool = Field(False, description="embed the time since the previous event; needs timestamps")
    time_lags: bool = Field(False, description="attention sees the time between events (rotary); needs timestamps")
    time_bias: bool = Field(False, description="attention sees it by a bias for each octave; needs timestamps")
    vector_scale: float = Field(
        0.0,
        ge=0,
        description="length of item vectors and what is added to them before training; 0 = 1, or 0.1 for ranker and "
        "matrix-factorization",
    )
    hash_rows: int = Field(0, ge=0, description="item vectors hashed into so many rows; 0 = a row for every item")
    hash_functions: int = Field(2, ge=1, le=8, description="rows that an item's vector is summed from, if hashed")
    transfer: Literal["auto", "init", "frozen", "fuse", "gate"] = Field(
        "auto",
        description="what pretrained vectors become, docs/transfer.md; auto = init for retrievers, else gate",
    )
    softness: float = Field(10.0, ge=0, description="spectrum of pretrained vectors: 0 = whitened, large = as it was")
    word_weights: Literal["sif", "idf", "mean"] = Field(
        "sif",
        description="how much each word counts where vectors are of words: the rarer the more, or all alike (mean)",
    )
    id_width: int = Field(0, ge=0, description="fuse: values of the learned id beside the vector; 0 = width / 4")
    id_dropout: float = Field(0.1, ge=0, lt=1, description="gate: share of items that go without their id in a step")
    content_weight: float = Field(
        0.0,
        ge=0,
        description="retrievers: this times the cosine of pretrained vectors of an item and of the history is added to "
        "its score, the fewer training events it has the more; 6 if not told",
    )
    covisit_weight: float = Field(
        0.0,
        ge=0,
        description="retrievers: what is added to the score of the item most often met near those of the history, and "
        "to others by the root of their share of it; unless told, by size",
    )
    interest: str = Field("target", description="how a ranker reads a history; `regard train --help` lists the forms")
    projections: Literal["separate", "shared", "none"] = Field(
        "separate", description="linear maps of queries, keys and values: three, one for all, or none"
    )
    projection_activation: Literal["none", "relu"] = Field("none", description="activation of these projections")
    scale: float = Field(0.0, ge=0, description="factor of attention logits; 0 = 1 / sqrt(width of a head)")
    normalize: Literal["softmax", "none"] = Field(
        "softmax", description="attention weights add up to 1, or are raw and carry intensity"
    )
    score_hidden: int = Field(0, ge=0, description="hidden size of additive scores; 0 = linear")
    conditioned: bool = Field(False, description="additive scores also read the candidate")
    unit_hidden: tuple[Size, ...] = Field((64, 16), description="hidden sizes of the activation unit; [] = one layer")
    unit_activation: Literal["dice", "prelu", "relu"] = Field("dice", description="activation inside that unit")
    unit_on: Literal["pair", "event"] = Field("pair", description="that unit reads event and candidate, or the event")
    dual_self: Literal["history", "target"] = Field(
        "history", description="dual attention: self-attention in the history, or among a request's candidates"
    )
    head: Literal["mlp", "linear"] = Field("mlp", description="what makes a score of a ranker's features")
    hidden: tuple[Size, ...] = Field((128, 64), description="hidden sizes of a ranker's head")
    outputs: int = Field(1, ge=1, description="outputs of a ranker's head")
    user_ids: bool = Field(False, description="a ranker learns a vector for every user")
    biases: bool = Field(True, description="matrix-factorization: a mean, and biases of users and items")
    temperature: float = Field(
        0.0, ge=0, description="scores of a retriever are cosines divided by this, such as 0.05; 0 = dot products"
    )
    negatives: int = Field(
        0, ge=0, description="sampled softmax with so many negatives a batch; 0 = full softmax; unless told, by size"
    )
    negative_sampling: Literal["uniform", "popularity", "in-batch", "mixed"] = Field(
        "uniform",
        description="how they are drawn: uniform | popularity | in-batch | mixed (half in-batch, half uniform)",
    )

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, body: Any) -> Any:
        """Write the names of `PRESETS` out, so that a run remembers what its model is."""
        preset = PRESETS.get(str(body.get("name"))) if isinstance(body, Mapping) else None
        return {**preset, **body, "name": preset["name"]} if preset else body

    @field_validator("attributes", "user_attributes", "context")
    @classmethod
    def _each_column_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for at, name in enumerate(names) if name in names[:at]]
        if twice:
            said = "expected each column once, and {name} is named twice"
            raise PydanticCustomError("twice", said, {"name": twice[0]})
        return names


class TrainSettings(Section):
    """How weights are learned."""

    epochs: int = Field(
        0, ge=0, description="passes over the training events; 0 = retrievers: by size, others: 12, or 2,000 steps"
    )
    zero_shot: bool = Field(False, description="no training at all: the run is what it starts `--from`")
    seed: int = Field(1, ge=0, lt=2**63, description="seeds weights, order of batches, windows, dropout and negatives")
    batch_tokens: int = Field(4096, ge=1, description="training events in one step, about")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="AdamW or Adam")
    table_optimizer: Literal["same", "rowwise"] = Field(
        "same",
        description="rowwise: of the item table, a step moves only the rows it read, with one second moment for each; "
        "with `model.negatives`",
    )
    table_rate: float = Field(
        1.0,
        gt=0,
        description="learning rate of a retriever's item table that starts from chance, as a multiple of all others; "
        "10 if neither is told",
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate; retrievers: by size")
    weight_decay: float = Field(0.0, ge=0, description="decay of matrices and embeddings")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps with rising learning rate; cosine after it")
    vectors_rate: float = Field(
        0.1,
        ge=0,
        description="init: learning rate of vectors, as a multiple of all others; retrievers: by size",
    )
    freeze: float = Field(0.0, ge=0, lt=1, description="init: share of all steps before item vectors are learned on")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    validations: int = Field(24, ge=1, description="looks at validation, at most; spread evenly over the epochs")
    patience: int = Field(8, ge=1, description="looks at validation without a better figure before stopping")
    metric: str = Field("auto", description="validation figure that chooses the best weights; auto = ndcg@k, or auc")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto = bfloat16 where it is fast")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = cuda where there is one")
    threads: int = Field(0, ge=0, le=4096, description="CPU threads; 0 = all cores, or what OMP_NUM_THREADS says")


CutOff = Annotated[int, Field(ge=1, le=100_000)]


class EvaluateSettings(Section):
    """The protocol of validation and test."""

    targets: Literal["next", "last", "set"] = Field("next", description="which held-back events are targets")
    seen: Literal["auto", "filter", "keep"] = Field("auto", description="may items of the history be recommended again")
    k: tuple[CutOff, ...] = Field((10,), min_length=1, description="cut-offs of the top-k metrics")
    validation_cases: int = Field(10_000, ge=1, description="most validation cases looked at after each epoch")
    negatives: int = Field(50, ge=1, description="sampled negatives of a ranker's AUC and log loss")
    bootstrap: int = Field(1000, ge=0, description="resamples of users behind each interval")


class Settings(Section):
    """All settings of a run."""

    data: DataSettings = Field(default_factory=lambda: DataSettings())
    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    train: TrainSettings = Field(default_factory=lambda: TrainSettings())
    evaluate: EvaluateSettings = Field(default_factory=lambda: EvaluateSettings())

    @classmethod
    def of(cls, body: Mapping[str, Any], where: str = "settings") -> Self:
        """Check a nested mapping; `where` names its origin in errors."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise SettingsError(f"{where}: {_first(error, cls)}") from None

    @classmethod
    def read(cls, path: str | Path, assignments: Sequence[str] = ()) -> Self:
        """Read a TOML or JSON file, then apply `section.key=value` assignments; each answers for its own mistakes."""
        return cls.of(_load(Path(path)), str(path)).changed(assignments)

    def changed(self, assignments: Sequence[str]) -> Self:
        """Return a copy with `section.key=value` assignments applied."""
        return type(self).of(assigned(self.model_dump(exclude_unset=True), assignments), "--set")


def assigned(body: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return `body` with dotted `section.key=value` texts written into it; values are TOML where they parse as such."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in body.items()}
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise SettingsError(f"--set expects section.key=value, for example train.epochs=10; got {text!r}")
        inner = result.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {text}: {section!r} is not a section of settings")
        inner[key] = _value(value, listed=not _is_text(section, key))
    return result


def _is_text(section: str, key: str) -> bool:
    """Whether a setting is one text, in which a comma is no end."""
    inner: Any = Settings.model_fields[section].annotation if section in Settings.model_fields else None
    return inner is not None and key in inner.model_fields and inner.model_fields[key].annotation is str


def _value(text: str, *, listed: bool) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.split(",") if listed and "," in text else text


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read settings file {path}: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(body, dict):
        raise SettingsError(f"{path}: expected sections {', '.join(Settings.model_fields)}; got {type(body).__name__}")
    return body


def _first(error: ValidationError, root: type[BaseModel]) -> str:
    """Say the first thing that is wrong, with the nearest known key where a key is unknown."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        model: Any = root
        for part in path[:-1]:
            model = model.model_fields[part].annotation
        known = list(model.model_fields)
        return f"unknown setting {name!r}{nearest(path[-1], known)}; known: {', '.join(known)}"
    said = first["msg"][:1].lower() + first["msg"][1:]  # names of columns keep their capitals
    return f"{name}: {said}; got {first['input']!r}"
