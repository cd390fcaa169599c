"""The same random kills with the caller on: what was asked is not asked again. `python -m tests.kill --caller`."""

from __future__ import annotations

import json
import subprocess
import sys

KILLS = 15


def test_with_the_caller_nothing_is_paid_again_lost_or_doubled() -> None:
    command = [sys.executable, "-m", "tests.kill", "--json", "--caller", f"--kills={KILLS}", "--seconds=40", "--seed=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["kills"] >= KILLS * 0.6
    assert (figures["lost"], figures["wrong_outputs"], figures["doubled"]) == (0, 0, 0), figures["problems"]
    assert (figures["answered_again"], figures["unlisted"]) == (0, 0), figures
