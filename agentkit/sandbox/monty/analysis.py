"""A program as its top-level statements, so that a person can go through it one by one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One statement, or several that share a line. `fed` has it at its own line; `names` is what it assigns there."""

    line: int
    text: str
    fed: str
    names: tuple[str, ...] = ()


def statements(source: str, *, fed: str | None = None) -> tuple[Statement, ...]:
    """The top-level statements of `source`, in order; a source that cannot be read is one statement.

    `fed` is what is fed in the place of it, line for line the same.
    """
    fed = source if fed is None else fed
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return (Statement(line=1, text=source, fed=fed),)
    # As the parser counts them: a form feed in a text is no end of a line.
    lines, given = source.split("\n"), fed.split("\n")
    found: list[Statement] = []
    for first, last, nodes in _blocks(body):
        text = "\n".join(lines[first - 1 : last])
        names = tuple(dict.fromkeys(name for node in nodes for name in _assignments(node)))
        ran = "\n" * (first - 1) + "\n".join(given[first - 1 : last]) + "\n"
        found.append(Statement(line=first, text=text, fed=ran, names=names))
    return tuple(found)


def _blocks(body: list[ast.stmt]) -> list[tuple[int, int, list[ast.stmt]]]:
    """The lines of each statement; what shares a line stays together."""
    blocks: list[tuple[int, int, list[ast.stmt]]] = []
    for node in body:
        decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
        first, last = min([node.lineno, *decorators]), node.end_lineno or node.lineno
        if blocks and first <= blocks[-1][1]:
            before = blocks.pop()
            blocks.append((before[0], max(before[1], last), [*before[2], node]))
        else:
            blocks.append((first, last, [node]))
    return blocks


def _assignments(node: ast.AST) -> list[str]:
    """The variables of the program that a statement binds, those of its own functions and classes left out."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return []
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return []
    own = [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
    return [*own, *(name for child in ast.iter_child_nodes(node) for name in _assignments(child))]


Span = tuple[int, int]
"""Where a call stands: offsets in bytes of the source."""


def find_awaits(source: str) -> frozenset[Span]:
    """The calls that stand under an `await` or in a `gather`, there or by a name that is awaited."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()
    starts = _line_starts(source)
    waited = list(_awaited_nodes(tree))
    names = {node.id for node in waited if isinstance(node, ast.Name)}
    roots = [*waited, *_put_under(tree, names)]
    return frozenset(_span(call, starts) for root in roots for call in ast.walk(root) if isinstance(call, ast.Call))


def _awaited_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Await) and not _is_gather(node.value):
            yield node.value
            # Its own arguments are computed before it is awaited.
        elif isinstance(node, ast.Call) and _is_gather(node):
            yield from (arg.value if isinstance(arg, ast.Starred) else arg for arg in node.args)


def _is_gather(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == "gather"


def _put_under(tree: ast.AST, names: set[str]) -> Iterator[ast.AST]:
    """What is assigned to one of the names, or appended to it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id in names for to in node.targets):
            yield node.value
        elif isinstance(node, ast.Call) and _appends(node, names):
            yield from node.args


def _appends(call: ast.Call, names: set[str]) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr="append"):
            return name in names
        case _:
            return False


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _span(call: ast.Call, starts: list[int]) -> Span:
    end_line, end_column = call.end_lineno or call.lineno, call.end_col_offset or 0
    return (starts[call.lineno - 1] + call.col_offset, starts[end_line - 1] + end_column)
