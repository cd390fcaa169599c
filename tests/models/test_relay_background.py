"""A background response goes on at its provider: after the death of kernel and caller it is not paid again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.runtime.session import session
from tests.serving import Fault, Serving, serving

SCRIPT = """
import asyncio, sys
import pydantic_ai
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
import agentkit
from agentkit.models.transport.http_client import client

folder, url, prompt = sys.argv[1:]
provider = OpenAIProvider(base_url=url, api_key="no-key", http_client=client())
model = OpenAIResponsesModel("small", provider=provider, settings={"openai_background": True})
agent = agentkit.durable(pydantic_ai.Agent(model, name="asker"))
with agentkit.session("here", folder=folder):
    result = asyncio.run(agent.run(prompt))
    print(result.output, flush=True)
"""


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def started(folder: Path, server: Serving, prompt: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), server.url, prompt], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("caller", ["on", "off"])
def test_after_the_death_of_everything_it_is_asked_for(
    tmp_path: Path, server: Serving, monkeypatch: pytest.MonkeyPatch, caller: str
) -> None:
    monkeypatch.setenv("AGENTKIT_CALLER", caller)
    server.delay = 0.5
    server.script(Fault(slow=4.0))
    kernel = started(tmp_path, server, "say it is done")
    ends = time.monotonic() + 30
    while not server.polls and time.monotonic() < ends:
        time.sleep(0.02)
    pointer = tmp_path / ".agentkit" / "caller"
    if caller == "on":
        known = json.loads(pointer.read_text())
        os.kill(known["pid"], signal.SIGKILL)
        Path(known["address"]).unlink()
        pointer.unlink()
    kernel.kill()
    kernel.communicate()
    assert started(tmp_path, server, "say it is done").communicate()[0].strip() == "it is done"
    polls = server.polls
    assert started(tmp_path, server, "say it is done").communicate()[0].strip() == "it is done"
    assert (len(server.ledger()), server.polls) == (1, polls)
    with session(folder=tmp_path, read_only=True) as opened:
        assert opened.store.double_payments() == []
    while pointer.exists() and time.monotonic() < ends:
        time.sleep(0.05)
