"""Runs with the tools of real MCP servers are passed over too, wherever what the servers offer is on record."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.events import Step
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from agentkit.trace.explain import explain
from tests.replaying import assert_same, at_the_door, replies, said, seen, steps

TURNS = 4
SERVER = """
import sys
from pathlib import Path
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("files", instructions="Be brief.")


def noted(line: str) -> None:
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(line + chr(10))


noted("started")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def size(name: str) -> int:
    '''The size of a file.'''
    noted(f"size {name}")
    return len(name)


if len(sys.argv) > 2:
    server.run(transport="streamable-http", port=int(sys.argv[2]))
else:
    server.run(transport="stdio")
"""
PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from agentkit.agent.spec import Spec
from agentkit.agent.build import build
from agentkit.agent.ask import ask
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from tests.replaying import at_the_door, replies

folder, url, die_at = sys.argv[1:]


def reply(messages):
    n = len(replies(messages))
    if n == int(die_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return Call("size", {"name": "a" * n}) if n < 4 else "measured"


agent = build(Spec(instructions="Read."), name="reader", mcp=[url], model=ScriptedModel.by(reply))
with session(folder=Path(folder)), at_the_door() as came:
    print(asyncio.run(ask(agent, "how big?")).output, *came)
"""


class Files:
    """A server in a file, and a ledger of what it was made to do."""

    def __init__(self, folder: Path) -> None:
        self.path, self._ledger = folder / "server.py", folder / "ledger"
        self.write(SERVER)

    def write(self, text: str) -> None:
        self.path.write_text(text)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self.path), str(self._ledger)]

    def took(self) -> list[str]:
        """What it did since this was asked last."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        self._ledger.unlink(missing_ok=True)
        return lines

    def offered(self, **options: Any) -> MCPToolset[Any]:
        command, *args = self.command
        return MCPToolset(StdioTransport(command=command, args=args), id="files", init_timeout=60, **options)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def sizing(tool: str = "size", *, die_at: int | None = None) -> ScriptedModel:
    def reply(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        if n == die_at:
            raise RuntimeError("the wire is cut")
        return Call(tool, {"name": "a" * n}) if n < TURNS else "measured"

    return ScriptedModel.by(reply)


def reader(model: ScriptedModel, *tools: Any, **more: Any) -> DurableAgent:
    return build(Spec(instructions="Read."), name="reader", tools=tools, model=model, **more)


def run(folder: Path, agent: DurableAgent, **options: Any) -> tuple[Answer, list[str]]:
    with session("test", folder=folder), at_the_door() as came:
        return asyncio.run(ask(agent, "how big?", **options)), came


def _as_offered(files: Files, **options: Any) -> Callable[[ScriptedModel], DurableAgent]:
    return lambda model: reader(model, files.offered(**options))


def _from_a_file(files: Files) -> Callable[[ScriptedModel], DurableAgent]:
    command, *args = files.command
    config = files.path.with_name("mcp.json")
    config.write_text(json.dumps({"mcpServers": {"x": {"command": command, "args": args}}}))
    return lambda model: reader(model, mcp=[str(config)])


EACH_TURN = {"cache_tools": False}
KINDS: dict[str, tuple[Callable[[Files], Callable[[ScriptedModel], DurableAgent]], str, list[str]]] = {
    "asked once a run": (_as_offered, "size", ["discovery", "model"]),
    "asked each turn": (
        lambda files: _as_offered(files, **EACH_TURN),
        "size",
        ["discovery", "model"],
    ),
    "with instructions": (
        # Newer releases keep them in the conversation and do not send them there: then steps have two histories.
        lambda files: _as_offered(files, cache_tools=False, include_instructions=True),
        "size",
        ["discovery", "discovery", "model"],
    ),
    "renamed": (
        lambda files: lambda model: reader(model, files.offered().renamed({"measure": "size"}).prefixed("x")),
        "x_measure",
        ["discovery", "model"],
    ),
    "from a file": (_from_a_file, "x_size", ["discovery", "model"]),
}


@pytest.mark.parametrize(("made", "tool", "at_door"), KINDS.values(), ids=list(KINDS))
def test_a_finished_run_is_passed_over_and_starts_no_server(
    tmp_path: Path, files: Files, made: Callable[[Files], Any], tool: str, at_door: list[str]
) -> None:
    agent = made(files)
    first, _ = run(tmp_path, agent(sizing(tool)))
    assert files.took() == ["started", *(f"size {'a' * n}" for n in range(TURNS))]
    files.path.unlink()
    again, came = run(tmp_path, agent(sizing(die_at=0)))
    assert (again.output, came, again.run.walked) == (first.output, at_door, "")
    walked, came = run(tmp_path, agent(sizing(die_at=0)), walk=True)
    assert len(came) == len(steps(first))
    assert_same(again, walked)
    assert files.took() == []


@pytest.mark.parametrize(
    "options",
    [{}, EACH_TURN, {**EACH_TURN, "include_instructions": True}],
    ids=["asked once a run", "asked each turn", "with instructions"],
)
def test_half_a_run_goes_on_where_it_stopped(tmp_path: Path, files: Files, options: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, reader(sizing(die_at=2), files.offered(**options)))
    assert files.took() == ["started", "size ", "size a"]
    answer, came = run(tmp_path, reader(sizing(), files.offered(**options)))
    assert (answer.output, files.took()) == ("measured", ["started", "size aa", "size aaa"])
    assert came.count("tool") == 3
    files.path.unlink()
    passed, _ = run(tmp_path, reader(sizing(die_at=0), files.offered(**options)))
    walked, _ = run(tmp_path, reader(sizing(die_at=0), files.offered(**options)), walk=True)
    assert_same(passed, walked)


def _forget(folder: Path, kind: str, *, place: int = 0) -> None:
    with session("test", folder=folder) as opened:
        trace = opened.trace(opened.runs()[0].id)
        found = [event for event in trace if isinstance(event, Step) and event.kind == kind]
        opened.forget(step=found[place].id)


def test_asked_anew_and_the_same_it_is_passed_over(tmp_path: Path, files: Files) -> None:
    run(tmp_path, reader(sizing(), files.offered()))
    _forget(tmp_path, "discovery")
    files.took()
    answer, came = run(tmp_path, reader(sizing(die_at=0), files.offered()))
    assert (answer.output, came, files.took()) == ("measured", ["discovery", "model"], ["started"])


def test_another_schema_is_another_question(tmp_path: Path, files: Files) -> None:
    run(tmp_path, reader(sizing(), files.offered()))
    _forget(tmp_path, "discovery")
    files.took()
    files.write(SERVER.replace("The size of a file.", "The size of a file in bytes."))
    answer, came = run(tmp_path, reader(sizing(), files.offered()))
    assert came.count("model") == TURNS + 1
    assert not any(step.replayed for step in steps(answer) if step.kind == "model")
    with session("test", folder=tmp_path) as opened:
        reasons = [reason for reason in explain(opened.store, answer.run.id) if reason.step.kind == "model"]
    assert [change.part for change in reasons[0].changes] == ["tools"]
    assert "in bytes" in reasons[0].changes[0].new


def test_other_tools_in_the_middle_are_met_by_walking(tmp_path: Path, files: Files) -> None:
    """What is offered is asked each turn, and what one turn said is not on record any more."""
    run(tmp_path, reader(sizing(), files.offered(cache_tools=False)))
    _forget(tmp_path, "discovery", place=2)
    files.took()
    files.write(SERVER.replace("The size of a file.", "The size of a file in bytes."))
    answer, _ = run(tmp_path, reader(sizing(), files.offered(cache_tools=False)))
    replayed = [step.replayed for step in steps(answer) if step.kind == "model"]
    # That turn is asked anew with what is offered now; its reply is the same, and what followed is on record.
    assert replayed == [True, True, False, True, True]
    assert files.took() == ["started"]
    passed, came = run(tmp_path, reader(sizing(die_at=0), files.offered(cache_tools=False)))
    # Up to there, and from there on: the server says that it offers something else in between.
    assert came == ["discovery", "model", "tool", "discovery", "model", "tool", "discovery", "model"]
    walked, _ = run(tmp_path, reader(sizing(die_at=0), files.offered(cache_tools=False)), walk=True)
    assert_same(passed, walked)


@pytest.mark.parametrize("each_turn", [True, False], ids=["no longer each turn", "each turn now"])
def test_how_often_it_is_asked_may_change(tmp_path: Path, files: Files, each_turn: bool) -> None:
    run(tmp_path, reader(sizing(), files.offered(cache_tools=not each_turn)))
    shutil.copytree(tmp_path / ".agentkit", tmp_path / "walked" / ".agentkit")
    passed, _ = run(tmp_path, reader(sizing(die_at=0), files.offered(cache_tools=each_turn)))
    walked, _ = run(tmp_path / "walked", reader(sizing(die_at=0), files.offered(cache_tools=each_turn)), walk=True)
    assert seen(passed) == seen(walked)
    assert said(passed) == said(walked)


def test_other_hints_are_met_by_walking(tmp_path: Path, files: Files) -> None:
    """They are no part of the question put to the model, but they say what may happen to a call."""
    run(tmp_path, reader(sizing(), files.offered()))
    _forget(tmp_path, "discovery")
    files.write(SERVER.replace("readOnlyHint=True", "destructiveHint=True"))
    files.took()
    answer, came = run(tmp_path, reader(sizing(die_at=0), files.offered()))
    assert (answer.output, files.took()) == ("measured", ["started"])
    assert came.count("tool") == TURNS


# -- another process


@contextmanager
def _listening(files: Files) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [*files.command, str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def _process(folder: Path, url: str, *, die_at: int = -1) -> tuple[int, list[str]]:
    command = [sys.executable, "-c", PROCESS, str(folder), url, str(die_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout.split()


def test_a_killed_process_and_a_server_that_is_gone(tmp_path: Path, files: Files) -> None:
    with _listening(files) as url:
        assert _process(tmp_path, url, die_at=3) == (-9, [])
        code, said = _process(tmp_path, url)
        assert (code, said[0], said.count("tool")) == (0, "measured", 2)
    assert files.took() == ["started", *(f"size {'a' * n}" for n in range(TURNS))]
    assert _process(tmp_path, url, die_at=0) == (0, ["measured", "discovery", "model"])
