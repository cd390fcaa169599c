"""What a tool reads from outside, and when its record still holds: folders, own files, effects, replay mode."""

from __future__ import annotations

import asyncio
import glob
import importlib.metadata
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ToolReturnPart

from agentkit.errors import InDoubt, ReplayMiss
from agentkit.events import Event, Mode, Step
from agentkit.journal.portable import attach, export
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from agentkit.tools.declaration import tool
from agentkit.tools.inputs import Recorder, folder, is_cheap_pattern, is_same, read_now, recording
from agentkit.trace.explain import summarize
from tests.runtime.test_replay import calculator


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1")
    return tmp_path


def heard(read: Callable[[], Any]) -> list[str]:
    """What is kept of what `read` reads."""
    with recording(Recorder()) as recorder:
        read()
    concluded = recorder.conclude()
    assert concluded["unseen"] == []
    return [each.get("path") or each.get("folder") or each.get("files") for each in concluded["inputs"]]


def temporary() -> None:
    with tempfile.TemporaryDirectory() as made:
        Path(made, "x").touch()
        os.listdir(made)
        glob.glob(f"{made}/*")
    os.listdir(tempfile.gettempdir())


def removing() -> None:
    shutil.copytree("data", "copy")
    shutil.rmtree("copy")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda: os.listdir(Path(pytest.__file__).parent), []),
        (lambda: list(Path(os.__file__).parent.glob("*.py")), []),
        (lambda: [list(each.files or ()) for each in importlib.metadata.distributions() if each.name == "pip"], []),
        (lambda: list(pkgutil.iter_modules()), []),
        (lambda: os.listdir("/etc"), []),
        (temporary, []),
        (removing, ["data/a.csv", "data"]),
        (lambda: os.listdir("data"), ["data"]),
        (lambda: os.listdir(os.open("data", os.O_RDONLY)), ["data"]),
        (lambda: glob.glob("data/*.csv"), ["data/*.csv"]),
        (lambda: list(Path("data").glob("*.csv")), ["data/*.csv"]),
    ],
    ids=[
        "library",
        "python",
        "metadata",
        "pkgutil",
        "system",
        "temporary",
        "removing",
        "folder",
        "number",
        "glob",
        "Path",
    ],
)
def test_only_what_a_tool_lists_of_its_own_counts(here: Path, read: Callable[[], Any], expected: list[str]) -> None:
    assert [each.removeprefix(f"{here}/") for each in heard(read)] == expected


@pytest.mark.parametrize(
    "passing", [".ipynb_checkpoints", ".agentkit", "__pycache__", "a.db-wal", "a.db-journal", "sales.ipynb.agentkit"]
)
def test_what_comes_and_goes_by_itself_is_no_change(passing: str) -> None:
    before = folder("data")
    Path("data", passing).touch()
    assert is_same(before, read_now(before))
    Path("data", "b.csv").touch()
    assert not is_same(before, read_now(before))


def test_what_comes_into_a_folder_while_a_tool_runs_is_named() -> None:
    with recording(Recorder()) as recorder:
        os.listdir("data")
        Path("data", "own.csv").touch()
        os.spawnlp(os.P_WAIT, "touch", "touch", "data/foreign.csv")
    (unseen,) = recorder.conclude()["unseen"]
    assert "foreign.csv" in unseen
    assert "own.csv" not in unseen


# ---- a record holds


@tool(effects="none")
def names() -> list[str]:
    """The names in the folder."""
    return sorted(os.listdir("data"))


@tool(effects="none")
def write(name: str) -> str:
    """Write a file."""
    Path("data", name).write_text("written")
    return "written"


@tool(effects="none")
def read(name: str) -> str:
    """Read a file."""
    return Path("data", name).read_text()


@tool(effects="once")
def send(name: str) -> str:
    """Send a file."""
    return f"sent {Path('data', name).read_text()}"


@tool(effects="none")
def region() -> str:
    """The region."""
    return os.environ.get("REGION", "")


TOOLS = (names, write, read, send, region)


def perform(place: Path, *calls: Call, mode: Mode = "auto", prompt: str = "go") -> list[Step]:
    """Each step of a run in which the model makes these calls, one after the other, as it was shown."""

    def reply(messages: list[ModelMessage]) -> Call | str:
        returned = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
        return calls[returned] if returned < len(calls) else "done"

    shown: list[Event] = []
    with session("test", folder=place, mode=mode) as opened:
        opened.listen(shown.append)
        asyncio.run(calculator(ScriptedModel.by(reply), *TOOLS).run(prompt))
    return [event for event in shown if isinstance(event, Step) and event.status == "done"]


def live(steps: list[Step]) -> list[str]:
    return [step.name for step in steps if step.kind == "tool" and not step.replayed]


def reasons(place: Path, steps: list[Step]) -> str:
    with session("test", folder=place) as opened:
        return "\n".join(summarize(opened.store, steps[0].run))


def test_a_new_file_in_a_listed_folder_makes_the_tool_live_and_why_names_it(here: Path) -> None:
    perform(here, Call("names"))
    Path("data", "b.csv").touch()
    again = perform(here, Call("names"))
    assert live(again) == ["names"]
    assert "data/ was 1 name and is 2 names (with b.csv)" in reasons(here, again)
    assert live(perform(here, Call("names"))) == []


def test_a_replayed_step_costs_a_look_at_each_input_and_nothing_is_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = (Call("names"), Call("read", {"name": "a.csv"}))
    # So long ago that its own time says that nothing came since.
    os.utime("data", (1, 1))
    perform(here, *calls)
    looked: list[str] = []
    look = os.stat

    def watched(path: Any, *args: Any, **options: Any) -> os.stat_result:
        looked.append(os.path.basename(str(path)))
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", watched)
    listed: list[str] = []
    names_in = os.listdir

    def listing(path: Any = ".") -> list[str]:
        listed.append(os.path.basename(path))
        return names_in(path)

    monkeypatch.setattr(os, "listdir", listing)
    assert live(perform(here, *calls)) == []
    assert [looked.count(name) for name in ("data", "a.csv")] == [1, 1]
    assert "data" not in listed


@pytest.mark.parametrize(
    "calls",
    [
        (Call("read", {"name": "a.csv"}), Call("write", {"name": "a.csv"})),
        (Call("names"), Call("write", {"name": "b.csv"})),
        (Call("write", {"name": "a.csv"}), Call("read", {"name": "a.csv"}), Call("write", {"name": "a.csv"})),
    ],
)
def test_what_the_conversation_wrote_itself_is_no_change(here: Path, calls: tuple[Call, ...]) -> None:
    assert len(live(perform(here, *calls))) == len(calls)
    assert live(perform(here, *calls)) == []


def test_what_another_conversation_wrote_is_a_change(here: Path) -> None:
    perform(here, Call("names"))
    perform(here, Call("write", {"name": "b.csv"}), prompt="another")
    assert live(perform(here, Call("names"))) == ["names"]


def test_a_tool_that_may_act_once_is_not_repeated_unasked_for_a_changed_file(here: Path) -> None:
    perform(here, Call("send", {"name": "a.csv"}))
    Path("data", "a.csv").write_text("22")
    with pytest.raises(InDoubt, match=r"data/a\.csv has changed \(1 → 2 bytes\)") as asked:
        perform(here, Call("send", {"name": "a.csv"}))
    with session("test", folder=here) as opened:
        opened.settle(asked.value.step, "result", "sent as it was")
    assert live(perform(here, Call("send", {"name": "a.csv"}))) == []


def test_a_tool_that_may_act_once_is_repeated_when_a_person_says_so(here: Path) -> None:
    perform(here, Call("send", {"name": "a.csv"}))
    Path("data", "a.csv").write_text("22")
    with pytest.raises(InDoubt) as asked:
        perform(here, Call("send", {"name": "a.csv"}))
    with session("test", folder=here) as opened:
        opened.settle(asked.value.step, "redo")
    assert live(perform(here, Call("send", {"name": "a.csv"}))) == ["send"]
    assert live(perform(here, Call("send", {"name": "a.csv"}))) == []


def test_replay_mode_says_what_is_not_here_and_replays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (Call("names"), Call("read", {"name": "a.csv"}), Call("region"))
    monkeypatch.setenv("REGION", "north")
    perform(here, *calls)
    monkeypatch.delenv("REGION")
    shutil.rmtree("data")
    steps = [step for step in perform(here, *calls, mode="replay") if step.kind == "tool"]
    assert live(steps) == []
    assert [step.unchecked for step in steps] == [
        ("data/, which is not here",),
        ("data/a.csv, which is not here",),
        ("env:REGION, which is not here",),
    ]
    assert reasons(here, steps).count("which is not here") == 3


@pytest.mark.parametrize(
    ("call", "named"),
    [(Call("names"), "data/ had 1 name and has 2 .with b.csv."), (Call("read", {"name": "a.csv"}), "data/a.csv has")],
)
def test_replay_mode_names_what_has_changed(here: Path, call: Call, named: str) -> None:
    perform(here, call)
    Path("data", "a.csv").write_text("22")
    Path("data", "b.csv").touch()
    with pytest.raises(ReplayMiss, match=named):
        perform(here, call, mode="replay")


def taken_along(here: Path, *calls: Call) -> Path:
    """The folder of somebody who got the portable file of a run and nothing else."""
    run = perform(here, *calls)[0].run
    there = here / "there"
    there.mkdir()
    with session("test", folder=here) as opened:
        export(opened.store, [run], here / "kept.agentkit", lambda text: text)
    with session("test", folder=there) as opened:
        attach(here / "kept.agentkit", opened.store)
    return there


def test_a_portable_file_says_what_is_not_here_and_replays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (Call("names"), Call("read", {"name": "a.csv"}))
    there = taken_along(here, *calls)
    monkeypatch.chdir(there)
    steps = [step for step in perform(there, *calls, mode="replay") if step.kind == "tool"]
    assert [step.unchecked for step in steps] == [
        ("data/, which is not here",),
        ("data/a.csv, which is not here",),
    ]


def test_a_portable_file_replays_where_its_inputs_are_as_they_were(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (Call("names"), Call("read", {"name": "a.csv"}))
    there = taken_along(here, *calls)
    # Copied: of another time, with the same content.
    shutil.copytree("data", there / "data", copy_function=shutil.copyfile)
    monkeypatch.chdir(there)
    steps = perform(there, *calls, mode="replay")
    assert live(steps) == []
    assert [step.unchecked for step in steps] == [()] * 5


def test_a_portable_file_does_not_answer_for_another_input(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = taken_along(here, Call("read", {"name": "a.csv"}))
    shutil.copytree("data", there / "data")
    (there / "data" / "a.csv").write_text("2")
    monkeypatch.chdir(there)
    with pytest.raises(ReplayMiss, match=r"data/a\.csv has changed"):
        perform(there, Call("read", {"name": "a.csv"}), mode="replay")


def test_a_pattern_of_a_received_file_is_not_looked_for_over_the_whole_disk() -> None:
    assert is_cheap_pattern("data/*.csv")
    assert is_cheap_pattern("data/*/*.csv")
    for pattern in ("/**", "**/*.csv", "../*", "/etc/*", "*/*/*"):
        assert not is_cheap_pattern(pattern)
