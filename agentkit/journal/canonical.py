"""What a value says, as JSON: the content of messages and requests without what differs between two equal runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never

from pydantic_ai.messages import FileUrl
from pydantic_core import to_jsonable_python

# Of these classes only the named fields reach a model; everything else on them is bookkeeping (ids, clocks, usage,
# the recorded usage in metadata) that grows with nearly every release of the library.
_ONLY = {
    "ModelRequest": frozenset({"parts"}),
    "ModelResponse": frozenset({"parts", "state"}),
    "InstructionPart": frozenset({"content"}),
}

_VOLATILE = frozenset(
    {
        "timestamp",
        "timestamps",
        "run_id",
        "conversation_id",
        "context_id",
        "workspace_ref",
        "usage",
        "identifier",
        "provider_name",
        "provider_url",
    }
)

_DEEPEST = 100
_BRACKETS = re.compile(r"[\[\]{}]")

# Documented by pydantic-ai as never sent to a model.
_UNSENT_BY_MESSAGES = frozenset({"id", "metadata", "retry"})

# `capability_id` is random for a capability without an id; the others steer the caller, not the model.
_UNSENT_BY_TOOLS = frozenset({"capability_id", "toolset_id", "metadata", "timeout", "sequential", "kind"})

_LEAVES = frozenset({str, int, float, bool, type(None)})
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


_Reading: TypeAlias = Literal["plain", "call_id", "args", "bytes", "return_schema"]
_READINGS: dict[str, _Reading] = {
    "tool_call_id": "call_id",
    "args": "args",
    "data": "bytes",
    "return_schema": "return_schema",
}


class Field(NamedTuple):
    """A field that is content, its default or default factory, and how its value is read."""

    name: str
    default: Any
    reading: _Reading


class Projection(NamedTuple):
    """How one dataclass of pydantic-ai is projected; `tag_field` names the field that tells the classes apart."""

    tag: str
    tag_field: str | None
    fields: tuple[Field, ...]
    is_file: bool


_PLANS: dict[type, Projection | None] = {}


def _library_class(cls: type) -> type | None:
    """The class of pydantic-ai that `cls` is or extends, if it is a dataclass of that library."""
    if not is_dataclass(cls):
        return None
    return next((base for base in cls.__mro__ if base.__module__.split(".", 1)[0] == "pydantic_ai"), None)


def _keeps(owner: type, name: str) -> bool:
    if name.startswith("_") or name in _VOLATILE:
        return False
    if owner.__name__ == "ToolDefinition":
        return name not in _UNSENT_BY_TOOLS
    if owner.__module__ == "pydantic_ai.messages":
        return name not in _UNSENT_BY_MESSAGES
    return True


def plan_of(cls: type) -> Projection | None:
    """How `cls` is projected; None where it is not a dataclass of pydantic-ai."""
    try:
        return _PLANS[cls]
    except KeyError:
        plan = _PLANS[cls] = _plan(cls)
        return plan


def _plan(cls: type) -> Projection | None:
    owner = _library_class(cls)
    if owner is None:
        return None
    names = {f.name for f in fields(cls)}
    # Narrowed and private subclasses (BinaryImage, _FrameworkNote) are told apart by their kind, as on disk.
    kinds = () if owner.__name__ == "ToolDefinition" else ("part_kind", "kind")
    tag_field = next((kind for kind in kinds if kind in names), None)
    only = next((_ONLY[base.__name__] for base in cls.__mro__ if base.__name__ in _ONLY), None)
    kept = [
        Field(f.name, f.default if f.default is not MISSING else f.default_factory, _READINGS.get(f.name, "plain"))
        for f in fields(cls)
        if f.name != tag_field and (_keeps(owner, f.name) if only is None else f.name in only)
    ]
    return Projection(owner.__name__, tag_field, tuple(kept), issubclass(cls, FileUrl))


def is_default(value: Any, default: Any) -> bool:
    """Whether a field says nothing: it is skipped, so that a field added by a later release keeps old keys."""
    if callable(default):
        # A factory of an empty container; the factories of clocks and ids belong to fields that are not kept.
        return isinstance(value, (list, dict, set, tuple)) and not value
    return type(value) is type(default) and bool(value == default)


def canonical(value: object, ids: dict[str, str]) -> Any:
    """The content of `value` as JSON: what a model would see of it, and nothing that differs between two equal runs.

    `ids` maps the tool-call ids met so far to their numbers in order of appearance, and is extended.
    """
    cls = type(value)
    if cls in _LEAVES:
        return value
    if cls is list or cls is tuple:
        return [item if type(item) in _LEAVES else canonical(item, ids) for item in value]  # type: ignore[attr-defined]
    if cls is dict:
        return {
            key if type(key) is str else _dict_key(key): item if type(item) in _LEAVES else canonical(item, ids)
            for key, item in value.items()  # type: ignore[attr-defined]
        }
    plan = plan_of(cls)
    return _foreign(value, ids) if plan is None else _project(value, plan, ids)


def _dict_key(key: object) -> str:
    (text,) = to_jsonable_python({key: None}, fallback=nameless)
    return str(text)


def number_of_call(call_id: str, ids: dict[str, str]) -> str:
    """The number of a tool call by its first appearance; `ids` is extended."""
    return ids.get(call_id) or ids.setdefault(call_id, f"t{len(ids):08d}")


def _project(value: Any, plan: Projection, ids: dict[str, str]) -> list[Any]:
    content: dict[str, Any] = {}
    for name, default, reading in plan.fields:
        field = getattr(value, name)
        if default is not MISSING and (field is default or is_default(field, default)):
            continue
        if reading == "plain":
            content[name] = field if type(field) in _LEAVES else canonical(field, ids)
        else:
            content[name] = _read(field, reading, value, ids)
    if plan.is_file:
        content.update(_media_type(value))
    return [getattr(value, plan.tag_field) if plan.tag_field else plan.tag, content]


def _read(field: Any, reading: _Reading, owner: Any, ids: dict[str, str]) -> Any:
    match reading:
        case "call_id":
            return number_of_call(field, ids)
        case "args":
            return canonical(_parse_arguments(field) if isinstance(field, str) else field, ids)
        case "bytes" if isinstance(field, bytes):
            return hashlib.sha256(field).hexdigest()
        case "return_schema":
            return canonical(field, ids) if owner.include_return_schema else None
        case "bytes" | "plain":
            return canonical(field, ids)
        case _:
            assert_never(reading)


def _parse_arguments(text: str) -> Any:
    """Streamed arguments arrive as text and others as a dict; both say the same. What no tool could take stays text."""
    if _too_deep(text):
        return text
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = deepest = 0
    for sign in _BRACKETS.findall(text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    return deepest > _DEEPEST


def _media_type(value: FileUrl) -> dict[str, str]:
    """A media type given by hand; one that follows from the address adds nothing (a restored message holds it)."""
    try:
        given = value.media_type
    except ValueError:
        return {}
    try:
        inferred = type(value)(value.url).media_type
    except ValueError:
        inferred = ""
    return {} if given == inferred else {"media_type": given}


def _foreign(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item, ids) for item in value), key=ENCODER.encode)
    if isinstance(value, Mapping):
        return {_dict_key(key): canonical(item, ids) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item, ids) for item in value]
    return to_jsonable_python(value, fallback=nameless, bytes_mode="base64")


def nameless(value: object) -> str:
    """What is known of a value that has no JSON form, without its address in memory."""
    return _ADDRESS.sub("", repr(value))
