"""The identity of a step: equal requests have equal keys, in any process, on any day, under any library release."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai.messages import (
    FileUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_core import to_json, to_jsonable_python

from agentkit.durable.records import Node, Part
from agentkit.durable.redact import Redactor

VERSION = 1

ROOT = hashlib.sha256(b"agentkit chain %d" % VERSION).digest()
"""The digest of a conversation in which nothing was said."""

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

# Documented by pydantic-ai as never sent to a model.
_UNSENT_BY_MESSAGES = frozenset({"id", "metadata", "retry"})

# `capability_id` is random for a capability without an id; the others steer the caller, not the model.
_UNSENT_BY_TOOLS = frozenset({"capability_id", "toolset_id", "metadata", "timeout", "sequential", "kind"})

# How long to wait is not part of the question: a longer timeout must not pay for an answer again.
_UNSENT_SETTINGS = frozenset({"timeout"})

_GROUPS = {
    "tools": frozenset(
        {"function_tools", "native_tools", "tool_visibility", "revealed_tool_names", "introduced_tool_names"}
    ),
    "output": frozenset(
        {
            "output_mode",
            "output_object",
            "output_tools",
            "prompted_output_template",
            "allow_text_output",
            "allow_image_output",
        }
    ),
    "instructions": frozenset({"instruction_parts", "instruction_visibility"}),
}
_GROUPED = frozenset().union(*_GROUPS.values())

_LEAVES = frozenset({str, int, float, bool, type(None)})
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
# One adapter for each class: going through the union of both costs twice as much.
_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    ModelRequest: TypeAdapter(list[ModelRequest], config=_BASE64),
    ModelResponse: TypeAdapter(list[ModelResponse], config=_BASE64),
}
# Of these the schema adds nothing to what their values say, and without it they are written twice as fast.
_COMMON = frozenset({SystemPromptPart, UserPromptPart, ToolReturnPart, TextPart, ThinkingPart, ToolCallPart})
_CALL_ID = re.compile(r'"tool_call_id":"([^"\\]*)"')
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _as_is(text: str) -> str:
    return text


_Reading: TypeAlias = Literal["plain", "call_id", "args", "bytes", "return_schema"]
_READINGS: dict[str, _Reading] = {
    "tool_call_id": "call_id",
    "args": "args",
    "data": "bytes",
    "return_schema": "return_schema",
}


class _Field(NamedTuple):
    name: str
    default: Any
    reading: _Reading


class _Plan(NamedTuple):
    """How one dataclass of pydantic-ai is projected; `tag_field` names the field that tells the classes apart."""

    tag: str
    tag_field: str | None
    fields: tuple[_Field, ...]
    is_file: bool


_PLANS: dict[type, _Plan | None] = {}


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


def _plan_of(cls: type) -> _Plan | None:
    try:
        return _PLANS[cls]
    except KeyError:
        plan = _PLANS[cls] = _plan(cls)
        return plan


def _plan(cls: type) -> _Plan | None:
    owner = _library_class(cls)
    if owner is None:
        return None
    names = {f.name for f in fields(cls)}
    # Narrowed and private subclasses (BinaryImage, _FrameworkNote) are told apart by their kind, as on disk.
    kinds = () if owner.__name__ == "ToolDefinition" else ("part_kind", "kind")
    tag_field = next((kind for kind in kinds if kind in names), None)
    only = next((_ONLY[base.__name__] for base in cls.__mro__ if base.__name__ in _ONLY), None)
    kept = [
        _Field(f.name, f.default if f.default is not MISSING else f.default_factory, _READINGS.get(f.name, "plain"))
        for f in fields(cls)
        if f.name != tag_field and (_keeps(owner, f.name) if only is None else f.name in only)
    ]
    return _Plan(owner.__name__, tag_field, tuple(kept), issubclass(cls, FileUrl))


def _is_default(value: Any, default: Any) -> bool:
    if default is MISSING:
        return False
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
    plan = _plan_of(cls)
    return _foreign(value, ids) if plan is None else _project(value, plan, ids)


def _dict_key(key: object) -> str:
    (text,) = to_jsonable_python({key: None}, fallback=_nameless)
    return str(text)


def _project(value: Any, plan: _Plan, ids: dict[str, str]) -> list[Any]:
    content: dict[str, Any] = {}
    for name, default, reading in plan.fields:
        field = getattr(value, name)
        if field is default or _is_default(field, default):
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
            return ids.get(field) or ids.setdefault(field, f"t{len(ids):08d}")
        case "args":
            return canonical(_parsed(field) if isinstance(field, str) else field, ids)
        case "bytes" if isinstance(field, bytes):
            return hashlib.sha256(field).hexdigest()
        case "return_schema":
            return canonical(field, ids) if owner.include_return_schema else None
        case "bytes" | "plain":
            return canonical(field, ids)
        case _:
            assert_never(reading)


def _parsed(text: str) -> Any:
    """Streamed arguments arrive as text and others as a dict; both say the same."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


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
        return sorted((canonical(item, ids) for item in value), key=_ENCODER.encode)
    if isinstance(value, Mapping):
        return {_dict_key(key): canonical(item, ids) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item, ids) for item in value]
    return to_jsonable_python(value, fallback=_nameless, bytes_mode="base64")


def _nameless(value: object) -> str:
    """What is known of a value that has no JSON form, without its address in memory."""
    return _ADDRESS.sub("", repr(value))


def _encoded(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def digest(value: Any) -> bytes:
    """sha256 of the sorted, compact JSON of `value`."""
    return hashlib.sha256(_encoded(value)).digest()


class Head(NamedTuple):
    """The digest of a conversation and the nodes of it that were not handed out before, oldest first."""

    digest: bytes
    nodes: tuple[Node, ...]


class Chain:
    """The conversation of one run as a chain of digests, extended as messages are added."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        self._scrub = _as_is if redactor is None else redactor.scrub
        self._emitted: set[bytes] = set()
        self._ids: dict[str, str] = {}
        self._digest = ROOT
        self._count = 0
        self._ends: tuple[ModelMessage, ModelMessage] | None = None

    def head(self, messages: Sequence[ModelMessage], *, trusted: bool = True) -> Head:
        """The digest of `messages`, in time that depends only on what was added since the last call.

        That holds where the history can be trusted to have only grown; `trusted=False` hashes all of it.
        """
        if not (trusted and self._continues(messages)):
            self._forget()
        nodes = []
        for message in messages[self._count :]:
            node = self._node(message)
            self._digest = node.digest
            if node.digest not in self._emitted:
                self._emitted.add(node.digest)
                nodes.append(node)
        if messages:
            self._ends, self._count = (messages[0], messages[-1]), len(messages)
        return Head(self._digest, tuple(nodes))

    def reply(self, message: ModelMessage) -> Node:
        """The node `message` would be, were it said next; the chain stays where it is."""
        before = len(self._ids)
        node = self._node(message)
        while len(self._ids) > before:
            self._ids.popitem()
        self._emitted.add(node.digest)
        return node

    def _forget(self) -> None:
        self._ids, self._digest, self._count, self._ends = {}, ROOT, 0, None

    def _continues(self, messages: Sequence[ModelMessage]) -> bool:
        known = self._count
        if self._ends is None or len(messages) < known:
            return False
        first, last = self._ends
        return messages[known - 1] is last and messages[0] is first

    def _node(self, message: ModelMessage) -> Node:
        content = self._scrub(_ENCODER.encode(canonical(message, self._ids)))
        address = hashlib.sha256(self._digest + content.encode()).digest()
        parent = None if self._digest is ROOT else self._digest
        return Node(address, parent, b"" if address in self._emitted else self._body(message))

    def _body(self, message: ModelMessage) -> bytes:
        """The whole message, with the ids of its tool calls numbered as in the digest: two runs share one row."""
        text = _whole(message)
        calls = sum(getattr(part, "tool_call_id", None) is not None for part in message.parts)
        if calls:
            text = self._numbered(text, calls)
        return self._scrub(text).encode()

    def _numbered(self, text: str, calls: int) -> str:
        ids = self._ids
        numbered, found = _CALL_ID.subn(lambda call: f'"tool_call_id":"{ids.get(call.group(1), "")}"', text)
        if found == calls and '"tool_call_id":""' not in numbered:
            return numbered
        # An id with escapes, or a field of that name in an argument or a result: only those of the parts are numbered.
        document = json.loads(text)
        for part in document["parts"]:
            if part.get("tool_call_id") is not None:
                part["tool_call_id"] = ids[part["tool_call_id"]]
        return _ENCODER.encode(document)


def _whole(message: ModelMessage) -> str:
    metadata = message.metadata
    if metadata and "agentkit" in metadata:
        message = replace(message, metadata={k: v for k, v in metadata.items() if k != "agentkit"} or None)
    if _COMMON.issuperset(map(type, message.parts)):
        return to_json(message, bytes_mode="base64").decode()
    return _ADAPTERS[type(message)].dump_json([message])[1:-1].decode()


def restore(bodies: Sequence[bytes], redactor: Redactor | None = None) -> list[ModelMessage]:
    """The conversation whose nodes have these bodies, oldest first, with those secrets that the environment holds."""
    document = b"[" + b",".join(bodies) + b"]"
    if redactor is not None and b"<secret:" in document:
        document = _ENCODER.encode(redactor.restore(json.loads(document))[0]).encode()
    return ModelMessagesTypeAdapter.validate_json(document)


@dataclass(frozen=True, slots=True)
class Key:
    """The identity of one request.

    `slot` is the same question put to another model, or to another version of the tool. `parts` names the
    ingredients, each by the hex digest under which `bodies` holds it.
    """

    key: bytes
    slot: bytes
    parts: dict[str, str]
    bodies: tuple[Part, ...]


class RequestParts:
    """The digests of what else a request consists of, remembered for as long as it does not change."""

    LIMIT = 64

    def __init__(self, redactor: Redactor | None = None) -> None:
        self._scrub = _as_is if redactor is None else redactor.scrub
        self._memo: dict[tuple[object, ...], Part] = {}

    def part(self, value: object) -> Part:
        """One ingredient under its content."""
        body = self._scrub(_ENCODER.encode(canonical(value, {}))).encode()
        return Part(hashlib.sha256(body).digest(), body)

    def request(self, settings: Mapping[str, Any] | None, params: ModelRequestParameters) -> dict[str, Part]:
        """The ingredients of a model request besides its model and its history."""
        plan = _plan_of(ModelRequestParameters)
        assert plan is not None
        parts = {name: self._group(name, params, plan) for name in _GROUPS}
        parts["settings"] = self._settings(settings, params, plan)
        return parts

    def _group(self, name: str, params: ModelRequestParameters, plan: _Plan) -> Part:
        chosen = [f for f in plan.fields if f.name in _GROUPS[name]]
        return self._remembered((name, _raw([getattr(params, f.name) for f in chosen])), lambda: _given(params, chosen))

    def _settings(self, settings: Mapping[str, Any] | None, params: ModelRequestParameters, plan: _Plan) -> Part:
        # A parameter that a later release adds is a setting until it is known to be something else.
        rest = [f for f in plan.fields if f.name not in _GROUPED]
        given = {name: value for name, value in (settings or {}).items() if name not in _UNSENT_SETTINGS}
        raw = _raw([given, [getattr(params, f.name) for f in rest]])
        return self._remembered(("settings", raw), lambda: {"settings": given, **_given(params, rest)})

    def _remembered(self, key: tuple[str, bytes], content: Callable[[], object]) -> Part:
        part = self._memo.get(key)
        if part is None:
            if len(self._memo) >= self.LIMIT:
                self._memo.clear()
            part = self._memo[key] = self.part(content())
        return part


def _raw(value: object) -> bytes:
    """What the memo compares: unlike `==` it tells 1 from 1.0, and it notices a schema changed in place."""
    return to_json(value, fallback=_nameless, bytes_mode="base64")


def _given(params: ModelRequestParameters, chosen: Sequence[_Field]) -> dict[str, Any]:
    values = ((f.name, getattr(params, f.name), f.default) for f in chosen)
    return {name: value for name, value, default in values if not _is_default(value, default)}


def model_key(
    *,
    model: str,
    history: bytes,
    settings: Mapping[str, Any] | None,
    params: ModelRequestParameters,
    memo: RequestParts,
) -> Key:
    """The identity of a request to `model`; the slot is the same question to any model."""
    named = {"model": memo.part(model), **memo.request(settings, params)}
    return _key("model", named, history=history, apart="model")


def tool_key(
    *,
    name: str,
    args: object,
    digest: bytes,
    history: bytes | None,
    call: str | None = None,
    deps: bytes | None = None,
    reads: Mapping[str, str] | None = None,
    memo: RequestParts | None = None,
) -> Key:
    """The identity of a call of one version of a tool; the slot is the same call of any version.

    `history` is None for a tool whose answers are shared; `reads` (name to digest) lets `why` say what changed.
    """
    memo = memo or RequestParts()
    named = {"name": memo.part(name), "args": memo.part(args)}
    if call is not None:
        named["call"] = memo.part(call)
    if deps is not None:
        named["deps"] = memo.part(deps.hex())
    named["code"] = memo.part({"digest": digest.hex(), "reads": dict(reads or {})})
    return _key("tool", named, history=history, apart="code")


def operation_key(*, name: str, payload: object, history: bytes | None, memo: RequestParts | None = None) -> Key:
    """The identity of any other operation: discovery, validation, what a capability does."""
    memo = memo or RequestParts()
    named = {"name": memo.part(name), "payload": memo.part(payload)}
    return _key("operation", named, history=history, apart=None)


def _key(kind: str, named: Mapping[str, Part], *, history: bytes | None, apart: str | None) -> Key:
    parts = {name: part.digest.hex() for name, part in named.items()}
    if history is not None:
        parts["history"] = history.hex()
    shared = [f"{name}={hexed}" for name, hexed in sorted(parts.items()) if name != apart]
    slot = hashlib.sha256(f"{kind} {VERSION} {' '.join(shared)}".encode()).digest()
    # Only the slot's digest and the part that sets it apart: the two can never be mistaken for one another.
    key = slot if apart is None else hashlib.sha256(slot + named[apart].digest).digest()
    return Key(key, slot, parts, tuple(named.values()))
