"""What a notebook changes around itself, or asks about itself, that its program does not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from agentkit.errors import UserError
from agentkit.map.row_files import names_file
from agentkit.pipeline.cells import DURABLE, CellContents, Item
from agentkit.pipeline.reader import Cell

_FOLDER = re.compile(r"[%]?(?:cd|pushd|popd)(?:\s|$)")
_VARIABLE = re.compile(r"%?(?:set_)?env\s+(?P<name>\w+)(?:\s*=|\s+\S)")
_FILES = frozenset(
    "open Path read_text read_bytes write_text write_bytes getcwd listdir scandir walk glob rglob iterdir isfile "
    "isdir abspath resolve connect imread loadtxt genfromtxt fromfile subprocess system popen chdir to_csv to_parquet "
    "to_json to_excel to_pickle to_feather to_hdf to_sql".split()
)
_OF_PROVIDERS = re.compile(
    r"AGENTKIT_|\w+_(?:API_KEY|API_BASE|BASE_URL|ENDPOINT|TOKEN|PROXY)$|HTTPS?_PROXY", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class _Change:
    cell: Cell
    text: str
    what: Literal["folder", "variable"]
    name: str = ""


def check(contents: CellContents, kept: Sequence[Item]) -> None:
    """Raise UserError, with the cell named, for what statements of the program need and it will not have."""
    for item in kept:
        if (asked := _asks_about_itself(item)) is not None:
            raise UserError(
                f"{item.cell} uses {asked}, which is another thing in a program than in a notebook: write the path or "
                "the name itself, or tag the cell `skip`"
            )
    last_run = max((item.cell.number for item in kept if _runs(item)), default=0)
    for change in _changes(contents):
        need = next((item for item in kept if _needs(item, change)), None)
        if need is None or change.cell.number > last_run:
            continue
        if change.what == "folder":
            raise UserError(
                f"{change.cell} changes the folder ({change.text}), and {need.cell} works with files: a program runs "
                "where it is started, and a task where it is sent; write whole paths there, or take the folder as a "
                "parameter, and tag this cell `skip`"
            )
        raise UserError(
            f"{change.cell} sets {change.name}, which {need.cell} needs: give it "
            "in the environment of the program, or as a parameter, and tag this cell `skip`"
        )


def _changes(contents: CellContents) -> Iterator[_Change]:
    for left in contents.left_out:
        if left.why != "a magic":
            continue
        if _FOLDER.match(left.text):
            yield _Change(cell=left.cell, text=left.text, what="folder")
        elif (found := _VARIABLE.match(left.text)) is not None:
            yield _Change(cell=left.cell, text=left.text, what="variable", name=found["name"])
    for item in contents.items:
        if item.role == "code" and "chdir" in _names(item):
            yield _Change(cell=item.cell, text=item.text.strip().partition("\n")[0], what="folder")


def _needs(item: Item, change: _Change) -> bool:
    if item.role != "definition" and item.cell.number < change.cell.number:
        return False
    names = set(_names(item))
    if change.what == "folder" and item.role == "map" and names_file(item.options["rows"]):
        return True
    if change.what == "folder":
        changes_it = item.role == "code" and "chdir" in names and item.cell.number == change.cell.number
        return not changes_it and any(name in _FILES or name.startswith("read_") for name in names)
    if _runs(item) and _OF_PROVIDERS.match(change.name):
        return True
    return change.name in _texts(item) or bool(names & {"environ", "getenv"} and not _texts(item))


def _runs(item: Item) -> bool:
    return item.role in DURABLE or item.uses.awaits


def _asks_about_itself(item: Item) -> str | None:
    names = set(_names(item))
    if "__file__" in names:
        return "__file__"
    if "__main__" in names or ("__name__" in names and "__main__" in _texts(item)):
        return "__main__"
    return None


def _names(item: Item) -> Iterator[str]:
    for part in _parts(item):
        match part:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from (alias.name for alias in aliases)


def _texts(item: Item) -> set[str]:
    return {part.value for part in _parts(item) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def _parts(item: Item) -> Iterable[ast.AST]:
    if item.node is not None:
        return ast.walk(item.node)
    return (part for hole in item.holes for part in ast.walk(ast.parse(hole, mode="eval")))
