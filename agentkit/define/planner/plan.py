"""Which tools a prompt asks for and in which order: what names the choices, then what looks, then what acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.tools import ToolDefinition

from agentkit.define.planner.arguments import (
    Known,
    arguments,
    fitting,
    members,
    mentioned,
    needs,
    only_numbers,
    takes_question,
)
from agentkit.define.planner.talk import Result, Talk
from agentkit.define.planner.words import Prompt, parts, root, roots

_ENOUGH = 3.0
_HINT = 1.5
_SOME = 0.5
_NEAR = 0.85
_MOST_TURNS = 8

# First words of names that say nothing about what the tool is for.
_PLAIN_VERBS = frozenset("get fetch read load compute calculate calc make give return run do".split())

# `add(a: int, b: int)` changes nothing, `add_user(number: int)` may.
_ADDING = frozenset("add two numbers integers floats values them up together".split())

_TOPICS = {root("weather"): roots("rain sun snow wind temperature umbrella")}
"""What a tool is asked about in other words than its name."""

_ACTS = frozenset(
    "send email mail post publish delete remove drop write save store create insert update set put upload pay buy "
    "order book cancel charge refund transfer submit approve reject deploy execute restart stop start kill move rename "
    "notify schedule purchase reserve commit push install reset clear erase overwrite record log add append edit "
    "change assign close open merge grant revoke ban invite reply forward share sign issue archive restore".split()
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One call the planner wants."""

    tool: str
    args: dict[str, Any]


def next_calls(talk: Talk, tools: Sequence[ToolDefinition], *, summary: str) -> list[Wish]:
    """The calls to make now, all at once; none when it is time to answer. No call is made twice for one prompt."""
    if talk.turns >= _MOST_TURNS:
        return []
    looks = [tool for tool in tools if not acts(tool)]
    known = Known(names=dict(_names(talk, looks)))
    asked = _asked(talk.prompt, tools)
    wanted = [(tool, prompt) for tool, prompt in wishes(talk, looks) if not _object_of(asked, tool, prompt)]
    others = [] if asked else _next_best(looks, talk.prompt)
    pursued = [tool for tool, _ in wanted] or others[:1]
    if sources := [tool for tool in _sources(pursued, looks, known) if not talk.called(tool.name, {})]:
        return [Wish(tool=tool.name, args={}) for tool in sources]
    filled = [
        wish for tool, prompt in wanted for wish in _filled(tool, prompt, known) or _filled(tool, talk.prompt, known)
    ]
    filled = filled or _first_filled(others, talk.prompt, known)
    return _open(talk, filled) or _deeds(talk, asked, Known(names=known.names, summary=summary))


def sure(talk: Talk, tools: Sequence[ToolDefinition]) -> bool:
    """Whether some tool was clearly asked for, not only the nearest one taken."""
    looks = [tool for tool in tools if not acts(tool)]
    return bool(wishes(talk, looks)) or any(_says_do(tool, talk.prompt) for tool in tools if acts(tool))


def wishes(talk: Talk, looks: Sequence[ToolDefinition]) -> list[tuple[ToolDefinition, Prompt]]:
    """The tools wanted, each with the words that want it; a follow-up that names no tool leans on an earlier prompt."""
    wanted = _by_clause(looks, talk.prompt) or _wanted(looks, talk.prompt)
    if wanted or not _leans(talk.prompt):
        return wanted
    continued = (_wanted(looks, talk.prompt.after(earlier)) for earlier in talk.before)
    return next((found for found in continued if found), [])


def _by_clause(looks: Sequence[ToolDefinition], prompt: Prompt) -> list[tuple[ToolDefinition, Prompt]]:
    """For `describe the wind and list the top 3 of rain`: each tool with its own clause, if there are several."""
    clauses: list[str] = []
    for clause in prompt.clauses:
        if clauses and not any(_name_roots(tool) & Prompt(clause).roots for tool in looks):
            clauses[-1] += f", {clause}"
        else:
            clauses.append(clause)
    wanted = [found for clause in clauses for found in _wanted(looks, Prompt(clause))]
    return wanted if len({tool.name for tool, _ in wanted}) > 1 else []


def _leans(prompt: Prompt) -> bool:
    """`And the coldest?` answers from what is there; `And for 2013?` or `And for `wind`?` asks for another look."""
    return len(prompt.words) <= 8 and bool(prompt.quoted or prompt.names or prompt.proper or prompt.numbers)


def acts(tool: ToolDefinition) -> bool:
    """Whether a tool may change something: it says so, or its name begins with a verb that does."""
    if tool.kind != "function":
        return True
    metadata = tool.metadata or {}
    hints, ours = metadata.get("annotations"), metadata.get("agentkit")
    if isinstance(hints, Mapping) and isinstance(hints.get("readOnlyHint"), bool):
        return hints["readOnlyHint"] is False
    if isinstance(ours, Mapping) and ours.get("effects") in ("none", "once", "idempotent"):
        return bool(ours["effects"] != "none")
    words = parts(tool.name)
    arithmetic = only_numbers(tool) and set(words) <= _ADDING
    return bool(words) and words[0] in _ACTS and not arithmetic


def score(tool: ToolDefinition, prompt: Prompt) -> float:
    """How much the prompt speaks of this tool."""
    if tool.name in (*prompt.quoted, *prompt.names) or f"{tool.name}()" in prompt.quoted:
        return 10.0
    name = _name_roots(tool)
    named = name & prompt.roots
    told = (roots(tool.description or "") - name) & prompt.roots
    points = 2 + 2 * len(named) / len(name) + 0.5 * (len(named) - 1) if named else 0.0
    points += min(2.0, 0.5 * len(told))
    points += max((_by(member, prompt) for member in members(tool)), default=0.0)
    points += _HINT * any(fitting(tool, number) for number in prompt.numbers)
    points += _ENOUGH * any(topic in name and prompt.roots & words for topic, words in _TOPICS.items())
    return points + _toward(name, prompt)


def _name_roots(tool: ToolDefinition) -> frozenset[str]:
    words = parts(tool.name)
    telling = words[1:] if words and words[0] in _PLAIN_VERBS and len(words) > 1 else words
    return frozenset(root(word) for word in telling) or frozenset({tool.name})


def _by(member: Any, prompt: Prompt) -> float:
    if not mentioned(member, prompt):
        return 0.0
    return 3.0 if roots(str(member)) & prompt.grouped else _HINT


def _toward(name: frozenset[str], prompt: Prompt) -> float:
    """A `top` tool is for `the warmest`, a `bottom` tool for `the coldest`, if nothing fits better."""
    ends = {found.direction for found in prompt.extremes}
    return 2.0 * (("most" in ends and root("top") in name) or ("least" in ends and root("bottom") in name))


def _wanted(looks: Sequence[ToolDefinition], prompt: Prompt) -> list[tuple[ToolDefinition, Prompt]]:
    marks = {tool.name: score(tool, prompt) for tool in looks}
    enough = max(_ENOUGH, _NEAR * max(marks.values(), default=0.0))
    return [(tool, prompt) for tool in looks if marks[tool.name] >= enough]


def _next_best(looks: Sequence[ToolDefinition], prompt: Prompt) -> list[ToolDefinition]:
    asked = _SOME * ("?" in prompt.text or len(prompt.words) >= 4)
    marks = {tool.name: score(tool, prompt) + asked * takes_question(tool) for tool in looks}
    return sorted((tool for tool in looks if marks[tool.name] >= _SOME), key=lambda tool: -marks[tool.name])


def _sources(
    wanted: Sequence[ToolDefinition], looks: Sequence[ToolDefinition], known: Known
) -> Iterator[ToolDefinition]:
    """Tools without required arguments that name what a wanted tool must be told: `columns` for `column`."""
    unknown = {name for tool in wanted for name in needs(tool) if not known.of(name)}
    for tool in looks:
        is_free = not tool.parameters_json_schema.get("required")
        if is_free and any(roots(name) & _name_roots(tool) for name in unknown):
            yield tool


def _names(talk: Talk, looks: Sequence[ToolDefinition]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names each tool gave, and those that a complaint about an argument offered instead."""
    free = {tool.name for tool in looks if not tool.parameters_json_schema.get("required")}
    for result in (*talk.earlier, *talk.results):
        if result.ok and result.tool in free and (found := tuple(_strings(result.value))):
            yield result.tool, found
        elif not result.ok:
            offered = tuple(text for text in Prompt(str(result.value)).quoted if text not in result.args.values())
            for name in result.args if offered else ():
                yield name, offered


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(next(iter(item.values()), None) if isinstance(item, dict) else item)
        case dict():
            yield from (key for key in value if isinstance(key, str))


def _filled(tool: ToolDefinition, prompt: Prompt, known: Known) -> list[Wish]:
    return [Wish(tool=tool.name, args=args) for args in arguments(tool, prompt, known, guess=not acts(tool))]


def _first_filled(tools: Sequence[ToolDefinition], prompt: Prompt, known: Known) -> list[Wish]:
    return next((calls for tool in tools if (calls := _filled(tool, prompt, known))), [])


def _open(talk: Talk, wanted: Sequence[Wish]) -> list[Wish]:
    """Those not yet made for this prompt, each once."""
    calls: list[Wish] = []
    for wish in wanted:
        if not talk.called(wish.tool, wish.args) and wish not in calls:
            calls.append(wish)
    return calls


def _asked(prompt: Prompt, tools: Sequence[ToolDefinition]) -> list[ToolDefinition]:
    """Acts the prompt asks for in so many words, not denied by a `not` before them."""
    return [tool for tool in tools if acts(tool) and _says_do(tool, prompt) and score(tool, prompt) >= _ENOUGH]


def _object_of(asked: Sequence[ToolDefinition], look: ToolDefinition, prompt: Prompt) -> bool:
    """Whether a look is wanted only for the words of an act: `cancel order 17` does not ask for the `orders`."""
    named = _name_roots(look) & prompt.roots
    return bool(named) and any(named <= _name_roots(tool) for tool in asked)


def _deeds(talk: Talk, asked: Sequence[ToolDefinition], known: Known) -> list[Wish]:
    """The acts still to do; each tool acts once."""
    done = {result.tool for result in talk.results}
    left = [tool for tool in asked if tool.name not in done]
    return _open(talk, [wish for tool in left for wish in _filled(tool, talk.prompt, known)])


def _says_do(tool: ToolDefinition, prompt: Prompt) -> bool:
    verb = root(parts(tool.name)[0]) if parts(tool.name) else tool.name
    return tool.name in (*prompt.quoted, *prompt.names) or (verb in prompt.roots and verb not in prompt.negated)


def told(results: Sequence[Result], tools: Sequence[ToolDefinition]) -> tuple[Result, ...]:
    """The results that answer: lists that only served to choose an argument are left out if anything else came."""
    free = {tool.name for tool in tools if not tool.parameters_json_schema.get("properties")}
    answers = tuple(result for result in results if result.ok and result.tool not in free)
    return answers or tuple(result for result in results if result.ok)
