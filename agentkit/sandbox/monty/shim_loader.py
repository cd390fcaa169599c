"""The shims as Monty runs them: each module's names set apart, and gathered under one name that an import can give."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

_FOLDER = Path(__file__).with_name("shims")
CHECKS = "checks"
"""What stands for builtins; no module of that name can be imported."""
MODULES = tuple(sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem not in ("__init__", CHECKS)))
"""The modules that Monty lacks, or has otherwise, and that are here."""


def shim_name(module: str, name: str = "") -> str:
    """What a module, or a name of it, is called inside."""
    return f"_agentkit_{module}_{name}" if name else f"_agentkit_{module}"


@functools.cache
def names(module: str) -> dict[str, str]:
    """The public names of a shim and what each is called inside."""
    return {public: shim_name(module, own) for public, own in _public(_tree(module)).items()}


@functools.cache
def source(module: str) -> str:
    """The shim as one piece of code."""
    tree = _tree(module)
    apart = _Apart(module, _definitions(tree))
    body = [apart.visit(node) for node in tree.body if not _is_dropped(node)]
    namespace = [f"    {public} = {inside}" for public, inside in names(module).items()]
    return "\n".join(
        [*map(ast.unparse, map(_without_annotations, body)), f"class {shim_name(module)}:", *namespace, ""]
    )


def _tree(module: str) -> ast.Module:
    return ast.parse((_FOLDER / f"{module}.py").read_text(encoding="utf-8"))


def _is_dropped(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.ImportFrom(module="typing"):
            return True
        case ast.Assign(targets=[ast.Name(id="SPELLED")]):
            return True
        case _:
            return False


def _definitions(tree: ast.Module) -> list[str]:
    found: list[str] = []
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append(name)
            case ast.Assign(targets=targets):
                found += [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.append(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                found += [alias.asname for alias in aliases if alias.asname]
    return found


def _public(tree: ast.Module) -> dict[str, str]:
    own = {name: name for name in _definitions(tree) if not name.startswith("_") and name != "SPELLED"}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SPELLED":
            own |= ast.literal_eval(node.value)
    return own


class _Apart(ast.NodeTransformer):
    """Gives the names of a module a prefix, so that a program's own names cannot meet them."""

    def __init__(self, module: str, names: list[str]) -> None:
        self._names = {name: shim_name(module, name) for name in names}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(id=self._names.get(node.id, node.id), ctx=node.ctx)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if node.col_offset == 0:
            node.name = self._names.get(node.name, node.name)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.name = self._names.get(node.name, node.name)
        return node

    def visit_alias(self, node: ast.alias) -> ast.alias:
        return ast.alias(name=node.name, asname=self._names.get(node.asname or "", node.asname))


def _without_annotations(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                node.body = node.body[1:]
        elif isinstance(node, ast.arg):
            node.annotation = None
    return tree
