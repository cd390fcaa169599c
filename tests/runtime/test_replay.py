"""A run is recorded, and the same run again is answered from the record."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import InDoubt, ReplayMiss
from agentkit.events import Step
from agentkit.runtime.session import Session, current, session
from agentkit.testing import Call, ScriptedModel
from agentkit.tools.declaration import tool

PAID: list[str] = []


@pytest.fixture(autouse=True)
def ledger() -> list[str]:
    PAID.clear()
    return PAID


@tool(effects="none")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    PAID.append(f"add({a}, {b})")
    return a + b


@tool(effects="none")
async def double(x: int) -> int:
    """Twice a number."""
    PAID.append(f"double({x})")
    return 2 * x


def scripted(*replies: Any, **options: Any) -> ScriptedModel:
    return ScriptedModel(replies, **options)


def calculator(model: ScriptedModel, *tools: Any, instructions: str = "Count.") -> DurableAgent:
    return build(Spec(instructions=instructions), name="calculator", tools=tools or (add, double), model=model)


def run(folder: Path, agent: DurableAgent, prompt: str = "how many?", **options: Any) -> tuple[Answer, list[Step]]:
    async def main(opened: Session) -> tuple[Answer, list[Step]]:
        answer = await ask(agent, prompt, **options)
        return answer, [event for event in answer.events() if isinstance(event, Step)]

    with session("test", folder=folder) as opened:
        return asyncio.run(main(opened))


def replies() -> tuple[Any, ...]:
    return ([Call("add", {"a": 1, "b": 2}), Call("double", {"x": 4})], "3 and 8")


def test_a_second_session_replays_every_step_and_calls_nothing(tmp_path: Path) -> None:
    first, steps = run(tmp_path, calculator(scripted(*replies())))
    assert first.output == "3 and 8"
    assert [step.replayed for step in steps] == [False] * 4
    assert sorted(PAID) == ["add(1, 2)", "double(4)"]

    silent = scripted()
    second, again = run(tmp_path, calculator(silent))
    assert second.output == first.output
    assert [step.replayed for step in again] == [True] * 4
    assert len(PAID) == 2
    assert silent.requests == []


def test_replayed_responses_carry_no_usage(tmp_path: Path) -> None:
    agent = calculator(scripted(*replies()))
    with session(folder=tmp_path):
        live = asyncio.run(agent.run("how many?"))
    assert live.usage.input_tokens > 0
    with session(folder=tmp_path):
        replayed = asyncio.run(calculator(scripted()).run("how many?"))
    assert replayed.usage.input_tokens == replayed.usage.output_tokens == 0


def test_outside_a_session_the_agent_is_a_plain_agent(tmp_path: Path) -> None:
    model = scripted("one", "two")
    agent = calculator(model)
    assert asyncio.run(agent.run("x")).output == "one"
    assert asyncio.run(agent.run("x")).output == "two"


def test_an_edited_prompt_goes_live(tmp_path: Path) -> None:
    run(tmp_path, calculator(scripted("A")), "ask A")
    answer, _ = run(tmp_path, calculator(scripted("B")), "ask B")
    assert answer.output == "B"


def test_an_edited_tool_runs_again_and_an_equal_result_lets_the_rest_replay(tmp_path: Path) -> None:
    run(tmp_path, calculator(scripted(*replies())))

    @tool(effects="none")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        PAID.append("edited add")
        return b + a

    _, steps = run(tmp_path, calculator(scripted(), add, double))
    assert [(step.name, step.replayed) for step in steps if step.kind == "tool"] == [("add", False), ("double", True)]
    assert all(step.replayed for step in steps if step.kind == "model")
    assert PAID[-1] == "edited add"


def test_an_edited_tool_with_another_result_goes_live_from_there(tmp_path: Path) -> None:
    run(tmp_path, calculator(scripted(*replies())))

    @tool(effects="none")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b + 1

    answer, _ = run(tmp_path, calculator(scripted("4 and 8"), add, double))
    assert answer.output == "4 and 8"


def test_five_samples_of_one_prompt_are_five_answers_and_replay_as_those_five(tmp_path: Path) -> None:
    async def five(agent: DurableAgent) -> list[str]:
        return [(await agent.run("a number")).output for _ in range(5)]

    with session(folder=tmp_path):
        first = asyncio.run(five(calculator(scripted(*"12345"))))
    assert first == list("12345")
    with session(folder=tmp_path):
        assert asyncio.run(five(calculator(scripted()))) == first


def test_fresh_asks_anew_and_the_newest_is_replayed_after(tmp_path: Path) -> None:
    run(tmp_path, calculator(scripted("old")))
    assert run(tmp_path, calculator(scripted("new")), fresh=True)[0].output == "new"
    assert run(tmp_path, calculator(scripted()))[0].output == "new"


def test_twenty_gathered_runs_replay(tmp_path: Path) -> None:
    async def gathered(agent: DurableAgent) -> list[str]:
        results = await asyncio.gather(*(agent.run(f"question {i}") for i in range(20)))
        return [result.output for result in results]

    answering = ScriptedModel.by(lambda messages: str(messages[-1].parts[-1].content).upper())  # type: ignore[union-attr]
    with session(folder=tmp_path):
        first = asyncio.run(gathered(calculator(answering)))
    assert first[7] == "QUESTION 7"
    with session(folder=tmp_path):
        assert asyncio.run(gathered(calculator(scripted()))) == first


def test_a_streamed_run_gives_live_deltas_and_replays_as_a_whole(tmp_path: Path) -> None:
    async def streamed(agent: DurableAgent) -> list[str]:
        async with agent.run_stream("tell") as result:
            return [text async for text in result.stream_text(delta=True, debounce_by=None)]

    with session(folder=tmp_path):
        live = asyncio.run(streamed(calculator(scripted("one two three", delay=0.03))))
    assert len(live) > 1
    assert "".join(live) == "one two three"
    with session(folder=tmp_path):
        replayed = asyncio.run(streamed(calculator(scripted())))
    assert "".join(replayed) == "one two three"


def test_a_streamed_and_a_plain_run_share_their_record(tmp_path: Path) -> None:
    texts: list[str] = []
    run(tmp_path, calculator(scripted("one two")), on_text=texts.append)
    assert texts[-1] == "one two"
    assert run(tmp_path, calculator(scripted()))[0].output == "one two"


def test_on_text_is_told_the_whole_text_so_far_live_and_replayed(tmp_path: Path) -> None:
    for model in (scripted(Call("add", {"a": 1, "b": 2}), "one two three", delay=0.01), scripted()):
        texts: list[str] = []
        answer, _ = run(tmp_path, calculator(model), on_text=texts.append)
        assert texts[-1] == answer.output == "one two three"
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts == ["one two three"]


def test_an_async_session_is_left_without_holding_up_the_loop(tmp_path: Path) -> None:
    """The thread of a stopped tool is waited for, so that what it did is on record; meanwhile other tasks go on."""
    begun = threading.Event()

    @tool(effects="once")
    def slow(x: int) -> int:
        """Slow."""
        begun.set()
        time.sleep(0.5)
        PAID.append(f"slow({x})")
        return x

    async def ticks() -> None:
        while True:
            ticked.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def stopped() -> None:
        ticker = asyncio.create_task(ticks())
        async with session("test", folder=tmp_path) as opened:
            assert current() is opened
            work = asyncio.create_task(calculator(scripted(Call("slow", {"x": 1})), slow).run("go"))
            await asyncio.to_thread(begun.wait, 10)
            work.cancel()
            await asyncio.wait([work])
            left = time.monotonic()
        assert current() is not opened
        assert PAID == ["slow(1)"]
        assert sum(at > left for at in ticked) > 5
        ticker.cancel()

    ticked: list[float] = []
    asyncio.run(stopped())

    async def again() -> str:
        async with session("test", folder=tmp_path):
            return (await calculator(scripted("done"), slow).run("go")).output

    assert asyncio.run(again()) == "done"
    assert PAID == ["slow(1)"]


def sub_agents(inner: ScriptedModel, outer: ScriptedModel) -> DurableAgent:
    helper = build(Spec(instructions="Help."), name="helper", model=inner)
    return build(Spec(instructions="Lead."), name="lead", tools=[helper], model=outer)


def test_an_agent_in_another_agents_tool_is_nested_and_replayed(tmp_path: Path) -> None:
    outer = (Call("helper", {"prompt": "go"}), "done")
    first, _ = run(tmp_path, sub_agents(scripted("went"), scripted(*outer)))
    runs = [event for event in first.events() if not isinstance(event, Step)]
    assert [(r.agent, r.parent_run is None) for r in runs] == [("lead", True), ("helper", False)]
    assert first.output == "done"
    second, again = run(tmp_path, sub_agents(scripted(), scripted()))
    assert second.output == "done"
    assert all(step.replayed for step in again)


def tokens(steps: list[Step]) -> int:
    used = [step.usage for step in steps if step.usage is not None]
    return sum(usage.input_tokens + usage.output_tokens for usage in used)


def test_a_replay_saves_what_the_requests_inside_its_tools_cost(tmp_path: Path) -> None:
    outer = (Call("helper", {"prompt": "go"}), "done")
    _, steps = run(tmp_path, sub_agents(scripted("went", cost=0.5), scripted(*outer, cost=0.25)))
    _, again = run(tmp_path, sub_agents(scripted(), scripted()))
    assert len(again) == 3
    assert tokens(again) == tokens(steps) > 0
    assert [step.usage.cost for step in again if step.usage] == [0.25, 0.5, 0.25]


def test_a_replayed_sub_agent_still_counts_its_requests(tmp_path: Path) -> None:
    async def both(inner: ScriptedModel, outer: ScriptedModel) -> list[str]:
        helper = build(Spec(instructions="Help."), name="helper", model=inner)
        lead = build(Spec(instructions="Lead."), name="lead", tools=[helper], model=outer)
        return [(await lead.run("start")).output, (await helper.run("go")).output]

    outer = (Call("helper", {"prompt": "go"}), "done")
    with session(folder=tmp_path):
        first = asyncio.run(both(scripted("first", "second"), scripted(*outer)))
    assert first == ["done", "second"]
    with session(folder=tmp_path):
        assert asyncio.run(both(scripted(), scripted())) == first


def test_a_foreign_agent_is_adopted(tmp_path: Path) -> None:
    from pydantic_ai import Agent

    def made(model: ScriptedModel) -> Any:
        return durable(Agent(model, name="foreign", tools=[add]))

    with session(folder=tmp_path):
        assert asyncio.run(made(scripted(Call("add", {"a": 1, "b": 1}), "2")).run("x")).output == "2"
    with session(folder=tmp_path):
        assert asyncio.run(made(scripted()).run("x")).output == "2"
    assert PAID == ["add(1, 1)"]


def test_a_model_instance_given_to_one_run_is_journaled(tmp_path: Path) -> None:
    agent = calculator(scripted())
    with session(folder=tmp_path):
        assert asyncio.run(agent.run("x", model=scripted("mine", model_name="mine"))).output == "mine"
    with session(folder=tmp_path):
        assert asyncio.run(agent.run("x", model=scripted(model_name="mine"))).output == "mine"


def test_a_failing_model_is_asked_again(tmp_path: Path) -> None:
    with session(folder=tmp_path), pytest.raises(ConnectionError):
        asyncio.run(calculator(scripted(ConnectionError("cut"))).run("x"))
    with session(folder=tmp_path):
        assert asyncio.run(calculator(scripted("fine")).run("x")).output == "fine"


def test_replay_mode_refuses_what_is_not_recorded(tmp_path: Path) -> None:
    run(tmp_path, calculator(scripted("A")), "ask A")
    with pytest.raises(ReplayMiss, match="history"):
        run(tmp_path, calculator(scripted("B")), "ask B", mode="replay")
    assert run(tmp_path, calculator(scripted()), "ask A", mode="replay")[0].output == "A"


def test_a_conversation_continues_after_a_restart(tmp_path: Path) -> None:
    first, _ = run(tmp_path, calculator(scripted("I am Ann")), "who are you?")
    model = scripted("Ann, as I said")
    second, _ = run(tmp_path, calculator(model), "again?", continues="")
    assert second.run.continues == first.run.id
    assert [type(m).__name__ for m in model.requests[0].messages] == ["ModelRequest", "ModelResponse", "ModelRequest"]


def edited_send() -> Callable[[str], str]:
    @tool(effects="once")
    def send(to: str) -> str:
        """Send a letter."""
        PAID.append("sent twice")
        return "sent again"

    return send


def test_mode_off_records_nothing(tmp_path: Path) -> None:
    answer, steps = run(tmp_path, calculator(scripted("unrecorded")), mode="off")
    assert (answer.output, answer.run.id, steps) == ("unrecorded", "", [])
    assert run(tmp_path, calculator(scripted("asked")))[0].output == "asked"


def test_answers_asked_for_at_once_know_their_own_runs(tmp_path: Path) -> None:
    answering = ScriptedModel.by(lambda messages: str(messages[-1].parts[-1].content).upper())  # type: ignore[union-attr]

    async def both(agent: DurableAgent) -> list[Answer]:
        return await asyncio.gather(*(ask(agent, prompt) for prompt in ("one", "two", "three")))

    with session(folder=tmp_path):
        answers = asyncio.run(both(calculator(answering)))
    assert [(answer.run.prompt, answer.output) for answer in answers] == [
        ("one", "ONE"),
        ("two", "TWO"),
        ("three", "THREE"),
    ]


def test_an_edited_once_tool_is_not_repeated_unasked(tmp_path: Path) -> None:
    @tool(effects="once")
    def send(to: str) -> str:
        """Send a letter."""
        PAID.append("sent")
        return "sent"

    script = (Call("send", {"to": "Bo"}), "done")
    run(tmp_path, calculator(scripted(*script), send))

    edited = edited_send()
    with pytest.raises(InDoubt) as doubt:
        run(tmp_path, calculator(scripted(), edited))
    assert PAID == ["sent"]
    with session(folder=tmp_path) as opened:
        opened.settle(doubt.value.step, "result", "sent")
    assert run(tmp_path, calculator(scripted(), edited))[0].output == "done"
    assert PAID == ["sent"]


def test_the_last_answer_is_kept_of_every_way_to_run(tmp_path: Path) -> None:
    async def main(agent: Any) -> None:
        await agent.run("1")
        assert (agent.last.output, agent.last.run.status) == ("one", "done")
        async with agent.run_stream("2") as streamed:
            await streamed.get_output()
        assert agent.last.output == "two"
        async with agent.iter("3") as steps:
            async for _ in steps:
                pass
        assert (agent.last.output, len(agent.last.messages), len(agent.last.events())) == ("three", 2, 2)

    with session(folder=tmp_path):
        asyncio.run(main(calculator(scripted("one", "two", "three"))))
        asyncio.run(main(durable(Agent(scripted("one", "two", "three"), name="adopted"))))
