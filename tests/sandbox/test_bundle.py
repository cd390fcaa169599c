"""What a tool needs elsewhere: all it reads, as written, and by name what cannot go."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.sandbox.process.bundle import bundle
from tests.cells import notebook, run_cell

TOOLS = '''
import math
import os.path as paths
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
import agentkit

RATE = 3
SIZE = 4

@dataclass
class Shop:
    name: str
    size: int = SIZE

    def sign(self) -> str:
        return f"{self.name}!{RATE}"

shop = Shop("corner")

@lru_cache(maxsize=SIZE)
def root(x: float) -> float:
    return math.sqrt(x)

def even(n: int) -> bool:
    return n == 0 or odd(n - 1)

def odd(n: int) -> bool:
    return n != 0 and even(n - 1)

# a comment above it
@agentkit.tool(effects="none",
               isolate=True)
def sell(item: str, kind: Literal["a", "b"] = "a", times: int = RATE) -> str:
    """Sell."""
    def inner():
        return root(16) + even(4)
    return f"{shop.sign()} {item} {inner()} {Counter(item)} {paths.join('a', 'b')}"
'''


def rebuilt(tool: Any) -> Any:
    needs = bundle(tool)
    space: dict[str, Any] = {"__name__": "__main__"}
    for name, module, attribute in needs.imports:
        found = __import__(module, fromlist=["_"])
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
        space[name] = found
    space |= needs.values
    for unit in needs.units:
        exec(compile("\n" * (unit.line - 1) + unit.text, unit.file, "exec"), space)
    return space[needs.function]


def test_everything_a_tool_reads_goes_with_it_and_nothing_else() -> None:
    with notebook(TOOLS, "unrelated = open") as cells:
        needs = bundle(cells.sell)
        assert rebuilt(cells.sell)("ab") == cells.sell("ab")
    assert set(needs.values) == {"RATE", "SIZE", "shop"}
    assert {name for name, *_ in needs.imports} == {"Counter", "dataclass", "lru_cache", "math", "paths", "Literal"}


def test_it_stands_at_its_line_and_without_what_only_declares() -> None:
    with notebook(TOOLS) as cells:
        *_, sell = bundle(cells.sell).units
        line = cells.sell.__code__.co_firstlineno
    assert sell.line == line
    assert "agentkit" not in sell.text
    assert sell.text.splitlines()[2].startswith("def sell")


def test_what_a_closure_holds_goes_too() -> None:
    cell = """
def make(factor):
    def times(x: int) -> int:
        return x * factor
    return times
times = make(5)
"""
    with notebook(cell) as cells:
        assert rebuilt(cells.times)(3) == 15


def test_the_newest_definition_of_a_class_is_meant() -> None:
    with notebook("class Box:\n    size: int = 1\n") as cells:
        run_cell(
            cells, "class Box:\n    size: int = 2\n    colour: str = 'r'\ndef look() -> str:\n    return Box.colour\n"
        )
        assert rebuilt(cells.look)() == "r"


def test_a_model_with_a_validator_and_an_enum() -> None:
    cell = """
import enum
from pydantic import BaseModel, Field, field_validator
LEAST = 2

class Colour(enum.Enum):
    RED = "r"

class Part(BaseModel):
    colour: Colour = Colour.RED
    size: int = Field(default=3, ge=1)

    @field_validator("size")
    @classmethod
    def large(cls, value: int) -> int:
        return max(value, LEAST)

class Big(Part):
    name: str = "b"

def t(part: Big) -> str:
    return f"{Big(size=1).size} {Big(size=1).colour.name} {part.name}"
"""
    with notebook(cell) as cells:
        assert rebuilt(cells.t)(cells.Big()) == cells.t(cells.Big())


REFUSED = {
    "changes calls": "calls = []\ndef t() -> None:\n    calls.append(1)\n",
    "changes n": "n = 0\ndef t() -> None:\n    global n\n    n += 1\n",
    "it is a method of an object": "class A:\n    def t(self) -> None: ...\nt = A().t\n",
    "it is partial": "import functools\ndef a(x: int) -> None: ...\nt = functools.partial(a, 1)\nt.__name__ = 't'\n",
    "source of t cannot be read": "exec('def t() -> None: ...')\n",
    "source of helper cannot be read": "helper = lambda x: x\ndef t() -> None:\n    helper(1)\n",
    "stands for two things": (
        "x = 1\ndef a(x):\n    def inner() -> int:\n        return x + other()\n    return inner\n"
        "def other() -> int:\n    return x\nt = a(2)\nt.__name__ = 't'\n"
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_run_elsewhere_is_refused_in_one_line(why: str) -> None:
    with (
        notebook(REFUSED[why]) as cells,
        pytest.raises(UserError, match=rf"^\w+ cannot run in a process.*{why}") as refused,
    ):
        bundle(cells.t)
    assert "\n" not in str(refused.value)


def test_a_function_that_can_be_imported_is() -> None:
    cell = "import sqlite3\ndef t() -> str:\n    return sqlite3.connect(':memory:')\n"
    with notebook(cell) as cells:
        needs = bundle(cells.t)
        assert isinstance(rebuilt(cells.t)(), sqlite3.Connection)
    assert needs.imports == (("sqlite3", "sqlite3", None),)
