"""A real kernel is killed while a model answers: the caller lives on, and the cell gets the answer without asking."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.journal.store import Store
from tests.notebook.kernels import Kernel, kernel
from tests.serving import Fault, Serving, serving

BUILD = "%load_ext agentkit"
ASK = "%%agent run helper\nhello"


@pytest.fixture(autouse=True)
def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTKIT_CALLER")


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as running:
        yield running
    gone(tmp_path)


def gone(folder: Path) -> None:
    """The caller ends once the last kernel is gone; what is left is a failure, and ended here."""
    pointer = folder / ".agentkit" / "caller"
    deadline = time.monotonic() + 8
    while pointer.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if pointer.exists():
        os.kill(json.loads(pointer.read_text())["pid"], signal.SIGKILL)
        raise AssertionError("the caller did not end by itself")


def prepared(notebook: Kernel, server: Serving) -> None:
    for cell in (BUILD, f"%%agent build helper --model {server.model()}\nAnswer."):
        done = notebook.run(cell)
        assert done.status == "ok", done.traceback


def asked(notebook: Kernel, server: Serving) -> None:
    """Send the cell and come back when the server has the request."""
    notebook.client.execute(ASK)
    deadline = time.monotonic() + 40
    while not server.ledger() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(server.ledger()) == 1


def test_a_kernel_restart_during_a_call_pays_nothing_again(notebook: Kernel) -> None:
    with serving(delay=1.0) as server:
        prepared(notebook, server)
        asked(notebook, server)
        notebook.restart()
        prepared(notebook, server)
        at_a_glance = notebook.run("%agent").text
        # A restart interrupts before it kills: the step may have been recorded as stopped.
        stopped = "helper · stopped" in at_a_glance
        assert stopped or "cut off   1 step: run the cell again to go on" in at_a_glance
        assert "%agent settle" not in at_a_glance
        told = "nothing is in doubt" if stopped else "the next run goes on with it unasked"
        assert told in notebook.run("%agent settle").text
        cell = notebook.run(ASK)
        assert cell.status == "ok" and "You said: hello" in str(cell.shown), cell.traceback
        assert len(server.ledger()) == 1
        assert "cut off" not in notebook.run("%agent").text
        told = notebook.run("%agent why").text
        assert "try 2 of a step whose earlier tries left no result" in told and "possibly paid twice" not in told
        assert notebook.run("%agent caller off").text.startswith("caller off")


def test_a_kernel_restart_in_the_middle_of_a_stream_pays_nothing_again(notebook: Kernel, tmp_path: Path) -> None:
    stream = (
        "async with helper.run_stream('hello\\nwrite 150') as answer:\n"
        "    async for text in answer.stream_text(delta=True, debounce_by=None):\n"
        "        print(text, end='', flush=True)"
    )
    with serving() as server:
        server.script(Fault(slow=0.01))
        prepared(notebook, server)
        notebook.client.execute(stream)
        seen = ""
        while "word10" not in seen:
            message = notebook.client.get_iopub_msg(timeout=30)
            seen += message["content"].get("text", "")
        assert "word149" not in seen and server.ledger()[0].sent is None
        notebook.restart()
        prepared(notebook, server)
        cell = notebook.run(stream)
        assert cell.text == " ".join(f"word{n}" for n in range(150)), cell.traceback
        assert [entry.stream for entry in server.ledger()] == [True]
        with Store.open(tmp_path / ".agentkit" / "journal.db", read_only=True) as store:
            assert store.double_payments() == []


def test_a_cell_that_awaits_an_agent_itself_says_what_happened(notebook: Kernel, tmp_path: Path) -> None:
    with serving(delay=1.0) as server:
        prepared(notebook, server)
        notebook.run("import asyncio, json, os, pathlib, signal")
        cell = notebook.run(
            "run = asyncio.ensure_future(helper.run('hello'))\n"
            "while not pathlib.Path('.agentkit/caller').exists() or not pathlib.Path('.agentkit/caller').read_text():\n"
            "    await asyncio.sleep(0.02)\n"
            "await asyncio.sleep(0.5)\n"
            "known = json.loads(pathlib.Path('.agentkit/caller').read_text())\n"
            "os.kill(known['pid'], signal.SIGKILL)\n"
            "print((await run).output)"
        )
        assert cell.text.startswith("You said: hello\n"), cell.traceback
        assert cell.text.count("the caller ended while it made a call") == 1
        assert "the caller ended" not in notebook.run("print((await helper.run('again')).output)").text


def test_an_answer_outlives_a_kernel_that_was_shut_down_for_good(tmp_path: Path) -> None:
    with serving(delay=2.0) as server:
        with kernel(tmp_path) as first:
            prepared(first, server)
            asked(first, server)
        # shutdown_kernel(now=True); the answer comes when nobody is there, and the caller ends after it.
        gone(tmp_path)
        with kernel(tmp_path) as second:
            prepared(second, server)
            assert "You said: hello" in str(second.run(ASK).shown)
        assert len(server.ledger()) == 1
    gone(tmp_path)
