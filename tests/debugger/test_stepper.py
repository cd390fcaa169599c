"""A run is taken step by step, gone back in, edited and forked, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic_ai import RunContext
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolReturnPart, UserPromptPart

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.debugger import opening, stepper
from agentkit.debugger.breakpoints import Breakpoint
from agentkit.debugger.opening import step
from agentkit.debugger.run_spec import Changes
from agentkit.debugger.stepper import DebugRun
from agentkit.errors import InDoubt, RunPaused, UserError
from agentkit.events import Run, Step
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, ScriptedModel
from agentkit.tools.declaration import tool
from agentkit.trace.diff import Diff

ADDED: list[tuple[int, int]] = []


@pytest.fixture(autouse=True)
def ledger() -> list[tuple[int, int]]:
    ADDED.clear()
    return ADDED


@tool(effects="none")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    ADDED.append((a, b))
    return a + b


@tool(effects="none")
def double(x: int) -> int:
    """Twice a number."""
    return 2 * x


def results_of(messages: list[ModelMessage]) -> list[Any]:
    return [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def counting(messages: list[ModelMessage], add: str = "add") -> Any:
    """Two calls at once, then one more with what came of them, then an answer."""
    results = results_of(messages)
    hints = [part.content for part in messages[-1].parts if isinstance(part, UserPromptPart)]
    if not results:
        return [Call(add, {"a": 1, "b": 2}), Call("double", {"x": 4})]
    if len(results) == 2:
        return Call(add, {"a": results[0], "b": results[1]})
    return f"{results[-1]}" + (f" ({hints[-1]})" if hints else "")


class Asked(ScriptedModel):
    """Counts what it was asked, by content."""

    def __init__(self, *, tool: str = "add", **options: Any) -> None:
        self.asked: Counter[str] = Counter()
        self.tool = tool
        super().__init__(iter(lambda: lambda messages, _params: self.count(messages), None), **options)

    def count(self, messages: list[ModelMessage]) -> Any:
        self.asked[said_in(messages)] += 1
        return counting(messages, self.tool)


def calculator(model: Any, *tools: Any) -> DurableAgent:
    return build(Spec(instructions="Count."), name="calculator", tools=tools or (add, double), model=model)


def stepping(
    folder: Path, work: Callable[[DebugRun, Session], Awaitable[Any]], *, model: Any = None, **options: Any
) -> Any:
    async def main(opened: Session) -> Any:
        run = await step(calculator(model or Asked()), "how many?", **options)
        return await work(run, opened)

    with session("test", folder=folder) as opened:
        return asyncio.run(main(opened))


def place(run: DebugRun) -> str:
    return str(run.pending)


def test_it_pauses_before_each_step_and_shows_it_in_full(tmp_path: Path) -> None:
    model = Asked()

    async def work(run: DebugRun, opened: Session) -> list[Any]:
        seen: list[Any] = []
        while run.pending is not None:
            before = (len(ADDED), model.asked.total())
            seen.append((place(run), run.pending.arguments, run.pending.free, before))
            await run.next()
        assert run.answer is not None
        return [*seen, run.answer.output]

    assert stepping(tmp_path, work, model=model) == [
        ("step 1, model scripted:scripted", None, False, (0, 0)),
        ("step 2, tool add", {"a": 1, "b": 2}, False, (0, 1)),
        ("step 3, tool double", {"x": 4}, False, (1, 1)),
        ("step 4, model scripted:scripted", None, False, (1, 1)),
        ("step 5, tool add", {"a": 3, "b": 8}, False, (1, 2)),
        ("step 6, model scripted:scripted", None, False, (2, 2)),
        "11",
    ]


def test_the_calls_of_one_turn_stand_beside_each_other(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> Any:
        await run.next()
        assert run.pending is not None
        return [call.tool_name for call in run.pending.beside]

    assert stepping(tmp_path, work) == ["add", "double"]


def test_a_finished_run_is_stepped_for_free_and_ends_the_same(tmp_path: Path) -> None:
    async def straight(opened: Session) -> str:
        return str((await ask(calculator(Asked()), "how many?")).output)

    with session("test", folder=tmp_path) as opened:
        answer = asyncio.run(straight(opened))
    silent = ScriptedModel([])

    async def work(run: DebugRun, opened: Session) -> str:
        while run.pending is not None:
            assert run.pending.free
            await run.next()
        assert run.answer is not None
        return str(run.answer.output)

    assert stepping(tmp_path, work, model=silent) == answer
    assert silent.requests == []
    assert len(ADDED) == 2


def test_back_and_goto_cost_nothing(tmp_path: Path) -> None:
    model = Asked()

    async def work(run: DebugRun, opened: Session) -> list[str]:
        await run.next(4)
        places = [place(run)]
        await run.back(2)
        places.append(place(run))
        await run.goto(5)
        places.append(place(run))
        await run.goto(1)
        return [*places, place(run)]

    assert [one[:6] for one in stepping(tmp_path, work, model=model)] == ["step 5", "step 3", "step 5", "step 1"]
    assert model.asked.total() == 2
    assert ADDED == [(1, 2)]


def test_going_back_too_far_says_what_is_possible(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.next()
        with pytest.raises(UserError, match="only 1"):
            await run.back(5)
        await run.run_on()
        with pytest.raises(UserError, match=r"is done: run.back\(\), goto"):
            await run.next()
        with pytest.raises(UserError, match="this branch has no such step; it has 1, 2, 3, 4, 5, 6"):
            await run.goto(40)
        with pytest.raises(UserError, match="not a step"):
            await run.goto("x")

    stepping(tmp_path, work)


@pytest.mark.parametrize(
    ("at", "what", "value", "answer"),
    [
        (5, "arguments", {"a": 10, "b": 10}, "20"),
        (5, "result", 99, "99"),
        (6, "reply", "as I say", "as I say"),
        (6, "hint", "in words", "11 (in words)"),
        (4, "reply", {"tool": "add", "args": {"a": 7, "b": 7}}, "14"),
    ],
)
def test_an_edit_makes_a_branch_and_the_old_one_stays(
    tmp_path: Path, at: int, what: Any, value: Any, answer: str
) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.next(at - 1)
        old = run.run
        await run.edit(what, value)
        assert run.pending is not None and run.pending.at == (at,)
        assert "that branch stays" in run.note and old in run.note
        await run.run_on()
        assert run.answer is not None and run.answer.output == answer
        # A plain run has never seen it.
        assert (await ask(calculator(Asked()), "how many?")).output == "11"

    stepping(tmp_path, work)


def test_messages_are_edited_and_stay_so(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        assert run.pending is not None
        messages = run.pending.messages_json()
        messages[0]["parts"][0]["content"] = "how few?"
        await run.edit("messages", messages)
        await run.run_on()
        assert isinstance(run.answer, Answer)
        (first, *_) = run.answer.messages
        assert [part.content for part in first.parts if isinstance(part, UserPromptPart)] == ["how few?"]

    stepping(tmp_path, work)


def test_an_edit_of_an_earlier_step_forks_there(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.run_on()
        old = run.run
        await run.edit("result", 100, step=2)
        assert "from step 2 on 5 steps may be live" in run.note
        assert run.pending is not None and run.pending.at == (2,)
        await run.run_on()
        assert run.answer is not None and run.answer.output == "108"
        compared = Diff.of(opened.trace(old), opened.trace(run.run))
        assert [pair.verdict for pair in compared.pairs] == ["same", "changed", "same", "changed", "changed", "changed"]
        assert list(compared.frame()["changed"])[1] == "result, by a person"

    stepping(tmp_path, work)


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("arguments", {"a": "x", "b": 2}, "add: a: Input should be a valid integer"),
        ("arguments", [1], "a JSON object, not list"),
        ("reply", "no", "is a tool call: reply cannot be edited there; possible: arguments, result"),
        ("messages", [], "is a tool call"),
    ],
)
def test_what_cannot_be_edited_is_one_line(tmp_path: Path, what: Any, value: Any, said: str) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.next()
        with pytest.raises(UserError, match=said):
            await run.edit(what, value)
        assert place(run) == "step 2, tool add"
        with pytest.raises(UserError, match="this branch has met 1, 2"):
            await run.edit("result", 1, step=9)
        await run.next()

    stepping(tmp_path, work)


def test_a_conversation_is_continued_step_by_step(tmp_path: Path) -> None:
    model = Asked()

    async def work(run: DebugRun, opened: Session) -> None:
        await run.run_on()
        first = run.run
        opened.start_cell("later")
        again = await step(calculator(model), "and now?", continues="", name="again")
        assert again.pending is not None
        parts = [part for one in again.pending.messages for part in one.parts]
        assert [part.content for part in parts if isinstance(part, UserPromptPart)] == ["how many?", "and now?"]
        await again.run_on()
        record = opened.store.run(again.run)
        assert record is not None and record.continues == first
        with pytest.raises(UserError, match="no run 'nothing' in the journal"):
            await step(calculator(model), "and now?", continues="nothing")
        # Opened again it continues the same run, not itself.
        await again.back(1)
        record = opened.store.run(again.run)
        assert record is not None and record.continues == first

    stepping(tmp_path, work, model=model)


# -- forks of recorded runs


def test_a_finished_run_is_forked_with_another_model_and_its_steps_are_shared(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.run_on()
        source = opened.store.run(run.run)
        assert source is not None
        agent = calculator(ScriptedModel([]))
        forked = await stepper.fork(opened, source, 6, agent=agent, changes=Changes(edits=(("model", "offline"),)))
        assert forked.pending is not None and forked.pending.at == (6,) and not forked.pending.free
        assert forked.pending.name == "offline:offline" or "offline" in forked.pending.name
        assert forked.forecast is not None and forked.forecast.cost == 0.0
        await forked.run_on()
        steps = [event for event in opened.trace(forked.run) if isinstance(event, Step) and event.numbered]
        assert [one.replayed for one in steps] == [True] * 5 + [False]
        assert forked.name == "calculator" and run.answer is not None

    stepping(tmp_path, work)


def test_a_fork_of_a_branch_keeps_its_edits(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.next(2)
        await run.edit("result", 50)
        await run.run_on()
        source = opened.store.run(run.run)
        assert source is not None
        forked = await stepper.fork(
            opened, source, 6, agent=calculator(Asked()), changes=Changes(edits=(("hint", "please"),))
        )
        await forked.run_on()
        assert forked.answer is not None and forked.answer.output == "53 (please)"

    stepping(tmp_path, work)


def test_a_fork_with_another_prompt_begins_at_the_start(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        await run.run_on()
        source = opened.store.run(run.run)
        assert source is not None
        with pytest.raises(UserError, match="has 6 steps, no step 7"):
            await stepper.fork(opened, source, 7, agent=calculator(Asked()), changes=Changes())
        forked = await stepper.fork(opened, source, 3, agent=calculator(Asked()), changes=Changes(prompt="and now?"))
        assert forked.pending is not None and forked.pending.at == (1,)
        assert "from step 1 on 6 steps may be live" in forked.note

    stepping(tmp_path, work)


# -- inside other agents, and streams


def nested(folder: Path, work: Callable[[DebugRun], Awaitable[None]]) -> None:
    def help_out(messages: list[ModelMessage]) -> Any:
        results = results_of(messages)
        return f"went {results[-1]}" if results else Call("add", {"a": 1, "b": 1})

    helper = build(Spec(instructions="Help."), name="helper", tools=[add], model=ScriptedModel.by(help_out))
    lead = build(
        Spec(instructions="Lead."), name="lead", tools=[helper],
        model=ScriptedModel.by(lambda m: "done" if results_of(m) else Call("helper", {"prompt": "go"})),
    )  # fmt: skip

    async def main() -> None:
        await work(await step(lead, "start"))

    with session(folder=folder):
        asyncio.run(main())


def test_step_over_an_agent(tmp_path: Path) -> None:
    async def work(run: DebugRun) -> None:
        await run.next()
        assert place(run) == "step 2, tool helper"
        await run.next()
        assert place(run).startswith("step 3, model")
        assert ADDED == [(1, 1)]

    nested(tmp_path, work)


def test_step_into_an_agent_back_inside_it_and_out(tmp_path: Path) -> None:
    async def work(run: DebugRun) -> None:
        await run.next()
        await run.next(into=True)
        assert place(run).startswith("step 2.1, model") and run.pending is not None and run.pending.agent == "helper"
        await run.next()
        assert place(run) == "step 2.2, tool add"
        await run.back()
        assert place(run).startswith("step 2.1, model") and run.pending.free
        await run.next()
        await run.edit("result", 5)
        assert place(run) == "step 2.2, tool add"
        await run.next(out=True)
        assert place(run).startswith("step 3, model")
        await run.run_on()
        assert run.answer is not None and run.answer.output == "done"
        assert ADDED == []

    nested(tmp_path, work)


def by_hand(
    folder: Path, work: Callable[[DebugRun], Awaitable[Any]], *, effects: Any = None, sync: bool = False
) -> Any:
    """A lead agent whose tool, written by hand, runs another agent; `DELEGATED` notes how often it began."""
    helper = build(
        Spec(instructions="Help."), name="helper", tools=[add],
        model=ScriptedModel.by(lambda m: "went" if results_of(m) else Call("add", {"a": 1, "b": 1})),
    )  # fmt: skip

    @tool(effects=effects)
    async def delegate(prompt: str) -> str:
        """Hand it on."""
        DELEGATED.append(prompt)
        return str((await helper.run(prompt)).output)

    @tool(effects=effects)
    def delegate_sync(prompt: str) -> str:
        """Hand it on."""
        DELEGATED.append(prompt)
        return str(asyncio.run(helper.run(prompt)).output)

    handing = delegate_sync if sync else delegate
    model = ScriptedModel.by(lambda m: "done" if results_of(m) else Call(handing.__name__, {"prompt": "go"}))
    lead = build(Spec(instructions="Lead."), name="lead", tools=[handing], model=model)

    async def main() -> Any:
        return await work(await step(lead, "start"))

    with session(folder=folder):
        return asyncio.run(main())


DELEGATED: list[str] = []


def test_a_tool_that_waits_with_an_agent_inside_it_is_not_left_in_doubt(tmp_path: Path) -> None:
    DELEGATED.clear()

    async def inside(run: DebugRun) -> None:
        await run.next()
        await run.next(into=True)
        assert place(run).startswith("step 2.1, model")
        await run.next()
        assert place(run) == "step 2.2, tool add"

    async def back_and_on(run: DebugRun) -> None:
        await inside(run)
        await run.back()
        # To begin it again is for a person to say.
        assert place(run) == "step 2, tool delegate" and "not recorded, so it would be live" in run.note
        await run.next(into=True)
        assert place(run).startswith("step 2.1, model") and run.pending is not None and run.pending.free
        await run.next(out=True)
        assert place(run).startswith("step 3, model")
        await run.run_on()
        assert run.answer is not None and run.answer.output == "done"

    by_hand(tmp_path, inside)
    by_hand(tmp_path, back_and_on)
    # Each opening begins it anew; what the agent inside it did is replayed.
    assert (len(DELEGATED), ADDED) == (3, [(1, 1)])


def test_an_agent_that_a_thread_runs_on_its_own_loop_is_not_paused_inside(tmp_path: Path) -> None:
    async def work(run: DebugRun) -> None:
        await run.next()
        await run.next(into=True)
        assert place(run).startswith("step 3, model")
        assert ADDED == [(1, 1)]

    by_hand(tmp_path, work, sync=True)


def _agent_of(run: DebugRun) -> AbstractAgent[Any, Any]:
    assert isinstance(run.recipe.agent, AbstractAgent)
    return run.recipe.agent


def test_a_tool_that_must_happen_once_is_in_doubt_even_when_it_waited(tmp_path: Path) -> None:
    async def inside(run: DebugRun) -> None:
        await run.next()
        await run.next(into=True)
        await run.stop()
        run = await step(_agent_of(run), "start")
        await run.next()
        with pytest.raises(InDoubt, match="was stopped while it ran"):
            await run.next(into=True)

    by_hand(tmp_path, inside, effects="once")


def test_a_fork_keeps_what_was_edited_inside_a_call_that_replays_whole(tmp_path: Path) -> None:
    async def work(run: DebugRun) -> None:
        await run.next()
        await run.next(into=True)
        await run.next()
        await run.edit("result", 5)
        with pytest.raises(UserError, match=f"run {run.run} is paused inside this step, at 2.2: go on"):
            await run.fork("2.2", name="unfinished")
        await run.stop()
        unfinished = await run.fork("2.2", name="unfinished")
        assert unfinished.pending is not None and unfinished.pending.given is not None
        await unfinished.stop()
        await run.run_on()
        await run.goto(3)
        assert run.pending is not None and results_of(list(run.pending.messages)) == ["went 5"]
        forked = await run.fork(3, hint="please", name="other")
        assert forked.pending is not None and results_of(list(forked.pending.messages)) == ["went 5"]
        plain = await _agent_of(run).run("start")
        assert results_of(plain.all_messages()) == ["went 2"]

    nested(tmp_path, work)


def test_a_streamed_request_waits_too(tmp_path: Path) -> None:
    heard: list[str] = []

    async def work(run: DebugRun, opened: Session) -> None:
        assert heard == []
        await run.run_on()
        assert heard[-1] == "one two three"

    stepping(tmp_path, work, model=ScriptedModel(["one two three"], delay=0.01), on_text=heard.append)


# -- breakpoints


def test_a_breakpoint_stops_a_run_that_goes_on(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        opened.bench.breakpoints.append(Breakpoint.parse("tool=double"))
        await run.run_on()
        assert place(run) == "step 3, tool double"
        assert run.pending is not None and run.pending.cause == "breakpoint tool=double"
        await run.run_on()
        assert run.answer is not None

    stepping(tmp_path, work)


def test_until_a_turn_and_until_a_cost(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        assert place(run).startswith("step 4, model")
        await run.run_on(until="cost=0.9")
        assert place(run).startswith("step 5")
        await run.run_on(until="cost=100")
        assert run.answer is not None

    stepping(tmp_path, work, model=Asked(cost=0.5), until="turn=2")


def test_only_the_kind_of_step_that_is_asked_for(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> list[str]:
        places = []
        while run.pending is not None:
            places.append(place(run))
            await run.next()
        return places

    tools = stepping(tmp_path, work, at="tool")
    assert tools == ["step 2, tool add", "step 3, tool double", "step 5, tool add"]


def test_a_plain_run_ends_at_a_breakpoint_and_goes_on_from_there(tmp_path: Path) -> None:
    async def main(opened: Session) -> None:
        agent = calculator(Asked())
        opened.bench.breakpoints.append(Breakpoint.parse("when \"turn == 1 and tool == 'double'\""))
        with pytest.raises(RunPaused, match=r"paused before step 3, tool double"):
            await agent.run("how many?")
        assert ADDED == [(1, 2)]
        paused = opened.bench.find_paused()
        assert paused is not None
        run = await opening.take_up(opened, paused)
        assert place(run) == "step 3, tool double"
        await run.next()
        # What the breakpoint was for is recorded now: the same cell, run again, goes over it.
        opened.start_cell()
        assert (await agent.run("how many?")).output == "11"
        assert ADDED == [(1, 2), (3, 8)]

    with session(folder=tmp_path) as opened:
        asyncio.run(main(opened))


@pytest.mark.parametrize("text", ["", "tool", "turn=x", "when cost >", 'when "price > 1"', 'when "f(1) > 2"', "line=4"])
def test_what_is_no_breakpoint(text: str) -> None:
    with pytest.raises(UserError):
        Breakpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("cost > 0.5", True),
        ("not cost > 0.5", False),
        ("0.1 < cost < 1", True),
        ("tool > 3", False),
        ("turn == -1", False),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert Breakpoint.parse(f'when "{text}"').holds({"cost": 0.7, "tool": None, "turn": 2}) is holds


# -- failures and stopping


def test_a_step_that_fails_is_tried_again_or_given_a_result(tmp_path: Path) -> None:
    broken: list[str] = []

    @tool(effects="none")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        broken.append("tried")
        raise ConnectionError("down")

    async def main() -> None:
        run = await step(calculator(Asked(), add, double), "how many?")
        await run.next()
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await run.next()
        assert broken == ["tried"] * 2
        await run.edit("result", 3, step=2)
        await run.next(3)
        assert run.pending is not None and run.pending.arguments == {"a": 3, "b": 8}

    with session(folder=tmp_path):
        asyncio.run(main())


def test_stop_while_a_step_is_taken_keeps_the_place(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> None:
        taking = asyncio.create_task(run.next())
        await asyncio.sleep(0.1)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert run.state == "stopped" and run.pending is None
        await run.next()
        assert place(run) == "step 2, tool add"

    stepping(tmp_path, work, model=Slow(tmp_path))


class Slow(ScriptedModel):
    """The first answer never comes."""

    def __init__(self, folder: Path) -> None:
        self.first = True
        super().__init__(iter(lambda: lambda messages, _params: self.answer(messages), None))

    def answer(self, messages: list[ModelMessage]) -> Any:
        if not self.first:
            return ModelResponse(parts=[]) if not messages else counting(messages)
        self.first = False
        return asyncio.sleep(60)


def test_several_runs_are_open_at_once(tmp_path: Path) -> None:
    async def main(opened: Session) -> None:
        one = await step(calculator(Asked()), "how many?", name="one")
        other = await step(calculator(Asked()), "and how many more?", name="other")
        await one.next()
        await other.next(2)
        assert (place(one), place(other)) == ("step 2, tool add", "step 3, tool double")
        assert opened.bench.pick("one") is one and opened.bench.pick() is other
        with pytest.raises(UserError, match=r"no run ones is being stepped .did you mean one"):
            opened.bench.pick("ones")
        await one.stop()
        with pytest.raises(UserError, match="open: other"):
            opened.bench.pick("one")

    with session(folder=tmp_path) as opened:
        asyncio.run(main(opened))


def test_fresh_asks_once_and_going_back_does_not_ask_again(tmp_path: Path) -> None:
    model = Asked()

    async def work(run: DebugRun, opened: Session) -> None:
        await ask(calculator(model), "how many?")
        assert model.asked.total() == 3
        await run.next(4)
        assert model.asked.total() == 5
        await run.goto(1)
        await run.next(4)
        assert model.asked.total() == 5

    stepping(tmp_path, work, model=model, fresh=True)


def said_in(messages: list[ModelMessage]) -> str:
    return repr([[getattr(part, "content", "") for part in message.parts] for message in messages])


PERFORMED: list[tuple[int, int, str]] = []


@tool(effects="none")
def add_here(ctx: RunContext[object], a: int, b: int) -> int:
    """Add two numbers."""
    PERFORMED.append((a, b, said_in(ctx.messages)))
    return a + b


@tool(effects="once", approve="ask")
def wipe(table: str) -> str:
    """Delete a table."""
    WIPED.append(table)
    return f"{table} is gone"


WIPED: list[str] = []


@pytest.mark.parametrize(("headless", "ends"), [("allow", ["orders is gone"]), ("deny", [])])
def test_a_call_that_needs_a_person_is_asked_about_when_it_is_stepped(
    tmp_path: Path, headless: Any, ends: list[str]
) -> None:
    WIPED.clear()
    model = ScriptedModel.by(lambda m: "done" if results_of(m) else Call("wipe", {"table": "orders"}))

    async def main(opened: Session) -> None:
        opened.policy = replace(opened.policy, headless=headless)
        run = await step(calculator(model, wipe), "clean up")
        while run.pending is not None:
            assert WIPED == [] or run.pending.at > (2,)
            await run.next()
        assert [one for one in results_of(list(run.answer.messages)) if "gone" in one] == ends  # type: ignore[union-attr]
        assert len(WIPED) == len(ends)

    with session(folder=tmp_path) as opened:
        asyncio.run(main(opened))


class Stepping(RuleBasedStateMachine):
    """Whatever is done to a run, no recorded step is performed again, and unedited it ends as it would."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Asked(tool="add_here")
        self.edited = False
        PERFORMED.clear()

    @initialize()
    def opened(self) -> None:
        self.runner = asyncio.Runner()
        self.session = session("test", folder=self.folder)
        self.session.__enter__()
        self.run: DebugRun = self.runner.run(step(self.agent(), "how many?"))

    def agent(self) -> DurableAgent:
        return calculator(self.model, add_here, double)

    @precondition(lambda self: self.run.pending is not None)
    @rule(n=st.integers(1, 3))
    def next(self, n: int) -> None:
        self.runner.run(self.run.next(n))

    @precondition(lambda self: self.run.pending is not None)
    @rule()
    def run_on(self) -> None:
        self.runner.run(self.run.run_on())

    @precondition(lambda self: self.run.pending is not None)
    @rule()
    def into(self) -> None:
        self.runner.run(self.run.next(into=True))

    @precondition(lambda self: self.run.pending is not None and len(self.run.pending.at) > 1)
    @rule()
    def out(self) -> None:
        self.runner.run(self.run.next(out=True))

    @rule(n=st.integers(1, 4))
    def back(self, n: int) -> None:
        if n < len(self.run._trail()) + (self.run.pending is None):
            self.runner.run(self.run.back(n))

    @rule(data=st.data())
    def goto(self, data: st.DataObject) -> None:
        if places := self.run.places:
            to = data.draw(st.sampled_from(places))
            self.runner.run(self.run.goto(to))
            assert self.run.pending is not None and str(self.run.pending).startswith(f"step {to},")

    @precondition(lambda self: self.run.pending is not None)
    @rule(value=st.integers(20, 22))
    def edit(self, value: int) -> None:
        self.edited = True
        pending = self.run.pending
        assert pending is not None
        what: Any = "result" if pending.kind == "tool" else "hint"
        self.runner.run(self.run.edit(what, value if what == "result" else str(value)))

    @rule(again=st.booleans())
    def crash(self, again: bool) -> None:
        self.close()
        self.edited = False
        self.opened()
        while again and self.run.pending is not None and self.run.pending.free:
            self.runner.run(self.run.next())

    @invariant()
    def performed_once(self) -> None:
        assert all(times == 1 for times in self.model.asked.values())
        assert all(times == 1 for times in Counter(PERFORMED).values())

    @invariant()
    def ends_as_it_would(self) -> None:
        run = getattr(self, "run", None)
        if run is not None and run.answer is not None and not self.edited:
            assert run.answer.output == "11"

    def close(self) -> None:
        self.runner.close()
        self.session.__exit__()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.close()
        shutil.rmtree(self.folder)


class SteppingInside(Stepping):
    """The same with the work done by an agent inside an agent."""

    def agent(self) -> DurableAgent:
        inner = calculator(self.model, add_here, double)
        return build(Spec(instructions="Lead."), name="lead", tools=[inner], model=self.lead)

    def __init__(self) -> None:
        super().__init__()
        self.lead = Asked()
        self.lead.count = self.led  # type: ignore[method-assign]

    def led(self, messages: list[ModelMessage]) -> Any:
        self.lead.asked[said_in(messages)] += 1
        results = results_of(messages)
        return str(results[-1]) if results else Call("calculator", {"prompt": "how many?"})

    @invariant()
    def led_once(self) -> None:
        assert all(times == 1 for times in self.lead.asked.values())


Stepping.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
TestStepping = Stepping.TestCase
SteppingInside.TestCase.settings = Stepping.TestCase.settings
TestSteppingInside = SteppingInside.TestCase


def test_a_run_of_a_stepping_is_a_run_like_any_other(tmp_path: Path) -> None:
    async def work(run: DebugRun, opened: Session) -> list[Any]:
        await run.run_on()
        return [event for event in opened.trace(run.run) if isinstance(event, Run)]

    (record,) = stepping(tmp_path, work)
    assert (record.status, record.prompt, record.output) == ("done", "how many?", "11")
