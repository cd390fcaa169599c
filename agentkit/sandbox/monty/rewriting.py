"""The source as it is fed: shims in the place of imports, real iterators where Monty has lists; every line stays."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentkit.sandbox.monty import shim_loader
from agentkit.sandbox.monty.problem import problem

_CHECKED = shim_loader.shim_name(shim_loader.CHECKS, "checked")
_ROUNDED = f"round = {shim_loader.shim_name(shim_loader.CHECKS, 'rounded')}\n"
_LAZY = frozenset({"map", "filter", "zip", "enumerate", "reversed"})
_WHOLE = frozenset(
    {"list", "tuple", "set", "frozenset", "dict", "sorted", "sum", "min", "max", "any", "all", "Counter", "deque"}
    | {"fsum", "prod", "join", "extend", "update", "mean", "median", "gather"}
)
"""What uses up an iterable at once, so that a list does as well."""


@dataclass(frozen=True, kw_only=True, order=True)
class Edit:
    """`text` in the place of what stands from (line, start) to (end_line, end): lines from 1, columns in bytes."""

    line: int
    start: int
    end_line: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`fed` is run in the place of the source, after `prelude`."""

    fed: str
    prelude: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    raises: frozenset[int] = frozenset()
    """The lines on which a `raise` of the program stands: what is raised there is the program's own."""

    def column(self, line: int, column: int) -> int:
        """The column of the source that `column` of the fed text stands for, both from 1."""
        shift = 0
        for edit in self.edits:
            if edit.line != line or edit.end_line != line or edit.start + shift >= column - 1:
                continue
            grown = len(edit.text) - (edit.end - edit.start)
            if edit.end + shift + grown > column - 1 and edit.end > edit.start:
                return edit.start + 1
            shift += grown
        return max(1, column - shift)


def prepare(source: str) -> Prepared:
    """`source`, which has been checked, as it is fed."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    edits = sorted([*_imports(tree), *_formats(tree), *_iterators(tree, parents)])
    _check_positions(source, tree, edits)
    prelude = [shim_loader.source(module) for module in sorted(set(_shims(tree)))]
    rounds = any(isinstance(node, ast.Name) and node.id == "round" for node in ast.walk(tree))
    if rounds or any(_CHECKED in edit.text for edit in edits):
        prelude += [shim_loader.source(shim_loader.CHECKS), *([_ROUNDED] if rounds else [])]
    raises = frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )
    return Prepared(fed=_apply_edits(source, edits), prelude=tuple(prelude), edits=tuple(edits), raises=raises)


def _check_positions(source: str, tree: ast.AST, edits: list[Edit]) -> None:
    """Python 3.11 does not always know where something stands inside an f-string: refused, not guessed."""
    edited = {(edit.line, edit.start) for edit in edits}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for inner in ast.walk(node):
                if isinstance(inner, ast.GeneratorExp | ast.Call) and (inner.lineno, inner.col_offset) in edited:
                    said = ast.get_source_segment(source, inner) or ""
                    try:
                        same = ast.dump(ast.parse(f"({said})", mode="eval").body) == ast.dump(inner)
                    except SyntaxError:
                        same = False
                    if not same:
                        found = problem(node, "this iterator stands inside an f-string", "a variable, and that in it")
                        raise found.error(source)


def _apply_edits(source: str, edits: Iterable[Edit]) -> str:
    lines = source.encode().split(b"\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    whole = source.encode()
    # From the end, so that what stands before keeps its place; of two at one place the later one goes in first.
    for edit in sorted(edits, key=lambda edit: (edit.line, edit.start, edit.end_line, edit.end), reverse=True):
        start, end = starts[edit.line - 1] + edit.start, starts[edit.end_line - 1] + edit.end
        whole = whole[:start] + edit.text.encode() + whole[end:]
    return whole.decode()


def _replace(node: ast.AST, text: str) -> Edit:
    line, start = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Edit(
        line=line, start=start, end_line=getattr(node, "end_lineno", line), end=getattr(node, "end_col_offset", start),
        text=text,
    )  # fmt: skip


def _around(node: ast.expr, before: str, after: str = ")") -> Iterator[Edit]:
    yield Edit(line=node.lineno, start=node.col_offset, end_line=node.lineno, end=node.col_offset, text=before)
    line, end = node.end_lineno or node.lineno, node.end_col_offset or 0
    yield Edit(line=line, start=end, end_line=line, end=end, text=after)


# ---- imports


def _shims(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from {alias.name for alias in aliases if alias.name in shim_loader.MODULES}
            case ast.ImportFrom(module=str(module)) if module in shim_loader.MODULES:
                yield module


def _imports(tree: ast.AST) -> Iterator[Edit]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases) if any(alias.name in shim_loader.MODULES for alias in aliases):
                parts = [_import(alias) for alias in aliases]
            case ast.ImportFrom(module=str(module), names=aliases) if module in shim_loader.MODULES:
                names = shim_loader.names(module)
                parts = [f"{alias.asname or alias.name} = {names[alias.name]}" for alias in aliases]
            case _:
                continue
        # Parentheses let the last part take as many lines as the import did.
        more = "\n" * ((node.end_lineno or node.lineno) - node.lineno)
        if more:
            name, _, value = parts[-1].partition(" = ")
            parts[-1] = f"{name} = ({more}{value})"
        yield _replace(node, "; ".join(parts))


def _import(alias: ast.alias) -> str:
    if alias.name in shim_loader.MODULES:
        return f"{alias.asname or alias.name} = {shim_loader.shim_name(alias.name)}"
    return f"import {alias.name} as {alias.asname}" if alias.asname else f"import {alias.name}"


# ---- calls that are checked while they run


def _formats(tree: ast.AST) -> Iterator[Edit]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="strptime"), args=[_, format]) if not isinstance(
                format, ast.Constant
            ):
                yield from _around(format, f"{_CHECKED}(")


# ---- iterators


def _iterators(tree: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[Edit]:
    """`iter(...)` around what is an iterator in Python and a list in Monty, unless it is used up on the spot."""
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.GeneratorExp() if not _is_consumed(node, parents):
                yield from _around(
                    node, "iter(" if _is_bare(node, parents) else "(iter(", ")" if _is_bare(node, parents) else "))"
                )
            case ast.Call(func=ast.Name(id=name)) if name in _LAZY - own and not _is_consumed(node, parents):
                yield from _around(node, "iter(")


def find_iterators(tree: ast.AST) -> list[ast.expr]:
    """Iterators that are not used up where they stand, and such as call a function of the program until one fits."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found = []
    for node in ast.walk(tree):
        lazy = isinstance(node, ast.GeneratorExp) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _LAZY - own
        )
        if lazy and isinstance(node, ast.expr) and (not _is_consumed(node, parents) or _may_stop(node, parents, own)):
            found.append(node)
    return found


def _may_stop(node: ast.expr, parents: dict[ast.AST, ast.AST], own: set[str]) -> bool:
    match parents[node]:
        case ast.Call(func=ast.Name(id="any" | "all")):
            return any(isinstance(inner, ast.Name) and inner.id in own for inner in ast.walk(node))
        case _:
            return False


def _is_bare(node: ast.GeneratorExp, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether its parentheses are its own, not those of the call it is the only argument of."""
    parent = parents[node]
    if not isinstance(parent, ast.Call) or parent.args != [node] or parent.keywords:
        return True
    return (parent.end_lineno, parent.end_col_offset) != (node.end_lineno, node.end_col_offset)


def _is_consumed(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    parent = parents[node]
    match parent:
        case ast.For(iter=iter) | ast.comprehension(iter=iter):
            return iter is node
        case ast.Starred():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in _WHOLE or (name in _LAZY and _is_consumed(parent, parents))
        case _:
            return False
