"""Limits as they are typed, said and kept, and which of them contradict each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.budget.budget import (
    USER,
    Budget,
    Limit,
    Measure,
    Window,
    check_tree,
    dump,
    load,
    merge,
    nano,
    parse,
    parse_at_limit,
    place,
)
from agentkit.errors import UserError

ANALYST = place(project="/x/sales", label="report", agents=("analyst",))
HELPER = ANALYST.child("agent", "helper")
NOTEBOOK = place(project="/x/sales", label="report")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("0.50usd,20k tokens,60k tpm", ["0.50usd per run", "60k tokens per minute", "20k tokens per run"]),
        ("30 requests,10min", ["30 requests per run", "10min per run"]),
        ("5usd/day, $20 per month", ["5.00usd per day", "20.00usd per month"]),
        ("50 cents", ["0.50usd per run"]),
        ("1M tokens a day", ["1M tokens per day"]),
        ("1 request", ["1 request per run"]),
        ("0.000001 usd", ["0.000001usd per run"]),
        ("90s, 2h/cell", ["1.5min per run", "120min per cell"]),
        (".5 USD in total", ["0.50usd in total"]),
        ("20_000 tokens", ["20k tokens per run"]),
    ],
)
def test_what_is_typed_is_understood(typed: str, said: list[str]) -> None:
    assert [limit.label for limit in parse(typed)] == said


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("", "no limit is given"),
        ("lots", "cannot be read"),
        ("5", "of what?"),
        ("5 foo", "what is 'foo'?"),
        ("5 tokns", r"did you mean tokens\?"),
        ("-1usd", "a limit is more than 0"),
        ("0 tokens", "a limit is more than 0"),
        ("1usd/year", "per year"),
        ("1usd/dya", r"did you mean day\?"),
        ("60k tpm/day", "tokens per minute already"),
        ("1h/day", "time is limited per run or per cell"),
        ("1usd, 2usd", "contradict each other"),
        ("5usd/day, 2usd/month", "is more than 2.00usd per month"),
        ("2h, 90s/cell", "is more than 1.5min per cell"),
        ("1e3 tokens", "cannot be read"),
        ("nan usd", "cannot be read"),
    ],
)
def test_what_cannot_be_a_budget_is_one_line(typed: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        parse(typed)
    assert "\n" not in str(refused.value)


def test_a_window_that_is_not_typed_is_that_of_the_scope() -> None:
    assert parse("1usd", window="total") == (Limit(measure="usd", window="total", amount=1_000_000_000),)
    assert parse("10min", window="total")[0].window == "run"


MEASURES: tuple[Measure, ...] = ("usd", "tokens", "requests")
WINDOWS: tuple[Window, ...] = ("run", "cell", "day", "month", "total")
LIMITS = st.builds(
    Limit,
    measure=st.sampled_from(MEASURES),
    window=st.sampled_from(WINDOWS),
    amount=st.integers(1, 10**15),
) | st.builds(Limit, measure=st.just("tokens"), window=st.just("minute"), amount=st.integers(1, 10**9))


@given(LIMITS)
def test_the_text_of_a_limit_is_read_back_as_that_limit(limit: Limit) -> None:
    assert parse(limit.text) == (limit,)
    assert load(dump([limit])) == (limit,)


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_one_line(text: str) -> None:
    said = ""
    try:
        found = parse(text)
    except UserError as error:
        found, said = (), str(error)
    assert bool(found) != bool(said) and "\n" not in said


def test_a_child_may_not_be_allowed_more_than_what_it_spends_from() -> None:
    with pytest.raises(UserError, match=r"2\.00usd per run is more than the notebook allows \(1\.00usd in total\)"):
        check_tree(ANALYST, parse("2usd"), [(NOTEBOOK, parse("1usd/total"))])
    with pytest.raises(UserError, match=r"1\.00usd per run is less than helper was given \(2\.00usd per run\)"):
        check_tree(ANALYST, parse("1usd"), [(HELPER, parse("2usd"))])
    check_tree(
        ANALYST, parse("1usd, 60k tpm"), [(NOTEBOOK, parse("1usd/total, 20k tokens")), (USER, parse("5usd/day"))]
    )


def test_names_that_begin_alike_are_not_above_each_other() -> None:
    other = place(project="/x/sales", label="rep")
    check_tree(ANALYST, parse("2usd"), [(other, parse("1usd"))])


def test_a_longer_window_may_allow_more_and_a_minute_bounds_only_minutes() -> None:
    check_tree(NOTEBOOK, parse("5usd/day, 60k tpm"), [(USER, parse("10usd/day, 100 tokens/run"))])
    with pytest.raises(UserError, match="60k tokens per minute is more than the user allows"):
        check_tree(NOTEBOOK, parse("60k tpm"), [(USER, parse("30k tpm"))])


def test_the_tree_is_user_project_notebook_agent_and_evals_beside() -> None:
    assert [node.level for node in HELPER.lineage()] == ["user", "project", "notebook", "agent", "agent"]
    assert [node.label for node in HELPER.lineage()][-2:] == ["analyst", "helper"]
    evals = place(project="/x/sales", label="eval/quality", agents=("analyst",))
    assert [node.level for node in evals.lineage()] == ["user", "project", "eval", "eval", "agent"]
    assert NOTEBOOK not in list(evals.lineage())


def test_what_is_set_again_replaces_its_like_only() -> None:
    changed = merge(parse("1usd, 20k tokens"), parse("2usd, 60k tpm"))
    assert sorted(limit.text for limit in changed) == ["2.00usd/run", "20k tokens/run", "60k tpm"]
    assert Budget(limits=parse("1usd")).text == "1.00usd/run"


def test_money_is_rounded_up() -> None:
    assert nano(0.1) == 100_000_000
    assert nano(1e-10) == 1


def test_what_happens_at_a_limit_is_one_of_four() -> None:
    assert parse_at_limit("wait") == "wait"
    with pytest.raises(UserError, match=r"one of ask, wait, fallback, stop \(did you mean wait\?\)"):
        parse_at_limit("wiat")
