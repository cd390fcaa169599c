"""How a `%%agent map` cell is written: the options that go with it, and those that a program does not have."""

from __future__ import annotations

from collections.abc import Iterator

from agentkit.errors import UserError
from agentkit.map.row_files import names_file
from agentkit.pipeline.cells import Item, LeftOut
from agentkit.pipeline.code_layout import argument, quote
from agentkit.pipeline.plan import Plan
from agentkit.pipeline.settings import Settings

_WHOLE = ("sample", "limit", "budget")
"""Options that are about all rows at once, and cannot be divided among tasks that do not know of each other."""


def rows(item: Item) -> str:
    """Return the expression of what is mapped over."""
    given = item.options["rows"]
    return quote(given) if names_file(given) else argument(given)


def shards(item: Item, settings: Settings) -> int | None:
    """Return into how many tasks the rows are cut; None where the map is one call.

    Raise UserError, with the cell named, for options that a cluster cannot keep to, or that hold for all rows together.
    """
    if "batch" in item.options and settings.target == "flyte":
        raise UserError(
            f"{item.cell}: --batch is waited for by the journal, which ends with a task of a cluster: the batch would "
            "be paid again; take --batch away, or export with --target script"
        )
    count = _number(item, "shards")
    if count is None or settings.target != "flyte":
        return None
    for option in _WHOLE:
        if option in item.options:
            raise UserError(
                f"{item.cell}: --{option} {item.options[option]} holds for all rows together, and {count} shards do "
                f"not know of each other: take --{option} or --shards away"
            )
    if item.options.get("errors", "keep") != "keep":
        raise UserError(
            f"{item.cell}: --errors {item.options['errors']} ends the map for all rows, and a shard cannot end the "
            "others: take --errors away (a row that fails keeps its place), or --shards"
        )
    return count


def arguments(item: Item, *, sharded: bool, settings: Settings) -> Iterator[str]:
    """Yield the options of the call; `sharded`: of a part of the rows, whose keys were checked before."""
    for option in ("key", "workers", "errors", "budget", "out", "limit", "sample"):
        if option not in item.options or option in _left_out(settings) or (sharded and option == "key"):
            continue
        value = item.options[option]
        number = _number(item, option) if option in ("limit", "sample") or value.isdecimal() else None
        yield f"{option}={quote(value) if number is None else number}"
    if "batch" in item.options:
        yield "batch=True"


def left_out(plan: Plan, settings: Settings) -> Iterator[LeftOut]:
    """Yield the options that the program does not have, and why."""
    for item in (item for task in plan.tasks for item in task.items if item.role == "map"):
        for option, why in _left_out(settings).items():
            if option in item.options:
                yield LeftOut(item.cell, f"--{option} {item.options[option]}", why)


def _left_out(settings: Settings) -> dict[str, str]:
    if settings.target == "flyte":
        return {"out": "no file outlives a task; the frame is what it gives"}
    return {"shards": "a script maps all rows in one process"}


def _number(item: Item, option: str) -> int | None:
    if option not in item.options:
        return None
    text = item.options[option].replace("_", "").replace(",", "")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{item.cell}: --{option} {item.options[option]}: a number, 1 or more")
    return int(text)
