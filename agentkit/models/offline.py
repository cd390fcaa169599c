"""The model that works without any model: it calls the tools a prompt names and reports what they gave.

Rules over words and JSON schemas: no chance, no clock, no network. Arguments are what stands in the prompt (numbers,
quoted texts, names, dates, members of an enum), put where the schema of a tool has room for them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from functools import reduce
from typing import Any
from uuid import UUID

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_core import to_jsonable_python

from agentkit.models.canned_replies import WordByWord, estimate, overhead

SIGNATURE = "— offline model (scripted; no LLM was called)"

_ROWS, _COLUMNS, _CELL, _TEXT = 12, 6, 60, 600
"""How much of a result an answer shows."""
_SMALL = frozenset(
    "a an the of for in on and or to is was were are be do does did what which who how with from at as this that it by "
    "per each all any not no if get fetch read load compute calculate make give return run value values".split()
)
"""Words that do not say what a tool is for."""
_SAME = {"average": "mean", "many": "count", "plus": "add", "times": "multiply"}
_TEXTUAL = frozenset("query question prompt request text message body content answer summary comment reason".split())
"""Parameters that take a whole text, not a name."""
_LEAST = frozenset("least min minimum lowest fewest smallest coldest driest shortest slowest cheapest earliest".split())
_SUPERLATIVE = re.compile(
    r"(?!request|interest|forest|latest|contest|suggest)[a-z]{3,}est|most|max|maximum|min|minimum"
)
_QUOTED = re.compile(r"`([^`\n]+)`|\"([^\"\n]+)\"|“([^”\n]+)”|(?<!\w)'([^'\n]+)'(?!\w)|‘([^’\n]+)’")
_NAME = re.compile(
    r"https?://[^\s,;]+[\w/]|[\w.+-]+@[\w-]+\.[\w.]+\w|\d{4}-\d\d(?:-\d\d)?(?:[T ]\d\d:\d\d(?::\d\d)?)?"
    r"|(?:\.{0,2}/)?[\w-]+(?:/[\w.-]+)+|\b\w+\.(?:csv|json|txt|md|py|xlsx?|parquet|pdf)\b|\b[^\W\d]\w*_\w+\b"
)
_PROPER = re.compile(r"(?<=[\w,] )[A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ][\w'’-]*)*")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|-?\d[\d,]{0,20}(?:\.\d{1,20})?")
_PLACE = re.compile(r"\b(?:in|of|for|about|at) ([^\W\d_]{2,})")
_NEGATED = re.compile(r"\b(?:not|never|without|don['’]?t|no) ((?:[^\W\d_]+\s*){1,3})", re.IGNORECASE)
_FORMATS: dict[str, tuple[Callable[[str], object], str]] = {
    "date": (date.fromisoformat, "1970-01-01"),
    "date-time": (datetime.fromisoformat, "1970-01-01T00:00:00Z"),
    "time": (time.fromisoformat, "00:00:00"),
    "uuid": (UUID, str(UUID(int=0))),
}
"""How texts of a format are read, and what stands for an unknown one."""
_NOTHING: Any = object()
"""No value was found; None is one."""


class OfflineModel(Model):
    """Answer deterministically, for free and without network: equal messages give equal replies.

    Call once each tool that the prompt names, then report the results and sign the report. A tool that is not declared
    harmless is called only when its whole name is in the prompt, and never with an argument that is not.
    """

    def __init__(self) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True))

    @property
    def model_name(self) -> str:
        return "offline"

    @property
    def system(self) -> str:
        return "agentkit"

    @property
    def model_id(self) -> str:
        return "offline"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, params = self.prepare_request(model_settings, model_request_parameters)
        return _reply(messages, params)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        _, params = self.prepare_request(model_settings, model_request_parameters)
        reply = _reply(messages, params)
        words = sum(len(part.content.split()) for part in reply.parts if isinstance(part, TextPart))
        # So that an answer is seen to arrive.
        yield WordByWord(model_request_parameters=params, reply=reply, seconds=min(0.012 * words, 0.8))


@dataclass(frozen=True)
class _Fact:
    """A value, and the stems of the names that may ask for it."""

    words: frozenset[str]
    value: Any


@dataclass(frozen=True)
class _Prompt:
    """A text's words and literals; what is quoted or is a name says what, not how, and is no word of it."""

    text: str
    words: frozenset[str]
    literals: tuple[_Fact, ...]

    @classmethod
    def read(cls, text: str) -> _Prompt:
        unquoted = _QUOTED.sub(" ", text)
        plain = _NAME.sub(" ", unquoted)
        tokens = _TOKEN.findall(plain)
        quoted = [next(filter(None, match.groups())) for match in _QUOTED.finditer(text)]
        texts = [_Fact(frozenset(["quoted"]), each) for each in quoted]
        texts += [_Fact(frozenset(), each) for each in (*_NAME.findall(unquoted), *_PROPER.findall(plain))]
        return cls(text, frozenset(map(_stem, tokens)), (*texts, *_numbers(tokens)))

    def after(self, earlier: _Prompt) -> _Prompt:
        """Return this prompt as a follow-up: its literals stand in the place of earlier ones of their type."""
        new = {isinstance(fact.value, str) for fact in self.literals}
        kept = [fact for fact in earlier.literals if isinstance(fact.value, str) not in new]
        return _Prompt(f"{self.text}\n{earlier.text}", self.words | earlier.words, (*self.literals, *kept))

    def mentions(self, member: Any) -> bool:
        named = any(fact.value == member and type(fact.value) is type(member) for fact in self.literals)
        return named or (isinstance(member, str) and bool(_words(member)) and _words(member) <= self.words)

    def negates(self, words: frozenset[str]) -> bool:
        return any(words & _words(denied) for denied in _NEGATED.findall(self.text))


def _stem(word: str) -> str:
    """Return a word without its usual endings: crude, but the same for both sides of a comparison."""
    word = word.lower().removesuffix("'s")
    word = _SAME.get(word, word)
    word = re.sub(r"(?<=\w\w\w)(?:ing|ed|ly)$|(?<=\w\w[^sui])s$", "", re.sub(r"(?<=\w\w)ies$", "y", word))
    return word.removesuffix("e") if len(word) > 3 else word


def _words(name: str) -> frozenset[str]:
    """Return the telling stems in an identifier or a text: `mean_by_month` and `meanByMonth` have the same two."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-ZÀ-Þ]?[a-zß-ÿ]+|[^\W\d_]+", name)
    return frozenset(_stem(word) for word in found if word.lower() not in _SMALL)


def _numbers(tokens: Sequence[str]) -> Iterator[_Fact]:
    """Yield each number with the words beside it, as in `day 2` and `3 nights`; 2014 may be a year."""
    for at, token in enumerate(tokens):
        if token.lstrip("-")[0].isdecimal():
            text = token.replace(",", "")
            value = float(text) if "." in text else int(text)
            beside = [_stem(word) for word in tokens[max(0, at - 1) : at + 2]]
            yield _Fact(frozenset([*beside, "year"] if 1900 <= value <= 2100 else beside), value)


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What one call gave: a JSON value, or an error text when not `ok`; `now` if since the last prompt."""

    tool: str
    args: Mapping[str, Any]
    value: Any
    ok: bool
    now: bool


def _results(messages: Sequence[ModelMessage], start: int, tools: Set[str]) -> Iterator[_Result]:
    calls = {part.tool_call_id: part for each in messages for part in each.parts if isinstance(part, ToolCallPart)}
    for at, message in enumerate(messages):
        for part in message.parts:
            if isinstance(part, (ToolReturnPart, RetryPromptPart)) and (name := part.tool_name or "") in tools:
                call = calls.get(part.tool_call_id)
                ok = isinstance(part, ToolReturnPart) and part.outcome == "success"
                value = to_jsonable_python(part.content, fallback=str)
                yield _Result(tool=name, args=call.args_as_dict() if call else {}, value=value, ok=ok, now=at >= start)


def _contents(message: ModelMessage) -> Iterator[object]:
    for part in message.parts:
        if isinstance(part, UserPromptPart):
            for item in [part.content] if isinstance(part.content, str) else part.content:
                yield getattr(item, "content", item)


def _reply(messages: Sequence[ModelMessage], params: ModelRequestParameters) -> ModelResponse:
    asked = {0: ""}
    for at, message in enumerate(messages):
        # pydantic-ai fences what it says itself in a user's place, such as why an output was refused.
        if texts := [item for item in _contents(message) if isinstance(item, str) and "<pyai:" not in item]:
            asked[at] = "\n".join(texts)[:20_000]
    start, tools = max(asked), params.function_tools
    results = list(_results(messages, start, {tool.name for tool in tools}))
    before, prompt = map(_Prompt.read, ["", *asked.values()][-2:])
    calls = [] if any(result.now for result in results) else _calls(prompt, before, tools)
    # The place in the conversation makes ids that are unique in it and the same on every run.
    parts: list[ModelResponsePart] = [
        ToolCallPart(name, args, tool_call_id=f"offline_{len(messages)}_{at}") for at, (name, args) in enumerate(calls)
    ]
    parts = parts or [_final(prompt, messages[start:], results, params, f"offline_{len(messages)}_output")]
    reply = ModelResponse(parts=parts, model_name="offline", provider_name="agentkit")
    usage = estimate(messages, reply)
    sent = usage.input_tokens + overhead(params)
    return replace(reply, usage=replace(usage, input_tokens=sent, cost=Decimal(0)))


def _calls(prompt: _Prompt, before: _Prompt, tools: Sequence[ToolDefinition]) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that a prompt asks for, all at once; `And for 2013?` asks for those of the prompt before."""
    wanted = _wanted(prompt, tools)
    if not wanted and prompt.literals:
        prompt = prompt.after(before)
        wanted = _wanted(prompt, tools)
    return [(tool.name, args) for tool in wanted for args in _arguments(tool, prompt)]


def _wanted(prompt: _Prompt, tools: Sequence[ToolDefinition]) -> list[ToolDefinition]:
    """Return the tools with whole names in the prompt, or else the harmless ones it says most words of."""
    purposes = {tool.name: _words(tool.name) or frozenset({_stem(tool.name)}) for tool in tools}
    quoted = [fact.value for fact in prompt.literals]
    named = {tool.name for tool in tools if tool.name in quoted or purposes[tool.name] <= prompt.words}
    # `cancel_order` is asked for with the word that would ask for `orders`.
    named = {name for name in named if not any(purposes[name] < purposes[other] for other in named)}
    harmless = [tool for tool in tools if _is_harmless(tool)]
    if named:
        denied = {tool.name for tool in tools if tool not in harmless and prompt.negates(purposes[tool.name])}
        return [tool for tool in tools if tool.name in named - denied]
    shared = {tool.name: len(_words(f"{tool.name} {tool.description or ''}") & prompt.words) for tool in harmless}
    return [tool for tool in harmless if shared[tool.name] == max(shared.values()) > 0]


def _is_harmless(tool: ToolDefinition) -> bool:
    """Return whether a tool was declared to change nothing, with `effects="none"` or by a server's hint."""
    metadata = tool.metadata or {}
    hints, declared = metadata.get("annotations") or {}, metadata.get("agentkit") or {}
    return declared.get("effects") == "none" or hints.get("readOnlyHint") is True


def _arguments(tool: ToolDefinition, prompt: _Prompt) -> list[dict[str, Any]]:
    """Return the arguments of each call that the prompt asks of a tool; none where it lacks a required one."""
    schema = tool.parameters_json_schema
    literals = [fact for fact in prompt.literals if fact.value != tool.name]
    filler = _Filler(schema, prompt, [*literals], message=prompt.text.strip())
    made = filler.value("", schema, must=True)
    if made is _NOTHING:
        return []
    shapes = {name: filler.resolved(each) for name, each in schema.get("properties", {}).items()}
    free = [name for name, shape in shapes.items() if shape.get("type") == "string" and "enum" not in shape]
    for name in made:
        several = [member for member in shapes.get(name, {}).get("enum", ()) if prompt.mentions(member)]
        if [name] == free and not _words(name) & _TEXTUAL:
            several = [fact.value for fact in literals if _fits(fact.value, shapes[name])]
        if len(several) > 1:
            return [{**made, name: value} for value in dict.fromkeys(several[:5])]
    return [made]


@dataclass
class _Filler:
    """Fills a schema from facts. An output (`invents`) always gets a value; a call that lacks one is not made."""

    root: Mapping[str, Any]
    prompt: _Prompt
    facts: list[_Fact]
    message: str
    invents: bool = False
    variant: int = 0

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a reference stands for, and of a union a member that is not null."""
        if "$ref" in schema:
            return self.resolved(reduce(lambda at, key: at[key], schema["$ref"].split("/")[1:], self.root))
        options = [self.resolved(each) for each in schema.get("anyOf") or schema.get("oneOf") or ()]
        if options := [option for option in options if option.get("type") != "null"]:
            return options[self.variant % len(options)]
        kinds = schema.get("type")
        schema = {**schema, "type": kinds[0]} if isinstance(kinds, list) else schema
        return {**schema, "enum": [schema["const"]]} if "const" in schema else schema

    def value(self, name: str, schema: Mapping[str, Any], *, must: bool) -> Any:
        schema = self.resolved(schema)
        match schema:
            case {"enum": members}:
                found = [fact.value for fact in self._ranked(name) if self.invents and fact.value in members]
                found += [member for member in members if self.prompt.mentions(member)]
                return self._pick([*found, *members]) if found or (must and self.invents) else _NOTHING
            case {"type": "object"}:
                return self._object(name, schema, must=must)
            case {"type": "array"}:
                return self._array(name, schema)
            case {"type": "boolean"} if not self.invents:
                named = bool(_words(name) & self.prompt.words)
                return named and not self.prompt.negates(_words(name)) if named or must else _NOTHING
            case _:
                return self._scalar(name, schema, must=must)

    def _object(self, name: str, schema: Mapping[str, Any], *, must: bool) -> Any:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        if not properties:
            item = schema.get("additionalProperties")
            shape = self.resolved(item) if isinstance(item, Mapping) else {}
            tables = (fact.value for fact in self._ranked(name) if isinstance(fact.value, dict))
            return next((table for table in tables if all(_fits(each, shape) for each in table.values())), {})
        made = {}
        # Texts take what is quoted, before the others; of an output what is not required is there if spoken of.
        for each in sorted(properties, key=lambda each: (each not in required, not _words(each) & _TEXTUAL)):
            if each in required or not self.invents or any(_words(each) & fact.words for fact in self.facts):
                made[each] = self.value(each, properties[each], must=each in required)
                if made[each] is _NOTHING and each in required:
                    return _NOTHING
        made = {each: made[each] for each in properties if made.get(each, _NOTHING) is not _NOTHING}
        return made if made or must else _NOTHING

    def _array(self, name: str, schema: Mapping[str, Any]) -> Any:
        if "prefixItems" in schema:
            items = [self.value(name, each, must=True) for each in schema["prefixItems"]]
            return _NOTHING if _NOTHING in items else items
        item = self.resolved(schema.get("items") or {})
        values: list[Any] = [member for member in item.get("enum", ()) if self.prompt.mentions(member)]
        if self.invents:
            rows = (list(self._items(name, item, fact.value)) for fact in self._ranked(name))
            values = next(filter(None, rows), values)
        elif not values:
            values = [self._used(fact.value) for fact in list(self.facts) if _fits(fact.value, item)]
        is_set = bool(schema.get("uniqueItems"))
        for variant in range(100 if self.invents else 0):
            if len(values) >= schema.get("minItems", 0):
                break
            filler = replace(self, facts=[], variant=variant) if is_set else self
            made = filler.value(name, item, must=True)
            values += [made] if made not in values or not is_set else []
        return values[: schema.get("maxItems", 50)] if values or self.invents else _NOTHING

    def _items(self, name: str, item: Mapping[str, Any], value: Any) -> Iterator[Any]:
        if item.get("type") == "object":
            rows = value if isinstance(value, list) else [{"name": k, "value": v} for k, v in _entries(value).items()]
            for row in rows if all(isinstance(row, dict) for row in rows) else ():
                # Without the tables, so that what is nested in itself ends.
                rest = [fact for fact in self.facts if not isinstance(fact.value, (list, dict))]
                facts = [*(_Fact(_words(key), each) for key, each in row.items()), *rest]
                yield replace(self, facts=facts).value(name, item, must=True)
        elif isinstance(value, (list, dict)):
            yield from (each for each in value if _fits(each, item))

    def _scalar(self, name: str, schema: Mapping[str, Any], *, must: bool) -> Any:
        wanted = _words(name)
        is_text = schema.get("type", "string") == "string" and "format" not in schema
        if is_text and must and wanted & _TEXTUAL:
            quoted = [fact.value for fact in self.facts if "quoted" in fact.words and not self.invents]
            return self._used(_fit_text((quoted or [self.message])[0], schema))
        fitting = [fact for fact in self._ranked(name) if _fits(fact.value, schema)]
        choices = [fact.value for fact in fitting if wanted & fact.words]
        # A year goes where one is asked for, or where a number has to be.
        choices += [fact.value for fact in fitting if must or not (self.invents or "year" in fact.words)]
        if choices:
            found = self._pick(choices)
            return int(self._used(found)) if schema.get("type") == "integer" else self._used(found)
        if must and self.invents:
            return _invented(schema, self.message, self.variant)
        return next(iter(_PLACE.findall(self.prompt.text)[-1:]), _NOTHING) if must and is_text else _NOTHING

    def _pick(self, choices: Sequence[Any]) -> Any:
        """Return another choice each time one was refused."""
        unique = list({repr(each): each for each in choices}.values())
        return unique[self.variant % len(unique)]

    def _used(self, value: Any) -> Any:
        """Return the value: the last choice for the next field of an output, and no choice for the next argument."""
        taken = next((at for at, fact in enumerate(self.facts) if fact.value == value), None)
        if taken is not None:
            fact = self.facts.pop(taken)
            self.facts += [fact] if self.invents else []
        return value

    def _ranked(self, name: str) -> list[_Fact]:
        return sorted(self.facts, key=lambda fact: -len(_words(name) & fact.words))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    match schema.get("type"), value:
        case _ if "enum" in schema:
            return value in schema["enum"]
        case "string", str():
            try:
                _FORMATS.get(schema.get("format", ""), (str, ""))[0](value)
            except ValueError:
                return False
            return _fit_text(value, schema) == value
        case ("integer" | "number") as kind, int() | float() if _is_number(value):
            return (kind == "number" or float(value).is_integer()) and _within(value, schema, 0) == value
        case ("boolean", bool()) | ("array", list()) | ("object", dict()):
            return True
    return False


def _within(value: float, schema: Mapping[str, Any], step: float) -> float:
    """Return the number nearest to a value that a schema allows; open ends are left out by a step."""
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - step)
    unit = schema.get("multipleOf")
    value = min(max(value, low), high)
    return math.ceil(value / unit) * unit if unit else value


def _fit_text(text: str, schema: Mapping[str, Any]) -> str:
    return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")


def _invented(schema: Mapping[str, Any], message: str, variant: int) -> Any:
    """Return what a schema allows when nothing is known: nothing, as far as it can be said in this type."""
    match schema.get("type"):
        case "integer" | "number" as kind:
            value = _within(float(variant), schema, 1 if kind == "integer" else 1e-6)
            return math.ceil(value) if kind == "integer" else value
        case "boolean" | "null" as kind:
            return bool(variant % 2) if kind == "boolean" else None
    text = f"{variant}: {message}" if variant else message
    return _FORMATS.get(schema.get("format", ""), (str, _fit_text(text, schema)))[1]


def _final(
    prompt: _Prompt,
    now: Sequence[ModelMessage],
    results: Sequence[_Result],
    params: ModelRequestParameters,
    call_id: str,
) -> ModelResponsePart:
    """Return the answer from the results of this prompt, or from the last one of the conversation."""
    good = [result for result in results if result.ok]
    good = [result for result in good if result.now] or good[-1:]
    tool = params.output_tools[0] if params.output_tools and not params.allow_text_output else None
    if tool or params.output_object:
        schema = (
            tool.parameters_json_schema if tool else params.output_object.json_schema if params.output_object else {}
        )
        facts = [*(fact for result in good for fact in _facts(prompt, result)), *prompt.literals]
        told = " ".join(_sentence(prompt, result) for result in good) or "No tool result answers this."
        message = f"{re.sub(r'[*`]', '', told)} (offline model)"
        refused = sum(isinstance(message, ModelResponse) for message in now) - bool(results and results[-1].now)
        made = _Filler(schema, prompt, facts, message, invents=True, variant=refused).value("", schema, must=True)
        as_text = TextPart(json.dumps(made, ensure_ascii=False))
        return ToolCallPart(tool.name, made, tool_call_id=call_id) if tool else as_text
    remarks = [f"{_call(result)} failed: {str(result.value)[:_TEXT]}" for result in results if result.now > result.ok]
    if any(not isinstance(item, str) for item in _contents(now[0])):
        remarks.append("Attached files were not looked at: the offline model reads text only.")
    if good and not good[0].now:
        remarks.append("From an earlier result:")
    if not good and not remarks:
        names = ", ".join(f"`{tool.name}`" for tool in params.function_tools[:12])
        remarks.append(
            f"The offline model knows nothing itself. Its tools: {names or 'none'}; it calls those whose names are in "
            "the prompt, with what is quoted or counted there. For a real answer: `%agent model openai:gpt-5`."
        )
    for result in good:
        details, call = _details(result), _call(result)
        head = f"{_sentence(prompt, result)} From {call}:" if _picks(prompt, result.value) else f"{call} gave:"
        remarks += [head, details] if details else [_sentence(prompt, result)]
    return TextPart("\n\n".join([*remarks, f"*{SIGNATURE}*"]))


def _facts(prompt: _Prompt, result: _Result) -> Iterator[_Fact]:
    """Yield all that a result says, most telling first."""
    about = _words(" ".join([result.tool, *map(str, result.args.values())]))
    for word, key, number in _picks(prompt, result.value):
        ends = _words(f"{word} {'lowest' if word in _LEAST else 'highest'}")
        yield _Fact(ends | _words("name key"), key)
        yield _Fact(ends | about, number)
    if isinstance(result.value, dict):
        yield from (_Fact(_words(str(key)), item) for key, item in result.value.items())
    yield _Fact(about, result.value)
    yield from (_Fact(_words(name), item) for name, item in result.args.items())


def _picks(prompt: _Prompt, value: Any) -> list[tuple[str, str, float]]:
    """Return what each superlative of the prompt picks from a result: the word, the name and the number."""
    numbers = _entries(value)
    words = sorted(filter(_SUPERLATIVE.fullmatch, prompt.words), key=prompt.text.lower().find)
    ends = {word: min if word in _LEAST else max for word in words if numbers}
    picked = {word: end(numbers, key=lambda key: numbers[key]) for word, end in ends.items()}
    return [(word, key, numbers[key]) for word, key in picked.items()]


def _entries(value: Any) -> dict[str, float]:
    """Return a result as one number per name; empty if it is not that, as the count and mean of a summary are not."""
    if isinstance(value, list) and all(isinstance(row, dict) and len(row) == 2 for row in value):
        value = {str(key): number for key, number in (row.values() for row in value)}
    one_kind = isinstance(value, dict) and "mean" not in value and all(map(_is_number, value.values()))
    return {str(key): number for key, number in value.items()} if one_kind else {}


def _sentence(prompt: _Prompt, result: _Result) -> str:
    if picks := _picks(prompt, result.value):
        return " ".join(f"**{key}** is the {word}: **{_figure(number)}**." for word, key, number in picks)
    return f"{_call(result)} gave **{_figure(result.value)}**."


def _details(result: _Result) -> str:
    """Return a table of many values or a quotation of a long text, in Markdown; nothing for one value."""
    value = result.value
    if isinstance(value, str) and (len(value) > _CELL or "\n" in value):
        # What another offline agent said is signed here once more.
        text = value.removesuffix(f"\n\n*{SIGNATURE}*")
        return "\n".join(f"> {line}" for line in (text if len(text) <= _TEXT else f"{text[:_TEXT]}…").splitlines())
    if isinstance(value, dict):
        value = [{"": key, **(item if isinstance(item, dict) else {result.tool: item})} for key, item in value.items()]
    if not isinstance(value, list) or not value:
        return ""
    rows = [row if isinstance(row, dict) else {result.tool: row} for row in value]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        heads[:_COLUMNS],
        ["---:" if all(_is_number(row.get(head, 0)) for row in rows) else "---" for head in heads[:_COLUMNS]],
        *([row.get(head, "") for head in heads[:_COLUMNS]] for row in rows[:_ROWS]),
    ]
    shown = "\n".join("| " + " | ".join(_figure(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    more = f"\n\n… of {len(rows)} rows and {len(heads)} columns" if len(rows) > _ROWS or len(heads) > _COLUMNS else ""
    return shown + more


def _call(result: _Result) -> str:
    """Return a call as one would type it, in Markdown."""
    text = f"{result.tool}({', '.join(f'{name}={json.dumps(value)}' for name, value in result.args.items())})"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _figure(value: Any) -> str:
    """Return a value short enough to read."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        # A year is not 2,012.
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
