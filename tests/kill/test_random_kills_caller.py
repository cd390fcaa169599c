"""The same random kills with the caller on, of kernels alone and of callers too: `python -m tests.kill --caller`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

KILLS = 10


def figures(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.kill", "--json", "--caller", f"--kills={KILLS}", "--seconds=100", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(done.stdout))
    assert found["kills"] >= KILLS * 0.6
    assert (found["lost"], found["wrong_outputs"], found["doubled"]) == (0, 0, 0), found["problems"]
    assert (found["unlisted"], found["problems"]) == (0, [])
    return found


def test_with_the_caller_nothing_is_asked_again() -> None:
    found = figures("--seed=2")
    assert found["killed"] == {"kernel": found["kills"], "caller": 0, "both": 0}
    assert sum(found["asked_again"].values()) == found["answered_again"] == 0, found


def test_where_callers_are_killed_too_what_they_had_asked_is_listed() -> None:
    found = figures("--callers-too", "--seed=5")
    assert found["killed"]["caller"] + found["killed"]["both"] > 0, "no caller was killed"
    assert found["asked_again"]["kernel"] == 0, found
    assert found["listed"] > 0, "no kill hit a call"
