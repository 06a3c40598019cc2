"""What a training in progress owns: one file with everything needed to go on exactly where it stopped.

`state.safetensors` holds tensors (weights, best weights so far, optimiser, random generators) and, in its header, the
rest as JSON; one file, so that no crash can leave halves of two steps. `state.json` repeats the JSON for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regard.errors import StorageError
from regard.manifest import LOCK, new_file, read_json, write_json

STATE = "state.safetensors"
_MODEL, _BEST, _OPTIMISER, _RANDOM = "model/", "best/", "optimiser/", "random/"


def begin(folder: Path, told: Mapping[str, Any], resume: bool) -> None:
    """Empty `folder` for a new training, or see that the one to be resumed was `told` the same; hold its lock."""
    note = folder / "settings.json"
    if resume and note.exists():
        before = read_json(note)
        if differing := sorted(_differing(before, told)):
            raise StorageError(
                f"{folder} belongs to a training with other {', '.join(differing)}; resume it with the same "
                "ones, or leave --resume out to start from the beginning"
            )
        return
    for file in folder.iterdir():
        if file.is_file() and file.name != LOCK:
            file.unlink()
    write_json(note, told)


def _differing(before: Mapping[str, Any], told: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """What was told otherwise then: one setting where both sides have its section."""
    for key in told:
        one, other = before.get(key), told[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{section}{key}.")
        elif one != other:
            plain = all(isinstance(each, bool | int | float | str | None) for each in (one, other))
            yield f"{section}{key}" + f" ({one} there, {other} here)" * (plain and bool(section))


def save(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    position: dict[str, Any],
) -> None:
    """Write the whole state of a training; `position` is any JSON-able mapping."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    tensors |= {_BEST + name: value for name, value in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {_RANDOM + name: value for name, value in _generators().items()}
    with new_file(folder / STATE) as aside:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, aside, metadata={"position": json.dumps(position)})
    write_json(folder / "state.json", position)


def load(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore model, optimiser and random generators in place; return the best weights so far and the position."""
    file = folder / STATE
    try:
        with safe_open(file, framework="pt") as stored:
            position = json.loads(stored.metadata()["position"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{file} is damaged ({error}); remove {folder} to start from the beginning") from None
    parts = {prefix: _under(tensors, prefix) for prefix in (_MODEL, _BEST, _OPTIMISER, _RANDOM)}
    try:
        model.load_state_dict(parts[_MODEL])
    except RuntimeError:
        raise StorageError(f"{file} belongs to a model of another shape; remove {folder} or use its settings") from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts[_OPTIMISER].items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    _restore(parts[_RANDOM])
    return parts[_BEST], position


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _generators() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
