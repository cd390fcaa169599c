"""Declared tools and the second tier of the sandbox in a real kernel: the panel, Stop, a restart, a kill."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.kernels import Kernel, kernel

SETUP = """
import agentkit, os
from dataclasses import dataclass
import numpy as np
import pandas as pd
from agentkit.testing import Call, ScriptedModel

sales = pd.DataFrame({"region": ["n", "s", "n"], "amount": [1.5, 2.0, 3.0], "when": pd.date_range("2024", periods=3)})

@dataclass
class Scale:
    factor: int = 2

scale = Scale()

def scaled(number: float) -> float:
    return number * scale.factor

@agentkit.tool(effects="none", memory=["96MB", "256MB"], timeout="20s", network=False)
def fill(mb: int) -> float:
    "Fill memory."
    print("filling", mb)
    return scaled(np.ones(mb << 17).sum() / (1 << 17))

@agentkit.tool(effects="none", isolate=True)
def busy(mark: str) -> str:
    "Works for ever, and starts a program that does."
    import subprocess
    subprocess.Popen(["setsid", "sleep", mark])
    print("up", flush=True)
    while True:
        pass

def worker(*replies):
    spec, model = agentkit.Spec(instructions="x"), ScriptedModel(replies)
    return agentkit.build(spec, name="worker", tools=[fill, busy], model=model)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("isolation")) as running:
        begin(running)
        yield running


def begin(running: Kernel) -> None:
    assert running.run("%load_ext agentkit").status == "ok"
    cell = running.run(SETUP)
    assert cell.status == "ok", cell.traceback


def programs(mark: str) -> list[int]:
    return [
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if mark in read(entry) and "sleep" in read(entry)
    ]


def read(entry: Path) -> str:
    try:
        return entry.read_text()
    except OSError:
        return ""


def soon(holds: Callable[[], Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(holds())


def test_the_panel_shows_each_try_and_a_restarted_kernel_replays(tmp_path: Path) -> None:
    ran = "%%agent run agent\ngo"
    with kernel(tmp_path) as running:
        begin(running)
        running.run("agent = worker(Call('fill', {'mb': 150}), 'done')")
        first = running.run(ran, cell="ran")
        assert first.status == "ok", first.traceback
        panel = str(first.panels[0]["data"]["text/plain"])
        assert "filling 150" in first.text
        assert "fill(mb=150) → 300.0" in panel
        assert "ChildFailed: out of memory: used " in panel and "of 96MB" in panel
        shown = re.sub("<[^>]*>", "", first.panels[0]["data"]["text/html"])
        assert "sandbox try 2 (256MB, no network) → used 1" in " ".join(shown.split())
        running.restart()
        begin(running)
        running.run("agent = worker()\nimport subprocess\nsubprocess.Popen = None")
        again = running.run(ran, cell="ran")
        assert again.status == "ok", again.traceback
        assert "0 live, 3 replayed" in again.headline


def test_stop_ends_the_child_and_what_it_started(notebook: Kernel) -> None:
    mark = str(time.time_ns())[-8:]
    notebook.run(f"agent = worker(Call('busy', {{'mark': '{mark}'}}), 'done')")
    cell = notebook.run("%%agent run agent\nstop me", stop_after=2.0)
    assert cell.status == "error" and cell.text == "up\n"
    assert cell.seconds < 4
    assert soon(lambda: not programs(mark), 1)
    assert notebook.value("1 + 1") == "2"


def test_no_orphan_survives_a_killed_kernel(tmp_path: Path) -> None:
    mark = str(time.time_ns())[-8:]
    with kernel(tmp_path) as running:
        begin(running)
        running.run(f"agent = worker(Call('busy', {{'mark': '{mark}'}}), 'done')")
        pid = int(running.value("os.getpid()"))
        message = running.client.session.msg("execute_request", {"code": "%%agent run agent\ngo", "silent": False})
        running.client.shell_channel.send(message)
        assert soon(lambda: programs(mark), 20)
        (keeper,) = children(pid)
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: not programs(mark), 2)
        assert soon(lambda: not children(keeper) and not Path(f"/proc/{keeper}").exists(), 2)


def children(pid: int) -> list[int]:
    """The isolated calls of a kernel."""
    found = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    ours = "agentkit.sandbox"
    return [int(child) for line in found for child in line if ours in read(Path(f"/proc/{child}/cmdline"))]


PROGRAM = """%%agent sandbox --tier process --in sales --out summary
import pandas as pd
print("pandas", pd.__version__ != "")
summary = sales.groupby("region", as_index=False).agg(amount=("amount", "sum"), last=("when", "max"))
len(summary)
"""


def test_pandas_in_a_process_of_its_own(notebook: Kernel) -> None:
    cell = notebook.run(PROGRAM, cell="pandas")
    assert (cell.status, cell.text) == ("ok", "pandas True\n"), cell.traceback
    assert notebook.value("summary.amount.tolist(), str(summary['last'].dtype)[:10]") == "([4.5, 2.0], 'datetime64')"
    again = notebook.run(PROGRAM, cell="pandas")
    assert "0 live, 1 replayed" in again.headline
    assert again.text == cell.text


@pytest.mark.parametrize(
    ("line", "body", "said"),
    [
        ("--tier proces", "1", "--tier proces: one of monty, process"),
        ("--tier process --call scaled", "scaled(1)", "--call: with --tier process the program cannot call scaled"),
        ("--tier process --in agentkit", "1", "agentkit is a module, which cannot"),
        ("--tier process --limits memory=64MB", "x = b'1' * (100 << 20)", "limit: more than 64MB of memory"),
        ("--tier process", "import os\nos.environ['PATH2']", "(line 2)"),
        ("--tier process", "open('made.txt', 'w')\nopen('/etc/passwd')", "No such file"),
    ],
)
def test_what_is_wrong_is_said(notebook: Kernel, line: str, body: str, said: str) -> None:
    cell = notebook.run(f"%%agent sandbox {line}\n{body}")
    assert said in cell.traceback, cell.traceback


def test_stop_ends_a_program_of_the_second_tier(notebook: Kernel) -> None:
    cell = notebook.run("%%agent sandbox --tier process --limits time=60s\nwhile True: pass", stop_after=1.5)
    assert cell.status == "error" and cell.seconds < 3
    assert notebook.value("1 + 1") == "2"


def test_the_second_tier_is_not_stepped_through(notebook: Kernel) -> None:
    cell = notebook.run("%%agent sandbox --tier process --step\nx = 1\ny = 2\n")
    assert "with --tier process a program runs as a whole" in cell.traceback, (cell.traceback, cell.text)
