"""What Tab offers."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from agentkit.approval.policy import HEADLESS
from agentkit.budget.budget import AT_LIMIT
from agentkit.debugger.gate import At
from agentkit.notebook.completion import candidates
from agentkit.notebook.grammar import VERBS
from agentkit.notebook.verbs.inspect import WORDS
from agentkit.pipeline.settings import Target
from agentkit.sandbox.program import Tier


def query(sql: str) -> str:
    return sql


NAMES: dict[str, Any] = {"analyst": Agent(TestModel()), "query": query, "Plan": type("Plan", (), {}), "rows": [1]}


@pytest.mark.parametrize(
    ("text", "cell", "offered"),
    [
        ("", True, ["build", "run", "step", "sandbox", "edit", "estimate", "map", "compare"]),
        ("se", False, ["settle"]),
        ("build x --t", True, ["--tools", "--ttl"]),
        ("build x --tools query --t", True, ["--ttl"]),
        ("build x --tools query,an", True, ["analyst"]),
        ("build x --output P", True, ["Plan"]),
        ("build x --deps ro", True, ["rows"]),
        ("build x --share u", True, ["user"]),
        ("run an", True, ["analyst"]),
        ("run analyst --fresh ", True, []),
        ("run analyst --mode re", True, ["replay"]),
        ("mode o", False, ["off"]),
        ("help tr", False, ["trace", "traceback"]),
        ("build x --model off", True, ["offline"]),
        ("build x --model openai:gpt-5 | offl", True, ["offline"]),
        ("nonsense x", True, []),
        ("run analyst --headless ", True, ["suspend", "deny", "allow"]),
        ("build x --at-limit w", True, ["wait"]),
        ("budget ", False, ["user", "project", "notebook", "eval", "analyst"]),
        ("caller st", False, ["status", "stop"]),
        ("export x.py --target s", False, ["script"]),
    ],
)
def test_tab_offers_what_fits(text: str, cell: bool, offered: list[str]) -> None:
    assert candidates(text, cell=cell, names=NAMES) == offered


@pytest.mark.parametrize(
    ("verb", "option", "words"),
    [
        ("run", "headless", HEADLESS),
        ("policy", "headless", HEADLESS),
        ("build", "at-limit", AT_LIMIT),
        ("budget", "at-limit", AT_LIMIT),
        ("step", "at", get_args(At)),
        ("sandbox", "tier", get_args(Tier)),
        ("export", "target", get_args(Target)),
    ],
)
def test_the_words_that_are_offered_are_those_that_are_understood(
    verb: str, option: str, words: tuple[str, ...]
) -> None:
    assert VERBS[verb].options[option].one_of == words


def test_the_callers_words_are_offered() -> None:
    assert candidates("caller ", cell=False, names=NAMES) == ["status", "stop", "on", "off"] == list(WORDS)
