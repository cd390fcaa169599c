"""A map whose process is killed at random times, with the caller on: nothing paid again, lost or doubled.

A sample; `MAP_ROWS=2000 python -m pytest tests/kill/test_random_kills_of_rows.py` kills 20 times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callers import gone, runtime
from tests.kill.harness import server
from tests.serving import control

ROWS = int(os.environ.get("MAP_ROWS", "500"))
KILLS = ROWS // 100
MOST_LIVES = 60
LIFE_SECONDS = 60.0
DELAY = 0.04

PROGRAM = """
import asyncio
import sys
import agentkit

root, rows = sys.argv[1], int(sys.argv[2])
with agentkit.session("rows", folder="."):
    agent = agentkit.build(agentkit.Spec(instructions="You sort."), name="sorter", model=f"{root}/v1#small")
    table = [{"name": f"product {number}"} for number in range(rows)]
    print("begun", flush=True)
    result = asyncio.run(agentkit.map(agent, table, "Sort {{ row.name }}", workers=32))
    frame = result.frame
    assert list(frame["answer"]) == [f"You said: Sort product {number}" for number in range(rows)], result
    assert set(frame["status"]) == {"done"} and (frame["tokens"] > 0).all()
    print(result.snapshot.done, flush=True)
"""


@pytest.fixture
def root() -> Iterator[str]:
    with runtime(), server(DELAY) as running:
        yield running


def begin(folder: Path, root: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "AGENTKIT_CALLER": "on"}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, root, str(ROWS)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n", child.communicate()[1]
    return child


@pytest.mark.timeout(400)
def test_a_map_that_is_killed_again_and_again_pays_for_each_row_once(root: str, tmp_path: Path) -> None:
    chance = random.Random(15)
    kills = 0
    for _ in range(MOST_LIVES):
        child = begin(tmp_path, root)
        asked = len(control(root, "_ledger"))
        # Spread over the rows that are left, at any instruction between two answers.
        wanted = asked + chance.randint(0, 2 * (ROWS - asked) // (KILLS - kills + 1)) if kills < KILLS else ROWS + 1
        deadline = time.monotonic() + LIFE_SECONDS
        while child.poll() is None and len(control(root, "_ledger")) < wanted and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.03, 0.15))
        if kills < KILLS and child.poll() is None:
            child.send_signal(signal.SIGKILL)
        said, problems = child.communicate(timeout=LIFE_SECONDS)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, problems
        kills += 1
    assert said == f"{ROWS}\n"
    assert kills == KILLS
    entries = control(root, "_ledger")
    assert len(entries) == ROWS, Counter(Counter(entry["prompt"] for entry in entries).values())
    assert {entry["prompt"] for entry in entries} == {f"Sort product {number}" for number in range(ROWS)}
    # A last time, in a new process: all of it is on record.
    said, problems = begin(tmp_path, root).communicate(timeout=LIFE_SECONDS)
    assert said == f"{ROWS}\n", problems
    assert len(control(root, "_ledger")) == ROWS
    assert gone(under=tmp_path) == {}
