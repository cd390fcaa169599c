"""What a person puts in the place of a step: new arguments, a result, a reply, other messages; checked and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)

from agentkit.errors import UserError
from agentkit.values.json_schema import mismatch

What: TypeAlias = Literal["arguments", "result", "reply", "messages", "hint", "model", "instructions"]
WHATS: tuple[str, ...] = get_args(What)
Path: TypeAlias = tuple[int, ...]
"""Where a step stands among the model requests and tool calls of a run: (3,), or inside the sub-agent there: (3, 1)."""

_OF_KIND: dict[str, frozenset[str]] = {
    "tool": frozenset({"arguments", "result"}),
    "model": frozenset({"reply", "messages", "hint", "model", "instructions"}),
}
LASTING = frozenset({"model", "instructions"})
"""These hold from their step on, the others for their step only."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """One edit of one step, in JSON values: the same edit in another kernel makes the same branch."""

    at: Path
    what: What
    value: Any

    def as_json(self) -> dict[str, Any]:
        return {"at": format_path(self.at), "what": self.what, "value": self.value}

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> Override:
        return cls(at=read_path(given["at"]), what=given["what"], value=given["value"])

    def __str__(self) -> str:
        return f"{self.what} of step {format_path(self.at)}"


def format_path(path: Path) -> str:
    return ".".join(map(str, path))


def read_path(text: str | int) -> Path:
    """A step as it is typed: `3`, or `3.1` for the first step of the agent that step 3 called."""
    try:
        path = tuple(int(part) for part in str(text).split("."))
    except ValueError:
        path = ()
    if not path or min(path) < 1:
        raise UserError(f"{text} is not a step: give its number, for example 3, or 3.1 inside the agent that 3 calls")
    return path


def with_edit(overrides: Iterable[Override], edit: Override) -> tuple[Override, ...]:
    """The branch that this edit makes: what was edited later on belonged to steps that are not met any more."""
    kept = [one for one in overrides if one.at < edit.at or (one.at == edit.at and not _same_place(one, edit))]
    return (*kept, edit)


def _same_place(one: Override, other: Override) -> bool:
    contents = {"messages", "hint", "reply", "arguments", "result"}
    return one.what == other.what or {one.what, other.what} <= contents


def check_kind(edit: What, kind: str, place: str) -> None:
    """Raise UserError when a step of this kind has nothing of that name."""
    if kind == "line":
        raise UserError(f"step {place} is a statement of the program: edit the cell and run it again")
    if edit not in _OF_KIND[kind]:
        possible = ", ".join(what for what in WHATS if what in _OF_KIND[kind])
        raise UserError(f"step {place} is a {kind} {_NOUNS[kind]}: {edit} cannot be edited there; possible: {possible}")


_NOUNS = {"tool": "call", "model": "request"}


def parse_value(what: What, text: str) -> Any:
    """The value that the body of `%%agent edit` gives."""
    text = text.strip()
    if not text:
        raise UserError(f"the new {what} is empty: write it down")
    if what in ("hint", "model", "instructions"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        if what == "reply":
            return text
        if what == "messages":
            raise UserError(f"messages are a JSON list ({error}); plain text is a hint") from error
        if what == "result":
            return text
        raise UserError(f'{what} are JSON ({error}): for example {{"name": 1}}') from error


def valid_arguments(value: Any, validator: Any, tool: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments as the tool gets them; UserError names the first that its validator or schema refuses."""
    if not isinstance(value, dict):
        raise UserError(f"the arguments of {tool} are a JSON object, not {type(value).__name__}")
    valid: dict[str, Any] = value
    if validator is not None:
        try:
            valid = validator.validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "arguments"
            raise UserError(f"{tool}: {where}: {first['msg']}") from error
    # The tools of a server have a schema, and a validator that takes anything.
    if (wrong := mismatch(schema or {}, value)) is not None:
        raise UserError(f"{tool}: {wrong}")
    return valid


def reply_of(value: Any, at: Path) -> ModelResponse:
    """A reply in a person's words: text, or `{"tool": NAME, "args": {…}}`, or a list of these."""
    items = value if isinstance(value, list) else [value]
    parts = [_reply_part(item, f"edited_{format_path(at)}_{place}") for place, item in enumerate(items)]
    if not parts:
        raise UserError('a reply is text, or {"tool": NAME, "args": {…}}, or a list of these: this one is empty')
    return ModelResponse(parts=parts, model_name="a person")


def _reply_part(item: Any, call_id: str) -> TextPart | ToolCallPart:
    match item:
        case str():
            return TextPart(item)
        case {"tool": str(name), **rest} if set(rest) <= {"args"} and isinstance(args := rest.get("args", {}), dict):
            return ToolCallPart(name, args, tool_call_id=call_id)
        case dict() | list():
            raise UserError('a reply is text, or {"tool": NAME, "args": {…}}, or a list of these')
        case _:
            return TextPart(json.dumps(item))


def valid_messages(value: Any) -> list[ModelMessage]:
    """Messages as `run.pending.messages_json()` gives them; a conversation ends in what is asked."""
    try:
        messages = ModelMessagesTypeAdapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"messages: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not messages or not isinstance(messages[-1], ModelRequest):
        raise UserError("messages: the last one must be a request, because it is what the model answers")
    return messages


def add_hint(messages: Sequence[ModelMessage], hint: str) -> list[ModelMessage]:
    """The conversation with a person's remark at the end of what is asked."""
    last = messages[-1]
    if not isinstance(last, ModelRequest):
        raise UserError("a hint needs a request to be put into")
    return [*messages[:-1], replace(last, parts=[*last.parts, UserPromptPart(hint)])]


def check(edit: Override, *, kind: str, name: str, validator: Any, schema: Mapping[str, Any] | None) -> None:
    """Raise UserError, in one line, for an edit that this step cannot take."""
    check_kind(edit.what, kind, format_path(edit.at))
    match edit.what:
        case "arguments":
            valid_arguments(edit.value, validator, name, schema)
        case "reply":
            reply_of(edit.value, edit.at)
        case "messages":
            valid_messages(edit.value)
        case "hint" | "model" | "instructions":
            if not isinstance(edit.value, str) or not edit.value.strip():
                raise UserError(f"the new {edit.what} is a text")
        case "result":
            return
