"""At a server that honours Idempotency-Key, a step that is asked again is paid once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic_ai.exceptions import ModelAPIError

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.models.transport.response_capture import HONOURS
from agentkit.runtime.session import session
from tests.serving import Entry, Fault, Serving, serving

CHILD = """
import asyncio, sys
from agentkit.agent.spec import Spec
from agentkit.agent.build import build
from agentkit.runtime.session import session
with session("a", folder=sys.argv[2]):
    asyncio.run(build(Spec(instructions="Answer."), name="one", model=sys.argv[1]).run("hello"))
"""


@pytest.fixture(autouse=True)
def honouring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HONOURS, "elsewhere.example, 127.0.0.1")


def run(server: Serving, folder: Path, *, fresh: bool = False) -> int:
    """How many steps are listed as possibly paid twice after a run."""
    with session("a", folder=folder) as opened:
        agent = build(Spec(instructions="Answer."), name="one", model=server.model())
        assert asyncio.run(ask(agent, "hello", fresh=fresh)).output == "You said: hello"
        return len(opened.store.double_payments())


def keys(server: Serving) -> list[str | None]:
    return [entry.headers.get("idempotency-key") for entry in server.ledger()]


def charged(server: Serving) -> list[Entry]:
    return [entry for entry in server.ledger() if entry.status == 200 and not entry.again]


def test_what_a_killed_process_had_asked_is_asked_again_and_paid_once(tmp_path: Path) -> None:
    with serving(delay=1.0) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, server.model(), str(tmp_path)], start_new_session=True)
        deadline = time.monotonic() + 30
        while not server.ledger() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert run(server, tmp_path) == 0
        assert (len(server.ledger()), len(charged(server))) == (2, 1)


def test_what_a_broken_connection_lost_is_asked_again_and_paid_once(tmp_path: Path) -> None:
    with serving() as server:
        server.script(Fault(cut="middle"))
        with pytest.raises(ModelAPIError):
            run(server, tmp_path)
        assert run(server, tmp_path) == 0
        assert (len(server.ledger()), len(charged(server))) == (2, 1)


def test_a_refusal_that_the_server_may_keep_is_not_asked_for_again(tmp_path: Path) -> None:
    with serving() as server:
        server.script(Fault(status=503))
        assert run(server, tmp_path) == 0
        assert len(set(keys(server))) == 2


def test_what_is_meant_to_be_another_answer_has_another_key(tmp_path: Path) -> None:
    with serving() as server:
        for folder, fresh in (("a", False), ("a", True), ("b", False)):
            run(server, tmp_path / folder, fresh=fresh)
        assert len(set(keys(server))) == 3 == len(charged(server))


def test_no_other_server_is_sent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HONOURS, "elsewhere.example")
    with serving() as server:
        server.script(Fault(cut="middle"))
        with pytest.raises(ModelAPIError):
            run(server, tmp_path)
        assert run(server, tmp_path) == 1
        assert keys(server) == [None, None]
