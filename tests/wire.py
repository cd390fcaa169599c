"""The two OpenAI protocols as data: what a request says, and how a reply is written whole and as a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Protocol = Literal["chat", "responses"]
Left = Literal["finish", "usage", "done"]
"""What a stream may leave out: why it ended, its counts, its last event."""


@dataclass(frozen=True)
class Said:
    """One message, the same for both protocols."""

    role: str
    text: str = ""
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One request, the same for both protocols."""

    model: str
    messages: tuple[Said, ...]
    tools: tuple[str, ...]
    json: bool
    stream: bool

    @property
    def prompt(self) -> str:
        return next((said.text for said in reversed(self.messages) if said.role == "user"), "")

    @property
    def turn(self) -> int:
        """How many assistant turns came after the last prompt."""
        turns = 0
        for before, said in zip((Said("user"), *self.messages), self.messages, strict=False):
            if said.role == "user":
                turns = 0
            elif said.role == "assistant" and before.role != "assistant":
                turns += 1
        return turns

    @property
    def results(self) -> tuple[str, ...]:
        """What the tools gave since the last prompt."""
        last = max((i for i, said in enumerate(self.messages) if said.role == "user"), default=0)
        return tuple(said.text for said in self.messages[last:] if said.role == "tool")


@dataclass(frozen=True)
class Answer:
    """What the model says: a text, or tool calls as `(name, arguments)`; `pace` is the time before each piece of it."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    pace: float = 0.0


def parse(protocol: Protocol, body: dict[str, Any]) -> Asking:
    """Read a request body."""
    messages = _chat_messages(body) if protocol == "chat" else _responses_messages(body)
    tools = (tool.get("function", tool) for tool in body.get("tools") or ())
    shape = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    return Asking(
        model=body["model"],
        messages=tuple(messages),
        tools=tuple(tool["name"] for tool in tools),
        json=str(shape.get("type", "text")).startswith("json"),
        stream=bool(body.get("stream")),
    )


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", f"<{part.get('type')}>") for part in content)
    return content or ""


def _chat_messages(body: dict[str, Any]) -> Iterator[Said]:
    for message in body["messages"]:
        calls = tuple(call["function"]["name"] for call in message.get("tool_calls") or ())
        yield Said(message["role"], _text(message.get("content")), calls)


def _responses_messages(body: dict[str, Any]) -> Iterator[Said]:
    if body.get("instructions"):
        yield Said("system", body["instructions"])
    for item in [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]:
        match item.get("type", "message"):
            case "message":
                yield Said(item["role"], _text(item["content"]))
            case "function_call":
                yield Said("assistant", calls=(item["name"],))
            case "function_call_output":
                yield Said("tool", _text(item["output"]))


def whole(
    protocol: Protocol, asking: Asking, answer: Answer, *, name: str, finish: str = "", without: Collection[Left] = ()
) -> dict[str, Any]:
    """The reply as one JSON body; `name` is unique for the request and becomes its ids.

    `finish` is why it ended, where that is not the end of the answer; `refusal` makes the text a refusal.
    """
    if protocol == "responses":
        reply = _responses(asking, answer, name=name, finish=finish)
    else:
        reply = _chat(asking, answer, name=name, finish=finish)
        if "finish" in without:
            reply["choices"][0]["finish_reason"] = None
    if "usage" in without:
        del reply["usage"]
    return reply


def stream(
    protocol: Protocol, asking: Asking, answer: Answer, *, name: str, finish: str = "", without: Collection[Left] = ()
) -> Iterator[str]:
    """The reply as server-sent events."""
    if protocol == "chat":
        for chunk in _chat_chunks(asking, answer, name=name, finish=finish):
            if "finish" in without and chunk["choices"] and chunk["choices"][0]["finish_reason"]:
                continue
            if "usage" not in without or "usage" not in chunk:
                yield f"data: {json.dumps(chunk)}\n\n"
        if "done" not in without:
            yield "data: [DONE]\n\n"
        return
    for place, event in enumerate(_responses_events(asking, answer, name=name, finish=finish)):
        if "done" in without and event["type"] in ("response.completed", "response.incomplete"):
            continue
        if "usage" in without and "response" in event:
            event["response"].pop("usage")
        yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': place})}\n\n"


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text)


def _counts(asking: Asking, answer: Answer) -> tuple[int, int]:
    sent = sum(len(said.text) // 4 + 4 for said in asking.messages) + 20 * len(asking.tools)
    back = len(answer.text) // 4 + sum(8 + len(json.dumps(args)) // 4 for _, args in answer.calls) + 1
    return sent, back


def _chat_usage(asking: Asking, answer: Answer) -> dict[str, int]:
    sent, back = _counts(asking, answer)
    return {"prompt_tokens": sent, "completion_tokens": back, "total_tokens": sent + back}


def _chat_calls(answer: Answer, name: str) -> list[dict[str, Any]]:
    return [
        {
            "index": place,
            "id": f"call_{name}_{place}",
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps(args)},
        }
        for place, (tool, args) in enumerate(answer.calls)
    ]


def _chat(asking: Asking, answer: Answer, *, name: str, finish: str) -> dict[str, Any]:
    said = "refusal" if finish == "refusal" else "content"
    message: dict[str, Any] = {"role": "assistant", "content": None, said: answer.text or None}
    if answer.calls:
        message["tool_calls"] = _chat_calls(answer, name)
    reason = _reason(answer, finish)
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": asking.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": _chat_usage(asking, answer),
    }


def _reason(answer: Answer, finish: str) -> str:
    # A refusal is no reason: such an answer has stopped.
    return "tool_calls" if answer.calls else finish if finish not in ("", "refusal") else "stop"


def _chat_chunks(asking: Asking, answer: Answer, *, name: str, finish: str) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": 1_750_000_000}
        return {**head, "model": asking.model, "choices": choices}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(answer.text):
        yield chunk({"refusal" if finish == "refusal" else "content": piece})
    for call in _chat_calls(answer, name):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        yield chunk({"tool_calls": [{**call, "function": {**call["function"], "arguments": arguments[:half]}}]})
        yield chunk({"tool_calls": [{"index": call["index"], "function": {"arguments": arguments[half:]}}]})
    yield chunk({}, _reason(answer, finish))
    yield {**chunk({}), "choices": [], "usage": _chat_usage(asking, answer)}


def _items(answer: Answer, name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.text:
        content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
        items.append(
            {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": "completed", "content": content}
        )
    for place, (tool, args) in enumerate(answer.calls):
        ids = {"id": f"fc_{name}_{place}", "call_id": f"call_{name}_{place}"}
        items.append(
            {"type": "function_call", **ids, "name": tool, "arguments": json.dumps(args), "status": "completed"}
        )
    return items


def _responses(asking: Asking, answer: Answer, *, name: str, finish: str, done: bool = True) -> dict[str, Any]:
    sent, back = _counts(asking, answer)
    usage = {
        "input_tokens": sent,
        "output_tokens": back,
        "total_tokens": sent + back,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": 1_750_000_000,
        "status": "in_progress" if not done else "incomplete" if finish else "completed",
        "incomplete_details": {"reason": finish} if done and finish else None,
        "model": asking.model,
        "output": _items(answer, name) if done else [],
        "usage": usage if done else None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _responses_events(asking: Asking, answer: Answer, *, name: str, finish: str) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": _responses(asking, answer, name=name, finish=finish, done=False)}
    for place, item in enumerate(_items(answer, name)):
        events = _message_events if item["type"] == "message" else _call_events
        yield from ({**event, "output_index": place} for event in events(item))
    ended = "incomplete" if finish else "completed"
    yield {"type": f"response.{ended}", "response": _responses(asking, answer, name=name, finish=finish)}


def _message_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    [part] = item["content"]
    here = {"item_id": item["id"], "content_index": 0}
    yield {"type": "response.output_item.added", "item": {**item, "status": "in_progress", "content": []}}
    yield {"type": "response.content_part.added", **here, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **here, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **here, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **here, "part": part}
    yield {"type": "response.output_item.done", "item": item}


def _call_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    here = {"item_id": item["id"]}
    arguments = item["arguments"]
    yield {"type": "response.output_item.added", "item": {**item, "status": "in_progress", "arguments": ""}}
    for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
        yield {"type": "response.function_call_arguments.delta", **here, "delta": piece}
    yield {
        "type": "response.function_call_arguments.done",
        **here,
        "name": item["name"],
        "arguments": arguments,
    }
    yield {"type": "response.output_item.done", "item": item}
