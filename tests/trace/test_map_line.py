"""A map of a script: one line in a terminal, nothing where standard error is a file."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio
import sys
import agentkit
from agentkit.agent.spec import Spec
from agentkit.testing import ScriptedModel

async def answer(messages):
    await asyncio.sleep(0.05)
    return ["fine"]

agent = agentkit.build(Spec.parse("You sell."), name="seller", model=ScriptedModel.by(answer))
with agentkit.session(folder=sys.argv[1]):
    rows = [{"name": f"drill {n}"} for n in range(40)]
    result = asyncio.run(agentkit.map(agent, rows, "Sell {{ row.name }}", workers=4))
print(len(result.frame))
"""


def test_a_terminal_sees_one_line_that_is_drawn_over(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        drawn += piece
        if not piece:
            break
    os.close(ours)
    assert script.communicate(timeout=60)[0].strip() == "40"
    *lines, last = [line.strip() for line in drawn.decode().replace("\r\n", "").split("\r") if line.strip()]
    assert len(lines) >= 2 and all(line.startswith("seller:") for line in lines)
    assert last.startswith("seller: 100 % |█") and "40/40" in last and "done" in last


def test_a_file_is_spared_it(tmp_path: Path) -> None:
    script = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert script.stdout.strip() == "40" and "seller" not in script.stderr
