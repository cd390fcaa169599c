"""The identity of a step: equal requests have equal keys, in any process, on any day, under any library release."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai.messages import (
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
from pydantic_core import to_json

from agentkit.journal.canonical import ENCODER, Field, canonical, is_default, nameless, number_of_call, plan_of
from agentkit.journal.records import MessageNode, Part
from agentkit.journal.redaction import Redactor

VERSION = 1

ROOT = hashlib.sha256(b"agentkit chain %d" % VERSION).digest()
"""The digest of a conversation in which nothing was said."""

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

# One adapter for each class: going through the union of both costs twice as much.
_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    ModelRequest: TypeAdapter(list[ModelRequest], config=_BASE64),
    ModelResponse: TypeAdapter(list[ModelResponse], config=_BASE64),
}
# Of these the schema adds nothing to what their values say, and without it they are written twice as fast.
_COMMON = frozenset({SystemPromptPart, UserPromptPart, ToolReturnPart, TextPart, ThinkingPart, ToolCallPart})
# What a response cost is on record with its step; the conversation holds what was said.
_COUNTED = {"usage"}
_OPTIONAL: dict[type, tuple[str, ...]] = {}
_CALL_ID = re.compile(r'"tool_call_id":"([^"\\]*)"')


def _as_is(text: str) -> str:
    return text


def digest(value: Any) -> bytes:
    """sha256 of the sorted, compact JSON of `value`."""
    return hashlib.sha256(ENCODER.encode(value).encode()).digest()


class Head(NamedTuple):
    """The digest of a conversation and the nodes of it that were not handed out before, oldest first."""

    digest: bytes
    nodes: tuple[MessageNode, ...]


class MessageChain:
    """The conversation of one run as a chain of digests, extended as messages are added."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        self._scrub = _as_is if redactor is None else redactor.scrub
        self._emitted: set[bytes] = set()
        self._waiting: list[tuple[bytes, bytes | None, ModelMessage]] = []
        self._made: list[MessageNode] = []
        self._ids: dict[str, str] = {}
        self._digest = ROOT
        self._count = 0
        self._ends: tuple[ModelMessage, ModelMessage] | None = None

    def head(self, messages: Sequence[ModelMessage], *, trusted: bool = True) -> Head:
        """The digest of `messages` and the nodes that were not handed out before."""
        return Head(self.digest(messages, trusted=trusted), self.take())

    def digest(self, messages: Sequence[ModelMessage], *, trusted: bool = True) -> bytes:
        """The digest of `messages`, in time that depends only on what was added since the last call.

        That holds where the history can be trusted to have only grown; `trusted=False` hashes all of it.
        """
        if not (trusted and self._continues(messages)):
            self._forget()
        for message in messages[self._count :]:
            self._extend(message)
        if messages:
            self._ends, self._count = (messages[0], messages[-1]), len(messages)
        return self._digest

    def take(self) -> tuple[MessageNode, ...]:
        """The nodes not handed out before, oldest first. Their bodies are made here: a replay never asks for them."""
        nodes = [
            *self._made,
            *(MessageNode(address, parent, self._body(said)) for address, parent, said in self._waiting),
        ]
        self._made, self._waiting = [], []
        return tuple(nodes)

    def on_disk(self) -> None:
        """What was said so far is in the journal already: a step with this very history was replayed from it."""
        self._made, self._waiting = [], []

    def reply(self, message: ModelMessage) -> MessageNode:
        """The node `message` would be, were it said next; the chain stays where it is."""
        before = len(self._ids)
        address = self._address(message)
        node = MessageNode(address, self._parent(), self._body(message))
        while len(self._ids) > before:
            self._ids.popitem()
        self._emitted.add(address)
        return node

    def number(self, messages: Iterable[ModelMessage]) -> dict[str, str]:
        """Number the tool calls of messages that are on record, as hashing them would; the calls by their numbers."""
        for message in messages:
            for part in message.parts:
                if isinstance(part, ToolCallPart):
                    number_of_call(part.tool_call_id, self._ids)
        return {number: name for name, number in self._ids.items()}

    def jump(self, messages: Sequence[ModelMessage], digest: bytes) -> None:
        """Go on behind `messages`, all of them on record under this digest and numbered."""
        self._digest, self._count, self._ends = digest, len(messages), (messages[0], messages[-1])

    def _forget(self) -> None:
        # Numbered by the ids as they are now, which the next line resets.
        self._made, self._waiting = list(self.take()), []
        self._ids, self._digest, self._count, self._ends = {}, ROOT, 0, None

    def _extend(self, message: ModelMessage) -> None:
        address, parent = self._address(message), self._parent()
        if address not in self._emitted:
            self._emitted.add(address)
            self._waiting.append((address, parent, message))
        self._digest = address

    def _parent(self) -> bytes | None:
        return None if self._digest is ROOT else self._digest

    def _continues(self, messages: Sequence[ModelMessage]) -> bool:
        known = self._count
        if self._ends is None or len(messages) < known:
            return False
        first, last = self._ends
        return messages[known - 1] is last and messages[0] is first

    def _address(self, message: ModelMessage) -> bytes:
        content = self._scrub(ENCODER.encode(canonical(message, self._ids)))
        return hashlib.sha256(self._digest + content.encode()).digest()

    def _body(self, message: ModelMessage) -> bytes:
        """The whole message, with the ids of its tool calls numbered as in the digest: two runs share one row."""
        text = _whole(message)
        calls = sum(getattr(part, "tool_call_id", None) is not None for part in message.parts)
        if calls:
            text = self._number_calls(text, calls)
        return self._scrub(text).encode()

    def _number_calls(self, text: str, calls: int) -> str:
        ids = self._ids
        numbered, found = _CALL_ID.subn(lambda call: f'"tool_call_id":"{ids.get(call.group(1), "")}"', text)
        if found == calls and '"tool_call_id":""' not in numbered:
            return numbered
        # An id with escapes, or a field of that name in an argument or a result: only those of the parts are numbered.
        document = json.loads(text)
        for part in document["parts"]:
            if part.get("tool_call_id") is not None:
                part["tool_call_id"] = ids[part["tool_call_id"]]
        return ENCODER.encode(document)


def _whole(message: ModelMessage) -> str:
    metadata = message.metadata
    if metadata and "agentkit" in metadata:
        message = replace(message, metadata={k: v for k, v in metadata.items() if k != "agentkit"} or None)
    if _COMMON.issuperset(map(type, message.parts)):
        return to_json(message, bytes_mode="base64", exclude=_default_fields(message)).decode()
    return _ADAPTERS[type(message)].dump_json([message], exclude={"__all__": _COUNTED})[1:-1].decode()


def _default_fields(message: ModelMessage) -> dict[str, Any]:
    """What is not written: the usage, and what is None and is read back as None where it is not there."""
    parts = {place: _absent(part) for place, part in enumerate(message.parts)}
    return {**dict.fromkeys((*_COUNTED, *_absent(message)), True), "parts": parts}


def _absent(value: Any) -> set[str]:
    cls = type(value)
    if cls not in _OPTIONAL:
        _OPTIONAL[cls] = tuple(f.name for f in fields(cls) if f.default is None and f.name != "metadata")
    return {name for name in _OPTIONAL[cls] if getattr(value, name) is None}


def restore(bodies: Sequence[bytes], redactor: Redactor | None = None) -> list[ModelMessage]:
    """The conversation whose nodes have these bodies, oldest first, with those secrets that the environment holds."""
    document = b"[" + b",".join(bodies) + b"]"
    if redactor is not None and b"<secret:" in document:
        document = ENCODER.encode(redactor.restore(json.loads(document))[0]).encode()
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
    """The digests of what else a request consists of, remembered for as long as it does not change.

    `identity` says for whom it is made, where that is known: a part of whatever is not shared.
    """

    LIMIT = 64

    def __init__(self, redactor: Redactor | None = None, *, identity: Mapping[str, str] | None = None) -> None:
        self._scrub = _as_is if redactor is None else redactor.scrub
        self.identity = {name: self.part(value) for name, value in (identity or {}).items()}
        self._memo: dict[tuple[object, ...], Part] = {}
        self._last: tuple[tuple[str, bytes], dict[str, Part]] | None = None

    def part(self, value: object) -> Part:
        """One ingredient under its content."""
        body = self._scrub(ENCODER.encode(canonical(value, {}))).encode()
        return Part(hashlib.sha256(body).digest(), body)

    def request(
        self, model: str, settings: Mapping[str, Any] | None, params: ModelRequestParameters
    ) -> dict[str, Part]:
        """The ingredients of a model request besides its history."""
        # Nearly always the same as last time, and looked at once; what changed is found in the parts.
        whole = (model, _raw((settings, vars(params))))
        if self._last is None or self._last[0] != whole:
            self._last = (whole, self._request(model, settings, params))
        return self._last[1]

    def _request(
        self, model: str, settings: Mapping[str, Any] | None, params: ModelRequestParameters
    ) -> dict[str, Part]:
        parts = {"model": self._memoize(("model", model), lambda: model)}
        for name in _GROUPS:
            parts[name] = self._group(name, params)
        given = {name: value for name, value in (settings or {}).items() if name not in _UNSENT_SETTINGS}
        # A parameter that a later release adds is a setting until it is known to be something else.
        rest, values = _group_values(params, None)
        parts["settings"] = self._memoize(
            ("settings", _raw((given, values))), lambda: {"settings": given, **_present_fields(params, rest)}
        )
        return parts

    def _group(self, name: str, params: ModelRequestParameters) -> Part:
        chosen, values = _group_values(params, name)
        return self._memoize((name, _raw(values)), lambda: _present_fields(params, chosen))

    def _memoize(self, key: tuple[str, object], content: Callable[[], object]) -> Part:
        part = self._memo.get(key)
        if part is None:
            if len(self._memo) >= self.LIMIT:
                self._memo.clear()
            part = self._memo[key] = self.part(content())
        return part


_GROUP_FIELDS: dict[str | None, tuple[Field, ...]] = {}


def _group_values(params: ModelRequestParameters, group: str | None) -> tuple[tuple[Field, ...], list[Any]]:
    """The fields of a group, or of none, and their values."""
    if not _GROUP_FIELDS:
        plan = plan_of(ModelRequestParameters)
        every = () if plan is None else plan.fields
        for name, names in _GROUPS.items():
            _GROUP_FIELDS[name] = tuple(f for f in every if f.name in names)
        _GROUP_FIELDS[None] = tuple(f for f in every if f.name not in _GROUPED)
    chosen = _GROUP_FIELDS[group]
    return chosen, [getattr(params, f.name) for f in chosen]


def _raw(value: object) -> bytes:
    """What the memo compares: unlike `==` it tells 1 from 1.0, and it notices a schema changed in place."""
    return to_json(value, fallback=nameless, bytes_mode="base64")


def _present_fields(params: ModelRequestParameters, chosen: Sequence[Field]) -> dict[str, Any]:
    values = ((f.name, getattr(params, f.name), f.default) for f in chosen)
    return {name: value for name, value, default in values if default is MISSING or not is_default(value, default)}


def model_key(
    *,
    model: str,
    history: bytes,
    settings: Mapping[str, Any] | None,
    params: ModelRequestParameters,
    memo: RequestParts,
    shared: bool = False,
) -> Key:
    """The identity of a request to `model`; the slot is the same question to any model. `shared`: by anybody."""
    named = memo.request(model, settings, params)
    return _key("model", named if shared else {**named, **memo.identity}, history=history, apart="model")


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
    if history is not None:
        named |= memo.identity
    if call is not None:
        named["call"] = memo.part(call)
    if deps is not None:
        named["deps"] = memo.part(deps.hex())
    named["code"] = memo.part({"digest": digest.hex(), "reads": dict(reads or {})})
    return _key("tool", named, history=history, apart="code")


def operation_key(*, name: str, payload: object, history: bytes | None, memo: RequestParts | None = None) -> Key:
    """The identity of any other operation: discovery, validation, what a capability does."""
    memo = memo or RequestParts()
    named = {"name": memo.part(name), "payload": memo.part(payload), **memo.identity}
    return _key("operation", named, history=history, apart=None)


def place_key(name: str, history: bytes, memo: RequestParts) -> Key:
    """The identity of what may stand at a place of a conversation, whatever it turns out to say."""
    whose = b"".join(part.digest for _, part in sorted(memo.identity.items()))
    found = hashlib.sha256(b"%s %d %s%s" % (name.encode(), VERSION, history, whose)).digest()
    named = {name: part.digest.hex() for name, part in memo.identity.items()}
    return Key(found, found, {"history": history.hex(), **named}, tuple(memo.identity.values()))


def _key(kind: str, named: Mapping[str, Part], *, history: bytes | None, apart: str | None) -> Key:
    parts = {name: part.digest.hex() for name, part in named.items()}
    if history is not None:
        parts["history"] = history.hex()
    shared = [f"{name}={hexed}" for name, hexed in sorted(parts.items()) if name != apart]
    slot = hashlib.sha256(f"{kind} {VERSION} {' '.join(shared)}".encode()).digest()
    # Only the slot's digest and the part that sets it apart: the two can never be mistaken for one another.
    key = slot if apart is None else hashlib.sha256(slot + named[apart].digest).digest()
    return Key(key, slot, parts, tuple(named.values()))
