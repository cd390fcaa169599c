"""Approvals as a person meets them: a real JupyterLab, a real click."""

from __future__ import annotations

import pytest

from tests.browser.lab import Notebook, Opener

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = f".journal-{FOLDER}"
import agentkit
from agentkit.notebook import approval_widget
approval_widget.READY_SECONDS = 60
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ToolReturnPart

asked = []
def rule(messages):
    asked.append(len(messages))
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    if not parts:
        return ["Old rows must go.", Call("delete_rows", {"ids": [1, 2]})]
    return f"The tool said: {parts[-1].content}"

model = ScriptedModel.by(rule)
deleted = []

@agentkit.tool(effects="once", approve="ask")
def delete_rows(ids: list[int]) -> str:
    "Delete rows of the table."
    deleted.append(ids)
    return f"{len(ids)} rows deleted"
"""
BUILD = "%%agent build cleaner --model model --tools delete_rows\nYou clean tables."
RUN = "%%agent run cleaner --as said\nClean up."
NO_HANDSHAKE = "\nfrom agentkit.notebook import approval_widget\napproval_widget.READY_SECONDS = 0"
AFTER = "print('deleted', deleted, 'asked', len(asked))"


def cells(name: str, *more: str) -> list[str]:
    return [SETUP.replace("{FOLDER}", name).strip(), BUILD, RUN, AFTER, *more]


def test_approving_while_the_cell_runs(opened: Opener) -> None:
    notebook = started(opened, "approve")
    click(notebook, "Approve")
    shown = notebook.text(2, "The tool said: 2 rows deleted")
    assert "approved by you" in shown
    assert notebook.widgets(2).count() == 0
    assert "deleted [[1, 2]]" in notebook.do(3)
    assert notebook.errors == []


def started(opened: Opener, name: str, *more: str, setup: str = "") -> Notebook:
    """A notebook whose run cell waits for a decision, or has ended because it cannot wait."""
    sources = cells(name, *more)
    sources[0] += setup
    notebook = opened(sources)
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.widgets(2).first.wait_for(timeout=90_000)
    return notebook


def click(notebook: Notebook, name: str, cell: int = 2) -> None:
    notebook.widgets(cell).get_by_role("button", name=name, exact=True).click(timeout=20_000)


def test_approving_with_edited_arguments(opened: Opener) -> None:
    notebook = started(opened, "edited")
    field = notebook.widgets(2).locator("textarea")
    field.fill('{"ids": "all of them"}')
    click(notebook, "Approve with changes")
    notebook.text(2, "these arguments do not fit delete_rows: ids: 'all of them' is not an array")
    field.fill('{"ids": [7')
    click(notebook, "Approve with changes")
    notebook.text(2, "arguments: not JSON")
    click(notebook, "Approve")
    notebook.text(2, "the arguments were changed: choose Approve with changes")
    field.fill('{"ids": [7]}')
    click(notebook, "Approve with changes")
    notebook.text(2, "The tool said: 1 rows deleted", 'approved with changes: {"ids": [7]} by you')
    assert "deleted [[7]] asked 2" in notebook.do(3)
    assert "4 replayed" in notebook.do(2)
    assert "deleted [[7]] asked 2" in notebook.do(3)


def test_denying_with_a_reason(opened: Opener) -> None:
    notebook = started(opened, "deny")
    notebook.widgets(2).get_by_label("why not (the agent is told)").fill("they are still needed")
    click(notebook, "Deny")
    notebook.text(2, "denied by the person: they are still needed", "denied (they are still needed) by you")
    assert "deleted []" in notebook.do(3)


def test_always_is_said_and_can_be_withdrawn(opened: Opener) -> None:
    notebook = started(opened, "always", "%agent approvals", "%%agent run cleaner\nClean up again.")
    notebook.widgets(2).get_by_label("Always in this session, for exactly these arguments").check()
    click(notebook, "Approve")
    notebook.text(2, "approved by you, always")
    assert "standing (Always)" in notebook.do(4)
    assert "Always of step" in notebook.do(5)


def test_restarting_while_it_waits_then_running_again(opened: Opener) -> None:
    notebook = started(opened, "restart")
    notebook.restart()
    click(notebook, "Approve")
    notebook.text(2, "run the cell again", seconds=15)
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.page.wait_for_timeout(1000)
    notebook.widgets(2).first.wait_for(timeout=90_000)
    click(notebook, "Approve")
    notebook.text(2, "The tool said: 2 rows deleted", "1 replayed")
    assert "deleted [[1, 2]] asked 1" in notebook.do(3)


def test_stopping_while_it_waits_then_clicking(opened: Opener) -> None:
    notebook = started(opened, "stop")
    notebook.stop()
    notebook.text(2, "Interrupted")
    click(notebook, "Approve")
    notebook.text(2, "approved by you", "run the cell again to continue")
    assert "deleted []" in notebook.do(3)
    assert "2 replayed" in notebook.do(2)
    assert "deleted [[1, 2]] asked 2" in notebook.do(3)


def test_run_all_stops_at_the_gate(opened: Opener) -> None:
    notebook = opened(cells("runall"))
    # JupyterLab drops cells that are run before it has a kernel.
    notebook.do(0)
    notebook.menu("Run", "Run All Cells")
    notebook.widgets(2).first.wait_for(timeout=90_000)
    notebook.page.wait_for_timeout(1500)
    assert notebook.output(3).count() == 0 or "deleted" not in notebook.output(3).inner_text()
    click(notebook, "Approve")
    notebook.text(3, "deleted [[1, 2]]")


def test_run_all_stops_at_the_gate_that_cannot_wait(opened: Opener) -> None:
    notebook = opened([cells("runall2")[0] + NO_HANDSHAKE, *cells("runall2")[1:]])
    # JupyterLab drops cells that are run before it has a kernel.
    notebook.do(0)
    notebook.menu("Run", "Run All Cells")
    notebook.widgets(2).first.wait_for(timeout=90_000)
    notebook.text(2, "ApprovalPending")
    notebook.page.wait_for_timeout(1500)
    assert "deleted" not in (notebook.output(3).inner_text() if notebook.output(3).count() else "")


def test_reloading_the_page_while_it_waits(opened: Opener) -> None:
    notebook = started(opened, "reload")
    notebook.reload()
    notebook.widgets(2).first.wait_for(timeout=90_000)
    click(notebook, "Approve")
    notebook.page.wait_for_timeout(2500)
    assert "deleted [[1, 2]] asked 2" in notebook.do(3)
    assert "The tool said: 2 rows deleted" in notebook.do(2)
    assert "deleted [[1, 2]] asked 2" in notebook.do(3)


def test_a_notebook_that_was_saved_while_it_waited_says_what_to_do(opened: Opener) -> None:
    notebook = started(opened, "reopened")
    notebook.text(2, "waiting for you")
    notebook.widgets(2).first.wait_for(timeout=90_000)
    assert "no buttons?" not in notebook.text(2, "waiting for you")
    notebook.reopen()
    assert notebook.widgets(2).count() == 0
    notebook.text(2, "no buttons? run the cell again, or decide with %agent approve 2")
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.widgets(2).first.wait_for(timeout=90_000)
    click(notebook, "Approve")
    notebook.text(2, "The tool said: 2 rows deleted", "1 replayed")


def test_where_clicks_do_not_arrive_the_run_goes_on_after_the_click(opened: Opener) -> None:
    notebook = started(opened, "suspended", setup=NO_HANDSHAKE)
    notebook.text(2, "ApprovalPending", "waits for a person")
    notebook.finished(2)
    assert "deleted []" in notebook.do(3)
    click(notebook, "Approve")
    notebook.text(2, "The tool said: 2 rows deleted", "approved by you")
    notebook.page.wait_for_timeout(1500)
    assert "ApprovalPending" not in notebook.text(2)
    assert "deleted [[1, 2]] asked 2" in notebook.do(3)
    saved = notebook.saved()
    assert "error" not in {output.output_type for output in saved.cells[2].outputs}
    mimes = {mime for output in saved.cells[2].outputs for mime in output.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" not in mimes


def test_the_next_question_takes_the_place_of_the_last_where_clicks_do_not_arrive(opened: Opener) -> None:
    rule = (
        "found = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]\n"
        "    return 'all gone' if len(found) == 2 else Call('delete_rows', {'ids': [len(found)]})"
    )
    build = "%%agent build cleaner --model model --tools delete_rows\nYou clean tables."
    notebook = opened(replace_model(rule, build=build, setup=NO_HANDSHAKE))
    for number in (0, 1, 2):
        notebook.do(number)
    waits = "ApprovalPending: delete_rows waits for a person: decide above"
    notebook.text(2, "delete_rows(ids=[0])", waits)
    click(notebook, "Approve")
    assert notebook.text(2, "delete_rows(ids=[1])", "approved by you", waits).count(waits) == 1
    click(notebook, "Approve")
    notebook.text(2, "all gone")
    notebook.page.wait_for_timeout(1500)
    assert "ApprovalPending" not in notebook.text(2)
    assert "deleted [[0], [1]]" in notebook.do(3)


def test_deciding_by_typing_where_clicks_do_not_arrive(opened: Opener) -> None:
    typed = "waiting = get_ipython().agentkit.session().store.questions()[0].id\nprint(waiting)"
    notebook = started(opened, "typed", typed, "%agent approve 2 --deny not today", setup=NO_HANDSHAKE)
    assert notebook.do(4).strip() == "2"
    assert "denied (not today) by you" in notebook.do(5)
    notebook.text(2, "denied by the person: not today")
    assert "deleted []" in notebook.do(3)


def test_what_an_agent_sends_is_shown_as_text(opened: Opener) -> None:
    evil = (
        '\nBAD = {"ids": [1], "note": "<img src=x onerror=alert(1)><script>alert(2)</script>\\x1b[31mred '
        '\\u202egnp.exe", "more": "x" * 1_000_000}\n'
        'SAYS = "<b onmouseover=alert(3)>because</b> </textarea><script>alert(4)</script>"\n'
        "def rule(messages):\n"
        "    parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]\n"
        '    return "done" if parts else [SAYS, Call("keep_rows", BAD), Call("keep_rows", {**BAD, "more": "y"})]\n'
        "model = ScriptedModel.by(rule)\n"
        '@agentkit.tool(effects="none", approve="ask")\n'
        'def delete_rows(ids: list[int]) -> str:\n    "Delete."\n    return "no"\n'
        '@agentkit.tool(effects="none", approve="ask")\n'
        'def keep_rows(ids: list[int], note: str, more: str) -> str:\n    "Keep."\n    return note\n'
    )
    sources = cells("evil")
    sources[0] += evil
    sources[1] = sources[1].replace("--tools delete_rows", "--tools delete_rows,keep_rows")
    notebook = opened(sources)
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.widgets(2).nth(1).wait_for(timeout=90_000)
    long, short = notebook.widgets(2).nth(0), notebook.widgets(2).nth(1)
    assert "more characters)" in long.inner_text() and len(long.inner_text()) < 20_000
    assert long.locator("textarea").count() == 0
    text = short.locator("textarea").input_value()
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>" in text
    assert "\\u001b[31mred \\u202egnp.exe" in text
    assert "<b onmouseover=alert(3)>because</b>" in long.inner_text()
    assert notebook.widgets(2).locator("img, script, b").count() == 0
    for place in (0, 1):
        notebook.widgets(2).nth(place).get_by_role("button", name="Approve", exact=True).click()
    notebook.text(2, "approved by you")
    assert notebook.output(2).locator("img, script").count() == 0
    assert notebook.errors == []


def replace_model(rule: str, *, build: str, setup: str = "") -> list[str]:
    """The same cells with another model (`rule` is the body of its function) and another build line."""
    sources = cells("other")
    sources[0] += f"\ndef rule(messages):\n    {rule}\nmodel = ScriptedModel.by(rule)\n{setup}"
    sources[1] = build
    return sources


def test_questions_of_the_agent_are_one_widget(opened: Opener) -> None:
    calls = (
        '[Call("ask_user", {"question": "Keep a copy?", "kind": "yes_no"}), '
        'Call("ask_user", {"question": "Where?", "kind": "choice", "choices": ["disk", "tape\\x1b" + "e" * 300]}), '
        'Call("ask_user", {"question": "How many?", "kind": "number"}), Call("ask_user", {"question": "Why?"})]'
    )
    rule = (
        "found = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]\n"
        f"    return 'answers: ' + repr(found) if found else {calls}"
    )
    notebook = opened(replace_model(rule, build="%%agent build cleaner --model model --ask\nAsk."))
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.widgets(2).nth(3).wait_for(timeout=90_000)
    click(notebook, "Yes")
    click(notebook, "tape\u241b" + "e" * 300)
    number, text = notebook.widgets(2).nth(2), notebook.widgets(2).nth(3)
    number.get_by_label("your answer").fill("a few")
    number.get_by_role("button", name="Answer").click()
    notebook.text(2, "'a few': answer with a number")
    number.get_by_label("your answer").fill("3")
    number.get_by_role("button", name="Answer").click()
    text.get_by_label("your answer").fill("Because <b>of</b> space")
    text.get_by_role("button", name="Answer").click()
    notebook.text(2, "answers: [True, 'tape\\x1b" + "e" * 300 + "', 3, 'Because <b>of</b> space']")
    assert notebook.errors == []


BROKEN = """
import pathlib
broken = pathlib.Path("broken.flag")
broken.touch()

@agentkit.tool(effects="once")
def delete_rows(ids: list[int]) -> str:
    "Delete rows."
    if broken.exists():
        raise ConnectionError("the line went dead")
    return "deleted now"
"""


def test_a_step_in_doubt_is_settled_by_a_click(opened: Opener) -> None:
    sources = cells("doubt", "broken.unlink()")
    sources[0] += BROKEN
    notebook = opened(sources)
    notebook.do(0)
    notebook.do(1)
    assert "the line went dead" in notebook.do(2)
    notebook.do(4)
    notebook.run(2)
    notebook.text(2, "delete_rows may have taken effect already")
    notebook.widgets(2).get_by_label("if it happened: what it gave").fill('"gone already"')
    click(notebook, "It happened, this is the result")
    notebook.text(2, "The tool said: gone already", "happened, result given")
    assert "The tool said: gone already" in notebook.do(2)


STUCK = """
from pydantic_ai import ModelRetry
@agentkit.tool(effects="none")
def look(at: int) -> str:
    "Look."
    if at < 5:
        raise ModelRetry(f"{at} is too small")
    return f"found {at}"
"""


def test_an_agent_that_got_stuck_goes_on_with_a_hint(opened: Opener) -> None:
    rule = (
        "last = messages[-1].parts[-1]\n"
        "    if 'seven' in str(last.content): return Call('look', {'at': 7})\n"
        "    if str(last.content).startswith('found'): return str(last.content)\n"
        "    return Call('look', {'at': len(messages)})"
    )
    build = "%%agent build cleaner --model model --tools look\nLook."
    notebook = opened(replace_model(rule, build=build, setup=STUCK))
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.text(2, "cleaner does not get any further", "exceeded max retries", 'look({"at":1}): 1 is too small')
    notebook.widgets(2).get_by_label("an answer in its place, or a hint to go on with").fill("try seven")
    click(notebook, "Go on with this hint")
    notebook.text(2, "found 7", "retried with a hint (try seven) by you")
