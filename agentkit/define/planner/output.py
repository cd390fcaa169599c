"""A structured output filled from what the tools gave, so that it fits its JSON schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

from agentkit.define.planner.answer import GROUPS, entries, picks, summary
from agentkit.define.planner.arguments import mentioned
from agentkit.define.planner.talk import Result
from agentkit.define.planner.words import Prompt, parts, roots

_PROSE = frozenset("answer summary text explanation description comment reason conclusion finding note message".split())
_FORMS: dict[str, tuple[Callable[[str], object], str]] = {
    "date": (date.fromisoformat, "1970-01-01"),
    "date-time": (datetime.fromisoformat, "1970-01-01T00:00:00Z"),
    "time": (time.fromisoformat, "00:00:00"),
    "uuid": (UUID, str(UUID(int=0))),
}
"""How texts of a form are read, and what stands for an unknown one."""

_SIGN = "(offline model)"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A value and the roots it may be asked for by; earlier facts are the more important."""

    roots: frozenset[str]
    value: Any


def facts(prompt: Prompt, results: Sequence[Result]) -> list[Fact]:
    """Everything the results say, most telling first."""
    found = [fact for result in results for fact in _facts(prompt, result)]
    found += [Fact(roots=roots(f"{number.sense} {number.sense}"), value=number.value) for number in prompt.numbers]
    found += [Fact(roots=frozenset(), value=text) for text in (*prompt.quoted, *prompt.names, *prompt.proper)]
    return found


def fill(schema: Mapping[str, Any], prompt: Prompt, results: Sequence[Result], *, variant: int = 0) -> Any:
    """A value for the schema. `variant` grows each time one was refused, and other facts are tried."""
    maker = _Maker(schema.get("$defs", {}), prompt, _sentence(prompt, results), variant)
    return maker.make("", schema, facts(prompt, results))


def coverage(schema: Mapping[str, Any], prompt: Prompt, results: Sequence[Result]) -> float:
    """How much of an object schema the facts speak of, to choose among several outputs."""
    names = list(schema.get("properties", {}))
    known: frozenset[str] = frozenset().union(*(fact.roots for fact in facts(prompt, results)), prompt.roots)
    return sum(bool(roots(name) & known) for name in names) / len(names) if names else 0.0


def _sentence(prompt: Prompt, results: Sequence[Result]) -> str:
    return f"{summary(prompt, results) or 'No tool result answers this.'} {_SIGN}"


def _facts(prompt: Prompt, result: Result) -> Iterator[Fact]:
    about = frozenset().union(roots(result.tool), *(_words(value) for value in result.args.values()))
    groups = frozenset().union(*(_words(value) for name, value in result.args.items() if name in GROUPS))
    value = result.value
    for pick in picks(prompt, value):
        ends = roots(f"{pick.word} {'highest' if pick.direction == 'most' else 'lowest'}")
        yield Fact(roots=groups | ends | roots("name key winner label"), value=pick.key)
        yield Fact(roots=(about - groups) | ends | roots("value number result figure"), value=pick.value)
    if isinstance(value, dict):
        yield from (Fact(roots=roots(str(key)), value=item) for key, item in value.items())
    if isinstance(value, list):
        yield Fact(roots=roots("count number total"), value=len(value))
    yield Fact(roots=about | roots("value result table data rows items entries list"), value=value)
    yield from (Fact(roots=roots(name), value=item) for name, item in result.args.items())


def _words(value: Any) -> frozenset[str]:
    return roots(value) if isinstance(value, str) else frozenset()


@dataclass(frozen=True)
class _Maker:
    defs: Mapping[str, Any]
    prompt: Prompt
    sentence: str
    variant: int

    def make(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact], *, must: bool = True) -> Any:
        """A value that fits; None for an optional one that nothing speaks of."""
        schema = self._resolved(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._either(name, schema, known)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._member(name, schema["enum"], known)
        match schema.get("type"):
            case "object":
                return self._object(name, schema, known)
            case "array":
                return self._array(name, schema, known)
            case "null":
                return None
            case "string" if set(parts(name)) & _PROSE:
                return _fit_text(self.sentence, schema)
            case _:
                return self._scalar(name, schema, known, must=must)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self.defs[schema["$ref"].rpartition("/")[2]]
        return schema

    def _either(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact]) -> Any:
        options = [self._resolved(each) for each in schema.get("anyOf", schema.get("oneOf", ()))]
        optional = any(each.get("type") == "null" for each in options)
        for option in options:
            if option.get("type") != "null" and (not optional or self._spoken_of(name, option, known)):
                return self.make(name, option, known)
        return None

    def _spoken_of(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact]) -> bool:
        wanted = roots(name)
        return bool(set(parts(name)) & _PROSE) or any(
            wanted & fact.roots and _fits(fact.value, schema) for fact in known
        )

    def _member(self, name: str, members: Sequence[Any], known: Sequence[Fact]) -> Any:
        spoken = [fact.value for fact in self._ranked(name, known) if fact.value in members]
        spoken += [member for member in members if mentioned(member, self.prompt)]
        choices = list(dict.fromkeys([*spoken, *members]))
        return choices[self.variant % len(choices)]

    def _object(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact]) -> Any:
        properties = schema.get("properties", {})
        if not properties:
            inner = schema.get("additionalProperties")
            shape = inner if isinstance(inner, Mapping) else {}
            tables = [fact.value for fact in self._ranked(name, known) if isinstance(fact.value, dict)]
            fitting = (table for table in tables if all(_fits(item, self._resolved(shape)) for item in table.values()))
            return next(fitting, {})
        required = set(schema.get("required", ()))
        made: dict[str, Any] = {}
        left = list(known)
        for each, shape in properties.items():
            if each in required or self._spoken_of(each, self._resolved(shape), left):
                made[each] = self.make(each, shape, left)
                left = _used_last(left, made[each])
        return made

    def _array(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact]) -> list[Any]:
        if "prefixItems" in schema:
            return [self.make(name, each, known) for each in schema["prefixItems"]]
        item = self._resolved(schema.get("items", {}))
        least, most = schema.get("minItems", 0), schema.get("maxItems", 50)
        values: list[Any] = []
        for fact in self._ranked(name, known):
            if values := list(self._items(name, item, fact.value, known))[:most]:
                break
        while len(values) < least:
            values.append(self.make(name, item, known))
        return values

    def _items(self, name: str, item: Mapping[str, Any], value: Any, known: Sequence[Fact]) -> Iterator[Any]:
        if item.get("type") == "object" and (rows := _rows(value)):
            for row in rows:
                own = [Fact(roots=_row_roots(key, place), value=each) for place, (key, each) in enumerate(row.items())]
                yield self.make(name, item, [*own, *known])
        elif isinstance(value, list):
            yield from (each for each in value if _fits(each, item))
        elif isinstance(value, dict) and item.get("type") == "string":
            yield from value

    def _scalar(self, name: str, schema: Mapping[str, Any], known: Sequence[Fact], *, must: bool) -> Any:
        ranked = self._ranked(name, known)
        spoken = [fact.value for fact in ranked if roots(name) & fact.roots and _fits(fact.value, schema)]
        others = [fact.value for fact in ranked if _fits(fact.value, schema)]
        choices = list(dict.fromkeys([*spoken, *others]))
        if choices:
            return _cast(choices[self.variant % len(choices)], schema)
        return _smallest(schema, self.sentence)

    def _ranked(self, name: str, known: Sequence[Fact]) -> list[Fact]:
        wanted = roots(name)
        return sorted(known, key=lambda fact: -len(wanted & fact.roots))


def _row_roots(key: str, place: int) -> frozenset[str]:
    return roots(key) | roots("name key label" if place == 0 else "value number figure")


def _used_last(known: list[Fact], value: Any) -> list[Fact]:
    """A value already given is the last choice for the next field, so that two numbers fill two fields."""
    used = [fact for fact in known if fact.value == value]
    return [*(fact for fact in known if fact.value != value), *used]


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value
    return [{"name": key, "value": number} for key, number in entries(value).items()]


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    match schema.get("type"):
        case "string":
            fits = isinstance(value, str) and len(value) <= schema.get("maxLength", math.inf)
            return fits and _reads(value, schema.get("format", ""))
        case "integer":
            return _number(value) and float(value).is_integer() and _within(value, schema)
        case "number":
            return _number(value) and _within(value, schema)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return True


def _reads(text: str, form: str) -> bool:
    """Whether a text is of the form a schema names."""
    if form not in _FORMS:
        return True
    try:
        _FORMS[form][0](text)
    except ValueError:
        return False
    return True


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _within(value: float, schema: Mapping[str, Any]) -> bool:
    above: bool = value >= schema.get("minimum", -math.inf) and value > schema.get("exclusiveMinimum", -math.inf)
    below: bool = value <= schema.get("maximum", math.inf) and value < schema.get("exclusiveMaximum", math.inf)
    return above and below


def _cast(value: Any, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "integer":
        return int(value)
    return _fit_text(value, schema) if isinstance(value, str) else value


def _smallest(schema: Mapping[str, Any], sentence: str) -> Any:
    """What the schema allows when nothing is known: nothing, as far as it can be said in this type."""
    match schema.get("type"):
        case "string":
            form = schema.get("format", "")
            return _FORMS[form][1] if form in _FORMS else _fit_text(sentence, schema)
        case "integer":
            return math.ceil(_lowest(schema, 1))
        case "number":
            return _lowest(schema, 1e-6)
        case "boolean":
            return False
        case _:
            return sentence


def _lowest(schema: Mapping[str, Any], step: float) -> float:
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - step)
    return float(min(max(0.0, low), high))


def _fit_text(text: str, schema: Mapping[str, Any]) -> str:
    most = schema.get("maxLength")
    text = text if most is None else text[:most]
    return text.ljust(schema.get("minLength", 0), ".")
