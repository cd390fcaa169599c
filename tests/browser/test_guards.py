"""Guards as a person meets them: a loop that is asked about, a wait that is seen, a reply that is labelled as old."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.lab import Notebook, Opener
from tests.serving import Fault, Quota, Serving, serving

pytestmark = pytest.mark.timeout(240)

SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = ".journal-{FOLDER}"
import agentkit, asyncio
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ModelRequest, UserPromptPart

def rule(messages):
    said = [part.content for message in messages if isinstance(message, ModelRequest)
            for part in message.parts if isinstance(part, UserPromptPart)]
    return "I used the index." if any("index" in text for text in said) else Call("search", {"q": "x"})

model = ScriptedModel.by(rule)
calls = []

@agentkit.tool(effects="none")
def search(q: str) -> str:
    "Search the files."
    calls.append(q)
    return "nothing found"
"""
LOOP = "%%agent build seeker --model model --tools search\nYou search."
RUN = "%%agent run seeker\nFind x."


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving(quota=Quota(tokens=2_000, period=60.0)) as running:
        yield running


def opened_with(opened: Opener, name: str, *cells: str) -> Notebook:
    notebook = opened([SETUP.replace("{FOLDER}", name).strip(), *cells])
    notebook.do(0)
    return notebook


def test_a_loop_is_asked_about_and_steered(opened: Opener) -> None:
    notebook = opened_with(opened, "loop", LOOP, RUN, "print(len(calls), 'calls')", RUN)
    notebook.do(1)
    notebook.run(2)
    widget = notebook.widgets(2)
    widget.first.wait_for(timeout=30_000)
    assert "search(q='x') gave the same result 5 times in a row" in widget.inner_text()
    widget.get_by_label("what the agent should do instead").fill("Use the index.")
    widget.get_by_role("button", name="Steer", exact=True).click(timeout=20_000)
    shown = notebook.text(2, "I used the index.", "Use the index.")
    assert "by you" in shown and notebook.widgets(2).count() == 0
    assert "5 calls" in notebook.do(3)
    assert "0 live" in notebook.do(4)
    assert notebook.errors == []


def test_a_step_that_waits_for_a_server_is_seen_to_wait(opened: Opener, server: Serving) -> None:
    build = f"%%agent build many --model {server.model()}\nYou answer."
    ask = "words = 'word ' * 900\nawait asyncio.gather(many.run(words + '1'), many.run(words + '2'))"
    notebook = opened_with(opened, "wait", build, "%agent throttle small 2k tpm", ask)
    notebook.do(1)
    assert "small: 2k tpm" in notebook.do(2)
    notebook.run(3)
    shown = notebook.text(3, "waits for small", "waiting")
    assert "waiting for you" not in shown
    assert notebook.errors == []


def test_an_old_reply_is_labelled(opened: Opener, server: Serving) -> None:
    build = f"%%agent build steady --model {server.model('a')} | {server.model('b')} | cached(7d)\nYou answer."
    run = "%%agent run steady --fresh\nhello"
    notebook = opened_with(opened, "stale", build, run, run)
    notebook.do(1)
    assert "You said: hello" in notebook.do(2)
    server.script(*[Fault(status=503, headers={"x-should-retry": "false"})] * 2)
    shown = notebook.do(3)
    assert "You said: hello" in shown
    assert "stale" in shown and "cached reply" in shown and "outage: 503" in shown
    assert notebook.errors == []
