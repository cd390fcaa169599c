"""What generated code may not say: found before it runs, each with its place and a substitute that works."""

from __future__ import annotations

import asyncio
import datetime

import pydantic_monty
import pytest

from agentkit.errors import SandboxError
from agentkit.sandbox.monty import capabilities, dialect, differences, driver, shim_loader

WORLD = driver.Clock(now=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


def refused(source: str) -> dialect.Problem:
    found = dialect.problems(source, calls=frozenset({"search"}))
    assert found, source
    return found[0]


def run(source: str) -> object:
    async def call(made: driver.HostCall) -> object:
        return made.args

    return asyncio.run(driver.run(driver.Program(source=source), world=WORLD, call=call)).value


def raw(source: str) -> str:
    """How the installed Monty itself ends it."""
    with pydantic_monty.Monty(max_processes=1) as pool, pool.checkout(assert_message_annotations=False) as session:
        try:
            return repr(session.feed_run(source))
        except pydantic_monty.MontyError as error:
            return str(error)


@pytest.mark.parametrize(
    ("source", "place", "substitute"),
    [
        ("d = {}\ndel d['k']", (2, 1, 10), "d.pop('k', None)"),
        ("x = [1]\ndel x[0]", (2, 1, 8), "x.pop(0)"),
        ("x = [1]\ndel x[0:1]", (2, 1, 10), "x[0:1] = []"),
        ("x = 1\ndel x", (2, 1, 5), "x = None"),
        ("def f():\n    yield 1", (2, 5, 7), "append to a list and return the list"),
        ("class E(Exception): pass", (1, 9, 9), 'raise ValueError("E: ...")'),
        ("import enum\nclass C(enum.Enum): A = 1", (1, 8, 4), "a class with plain values"),
        ("d = {'a': 1}\nmax(d, key=d.get)", (2, 12, 5), "lambda k: d[k]"),
        ("sorted(['b'], key=str.lower)", (1, 19, 9), "lambda x: x.lower()"),
        ("str.upper('a')", (1, 1, 9), "'a'.upper()"),
        ("class A:\n    @property\n    def x(self): return 1", (2, 6, 8), "def x(self), called as x()"),
        ("class A:\n    def __len__(self): return 0", (2, 5, 27), "write a method `size()`"),
        ("async def f():\n    async with x: pass", (2, 5, 18), "asyncio.gather"),
        ("from math import *", (1, 1, 18), "import math"),
        ("import pandas as pd", (1, 8, 12), "--tier process"),
        ("from collections import OrderedDict", (1, 25, 11), "dict, which keeps its order"),
        ("import json\njson.dumps(1, default=str)", (2, 23, 3), "convert the values"),
        ("é = 'a'; callable(é)", (1, 10, 8), 'hasattr(x, "__call__")'),
        ("raise KeyError(5)", (1, 7, 11), 'KeyError("...")'),
        ("print(1, file=out)", (1, 15, 3), 'out.write(f"...\\n")'),
        ("any(search(x) for x in [1])", (1, 4, 24), "for loop that stops with break"),
        ("def g(x): return search(x)\nfor y in map(g, [1]):\n    break", (2, 10, 11), "for loop"),
        ("map(search, [1])", (1, 5, 6), "[search(x) for x in [1]]"),
        ("import datetime as d\nd.datetime.strptime('1', '%Y-%m-%d %H')", (2, 26, 13), "complete the text first"),
        ("{1: 'a', True: 'b'}", (1, 10, 4), "keep one"),
        ("hash('a')", (1, 1, 9), "hashlib"),
        ("e = eval", (1, 5, 4), "write the code itself"),
        ("try: pass\nexcept* ValueError: pass", (1, 1, 10_000), "except"),
    ],
)
def test_each_refusal_has_its_place_and_a_substitute(source: str, place: tuple[int, int, int], substitute: str) -> None:
    found = refused(source)
    assert (found.line, found.column) == place[:2] and substitute in found.substitute, found
    assert found.width == place[2], found


def test_substitutes_work() -> None:
    assert run("d = {'k': 1}\nd.pop('k', None)\nx = [1, 2, 3]\nx.pop(0)\nx[0:1] = []\nd, x") == ({}, [3])
    assert run("d = {'a': 1, 'b': 3}\nmax(d, key=lambda k: d[k])") == "b"
    assert run("sorted(['B', 'a'], key=lambda x: x.lower())") == ["a", "B"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SandboxError) as caught:
        dialect.check("import numpy\nx = 1\ndel x\nhash(x)")
    assert caught.value.line == 1 and "also to change: line 3, 4" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "class P:\n    def __init__(self): self.count = 1\np = P()\nprint(p.count)\nmax(p.count, 2)",
        "from collections import namedtuple\nP = namedtuple('P', 'index x')\nmax(P(1, 2).index, 0)",
        "def callable(x): return 1\ncallable(2)",
        "def hash_of(x): return x\nclass A:\n    def __hash__(self): return hash((1, 2))\nlen({A()})",
        "import datetime\ndatetime.datetime.strptime('2026-01-02 03:04', '%Y-%m-%d %H:%M')",
        "from __future__ import annotations\nfrom typing import Any\nx: Any = 1",
        "import os.path\nos.path.join('a', 'b')",
        "match 1:\n    case 1: x = 2",
        "from math import sqrt as root\nlist(map(root, [4]))",
    ],
)
def test_what_runs_is_not_refused(source: str) -> None:
    assert dialect.problems(source) == []
    run(source)


@pytest.mark.parametrize(
    ("source", "line", "shown"),
    [
        ("from statistics import (\n    mean,\n    stdev,\n)\n1 / 0", 5, "1 / 0"),
        ("g = (x for x in [1]); 1 / 0", 1, "1 / 0"),
        ("import re\nre.findall('a', 'a'); next(x for x in []), 1", 2, "next(x for x in [])"),
        ("x = map(str, [1]); y = zip([1]); nothing", 1, "nothing"),
    ],
)
def test_lines_and_carets_are_those_of_the_source(source: str, line: int, shown: str) -> None:
    with pytest.raises(SandboxError) as caught:
        run(source)
    error = caught.value
    assert error.line == line and error.source == source.split("\n")[line - 1]
    assert error.source[error.column - 1 : error.column - 1 + error.width].startswith(shown[:8]), str(error)


def test_special_methods_that_are_refused_are_ignored_by_the_installed_monty() -> None:
    ignored = {
        "__bool__": ("False", "bool(a)", "True"),
        "__len__": ("5", "len(a)", "TypeError"),
        "__format__": ("'f'", "f'{a}'", "object"),
        "__lt__": ("True", "a < a", "TypeError"),
        "__getattr__": ("1", "a.zzz", "AttributeError"),
        "__reversed__": ("[1]", "list(reversed(a))", "TypeError"),
    }
    for name, (returned, asked, said) in ignored.items():
        assert name in differences.IGNORED
        assert said in raw(f"class A:\n    def {name}(self, *x): return {returned}\na = A()\n{asked}"), name


def test_what_monty_has_is_asked_of_itself() -> None:
    installed = capabilities.detect()
    assert {"json", "math", "datetime", "csv"} <= set(installed.lacking) and "numpy" not in installed.modules
    assert {"statistics", "heapq", "operator", "string", "textwrap", "io"} <= set(dialect.modules())
    assert "callable" in installed.builtins_lacking and "len" not in installed.builtins_lacking
    for module in dialect.modules():
        assert raw(f"import {module}") == "None" or module in shim_loader.MODULES


def test_the_guide_is_short_and_names_every_module() -> None:
    guide = dialect.guide()
    assert all(module in guide for module in dialect.modules()) and len(guide) < 1500


@pytest.mark.parametrize("source", ["x = (1", "if 1:\nx", "x = 'a", "1 +* 2", "def f(:\n  pass"])
def test_a_syntax_error_has_a_line_and_a_caret(source: str) -> None:
    with pytest.raises(SandboxError) as caught:
        dialect.check(source)
    assert caught.value.fault == "dialect" and caught.value.line and "^" in str(caught.value)
