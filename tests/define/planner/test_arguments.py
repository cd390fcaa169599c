"""Arguments come from the prompt and from earlier results, or the tool is not called."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Tool

from agentkit.define.planner.arguments import Known, arguments
from agentkit.define.planner.words import Prompt

COLUMNS = Known(names={"columns": ("date", "precipitation", "temp_max", "temp_min", "wind")})


class Colour(Enum):
    red = "red"
    blue = "blue"


class Point(BaseModel):
    x: int
    label: str = ""


def one(column: str) -> None: ...
def several(columns: list[str]) -> None: ...
def between(low_above: float, high_below: float) -> None: ...
def sized(n: int, width: float = 1.0) -> None: ...
def coloured(colour: Colour) -> None: ...
def flagged(city: str, verbose: bool = False, detailed: bool = True) -> None: ...
def dated(start: Literal["2012-01-01"] | str, year: int | None = None) -> None: ...
def flight(origin: str, destination: str) -> None: ...
def fetch(url: str) -> None: ...
def read_file(path: str) -> None: ...
def search(query: str, limit: int = 10) -> None: ...
def place(point: Point, quick: bool = False) -> None: ...
def total(numbers: list[float]) -> None: ...


@pytest.mark.parametrize(
    ("tool", "prompt", "calls"),
    [
        (one, "the mean of `wind`", [{"column": "wind"}]),
        (one, "how warm was it at most, the highest?", [{"column": "temp_max"}]),
        (one, "the coldest", [{"column": "temp_min"}]),
        (one, "how rainy was it", [{"column": "precipitation"}]),
        (one, "anything at all", []),
        (several, "compare `wind` and `temp_max`", [{"columns": ["temp_max", "wind"]}]),
        (between, "more than 3 but less than 7.5", [{"low_above": 3, "high_below": 7.5}]),
        (sized, "top 4 please", [{"n": 4}]),
        (sized, "above 4 please", []),
        (coloured, "make it blue", [{"colour": "blue"}]),
        (flagged, "in Oslo, verbose and not detailed", [{"city": "Oslo", "verbose": True, "detailed": False}]),
        (flight, "fly from Oslo to New York", [{"origin": "Oslo", "destination": "New York"}]),
        (fetch, "get https://example.org/a.json now", [{"url": "https://example.org/a.json"}]),
        (read_file, "open ./data/rain.csv", [{"path": "./data/rain.csv"}]),
        (search, "search for 'content keys'", [{"query": "content keys"}]),
        (search, "what is a journal?", [{"query": "what is a journal?"}]),
        (search, "show the first 3 hits on 'keys'", [{"query": "keys", "limit": 3}]),
        (place, "put it at 7", [{"point": {"x": 7}}]),
        (total, "add 1, 2 and 3.5", [{"numbers": [1, 2, 3.5]}]),
    ],
)
def test_a_prompt_fills_a_tool(tool: Callable[..., Any], prompt: str, calls: list[dict[str, Any]]) -> None:
    assert arguments(Tool(tool).tool_def, Prompt(prompt), COLUMNS) == calls


def test_a_tool_that_acts_never_gets_a_guessed_word() -> None:
    def remove(user: str) -> None: ...

    assert arguments(Tool(remove).tool_def, Prompt("remove accounts"), Known(), guess=True) == [{"user": "accounts"}]
    assert arguments(Tool(remove).tool_def, Prompt("remove accounts"), Known(), guess=False) == []


def test_a_message_is_filled_with_what_was_found() -> None:
    def note(title: str, text: str) -> None: ...

    known = Known(summary="July is the warmest month.")
    made = arguments(Tool(note).tool_def, Prompt("note it as 'Heat'"), known, guess=False)
    assert made == [{"title": "Heat", "text": "July is the warmest month."}]


def test_a_member_named_by_the_grouping_is_not_also_the_column() -> None:
    def mean(column: str, by: Literal["month", "weather"]) -> None: ...

    known = Known(names={"columns": ("weather", "wind")})
    assert arguments(Tool(mean).tool_def, Prompt("mean by weather"), known) == []
    assert arguments(Tool(mean).tool_def, Prompt("mean wind by weather"), known) == [
        {"column": "wind", "by": "weather"}
    ]
