"""Stepping as a person does it: a real JupyterLab, real clicks."""

from __future__ import annotations

import pytest

from tests.browser.lab import Notebook, Opener

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = f".journal-{FOLDER}"
import agentkit
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ToolReturnPart

asked, added = [], []
def rule(messages):
    asked.append(len(messages))
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    return f"The sum is {parts[-1].content}" if parts else Call("add", {"a": 1, "b": 2})

model = ScriptedModel.by(rule)

@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    "Add two numbers."
    added.append((a, b))
    return a + b
"""
BUILD = "%%agent build calc --model model --tools add\nCount."
STEP = "%%agent step calc --as total\nhow many?"
AFTER = "print('added', added, 'asked', len(asked))"


def started(opened: Opener, name: str) -> Notebook:
    notebook = opened([SETUP.replace("{FOLDER}", name).strip(), BUILD, STEP, AFTER, "%agent next", "print(total)"])
    again(notebook)
    return notebook


def again(notebook: Notebook) -> None:
    notebook.do(0)
    notebook.do(1)
    notebook.do(2)
    notebook.text(2, "paused before step")


def click(notebook: Notebook, name: str, cell: int = 2) -> None:
    notebook.output(cell).get_by_role("button", name=name, exact=True).click(timeout=20_000)


def test_step_back_edit_and_continue_by_clicks(opened: Opener) -> None:
    notebook = started(opened, "clicks")
    click(notebook, "Next")
    notebook.text(2, "paused before step 2", "add")
    click(notebook, "Next")
    notebook.text(2, "paused before step 3")
    click(notebook, "Back")
    notebook.text(2, "paused before step 2", "free (replayed)")
    notebook.output(2).get_by_text("Edit this step").click()
    notebook.output(2).locator("textarea").fill('{"a": 20, "b": 22}')
    click(notebook, "Put it there")
    notebook.text(2, "forked from run", '"a": 20')
    click(notebook, "Continue")
    assert "The sum is 42" in notebook.text(2, "The sum is 42", "done")
    assert notebook.output(2).get_by_role("button").count() == 0
    assert "added [(1, 2), (20, 22)] asked 2" in notebook.do(3)
    assert "The sum is 42" in notebook.do(5)
    assert notebook.errors == []


def test_clicks_are_made_again_after_a_restart_and_a_reload_loses_nothing(opened: Opener) -> None:
    notebook = started(opened, "restart")
    click(notebook, "Next")
    notebook.text(2, "paused before step 2")
    click(notebook, "Next")
    notebook.text(2, "paused before step 3")
    notebook.reload()
    notebook.text(2, "paused before step 3")
    notebook.restart()
    again(notebook)
    notebook.text(2, "paused before step 3")
    assert "added [] asked 0" in notebook.do(3)
    click(notebook, "Next")
    notebook.text(2, "The sum is 3")
    assert "added [] asked 1" in notebook.do(3)


def go_to(notebook: Notebook, step: str) -> None:
    notebook.output(2).get_by_label("a recorded step").select_option(step)
    click(notebook, "Go to")


def test_going_to_a_step_by_a_click_and_back_there_on_another_day(opened: Opener) -> None:
    notebook = started(opened, "goto")
    click(notebook, "Next")
    notebook.text(2, "paused before step 2")
    click(notebook, "Next")
    notebook.text(2, "paused before step 3")
    go_to(notebook, "1")
    notebook.text(2, "paused before step 1", "free (replayed)")
    go_to(notebook, "3")
    notebook.text(2, "paused before step 3", " out, as 1 answer of this run)")
    go_to(notebook, "2")
    notebook.text(2, "paused before step 2", "free (replayed)")
    assert "added [(1, 2)] asked 1" in notebook.do(3)
    assert "model not found" not in notebook.text(2, "paused before step 2")
    notebook.reopen()
    notebook.text(2, 'model not found" below? run the cells again: they come back to this pause')
    assert notebook.output(2).get_by_role("button").count() == 0
    again(notebook)
    notebook.text(2, "paused before step 2", "free (replayed)")
    assert "added [] asked 0" in notebook.do(3)
    click(notebook, "Continue")
    notebook.text(2, "The sum is 3")
    assert "added [] asked 1" in notebook.do(3)


LEAD = """
def lead_rule(messages):
    last = messages[-1].parts[-1]
    return f"I heard: {last.content}" if isinstance(last, ToolReturnPart) else Call("calc", {"prompt": "go"})

leading = ScriptedModel.by(lead_rule, model_name="leading")
"""


def test_into_an_agent_and_out_by_clicks(opened: Opener) -> None:
    setup = SETUP.replace("{FOLDER}", "inside").strip() + LEAD
    lead = "%%agent build lead --model leading --tools calc\nLead."
    notebook = opened([setup, BUILD, "%%agent step lead\nstart", lead])
    for number in (0, 1, 3, 2):
        notebook.do(number)
    click(notebook, "Next")
    notebook.text(2, "paused before step 2", "calc(prompt=")
    click(notebook, "Next into")
    notebook.text(2, "lead › calc", "paused before step 2.1")
    click(notebook, "Next")
    notebook.text(2, "paused before step 2.2")
    click(notebook, "Next out")
    notebook.text(2, "paused before step 3")
    go_to(notebook, "2.2")
    notebook.text(2, "paused before step 2.2", "free (replayed)")
    click(notebook, "Continue")
    notebook.text(2, "I heard: The sum is 3")
    assert notebook.errors == []


def test_messages_are_changed_in_the_widget(opened: Opener) -> None:
    notebook = started(opened, "messages")
    notebook.output(2).get_by_text("Edit this step").click()
    notebook.output(2).locator("details select").select_option("messages")
    field = notebook.output(2).locator("textarea")
    field.fill(field.input_value().replace("how many?", "how few?"))
    click(notebook, "Put it there")
    assert "how few?" in notebook.text(2, "forked from run", "messages of step 1")
    click(notebook, "Continue")
    notebook.text(2, "The sum is 3")


def test_a_refused_edit_says_why_and_a_verb_takes_the_buttons_along(opened: Opener) -> None:
    notebook = started(opened, "refused")
    click(notebook, "Next")
    notebook.text(2, "paused before step 2")
    notebook.output(2).get_by_text("Edit this step").click()
    notebook.output(2).locator("textarea").fill('{"a": "<b>x</b>"}')
    click(notebook, "Put it there")
    notebook.text(2, "add: a: Input should be a valid integer")
    assert "paused before step 3" in notebook.do(4)
    assert notebook.output(2).get_by_role("button").count() == 0
    click(notebook, "Stop", cell=4)
    notebook.text(4, "no longer stepped")
    assert "no run is being stepped" in notebook.do(4)
    assert notebook.errors == []


PLAIN = "(await calc.run('plain')).output"


def test_a_plain_run_is_driven_on_from_its_breakpoint(opened: Opener) -> None:
    notebook = opened([SETUP.replace("{FOLDER}", "plain").strip(), BUILD, "%agent break tool=add", PLAIN, AFTER])
    for number in range(3):
        notebook.do(number)
    notebook.run(3)
    notebook.text(3, "paused before step 2", "breakpoint tool=add", "to change this step: Stop, then %agent back or")
    assert "running…" not in notebook.text(3, "waiting for you")
    click(notebook, "Next", cell=3)
    notebook.text(3, "paused before step 3")
    click(notebook, "Continue", cell=3)
    assert "'The sum is 3'" in notebook.text(3, "The sum is 3", "done")
    notebook.finished(3)
    assert notebook.output(3).get_by_role("button").count() == 0
    assert "added [(1, 2)] asked 2" in notebook.do(4)
    assert notebook.errors == []


def test_a_plain_run_ends_at_its_breakpoint_where_clicks_do_not_arrive(opened: Opener) -> None:
    deaf = "from agentkit.notebook import debug_widget\ndebug_widget.READY_SECONDS = 0"
    notebook = opened(
        [
            SETUP.replace("{FOLDER}", "deaf").strip() + "\n" + deaf,
            BUILD,
            "%agent break tool=add",
            PLAIN,
            "%agent next",
            AFTER,
        ]
    )
    for number in range(3):
        notebook.do(number)
    assert "RunPaused: calc is paused before step 2, tool add" in notebook.do(3)
    assert "paused before step 3" in notebook.do(4)
    assert "'The sum is 3'" in notebook.do(3)
    assert "added [(1, 2)] asked 2" in notebook.do(5)
