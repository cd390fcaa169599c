"""Durations: what is one, in seconds, and that every room that takes one takes the same."""

from __future__ import annotations

import pytest

from agentkit.errors import UserError
from agentkit.models.fallback import parse_age
from agentkit.notebook import namespace
from agentkit.pipeline import cluster, emit
from agentkit.tools import declaration
from agentkit.values.durations import parse_duration

SECONDS = {"90s": 90, "90": 90, "1.5h": 5400, "2 m": 120, "7d": 604800, "1w": 604800, " 3H ": 10800}
NONE = ("", "s", "1.h", "-1s", "1y", "ten minutes", "1h30m", "1ms", "1e3")


@pytest.mark.parametrize(("text", "seconds"), SECONDS.items())
def test_a_number_and_a_unit_are_seconds_in_every_room(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert declaration.seconds(text, given="{}") == seconds
    assert namespace.seconds(text) == seconds
    assert emit._build_option("ttl", text) == f"ttl={seconds}"


@pytest.mark.parametrize("text", NONE)
def test_anything_else_is_none(text: str) -> None:
    assert parse_duration(text) is None
    with pytest.raises(UserError, match="write"):
        namespace.seconds(text)


def test_a_time_in_the_name_of_a_model_has_a_unit() -> None:
    assert parse_age("cached(12h)") == 43200
    assert parse_duration("12", bare=False) is None
    with pytest.raises(UserError, match="how old"):
        parse_age("cached(12)")


@pytest.mark.parametrize("text", ["90", "1w", "2 m"])
def test_a_timeout_that_a_tool_may_declare_reaches_a_cluster(text: str) -> None:
    assert cluster._seconds(text) == declaration.seconds(text, given="{}")
