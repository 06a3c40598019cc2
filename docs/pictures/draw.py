"""Draw the pictures of docs/attention.md: weights over one real history of the embedded sample, form by form.

The person is held out of training, and has looked at other items of the cause's category too. Models are trained by the
settings of `benchmarks/causes.py`, and kept in its work folder. The cause is orange; models never see what it is.

    python docs/pictures/draw.py [--only target,dual] [--work FOLDER]       # needs regard[plots]
"""

# ruff: noqa: T201 - a script
from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot
from PIL import Image
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))

from causes import SETTINGS, SPLIT, settings_of, trained  # noqa: E402
from causes_sample import Sample  # noqa: E402
from regard import demo  # noqa: E402
from regard.config import Settings  # noqa: E402
from regard.data.batches import asked_at, context_codes, gather  # noqa: E402
from regard.data.cases import Int64  # noqa: E402
from regard.data.oracle import DAY_US  # noqa: E402
from regard.data.requests import Requests  # noqa: E402
from regard.model.ranker import Ranker  # noqa: E402
from regard.model.retriever import Retriever  # noqa: E402

CAUSE, OTHER, DARK = "#e8710a", "#b8bcc2", "#3c4043"
LENGTHS = (14, 18)  # of a history that fits on a picture
WEIGHT = "weight"


@dataclass(frozen=True)
class Case:
    """An event whose cause is known, and the history before it."""

    sample: Sample
    row: int
    history: Int64  # rows (n,)

    @classmethod
    def first(cls, sample: Sample) -> Case:
        """The first of the test people whose history fits, with two decoys: events of the cause's category."""
        table = sample.dataset.item_table
        assert table is not None
        category = np.array(["", *table["category"].to_pylist()])[sample.dataset.item]
        for row, start in zip(*sample.caused("test"), strict=True):
            alike = category[start:row] == category[sample.cause[row]]
            if LENGTHS[0] <= row - start <= LENGTHS[1] and alike.sum() >= 3:
                return cls(sample, int(row), np.arange(start, row))
        raise LookupError("no history fits")

    @property
    def item(self) -> int:
        """What was chosen in the end."""
        return int(self.sample.dataset.item[self.row])

    def labels(self) -> list[str]:
        """Item, behaviour and days ago of each event."""
        dataset, rows = self.sample.dataset, self.history
        assert dataset.time is not None
        assert dataset.behaviour is not None
        days = ((dataset.time[self.row] - dataset.time[rows]) / DAY_US).round().astype(int).tolist()
        ago = [f"{many} day{'s' * (many != 1)} ago" for many in days]
        told = zip(dataset.items.ids(dataset.item[rows]), dataset.behaviour[rows].tolist(), ago, strict=True)
        return [f"{item} · {dataset.behaviours[kind - 1]} · {when}" for item, kind, when in told]

    def request(self, model: Ranker, rows: Int64) -> Requests:
        """Ask for the item that was chosen, on a history of these rows."""
        dataset, count = self.sample.dataset, len(rows)
        own = np.array([self.row])
        assert dataset.time is not None
        return Requests(
            histories=gather(dataset, rows, np.array([0, count])),
            row_offsets=torch.tensor([0, 1]),
            spans=torch.tensor([[0, count]]),
            candidates=torch.tensor([self.item]),
            offsets=torch.tensor([0, 1]),
            labels=torch.tensor([1.0]),
            log_rates=None,
            context=context_codes(dataset, model.context, own),
            users=torch.zeros(1, dtype=torch.int64),
            moments=torch.from_numpy(dataset.time[own]),
        )


def of_form(model: Ranker, case: Case) -> Tensor:
    """Weights (n, H) of an interest that has them, from the forward that scores."""
    events = model(case.request(model, case.history), return_weights=True).events
    weights: Tensor = events[0][0][0]
    return weights


def of_written(model: Ranker, case: Case) -> Tensor:
    """Sequence to sequence sums over what every place looked back at: (n, H) shares of all looks."""
    caught: list[Any] = []
    encoder = model.interests[0].encoder
    hook = encoder.register_forward_hook(lambda _, given, __: caught.append(given))
    model(case.request(model, case.history))
    hook.remove()
    _, ((looks,),) = encoder(*caught[0], return_weights=True)
    shares: Tensor = looks.mean(0)
    return shares


def of_absence(model: Ranker, case: Case) -> Tensor:
    """Where there are no weights: by how much the log-odds fall when an event is left out, (n, 1)."""
    rows = case.history
    whole = model(case.request(model, rows)).logits
    without = [model(case.request(model, np.delete(rows, at))).logits for at in range(len(rows))]
    return (whole - torch.cat(without)).view(-1, 1)


def of_state(model: Retriever, case: Case) -> Tensor:
    """Weights (n, H) by which the last state reads the history, in the last block."""
    dataset, rows = case.sample.dataset, case.history
    assert dataset.time is not None
    moment = torch.from_numpy(dataset.time[[case.row]])
    histories = asked_at(gather(dataset, rows, np.array([0, len(rows)])), moment)
    _, weights = model.states(histories, model.table, return_weights=True)
    return weights[-1][0][-1]


def of_fields(model: Ranker, case: Case) -> Tensor:
    """Weights (F, H) of the fields of a linear head."""
    fields = model(case.request(model, case.history), return_weights=True).fields
    weights: Tensor = fields[0][0]
    return weights


def ranker(**told: Any) -> Settings:
    """The settings of all rankers here, but for these of `model`."""
    every = {**SETTINGS, **{f"model.{name}": value for name, value in told.items()}, "train.seed": 1}
    return Settings().changed([f"{name}={json.dumps(value)}" for name, value in every.items()])


def retriever(*changes: str) -> Settings:
    """The demo's model, of two heads, on the split of all others."""
    told = [f"data.split='{SPLIT}'", "model.heads=2", "train.epochs=12", "train.threads=1", *changes]
    return demo.SETTINGS.changed(told)


PICTURES: dict[str, tuple[Settings, Callable[[Any, Case], Tensor], str]] = {
    "mean": (ranker(interest="mean"), of_form, WEIGHT),
    "additive": (settings_of("additive pooling", 0, 1), of_form, WEIGHT),
    "target": (settings_of("target", 0, 1), of_form, WEIGHT),
    "multi-head": (settings_of("multi-head", 0, 1), of_form, WEIGHT),
    "activation-unit": (settings_of("activation unit, softmax", 0, 1), of_form, WEIGHT),
    "self-attention": (retriever(), of_state, WEIGHT),
    "hstu": (retriever("model.name=hstu", "model.time_bias=true", "model.time_lags=false"), of_state, WEIGHT),
    "dual": (settings_of("dual, self-attention in the history", 0, 1), of_form, WEIGHT),
    "transformer": (settings_of("transformer", 0, 1), of_form, WEIGHT),
    "seq2seq": (ranker(interest="seq2seq", blocks=1), of_written, "share of looks"),
    "gru": (ranker(interest="gru", blocks=1), of_absence, "fall of the log-odds without the event"),
    "fields": (ranker(interest="target", head="linear"), of_fields, WEIGHT),
}


def draw(name: str, weights: np.ndarray, labels: list[str], cause: int, axis: str) -> Path:
    """Bars of each head (n, H) side by side, the oldest event on top."""
    many, heads = weights.shape
    mpl.rcParams.update({"font.size": 9, "text.color": DARK, "axes.labelcolor": DARK, "ytick.color": DARK})
    size = (6.4, 0.75 + 0.2 * many)
    figure, panels = pyplot.subplots(
        1, heads, figsize=size, sharey=True, sharex=True, squeeze=False, layout="constrained"
    )
    colours = [CAUSE if at == cause else OTHER for at in range(many)]
    for head, panel in enumerate(panels[0]):
        panel.barh(range(many), weights[:, head], color=colours, height=0.72)
        panel.set_xlabel(f"head {head + 1}: {axis}" if heads > 1 else axis)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.spines["bottom"].set_color(OTHER)
        panel.tick_params(length=0, colors=DARK)
        panel.locator_params(axis="x", nbins=4)
        panel.axvline(0, color=OTHER, linewidth=0.8)
    panels[0][0].set_yticks(range(many), labels)
    panels[0][0].invert_yaxis()
    for label in panels[0][0].get_yticklabels()[cause : cause + 1] if cause >= 0 else []:
        label.set(color=CAUSE, fontweight="bold")
    file, drawn = HERE / f"{name}.png", io.BytesIO()
    figure.savefig(drawn, dpi=120)
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(32).save(file, optimize=True)  # a few colours make a small file
    return file


def main() -> None:
    """Train what is not kept, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PICTURES))
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "regard" / "causes")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    mpl.use("agg")
    sample = Sample.draw(asked.work / "dataset")
    case = Case.first(sample)
    title = sample.dataset.title(case.item)
    print(f"{sample.dataset.items.id(case.item)} ({title}), after {len(case.history)} events")
    for name in asked.only:
        settings, read, axis = PICTURES[name]
        model = trained(asked.work, sample, settings).stage("cpu").eval()
        with torch.inference_mode():
            weights = read(model, case).float().numpy()
        fields = name == "fields"
        cause = -1 if fields else int(sample.cause[case.row] - case.history[0])
        file = draw(name, weights, list(model.fields) if fields else case.labels(), cause, axis)
        print(f"{file.name:22} {file.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
