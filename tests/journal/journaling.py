"""Short ways to say what a test puts into a journal, and a second process to put it there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from agentkit.events import Run, Usage
from agentkit.journal.records import Claim, Intent, MessageNode, Outcome, Use
from agentkit.journal.store import Store

ROOT = Path(__file__).parents[2]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def intent(question: str = "question", **more: Any) -> Intent:
    known: dict[str, Any] = {
        "key": digest(question), "n": 0, "kind": "model", "name": "model", "effects": "none", "agent": "analyst",
        "run": "run", "ord": 1, "request": question,
    }  # fmt: skip
    return Intent(**(known | more))


def outcome(claim: Claim, answer: bytes = b'"answer"', **more: Any) -> Outcome:
    known: dict[str, Any] = {"step": claim.row.id, "status": "done", "body": answer}
    return Outcome(**({"result": answer.decode(errors="replace")} | known | more))


def record(store: Store, question: str = "question", answer: bytes = b'"answer"', **more: Any) -> int:
    """A step from its intent to its result; its id."""
    claim = store.begin(intent(question, **more)).result()
    assert claim.mine
    usage = Usage(input_tokens=10, output_tokens=5, cost=0.25)
    store.finish(outcome(claim, answer, usage=usage)).result()
    return claim.row.id


def run_of(id: str = "run", **more: Any) -> Run:
    known: dict[str, Any] = {"id": id, "agent": "analyst", "status": "running", "started": time.time()}
    return Run(**(known | more))


def replayed(step: int, *, run: str = "run", ord: int = 1) -> Use:
    return Use(run, ord, step, True, 5.0, 6.0)


def chain(*bodies: str) -> list[MessageNode]:
    nodes: list[MessageNode] = []
    for body in bodies:
        parent = nodes[-1].digest if nodes else None
        nodes.append(MessageNode(digest(f"{parent!r}{body}"), parent, body.encode()))
    return nodes


def child(code: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """Another process that runs `code`, with the names above at hand and `arguments` as `arguments`."""
    head = "import os, sys, time, signal\nfrom pathlib import Path\nfrom tests.journal.journaling import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", f"{head}arguments = sys.argv[1:]\n{textwrap.dedent(code)}", *map(str, arguments)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **more,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    """What the process printed, once it ended well."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()
