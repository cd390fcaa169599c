"""What the messages of errors guess, and what they do not."""

from __future__ import annotations

import pytest

from agentkit.errors import SandboxError, nearest
from agentkit.notebook.grammar import VERBS


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bugdet", "budget"),
        ("costs", "cost"),
        ("rn", "run"),
        ("nxt", "next"),
        ("sandbx", "sandbox"),
        ("Trace", "trace"),
        ("appr", "approve"),
        ("cont", "continue"),
    ],
)
def test_a_typo_is_seen_through(typed: str, meant: str) -> None:
    assert nearest(typed, VERBS) == f" (did you mean {meant}?)"


@pytest.mark.parametrize(
    "typed", ["apple", "show", "list", "history", "resume", "delete", "clear", "status", "price", "kill", "undo", ""]
)
def test_another_word_is_not_taken_for_a_typo(typed: str) -> None:
    assert nearest(typed, VERBS) == ""


def test_nothing_known_is_near_nothing() -> None:
    assert nearest("analyst", []) == ""


def test_equal_calls_of_a_program_are_told_once() -> None:
    error = SandboxError("code", "KeyError", calls=["look(1) → 2", "save() → None", "look(1) → 2"])
    assert str(error).endswith("calls made before: look(1) → 2 (2 times); save() → None")
