"""Killed between intent and call, call and record, record and return: what each kind of step does in its next life."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

MODELS = ("model", "streamed model", "model inside a sub-agent")
ASKED_ABOUT = ("once", "once in a thread", "undeclared in a thread", "once inside a sub-agent")
TOOLS = ("none", "idempotent", "once with a probe", *ASKED_ABOUT)
POINTS = ("intent", "call", "record")
NO_END = "was started and has no recorded end"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.kill.points"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("case", [*MODELS, *TOOLS])
def test_the_run_ends_as_if_nothing_had_happened(outcomes: dict[str, dict[str, Any]], case: str, point: str) -> None:
    outcome = outcomes[f"{case} {point}"]
    assert outcome["killed"]
    assert outcome["outputs_equal"]
    assert outcome["asked"] == outcome["expected"], "a model was asked again"
    assert set(outcome["keys"].values()) <= {1}, "an idempotency key changed"


@pytest.mark.parametrize("case", MODELS)
def test_a_model_answer_that_arrived_is_not_paid_again(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    # Between intent and call it is on disk that nothing has left.
    assert [outcomes[f"{case} {point}"]["listed"] for point in POINTS] == [0, 0, 0]


@pytest.mark.parametrize("case", ["none", "idempotent"])
def test_what_may_be_repeated_is_repeated_without_asking(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    found = [outcomes[f"{case} {point}"] for point in POINTS]
    assert [outcome["effects"]["x"] for outcome in found] == [1, 2, 1]
    assert not any(outcome["doubts"] for outcome in found)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("case", [*ASKED_ABOUT, "once with a probe"])
def test_what_may_not_be_repeated_happens_once(outcomes: dict[str, dict[str, Any]], case: str, point: str) -> None:
    assert list(outcomes[f"{case} {point}"]["effects"].values()) == [1]


@pytest.mark.parametrize(
    ("case", "tool"), [("once", "order"), ("once inside a sub-agent", "order"), ("once in a thread", "send")]
)
def test_a_person_is_asked_about_what_has_no_recorded_end(
    outcomes: dict[str, dict[str, Any]], case: str, tool: str
) -> None:
    doubt = [f"{tool} {NO_END}"]
    # A thread that did the work has recorded it before anybody else sees the result.
    after_the_call = [] if case == "once in a thread" else doubt
    assert [outcomes[f"{case} {point}"]["doubts"] for point in POINTS] == [doubt, after_the_call, []]


def test_nobody_is_asked_when_a_probe_can_look(outcomes: dict[str, dict[str, Any]]) -> None:
    assert not any(outcomes[f"once with a probe {point}"]["doubts"] for point in POINTS)
