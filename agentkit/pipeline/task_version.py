"""The version of one task of a program: everything it is made of, as the file says it now."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from agentkit.pipeline.image import packages_by_module
from agentkit.pipeline.names import uses


def closure(file: str, name: str) -> str:
    """A digest of the definition of `name` in `file`, of all it uses there, and of the packages it imports.

    An edited prompt, tool or constant and an upgraded package give another one; formatting and comments do not.
    """
    parts = list(_reach(Path(file).read_text(encoding="utf-8"), name))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _reach(text: str, name: str) -> Iterator[str]:
    givers = _givers(text)
    wanted, seen = [name], {name}
    while wanted:
        here = wanted.pop()
        for node, needs in givers.get(here, ()):
            yield f"{here}: {ast.dump(node)}"
            yield from _versions(node)
            wanted += sorted(needs - seen)
            seen |= needs


@lru_cache(maxsize=8)
def _givers(text: str) -> dict[str, list[tuple[ast.stmt, frozenset[str]]]]:
    givers: dict[str, list[tuple[ast.stmt, frozenset[str]]]] = {}
    for node in ast.parse(text).body:
        used = uses(node)
        # What Flyte is told of machines and of caching is not part of what is computed.
        plain = _without_decorators(node)
        needs = used.all_reads if plain is node else uses(plain).all_reads
        for bound in used.binds | used.changes:
            givers.setdefault(bound, []).append((plain, needs))
    return givers


def _without_decorators(node: ast.stmt) -> ast.stmt:
    match node:
        case ast.AsyncFunctionDef(decorator_list=[ast.Call(func=ast.Attribute(attr="task")), *_]):
            return ast.AsyncFunctionDef(
                name=node.name,
                args=node.args,
                body=node.body,
                decorator_list=[],
                returns=node.returns,
                lineno=node.lineno,
            )
        case _:
            return node


def _versions(node: ast.stmt) -> Iterator[str]:
    modules: set[str] = set()
    match node:
        case ast.Import(names=aliases):
            modules = {alias.name.partition(".")[0] for alias in aliases}
        case ast.ImportFrom(module=str(module), level=0):
            modules = {module.partition(".")[0]}
    for module in sorted(modules):
        for package in sorted(set(packages_by_module().get(module, ()))):
            yield f"{package}=={version(package)}"
