"""The Markdown that results become."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.define.planner.answer import SIGNATURE, answer, figure
from agentkit.define.planner.talk import Result
from agentkit.define.planner.words import Prompt


def told(value: Any, prompt: str = "x", **args: Any) -> str:
    return answer(Prompt(prompt), [Result(tool="mean", args=args, value=value)])


def test_the_superlative_of_the_prompt_names_the_winner() -> None:
    text = told({"May": 19.3, "July": 26.0}, "Which month was the warmest and which the coldest?", by="month")
    assert "**July** is the warmest month: **26**. **May** is the coldest month: **19.3**." in text


@pytest.mark.parametrize("tool", ["monthly_mean", "mean_by_month", "mean_per_month"])
def test_the_name_of_a_tool_may_say_what_it_groups_by(tool: str) -> None:
    text = answer(Prompt("the warmest"), [Result(tool=tool, args={"of": "temp"}, value={"May": 19.3, "July": 26.0})])
    assert "**July** is the warmest month: **26**." in text
    assert f"| month | {tool} of temp |" in text


def test_backquotes_in_arguments_do_not_end_the_code() -> None:
    assert '`` mean(of="`temp`") ``' in told(3, of="`temp`")


def test_a_quoted_answer_is_signed_once() -> None:
    inner = answer(Prompt("x"), [Result(tool="mean", args={}, value=3)])
    assert told(inner).count(SIGNATURE) == 1
    assert "> `mean()` gave **3**." in told(inner)


def test_without_a_superlative_both_ends_are_named() -> None:
    text = told({"May": 1, "June": 3, "July": 2}, "by month", by="month")
    assert "highest **June** (3), lowest **May** (1)" in text


def test_the_figures_of_a_summary_are_not_compared_with_each_other() -> None:
    text = told({"count": 731, "mean": 3.0, "max": 9.5}, "What is the highest wind?")
    assert "**max** is **9.5**" in text
    assert "**count** is" not in text


def test_long_tables_and_wide_ones_say_what_is_missing() -> None:
    text = told([{f"c{column}": row for column in range(9)} for row in range(40)])
    assert "28 more rows; columns not shown: c6, c7, c8" in text
    assert "… and 28 more" in told(list(range(40)))


def test_cells_cannot_break_the_table() -> None:
    text = told([{"name|x": "a|b\nc", "n": 1}])
    assert "| name\\|x | n |" in text
    assert "| a\\|b c | 1 |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "yes"),
        (2012, "2012"),
        (12345, "12,345"),
        (0.00123, "0.00123"),
        (1234.5, "1,234.5"),
        (26.0, "26"),
        ("x" * 80, "x" * 59 + "…"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_are_short_enough_to_read(value: Any, text: str) -> None:
    assert figure(value) == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(_JSON, st.sampled_from(["x", "the warmest", "the least", "max count name"]))
def test_any_result_becomes_a_signed_and_bounded_answer(value: Any, prompt: str) -> None:
    text = told(value, prompt)
    assert text.endswith(f"*{SIGNATURE}*")
    assert len(text) < 20_000
