"""What a conversation did to the files that it reads, and what is told apart by content."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.events import Step
from agentkit.testing import Call, ScriptedModel
from agentkit.tools import inputs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@agentkit.tool(effects="none")
def names() -> list[str]:
    """The files there are."""
    return sorted(os.listdir("out"))


@agentkit.tool(effects="idempotent")
def write(name: str) -> str:
    """Write a file."""
    Path("out", name).write_text(name)
    return name


async def live() -> list[str]:
    model: Any = ScriptedModel(
        [Call("names"), Call("write", {"name": "b"}), Call("names"), Call("write", {"name": "c"}), "done"]
    )
    with agentkit.session("inputs"):
        agent = agentkit.build(agentkit.Spec(), name="lister", tools=[names, write], model=model)
        found = await agentkit.ask(agent, "go")
    return [event.name for event in found.events() if isinstance(event, Step) and not event.replayed]


def test_a_folder_that_the_conversation_itself_fills_is_as_it_was(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a").write_text("")
    assert len(asyncio.run(live())) == 9
    assert asyncio.run(live()) == []
    (folder / "out" / "by somebody else").write_text("")
    assert "names" in asyncio.run(live())


def test_a_file_that_kept_its_times_is_told_by_its_content(folder: Path) -> None:
    file = folder / "data"
    file.write_text("1")
    before = inputs.state_of(str(file))
    times = file.stat()
    file.write_text("2")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not inputs.is_same(before, inputs.read_now(before))
    file.write_text("1")
    assert inputs.is_same(before, inputs.read_now(before))


@pytest.mark.parametrize(
    ("path", "outside"),
    [
        ("/usr/src/app/data.csv", True),
        ("/library/data.csv", True),
        ("/run/media/me/data.csv", True),
        ("/usr/share/zoneinfo/UTC", False),
        ("/lib/x.so", False),
        ("/etc/hosts", False),
    ],
)
def test_what_belongs_to_the_system(path: str, outside: bool) -> None:
    assert inputs._is_outside_from(path, "/work") is outside
    assert inputs._is_outside_from(path, os.path.dirname(path)) is True
