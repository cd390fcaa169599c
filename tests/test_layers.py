"""The drawing of the house, enforced: a folder is a concept, a file an idea, and imports point down."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "agentkit"

FLOORS: tuple[tuple[str, ...], ...] = (
    # from the top: who stands higher may import who stands lower; inside a folder only circles are forbidden
    ("testing",),
    ("cli",),
    ("notebook",),
    ("pipeline",),
    ("trace",),
    ("map",),
    ("debugger",),
    ("sandbox",),
    ("agent",),
    ("sandbox.code_tool", "sandbox.deterministic_clock", "sandbox.process.isolate", "sandbox.process.program_tier"),
    ("guards",),
    ("budget",),
    ("approval",),
    ("runtime",),
    # the rules of a concept, without its runs: a session holds them, so they stand below it
    ("debugger.breakpoints", "debugger.debug_registry", "debugger.gate", "debugger.overrides"),
    ("approval.decisions", "approval.policy", "guards.loop_detector"),
    ("budget.budget", "budget.ledger"),
    ("sandbox.boundary", "sandbox.dataframe_handle", "sandbox.limits", "sandbox.monty", "sandbox.process"),
    ("models",),
    ("journal",),
    ("tools",),
    ("values",),
    ("errors", "events", "text"),
)
"""Where everything stands. A module stands where the longest name here that it begins with stands."""

WAY_OUT = (
    "imports point down. Move what both need to a lower floor, pass it in as an argument, or let the upper one "
    "register it; tests/test_layers.py draws the floors"
)

JUPYTER = {"IPython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "nbclient", "nbformat", "jupyter_client"}
COMMANDS = {"nbclient", "nbformat", "jupyter_client"}
"""What cli/ may import: it starts kernels, but draws nothing."""


class Import(NamedTuple):
    module: str
    line: int
    typing_only: bool


def name_of(path: Path) -> str:
    """The module below agentkit: `journal.store`; a folder's `__init__` has the folder's name, the root's is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int:
    """The floor, counted from the top."""
    name = module
    while name:
        for floor, units in enumerate(FLOORS):
            if name in units:
                return floor
        name = name.rpartition(".")[0]
    raise AssertionError(f"agentkit/{module.replace('.', '/')} stands on no floor: draw it in tests/test_layers.py")


def imports_of(tree: ast.AST, typing_only: bool = False) -> Iterator[Import]:
    """Every import in the file, those hidden in functions too."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (Import(alias.name, node.lineno, typing_only) for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield from (Import(f"{module}.{alias.name}", node.lineno, typing_only) for alias in node.names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from imports_of(node, True)
            case _:
                yield from imports_of(node, typing_only)


def known_module(name: str) -> str | None:
    """The module of ours that `name` (which may end in a class or function) lies in."""
    name = name.removeprefix("agentkit").removeprefix(".") if name.partition(".")[0] == "agentkit" else ""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if name_of(path)}
FOLDERS = sorted(path.parent for path in ROOT.rglob("*/__init__.py"))
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
INTERNAL = {
    name: [(i, target) for i in imports_of(tree) if (target := known_module(i.module))] for name, tree in TREES.items()
}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    wrong = [
        f"{MODULES[name].relative_to(ROOT.parent)}:{i.line} imports {target}, which stands "
        + ("beside it" if floor_of(target) == floor_of(name) else "above it")
        for i, target in INTERNAL[name]
        if target.partition(".")[0] != name.partition(".")[0] and floor_of(target) <= floor_of(name)
    ]
    assert not wrong, "\n".join([*wrong, WAY_OUT])


@pytest.mark.parametrize("name", MODULES)
def test_only_the_notebook_folder_imports_jupyter(name: str) -> None:
    folder = name.partition(".")[0]
    allowed = JUPYTER if folder == "notebook" else COMMANDS if folder == "cli" else set()
    wrong = {
        f"{name}:{i.line} imports {i.module}"
        for i in imports_of(TREES[name])
        if (package := i.module.partition(".")[0]) in JUPYTER and package not in allowed
    }
    assert not wrong, f"{wrong}: agentkit works without Jupyter; what needs it belongs in agentkit/notebook"


@pytest.mark.parametrize("name", FLOORS[-1])
def test_the_ground_floor_imports_only_the_standard_library(name: str) -> None:
    foreign = {i.module.partition(".")[0] for i in imports_of(TREES[name])} - sys.stdlib_module_names
    assert foreign == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {target for _, target in INTERNAL[name]} - {name} for name in MODULES}
    for name in graph:
        seen: set[str] = set()
        frontier = set(graph[name])
        while frontier:
            seen |= frontier
            frontier = set().union(*(graph[module] for module in frontier)) - seen
        assert name not in seen, f"{name} imports itself through {sorted(seen)}"


def test_no_file_name_stands_twice() -> None:
    """Who looks for a file by its name finds one. The shims are named as the modules they stand in for."""
    found = defaultdict(list)
    for name, path in MODULES.items():
        if path.name != "__init__.py" and ".shims." not in name:
            found[path.name].append(name)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


CONTEXT_VARIABLES = {
    "journal.execution": "the run and the step that are performed",
    "runtime.session": "the session and the execution that runs begin in",
    "runtime.run_terms": "how runs that begin are made",
    "models.request_context": "the model request that is made",
    "tools.inputs": "who hears what a tool reads",
    "notebook.output": "the cell, and where it draws",
}


def test_what_code_finds_in_its_context_stands_in_few_variables() -> None:
    """What describes a run or a step is a field of its frame, and is not found beside it."""
    found = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "ContextVar"
    ]
    assert sorted(found) == sorted(CONTEXT_VARIABLES), "make it a field of what stands in one of CONTEXT_VARIABLES"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_the_init_of_a_folder_is_only_a_docstring(folder: Path) -> None:
    """`pipeline` names what an exported program calls."""
    if folder == ROOT / "pipeline":
        return
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1
