"""Declarations of tools, and what cannot be one."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.tools.declaration import Declaration, check, declaration, tool


def plain(a: int) -> int:
    return a


def test_a_declared_tool_is_still_the_function() -> None:
    declared = tool(effects="once", timeout="2m", memory="2GiB")(plain)
    try:
        assert declared is plain
        assert plain(2) == 2
        assert declaration(plain) == Declaration(effects="once", timeout=120.0, memory=("2GiB",), isolate=True)
    finally:
        del plain.__agentkit__  # type: ignore[attr-defined]


def test_a_plain_function_declares_nothing() -> None:
    assert declaration(plain).effects == "undeclared"


def test_a_declaration_shows_through_a_decorator() -> None:
    @tool(effects="none")
    def inner(a: int) -> int:
        return a

    @functools.wraps(inner)
    def outer(a: int) -> int:
        return inner(a)

    assert declaration(outer).effects == "none"


def test_bare_tool_decorates() -> None:
    @tool
    def inner(a: int) -> int:
        return a

    assert inner(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effects": "some"}, "effects='some'.*'none'"),
        ({"share": "everyone"}, "share='everyone'"),
        ({"share": "user", "effects": "once"}, "needs effects"),
        ({"ttl": "soon"}, "ttl='soon'"),
        ({"ttl": float("nan")}, "ttl=nan"),
        ({"timeout": -1}, "timeout=-1"),
        ({"memory": "lots"}, "not a size"),
        ({"memory": ["1GB", "512MB"]}, "rising order"),
        ({"memory": ["512MB", "0.5GB"]}, "rising order"),
        ({"memory": "1MB"}, "less than Python itself needs"),
        ({"memory": ["64MB", "1GB"], "effects": "once"}, "not tried again with more memory"),
        ({"memory": "64MB", "isolate": False}, "isolate=False"),
        ({"network": False, "isolate": False}, "isolate=False"),
        ({"isolate": True, "effects": "kernel"}, "the kernel"),
        ({"approve": "maybe"}, "approve='maybe'"),
        ({"verify": 3}, "verify="),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tool(**options)
    assert "\n" not in str(caught.value)


def test_limits_need_a_process_and_sizes_may_be_numbers() -> None:
    @tool(memory=["512 MB", 1 << 30, "1.5GiB"])
    def limited(a: int) -> int:
        return a

    declared = declaration(limited)
    assert declared.isolate
    assert declared.memory == ("512 MB", "1073741824B", "1.5GiB")
    assert declared.sizes == (512 << 20, 1 << 30, 3 << 29)


@pytest.mark.parametrize(("options", "isolated"), [({}, False), ({"timeout": 3}, False), ({"network": True}, False),
    ({"network": False}, True), ({"isolate": True}, True)])  # fmt: skip
def test_only_what_needs_it_runs_apart(options: dict[str, Any], isolated: bool) -> None:
    @tool(**options)
    def limited(a: int) -> int:
        return a

    assert declaration(limited).isolate is isolated


def untyped(a, b: int = 1):  # type: ignore[no-untyped-def]
    return a


def test_what_cannot_be_a_tool_is_named() -> None:
    with pytest.raises(UserError, match="untyped has no type for a"):
        check([untyped])
    with pytest.raises(UserError, match="lambda"):
        check([lambda: 1])

    def other(a: int) -> int:
        return a

    other.__name__ = "plain"
    with pytest.raises(UserError, match="two tools are named plain"):
        check([plain, other])
