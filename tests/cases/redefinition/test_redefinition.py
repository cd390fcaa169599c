"""What a built agent does after one of its names was defined anew, in a real kernel: one case, one line."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.notebook.kernels import Kernel, kernel

# It calls each tool once with what it is asked for, and answers with what the last one said, or with a city.
_MODEL = """
%load_ext agentkit
import agentkit
from agentkit.tools.declaration import declaration
from pydantic import BaseModel
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

def reply(messages, info):
    said = [part for message in messages for part in message.parts if part.part_kind in ("tool-return", "retry-prompt")]
    if len(said) < len(info.function_tools):
        tool = info.function_tools[len(said)]
        wanted = tool.parameters_json_schema.get("properties", {})
        return ModelResponse(parts=[ToolCallPart(tool.name, {name: "x" for name in wanted})])
    if info.output_tools:
        wanted = info.output_tools[0].parameters_json_schema["properties"]
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {name: "Rome" for name in wanted})])
    return ModelResponse(parts=[TextPart(" ".join(str(part.content) for part in said) or "nothing")])

rule = FunctionModel(reply)
"""
_TOOL = 'def f(x: str) -> str:\n    "Look."\n    return "{}"'
_CITY = 'class City(BaseModel):\n    name: str\n    def __str__(self): return "{}" + self.name'


class Case(NamedTuple):
    """Cells before the build, its options, the cell that is executed anew, and what an expression gives after it."""

    name: str
    before: str
    build: str
    anew: str
    look: str
    gives: str


_RUN = '(await a.run("go")).output'
_SUB = "%%agent build b --model rule --tools f\nAnswer."
_BY_RULE = '@agentkit.tool(approve=needs)\ndef g(x: str) -> str:\n    "Look."\n    return "made"'
_PROBE = "def probe(x):\n    return '{}'"
_BY_PROBE = '@agentkit.tool(effects="once", verify=probe)\ndef g(x: str) -> str:\n    "Look."\n    return "made"'
_NEEDS = "def needs(x):\n    return {}"
CASES = [
    Case("a tool", _TOOL.format("old"), "--tools f", _TOOL.format("new"), _RUN, "'new'"),
    Case("a tool made async", _TOOL.format("old"), "--tools f", "async " + _TOOL.format("new"), _RUN, "'new'"),
    Case("a tool's arguments", _TOOL.format("old"), "--tools f", 'def f(y: str, z: str) -> str:\n    "Look."\n    return y + z', _RUN, "'xx'"),
    Case("a tool of another name", _TOOL.format("old"), "--tools f", 'def g(x: str) -> str:\n    "Look."\n    return "g"\nf = g', _RUN, "'g'"),
    Case("a tool in a namespace", "class T:\n    pass\nt = T()\n" + _TOOL.format("old") + "\nt.f = f", "--tools t.f", _TOOL.format("new") + "\nt.f = f", _RUN, "'new'"),
    Case("the order of tools", _TOOL.format("old") + '\ndef h(x: str) -> str:\n    "Look."\n    return "h"', "--tools f, h", _TOOL.format("new"), _RUN, "'new h'"),
    Case("an output", _CITY.format("old"), "--output City", _CITY.format("new"), f"isinstance({_RUN}, City)", "True"),
    Case("an output's method", _CITY.format("old "), "--output City", _CITY.format("new "), f"str({_RUN})", "'new Rome'"),
    Case("an output's fields", _CITY.format(""), "--output City", "class City(BaseModel):\n    town: str", f"{_RUN}.town", "'Rome'"),
    Case("a list of outputs", _CITY.format("old "), "--output list[City]", "class City(BaseModel):\n    town: str", 'a.output_type == list[City]', "False"),
    Case("an output, with a validator", _CITY.format("old "), "--output City", _CITY.format("new "), f"str({_RUN})", "'new Rome'"),
    Case("a sub-agent", _TOOL.format("old") + "\n---\n" + _SUB, "--tools b", _TOOL.format("new") + "\n---\n" + _SUB, _RUN, "'new'"),
    Case("a sub-agent's tool", _TOOL.format("old") + "\n---\n" + _SUB, "--tools b", _TOOL.format("new"), _RUN, "'new'"),
    Case("an agent that a tool asks", _TOOL.format("old") + "\n---\n" + _SUB + '\n---\nasync def ask(x: str) -> str:\n    "Ask."\n    return (await b.run("go")).output', "--tools ask", _TOOL.format("new"), _RUN, "'new'"),
    Case("deps", 'where = "old"\ndef at(ctx: RunContext[str]) -> str:\n    "Look."\n    return str(ctx.deps)', "--tools at --deps where", 'where = "new"', _RUN, "'new'"),
    Case("deps, in a cell magic", 'where = "old"\ndef at(ctx: RunContext[str]) -> str:\n    "Look."\n    return str(ctx.deps)', "--tools at --deps where", 'where = "new"\n---\n%%agent run a --as got\ngo', "got", "'new'"),
    Case("verify=", _PROBE.format("old") + "\n---\n" + _BY_PROBE, "--tools g", _PROBE.format("new"), "declaration(g).verify(1)", "'new'"),
    Case("a tool that is gone", _TOOL.format("old"), "--tools f", "del f", f"({_RUN}, a.last.run.notes)", "('old', ('f is no longer a name of the notebook: the tool stays as it was built',))"),
    Case("an output that is gone", _CITY.format("old "), "--output City", "del City", f"(str({_RUN}), a.last.run.notes)", "('old Rome', ('City is no longer a name of the notebook: the output stays as it was built',))"),
    Case("deps that are gone", "where = 1", "--deps where", "del where", f"({_RUN}, a.last.run.notes)", "('nothing', ('where is no longer a name of the notebook: there are no deps',))"),
    Case("an agent of Python's", _TOOL.format("old") + "\na2 = agentkit.build(agentkit.Spec(instructions='Answer.'), name='a2', tools=[f], model=rule)", "--tools f", _TOOL.format("new"), '(await a2.run("go")).output', "'old'"),
]  # fmt: skip
REFUSED = [
    Case("a tool that is a number", _TOOL.format("old"), "--tools f", "f = 3", _RUN, "a: --tools: f is a int; tools are functions, agents and toolsets"),
    Case("a tool without types", _TOOL.format("old"), "--tools f", 'def f(x):\n    "Look."\n    return x', _RUN, "a: its tool f was made again, and tool f has no type for x: the model needs them, write def f(x: str, …)"),
    Case("an output that is no type", _CITY.format("old"), "--output City", "City = 3", _RUN, "a: --output City: 3 is not a type; give a pydantic model or a type like list[int]"),
    Case("approve= that is a number", _NEEDS.format("False") + "\n---\n" + _BY_RULE, "--tools g", "needs = 3", _RUN, "a: g: its approve=needs is now a int, no function: define it again"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("redefinition")) as started:
        assert started.run(_MODEL).error is None
        yield started


def cells(started: Kernel, text: str) -> None:
    for code in text.split("\n---\n"):
        cell = started.run(code)
        assert cell.error is None, cell.traceback


def built(started: Kernel, case: Case) -> None:
    cells(started, case.before)
    cells(started, f"%%agent build a --model rule {case.build}\nAnswer.")
    started.run(_RUN)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_built_agent_follows_the_names_of_the_notebook(shared: Kernel, case: Case) -> None:
    built(shared, case)
    cells(shared, case.anew)
    assert literal_eval(shared.value(case.look)) == literal_eval(case.gives)


@pytest.mark.parametrize("case", REFUSED, ids=[case.name for case in REFUSED])
def test_what_cannot_serve_is_said_in_one_line(shared: Kernel, case: Case) -> None:
    built(shared, case)
    cells(shared, case.anew)
    cell = shared.run(case.look)
    assert cell.ename == "UserError"
    assert cell.error == case.gives


def test_a_rule_for_approvals_that_was_made_stricter_holds(shared: Kernel) -> None:
    built(shared, Case("", f"{_NEEDS.format('False')}\n---\n{_BY_RULE}", "--tools g", "", "", ""))
    assert shared.value(_RUN) == "'made'"
    cells(shared, _NEEDS.format("x == 'x'"))
    cell = shared.run('(await a.run("go on")).output')
    assert cell.ename == "ApprovalPending", cell.traceback
