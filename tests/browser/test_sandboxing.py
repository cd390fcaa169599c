"""A sandbox cell as a person uses it: its step buttons, and what it asks before a call."""

from __future__ import annotations

import pytest

from tests.browser.lab import Notebook, Opener

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = f".journal-{FOLDER}"
import agentkit

made = []

@agentkit.tool(effects="none")
def look(city: str) -> int:
    "How many letters a city has."
    made.append(city)
    return len(city)

@agentkit.tool(effects="once", approve="ask")
def save(total: int) -> str:
    "Save a total."
    made.append(total)
    return f"saved {total}"
"""
PROGRAM = "total = 0\nfor city in ('Bern', 'Rome'):\n    total += look(city)\nsave(total)"
CELL = 1


def opened_with(opened: Opener, folder: str, line: str) -> Notebook:
    notebook = opened([SETUP.replace("{FOLDER}", folder).strip(), f"{line}\n{PROGRAM}", "print('made', made)"])
    notebook.do(0)
    return notebook


def click(notebook: Notebook, name: str) -> None:
    notebook.output(CELL).get_by_role("button", name=name, exact=True).last.click(timeout=20_000)


def test_statements_calls_and_the_approval_are_stepped_through_and_come_back_after_a_restart(opened: Opener) -> None:
    notebook = opened_with(opened, "sandbox-step", "%%agent sandbox --step --out total --call look, save")
    notebook.do(CELL)
    notebook.text(CELL, "paused before step 1", "a statement of the program", "total = 0")
    click(notebook, "Next")
    notebook.text(CELL, "paused before step 2", "changed", "for city in")
    click(notebook, "Next")
    notebook.text(CELL, "paused before step 2.1", "tool look", '"city": "Bern"')
    click(notebook, "Next")
    notebook.text(CELL, "paused before step 2.2", '"city": "Rome"')
    click(notebook, "Back")
    notebook.text(CELL, "paused before step 2.1", "recorded: free (replayed)")
    assert "made ['Bern']" in notebook.do(2)
    notebook.restart()
    notebook.do(0)
    notebook.do(CELL)
    notebook.text(CELL, "paused before step 2.1", "recorded: free (replayed)")
    assert "made []" in notebook.do(2)
    click(notebook, "Continue")
    notebook.text(CELL, "sandbox wants to call save", "line 4: save(total)")
    assert '"total": 8' in notebook.widgets(CELL).locator("textarea").input_value()
    click(notebook, "Approve")
    notebook.text(CELL, "approved by you", "saved 8")
    assert "made ['Rome', 8]" in notebook.do(2)
    assert notebook.errors == []


def test_a_call_is_changed_and_a_denied_one_ends_the_program_at_its_line(opened: Opener) -> None:
    notebook = opened_with(opened, "sandbox-ask", "%%agent sandbox --out total --call look, save")
    notebook.run(CELL)
    notebook.text(CELL, "sandbox wants to call save")
    notebook.widgets(CELL).locator("textarea").fill('{"total": 80}')
    click(notebook, "Approve with changes")
    notebook.finished(CELL)
    notebook.text(CELL, "saved 80", "done")
    notebook.run(CELL)
    notebook.finished(CELL)
    notebook.text(CELL, "0 live", "saved 80")
    assert "made ['Bern', 'Rome', 80]" in notebook.do(2)

    denied = opened_with(opened, "sandbox-deny", "%%agent sandbox --out total --call look, save")
    denied.run(CELL)
    denied.text(CELL, "sandbox wants to call save")
    denied.widgets(CELL).get_by_placeholder("why not").fill("too early")
    click(denied, "Deny")
    denied.finished(CELL)
    denied.text(CELL, "too early", "(line 4)")
    assert "made ['Bern', 'Rome']" in denied.do(2)
    assert notebook.errors == denied.errors == []
