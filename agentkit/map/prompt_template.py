"""The prompt of a map: a text with `{{ row.column }}`, checked against the table, filled in for many rows at once."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

from agentkit.errors import SpecError, UserError, nearest
from agentkit.map.plain_values import cell_texts
from agentkit.map.table import Piece, Table, describe_columns
from agentkit.values.expressions import CHARACTERS, Hole, shorten, split
from agentkit.values.registry import text as writable

Path: TypeAlias = tuple[str | int, ...]

_KEYWORD = re.compile(r"\brow\.(?P<name>[A-Za-z_]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reference:
    """What an expression names: a column (None: the whole row, or its label) and the path into its cells."""

    hole: Hole
    what: str
    column: str | None = None
    path: Path = ()

    @property
    def where(self) -> str:
        return f"line {self.hole.line}: {{{{ {self.hole.source} }}}}"


class PromptTemplate:
    """A prompt with the columns that it names. It is parsed, never evaluated."""

    def __init__(self, parts: Sequence[str | _Reference], table: Table) -> None:
        self._parts = tuple(parts)
        self._table = table.name
        self._columns = table.columns
        self._shortened = False
        named = [part for part in parts if isinstance(part, _Reference)]
        self.constant = not named
        """Whether the prompt is the same for every row."""
        whole = any(part.what == "row" for part in named)
        self.columns: tuple[str, ...] = tuple(
            name for name in table.columns if whole or any(part.column == name for part in named)
        )
        """The columns that must be read to fill it in."""

    @classmethod
    def parse(cls, source: str, table: Table, *, values: Mapping[str, str] | None = None) -> PromptTemplate:
        """Return the template of `source`; `values` are the texts of expressions that name neither row nor index.

        `{{ row.column }}`, `{{ row["a column"] }}`, `{{ row.cell.key[0] }}`, `{{ row }}` and `{{ index }}` may stand in
        it; `{{{{` is two literal braces. Raise SpecError, in one line, for anything else and for unknown columns.
        """
        if not source.strip():
            raise SpecError("the prompt is empty: write what the agent is asked of each row")
        parts: list[str | _Reference] = []
        for part in _split(source):
            if isinstance(part, Hole):
                said = (values or {}).get(part.source)
                if said is not None and not isinstance(said, str):
                    raise SpecError(
                        f"line {part.line}: {{{{ {part.source} }}}} is no text: the prompt of a row is text"
                    )
                parts.append(_reference(part, table) if said is None else said)
            else:
                parts.append(part)
        template = cls(_join_texts(parts), table)
        template._check_paths(table)
        return template

    def render(self, piece: Piece) -> list[str]:
        """Return the prompt of each row of `piece`."""
        count = len(piece)
        columns = [repeat(part, count) if isinstance(part, str) else self._texts(part, piece) for part in self._parts]
        return [text.strip() for text in map("".join, zip(*columns, strict=True))]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on what was rendered: said once, however many rows they are about."""
        return (f"only the first {CHARACTERS:,} characters of longer cells are sent",) if self._shortened else ()

    def _texts(self, part: _Reference, piece: Piece) -> Iterable[str]:
        if part.what == "index":
            return self._bounded(cell_texts(piece.index))
        if part.column is None and not part.path and piece.columns:
            return self._rows(piece)
        cells = piece.values if part.column is None else piece.columns[part.column]
        if part.path:
            cells = [self._follow(part, cell, piece.start + place) for place, cell in enumerate(cells)]
        return self._bounded(cell_texts(cells))

    def _rows(self, piece: Piece) -> Iterable[str]:
        """The rows as lines `column: value`, in the order of the table's columns."""
        lines: list[Iterable[str]] = []
        for place, name in enumerate(self._columns):
            lines.append(repeat(f"{chr(10) * (place > 0)}{name}: ", len(piece)))
            lines.append(self._bounded(cell_texts(piece.columns[name])))
        return map("".join, zip(*lines, strict=True))

    def _bounded(self, found: list[str]) -> list[str]:
        if not all(map(str.isascii, found)):
            found = list(map(writable, found))
        if max(map(len, found), default=0) > CHARACTERS:
            self._shortened = True
            found = list(map(shorten, found))
        return found

    def _follow(self, part: _Reference, cell: Any, ordinal: int) -> Any:
        """The value at the path in a cell; the empty text where the cell has no such key."""
        for step in part.path:
            cell = self._step(part, cell, step, ordinal)
        return cell

    def _step(self, part: _Reference, cell: Any, step: str | int, ordinal: int) -> Any:
        if cell == "":
            return ""
        if isinstance(cell, dict) and isinstance(step, str):
            found = cell.get(step)
        elif isinstance(cell, list) and isinstance(step, int):
            found = cell[step] if -len(cell) <= step < len(cell) else None
        else:
            raise UserError(
                f"{part.where}: {_shown(step)} is asked of {type(cell).__name__} {str(cell)[:40]!r} in row {ordinal} "
                f"of {self._table}: only lists and dicts have parts"
            )
        return "" if found is None else found

    def _check_paths(self, table: Table) -> None:
        """Raise SpecError where a path leads nowhere in all of the first rows."""
        paths = [part for part in self._parts if isinstance(part, _Reference) and part.path]
        if not paths:
            return
        first = next(table.pieces(columns=self.columns))
        for part in paths:
            cells = list(first.values if part.column is None else first.columns[part.column])
            for step in part.path:
                dicts = [cell for cell in cells if isinstance(cell, dict)]
                if dicts and not any(step in cell for cell in dicts):
                    known = list(dict.fromkeys(key for cell in dicts for key in cell))
                    raise SpecError(
                        f"{part.where}: no row of {self._table} has {step} there{nearest(str(step), known)}; "
                        f"they have {', '.join(known[:12])}"
                    )
                cells = [self._step(part, cell, step, ordinal) for ordinal, cell in enumerate(cells)]


def outer_expressions(source: str) -> tuple[str, ...]:
    """Return the expressions of a prompt that name neither row nor index: who calls gives their texts to `parse`."""
    holes = [part for part in _split(source) if isinstance(part, Hole)]
    return tuple(dict.fromkeys(hole.source for hole in holes if not _names(hole) & {"row", "index"}))


def _split(source: str) -> list[str | Hole]:
    try:
        return list(split(source))
    except SpecError as error:
        # A column may be called as Python's words are.
        for found in _KEYWORD.finditer(source):
            if keyword.iskeyword(found["name"]):
                raise SpecError(f'{error}: write row["{found["name"]}"]') from error
        raise


def _names(hole: Hole) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(hole.source, mode="eval")) if isinstance(node, ast.Name)}


def _reference(hole: Hole, table: Table) -> _Reference:
    where = f"line {hole.line}: {{{{ {hole.source} }}}}"
    found = _read_path(ast.parse(hole.source, mode="eval").body)
    if found is None or found[0] not in ("row", "index") or (found[0] == "index" and found[1]):
        known = f" (did you mean row.{hole.source}?)" if hole.source in table.columns else ""
        raise SpecError(
            f'{where}: only row, its columns (row.name, row["a name"]) and index can stand in the prompt of a '
            f"map{known}; compute anything else in a column first"
        )
    name, path = found
    if name == "index":
        return _Reference(hole=hole, what="index")
    if not path:
        return _Reference(hole=hole, what="row")
    if not table.columns:
        if isinstance(path[0], str):
            raise SpecError(f"{where}: the rows of {table.name} are values without columns: write {{{{ row }}}}")
        return _Reference(hole=hole, what="row", path=path)
    column = path[0]
    if column not in table.columns:
        raise SpecError(
            f"{where}: {table.name} has no column {column}{nearest(str(column), table.columns)}; "
            f"it has {describe_columns(table)}"
        )
    return _Reference(hole=hole, what="column", column=str(column), path=path[1:])


def _read_path(node: ast.expr) -> tuple[str, Path] | None:
    """A name and the steps after it, or None where the expression is anything else."""
    steps: list[str | int] = []
    while True:
        match node:
            case ast.Name(id=name):
                return name, tuple(reversed(steps))
            case ast.Attribute(value=inner, attr=step):
                node = inner
                steps.append(step)
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as key)) if not isinstance(
                key, bool
            ):
                node = inner
                steps.append(key)
            case ast.Subscript(
                value=inner, slice=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number))
            ):
                node = inner
                steps.append(-number)
            case _:
                return None


def _shown(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


def _join_texts(parts: Iterable[str | _Reference]) -> list[str | _Reference]:
    joined: list[str | _Reference] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined
