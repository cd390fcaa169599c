"""Projects whose model calls are made by a caller, and processes that die while one is under way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.runtime.session import Session, session
from tests.serving import Serving

CHILD = """
import asyncio, sys
from agentkit.agent.spec import Spec
from agentkit.agent.build import build
from agentkit.agent.ask import ask
from agentkit.runtime.session import session
model, folder, streamed = sys.argv[1:]
agent = build(Spec(instructions="Answer."), name="one", model=model)
with session("a", folder=folder):
    print(asyncio.run(ask(agent, "hello", on_text=(lambda text: None) if streamed == "yes" else None)).output)
"""


def pointer(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / ".agentkit" / "caller").read_text()))
    except (FileNotFoundError, ValueError):
        return None


def pid_of(folder: Path) -> int:
    known = pointer(folder)
    assert known is not None
    return int(known["pid"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def begun(server: Serving, folder: Path, *, streamed: bool = False) -> subprocess.Popen[str]:
    """A process that waits for its answer."""
    before = len(server.ledger())
    command = [sys.executable, "-c", CHILD, server.model(), str(folder), "yes" if streamed else "no"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 30
    while len(server.ledger()) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.ledger()) == before + 1
    return child


def killed(child: subprocess.Popen[str]) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


async def answer(opened: Session, server: Serving) -> str:
    agent = build(Spec(instructions="Answer."), name="one", model=server.model())
    return str((await ask(agent, "hello")).output)


def again(server: Serving, folder: Path) -> tuple[str, bool]:
    """A run in this process, and whether the journal lists the step as possibly paid twice."""
    with session("a", folder=folder) as opened:
        output = asyncio.run(answer(opened, server))
        return output, bool(opened.store.double_payments())
