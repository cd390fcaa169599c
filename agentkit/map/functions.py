"""`agentkit.map` and `agentkit.map_stream`: what a script calls, and the line that a terminal shows meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.output import OutputDataT

from agentkit.budget.budget import Budget
from agentkit.map.map import Errors, MapResult, MapRow, RowMap
from agentkit.trace import map_panel

_INTERVAL = 0.25
"""Seconds between two drawings of the line."""


@contextmanager
def show_in_terminal(row_map: RowMap) -> Iterator[None]:
    """Show how far a map is on the last line of a terminal; nothing where standard error is none."""
    if not sys.stderr.isatty():
        yield
        return

    def draw() -> None:
        width = shutil.get_terminal_size().columns - 1
        line = map_panel.render_line(row_map.snapshot(), title=row_map.name, width=width)
        sys.stderr.write(f"\r{line:<{width}}")
        sys.stderr.flush()

    async def redraw() -> None:
        while True:
            draw()
            await asyncio.sleep(_INTERVAL)

    drawing = asyncio.get_running_loop().create_task(redraw())
    try:
        yield
    finally:
        drawing.cancel()
        draw()
        sys.stderr.write("\n")


async def map(
    agent: AbstractAgent[Any, OutputDataT],
    rows: object,
    prompt: str,
    *,
    key: str | None = None,
    workers: int | Literal["auto"] = "auto",
    errors: Errors = "keep",
    budget: str | Budget | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    sample: int | None = None,
    fresh: bool = False,
    deps: Any = None,
) -> MapResult:
    """Run `agent` on each row of a table, and return the answers as a frame in the order of the input.

    `rows` is a DataFrame, an Arrow table, a polars frame, the path of a parquet, CSV or JSONL file, or any iterable of
    mappings. `prompt` is a text with `{{ row.column }}`, `{{ row }}` and `{{ index }}`. Rows whose prompts are equal
    are asked once. What is on record is not paid again: a map that was stopped or killed goes
    on where it ended, and an edited prompt asks only the rows whose prompt differs.

    `errors` says what a failed row means: `keep` (it keeps its place with its `error`, and is asked again next time),
    `stop`, or a share such as `"5%"`. `budget` limits the whole map (`"5usd"`, `"2m tokens"`). `sample` runs so many
    rows by chance and estimates what all would cost and take; `limit` runs the first rows only. `key` names a column
    whose values tell rows apart, and which must not repeat. Raises UserError before anything is paid when the table,
    the prompt or an option cannot be used.
    """
    row_map = RowMap(
        agent, rows, prompt, key=key, workers=workers, errors=errors, budget=budget, out=out, limit=limit,
        sample=sample, fresh=fresh, deps=deps,
    )  # fmt: skip
    return await row_map.run(view=show_in_terminal)


async def map_stream(
    agent: AbstractAgent[Any, OutputDataT],
    rows: object,
    prompt: str,
    **options: Any,
) -> AsyncIterator[MapRow[OutputDataT]]:
    """Yield each row as it ends, in no certain order; `options` are those of `map`.

    Who reads slowly holds the map back: no more than a few rows wait to be read.
    """
    row_map = RowMap(agent, rows, prompt, **options)
    ended: asyncio.Queue[MapRow[OutputDataT] | None] = asyncio.Queue(maxsize=1)

    async def perform() -> None:
        try:
            await row_map.run(ended.put, view=show_in_terminal)
        finally:
            await ended.put(None)

    task = asyncio.create_task(perform())
    try:
        while (row := await ended.get()) is not None:
            yield row
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
