"""A pytest plugin that adopts every agent of a suite that knows nothing of agentkit, and replays each of its runs.

`pytest -p adoption FOLDER`: a test passes when it passes with all agents adopted, and every run that ended
in it gives the same answer and the same conversation from the record, without a live step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_core import to_jsonable_python

from agentkit.agent.agent import AdoptedAgent, DurableAgent
from agentkit.journal.execution import Execution
from agentkit.runtime.session import Session, session, surround, surroundings

KNOWN = Path(__file__).parent / "known.txt"


@dataclass(frozen=True)
class Ran:
    """A run of a test: how it was begun, with which overrides in force, and how it ended."""

    how: str
    agent: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context
    output: Any
    messages: Any


@dataclass
class Recorder:
    """The test under way: the session its runs are journaled in, and those that ended."""

    session: Session
    runs: list[Ran] = field(default_factory=list)


# Not a context variable: an async test runs in the context of its fixtures.
_tests: list[Recorder] = []
_adopting: ContextVar[frozenset[int]] = ContextVar("adopting", default=frozenset())
_run, _run_stream, _iter = Agent.run, Agent.run_stream, Agent.iter


def known() -> dict[str, str]:
    """The tests that may differ, as patterns of their ids, and why."""
    lines = [line.partition("#") for line in KNOWN.read_text(encoding="utf-8").splitlines()]
    return {pattern.strip(): why.strip() for pattern, _, why in lines if pattern.strip()}


def _plain(agent: Any) -> bool:
    return isinstance(agent, DurableAgent) or id(agent) in _adopting.get() or not _tests


def _said(messages: Any) -> Any:
    """A conversation without its clocks, ids and costs."""
    dropped = {"timestamp", "run_id", "conversation_id", "tool_call_id", "usage", "metadata", "instructions", "state"}

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(item) for name, item in value.items() if name not in dropped}
        return [without(item) for item in value] if isinstance(value, list) else value

    return without(to_jsonable_python(messages, fallback=repr))


@contextmanager
def _inside(agent: Any) -> Iterator[AdoptedAgent]:
    """The agent adopted, in the session of the test, its equal requests counted from 0."""
    tokens = (
        _adopting.set(_adopting.get() | {id(agent)}),
        surround(session=_tests[-1].session, execution=Execution()),
    )
    try:
        yield AdoptedAgent(agent)
    finally:
        _adopting.reset(tokens[0])
        surroundings.reset(tokens[1])


async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
    if _plain(self):
        return await _run(self, *args, **kwargs)
    with _inside(self) as adopted:
        result = await adopted.run(*args, **kwargs)
    said = _said(result.all_messages())
    _tests[-1].runs.append(Ran("run", self, args, kwargs, copy_context(), result.output, said))
    return result


@asynccontextmanager
async def run_stream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    if _plain(self):
        async with _run_stream(self, *args, **kwargs) as result:
            yield result
        return
    with _inside(self) as adopted:
        async with adopted.run_stream(*args, **kwargs) as result:
            yield result
            if result.is_complete and not result.cancelled:
                output, said = await result.get_output(), _said(result.all_messages())
                _tests[-1].runs.append(Ran("run_stream", self, args, kwargs, copy_context(), output, said))


@asynccontextmanager
async def iterate(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    if _plain(self):
        async with _iter(self, *args, **kwargs) as nodes:
            yield nodes
        return
    with _inside(self) as adopted:
        async with adopted.iter(*args, **kwargs) as nodes:
            yield nodes


async def replayed(ran: Ran) -> tuple[Any, Any]:
    """The answer and the conversation of a run, from the record alone."""
    surround(execution=Execution())
    of_once = ("usage", "event_stream_handler", "cancellation_token")
    kwargs = {name: value for name, value in ran.kwargs.items() if name not in of_once}
    adopted = AdoptedAgent(ran.agent)
    if ran.how == "run":
        result = await adopted.run(*ran.args, **kwargs)
        return result.output, _said(result.all_messages())
    async with adopted.run_stream(*ran.args, **kwargs) as streamed:
        return await streamed.get_output(), _said(streamed.all_messages())


def in_a_new_session(folder: Path, ran: Ran) -> tuple[Any, Any]:
    with session("replay", folder=folder, mode="replay"):
        return asyncio.run(replayed(ran))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    folder = item.config._tmp_path_factory.mktemp("adopted")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "run", run)
        patch.setattr(Agent, "run_stream", run_stream)
        patch.setattr(Agent, "iter", iterate)
        with session("live", folder=folder) as opened:
            _tests.append(recorder := Recorder(opened))
            try:
                yield
            finally:
                _tests.clear()
    for ran in recorder.runs:
        found = ran.context.run(in_a_new_session, folder, ran)
        assert found == (ran.output, ran.messages), f"{ran.how} of {ran.agent!r:.60} is another one when replayed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call" and report.failed:
        for pattern, why in known().items():
            if fnmatchcase(item.nodeid, pattern):
                report.outcome, report.wasxfail = "skipped", why
    return report
