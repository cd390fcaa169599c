"""The secrets that the cells of a notebook hold: in no line of an export, and no reason to write one down."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence

from agentkit.errors import UserError
from agentkit.journal.redaction import Redactor, secrets_of
from agentkit.journal.secret_formats import find_secrets
from agentkit.pipeline.reader import Cell

_SHORTEST = 12
"""A shorter value may be a word that the program needs; it is hidden where the export only talks."""
_IN_ADDRESS = re.compile(r"https?://[^\s/@:'\"]*:([^\s/@'\"{}]+)@")
_ADDRESS = "the key of a server"


def secrets_in(cells: Sequence[Cell]) -> Redactor:
    """What must not be written: secrets of the environment, those that a cell puts there, and keys in addresses."""
    known = Redactor.from_environ(os.environ)
    known.learn((_ADDRESS, key) for cell in cells for key in _IN_ADDRESS.findall(cell.source))
    known.learn(secrets_of(dict(pair for cell in cells for pair in _find_values(cell.source))))
    return known


def _find_values(source: str) -> Iterator[tuple[str, str]]:
    """`os.environ["NAME"] = "value"` and its kin."""
    for node in ast.walk(_parse(source)):
        match node:
            case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(str(name)))], value=ast.Constant(str(value))):
                yield name, value
            case ast.Call(args=[ast.Constant(str(name)), ast.Constant(str(value))]):
                yield name, value
            case ast.keyword(arg=str(name), value=ast.Constant(str(value))):
                yield name, value
            case ast.Dict(keys=names, values=values):
                for key, held in zip(names, values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(held, ast.Constant):
                        yield str(key.value), str(held.value)


def _parse(source: str) -> ast.AST:
    lines = (line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    try:
        return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def refuse(body: str, cells: Sequence[Cell], known: Redactor) -> None:
    """UserError when the program would hold a secret: it names the cells and says where to read it from."""
    for name, value in known.secrets.items():
        if len(value) >= _SHORTEST and value in body:
            held = ", ".join(str(cell) for cell in cells if value in cell.source) or "the notebook"
            raise UserError(
                f"{held}: {'the value of ' if name != _ADDRESS else ''}{name} stands there as it is, and would in the "
                "program: read it from os.environ in a cell of its own, and use that name"
            )
    for one in find_secrets(body):
        held = ", ".join(str(cell) for cell in cells if one.value in cell.source) or "the notebook"
        raise UserError(
            f"{held}: what looks like a secret ({one.name.rpartition('-')[0]}) stands there as it is, and would in the "
            "program: read it from os.environ in a cell of its own, and use that name"
        )
