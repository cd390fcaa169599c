"""What happens with real MCP servers that go away, ask, want tasks, or have more than tools."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ToolReturnPart

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision
from agentkit.errors import ApprovalPending, ServerUnreachable
from agentkit.events import Step
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel

PROTOCOLS = ("auto", "legacy")
"""Today's, without a session, and the one with a handshake, in which the server itself sends requests."""

SERVER = '''
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal
from pydantic import BaseModel, Field
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve

server = MCPServer("files")


def noted(line):
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(line + chr(10))


@server.tool()
def size(name: str) -> int:
    """The size of a file."""
    noted(f"size {name}")
    return len(name)


class Trip(BaseModel):
    days: int = Field(description="how long")
    seat: Literal["window", "aisle"]
    insured: bool
    note: str = ""


def wanted(town: str) -> Elicit[Trip]:
    return Elicit(f"Which trip to {town}?", Trip)


@server.tool()
def book(town: str, trip: Annotated[Trip, Resolve(wanted)]) -> str:
    """Book a trip."""
    noted(f"book {town} {trip.days} {trip.seat} {trip.insured} {trip.note!r}")
    return f"{town}, {trip.days} days, {trip.seat}"


if "more" in sys.argv:

    @server.resource("notes://readme", description="what this is about")
    def readme() -> str:
        noted("readme")
        return "read me first"

    @server.resource("notes://of/{name}")
    def note(name: str) -> str:
        return f"the note of {name}"

    @server.prompt()
    def review(code: str, tone: str = "kind") -> str:
        """Review some code."""
        return f"Review this, {tone}: {code}"


if sys.argv[2].isdecimal():
    server.run(transport="streamable-http", port=int(sys.argv[2]))
else:
    server.run(transport="stdio")
'''
TASKS = """
import asyncio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

SCHEMA = {"type": "object", "properties": {}}


async def tools(ctx, params):
    long = types.Tool(name="long", input_schema=SCHEMA, execution=types.ToolExecution(task_support="required"))
    return types.ListToolsResult(tools=[types.Tool(name="short", input_schema=SCHEMA), long])


async def call(ctx, params):
    if params.name == "long":
        raise RuntimeError("to be run as a task")
    return types.CallToolResult(content=[types.TextContent(type="text", text="soon")])


async def main():
    server = Server("tasks", on_list_tools=tools, on_call_tool=call)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


asyncio.run(main())
"""


@dataclass
class Place:
    """A folder with a server in it and a ledger of what it was made to do."""

    folder: Path
    port: int = 0
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "server.py").write_text(SERVER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def command(self, *more: str) -> list[str]:
        return [sys.executable, str(self.folder / "server.py"), str(self.folder / "ledger"), *more]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.command(str(self.port), *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.running.append(process)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return process
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("the server did not start")

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
        self.running.clear()

    def over_http(self, protocol: str) -> MCPToolset[Any]:
        return MCPToolset(Client(self.url, mode=protocol, init_timeout=60), id="files")

    def over_stdio(self, protocol: str, *more: str, server: str = "") -> MCPToolset[Any]:
        if server:
            (self.folder / "server.py").write_text(server)
        command, *args = self.command("stdio", *more)
        return MCPToolset(
            Client(StdioTransport(command=command, args=args), mode=protocol, init_timeout=60), id="files"
        )

    def took(self) -> list[str]:
        ledger = self.folder / "ledger"
        return ledger.read_text().splitlines() if ledger.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        yield made
    finally:
        made.kill()


def agent(*tools: Any, model: ScriptedModel, **more: Any) -> DurableAgent:
    return build(Spec(instructions="Travel."), name="traveller", tools=tools, model=model, **more)


def run(folder: Path, one: DurableAgent, prompt: str = "go") -> Answer:
    with session("test", folder=folder):
        return asyncio.run(ask(one, prompt))


def steps(answer: Answer) -> list[Step]:
    return [event for event in answer.events() if isinstance(event, Step)]


def returned(messages: list[ModelMessage]) -> list[Any]:
    return [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


# ---- a server that is gone


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("turn", [1, 2, 3], ids=["before the calls", "between them", "after them"])
def test_a_run_ends_well_although_its_server_was_killed(place: Place, protocol: str, turn: int) -> None:
    place.start()
    turns = iter(range(1, 9))

    def reply(messages: list[ModelMessage]) -> Any:
        n = next(turns)
        if n == turn:
            place.kill()
        return Call("size", {"name": "a" * n}) if n < 3 else "measured"

    answer = run(place.folder, agent(place.over_http(protocol), model=ScriptedModel.by(reply)))
    assert (answer.output, answer.run.status) == ("measured", "done")
    assert place.took() == [f"size {'a' * n}" for n in range(1, turn)]
    failed = [step for step in steps(answer) if step.kind == "tool" and "is gone" in step.result]
    assert len(failed) == 3 - turn and all(place.url in step.result for step in failed)
    if failed:
        assert any("was gone when the run ended" in note and place.url in note for note in answer.run.notes)
    again = run(place.folder, agent(place.over_http(protocol), model=ScriptedModel()))
    assert again.output == "measured" and all(step.replayed for step in steps(again))


def test_a_server_that_is_down_at_the_start_is_named(place: Place) -> None:
    with pytest.raises(ServerUnreachable) as told:
        run(place.folder, agent(model=ScriptedModel(["done"]), mcp=[f"{place.url}?key=abc"]))
    assert place.url in str(told.value) and "key=abc" not in str(told.value) and "\n" not in str(told.value)
    place.start()
    assert run(place.folder, agent(model=ScriptedModel(["done"]), mcp=[f"{place.url}?key=abc"])).output == "done"


def test_a_command_that_is_not_there_is_named(place: Place) -> None:
    toolset = MCPToolset(StdioTransport(command="/no/such/server", args=[]), id="files")
    with pytest.raises(ServerUnreachable, match="/no/such/server"):
        run(place.folder, agent(toolset, model=ScriptedModel(["done"])))


# ---- a server that asks


def to_book(model: ScriptedModel, place: Place, protocol: str) -> DurableAgent:
    return agent(place.over_stdio(protocol), model=model)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_server_asks_is_put_to_the_person_and_its_answer_is_kept(place: Place, protocol: str) -> None:
    given = {"days": "3", "seat": "aisle", "insured": "yes", "note": "quiet"}
    calls = ScriptedModel([Call("book", {"town": "Rome"}), "booked"])
    with session("test", folder=place.folder) as opened:
        with pytest.raises(ApprovalPending):
            asyncio.run(ask(to_book(calls, place, protocol), "to Rome"))
        assert place.took() == []
        waiting = [one.question for one in decisions.everything(opened.store) if one.decision is None]
        assert {question.form for question in waiting} == {"number", "choice", "yes_no", "text"}
        assert all("files asks: Which trip to Rome?" in question.text for question in waiting)
        for question in waiting:
            opened.decide(question, Decision(verdict="answer", answer=given[question.arguments["field"]]))
    answer = run(place.folder, to_book(ScriptedModel(["booked"]), place, protocol), "to Rome")
    assert answer.output == "booked"
    assert place.took() == ["book Rome 3 aisle True 'quiet'"]
    again = run(place.folder, to_book(ScriptedModel(), place, protocol), "to Rome")
    assert again.output == "booked" and all(step.replayed for step in steps(again)) and len(place.took()) == 1


@contextmanager
def answering(opened: Any, **answers: Any) -> Iterator[list[str]]:
    """Somebody sits there and answers at once."""
    asked: list[str] = []

    async def asker(questions: Any) -> list[Decision]:
        asked.extend(question.arguments["field"] for question in questions)
        return [Decision(verdict="answer", answer=answers[question.arguments["field"]]) for question in questions]

    opened.asker = asker
    yield asked


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_somebody_who_is_there_answers_while_the_server_waits(place: Place, protocol: str) -> None:
    calls = ScriptedModel([[Call("book", {"town": "Rome"}), Call("book", {"town": "Oslo"})], "booked"])
    with (
        session("test", folder=place.folder) as opened,
        answering(opened, days=2, seat="window", insured=False, note="") as asked,
    ):
        answer = asyncio.run(ask(to_book(calls, place, protocol), "to both"))
    assert answer.output == "booked"
    assert sorted(place.took()) == ["book Oslo 2 window False ''", "book Rome 2 window False ''"]
    assert sorted(asked) == sorted(["days", "seat", "insured", "note"] * 2)
    assert len([step for step in steps(answer) if step.kind == "question"]) == 8


# ---- tools that run only as a task


def test_a_tool_that_cannot_be_called_is_not_offered_and_is_named(place: Place) -> None:
    """Today's protocol no longer says of a tool that it runs only as a task."""
    model = ScriptedModel([Call("short", {}), "done"])
    answer = run(place.folder, agent(place.over_stdio("legacy", server=TASKS), model=model))
    assert answer.output == "done"
    assert [tool.name for tool in model.requests[0].params.function_tools] == ["short"]
    (note,) = answer.run.notes
    assert "long not offered: it runs only as a task" in note


# ---- more than tools


def test_resources_and_prompts_of_a_server_can_be_read(place: Place) -> None:
    place.start("more")
    model = ScriptedModel(
        [
            [Call("read_resource", {"uri": "notes://readme"}), Call("read_resource", {"uri": "notes://of/ada"})],
            Call("read_resource", {"uri": "notes://none"}),
            Call("get_prompt", {"name": "review", "arguments": {"code": "x = 1"}}),
            "read",
        ]
    )
    answer = run(place.folder, agent(model=model, mcp=[place.url]))
    assert answer.output == "read"
    tools = {tool.name: tool.description or "" for tool in model.requests[0].params.function_tools}
    assert {"read_resource", "get_prompt", "size", "book"} == set(tools)
    assert "- notes://readme: what this is about" in tools["read_resource"]
    assert "- notes://of/{name}" in tools["read_resource"] and "review(code, tone?)" in tools["get_prompt"]
    found = [step for step in steps(answer) if step.kind == "tool"]
    assert {step.effects for step in found} == {"none"}
    assert "read me first" in found[0].result and "the note of ada" in found[1].result
    assert "notes://none" in found[2].result and "Review this, kind: x = 1" in found[3].result
    place.kill()
    again = run(place.folder, agent(model=ScriptedModel(), mcp=[place.url]))
    assert again.output == "read" and all(step.replayed for step in steps(again)) and place.took() == ["readme"]


def test_a_server_with_tools_alone_gets_no_reading_tools(place: Place) -> None:
    place.start()
    model = ScriptedModel(["done"])
    run(place.folder, agent(model=model, mcp=[place.url]))
    assert {tool.name for tool in model.requests[0].params.function_tools} == {"size", "book"}
