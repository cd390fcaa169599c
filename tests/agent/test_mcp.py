"""An agent with an MCP server: recorded once, replayed without the server."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision
from agentkit.debugger.opening import step
from agentkit.debugger.stepper import DebugRun
from agentkit.errors import ApprovalPending, UserError
from agentkit.events import Step
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel

SERVER = """
import sys
from pathlib import Path
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("files")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def size(name: str) -> int:
    '''The size of a file.'''
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(f"size {name}\\n")
    return 7


@server.tool(annotations=ToolAnnotations(destructiveHint=True))
def remove(name: str) -> str:
    '''Remove a file.'''
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(f"remove {name}\\n")
    return "removed " + name


server.run(transport="stdio")
"""


def reader(server: Path, ledger: Path, *replies: Call | str) -> DurableAgent:
    transport = StdioTransport(command=sys.executable, args=[str(server), str(ledger)])
    toolset = MCPToolset(transport, id="files", init_timeout=60)
    return build(Spec(instructions="Read."), name="reader", tools=[toolset], model=ScriptedModel(replies))


def test_a_replay_needs_no_mcp_server(tmp_path: Path) -> None:
    server, ledger = tmp_path / "server.py", tmp_path / "ledger"
    server.write_text(textwrap.dedent(SERVER))
    with session(folder=tmp_path):
        answer = asyncio.run(ask(reader(server, ledger, Call("size", {"name": "a"}), "7 bytes"), "how big is a?"))
        assert answer.output == "7 bytes"
        tool = next(step for step in answer.events() if isinstance(step, Step) and step.kind == "tool")
        assert tool.effects == "none"
    assert ledger.read_text() == "size a\n"

    server.unlink()
    with session(folder=tmp_path):
        answer = asyncio.run(ask(reader(server, ledger), "how big is a?"))
        assert answer.output == "7 bytes"
        assert all(step.replayed for step in answer.events() if isinstance(step, Step))
    assert ledger.read_text() == "size a\n"


def is_free(run: DebugRun) -> bool:
    return run.pending is not None and run.pending.free


def said(run: DebugRun) -> object:
    return None if run.answer is None else run.answer.output


def test_a_servers_calls_are_stepped_edited_and_replayed(tmp_path: Path) -> None:
    server, ledger = tmp_path / "server.py", tmp_path / "ledger"
    server.write_text(textwrap.dedent(SERVER))

    async def to_the_call(*replies: Call | str) -> DebugRun:
        run = await step(reader(server, ledger, *replies), "how big is a?")
        await run.next()
        assert str(run.pending) == "step 2, tool size"
        return run

    async def taken() -> None:
        run = await to_the_call(Call("size", {"name": "a"}), "7 bytes")
        assert run.pending is not None and run.pending.arguments == {"name": "a"} and not ledger.exists()
        with pytest.raises(UserError, match="size: name: "):
            await run.edit("arguments", {"name": 3})
        await run.next()
        assert ledger.read_text() == "size a\n"
        await run.back()
        assert is_free(run)
        await run.run_on()
        assert said(run) == "7 bytes"
        await run.edit("arguments", {"name": "b"}, step=2)
        await run.run_on()
        # The same size: what follows is answered from the record.
        assert said(run) == "7 bytes"
        assert ledger.read_text() == "size a\nsize b\n"

    async def again() -> None:
        run = await to_the_call()
        await run.run_on()
        assert said(run) == "7 bytes"

    with session(folder=tmp_path):
        asyncio.run(taken())
    server.unlink()
    with session(folder=tmp_path):
        asyncio.run(again())


def test_what_a_server_says_destroys_needs_a_person(tmp_path: Path) -> None:
    server, ledger = tmp_path / "server.py", tmp_path / "ledger"
    server.write_text(textwrap.dedent(SERVER))

    def agent() -> DurableAgent:
        return reader(server, ledger, Call("remove", {"name": "a"}), "done")

    with session(folder=tmp_path) as opened:
        with pytest.raises(ApprovalPending, match="remove waits for a person"):
            asyncio.run(ask(agent(), "remove a"))
        (waiting,) = decisions.everything(opened.store)
        assert "says that it destroys something" in waiting.question.text
        assert not ledger.exists()
        opened.decide(waiting.question, Decision(verdict="edit", arguments={"name": "b"}))
    with session(folder=tmp_path):
        answer = asyncio.run(ask(reader(server, ledger, "done"), "remove a"))
    assert (answer.output, ledger.read_text()) == ("done", "remove b\n")


def test_a_configuration_that_is_missing_or_broken_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "servers.json"
    broken.write_text("{no json")
    empty = tmp_path / "empty.json"
    empty.write_text('{"servers": 3}')
    for place, said in ((tmp_path / "none.json", "no such file"), (broken, "not a list of"), (empty, "not a list of")):
        with pytest.raises(UserError, match=said) as told:
            build(Spec(instructions="Read."), name="reader", mcp=[str(place)])
        assert str(place) in str(told.value) and "\n" not in str(told.value)


def test_a_server_that_was_given_a_model_to_ask_is_refused(tmp_path: Path) -> None:
    (server := tmp_path / "server.py").write_text(SERVER)
    agent = reader(server, tmp_path / "ledger", "done")
    agent.set_mcp_sampling_model()
    with session(folder=tmp_path), pytest.raises(UserError, match=r"MCP server files.*not recorded"):
        asyncio.run(agent.run("go"))
    with session(folder=tmp_path) as opened:
        assert opened.runs() == []
