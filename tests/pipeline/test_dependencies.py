"""The program against an oracle that executes the cells: prompts and tools see what they saw in the notebook."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import types
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, assume, event, given, note, settings
from hypothesis import strategies as st

from agentkit.agent.spec import Spec
from agentkit.errors import UserError
from agentkit.notebook.template import fill
from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline.export import program
from agentkit.pipeline.reader import Cell, Notebook
from agentkit.pipeline.settings import Settings
from agentkit.tools.declaration import tool

DATA = ("a", "b", "c", "d")
FUNCTIONS = ("f", "g")
EXAMPLES = int(os.environ.get("PIPELINE_EXAMPLES", "150"))

names = st.sampled_from(DATA)
numbers = st.integers(0, 9)


@st.composite
def statements(draw: st.DrawFn) -> str:
    """One line or block that a notebook may hold; all data are lists of numbers."""
    x, y, n = draw(names), draw(names), draw(numbers)
    call = draw(st.sampled_from(FUNCTIONS))
    return draw(
        st.sampled_from(
            [
                f"{x} = [{n}]",
                f"{x} = [{n}, {n + 1}]",
                f"{x} = {y}",
                f"{x} = list({y})",
                f"{x} = [{y} for {y} in {y}]",
                f"{x} = {y} + [{n}]",
                f"{x} += [{n}]",
                f"{x}.append({n})",
                f"{x}.append({y}[0])",
                f"{x}[0] = {n}",
                f"{x}[0] += 1",
                f"{x}, {y} = {y}, {x}",
                f"if {x}[0] > {n}:\n    {y} = [{n}]\nelse:\n    {y}.append({n})",
                f"if {x}[0] > {n}:\n    {y} = [0]",
                f"for {x} in [[{n}], {y}]:\n    {x}.append({n})",
                f"for item in list({x}):\n    {y}.append(item)",
                f"{x} = [sum({y})]",
                f"{x} = {call}()",
                f"{call}()",
                f"last = {x}.pop() if len({x}) > 1 else {x}[0]",
                f"with held({x}) as {y}:\n    {y}.append({n})",
                f"try:\n    {x}.append({y}[7])\nexcept IndexError:\n    {x}.append({n})",
                f"late = lambda: {x} + {y}",
                f"{x} = (lambda: {y})()",
                f"del {x}\n{x} = [{n}]",
                f"print({x})",
                f"{x}",
            ]
        )
    )


@st.composite
def functions(draw: st.DrawFn, name: str) -> str:
    x, y, n = draw(names), draw(names), draw(numbers)
    body = draw(
        st.sampled_from(
            [
                f"return {x} + [{n}]",
                f"return [len({x}), *{y}]",
                f"{x}.append({n})\n    return {y}",
                f"local = [{x}[0] for {x} in [{y}]]\n    return local",
                f"global {x}\n    {x} = [{n}]\n    return {x}",
                f"return (lambda: {x}[:1])()",
            ]
        )
    )
    return f"def {name}():\n    {body}"


@st.composite
def notebooks(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Cells as (tag, source): a helper, functions, data, an agent with a tool, and runs among plain cells."""
    x, y = draw(names), draw(names)
    helper = "import contextlib\n\n@contextlib.contextmanager\ndef held(value):\n    yield value"
    first = [f"{name} = [{draw(numbers)}]" for name in DATA]
    parameter = draw(st.booleans())
    cells = [("parameters" if parameter else "", first[0]), ("", "\n".join(first[1:])), ("", helper)]
    cells += [("", draw(functions(name))) for name in FUNCTIONS]
    cells.append(("", f"def look() -> list:\n    return [{x}, {y}[0]]"))
    # `effects` makes tasks gather; without it they keep their order.
    pure = draw(st.booleans())
    if pure:
        cells[-1] = ("", f'import agentkit\n\n@agentkit.tool(effects="none")\n{cells[-1][1]}')
    filled = draw(st.sampled_from(["You look.", f"You look at {{{{ {x} }}}}."]))
    cells.append(("", f"%%agent build agent --tools look\n{filled}"))
    for number in range(draw(st.integers(1, 3))):
        cells += [
            ("", "\n".join(draw(st.lists(statements(), min_size=1, max_size=3))))
            for _ in range(draw(st.integers(0, 2)))
        ]
        seen = draw(st.sampled_from([*DATA, "f()", "g()", "a + b", "[v for v in c]"]))
        cells.append(("", f"%%agent run agent --as answer{number}\n{{{{ {seen} }}}}"))
        if draw(st.booleans()):
            cells.append(("", f"{draw(names)} = [len(answer{number})]"))
    return cells


class Recorder:
    """A stand-in for agentkit: an agent answers with what it was asked, and with what its tools saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.module: Any = types.SimpleNamespace(
            Spec=Spec, tool=tool, fill=fill, build=self.build, ask=self.ask,
            pipeline=types.SimpleNamespace(task=self.task, start=None),
        )  # fmt: skip

    def build(self, spec: Spec, *, name: str, tools: Any = (), **_: Any) -> Any:
        return (spec.instructions, tools)

    async def ask(self, agent: Any, prompt: Any, **_: Any) -> Any:
        instructions, tools = agent
        said = f"{instructions} | {prompt} | {[tool() for tool in tools]}"
        self.seen.append(said)
        return types.SimpleNamespace(output=said)

    @contextlib.asynccontextmanager
    async def task(self, *_: Any, **__: Any) -> Any:
        yield


def by_hand(cells: list[tuple[str, str]]) -> list[str]:
    """What the agent is asked and its tools see when the cells are executed one after the other."""
    recorder = Recorder()
    space: dict[str, Any] = {"__name__": "oracle"}
    for _, source in cells:
        head, _, body = source.partition("\n")
        if head.startswith("%%agent build"):
            space["agent"] = recorder.build(Spec(instructions=filled(body, space)), name="agent", tools=[space["look"]])
        elif head.startswith("%%agent run"):
            answer = asyncio.run(recorder.ask(space["agent"], filled(body, space)))
            space[head.split()[-1]] = answer.output
        else:
            exec(source.replace("import agentkit\n", "from agentkit.tools import declaration as agentkit\n"), space)
    return recorder.seen


def filled(template: str, space: dict[str, Any]) -> str:
    values = {hole: eval(hole, space) for hole in LANGUAGE.holes(template)}
    return str(fill(template, values))


def exported(cells: list[tuple[str, str]]) -> list[str] | UserError:
    counted = tuple(
        Cell(number=number, source=source, tags=frozenset({tag} if tag else ()), executed=number)
        for number, (tag, source) in enumerate(cells, 1)
    )
    try:
        made = program(Notebook(name="oracle", cells=counted), LANGUAGE, Settings(target="script"))
    except UserError as refused:
        return refused
    note(made.body)
    recorder = Recorder()
    space: dict[str, Any] = {"__name__": "exported"}
    code = made.body.replace("import agentkit\n", "").replace("import agentkit.pipeline\n", "")
    space["agentkit"] = recorder.module
    exec(compile(code, "<exported>", "exec"), space)
    asyncio.run(space["main"]())
    return recorder.seen


@given(notebooks())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # a failing notebook is short enough to read as it is
)
def test_the_program_shows_agents_what_the_cells_show_them(cells: list[tuple[str, str]]) -> None:
    note("\n# ----\n".join(source for _, source in cells))
    with contextlib.redirect_stdout(io.StringIO()), quietly() as broken:
        expected = by_hand(cells)
    assume(not broken)
    with contextlib.redirect_stdout(io.StringIO()):
        seen = exported(cells)
    if isinstance(seen, UserError):
        event("refused")
        assert "cell " in str(seen), "a refusal names the cells"
        return
    event("exported")
    assert sorted(seen) == sorted(expected)


@contextlib.contextmanager
def quietly() -> Iterator[list[BaseException]]:
    """A notebook that fails by itself is nobody's to export."""
    broken: list[BaseException] = []
    try:
        yield broken
    except (NameError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        broken.append(error)
