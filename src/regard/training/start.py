"""Where a training begins when it does not begin from chance: with the weights of an earlier run.

Two uses, one mechanism. The log of a shop has grown: rows of items, users, behaviours, context values and attribute
values that the run knows are found by raw id and copied, new ones start as they would in any training. Or the log is
that of another shop: with `model.transfer=frozen` there are no ids of items, so nothing of them is joined; an item is
what its pretrained vector says through the geometry and the adapter of the run. All that belongs to no id is copied
either way. The state of the optimiser is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.config import Settings
from regard.data.cases import Int64
from regard.data.geometry import Geometry
from regard.data.knowledge import Knowledge
from regard.data.shape import Shape
from regard.data.split import PARTS
from regard.data.store import Dataset
from regard.errors import InputError, SettingsError
from regard.model.baseline import BASELINES
from regard.model.models import Learned
from regard.model.retriever import Retriever
from regard.model.transfer import mode_of
from regard.recommend.additions import VectorMaker
from regard.recommend.run import WEIGHTS, Run
from regard.training.joined import FLAGS, Join, another_shop, attributes_of, joins_of, kind_of
from regard.training.marks import Marks, found, joined, marks_of
from regard.training.people import people
from regard.training.protocol import Protocol

_FREE = ("dropout", "negatives", "negative_sampling", "id_dropout", "content_weight", "covisit_weight", "vector_scale")
"""Of the model's settings: what no weight depends on."""
_SHAPING = ("labels", "history", "histories")  # of the data's settings: they say what the model reads and learns
_MANY = 100  # vectors whose mean is about that of all
_REDRAWN = ("random", "users")  # splits that draw anew what is held back when a log has grown


@dataclass(frozen=True)
class Start:
    """The run that a training goes on from."""

    run: Run

    @classmethod
    def of(cls, run: Run | str | Path) -> Start:
        """Open the run, or say why nothing can start from it."""
        run = run if isinstance(run, Run) else Run.open(run)
        if (name := run.manifest["model"]) in BASELINES:
            raise InputError(f"--from expects a run with learned weights; {run.path} is {name}, which counts")
        return cls(run)

    @property
    def fingerprint(self) -> str:
        """What tells its weights from others."""
        return str(self.run.manifest["files"][WEIGHTS]["sha256"])

    def settings(self, told: Settings) -> Settings:
        """What was told, and the run's own where nothing was: of the model, what it reads and learns, and its table.

        Raises:
            SettingsError: something else was told that the weights of the run do not fit.
        """
        own, body = self.run.settings.model_dump(), told.model_dump(exclude_unset=True)
        model = {**own["model"], **body.get("model", {})}
        data = {**{name: own["data"][name] for name in _SHAPING}, **body.get("data", {})}
        train = body.get("train", {})
        if model["negatives"]:  # only with them does a step read few rows, and a run may have learned so
            train = {"table_optimizer": own["train"]["table_optimizer"], **train}
        found = Settings.of({**body, "model": model, "data": data, "train": train})
        placeless = found.model.positions in ("rotary", "none", "relative")
        free = (*_FREE, "window") if placeless else _FREE
        before, after = _plain(self.run.settings), _plain(found)
        for name in before:
            section, _, key = name.partition(".")
            if before[name] != after[name] and not (section == "model" and key in free):
                raise SettingsError(
                    f"--from {self.run.path}: {name} is {_said(before[name])} there and {_said(after[name])} here, and "
                    "its weights fit no other; leave that setting out, or train without --from"
                )
        return found

    def geometry(self, known: Knowledge, counts: Int64) -> Geometry | None:
        """What the run made of pretrained vectors of its items, or users; `counts` (n + 1,) are training events here.

        Without ids of items these may be of another shop. What all of them have in common tells none from another, so
        vectors are centred on the items with training events here, on all where these are few; axes and scale, which
        the weights read, stay.
        """
        maker = VectorMaker.open(self.run.path, known.whose)
        if maker is None:
            return None
        if known.whose == "users" or mode_of(self.run.settings.model) != "frozen":
            return maker.geometry
        trained = known.known & (counts > 0)
        return maker.geometry.centred(known.rows[trained if trained.sum() >= _MANY else known.known])

    def knowledge(self, dataset: Dataset, given: Any, whose: str, **options: Any) -> Knowledge | None:
        """Pretrained vectors of a dataset, made as those of the run were; None where it has none.

        Args:
            dataset: whose items, or users, these are.
            given: a `Knowledge`; where to read; None = where the run read its own.
            whose: `items` or `users`.
            options: as in `VectorRecipe.read`.

        Raises:
            InputError: the run has no vectors and some are given, or they are of another length.
        """
        maker, flag = VectorMaker.open(self.run.path, whose), "--vectors" if whose == "items" else "--user-vectors"
        if maker is None:
            if given is None:
                return None
            raise InputError(
                f"--from {self.run.path} was trained without pretrained vectors of {whose}, so its weights read none; "
                f"leave out {flag}, or train without --from"
            )
        if not isinstance(given, Knowledge):
            if given is None and maker.recipe.source is None:
                raise InputError(
                    f"--from {self.run.path}: its vectors of {whose} were handed over in memory; say with {flag} where "
                    "those of this dataset are"
                )
            given = Knowledge.like(dataset, maker.recipe, given, whose=whose, **options)
        assert isinstance(given, Knowledge)
        if given.width != len(maker.geometry.mean):
            raise InputError(
                f"--from {self.run.path}: its vectors of {whose} have {len(maker.geometry.mean)} values, and those of "
                f"{given.facts['report']['source']} have {given.width}; expected vectors of the same kind"
            )
        return given

    def hand_to(self, model: Learned, shape: Shape, protocol: Protocol) -> dict[str, Any]:
        """Copy into a model that is ready to be trained what the run knows; say what was copied, and what was not.

        Raises:
            SettingsError: weights of the run do not fit the model.
            InputError: the run has learned from what is held back here, or its ids are those of another shop.
        """
        _check_forms(self.run, shape)
        table = model.item_embedding
        then = self.run.stage()
        mine, theirs = model.state_dict(), then.state_dict()
        named = hasattr(model, "item_bias") or table.item is not None  # else nothing belongs to the id of an item
        told_of = attributes_of(self.run, protocol.dataset, model, people(protocol))
        joins = joins_of(self.run, protocol.dataset, model, told_of)
        kinds = {name: kind_of(name, model) for name in {**mine, **theirs}}
        met = "users" in joins and joins["users"].copied > 0
        notes = self._check_cut(protocol, met or (named and joins["items"].copied > 0))
        if table.item is not None and (why := another_shop(self.run, protocol.dataset, joins["items"])):
            raise InputError(
                f"--from {self.run.path}: {why}, so this is another shop; only model.transfer=frozen, without "
                "ids, goes from one to another"
            )
        for one in told_of.values():
            one.rescale()
        rows, plain = {}, 0
        for name, kind in kinds.items():
            here, there = mine.get(name), theirs.get(name)
            if kind == "plain":
                plain += _copied(self.run, name, here, there)
            elif kind in joins and name not in FLAGS:
                rows[kind] = joins[kind].rows(here, there)
        zero_shot = protocol.settings.train.zero_shot
        self._flags(model, joins, theirs, named, zero_shot)
        if zero_shot and isinstance(model, Retriever):
            notes += self._counts(model, then, joins["items"] if named else None)
        told = {"run": str(self.run.path.resolve()), "fingerprint": self.fingerprint}
        return {**told, "weights": plain, "rows": dict(sorted(rows.items())), "notes": notes}

    def _flags(
        self, model: Learned, joins: Mapping[str, Join], theirs: Mapping[str, Tensor], named: bool, zero_shot: bool
    ) -> None:
        """Say whom the model knows: those that the run knew too, and without training nobody else but by a vector."""
        told = model.item_embedding.told
        for name in ("known", "trained", "met"):
            flag = getattr(model, name, None)
            if flag is None:
                continue
            before = torch.zeros_like(flag)
            if named or name == "met":
                joins["users" if name == "met" else "items"].rows(before, theirs[name])
            if zero_shot:
                flag.copy_(before | told if name == "known" and told is not None else before)
            elif name != "trained":
                flag.logical_or_(before)
        if zero_shot:
            for who, table in (("items", model.item_embedding), ("users", getattr(model, "user", None))):
                gate = getattr(getattr(table, "pretrained", None), "gate", None)
                if gate is not None:  # of whom the run has no events, the vector counts in full
                    gate.fill_(1.0)
                    key = "item_embedding" if who == "items" else "user"
                    joins[who].rows(gate, theirs[f"{key}.pretrained.gate"])

    def _counts(self, model: Retriever, then: Any, items: Join | None) -> list[str]:
        """Take what the run has counted of items that it knows by id; None = it knows none so. Return what to note."""
        if model.content is not None:
            events = torch.zeros(len(model.known), dtype=torch.int64)
            if items is not None:
                items.rows(events, torch.from_numpy(self.run.counts))
            model.content.weigh(events)
        if model.near is None:
            return []
        if items is None or then.near is None:
            return [
                "pairs belong to ids that the run has counted, and it has none of these: no counts are added to scores"
            ]
        model.near.take_from(then.near, items.places)
        return []

    def _check_cut(self, protocol: Protocol, joined: bool) -> list[str]:
        """Refuse to measure on events that the run may have learned from; return what else a reader should know."""
        split, before = protocol.split, self.run.manifest["split"]["rule"]
        same = self.run.manifest["dataset"]["fingerprint"] == protocol.dataset.fingerprint
        known = joined or same
        if split.rule == "none" or not (known or protocol.dataset.time_kind == "timestamp"):
            return []
        behaviours = self.run.settings.data.target_behaviours, protocol.settings.data.target_behaviours
        redrawn = not same and split.rule.partition(":")[0] in _REDRAWN
        if known and (before != split.rule or behaviours[0] != behaviours[1] or redrawn):
            cuts = [
                rule + (f" of {', '.join(who)}" if who else "")
                for rule, who in zip((before, split.rule), behaviours, strict=True)
            ]
            why = "which is drawn anew for another log" if redrawn and cuts[0] == cuts[1] else f"here it is {cuts[1]}"
            raise InputError(
                f"--from {self.run.path} was trained under split {cuts[0]}, and {why}: it may have learned from what "
                "is held back; use the same --split (time:Q, last-days:N or leave-one-out for a grown log), or none"
            )
        return [] if same else self._check_learned(protocol)

    def _check_learned(self, protocol: Protocol) -> list[str]:
        """Refuse where targets that are held back here are among what the run learned from.

        Under leave-one-out somebody with two targets only trains. Once there are three, the second one is held back
        for validation: that is no mistake, and test stays clean, so it is told and not refused.
        """
        split, dataset = protocol.split, protocol.dataset
        if self.run.marks is None:
            return [f"{self.run.path} does not know the events that it learned from: only its split was compared"]
        looked, met = found(self.run.marks, dataset)
        held = {part: split.target_rows(dataset, part) for part in PARTS}
        learned = {part: rows[met[rows]] for part, rows in held.items()}
        many = {part: f"{len(learned[part]):,} of {looked[rows].sum():,}" for part, rows in held.items()}
        if not met[np.concatenate([*held.values()])].any():
            return []
        wanted = split.target_events(dataset)
        targets = np.arange(dataset.n_events) if wanted is None else np.flatnonzero(wanted)
        each = np.bincount(_owners(dataset, targets))
        short = each[_owners(dataset, learned["validation"])] == 3
        if split.rule == "leave-one-out" and not len(learned["test"]) and short.all():
            said = f"{self.run.path} learned from {many['validation']} validation targets, as these people had too few "
            return [said + "events then to hold any back: validation flatters, test does not"]
        raise InputError(
            f"--from {self.run.path} learned from {many['validation']} validation targets and {many['test']} test "
            f"targets{'' if looked.all() else ' of a sample'} that split {split.rule} holds back here; use a log that "
            "goes on where that of the run ended, or --split none, which measures nothing"
        )


def learned_from(protocol: Protocol, start: Start | None) -> Marks | None:
    """Marks of all events that weights are learned from, those before a start too; None where that is not known."""
    before = None if start is None else start.run.marks
    if start is not None and (before is None or protocol.settings.train.zero_shot):
        return before
    own = marks_of(protocol.dataset, protocol.split.training_rows(protocol.dataset))
    return own if before is None else joined(own, before)


def _owners(dataset: Dataset, rows: Int64) -> Int64:
    """The users of event rows."""
    return np.searchsorted(dataset.offsets, rows, side="right") - 1


def _check_forms(run: Run, shape: Shape) -> None:
    """Refuse attributes that are of another kind, or longer, than those of the run."""
    before = Shape(**run.manifest["shape"])
    if before.attributes and "attributes" not in run.manifest:
        raise InputError(f"--from {run.path} was written before runs kept values of attributes; train it again")
    items = [("item", name, before.attributes[name], form) for name, form in shape.attributes.items()]
    users = [("user", name, before.user_attributes[name], form) for name, form in shape.user_attributes.items()]
    for whose, name, *forms in items + users:
        sizes = [one._replace(size=0) if one.kind == "category" else one for one in forms]
        if sizes[0] != sizes[1]:
            said = [f"a {one.kind}" + f" of {one.size} numbers" * (one.kind == "vector") for one in sizes]
            raise SettingsError(
                f"--from {run.path}: {whose} attribute {name} is {said[0]} there and {said[1]} here; prepare the "
                "dataset with the same column, or train without --from"
            )


def _copied(run: Run, name: str, mine: Tensor | None, theirs: Tensor | None) -> int:
    """Copy a weight that belongs to no ids; refuse what the settings have not explained: another shape, or none."""
    if mine is None or theirs is None or mine.shape != theirs.shape:
        said = [str(tuple(one.shape)) if one is not None else "absent" for one in (theirs, mine)]
        raise SettingsError(
            f"--from {run.path}: the weight {name} is {said[0]} there and {said[1]} here; train without --from"
        )
    mine.copy_(theirs)
    return 1


def check_start(start: Start | None, settings: Settings, out: Path) -> None:
    """Refuse no training without a start, and a start that would be replaced by what it starts."""
    if start is None:
        if settings.train.zero_shot:
            raise SettingsError("train.zero_shot (--zero-shot) measures the run given by --from RUN; it needs one")
        return
    if start.run.path.resolve() == out.resolve():
        raise InputError(f"--from and --out are both {out}; write the new run to another folder")


def start_line(report: Mapping[str, Any]) -> str:
    """Say in a line what `Start.hand_to` reports, and its notes below."""
    parts = [
        f"{kind}: {counts['copied']:,} copied, {counts['new']:,} new, {counts['left_out']:,} left out"
        for kind, counts in report["rows"].items()
    ]
    said = "; ".join([f"starts from {report['run']}, {report['weights']} weights without ids copied", *parts])
    return "\n".join([said, *(f"note: {one}" for one in report["notes"])])


def _plain(settings: Settings) -> dict[str, Any]:
    """What weights depend on, with defaults by their own names."""
    found = {f"model.{name}": value for name, value in settings.model.model_dump().items()}
    found["model.transfer"] = mode_of(settings.model)
    labels = settings.data.labels.strip()
    return {
        **found,
        "data.histories": settings.data.histories,
        "data.labels": labels if labels == "value" else "binary",
    }


def _said(value: Any) -> str:
    return (", ".join(map(str, value)) or "nothing") if isinstance(value, tuple) else str(value).lower()
