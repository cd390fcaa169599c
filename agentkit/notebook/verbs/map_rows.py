"""`%%agent map`: an agent over the rows of a table of the notebook, with one panel for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agentkit.budget.budget import format_amount, nano
from agentkit.errors import SpecError, UserError
from agentkit.map.map import MapResult, RowMap
from agentkit.map.prompt_template import outer_expressions
from agentkit.map.row_files import names_file
from agentkit.notebook import namespace
from agentkit.notebook import template as prompt
from agentkit.notebook.context import BODY_LINE, Reply, VerbContext
from agentkit.notebook.output import CellOutput, has_viewer, show
from agentkit.notebook.parser import Line
from agentkit.trace import map_panel
from agentkit.trace.budget_bars import BarLine

_INTERVAL = 0.25
"""Seconds between two drawings of the panel."""


async def map_rows(context: VerbContext, line: Line, body: str) -> Reply:
    agent = namespace.agent(line.word, context.names)
    if not line.has("rows"):
        raise UserError(f"%%agent map {line.word}: which rows? For instance --rows products, or --rows products.csv")
    bind = line.options.get("as")
    if bind is not None:
        namespace.new_name(bind, context.names, option="--as", free=lambda old: not callable(old))
    if not body.strip():
        raise SpecError(f"the body is empty: write the prompt of a row under the %%agent map {line.word} line")
    if (shards := _number(line, "shards", of="shards")) is not None:
        context.remark((f"--shards {shards} is for an export to Flyte; here the map is one",))
    row_map = RowMap(
        agent,
        _rows(line.options["rows"], context.names),
        body,
        values=_values(context, body),
        name=line.options["rows"],
        key=line.options.get("key"),
        workers=_workers(line),
        errors=line.options.get("errors", "keep"),
        budget=line.options.get("budget"),
        out=line.options.get("out"),
        limit=_number(line, "limit"),
        sample=_number(line, "sample"),
        fresh=line.has("fresh"),
        batch=line.has("batch"),
        deps=context.deps_of(line, agent.name),
    )
    try:
        result = await row_map.run()
    except BaseException:
        # Stopped in the middle: what has arrived is there all the same.
        _bind(context, bind, row_map.result())
        raise
    _bind(context, bind, result)
    context.remark((*result.notes, *context.session.remarks))
    return Reply(
        value=result,
        show=lambda: show(result.frame) if bind is None else None,
        remark="" if result.estimate is None else result.summary,
    )


def _bind(context: VerbContext, name: str | None, result: MapResult) -> None:
    if name is not None:
        context.shell.push({name: result.frame})


def _rows(text: str, names: Mapping[str, Any]) -> object:
    if names_file(text):
        return text
    try:
        # The person's own expression, in the person's own kernel.
        return eval(text, {**names})
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"--rows {text}: {what}; give a frame of the notebook, or a file") from error


def _values(context: VerbContext, body: str) -> dict[str, str]:
    """The texts of what stands in the body and is not of a row, by its expression."""
    found = {}
    for source in outer_expressions(body):
        line = BODY_LINE + body.count("\n", 0, body.find(source))
        rendered = prompt.render(f"{{{{ {source} }}}}", context.names, first_line=line)
        if any(not isinstance(part, str) for part in rendered.parts):
            raise SpecError(f"line {line}: {{{{ {source} }}}} is an image: the prompt of a row is text")
        context.remark(rendered.notes)
        found[source] = rendered.text
    return found


def _workers(line: Line) -> Any:
    text = line.options.get("workers", "auto")
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise UserError(f"--workers {text}: auto, or how many rows are under way at once")
    return int(text)


def _number(line: Line, option: str, *, of: str = "rows") -> int | None:
    if not line.has(option):
        return None
    text = line.options[option].replace("_", "").replace(",", "")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--{option} {line.options[option]}: a number of {of}, 1 or more")
    return int(text)


@contextmanager
def draw_panel(shell: Any, row_map: RowMap) -> Iterator[None]:
    """`session.map_view` of a notebook: the panel of a map, drawn over while it runs."""
    output = CellOutput(live=has_viewer(shell))

    async def redraw() -> None:
        while True:
            started = time.monotonic()
            output.draw(_bundle(row_map))
            await asyncio.sleep(max(_INTERVAL, 10 * (time.monotonic() - started)))

    drawing = asyncio.get_running_loop().create_task(redraw())
    try:
        yield
    finally:
        drawing.cancel()
        output.finish(_bundle(row_map))


def _bundle(row_map: RowMap) -> dict[str, str]:
    snapshot, budget = row_map.progress.snapshot(), _budget_line(row_map)
    title = f"{row_map.name} over {row_map.table.name}"
    return {
        "text/html": map_panel.render_html(snapshot, title=title, budget=budget),
        "text/plain": map_panel.render_text(snapshot, title=title, budget=budget),
    }


def _budget_line(row_map: RowMap) -> BarLine | None:
    """The first limit of the map in dollars or tokens; what its recorded rows once cost counts in it."""
    snapshot = row_map.progress.snapshot()
    used = {"usd": nano(snapshot.spent + snapshot.saved), "tokens": snapshot.tokens + snapshot.saved_tokens}
    limits = () if row_map.budget is None else row_map.budget.limits
    limit = next((limit for limit in limits if limit.measure in used), None)
    if limit is None:
        return None
    said = f"{format_amount(limit.measure, used[limit.measure])} of {limit.label}"
    return BarLine(scope="the map", said=said, share=used[limit.measure] / limit.amount)
