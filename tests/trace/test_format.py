"""The wording: how money, time, counts and foreign text are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.trace.format import amount, clean, clean_block, cut, duration, money, width_of


@pytest.mark.parametrize(
    ("dollars", "said"),
    [
        (0, "$0"),
        (0.00001, "<$0.0001"),
        (0.0012, "$0.0012"),
        (0.0999, "$0.0999"),
        (0.5, "$0.500"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money(dollars: float, said: str) -> None:
    assert money(dollars) == said


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_money_that_was_spent_is_never_written_as_zero(dollars: float) -> None:
    assert any(digit in money(dollars) for digit in "123456789")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 ms"),
        (0.002, "2 ms"),
        (0.0996, "0.1 s"),
        (1.24, "1.2 s"),
        (99.96, "1 min 40 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_amounts_fit_a_column() -> None:
    assert [amount(n) for n in (0, 999_999, 1_000_000, 10**12)] == ["0", "999,999", "1.0 M", "1,000 G"]


@given(st.text(st.characters()), st.integers(1, 80))
def test_clean_text_is_one_bounded_line(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit and len(shown.splitlines()) <= 1
    shown.encode("utf-8")


@given(st.text(st.characters()), st.integers(1, 80), st.integers(1, 5))
def test_a_clean_block_says_how_much_it_leaves_out(text: str, limit: int, lines: int) -> None:
    shown = clean_block(text, limit, lines=lines)
    assert shown.count("\n") < lines
    kept = text[:limit].split("\n")[:lines]
    left = len(text) - len("\n".join(kept))
    assert shown.endswith(f"… ({left:,} more characters)") if left else "more characters)" not in shown or shown == text


@given(st.text(), st.integers(1, 40))
def test_cut_keeps_to_the_cells_of_a_terminal(text: str, width: int) -> None:
    shown = cut(text, width)
    assert width_of(shown) <= width
    assert shown == text if width_of(text) <= width else shown.endswith("…")
