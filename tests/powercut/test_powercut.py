"""The power is cut at random moments: what was told as done is on disk, and a journal that syncs less is caught.

A sample; `python -m tests.powercut --cuts 200` gives the figures of the README.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


def cut(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.powercut", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("options", [("--cuts=8", "--seed=1"), ("--cuts=8", "--seed=2", "--caller")])
def test_nothing_that_was_told_is_gone(options: tuple[str, ...]) -> None:
    figures = cut(*options, "--seconds=40")
    # How many steps were told of before a random cut is chance; that there were some is what makes this a test.
    assert figures["kills"] >= 3 and figures["acknowledged"] > 0, figures
    assert (figures["gone"], figures["damaged"], figures["unrecorded"]) == (0, 0, 0), figures["problems"]
    assert (figures["lost"], figures["wrong_outputs"], figures["doubled"]) == (0, 0, 0), figures["problems"]
    assert (figures["unlisted"], figures["problems"]) == (0, [])


def test_a_journal_that_syncs_less_is_seen_to_lose_steps() -> None:
    figures = cut("--cuts=8", "--seed=3", "--synchronous=normal", "--seconds=40")
    assert figures["gone"] > 0, figures
