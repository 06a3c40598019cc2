"""The house rules that a parser can see: arrows go left, no cycles, budgets, nothing that runs a stranger's code.

Every import counts, also inside a function and under TYPE_CHECKING. Each rule is shown to fail on a bad snippet.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Callable, Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

Sources = dict[str, str]  # module name -> text

ROAD = (
    "errors -> config | manifest -> data -> model | evaluate -> train | recommend -> serve | training"
    " -> pipeline -> show -> tune -> transfer -> demo -> regard -> cli -> __main__"
)
PLACE = {room.strip(): at for at, stop in enumerate(ROAD.split("->")) for room in stop.split("|")}
FILE_LINES, FUNCTION_LINES, PARAMETERS = 350, 60, 9
BATCHES = {"regard.data.batches", "regard.data.asked", "regard.data.requests"}
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "__import__", "torch.load", "torch.save"}


def sources() -> Sources:
    top = Path(__file__).parents[1] / "src"
    paths = {path.relative_to(top).with_suffix("").parts: path for path in top.glob("regard/**/*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text("utf-8") for parts, path in paths.items()}


def imports(name: str, known: Sources) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import in the module `name`; a name that is a module counts as that module."""
    package = name if any(other.startswith(f"{name}.") for other in known) else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(known[name])):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield node.lineno, whole if whole in known else origin


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def arrows(known: Sources) -> Iterator[str]:
    """A room sees itself and the rooms to its left."""
    for name in known:
        if room(name) not in PLACE:
            yield f"{name}: the room {room(name)!r} is not on the road: {ROAD}"
            continue
        for line, target in imports(name, known):
            if target.split(".")[0] != "regard" or room(target) == room(name):
                continue
            if PLACE.get(room(target), len(PLACE)) >= PLACE[room(name)]:
                yield f"{name}:{line}: {room(name)} may not import {target}; the road: {ROAD}"


def torch_in_data(known: Sources) -> Iterator[str]:
    """In the data room only what makes batches knows torch."""
    for name in known:
        if room(name) == "data" and name not in BATCHES:
            for line, target in imports(name, known):
                if target.split(".")[0] == "torch" or target in BATCHES:
                    yield f"{name}:{line}: {target} brings torch into a part of data that does without"


def cycles(known: Sources) -> Iterator[str]:
    graph = {name: {target for _, target in imports(name, known) if target in known} - {name} for name in known}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "import cycle: " + " <- ".join(error.args[1])


def budgets(known: Sources) -> Iterator[str]:
    for name, text in known.items():
        if (lines := len(text.splitlines())) > FILE_LINES:
            yield f"{name}: {lines} lines (at most {FILE_LINES}); is there a second idea inside?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield f"{name}:{node.lineno}: {node.name} has {lines} lines (at most {FUNCTION_LINES})"
                if (count := parameters(name, node)) > PARAMETERS:
                    yield f"{name}:{node.lineno}: {node.name} has {count} parameters (at most {PARAMETERS})"


def parameters(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count what a caller has to know; the flags of a command and the documented keywords of `attend` do not count."""
    if module.startswith("regard.cli") and any(
        "command" in ast.unparse(decorator) for decorator in node.decorator_list
    ):
        return 0
    positional = len(node.args.posonlyargs) + len(node.args.args)
    return positional + (0 if (module, node.name) == ("regard.model.attend", "attend") else len(node.args.kwonlyargs))


def strangers(known: Sources) -> Iterator[str]:
    """No eval, exec or pickle; import by string only where the public names are lazy."""
    for name, text in known.items():
        for line, target in imports(name, known):
            if target.split(".")[0] in PICKLERS:
                yield f"{name}:{line}: imports {target}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unsafe = any(
                    word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
                )
                by_string = called.endswith("import_module") and name != "regard"
                if called in RUNNERS or unsafe or by_string:
                    yield f"{name}:{node.lineno}: {ast.unparse(node)}"


Check = Callable[[Sources], Iterator[str]]
CHECKS: tuple[Check, ...] = (arrows, torch_in_data, cycles, budgets, strangers)


@pytest.mark.parametrize("check", CHECKS)
def test_the_source_keeps_the_rule(check: Check) -> None:
    known = sources()
    assert "regard" in known
    assert "regard.errors" in known
    complaints = list(check(known))
    assert not complaints, "\n" + "\n".join(complaints)


def many(count: int) -> str:
    return ", ".join(f"p{at}" for at in range(count))


BAD: list[tuple[Check, str, Sources]] = [
    (arrows, "may not import", {"regard.data.store": "from regard.model.attend import attend"}),
    (arrows, "may not import", {"regard.evaluate.metrics": "import regard.model.topk"}),
    (arrows, "may not import", {"regard.errors": "def f():\n    from regard import config", "regard.config": ""}),
    (arrows, "may not import", {"regard.train.loop": "if TYPE_CHECKING:\n    from regard.pipeline import train"}),
    (arrows, "may not import", {"regard.train.loop": "from ..recommend import bundle", "regard.train": ""}),
    (arrows, "may not import", {"regard.model.attend": "from regard import Dataset", "regard": ""}),
    (arrows, "not on the road", {"regard.utils": ""}),
    (torch_in_data, "torch", {"regard.data.store": "import torch.nn"}),
    (torch_in_data, "torch", {"regard.data.split": "from .batches import ranges", "regard.data.batches": ""}),
    (cycles, "cycle", {"regard.data.a": "from regard.data import b", "regard.data.b": "from regard.data.a import x"}),
    (budgets, "351 lines", {"regard.errors": "\n" * 351}),
    (budgets, "f has 61 lines", {"regard.errors": "def f():" + "\n    pass" * 60}),
    (budgets, "f has 10 parameters", {"regard.errors": f"class A:\n  async def f({many(8)}, *, a, b): pass"}),
    (budgets, "attend has 10 parameters", {"regard.model.attend": f"def attend({many(10)}): pass"}),
    (budgets, "attend has 10 parameters", {"regard.model.ranker": f"def attend(*, {many(10)}): pass"}),
    (strangers, "pickle", {"regard.errors": "def f():\n    from pickle import loads"}),
    (strangers, "eval", {"regard.errors": "eval('1')"}),
    (strangers, "torch.load", {"regard.errors": "torch.load(path)"}),
    (strangers, "allow_pickle", {"regard.errors": "np.load(path, allow_pickle=True)"}),
    (strangers, "import_module", {"regard.errors": "importlib.import_module(name)"}),
]


@pytest.mark.parametrize(("check", "words", "known"), BAD)
def test_the_rule_can_fail(check: Check, words: str, known: Sources) -> None:
    assert any(words in complaint for complaint in check(known))


GOOD: Sources = {
    "regard": "if TYPE_CHECKING:\n    from regard.pipeline import train\nimportlib.import_module('x')",
    "regard.errors": "\n" * 350,
    "regard.config": "from regard.errors import InputError",
    "regard.data": "",
    "regard.data.batches": "import torch",
    "regard.data.store": "from . import vocabulary\nimport numpy as np\nnp.load(path, allow_pickle=False)",
    "regard.data.vocabulary": "def f():" + "\n    pass" * 59,
    "regard.model.attend": f"from regard.data.batches import X\ndef attend({many(3)}, *, a, b, c, d, e, f, g): pass",
    "regard.pipeline": f"from regard import data\nmodel.eval()\ndef f({many(9)}): pass",
    "regard.cli": f"from regard import pipeline\n@app.command()\ndef prepare({many(20)}): pass",
}


def test_the_pages_say_what_the_rules_say() -> None:
    top = Path(__file__).parents[1]
    decision = (top / "docs" / "decisions" / "0001-rooms-and-arrows.md").read_text("utf-8")
    assert ROAD in " ".join(decision.split())
    for text in (decision, (top / "README.md").read_text("utf-8")):
        (line,) = [line for line in text.splitlines() if re.search(r"knows? torch", line)]
        assert {f"regard.data.{name}" for name in re.findall(r"(\w+)\.py", line)} == BATCHES


@pytest.mark.parametrize("check", CHECKS)
def test_the_rule_lets_good_code_pass(check: Check) -> None:
    assert list(check(GOOD)) == []
