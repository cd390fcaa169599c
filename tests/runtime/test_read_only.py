"""A project that cannot be written: what is on record is replayed, and nothing is performed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import JournalError, JournalReadOnly
from agentkit.runtime.session import session

asked: list[str] = []


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    asked.append("model")
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("add", {"a": 1, "b": 2})])
    return ModelResponse(parts=[TextPart("three")])


def add(a: int, b: int) -> int:
    asked.append("tool")
    return a + b


def built(limits: str = "20 requests, 60k tpm") -> DurableAgent:
    model = FunctionModel(answer, model_name="scripted")
    return build(Spec(instructions="Add."), name="adder", model=model, tools=[add], budget=limits)


@contextmanager
def unwritable(*folders: Path) -> Iterator[None]:
    """Root may write anywhere: be nobody for a while, in folders that are closed to writing."""
    for folder in folders:
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.geteuid() and parent not in (Path("/"), Path("/tmp")):
                parent.chmod(parent.stat().st_mode | 0o055)
        for file in (folder, *folder.rglob("*")):
            file.chmod(0o555 if file.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            for file in (folder, *folder.rglob("*")):
                file.chmod(0o700 if file.is_dir() else 0o600)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one recorded run, and the user's own folder for state (budgets, health) beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    asked.clear()
    with session("notes", folder=tmp_path / "project"):
        assert asyncio.run(ask(built(), "go")).output == "three"
    assert asked == ["model", "tool", "model"]
    asked.clear()
    return tmp_path / "project"


@pytest.mark.parametrize("folders", [["project"], ["project", "state"]], ids=["project", "project and home"])
def test_what_is_on_record_is_replayed_without_a_write(project: Path, folders: list[str]) -> None:
    with unwritable(*(project.parent / name for name in folders)), session("notes", folder=project) as opened:
        assert asyncio.run(ask(built(), "go")).output == "three"
        assert asked == []
        assert opened.mode == "auto" and "cannot be written" in opened.remarks[0]


def test_a_live_step_is_refused_before_it_is_made(project: Path) -> None:
    with unwritable(project), session("notes", folder=project), pytest.raises(JournalReadOnly, match="no live call"):
        asyncio.run(ask(built(), "something new"))
    assert asked == []


def test_a_limit_that_cannot_be_kept_lets_replays_pass_and_no_live_call(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all not a live call without its limit, where the ledger was never made."""
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(project / ".agentkit" / "journal.db" / "budgets.db"))
    with session("notes", folder=project):
        agent = built("2 requests")
        assert asyncio.run(ask(agent, "go")).output == "three"
        with pytest.raises(JournalError, match="budgets cannot be read or written"):
            asyncio.run(ask(agent, "something new"))
    assert asked == []


def test_live_is_refused_at_once(project: Path) -> None:
    opened = session("notes", folder=project, mode="live")
    with unwritable(project), pytest.raises(JournalReadOnly):
        _ = opened.store
