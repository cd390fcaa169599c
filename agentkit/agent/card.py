"""What an agent is and what it has cost so far, as a notebook shows it."""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.toolsets import FunctionToolset

from agentkit.budget.budget import NANO, Budget, usd_text
from agentkit.errors import JournalError
from agentkit.models import resolve
from agentkit.runtime.session import Session, current
from agentkit.tools.declaration import declaration

_INSTRUCTIONS = 600
_TOOLS = 30


class Fact(NamedTuple):
    """One line of the card; `code` are names, each written as code, before the words."""

    name: str
    words: str
    code: tuple[tuple[str, str], ...] = ()


def facts(agent: AbstractAgent[Any, Any], budget: Budget | None) -> list[Fact]:
    """The model, the tools with their effects, the instructions, the runs and the budget of an agent."""
    model = agent.model
    found = [
        Fact("model", resolve.identity(model) if isinstance(model, Model) else str(model or "none: give one to a run")),
        Fact("tools", "" if (tools := tuple(_tools(agent))) else "none", _first(tools)),
        Fact("instructions", _cut(_instructions(agent)) or "none"),
    ]
    session = current()
    if session is not None:
        found.append(Fact("runs", _runs(session, agent.name or "agent")))
    if budget is not None and budget.limits:
        found.append(Fact("budget", budget.text))
    return found


def as_html(agent: AbstractAgent[Any, Any], budget: Budget | None) -> str:
    rows = "".join(
        f'<tr><td style="text-align:left;vertical-align:top;opacity:0.65">{fact.name}</td>'
        f'<td style="text-align:left;white-space:pre-wrap">{_html(fact)}</td></tr>'
        for fact in facts(agent, budget)
    )
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="font-size:12px"><b>{_escape(agent.name or "agent")}</b>'
        f"<table>{rows}</table></div>"
    )


def as_markdown(agent: AbstractAgent[Any, Any], budget: Budget | None) -> str:
    """The same for a front end without HTML. Everything foreign stands in code, where nothing of it is acted on."""
    lines = [f"**agent** {_code(agent.name or 'agent')}", ""]
    for fact in facts(agent, budget):
        named = ", ".join(_code(name) + (f" ({words})" if words else "") for name, words in fact.code)
        lines.append(f"- {fact.name}: {named}{_code(fact.words) if fact.words else ''}")
    return "\n".join(lines)


def _html(fact: Fact) -> str:
    named = ", ".join(
        f"<b>{_escape(name)}</b>" + (f' <span style="opacity:0.75">{_escape(words)}</span>' if words else "")
        for name, words in fact.code
    )
    return named + _escape(fact.words)


def _escape(text: str) -> str:
    return markup.escape(text, quote=False)


def _code(text: str) -> str:
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in _backticks(line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _backticks(text: str) -> Iterator[str]:
    run = ""
    for char in text:
        if char == "`":
            run += char
        elif run:
            yield run
            run = ""
    if run:
        yield run


def _tools(agent: AbstractAgent[Any, Any]) -> Iterator[tuple[str, str]]:
    for toolset in agent.toolsets:
        if isinstance(toolset, FunctionToolset):
            for name, tool in toolset.tools.items():
                declared = declaration(tool.function)
                yield name, declared.effects + (", asks first" if declared.approve not in (None, "never") else "")
        else:
            yield str(toolset.id or type(toolset).__name__), "toolset"


def _first(tools: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    left = len(tools) - _TOOLS
    return tools if left <= 0 else (*tools[:_TOOLS], (f"{left} more", ""))


def _instructions(agent: AbstractAgent[Any, Any]) -> str:
    given: Iterable[Any] = getattr(getattr(agent, "wrapped", agent), "_instructions", ())
    texts = (getattr(one, "instruction", one) for one in given)
    return "\n".join(
        text if isinstance(text, str) else f"{getattr(text, '__name__', 'a function')}()" for text in texts
    )


def _cut(text: str) -> str:
    left = len(text) - _INSTRUCTIONS
    return text if left <= 0 else f"{text[:_INSTRUCTIONS]}… ({left:,} more characters)"


def _runs(session: Session, name: str) -> str:
    """How often it ran and what that cost; a journal that is not there yet is not made for this."""
    if not session.path.exists():
        return "none yet"
    try:
        count, totals = session.store.count(agent=name), session.totals(agent=name)
    except JournalError as error:
        return str(error)
    unpriced = f" + {totals.unpriced:,} unpriced" if totals.unpriced else ""
    spent = f"{usd_text(round(totals.spent * NANO))} spent{unpriced}"
    return f"{count:,} ({totals.live:,} steps live, {totals.replayed:,} replayed) · {spent}" if count else "none yet"
