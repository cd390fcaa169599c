"""A workload killed at random times: nothing lost, nothing doubled, hardly anything paid again, all of it listed.

A sample; `python -m tests.kill --kills 200` gives the figures of the README.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

KILLS = 25
SECONDS = 100
PAID_AGAIN_PER_100 = 6


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.kill", "--json", f"--kills={KILLS}", f"--seconds={SECONDS}", "--seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_sample_is_large_enough_to_say_something(figures: dict[str, Any]) -> None:
    assert figures["kills"] >= KILLS * 0.6
    assert figures["in_doubt"] + figures["listed"] > 0, "no kill hit a step in progress"


def test_no_step_is_lost(figures: dict[str, Any]) -> None:
    assert (figures["lost"], figures["wrong_outputs"]) == (0, 0), figures["problems"]


def test_no_effect_is_doubled_without_a_yes(figures: dict[str, Any]) -> None:
    assert figures["doubled"] == 0, figures["problems"]


def test_what_was_paid_twice_is_listed(figures: dict[str, Any]) -> None:
    assert figures["unlisted"] == 0, figures["problems"]


def test_an_answer_that_was_read_is_hardly_ever_paid_again(figures: dict[str, Any]) -> None:
    assert figures["read_and_paid_again"] <= PAID_AGAIN_PER_100 / 100 * figures["kills"], figures


def test_nothing_else_was_odd(figures: dict[str, Any]) -> None:
    assert figures["problems"] == []
