"""A program as its top-level statements, so that a person can go through it one by one."""

from __future__ import annotations

import ast
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
        names = tuple(dict.fromkeys(name for node in nodes for name in _assigned(node)))
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


def _assigned(node: ast.AST) -> list[str]:
    """The variables of the program that a statement binds, those of its own functions and classes left out."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return []
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return []
    own = [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
    return [*own, *(name for child in ast.iter_child_nodes(node) for name in _assigned(child))]
