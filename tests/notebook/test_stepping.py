"""The stepping verbs in a real kernel: moves, edits, forks, breakpoints, and the same pause again after a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.kernels import Cell, Kernel, kernel

SETUP = """
%load_ext agentkit
import agentkit
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ToolReturnPart, UserPromptPart

@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    "Add two numbers."
    with open("performed", "a") as file: print("add", a, b, file=file)
    return a + b

def talk(messages):
    with open("performed", "a") as file: print("model", len(messages), file=file)
    results = [part.content for m in messages for part in m.parts if isinstance(part, ToolReturnPart)]
    asked = [part.content for m in messages for part in m.parts if isinstance(part, UserPromptPart)]
    return f"{asked[-1]} {results[-1]}" if results else Call("add", {"a": 1, "b": 2})

scripted = ScriptedModel.by(talk, cost=0.25)
"""
BUILD = "%%agent build calc --model scripted --tools add\nCount."
STEP = "%%agent step calc --as total\nhow many?"


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as running:
        assert running.run(SETUP).status == "ok"
        assert running.run(BUILD).status == "ok"
        yield running


def again(notebook: Kernel) -> None:
    notebook.restart()
    assert notebook.run(SETUP).status == "ok"
    assert notebook.run(BUILD).status == "ok"


def performed(tmp_path: Path) -> list[str]:
    file = tmp_path / "performed"
    return file.read_text().splitlines() if file.exists() else []


def pause(cell: Cell) -> str:
    """The step that the cell shows a run to be paused before, and whether it is free."""
    assert cell.status == "ok", cell.traceback
    (panel,) = cell.panels
    shown = panel["metadata"]["agentkit"]["pending"]
    return f"{shown['step']} {shown['kind']}{' free' if shown['free'] else ''}"


def test_cell_by_cell_and_from_the_top_after_a_restart(notebook: Kernel, tmp_path: Path) -> None:
    def cells() -> list[str]:
        told = [pause(notebook.run(STEP, cell="s"))]
        told += [pause(notebook.run("%agent next", cell=f"n{number}")) for number in (1, 2)]
        told += [pause(notebook.run("%%agent edit --last\n40", cell="e"))]
        return told

    assert cells() == ["1 model", "2 tool", "3 model", "3 model"]
    before = performed(tmp_path)
    assert before == ["model 1", "add 1 2"]
    again(notebook)
    assert cells() == ["1 model free", "2 tool free", "3 model", "3 model"]
    assert performed(tmp_path) == before
    done = notebook.run("%agent continue", cell="c")
    assert done.of("text/markdown") == ["how many? 40"]
    assert notebook.value("total") == "'how many? 40'"
    again(notebook)
    assert cells()[-1] == "3 model free"
    assert notebook.run("%agent continue", cell="c").of("text/markdown") == ["how many? 40"]
    assert performed(tmp_path) == [*before, "model 3"]
    # The branch that was left is there, and a plain run has never heard of the edit.
    assert notebook.run("%%agent run calc\nhow many?").of("text/markdown") == ["how many? 3"]


def test_one_cell_pressed_several_times_comes_to_the_same_pause_at_once(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run(STEP, cell="s")
    assert [pause(notebook.run("%agent next", cell="n")) for _ in range(2)] == ["2 tool", "3 model"]
    before = performed(tmp_path)
    again(notebook)
    notebook.run(STEP, cell="s")
    assert pause(notebook.run("%agent next", cell="n")) == "3 model"
    assert performed(tmp_path) == before
    # Pressed once more it is a new move, which may go live.
    assert notebook.run("%agent next", cell="n").of("text/markdown") == ["how many? 3"]


def test_a_cell_that_is_run_again_never_goes_live(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run(STEP, cell="s")
    notebook.run("%agent next", cell="n")
    before = performed(tmp_path)
    notebook.run("%%agent step calc\nhow few?", cell="s")
    held = notebook.run("%agent next", cell="n")
    assert pause(held) == "1 model"
    assert "run it once more to perform the step" in held.panels[0]["data"]["text/plain"]
    assert performed(tmp_path) == before
    assert pause(notebook.run("%agent next", cell="n")) == "2 tool"


def test_cells_without_an_id_are_told_apart_by_their_order(notebook: Kernel, tmp_path: Path) -> None:
    def cells() -> list[str]:
        return [pause(notebook.run(code)) for code in (STEP, "%agent next", "%agent next", "%agent back 2")]

    assert cells() == ["1 model", "2 tool", "3 model", "1 model free"]
    before = performed(tmp_path)
    again(notebook)
    assert cells() == ["1 model free", "2 tool free", "3 model", "1 model free"]
    assert performed(tmp_path) == before


def test_pauses_inside_a_sub_agent_are_the_same_after_a_restart(notebook: Kernel, tmp_path: Path) -> None:
    def cells(*moves: str) -> list[str]:
        for code in (LEADS, "%%agent build lead --model leading --tools calc\nLead."):
            assert notebook.run(code).status == "ok"
        told = [pause(notebook.run("%%agent step lead\nstart", cell="s"))]
        return told + [pause(notebook.run(f"%agent {move}", cell=f"n{number}")) for number, move in enumerate(moves)]

    assert cells("next", "next --in", "next") == ["1 model", "2 tool", "2.1 model", "2.2 tool"]
    before = performed(tmp_path)
    again(notebook)
    # The agent inside had not finished: going in again costs nothing.
    assert cells("next", "next --in", "next") == ["1 model free", "2 tool", "2.1 model free", "2.2 tool"]
    assert performed(tmp_path) == before
    assert pause(notebook.run("%agent next --out", cell="n3")) == "3 model"
    assert pause(notebook.run("%agent back", cell="n4")) == "2.2 tool free"
    assert pause(notebook.run("%agent goto 2.1", cell="n5")) == "2.1 model free"
    before = performed(tmp_path)
    again(notebook)
    # Now it has.
    assert cells("next", "next --in", "next", "next --out", "back", "goto 2.1") == [
        *("1 model free", "2 tool free", "2.1 model free", "2.2 tool free", "3 model"),
        *("2.2 tool free", "2.1 model free"),
    ]
    assert performed(tmp_path) == before
    forked = notebook.run("%agent fork lead 2.2 --result 40 --as other")
    assert pause(forked) == "2.2 tool free"
    assert notebook.run("%agent continue other").of("text/markdown") == ["I heard: go 40"]
    assert notebook.run("%agent continue lead").of("text/markdown") == ["I heard: go 3"]
    # What was changed inside the call belongs to the branch alone.
    assert notebook.run("%%agent run lead\nstart").of("text/markdown") == ["I heard: go 3"]


LEADS = """
def lead_talk(messages):
    last = messages[-1].parts[-1]
    return f"I heard: {last.content}" if isinstance(last, ToolReturnPart) else Call("calc", {"prompt": "go"})

leading = ScriptedModel.by(lead_talk, model_name="leading")
"""
HANDED = """
async def delegate(prompt: str) -> str:
    "Hand it on."
    with open("performed", "a") as file: print("delegate", file=file)
    return (await calc.run(prompt)).output

def hand(messages):
    done = isinstance(messages[-1].parts[-1], ToolReturnPart)
    return "done" if done else Call("delegate", {"prompt": "go"})

handing = ScriptedModel.by(hand)
"""


def test_a_pause_inside_a_tool_written_by_hand_survives_a_restart(notebook: Kernel, tmp_path: Path) -> None:
    def cells() -> list[str]:
        for code in (HANDED, "%%agent build lead --model handing --tools delegate\nLead."):
            assert notebook.run(code).status == "ok"
        told = [pause(notebook.run("%%agent step lead\nstart", cell="s"))]
        return told + [pause(notebook.run(f"%agent next{how}", cell=f"n{how}")) for how in ("", " --in", " 1")]

    assert cells() == ["1 model", "2 tool", "2.1 model", "2.2 tool"]
    again(notebook)
    # Nobody declared what the tool does, so to begin it again is for a person to say; what is in it is recorded.
    assert cells() == ["1 model free", "2 tool", "2 tool", "2 tool"]
    before = performed(tmp_path)
    assert pause(notebook.run("%agent next --in")) == "2.1 model free"
    assert pause(notebook.run("%agent next")) == "2.2 tool"
    assert performed(tmp_path) == [*before, "delegate"]
    assert notebook.run("%agent continue").of("text/markdown") == ["done"]


def test_the_pending_step_is_shown_in_full_with_its_price(notebook: Kernel) -> None:
    shown = notebook.run(STEP).panels[0]["data"]
    assert "would be live: about $0.250" in shown["text/plain"] and "to the model: how many?" in shown["text/plain"]
    assert "Count." in shown["text/html"] and "tools offered" in shown["text/html"]
    assert "<script" not in shown["text/html"] and "◇ paused before step 1" in shown["text/html"]
    shown = notebook.run("%agent next").panels[0]["data"]
    assert '"a": 1' in shown["text/plain"] and "1 live model" in shown["text/plain"]


def test_a_hostile_argument_is_text(notebook: Kernel) -> None:
    notebook.run(STEP)
    notebook.run("%agent next")
    hostile = "<img src=x onerror=alert(1)>\\u202e" + "x" * 100_000
    shown = notebook.run(f'%%agent edit --result\n"{hostile}"')
    assert pause(shown) == "2 tool free"
    after = notebook.run("%agent next").panels[0]["data"]
    assert "<img" not in after["text/html"] and "‮" not in after["text/html"]
    assert "more characters" in after["text/html"] and len(after["text/html"]) < 30_000


def test_a_secret_is_neither_shown_nor_written(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run("import os\nos.environ['SHOP_API_KEY'] = 'sesame-open-12345'")
    again(notebook)
    notebook.run("import os\nos.environ['SHOP_API_KEY'] = 'sesame-open-12345'")
    shown = notebook.run("%%agent step calc\nuse sesame-open-12345")
    assert pause(shown) == "1 model" and "use <secret:SHOP_API_KEY>" in shown.panels[0]["data"]["text/plain"]
    notebook.run("%agent next")
    notebook.run("%%agent edit --result\n<secret:SHOP_API_KEY>")
    done = notebook.run("%agent continue")
    assert done.of("text/markdown") == ["use sesame-open-12345 sesame-open-12345"]
    files = [file.read_bytes() for file in (tmp_path / ".agentkit").rglob("*") if file.is_file()]
    assert files and not any(b"sesame" in file for file in files)


def test_fork_and_diff(notebook: Kernel) -> None:
    notebook.run(STEP)
    notebook.run("%agent continue")
    forked = notebook.run('%agent fork calc 2 --as other --arguments {"a": 5, "b": 5}')
    assert pause(forked) == "2 tool"
    assert "from step 2 on 2 steps may be live, before: $0.25" in forked.panels[0]["data"]["text/plain"]
    assert notebook.run("%agent continue other").of("text/markdown") == ["how many? 10"]
    compared = notebook.run("lined = %agent diff calc other")
    assert compared.status == "ok"
    assert notebook.value("list(lined.verdict), list(lined.changed)") == repr(
        (["same", "changed", "changed"], ["", "arguments, result", "asked, reply"])
    )
    shown = notebook.run("%agent diff calc other")
    assert "1 same, 2 changed" in shown.of("text/plain")[0]


def test_breakpoints_hold_for_stepped_and_plain_runs(notebook: Kernel, tmp_path: Path) -> None:
    assert "tool=add" in notebook.run("%agent break tool=add").text
    paused = notebook.run("(await calc.run('plain')).output", cell="p")
    assert paused.ename == "RunPaused" and "%agent next performs it" in str(paused.error)
    assert performed(tmp_path) == ["model 1"]
    assert pause(notebook.run("%agent next", cell="n")) == "3 model"
    assert notebook.run("(await calc.run('plain')).output", cell="p").result == "'plain 3'"
    assert performed(tmp_path) == ["model 1", "add 1 2", "model 3"]
    notebook.run(STEP)
    stopped = notebook.run("%agent continue")
    assert pause(stopped) == "2 tool"
    assert "breakpoint tool=add" in stopped.panels[0]["data"]["text/plain"]
    assert notebook.run("%agent break off").text == "no breakpoints\n"
    assert notebook.run("%agent continue").of("text/markdown") == ["how many? 3"]


def test_stop_during_a_step_keeps_the_pause(notebook: Kernel) -> None:
    notebook.run("import asyncio\nasync def slow(messages): await asyncio.sleep(20)")
    notebook.run("waits = [True]")
    notebook.run(
        "async def answer(messages):\n    if waits.pop():\n        await asyncio.sleep(20)\n    return talk(messages)\n"
        "sleepy = ScriptedModel.by(answer)"
    )
    notebook.run("waits[:] = [False, False, True]")
    notebook.run("%%agent build sleeper --model sleepy --tools add\nCount.")
    notebook.run("%%agent step sleeper\nhow many?", cell="s")
    stopped = notebook.run("%agent next", cell="n", stop_after=1.0)
    assert stopped.ename == "Interrupted" and stopped.seconds < 4
    assert pause(notebook.run("%agent next", cell="n")) == "2 tool"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("%agent next", "no run is being stepped: run its %%agent step cell first"),
        ("%%agent step nobody\nhello", "nobody"),
        ("%%agent step calc\n ", "the body is empty"),
        ("%%agent step calc --at turn\nhello", "--at turn: one of model, tool, all"),
        ("%agent fork calc 1", "no run or agent calc is recorded"),
        ("%agent diff a b", "no run or agent a is recorded"),
        ("%agent break line=3", "is no place to pause"),
        ("%agent goto x", "x is not a step"),
        ('%agent break when "money > 1"', "unknown money"),
    ],
)
def test_what_cannot_be_done_is_one_line(one_line: Kernel, code: str, said: str) -> None:
    told = one_line.run(code)
    assert told.status == "error"
    assert said in str(told.error)
    assert told.traceback.count("\n") == 0


@pytest.fixture(scope="module")
def one_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("lines")) as running:
        assert running.run(SETUP).status == "ok"
        assert running.run(BUILD).status == "ok"
        yield running


def test_what_a_stepped_run_cannot_do_says_what_it_can(one_line: Kernel) -> None:
    one_line.run(STEP)
    refused(
        one_line,
        ("%agent back", "only 0 steps"),
        ("%agent goto 40", "step 40: this branch has no such step; it has 1"),
        ("%%agent edit --messages\nhello", "messages are a JSON list"),
        ("%%agent edit --messages\n[]", "the last one must be a request"),
        ("%agent continue --until foo", "foo is no place to pause: tool=NAME"),
        ("%agent next 0", "1 or more"),
        ("%agent next 1 calk", "did you mean calc?"),
        ("%%agent edit --result\n4", "is a model request: result cannot be edited there; possible: reply, messages"),
        ("%%agent edit --reply --hint\n4", "give one of them"),
        ("%%agent edit --last\n4", "has taken no step yet"),
        ("%%time\n%agent next", "needs a cell of its own"),
    )
    one_line.run("%agent next")
    told = one_line.run('%%agent edit\n{"a": "many", "b": 2}')
    assert "add: a: Input should be a valid integer" in str(told.error)
    told = one_line.run("%%agent edit\n{a: 1}")
    assert "arguments are JSON" in str(told.error)
    one_line.run("%agent continue")
    refused(
        one_line,
        ("%agent next", "is done: %agent back"),
        ("%agent goto 9", "step 9: this branch has no such step; it has 1, 2, 3"),
        ("%%agent edit --step 7\nx", "step 7 cannot be edited: this branch has met 1, 2, 3"),
        ("%agent fork calc 9", "has 3 steps, no step 9 to fork at"),
        ("%agent fork calc 2.9", "step 2.9: there is no such step, or step 2 is replayed as a whole"),
        ("%agent fork nobody 1", "no run or agent nobody is recorded; %agent runs lists them"),
        ("%agent fork calc 1 --result 3", "result cannot be edited there; possible: reply, messages"),
        ('%agent fork calc 1 --reply {"tool": 3}', 'a reply is text, or {"tool": NAME'),
        ('%agent fork calc 2 --arguments {"a": "x", "b": 1}', "add: a: Input should be a valid integer"),
        ("%agent fork calc 1 --model nonsense:x", "unknown model 'nonsense:x'"),
        ("%agent diff calc calc", "are one run"),
    )
    assert "no longer stepped" in one_line.run("%agent stop").text
    refused(one_line, ("%agent stop", "no run is being stepped"), ("%agent next", "no run is being stepped"))


def refused(shell: Kernel, *typed: tuple[str, str]) -> None:
    for code, said in typed:
        told = shell.run(code)
        assert said in str(told.error), (code, told.error, told.text)
        assert told.traceback.count("\n") == 0


# ---- what a script of another output sends to the buttons

VIEW = "application/vnd.jupyter.widget-view+json"
DEEP = "[" * 50_000
NO_WHAT: tuple[Any, ...] = (None, 1, [], {}, "", "cell", "agent")
NO_ARGUMENTS: tuple[Any, ...] = (None, 1, {}, "", "x", DEEP)
FORGED: list[Any] = [
    None, 1, "x", [], {}, {"type": []}, {"type": "ready"}, {"type": {"move": 1}}, {"type": "move"},
    *({"type": "move", "verb": verb} for verb in (None, 1, ["next"], {"next": 1}, "", "x" * 99_999, "edit", "goto")),
    *({"type": "move", "verb": "goto", "to": to} for to in (None, 1, ["1"], "", "-1", "9" * 9_999, "1." * 9_999, "77")),
    *({"type": "move", "verb": "edit", "what": what, "text": "1"} for what in NO_WHAT),
    *({"type": "move", "verb": "edit", "what": "arguments", "text": text} for text in NO_ARGUMENTS),
    *({"type": "move", "verb": "edit", "what": "messages", "text": text} for text in ("{}", "[1]", "[{}]", DEEP)),
]  # fmt: skip


def clicked(notebook: Kernel, widget: str, contents: list[Any], *, until: str) -> list[dict[str, Any]]:
    """What the kernel puts out from these messages of the page on, up to one that holds `until`."""
    for content in contents:
        data = {"method": "custom", "content": content}
        message = notebook.client.session.msg("comm_msg", {"comm_id": widget, "data": data})
        notebook.client.shell_channel.send(message)
    seen: list[dict[str, Any]] = []
    end = time.monotonic() + 60
    while time.monotonic() < end:
        seen.append(notebook.client.get_iopub_msg(timeout=60))
        if until in str(seen[-1]["content"]):
            return seen
    raise AssertionError(seen)


def test_a_forged_message_is_no_move_and_says_nothing_in_the_kernel(notebook: Kernel, tmp_path: Path) -> None:
    cell = notebook.run(STEP, cell="s", watched=True)
    (view,) = cell.of(VIEW)
    widget = str(view["model_id"])  # type: ignore[index]
    seen = clicked(notebook, widget, [*FORGED, {"type": "move", "verb": "the last"}], until="'the last'")
    assert [message["content"] for message in seen if message["msg_type"] in ("stream", "error")] == []
    sent = [str(message["content"]["data"]) for message in seen if message["msg_type"] == "comm_msg"]
    moves = [one for one in FORGED if isinstance(one, dict) and one.get("type") == "move"]
    assert sum("refused" in text for text in sent) == len(moves) + 1
    assert max(map(len, sent)) < 2_000
    # Nothing was asked for, and the run stands where it stood.
    assert performed(tmp_path) == []
    assert pause(notebook.run("%agent next", cell="n1")) == "2 tool"
    assert performed(tmp_path) == ["model 1"]
