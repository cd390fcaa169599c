"""What is read off the code of a function besides its digest."""

from __future__ import annotations

import json
import subprocess
from types import FunctionType

import pytest

import agentkit.tools.source
from agentkit.tools.inputs import is_library
from agentkit.tools.source import Source, source_of
from tests.tools.digested import define


def source(text: str) -> Source:
    tool = define(text)["tool"]
    assert isinstance(tool, FunctionType)
    return source_of(tool.__code__)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("def tool(x): calls.append(x)", {"calls"}),
        ("def tool(x): cache[x] = 1", {"cache"}),
        ("def tool(x): cache[x] += 1", {"cache"}),
        ("def tool(x): del cache[x]", {"cache"}),
        ("def tool(x): state.n = x", {"state", "state.n"}),
        ("def tool(x): state.items[x].append(1)", {"state", "state.items"}),
        ("def tool(self): self.n += 1", {"self", "self.n"}),
        ("def tool(x): return calls.count(x) + cache[x] + state.n", set()),
    ],
)
def test_changed_names(text: str, changed: set[str]) -> None:
    assert source(text).changed == changed


def test_reads_and_assigns_include_nested_functions() -> None:
    found = source("def tool(x):\n  global n\n  n = 1\n  def inner():\n    return RATE + helper(x)\n  return inner()")
    assert set(found.reads) == {"RATE", "helper"}
    assert found.assigns == ("n",)
    assert found.rebound == {"n"}


def test_a_nonlocal_counter_is_rebound_and_a_local_one_is_not() -> None:
    outer = "def outer():\n  n = 0\n  def tool():\n    nonlocal n\n    n += 1\n  return tool\ntool = outer()"
    assert source(outer).rebound == {"n"}
    assert source("def tool():\n  n = 0\n  def inner():\n    nonlocal n\n    n += 1\n  return inner").rebound == set()


def test_two_lambdas_on_one_line_are_told_from_other_lines() -> None:
    one, two = (source(f"tools = [lambda: {n}, lambda: 2]\ntool = tools[0]") for n in (1, 3))
    assert one.digest != two.digest


def test_equal_code_in_two_cells_is_read_from_its_own() -> None:
    first = define("def tool(x: int): return x", cell="<one>")["tool"]
    second = define("def tool(x: str): return x", cell="<two>")["tool"]
    assert first.__code__ == second.__code__
    assert source_of(first.__code__).digest != source_of(second.__code__).digest


def test_whose_code_it_is() -> None:
    assert is_library(json.__file__)
    assert is_library(subprocess.__file__)
    assert is_library(pytest.__file__)
    assert is_library(agentkit.tools.source.__file__)
    assert not is_library(__file__)
    assert not is_library("/tmp/ipykernel_1/2.py")
    assert not is_library("<ipython-input-1>")
