"""The drawing of the house, enforced: imports point down, siblings do not see each other, nothing grows too long."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "agentkit"

LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "events", "text", "values", "liveness", "inputs"),
    ("define", "durable", "defend"),
    ("engine",),
    ("observe",),
    ("pipeline",),
    ("notebook",),
    ("demo", "headless"),
    ("agentkit", "cli", "testing"),
)
"""From the ground up. What stands on one level are siblings: a folder may import itself, never a sibling."""

GROUND_ALLOWED = {
    "errors": set[str](),
    "events": set[str](),
    "inputs": set[str](),
    "text": set[str](),
    "liveness": set[str](),
    "values": {"errors"},
}
"""The ground floor imports the standard library only; `values` may raise our own errors."""

JUPYTER = {"IPython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "nbclient", "nbformat", "jupyter_client"}
COMMANDS = {"nbclient", "nbformat", "jupyter_client"}
"""What demo.py and headless.py may import: they start kernels, but draw nothing."""


class Import(NamedTuple):
    module: str
    line: int
    typing_only: bool


def level_of(unit: str) -> int:
    return next(level for level, units in enumerate(LEVELS) if unit in units)


def unit_of(module: str) -> str:
    """`agentkit.journal.store` stands in the unit `durable`; the root package is a unit itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "agentkit"


def name_of(path: Path) -> str:
    parts = ("agentkit", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "notebooks" not in path.parts)


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


def known_module(name: str, modules: set[str]) -> str | None:
    """The module that `name` (which may end in a class or function) lies in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


MODULES = {name_of(path): path for path in sources()}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
INTERNAL = {
    name: [(i, target) for i in imports_of(tree) if (target := known_module(i.module, set(MODULES)))]
    for name, tree in TREES.items()
}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    unit = unit_of(name)
    wrong = [
        f"{name}:{i.line} imports {target}"
        for i, target in INTERNAL[name]
        if (other := unit_of(target)) != unit
        and other not in GROUND_ALLOWED.get(unit, set())
        and level_of(other) >= level_of(unit)
        # The root package is a facade: it names what it offers, to type checkers only.
        and not (name == "agentkit" and level_of(other) < level_of("agentkit"))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", MODULES)
def test_only_the_notebook_folder_imports_jupyter(name: str) -> None:
    allowed = JUPYTER if unit_of(name) == "notebook" else COMMANDS if unit_of(name) in {"demo", "headless"} else set()
    wrong = {
        f"{name}:{i.line} imports {i.module}"
        for i in imports_of(TREES[name])
        if (package := i.module.partition(".")[0]) in JUPYTER
        and package not in allowed
        and not (name == "agentkit" and i.typing_only)
    }
    assert wrong == set()


@pytest.mark.parametrize("name", MODULES)
def test_the_ground_floor_imports_only_the_standard_library(name: str) -> None:
    if level_of(unit_of(name)) > 0:
        return
    foreign = {i.module.partition(".")[0] for i in imports_of(TREES[name])} - sys.stdlib_module_names - {"agentkit"}
    assert foreign == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {target for _, target in INTERNAL[name]} - {name, "agentkit"} for name in MODULES}
    for name in graph:
        seen: set[str] = set()
        frontier = set(graph[name])
        while frontier:
            seen |= frontier
            frontier = set().union(*(graph[module] for module in frontier)) - seen
        assert name not in seen, f"{name} imports itself through {sorted(seen)}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_stays_under_760_lines(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) < 760


@pytest.mark.parametrize("name", MODULES)
def test_no_function_is_longer_than_70_lines(name: str) -> None:
    long = [
        f"{name}:{node.lineno} {node.name}"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 70
    ]
    assert long == []


@pytest.mark.parametrize("folder", sorted(path for path in ROOT.iterdir() if (path / "__init__.py").exists()))
def test_the_init_of_a_folder_is_only_a_docstring(folder: Path) -> None:
    if folder.name == "pipeline":  # it names what an exported program calls
        return
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1
