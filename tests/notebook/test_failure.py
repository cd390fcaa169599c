"""Errors become one line, and nothing is lost."""

from __future__ import annotations

import pytest
from pydantic_ai.exceptions import IncompleteToolCall

from agentkit.errors import JournalFull, RunFailed, UserError
from agentkit.notebook import failure


def raised(error: Exception, *, behind: Exception | None = None) -> Exception:
    try:
        if behind is None:
            raise error
        try:
            raise behind
        except type(behind):
            raise error  # noqa: B904 - what is behind an error is what is tested
    except type(error) as caught:
        return caught


def test_an_error_of_ours_is_kept_but_what_led_to_it_is_cut_off() -> None:
    group = ExceptionGroup("many", [ValueError("deep")])
    told = failure.shown(raised(UserError("plain words"), behind=group), doing="%agent run x")
    assert str(told) == "plain words" and told.__context__ is None and told.__cause__ is None
    assert "deep" in failure.full() and "ExceptionGroup" in failure.full()


def test_a_foreign_error_is_told_in_one_line_and_kept_as_the_cause() -> None:
    error = raised(ValueError("one\n  two"))
    told = failure.shown(error, doing="%agent run x")
    assert isinstance(told, RunFailed) and told.cause is error
    assert str(told).startswith("%agent run x: ValueError: one two; %agent traceback") and "again continues" in str(
        told
    )
    assert "again" not in str(failure.shown(error, doing="%agent cost"))


def test_a_reply_on_record_that_leads_nowhere_is_asked_for_anew() -> None:
    error = raised(IncompleteToolCall("Exceeded maximum retries"))
    told = str(failure.shown(error, doing="%agent run x"))
    assert told.endswith("in full, --fresh asks the model anew") and "continues" not in told


def test_of_a_group_the_first_real_error_is_told() -> None:
    told = failure.shown(ExceptionGroup("g", [ExceptionGroup("h", [KeyError("lost")])]), doing="%agent run x")
    assert "KeyError: 'lost'" in str(told)


def test_a_very_long_error_is_cut() -> None:
    assert len(str(failure.shown(ValueError("x" * 10_000), doing="%agent run x"))) < 500


@pytest.mark.parametrize("error", [UserError("a"), JournalFull("/x", "no space", "free some")])
def test_the_class_says_what_it_is(error: Exception) -> None:
    assert type(failure.shown(error, doing="%agent run x")) is type(error)
