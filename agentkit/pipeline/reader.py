"""The notebook as it is exported: its code cells in order, from the file or from a kernel's history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkit.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A code cell; `number` counts code cells from 1, as `[1]` does after Restart and Run All."""

    number: int
    source: str
    tags: frozenset[str] = frozenset()
    executed: int | None = None

    def __str__(self) -> str:
        return f"cell {self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notebook:
    """`live` are the kernel's own values where there is a kernel: they tell types, and state that no cell makes."""

    name: str
    cells: tuple[Cell, ...]
    live: Mapping[str, Any] | None = field(default=None, repr=False)


def read(path: Path, *, live: Mapping[str, Any] | None = None) -> Notebook:
    """The notebook in the file at `path`; UserError says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: name the notebook to export") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a notebook ({error}): save it again in Jupyter") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise UserError(f"{path} is not a notebook of format 4: open it in Jupyter and save it again")
    language = ((content.get("metadata") or {}).get("kernelspec") or {}).get("language", "python")
    if str(language).lower() != "python":
        raise UserError(f"{path} is a notebook in {language}: only Python is exported")
    try:
        cells = [_cell(cell) for cell in content["cells"] if cell["cell_type"] == "code"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} has a cell that cannot be read ({error!r}): save it again in Jupyter") from error
    numbered = tuple(_make_cell(number, *cell) for number, cell in enumerate(cells, 1))
    return Notebook(name=path.stem, cells=numbered, live=live)


def _cell(cell: Mapping[str, Any]) -> tuple[str, frozenset[str], int | None]:
    source = cell["source"]
    tags = frozenset(map(str, (cell.get("metadata") or {}).get("tags") or ()))
    return source if isinstance(source, str) else "".join(source), tags, cell.get("execution_count")


def _make_cell(number: int, source: str, tags: frozenset[str], executed: int | None) -> Cell:
    return Cell(number=number, source=source, tags=tags | _comment_tags(source), executed=executed)


def _comment_tags(source: str) -> frozenset[str]:
    """A first line `# parameters` says what the tag says, where tags are hard to get at."""
    first = source.lstrip("\n").split("\n", 1)[0].strip().lower()
    return frozenset({"parameters"} if first.removeprefix("#").strip() == "parameters" and first[:1] == "#" else ())


def from_history(name: str, sources: Sequence[str], live: Mapping[str, Any]) -> Notebook:
    """What was executed in a kernel whose notebook has no file that can be found, in the order it was executed."""
    kept = [source for source in sources if source.strip()]
    cells = tuple(_make_cell(number, source, frozenset(), number) for number, source in enumerate(kept, 1))
    return Notebook(name=name, cells=cells, live=live)
