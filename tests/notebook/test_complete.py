"""What Tab offers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from agentkit.notebook.complete import candidates


def query(sql: str) -> str:
    return sql


NAMES: dict[str, Any] = {"analyst": Agent(TestModel()), "query": query, "Plan": type("Plan", (), {}), "rows": [1]}


@pytest.mark.parametrize(
    ("text", "cell", "offered"),
    [
        ("", True, ["build", "run", "step", "sandbox", "edit", "estimate", "compare"]),
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
    ],
)
def test_tab_offers_what_fits(text: str, cell: bool, offered: list[str]) -> None:
    assert candidates(text, cell=cell, names=NAMES) == offered
