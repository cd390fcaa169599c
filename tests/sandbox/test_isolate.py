"""Declared tools in a real session: children that really run out, each try a step, and words an agent can act on."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, Tool

import agentkit
from agentkit.agent.agent import durable
from agentkit.agent.ask import Answer, ask
from agentkit.agent.spec import Spec
from agentkit.approval.policy import Decision, Question
from agentkit.errors import ChildFailed, InDoubt, RunFailed, UserError
from agentkit.events import Step
from agentkit.runtime.session import Session
from agentkit.sandbox.process import isolate
from agentkit.testing import Call, ScriptedModel
from tests.cells import notebook, run_cell

CELL = """
import agentkit, datetime, os, time
from dataclasses import dataclass
import numpy as np
import pandas as pd
from pydantic import BaseModel, field_validator
from pydantic_ai import ModelRetry

LEAST = 2
sales = pd.DataFrame({"region": ["n", "s", "n"], "amount": [1.5, 2.0, 3.0]})

@dataclass
class Filter:
    region: str

@agentkit.tool(effects="none", memory=["96MB", "192MB", "384MB"])
def grow(mb: int) -> int:
    "Allocate."
    print("growing to", mb)
    return int(np.ones(mb << 17).sum()) >> 17

@agentkit.tool(effects="none", isolate=True)
def steer() -> str:
    "Print what steers a screen."
    print("one\\r\\x1b[2Jtwo\\x1b]0;title\\x07\\x08\\u202etxt")
    return "ok"

@agentkit.tool(effects="none", isolate=True)
def total(filter: Filter, since: datetime.date) -> dict:
    "Sum."
    chosen = sales[sales.region == filter.region]
    return {"sum": chosen.amount.sum(), "rows": chosen, "since": since + datetime.timedelta(days=1), "pid": os.getpid()}

class Part(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def large(cls, value: int) -> int:
        return max(value, LEAST)

@agentkit.tool(effects="none", isolate=True)
def fitted(parts: list[Part]) -> list[Part]:
    "Check."
    return [*parts, Part(size=0)]

@agentkit.tool(effects="none", isolate=True)
async def slowly(x: int) -> str:
    "Async."
    import asyncio
    await asyncio.sleep(0)
    return agentkit.idempotency_key() or ""

@agentkit.tool(effects="none", isolate=True, timeout=0.4)
def hang() -> str:
    "Never ends."
    while True:
        pass

@agentkit.tool(effects="none", isolate=True)
def broken(kind: str) -> str:
    "Fails."
    if kind == "retry":
        raise ModelRetry("say it otherwise")
    raise KeyError("no such row")

@agentkit.tool(effects="none", network=False)
def fetch(port: int) -> str:
    "Reach out."
    import socket
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError as error:
        return type(error).__name__
    return "reached"
"""


@pytest.fixture
def cells() -> Iterator[Any]:
    with notebook(CELL) as names:
        yield names


def run(
    folder: Path, tools: Any, *replies: Any, prompt: str = "go", **options: Any
) -> tuple[Answer, list[Step], ScriptedModel]:
    model = ScriptedModel(replies)
    agent = agentkit.build(Spec(instructions="x"), name="worker", tools=tools, model=model)

    async def main() -> Answer:
        return await ask(agent, prompt, **options)

    with agentkit.session("test", folder=folder):
        answer = asyncio.run(main())
        return answer, [event for event in answer.events() if isinstance(event, Step)], model


def tries(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.request, step.error or step.result) for step in steps if step.kind == "sandbox"]


def result(steps: list[Step]) -> str:
    return next(step.result for step in steps if step.kind == "tool")


def answered(model: ScriptedModel) -> Any:
    """What the model was told of its first call."""
    part: Any = model.requests[1].messages[-1].parts[0]
    return part.content


# ---- the ladder


def test_a_tool_that_runs_out_climbs_and_each_try_is_a_step(cells: Any, tmp_path: Path) -> None:
    answer, steps, _ = run(tmp_path, [cells.grow], Call("grow", {"mb": 300}), "ok")
    assert answer.output == "ok"
    assert result(steps) == "300"
    (first, why), (second, why_too), (third, done) = tries(steps)
    assert [first, second, third] == ["96MB", "192MB", "384MB"]
    assert why.startswith("ChildFailed: out of memory: used ") and "of 96MB" in why
    assert "of 192MB" in why_too
    assert done.startswith("used 3")


def test_a_replay_starts_no_process(cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = run(tmp_path, [cells.grow], Call("grow", {"mb": 130}), "ok")

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", never)
    again, steps, model = run(tmp_path, [cells.grow])
    assert again.output == first.output
    assert all(step.replayed for step in steps)
    assert model.requests == []


def test_at_the_end_of_the_ladder_the_agent_is_told_and_asks_for_less(cells: Any, tmp_path: Path) -> None:
    answer, steps, model = run(tmp_path, [cells.grow], Call("grow", {"mb": 4000}), Call("grow", {"mb": 10}), "ok")
    assert answer.output == "ok"
    words = answered(model)
    assert words.startswith(
        "grow ran out of memory. It was given 96MB, then 192MB, then 384MB; more cannot be asked for."
    )
    assert "It held " in words and "Unable to allocate 3.91 GiB" in words
    assert "Call it again with less to do" in words
    assert [request for request, _ in tries(steps)] == ["96MB", "192MB", "384MB", "96MB"]


def test_an_agent_that_does_not_get_further_ends_with_a_person(cells: Any, tmp_path: Path) -> None:
    asked: list[Question] = []

    async def person(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        asked.extend(questions)
        return tuple(Decision(verdict="answer", answer="take last year's", by="you") for _ in questions)

    hungry = [Call("grow", {"mb": 4000 + place}) for place in range(4)]
    agent = agentkit.build(Spec(instructions="x"), name="worker", tools=[cells.grow], model=ScriptedModel(hungry))
    with agentkit.session("test", folder=tmp_path) as session:
        session.asker = person
        answer = asyncio.run(ask(agent, "go"))
    assert answer.output == "take last year's"
    assert asked[0].kind == "bailout"
    assert "grow ran out of memory" in " ".join(asked[0].before)


def test_given_more_memory_a_recorded_shortage_is_no_answer_any_more(cells: Any, tmp_path: Path) -> None:
    run(tmp_path, [cells.grow], Call("grow", {"mb": 500}), "too much")
    run_cell(cells, CELL.replace('"384MB"', '"384MB", "1GB"'))
    answer, steps, _ = run(tmp_path, [cells.grow], "fits")
    assert answer.output == "fits"
    assert result(steps) == "500"
    again, steps, _ = run(tmp_path, [cells.grow])
    assert again.output == "fits" and all(step.replayed for step in steps)


def test_what_must_happen_once_is_not_tried_again(tmp_path: Path) -> None:
    with notebook(
        CELL.replace('effects="none", memory=["96MB", "192MB", "384MB"]', 'effects="once", memory="96MB"')
    ) as names:
        with pytest.raises((RunFailed, ChildFailed), match="ran out of memory"):
            run(tmp_path, [names.grow], Call("grow", {"mb": 4000}), "ok")
        with pytest.raises(InDoubt, match="may have taken effect"):
            run(tmp_path, [names.grow], "ok")


# ---- what a tool is and gives


def test_what_the_tool_reads_goes_with_it_and_its_result_comes_back(cells: Any, tmp_path: Path) -> None:
    call = Call("total", {"filter": {"region": "n"}, "since": "2024-01-31"})
    _, steps, model = run(tmp_path, [cells.total], call, "ok")
    given = answered(model)
    assert given["sum"] == 4.5
    assert given["rows"] == [{"index": 0, "region": "n", "amount": 1.5}, {"index": 2, "region": "n", "amount": 3.0}]
    assert given["since"] == "2024-02-01"
    assert given["pid"] != os.getpid()
    assert [request for request, _ in tries(steps)] == ["a process of its own"]


def test_models_are_checked_there_too(cells: Any, tmp_path: Path) -> None:
    _, steps, _ = run(tmp_path, [cells.fitted], Call("fitted", {"parts": [{"size": 1}, {"size": 5}]}), "ok")
    assert result(steps) == '[{"size": 2}, {"size": 5}, {"size": 2}]'


def test_changed_data_is_not_answered_from_the_record(cells: Any, tmp_path: Path) -> None:
    call = Call("total", {"filter": {"region": "n"}, "since": "2024-01-31"})
    run(tmp_path, [cells.total], call, "ok")
    run_cell(cells, "sales.loc[0, 'amount'] = 10.0")
    _, steps, _ = run(tmp_path, [cells.total], "ok")
    assert '"sum": 13.0' in result(steps)


def test_an_async_tool_and_the_key_of_its_step(cells: Any, tmp_path: Path) -> None:
    _, steps, _ = run(tmp_path, [cells.slowly], Call("slowly", {"x": 1}), "ok")
    assert len(result(steps).strip('"')) > 30


def test_what_it_prints_is_shown_as_it_comes(cells: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [cells.grow], Call("grow", {"mb": 1}), "ok")
    assert capsys.readouterr().out == "growing to 1\n"


def test_what_it_prints_steers_no_terminal(cells: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [cells.steer], Call("steer", {}), "ok")
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x08", "\r", "\u202e"} & set(out)
    assert out == "one\n\u241b[2Jtwo\u241b]0;title\u2407\u2408\ufffdtxt\n"


def test_a_tool_that_takes_too_long_is_stopped_and_the_agent_told(cells: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    answer, steps, model = run(tmp_path, [cells.hang], Call("hang", {}), "gave up")
    assert answer.output == "gave up"
    assert time.monotonic() - began < 5
    told = str(answered(model))
    assert told.startswith("hang did not end within 0.4 s and was stopped")
    ((request, why),) = tries(steps)
    assert request == "a process of its own" and "out of time" in why


def test_its_errors_are_those_of_the_kernel(cells: Any, tmp_path: Path) -> None:
    with pytest.raises((KeyError, RunFailed)) as caught:
        run(tmp_path, [cells.broken], Call("broken", {"kind": "x"}), "ok")
    cause = caught.value.cause if isinstance(caught.value, RunFailed) else caught.value
    assert isinstance(cause, KeyError)
    assert "in broken" in " ".join(cause.__notes__) and "raise KeyError" in " ".join(cause.__notes__)


FORGED = """
import json, os
@agentkit.tool(effects="none", isolate=True)
def forger(reply: str) -> str:
    "Answer in agentkit's place."
    for number in range(3, 32):
        try:
            os.write(number, reply.encode())
        except OSError:
            pass
    os._exit(0)
"""


def test_a_tool_that_forges_its_reply_is_named(cells: Any, tmp_path: Path) -> None:
    run_cell(cells, FORGED)
    with pytest.raises((RunFailed, ChildFailed), match=r"forger: its answer is forged: .*it wrote to the channel"):
        run(tmp_path, [cells.forger], Call("forger", {"reply": "no JSON"}), "ok")


@pytest.mark.parametrize("kind", ["ExceptionGroup", "StopIteration", "UnicodeDecodeError", "KeyboardInterrupt", "open"])
def test_an_error_that_is_not_made_of_a_message_is_told_as_one(cells: Any, tmp_path: Path, kind: str) -> None:
    run_cell(cells, FORGED)
    raised = {"how": "raised", "kind": kind, "module": "builtins", "message": "m", "line": None, "trace": "", "peak": 1}
    with pytest.raises((RuntimeError, RunFailed)) as caught:
        run(tmp_path, [cells.forger], Call("forger", {"reply": json.dumps(raised)}), "ok")
    cause = caught.value.cause if isinstance(caught.value, RunFailed) else caught.value
    assert type(cause) is RuntimeError and str(cause).startswith(f"{kind}: m")


def test_its_request_for_a_retry_reaches_the_agent(cells: Any, tmp_path: Path) -> None:
    _, _, model = run(tmp_path, [cells.broken], Call("broken", {"kind": "retry"}), "ok")
    assert "say it otherwise" in str(answered(model))


def test_calls_of_one_turn_run_side_by_side(cells: Any, tmp_path: Path) -> None:
    _, steps, _ = run(tmp_path, [cells.grow, cells.slowly], [Call("grow", {"mb": n}) for n in (1, 2, 3)], "ok")
    assert sorted(step.result for step in steps if step.kind == "tool") == ["1", "2", "3"]


# ---- without a network


def test_a_tool_without_network_cannot_reach_a_listening_port(cells: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        _, steps, _ = run(tmp_path / "a", [cells.fetch], Call("fetch", {"port": port}), "ok")
        assert result(steps) == "OSError"
        run_cell(cells, CELL.replace("network=False", "isolate=True"))
        _, steps, _ = run(tmp_path / "b", [cells.fetch], Call("fetch", {"port": port}), "ok")
        assert result(steps) == "reached"


def test_where_that_cannot_be_enforced_nothing_is_built(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "walls_stand", lambda: "unshare: Operation not permitted")
    with pytest.raises(UserError, match=r"fetch: network=False cannot be enforced on this system: unshare") as refused:
        agentkit.build(Spec(instructions="x"), name="worker", tools=[cells.fetch])
    assert "\n" not in str(refused.value)


def test_where_memory_cannot_be_limited_nothing_is_built(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UserError, match="grow: memory= cannot be enforced on this system: it takes Linux"):
        agentkit.build(Spec(instructions="x"), name="worker", tools=[cells.grow])


# ---- wherever a tool is called


def test_an_agent_without_a_session_isolates_too(cells: Any) -> None:
    model = ScriptedModel([Call("total", {"filter": {"region": "n"}, "since": "2024-01-31"}), "ok"])
    agent = agentkit.build(Spec(instructions="x"), name="worker", tools=[cells.total], model=model)
    asyncio.run(agent.run("go"))
    assert answered(model)["pid"] != os.getpid()


def test_an_adopted_agent_isolates_too(cells: Any, tmp_path: Path) -> None:
    model = ScriptedModel([Call("grow", {"mb": 130}), "ok"])
    agent = durable(Agent(model, name="adopted", tools=[Tool(cells.grow)]))

    async def main(session: Session) -> list[Step]:
        await agent.run("go")
        return [event for event in session.trace(session.runs()[0].id) if isinstance(event, Step)]

    with agentkit.session("test", folder=tmp_path) as session:
        steps = asyncio.run(main(session))
    assert [request for request, _ in tries(steps)] == ["96MB", "192MB"]


def test_a_sandbox_program_s_call_isolates_too(cells: Any, tmp_path: Path) -> None:
    async def main() -> Any:
        return (await agentkit.sandbox("grow(mb=130)", calls={"grow": cells.grow})).value

    with agentkit.session("test", folder=tmp_path):
        assert asyncio.run(main()) == 130


# ---- the second tier of the sandbox


def test_pandas_runs_where_monty_cannot(tmp_path: Path, cells: Any) -> None:
    source = "out = sales.groupby('region', as_index=False).amount.sum()\nlen(out)"

    async def main() -> Any:
        return await agentkit.sandbox(source, inputs={"sales": cells.sales}, outputs=["out"], tier="process")

    with agentkit.session("test", folder=tmp_path) as session:
        first = asyncio.run(main())
        told = [event.result for event in session.trace(first.run.id) if isinstance(event, Step)]
    assert first.value == 2 and told == ["out = (frame)"]
    assert first.outputs["out"].to_dict("list") == {"region": ["n", "s"], "amount": [4.5, 2.0]}


def test_its_program_replays_without_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Any:
        return await agentkit.sandbox("import os\nprint('hi')\npid = os.getpid()", outputs=["pid"], tier="process")

    with agentkit.session("test", folder=tmp_path):
        first = asyncio.run(main())
    monkeypatch.setattr("subprocess.Popen", None)
    with agentkit.session("test", folder=tmp_path):
        again = asyncio.run(main())
    assert (again.outputs, again.printed) == (first.outputs, "hi\n")


PROGRAMS: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
    r"code: ZeroDivisionError: division by zero \(line 2\)\n  2 \| x = 1/0": lambda: process("a = 1\nx = 1/0"),
    r"code: SyntaxError: .* \(line 1\)": lambda: process("x = = 1"),
    r"limit: more than 64MB of memory": lambda: process("x = b'1' * (200 << 20)", limits="memory=64MB"),
    r"limit: more than 0.5 s": lambda: process("while True: pass", limits="time=500ms"),
    r"limit: the program is .* bytes long": lambda: process("#" * 70_000),
    r"crash: its process ended: exit code 4": lambda: process("import os; os._exit(4)"),
    r"never assigned nothing": lambda: process("1", outputs=["nothing"]),
    r"out is a A, which cannot be handed": lambda: process("class A: ...\nout = A()", outputs=["out"]),
    r"bad is a builtin_function_or_method, which": lambda: process("1", inputs={"bad": print}),
    r"calls: with tier='process' the program cannot call process": lambda: process("1", calls={"process": process}),
}


async def process(source: str, **options: Any) -> Any:
    return await agentkit.sandbox(source, tier="process", **options)


@pytest.mark.parametrize("said", PROGRAMS)
def test_what_goes_wrong_is_said_in_its_words(said: str, tmp_path: Path) -> None:
    with agentkit.session("test", folder=tmp_path), pytest.raises(agentkit.AgentKitError, match=said):
        asyncio.run(PROGRAMS[said]())


# ---- what cannot be isolated is refused when the agent is built

REFUSED = {
    "t cannot run in a process of its own: it takes a RunContext": (
        "from pydantic_ai import RunContext\n@agentkit.tool(isolate=True)\n"
        "def t(ctx: RunContext[None]) -> str:\n    return ''\n"
    ),
    "t cannot run in a process of its own: connection is a sqlite3.Connection": (
        "import sqlite3\nconnection = sqlite3.connect(':memory:')\n"
        "@agentkit.tool(isolate=True)\ndef t() -> str:\n    return connection.execute('select 1')\n"
    ),
    "t cannot run in a process of its own: t changes seen": (
        "seen = []\n@agentkit.tool(memory='64MB')\ndef t() -> str:\n    seen.append(1)\n    return ''\n"
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_at_build(why: str, cells: Any) -> None:
    run_cell(cells, REFUSED[why])
    with pytest.raises(UserError, match=f"^{why}") as refused:
        agentkit.build(Spec(instructions="x"), name="worker", tools=[cells.t])
    assert "\n" not in str(refused.value)
