"""Which calls of a program are awaited: those are answered later, all others at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Span = tuple[int, int]
"""Where a call stands: offsets in bytes of the source."""


def awaited_calls(source: str) -> frozenset[Span]:
    """The calls that stand under an `await` or in a `gather`, there or by a name that is awaited."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()
    starts = _line_starts(source)
    waited = list(_waited_for(tree))
    names = {node.id for node in waited if isinstance(node, ast.Name)}
    roots = [*waited, *_put_under(tree, names)]
    return frozenset(_span(call, starts) for root in roots for call in ast.walk(root) if isinstance(call, ast.Call))


def _waited_for(tree: ast.AST) -> Iterator[ast.AST]:
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
