"""What a worker may say of its end: its form is checked, for the program that ran in it could write in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from agentkit.tools.inputs import is_report

TEXT_CHARACTERS = 2_000
TRACE_CHARACTERS = 4_000

BEGUN = b"+"
"""What a worker writes before it lets anything foreign run: after it, it cannot say that it was not begun."""


class FalseReply(ValueError):
    """Something was written that no worker writes."""


def read_reply(written: bytes, *, outputs: list[str] | None) -> dict[str, Any] | None:
    """What the worker said, None where it said nothing. Raises FalseReply; `outputs` are the names asked of a cell."""
    begun = written.startswith(BEGUN)
    body = written[len(BEGUN) :] if begun else written
    if not body:
        return None
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FalseReply("it wrote to the channel of its own reply") from error
    if not isinstance(reply, dict):
        raise FalseReply("its reply says nothing of its end")
    how = reply.get("how")
    forms = _FORMS if begun else _REFUSED
    if not isinstance(how, str) or how not in forms:
        raise FalseReply("its reply says nothing of its end")
    form = forms[how] if how != "done" else {"value": _anything, **({} if outputs is None else _CELL)}
    if how == "done" and outputs is None and "heard" in reply:
        form = {**form, "heard": is_report}
    form = {"how": _anything, "peak": _size, **form}
    if reply.keys() != form.keys() or not all(fits(reply[name]) for name, fits in form.items()):
        raise FalseReply(f"its reply is none of a worker that is {how}")
    if outputs is not None and how == "done" and list(reply["outputs"]) != outputs:
        raise FalseReply("its reply holds other outputs than were asked for")
    return reply


Fits = Callable[[Any], bool]


def _anything(value: Any) -> bool:
    return True


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


def _line(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value < 1 << 31)


def _text(most: int) -> Fits:
    return lambda value: isinstance(value, str) and len(value) <= most


_CELL: Mapping[str, Fits] = {"outputs": lambda value: isinstance(value, dict)}
_REFUSED: Mapping[str, Mapping[str, Fits]] = {"refused": {"text": _text(TEXT_CHARACTERS)}}
_FORMS: Mapping[str, Mapping[str, Fits]] = {
    "done": {},
    "memory": {"text": _text(TEXT_CHARACTERS)},
    "raised": {
        "kind": _text(TEXT_CHARACTERS),
        "module": _text(TEXT_CHARACTERS),
        "message": _text(TEXT_CHARACTERS),
        "line": _line,
        "trace": _text(TRACE_CHARACTERS),
    },
}
