"""What is on record is passed over: the same answer, usage, messages and steps as walking, and only where it holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent, ModelRetry, RunContext, Tool
from pydantic_ai.capabilities import AbstractCapability, Hooks
from pydantic_ai.messages import ModelMessage
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import UsageLimits

import agentkit
from agentkit.define.spec import Spec
from agentkit.durable.journal import Journal
from agentkit.engine.agent import DurableAgent, durable
from agentkit.engine.build import build
from agentkit.engine.run import Answer, ask
from agentkit.engine.session import Session, session
from agentkit.events import Run
from agentkit.notebook.grammar import VERBS
from agentkit.testing import Call, ScriptedModel
from tests.replaying import assert_same, replies, said, seen, steps

TURNS = 6
PERFORMED: list[str] = []


@pytest.fixture(autouse=True)
def performed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What came to the journal's door: everything when a run is walked, one request when it is passed over."""
    PERFORMED.clear()
    original = Journal.perform

    async def counted(self: Journal, call: Any, body: Any) -> Any:
        PERFORMED.append(call.kind)
        return await original(self, call, body)

    monkeypatch.setattr(Journal, "perform", counted)
    return PERFORMED


@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@agentkit.tool(effects="none")
async def shout(text: str) -> str:
    """Louder."""
    return text.upper()


@agentkit.tool(effects="none")
def picky(x: int) -> int:
    """Takes even numbers."""
    if x % 2:
        raise ModelRetry(f"{x} is odd")
    return x // 2


def counting(turns: int = TURNS, *, live: list[int] | None = None, die_at: int | None = None) -> ScriptedModel:
    def reply(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        if live is not None:
            live.append(n)
        if n == die_at:
            raise RuntimeError("the wire is cut")
        return Call("add", {"a": n, "b": 1}) if n < turns else f"counted to {n}"

    return ScriptedModel.by(reply)


def counter(model: ScriptedModel, *, tools: Any = (add,), instructions: str = "Count.", **more: Any) -> DurableAgent:
    return build(Spec(instructions=instructions), name="counter", tools=tools, model=model, **more)


def run(folder: Path, agent: Any, prompt: str = "count", **options: Any) -> Answer:
    async def main() -> Answer:
        return await ask(agent, prompt, **options)

    PERFORMED.clear()
    with session("test", folder=folder):
        return asyncio.run(main())


def test_a_finished_run_is_not_walked_again(tmp_path: Path) -> None:
    first = run(tmp_path, counter(counting()))
    again = run(tmp_path, counter(counting(die_at=0)))
    assert (again.output, PERFORMED) == (first.output, ["model"])
    assert [step.replayed for step in steps(again)] == [True] * (2 * TURNS + 1)
    walked = run(tmp_path, counter(counting(die_at=0)), walk=True)
    assert len(PERFORMED) == 2 * TURNS + 1
    assert_same(again, walked)


def test_a_partly_finished_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, counter(counting(die_at=4)))
    live: list[int] = []
    answer = run(tmp_path, counter(counting(live=live)))
    assert (answer.output, live) == (f"counted to {TURNS}", [4, 5, 6])
    # One request to begin with, then what was not on record: the last call's answer was.
    assert PERFORMED == ["model", "tool", "model", "tool", "model", "tool", "model"]
    assert [step.replayed for step in steps(answer)] == [True] * 8 + [False] * 5
    assert said(run(tmp_path, counter(counting(die_at=0)))) == said(run(tmp_path, counter(counting()), walk=True))


def test_the_newest_and_longest_record_is_gone_on_from(tmp_path: Path) -> None:
    for turn in (2, 4):
        with pytest.raises(RuntimeError):
            run(tmp_path, counter(counting(die_at=turn)))
    live: list[int] = []
    run(tmp_path, counter(counting(live=live)))
    assert live == [4, 5, 6]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        usage = (await counter(counting()).run("count")).usage
        return usage.requests, usage.tool_calls

    for _ in range(2):
        with session("test", folder=tmp_path):
            assert asyncio.run(main()) == (TURNS + 1, TURNS)
    assert len(PERFORMED) == 2 * TURNS + 1 + 1


def test_a_stream_is_passed_over_too(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))

    async def main() -> str:
        async with counter(counting(die_at=0)).run_stream("count") as stream:
            return str(await stream.get_output())

    PERFORMED.clear()
    with session("test", folder=tmp_path):
        assert asyncio.run(main()) == f"counted to {TURNS}"
    assert PERFORMED == ["model"]


def test_an_adopted_agent_is_passed_over_too(tmp_path: Path) -> None:
    def adopted(model: ScriptedModel) -> Any:
        return durable(Agent(model, name="adopted", tools=[add], instructions="Count."))

    first = run(tmp_path, adopted(counting()))
    again = run(tmp_path, adopted(counting(die_at=0)))
    assert (again.output, PERFORMED) == (first.output, ["model"])


def test_equal_runs_of_one_execution_keep_their_own_answers(tmp_path: Path) -> None:
    def samples(model: ScriptedModel) -> list[str]:
        async def main() -> list[str]:
            agent = counter(model)
            return [str((await agent.run("count")).output) for _ in range(3)]

        PERFORMED.clear()
        with session("test", folder=tmp_path):
            return asyncio.run(main())

    made: list[int] = []

    def reply(messages: list[ModelMessage]) -> Any:
        if len(replies(messages)) < 2:
            return Call("add", {"a": 1, "b": len(replies(messages))})
        made.append(1)
        return f"sample {len(made)}"

    first = samples(ScriptedModel.by(reply))
    assert first == ["sample 1", "sample 2", "sample 3"]
    assert samples(counting(die_at=0)) == first
    assert PERFORMED == ["model"] * 3


def test_a_sub_agents_record_is_passed_over_when_its_tool_is_called_again(tmp_path: Path) -> None:
    inner = [counter(counting())]

    @agentkit.tool(effects="none")
    async def research(topic: str) -> str:
        """Research."""
        return str((await inner[0].run(topic)).output)

    def outer(messages: list[ModelMessage]) -> Any:
        return "all done" if replies(messages) else Call("research", {"topic": "count"})

    def chief() -> DurableAgent:
        return build(Spec(instructions="Lead."), name="chief", tools=[research], model=ScriptedModel.by(outer))

    call = steps(run(tmp_path, chief()))[1]
    with session("test", folder=tmp_path) as opened:
        opened.forget(step=call.id)
    inner[0] = counter(counting(die_at=0))
    assert run(tmp_path, chief()).output == "all done"
    # The forgotten call is made again; in it the whole of the counter's run is taken from the record.
    assert PERFORMED == ["model", "tool", "model", "model"]


def test_calls_made_by_code_go_with_the_code(tmp_path: Path) -> None:
    def coder(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        return Call("run_code", {"code": f"add({n}, 1) + add({n}, 2)"}) if n < 3 else "done"

    def agent(model: ScriptedModel) -> DurableAgent:
        return counter(model, code=True)

    first = run(tmp_path, agent(ScriptedModel.by(coder)))
    kinds = [step.name for step in steps(first) if step.kind == "tool"]
    assert kinds == ["run_code", "add", "add"] * 3
    again = run(tmp_path, agent(counting(die_at=0)))
    assert (again.output, PERFORMED) == ("done", ["model"])
    walked = run(tmp_path, agent(counting(die_at=0)), walk=True)
    assert (seen(walked), said(walked)) == (seen(again), said(again))


# -- where it does not hold


def edited(a: int, b: int) -> int:
    """Add."""
    return b + a


edited.__name__ = "add"


def test_an_edited_tool_runs_again(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))
    answer = run(tmp_path, counter(counting(die_at=0), tools=[agentkit.tool(effects="none")(edited)]))
    live = [step.kind for step in steps(answer) if not step.replayed]
    # Early cutoff: the calls are live, what follows their unchanged results is not.
    assert live == ["tool"] * TURNS


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": "Count well."},
        {"tools": (add, shout)},
        {"output": int | str},
    ],
    ids=str,
)
def test_another_question_is_asked_live(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, counter(counting()))
    live: list[int] = []
    run(tmp_path, counter(counting(live=live), **change))
    assert live == list(range(TURNS + 1))


def test_other_dependencies_are_other_calls(tmp_path: Path) -> None:
    run(tmp_path, counter(counting(), deps="one"), deps="one")
    answer = run(tmp_path, counter(counting(), deps="two"), deps="two")
    assert [step.kind for step in steps(answer) if not step.replayed] == ["tool"] * TURNS


def test_a_forgotten_step_is_asked_again(tmp_path: Path) -> None:
    first = run(tmp_path, counter(counting()))
    middle = steps(first)[6]
    with session("test", folder=tmp_path) as opened:
        opened.forget(step=middle.id)
    answer = run(tmp_path, counter(counting()))
    assert [step.ord for step in steps(answer) if not step.replayed] == [7]


def test_what_a_newer_run_replaced_is_not_passed_over(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))
    run(tmp_path, counter(counting()), fresh=True)
    newest = run(tmp_path, counter(counting()), walk=True)
    assert seen(run(tmp_path, counter(counting()))) == seen(newest)


def test_a_tool_of_the_kernel_runs_again(tmp_path: Path) -> None:
    ran: list[int] = []

    @agentkit.tool(effects="kernel")
    def keep(a: int, b: int) -> int:
        """Keep."""
        ran.append(a)
        return a + b

    agent = Tool(keep, name="add")
    for _ in range(2):
        run(tmp_path, _with(agent))
    assert ran == [*range(TURNS)] * 2


def _with(tool: Tool[Any]) -> Any:
    return durable(Agent(counting(), name="counter", tools=[tool], instructions="Count."))


# -- what may be dynamic


def _instructed() -> Any:
    agent = counter(counting())

    @agent.instructions
    def more(ctx: RunContext[Any]) -> str:
        return "Slowly."

    return agent


def _prepared() -> Any:
    async def prepare(ctx: RunContext[Any], definition: Any) -> Any:
        return definition

    return _with(Tool(add, prepare=prepare))


class _Hook(AbstractCapability[Any]):
    """Does nothing, which nobody can know."""


def _foreign_toolset() -> Any:
    return counter(counting(), tools=[FunctionToolset([add], id="more").filtered(lambda ctx, definition: True)])


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (_instructed, "its instructions are functions"),
        (_prepared, "its tool add has a prepare function"),
        (_foreign_toolset, "may offer other tools each time"),
        (lambda: durable(_plain(capabilities=[_Hook()])), "its capability _Hook may change what is sent"),
        (lambda: durable(_plain(capabilities=[Hooks()])), "its capability Hooks may change what is sent"),
        (lambda: durable(_plain(model_settings=lambda ctx: {"temperature": 0.0})), "its model settings are a function"),
    ],
)
def test_what_may_be_dynamic_is_walked_and_said(tmp_path: Path, agent: Callable[[], Any], why: str) -> None:
    first = run(tmp_path, agent())
    assert first.run.walked == ""
    again = run(tmp_path, agent())
    assert len(PERFORMED) == 2 * TURNS + 1
    assert why in again.run.walked
    assert again.output == first.output


def _plain(**more: Any) -> Any:
    return Agent(counting(), name="counter", tools=[add], instructions="Count.", **more)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"walk": True}, "--walk was given"),
        ({"more": {"usage_limits": UsageLimits(request_limit=90)}}, "run(…, usage_limits=…) is given"),
    ],
)
def test_what_a_run_is_given_may_make_it_walk(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    agent = counter(counting())
    run(tmp_path, agent, **options)
    assert why in run(tmp_path, agent, **options).run.walked
    assert len(PERFORMED) == 2 * TURNS + 1


def test_nodes_are_walked_by_whoever_looks_at_them(tmp_path: Path) -> None:
    async def main() -> int:
        async with counter(counting()).iter("count") as nodes:
            return len([node async for node in nodes])

    with session("test", folder=tmp_path):
        first = asyncio.run(main())
    with session("test", folder=tmp_path):
        assert asyncio.run(main()) == first > 2 * TURNS


def test_walk_is_an_option_of_run() -> None:
    assert "walk" in VERBS["run"].options


# -- any scripted agent

_CALL = st.one_of(
    st.tuples(st.just("add"), st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.integers(0, 2)})),
    st.tuples(st.just("shout"), st.fixed_dictionaries({"text": st.sampled_from(["a", "b"])})),
    st.tuples(st.just("picky"), st.fixed_dictionaries({"x": st.integers(0, 3)})),
    st.tuples(st.just("counter"), st.fixed_dictionaries({"prompt": st.sampled_from(["one", "two"])})),
)
_SCRIPT = st.lists(st.lists(_CALL, min_size=1, max_size=3), max_size=5)


def _scripted(script: list[list[tuple[str, dict[str, Any]]]], *, die_at: int | None = None) -> DurableAgent:
    def reply(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        if n == die_at:
            raise RuntimeError("the wire is cut")
        return [Call(name, args) for name, args in script[n]] if n < len(script) else "the end"

    agent = build(
        Spec(instructions="Act."),
        name="actor",
        tools=[add, shout, picky, counter(counting(2))],
        model=ScriptedModel.by(reply),
    )
    agent._max_tool_retries = 9
    return agent


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=_SCRIPT, cut=st.none() | st.integers(0, 4), runs=st.integers(1, 2))
def test_passing_over_and_walking_are_the_same(
    script: list[list[tuple[str, dict[str, Any]]]], cut: int | None, runs: int
) -> None:
    async def main(opened: Session, **options: Any) -> list[Answer]:
        return [await ask(_scripted(script), "go", **options) for _ in range(runs)]

    def everything(folder: Path, **options: Any) -> list[Answer]:
        with session("test", folder=folder) as opened:
            return asyncio.run(main(opened, **options))

    with _folder() as folder:
        if cut is not None and cut <= len(script):
            with session("test", folder=folder), pytest.raises(RuntimeError):
                asyncio.run(ask(_scripted(script, die_at=cut), "go"))
        live = everything(folder)
        over = everything(folder)
        walked = everything(folder, walk=True)
        for one, other, first in zip(over, walked, live, strict=True):
            assert one.output == other.output == first.output
            assert seen(one) == seen(other)
            assert said(one) == said(other)
            assert next(event for event in one.events() if isinstance(event, Run)).status == "done"
