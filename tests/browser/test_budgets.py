"""Budgets as a person meets them: the bar, the question at a limit, and the wait for the next minute."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.browser.lab import Notebook, Opener

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = ".journal-{NAME}"
os.environ["AGENTKIT_BUDGETS"] = os.path.abspath(".budgets-{NAME}.db")
import agentkit
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ToolReturnPart

asked = []
def rule(messages):
    asked.append(1)
    seen = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    return [f"Looking at {seen}.", Call("lookup", {"place": f"place {seen}"})] if seen < 3 else "All places are known."

model = ScriptedModel.by(rule, cost=0.1, delay=0.2)

@agentkit.tool(effects="none")
def lookup(place: str) -> str:
    "Look a place up."
    return f"{place} is known"
"""
BUILD = "%%agent build guide --model model --tools lookup --budget 0.25usd, 20k tokens\nYou look places up."
RUN = "%%agent run guide --as answer\nWhere are we?"
COUNT = "print(len(asked), 'requests')"


def picture(notebook: Notebook, name: str) -> None:
    """Kept where PICTURES says, for a person to look at."""
    if folder := os.environ.get("PICTURES"):
        notebook.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def started(opened: Opener, name: str, *more: str, build: str = BUILD) -> Notebook:
    notebook = opened([SETUP.replace("{NAME}", name).strip(), build, RUN, COUNT, *more])
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    return notebook


def test_a_limit_asks_and_raised_the_run_goes_on(opened: Opener) -> None:
    notebook = started(opened, "raise", "%agent budget notebook 2usd/day", "%agent budget")
    widget = notebook.widgets(2)
    widget.first.wait_for(timeout=30_000)
    asked = widget.inner_text()
    assert "guide has reached a budget" in asked
    assert "The budget of guide is 0.25usd per run. Used so far: 0.20usd;" in asked
    picture(notebook, "budget-asks")
    field = widget.get_by_label("raise it to")
    assert field.input_value() == "0.50usd/run"
    field.fill("0.21usd")
    widget.get_by_role("button", name="Raise to", exact=True).click(timeout=20_000)
    notebook.text(2, "0.21usd per run is not enough for the next request")
    field.fill("0.60usd")
    widget.get_by_role("button", name="Raise to", exact=True).click(timeout=20_000)
    shown = notebook.text(2, "All places are known.", "raised to 0.60usd/run by you", "done")
    assert "0.40usd of 0.60usd per run" in shown
    picture(notebook, "budget-raised")
    assert "4 requests" in notebook.do(3)
    assert "2.00usd per day" in notebook.do(4)
    tree = notebook.do(5)
    assert "0.60usd per run" in tree and "notebook" in tree
    picture(notebook, "budget-tree")
    assert notebook.errors == []


def test_a_run_may_be_finished_with_what_there_is(opened: Opener) -> None:
    notebook = started(opened, "finish", RUN)
    widget = notebook.widgets(2)
    widget.first.wait_for(timeout=30_000)
    widget.get_by_role("button", name="Finish with what there is", exact=True).click(timeout=20_000)
    notebook.text(2, "Looking at 1.", "Finished at a budget", "finished with what there is by you")
    assert "2 requests" in notebook.do(3)
    assert "Finished at a budget" in notebook.do(4)
    assert notebook.errors == []


def test_the_next_minute_is_waited_for_with_a_countdown(opened: Opener) -> None:
    build = "%%agent build guide --model model --tools lookup --budget 200 tpm\n"
    build += "---\nmodel_settings: {max_tokens: 20}\n---\nYou look places up."
    notebook = started(opened, "minute", build=build)
    shown = notebook.text(2, "200 tokens per minute of guide", seconds=30)
    assert "waiting" in shown and "waiting for you" not in shown
    before = _left(notebook.output(2).inner_text())
    notebook.page.wait_for_timeout(3_000)
    picture(notebook, "budget-waits")
    assert before - 5 <= _left(notebook.output(2).inner_text()) <= before - 2
    notebook.stop()
    notebook.text(2, "Interrupted")
    assert notebook.errors == []


def _left(shown: str) -> int:
    found = re.search(r"(\d+) s left", shown)
    assert found is not None, shown
    return int(found[1])
