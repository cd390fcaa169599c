"""Errors become one line, and nothing is lost."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_ai.exceptions import IncompleteToolCall

from agentkit.errors import (
    AgentKitError,
    ApprovalPending,
    InDoubt,
    JournalFull,
    RunFailed,
    RunPaused,
    SecretMissing,
    UserError,
)
from agentkit.notebook import error_output


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
    told = error_output.shorten_error(raised(UserError("plain words"), behind=group), doing="%agent run x")
    assert str(told) == "plain words" and told.__context__ is None and told.__cause__ is None
    assert "deep" in error_output.full() and "ExceptionGroup" in error_output.full()


def test_a_foreign_error_is_told_in_one_line_and_kept_as_the_cause() -> None:
    error = raised(ValueError("one\n  two"))
    told = error_output.shorten_error(error, doing="%agent run x")
    assert isinstance(told, RunFailed) and told.cause is error
    assert str(told).startswith("%agent run x: ValueError: one two; %agent traceback") and "again continues" in str(
        told
    )
    assert "again" not in str(error_output.shorten_error(error, doing="%agent cost"))


def test_a_reply_on_record_that_leads_nowhere_is_asked_for_anew() -> None:
    error = raised(IncompleteToolCall("Exceeded maximum retries"))
    told = str(error_output.shorten_error(error, doing="%agent run x"))
    assert told.endswith("in full, --fresh asks the model anew") and "continues" not in told


def test_of_a_group_the_first_real_error_is_told() -> None:
    told = error_output.shorten_error(
        ExceptionGroup("g", [ExceptionGroup("h", [KeyError("lost")])]), doing="%agent run x"
    )
    assert "KeyError: 'lost'" in str(told)


def test_a_very_long_error_is_cut() -> None:
    assert len(str(error_output.shorten_error(ValueError("x" * 10_000), doing="%agent run x"))) < 500


@pytest.mark.parametrize("error", [UserError("a"), JournalFull("/x", "no space", "free some")])
def test_the_class_says_what_it_is(error: Exception) -> None:
    assert type(error_output.shorten_error(error, doing="%agent run x")) is type(error)


@pytest.mark.parametrize(
    ("error", "doing", "told"),
    [
        (
            ApprovalPending(steps=["3", "4"], asked="delete", how="[--deny WHY | --edit JSON]"),
            "",
            "delete waits for a person: %agent approve 3 4 [--deny WHY | --edit JSON], in a shell "
            "`agentkit approvals decide 3 4`, then run again",
        ),
        (
            InDoubt(step=7, name="book", reason="has no recorded end"),
            "",
            "step 7 (book) has no recorded end: settle it with %agent settle 7 --redo | --result JSON | --stop, "
            "then run again",
        ),
        (
            RunPaused(run="r", agent="guide", step="step 3", cause="tool"),
            "",
            "guide is paused before step 3 (tool): %agent next performs it, %agent continue goes on; "
            "then run this cell again",
        ),
        (
            SecretMissing("jwt-1", "tool send"),
            "",
            "tool send would receive the placeholder of secret jwt-1: it was in a text and is not recorded: "
            "ask anew with --fresh",
        ),
        (
            UserError("approve='lok' names no tool of this agent (did you mean look?)"),
            "%agent build",
            "--approve lok names no tool of this agent (did you mean look?)",
        ),
        (UserError("budget '3x' cannot be read"), "%agent build", "--budget '3x' cannot be read"),
        (UserError("breaker repeats=2: write it"), "%agent build", "--breaker repeats=2: write it"),
        (UserError("limits memory=5: write a size"), "%agent sandbox", "--limits memory=5: write a size"),
        (
            UserError("raise it with `agentkit budget guide 0.50usd/run` and run again"),
            "",
            "raise it with %agent budget guide 0.50usd/run and run again",
        ),
        # What is an option of no such verb, or of Python itself, stays as it is.
        (UserError("step 3 (book) is gone"), "%agent sandbox", "step 3 (book) is gone"),
        (UserError("@agentkit.tool(ttl='soon'): seconds"), "%agent build", "@agentkit.tool(ttl='soon'): seconds"),
        (UserError("approve='lok' names no tool"), "", "approve='lok' names no tool"),
        (UserError("nearest='x' is meant"), "%agent build", "nearest='x' is meant"),
    ],
)
def test_a_cell_is_told_what_is_typed_in_cells(error: AgentKitError, doing: str, told: str) -> None:
    """Below the notebook an error speaks of keywords, calls and the shell; here they become options and verbs."""
    assert str(error_output.shorten_error(error, doing=doing)) == told
    assert str(error_output.shorten_error(error, doing=doing)) == told


SOURCES = Path(error_output.__file__).parents[1]
TYPED = re.compile(r"%%?agent\b|(?<![\w-])--[a-z]")
FOR_CELLS = {"notebook", "cli", "pipeline", "trace"}
"""They read cells, draw what is under one, or are a shell's commands."""
DATA = {"policy", "decisions", "offline", "unsupported"}
"""What may be typed to answer, the offline model's own answer, and what to write instead in the sandbox's dialect."""


def messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Return | ast.Call | ast.Assign):
            yield from (
                each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=str)
def test_no_message_below_the_notebook_speaks_of_magics_or_options(path: Path) -> None:
    unit = path.relative_to(SOURCES).parts[0].removesuffix(".py")
    if unit in FOR_CELLS or path.stem in DATA:
        return
    assert [text for text in messages(ast.parse(path.read_text(encoding="utf-8"))) if TYPED.search(text)] == []
