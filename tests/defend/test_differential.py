"""Programs in the sandbox and in Python: the same answer, or an error in the sandbox. Never another answer."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import warnings
from collections import Counter
from typing import Any, NamedTuple

import pydantic_monty
import pytest

from agentkit.defend import dialect
from tests.defend.expressions import IMPORTS, programs

pytestmark = pytest.mark.timeout(170)

KNOWN = {
    r"math\.(erfc?|l?gamma|cbrt)\(": "the last digit of what Python takes from the C library; compared to 13 digits",
    r"d = \{1: 'a'\}; d\[True\]": "of equal keys the last spelling is kept: the entries are the same, 1 == True",
    r"2\.0 \*\* -25": "a number exactly between two texts of 17 digits is written as the other; both are read as it",
}
"""The differences that stay, and why that is no wrong answer. One that is not listed fails, one too many as well."""


SHOW = """def show(v):
    return str(sorted([repr(x) for x in v])) if isinstance(v, (set, frozenset)) else repr(v)
"""


class Answer(NamedTuple):
    how: str
    what: str


class Sandbox:
    """One worker for many programs: what is tested here is the language, not the walls."""

    def __init__(self) -> None:
        self._exits = contextlib.ExitStack()
        self._pool = self._exits.enter_context(pydantic_monty.Monty(max_processes=2))
        self._ready: set[str] = set()
        self._session: Any = None

    def close(self) -> None:
        self._exits.close()

    def answer(self, program: str) -> Answer:
        found = dialect.problems(program)
        if found:
            return Answer("refused", found[0].message)
        prepared = dialect.prepare(program)
        try:
            return Answer("value", self._run(prepared))
        except pydantic_monty.MontyCrashedError as error:
            self._session = None
            return Answer("crash", str(error))
        except pydantic_monty.MontyError as error:
            return Answer("error", str(error))

    def _run(self, prepared: dialect.Prepared) -> str:
        if self._session is None:
            limits: Any = {"max_feed_duration_secs": 60, "max_memory": 512 << 20}
            checkout = self._pool.checkout(limits=limits, assert_message_annotations=False)
            self._session, self._ready = self._exits.enter_context(checkout), set()
        for piece in prepared.prelude:
            if piece not in self._ready:
                self._session.feed_run(piece)
                self._ready.add(piece)
        answer: str = self._session.feed_run(prepared.fed)
        return answer


def asking(program: str) -> str:
    """`program` with its last expression shown as text; sets by their sorted items, whose order means nothing."""
    last = ast.parse(program).body[-1]
    assert isinstance(last, ast.Expr), program
    lines = program.encode().split(b"\n")
    before = b"\n".join([*lines[: last.lineno - 1], lines[last.lineno - 1][: last.col_offset]]).decode()
    return f"{IMPORTS}{SHOW}{before}show(({ast.get_source_segment(program, last.value)}))"


def python(program: str) -> Answer:
    names: dict[str, Any] = {}
    *before, last = ast.parse(program).body
    assert isinstance(last, ast.Expr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(ast.Module(before, []), "<program>", "exec"), names)
            return Answer("value", eval(compile(ast.Expression(last.value), "<program>", "eval"), names))
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox must not give an answer instead
            return Answer("error", f"{type(error).__name__}: {error}")


def near(one: str, other: str) -> bool:
    """Equal but for the last digits of numbers."""
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-13)
    except ValueError:
        return False


def reason(program: str, here: Answer, there: Answer) -> str | None:
    """The entry of KNOWN that a difference belongs to."""
    for known in KNOWN:
        if re.search(known, program):
            return known if not known.startswith(r"math") or near(here.what, there.what) else None
    return None


def test_the_sandbox_answers_as_python_does_or_not_at_all() -> None:
    sandbox = Sandbox()
    counted: Counter[str] = Counter()
    silent: list[str] = []
    used: set[str] = set()
    try:
        for program in programs():
            asked = asking(program)
            here, there = sandbox.answer(asked), python(asked)
            counted[here.how] += 1
            if here.how != "value" or here == there:
                continue
            known = reason(program, here, there)
            if known is not None:
                used.add(known)
            else:
                silent.append(f"{program!r}: {here.what[:80]} instead of {there.how} {there.what[:80]}")
    finally:
        sandbox.close()
    print(dict(counted))
    assert not silent, "\n".join(silent)
    assert used == set(KNOWN), "a difference that is listed is none any more"
    assert counted["value"] > 2_000 and counted["crash"] == 0
