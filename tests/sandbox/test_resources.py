"""Sizes, outcomes and the words about them."""

from __future__ import annotations

import pytest

from agentkit.sandbox.process.resources import HAD_TOO_LITTLE, Try, format_size, short_of, shortage, slow_at, too_slow

MB = 1 << 20


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0B"), (512, "512B"), (1023, "1023B"), (96 * MB, "96MB"), (3 << 29, "1.5GB"), (5 << 50, "5120TB")],
)
def test_sizes_as_a_person_writes_them(size: int, said: str) -> None:
    assert format_size(size) == said


def test_a_try_says_what_it_used() -> None:
    def attempt(how: str, asked: int | None = 512 * MB, text: str = "") -> str:
        return Try(asked=asked, peak=100 * MB, seconds=1.0, how=how, text=text).description  # type: ignore[arg-type]

    assert attempt("done") == "used 100MB"
    assert attempt("memory", text="it was stopped there") == "out of memory: used 100MB of 512MB (it was stopped there)"
    assert attempt("memory") == "out of memory: used 100MB of 512MB (it wanted more at once than was left)"
    assert attempt("timeout", asked=None) == "out of time: used 100MB"
    assert attempt("crashed", text="SIGSEGV") == "crashed: used 100MB of 512MB (SIGSEGV)"


def test_an_agent_hears_what_was_asked_used_and_may_be_asked_for() -> None:
    tries = [
        Try(asked=size * MB, peak=size * MB, seconds=1.0, how="memory", text="Unable to allocate 4 GiB")
        for size in (512, 2048)
    ]
    words = shortage("load", tries)
    assert words.startswith(short_of("load", [512 * MB, 2048 * MB]))
    assert "It was given 512MB, then 2GB; more cannot be asked for. It held 2GB when it ended (Unable to all" in words
    assert "Call it again with less to do" in words
    assert too_slow("load", tries, 1.5).startswith(f"{slow_at('load', 1.5)} (it held 2GB of memory)")


def test_how_a_recorded_shortage_is_known_again() -> None:
    assert short_of("load", [1]).startswith(f"load {HAD_TOO_LITTLE[0]}")
    assert short_of("load", []).startswith(f"load {HAD_TOO_LITTLE[0]}")
    assert slow_at("load", 2).startswith(f"load {HAD_TOO_LITTLE[1]}")
    assert not short_of("load", [1, 2]).startswith(short_of("load", [1]))
    assert not slow_at("load", 20).startswith(slow_at("load", 2))
