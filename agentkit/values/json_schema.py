"""What is wrong with a JSON value under a JSON schema, said in one line; enough of the standard for tool arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_DEEPEST = 40


def mismatch(schema: Mapping[str, Any], value: Any) -> str | None:
    """The first thing wrong with `value`, with where it is; None when nothing is."""
    return _check(schema, value, "", schema, 0)


def _check(schema: Any, value: Any, where: str, root: Mapping[str, Any], depth: int) -> str | None:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return _at(where, "nothing is allowed here") if schema is False else None
    if "$ref" in schema:
        return _check(_resolve(schema["$ref"], root), value, where, root, depth + 1)
    for check in (_type, _values, _bounds):
        if (wrong := check(schema, value)) is not None:
            return _at(where, wrong)
    return _inside(schema, value, where, root, depth) or _branches(schema, value, where, root, depth)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found


def _type(schema: Mapping[str, Any], value: Any) -> str | None:
    allowed = schema.get("type")
    if allowed is None:
        return None
    names = [allowed] if isinstance(allowed, str) else list(allowed)
    if any(_is(value, name) for name in names):
        return None
    return f"{_format_value(value)} is not {_article(' or '.join(names))}"


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, (object,)))


def _values(schema: Mapping[str, Any], value: Any) -> str | None:
    if "const" in schema and value != schema["const"]:
        return f"{_format_value(value)} is not {_format_value(schema['const'])}"
    choices = schema.get("enum")
    if choices is not None and value not in choices:
        return f"{_format_value(value)} is none of {', '.join(map(_format_value, choices))}"
    return None


_Beyond: TypeAlias = Callable[[Any, Any], bool]
_BOUNDS: tuple[tuple[str, _Beyond, str], ...] = (
    ("minimum", lambda value, bound: value < bound, "is below"),
    ("maximum", lambda value, bound: value > bound, "is above"),
    ("exclusiveMinimum", lambda value, bound: value <= bound, "is not above"),
    ("exclusiveMaximum", lambda value, bound: value >= bound, "is not below"),
)
_LENGTHS: tuple[tuple[str, type, _Beyond, str], ...] = (
    ("minLength", str, lambda size, bound: size < bound, "is shorter than"),
    ("maxLength", str, lambda size, bound: size > bound, "is longer than"),
    ("minItems", list, lambda size, bound: size < bound, "has fewer items than"),
    ("maxItems", list, lambda size, bound: size > bound, "has more items than"),
)


def _bounds(schema: Mapping[str, Any], value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        for name, beyond, words in _BOUNDS:
            if name in schema and beyond(value, schema[name]):
                return f"{_format_value(value)} {words} {schema[name]}"
    for name, kind, beyond, words in _LENGTHS:
        if name not in schema or not isinstance(value, str | list) or not isinstance(value, kind):
            continue
        if beyond(len(value), schema[name]):
            return f"{_format_value(value)} {words} {schema[name]}"
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and isinstance(value, str) and re.search(pattern, value) is None:
        return f"{_format_value(value)} does not match {pattern}"
    return None


def _inside(schema: Mapping[str, Any], value: Any, where: str, root: Mapping[str, Any], depth: int) -> str | None:
    if isinstance(value, dict):
        return _properties(schema, value, where, root, depth)
    if isinstance(value, list):
        return _items(schema, value, where, root, depth)
    return None


def _properties(
    schema: Mapping[str, Any], value: dict[str, Any], where: str, root: Mapping[str, Any], depth: int
) -> str | None:
    known = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return _at(where, f"{', '.join(missing)} is missing")
    rest = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name not in known and rest is False:
            return _at(where, f"{name} is not one of its arguments ({', '.join(known) or 'it takes none'})")
        wrong = _check(known.get(name, rest), item, f"{where}.{name}" if where else name, root, depth + 1)
        if wrong is not None:
            return wrong
    return None


def _items(schema: Mapping[str, Any], value: list[Any], where: str, root: Mapping[str, Any], depth: int) -> str | None:
    first: Sequence[Any] = schema.get("prefixItems", ())
    for place, item in enumerate(value):
        each = first[place] if place < len(first) else schema.get("items", True)
        wrong = _check(each, item, f"{where}[{place}]", root, depth + 1)
        if wrong is not None:
            return wrong
    return None


def _branches(schema: Mapping[str, Any], value: Any, where: str, root: Mapping[str, Any], depth: int) -> str | None:
    for each in schema.get("allOf", ()):
        if (wrong := _check(each, value, where, root, depth + 1)) is not None:
            return wrong
    either = schema.get("anyOf") or schema.get("oneOf")
    if not either:
        return None
    problems = [_check(each, value, where, root, depth + 1) for each in either]
    if None in problems:
        return None
    # The branch that got furthest is the one that was meant.
    return max((problem for problem in problems if problem is not None), key=lambda said: said.count("."))


def _at(where: str, wrong: str) -> str:
    return f"{where}: {wrong}" if where else wrong


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "aeiou" else f"a {name}"


def _format_value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
