"""The widget that asks in marimo, from the side of a page that sends what it likes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.errors import ApprovalPending
from agentkit.notebook.marimo import _Card
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, ScriptedModel
from tests.notebook.test_approvals import FORGED

deleted: list[str] = []


@agentkit.tool(effects="once", approve="ask")
def delete(name: str) -> str:
    """Delete something."""
    deleted.append(name)
    return "gone"


def run(opened: Session) -> str:
    model = ScriptedModel.by(lambda messages: "done" if len(messages) > 1 else Call("delete", {"name": "rows"}))
    return str(asyncio.run(ask(build(Spec(), name="cleaner", tools=[delete], model=model), "go")).output)


def test_a_forged_message_is_no_decision_in_marimo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    with session("page", folder=tmp_path) as opened:
        with pytest.raises(ApprovalPending):
            run(opened)
        (question,) = [one.question for one in decisions.everything(opened.store)]
        card = _Card(opened, [question])
        monkeypatch.setattr(card.widget, "send", sent.append)
    # The cell has ended, as it has when a person clicks.
    for content in FORGED:
        card._on_message(json.loads(json.dumps(content).replace("ID", question.id)))
    addressed = [one for one in FORGED if isinstance(one, dict) and one.get("id") == "ID"]
    assert [message["type"] for message in sent] == ["refused"] * len(addressed)
    assert max(len(str(message)) for message in sent) < 2_000 and card.widget.settled == {}
    with session("page", folder=tmp_path) as opened:
        (still,) = decisions.everything(opened.store)
        assert still.waits and deleted == []
        with pytest.raises(ApprovalPending):
            run(opened)
    card._on_message({"type": "decide", "id": question.id, "verdict": "approve"})
    assert "approved by you" in card.widget.settled[question.id]
    with session("page", folder=tmp_path) as opened:
        assert run(opened) == "done" and deleted == ["rows"]
