"""`%%agent compare`: one prompt, or one for each row of the notebook's data, on several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_ai.models import Model

from agentkit.agent.compare import compare as run_comparison
from agentkit.errors import SpecError, UserError
from agentkit.notebook import namespace
from agentkit.notebook import template as prompt
from agentkit.notebook.context import BODY_LINE, Reply, VerbContext, prompt_content
from agentkit.notebook.output import show
from agentkit.notebook.parser import Line

_MOST = 20


async def compare(context: VerbContext, line: Line, body: str) -> Reply:
    from agentkit.trace import compare_view

    agent = namespace.agent(line.word, context.names)
    if not line.has("models"):
        raise UserError(f"%%agent compare {line.word}: which models? For instance --models openai:gpt-5,offline")
    found = await run_comparison(
        agent,
        _prompts(context, line, body),
        _models(context, line),
        repeat=_repeat(line),
        judge=namespace.usable_model("--judge", line.options["judge"], context.names) if line.has("judge") else None,
        deps=context.deps_of(line, agent.name),
    )
    frame = compare_view.samples_frame(found)
    if line.has("as"):
        namespace.new_name(line.options["as"], context.names, option="--as", free=lambda old: not callable(old))
        context.shell.push({line.options["as"]: frame})
    bundle = {"text/html": compare_view.html(found), "text/plain": compare_view.text(found)}
    return Reply(value=frame, show=lambda: show(bundle, raw=True))


def _models(context: VerbContext, line: Line) -> dict[str, str | Model]:
    names = [name.strip() for name in line.options["models"].split(",") if name.strip()]
    if len(set(names)) != len(names):
        raise UserError(f"--models {line.options['models']}: name each model once")
    return {name: namespace.usable_model("--models", name, context.names) for name in names}


def _repeat(line: Line) -> int:
    text = line.options.get("repeat", "1")
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise UserError(f"--repeat {text}: how often each is asked, from 1 to {_MOST}")
    return int(text)


def _prompts(context: VerbContext, line: Line, body: str) -> list[Any]:
    if not line.has("rows"):
        if not body.strip():
            raise SpecError(f"the body is empty: write the prompt under the %%agent compare {line.word} line")
        return [prompt_content(prompt.render(body, context.names, first_line=BODY_LINE))]
    rows = list(_rows(line.options["rows"], context.names))
    if not rows:
        raise UserError(f"--rows {line.options['rows']}: there are no rows in it")
    template = body if body.strip() else "{{ row }}"
    return [
        prompt_content(prompt.render(template, {**context.names, "row": row}, first_line=BODY_LINE)) for row in rows
    ]


def _rows(text: str, names: Mapping[str, Any]) -> Iterable[Any]:
    try:
        # The person's own expression, in the person's own kernel.
        value = eval(text, {**names})
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"--rows {text}: {what}; give a column or a list, as in df.text") from error
    if hasattr(value, "itertuples"):
        return value.itertuples(index=False)  # type: ignore[no-any-return]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"--rows {text}: a {type(value).__name__} has no rows; give a column or a list, as in df.text")
    return value
