"""What moves weights by their gradients: Adam, and for large tables a form of it that touches read rows only.

Letters: V rows of a table, R of them read in a step, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from regard.config import TrainSettings
from regard.errors import SettingsError


@runtime_checkable
class Transferring(Protocol):
    """What some models say besides: which of their parameters started from pretrained vectors."""

    def transferred(self) -> list[nn.Parameter]:
        """Parameters with a learning rate of their own."""


@runtime_checkable
class Tabled(Protocol):
    """What some models say besides: which of their parameters are tables of items, a row for each."""

    def tables(self, by_rows: bool) -> list[nn.Parameter]:
        """Tables; with `by_rows` those of which a step reads few rows, whose gradients are sparse from now on."""


class RowWiseAdam(torch.optim.Adam):
    """Adam, and in groups with `rows` one second moment for each row of a table, and no first moment.

    Such a group holds tables (V, D) whose gradients are sparse. A row that a step did not read costs nothing: its
    second moment, the mean of its squared gradient, falls by beta2 with every step all the same, but that is made up
    for when it is read next. So a row moves as it would if all rows were walked through in every step. Memory is 2 V
    numbers where Adam has 2 V D. The row-wise second moment is that of row-wise Adagrad (Gupta et al. 2014,
    "Training highly multiclass classifiers", JMLR 15) with Adam's forgetting (Kingma and Ba 2015, arXiv 1412.6980).

    Weight decay draws a row when it is read, not in between: rows that nobody reads stay as they are.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move everything; tables by the rows that their gradients hold."""
        everything = self.param_groups
        self.param_groups = [group for group in everything if not group.get("rows")]
        try:
            found = super().step(closure)
        finally:
            self.param_groups = everything
        for group in everything:
            for table in group["params"] if group.get("rows") else ():
                if table.grad is not None:
                    self._move(table, table.grad.coalesce(), group)
        return found

    def _move(self, table: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (_, beta) = self.state[table], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["square"] = table.new_zeros(len(table))
            state["read"] = table.new_zeros(len(table))  # the step that read a row last: exact up to 2 ** 24
        state["step"] += 1
        now = float(state["step"])
        rows, values = grad.indices()[0], grad.values()
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            values = values + group["weight_decay"] * table[rows]
        kept = beta ** (now - state["read"][rows])
        square = state["square"][rows] * kept + (1 - beta) * values.square().mean(1)
        state["square"][rows], state["read"][rows] = square, torch.full_like(square, now)
        sizes = (square / (1 - beta**now)).sqrt() + group["eps"]
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            table[rows] *= 1 - group["lr"] * group["weight_decay"]
        table.index_add_(0, rows, values / sizes[:, None], alpha=-group["lr"])


def build_optimiser(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Decay draws matrices and tables of vectors towards zero; norms, biases and single vectors are left alone.

    What started from pretrained vectors has a rate of its own, and no decay: it should stay near them. Decay of all
    others is the same, whatever the rate of tables.

    Raises:
        SettingsError: tables are to be learned in a way of their own, and the model has none for it.
    """
    rows = settings.table_optimizer == "rowwise"
    tables = {id(each) for each in (_tables(model, settings) if rows or settings.table_rate != 1 else [])}
    started = {id(each) for each in (model.transferred() if isinstance(model, Transferring) else [])}
    groups: list[dict[str, Any]] = []
    for table in (False, True):
        mine = [each for each in model.parameters() if (id(each) in tables) == table]
        plain = [each for each in mine if id(each) not in started]
        how = {"rows": table and rows, "fused": not (table and rows)}
        share = settings.table_rate if table else 1.0
        also = {"share": share, "started": False, **how}
        first = {"share": settings.vectors_rate, "started": True, **how}
        groups += [
            {
                "params": [each for each in plain if each.ndim > 1],
                "weight_decay": settings.weight_decay / share,
                **also,
            },
            {"params": [each for each in plain if each.ndim <= 1], "weight_decay": 0.0, **also},
            {"params": [each for each in mine if id(each) in started], "weight_decay": 0.0, **first},
        ]
    groups = [group for group in groups if group["params"]]
    decoupled = settings.optimizer == "adamw"
    return RowWiseAdam(groups, lr=settings.learning_rate, decoupled_weight_decay=decoupled)


def _tables(model: nn.Module, settings: TrainSettings) -> list[nn.Parameter]:
    rowwise = settings.table_optimizer == "rowwise"
    tables = model.tables(by_rows=rowwise) if isinstance(model, Tabled) else []
    if tables:
        return tables
    if isinstance(model, Tabled) and not model.tables(by_rows=False):
        asked = "table_optimizer=rowwise" if rowwise else f"table_rate={settings.table_rate:g}"
        raise SettingsError(
            f"train.{asked} is for the rows that items have of their own, and this model has none: with "
            "model.transfer=frozen an item is what its vector says; leave it out"
        )
    if rowwise:
        raise SettingsError(
            "train.table_optimizer=rowwise is for item tables of which a step reads few rows, and this model has none: "
            "with a retriever sample negatives too, for example model.negatives=1024; else leave it out"
        )
    raise SettingsError(
        f"train.table_rate={settings.table_rate:g} is for the item table of a retriever, and this model has none: "
        "leave it out"
    )


def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their norm together is `most` at most; sparse ones by the rows they hold."""
    values = []
    for each in parameters:
        if each.grad is not None and each.grad.is_sparse:
            each.grad = each.grad.coalesce()
            values.append(each.grad.values())
        elif each.grad is not None:
            values.append(each.grad)
    if values:
        norm = nn.utils.get_total_norm(values)
        torch._foreach_mul_(values, (most / (norm + 1e-6)).clamp_max(1.0))
