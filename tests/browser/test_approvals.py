"""Approvals as a person meets them: a real JupyterLab, a real click."""

from __future__ import annotations

import pytest

from tests.browser.lab import Opener

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = f".journal-{FOLDER}"
import agentkit
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
AFTER = "print('deleted', deleted, 'asked', len(asked))"


def cells(name: str, *more: str) -> list[str]:
    return [SETUP.replace("{FOLDER}", name).strip(), BUILD, RUN, AFTER, *more]


def test_approving_while_the_cell_runs(opened: Opener) -> None:
    notebook = opened(cells("approve"))
    notebook.do(0), notebook.do(1)
    notebook.run(2)
    widget = notebook.widgets(2)
    widget.get_by_role("button", name="Approve", exact=True).click(timeout=30_000)
    shown = notebook.text(2, "The tool said: 2 rows deleted")
    assert "approved by you" in shown
    assert widget.count() == 0
    assert "deleted [[1, 2]]" in notebook.do(3)
    assert notebook.errors == []
