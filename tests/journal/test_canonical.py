"""The content of values as JSON: what a model would see, equal in every process."""

from __future__ import annotations

import datetime
import enum
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import BinaryContent, ImageUrl, TextPart, ToolCallPart
from pydantic_ai.tools import ToolDefinition

from agentkit.journal.canonical import canonical


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Pair(NamedTuple):
    a: int
    b: Any


class Point(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ({1: "a", None: "b", 1.5: "c"}, {"1": "a", "None": "b", "1.5": "c"}),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (frozenset({2, 10}), [10, 2]),
        (Colour.RED, "red"),
        (Text("a"), "a"),
        (Pair(1, Pair(2, 3)), [1, [2, 3]]),
        (Point(x=1), {"x": 1}),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (b"\xff", "_w=="),
        (TextPart("a", id="msg_1"), ["text", {"content": "a"}]),
        (ToolDefinition(name="t", description=None, capability_id="<a:1>"), ["ToolDefinition", None]),
    ],
)
def test_content(value: object, content: Any) -> None:
    found = canonical(value, {})
    if isinstance(value, ToolDefinition):
        assert found[0] == "ToolDefinition"
        assert set(found[1]) == {"name", "parameters_json_schema"}
    else:
        assert found == content


def test_call_ids_are_numbered_by_first_appearance() -> None:
    ids: dict[str, str] = {}
    calls = [ToolCallPart("t", {"tool_call_id": "b"}, tool_call_id=name) for name in "bab"]
    numbered = [part[1]["tool_call_id"] for part in canonical(calls, ids)]
    assert numbered == ["t00000000", "t00000001", "t00000000"]
    assert canonical(calls[0], ids)[1]["args"] == {"tool_call_id": "b"}


def test_a_picture_is_known_by_its_data_and_kind() -> None:
    kind, content = canonical(BinaryContent(b"1", media_type="image/png", identifier="mine"), {})
    assert kind == "binary"
    assert set(content) == {"data", "media_type"}
    assert canonical(ImageUrl("http://x/a.png", media_type="image/png"), {}) == canonical(
        ImageUrl("http://x/a.png"), {}
    )


def test_sets_have_one_order_in_every_process() -> None:
    code = "from agentkit.journal.canonical import canonical\nprint(canonical({'a', 'b', 'c', 'd', ('e', 1)}, {}))"
    root = str(Path(__file__).parents[2])
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
