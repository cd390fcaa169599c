from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.approval.policy import (
    Decision,
    Headless,
    Need,
    Policy,
    Question,
    check_decision,
    decide_unattended,
    find_need,
    parse_headless,
    parse_patterns,
    read_click,
)
from agentkit.errors import UserError

CALL = Question(id="7", kind="approve", tool="delete_rows", arguments={"ids": [1]}, lasting=True)


def need(tool: str, declared: Any = None, *, patterns: str = "", destructive: bool = False, **args: Any) -> Need | None:
    policies = [Policy(patterns=parse_patterns(patterns))] if patterns else []
    return asyncio.run(find_need(tool, args, declared=declared, destructive=destructive, policies=policies))


def test_a_pattern_names_tools_exactly_as_typed() -> None:
    assert need("read", patterns="read")
    assert need("read_secrets", patterns="read") is None
    assert need("Read", patterns="read") is None
    assert need("delete_rows", patterns="delete_*,send_*")
    assert need("undelete_rows", patterns="delete_*") is None
    assert need("anything", patterns="*")


@given(tool=st.from_regex(r"[a-z_]{1,12}", fullmatch=True), pattern=st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_a_pattern_without_a_star_names_one_tool(tool: str, pattern: str) -> None:
    assert (need(tool, patterns=pattern) is not None) == (tool == pattern)


@pytest.mark.parametrize("text", ["", " , ", "delete rows", "drop;table", "a|b"])
def test_a_pattern_that_can_name_no_tool_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="approve"):
        parse_patterns(text)


def test_what_a_tool_declares() -> None:
    assert need("t", "ask") == Need(lasting=True)
    assert need("t", "always") == Need(lasting=False)
    assert need("t", "never") is None
    assert need("t") is None


def test_whoever_runs_the_agent_may_ask_for_more_than_the_tools_author() -> None:
    assert need("t", "never", patterns="t") == Need(lasting=True)
    assert need("t", "always", patterns="t") == Need(lasting=False)


def test_a_server_that_says_it_destroys_needs_a_person_unless_its_tool_says_never() -> None:
    assert need("drop", destructive=True) == Need(why="the server says that it destroys something")
    assert need("drop", "never", destructive=True) is None


def test_a_function_of_the_arguments_decides_and_may_say_why() -> None:
    def costly(amount: int) -> str | bool:
        return f"{amount} is a lot" if amount > 100 else False

    assert need("pay", costly, amount=5) is None
    assert need("pay", costly, amount=500) == Need(why="500 is a lot")


def test_a_function_that_fails_asks() -> None:
    def broken(amount: int) -> bool:
        raise KeyError("rate")

    assert need("pay", broken, amount=5) == Need(why="approve= raised KeyError: 'rate'")
    assert need("pay", broken, other=5) is not None


@pytest.mark.parametrize(("headless", "verdict"), [("suspend", None), ("deny", "deny"), ("allow", "approve")])
def test_what_happens_where_nobody_is(headless: Headless, verdict: str | None) -> None:
    decision = decide_unattended(CALL, headless)
    assert (decision and decision.verdict) == verdict
    assert decision is None or decision.by == "policy"


@pytest.mark.parametrize("kind", ["ask", "doubt", "bailout"])
def test_no_policy_answers_a_question(kind: Any) -> None:
    assert [decide_unattended(Question(kind=kind), each) for each in ("suspend", "deny", "allow")] == [None] * 3


def test_an_unknown_policy_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"headless='alow': one of suspend, deny, allow \(did you mean allow\?\)"):
        parse_headless("alow")


# ---- decisions


def test_a_decision_survives_the_journal() -> None:
    decision = Decision(verdict="edit", arguments={"ids": []}, reason="fewer", at=12.5)
    assert Decision.from_json(decision.to_json()) == decision
    answered = Decision(verdict="answer", answer=0, at=1.0)
    assert Decision.from_json(answered.to_json()) == answered
    refused = Decision(verdict="answer", answer=False, at=1.0)
    assert Decision.from_json(refused.to_json()) == refused


def test_a_question_survives_the_journal() -> None:
    question = Question(id="7", kind="ask", text="Which?", form="choice", choices=("a", "b"), before=("x → 1",))
    assert Question.from_json(question.to_json(), id="7") == question


def test_edited_arguments_must_fit_the_schema_and_the_tool() -> None:
    schema = {"type": "object", "properties": {"ids": {"type": "array"}}, "required": ["ids"]}
    question = Question(
        id="7", kind="approve", tool="t", arguments={"ids": [1]}, schema=schema, check=lambda given: "too few"
    )
    with pytest.raises(UserError, match="these arguments do not fit t: ids: 3 is not an array"):
        check_decision(question, Decision(verdict="edit", arguments={"ids": 3}))
    with pytest.raises(UserError, match="these arguments do not fit t: too few"):
        check_decision(question, Decision(verdict="edit", arguments={"ids": []}))


def test_arguments_that_were_not_changed_are_an_approval() -> None:
    assert check_decision(CALL, Decision(verdict="edit", arguments={"ids": [1]})).verdict == "approve"


PATH = "x" * 200
CHOICES = (PATH + "1", PATH + "2", "a\x1b[2Jb", "a\u202eb", "")


@pytest.mark.parametrize("at", range(len(CHOICES)))
def test_a_choice_that_cannot_be_shown_as_it_is_is_chosen_by_its_number(at: int) -> None:
    asked = Question(kind="ask", form="choice", choices=CHOICES)
    given = check_decision(asked, read_click(asked, {"verdict": "answer", "choice": at}))
    assert given.answer == CHOICES[at]


@pytest.mark.parametrize("choice", [-1, 5, True, 1.0, "1", None, [0], {"at": 0}, 10**400])
def test_a_number_that_is_none_of_the_choices_chooses_nothing(choice: object) -> None:
    asked = Question(kind="ask", form="choice", choices=CHOICES)
    with pytest.raises(UserError, match="no choice of this question"):
        read_click(asked, {"verdict": "answer", "choice": choice})
    # Nor does it say anything else than a choice.
    with pytest.raises(UserError, match="no choice of this question"):
        read_click(Question(kind="doubt", choices=CHOICES), {"verdict": "result", "choice": 0})


@pytest.mark.parametrize(
    ("question", "decision", "said"),
    [
        (CALL, Decision(verdict="answer", answer=1), "can be answered with approve, edit, deny"),
        (CALL, Decision(verdict="deny", always=True), "can be approved once only"),
        (Question(kind="ask", text="?"), Decision(verdict="approve"), "can be answered with answer, stop"),
        (Question(kind="bailout"), Decision(verdict="hint", reason=" "), "hint: write what"),
        (Question(kind="bailout"), Decision(verdict="raise"), "no limit was reached"),
    ],
)
def test_what_is_no_answer_to_this_question_says_what_is(question: Question, decision: Decision, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_decision(question, decision)


@pytest.mark.parametrize(
    ("form", "given", "answer"),
    [
        ("text", "as typed ", "as typed "),
        ("yes_no", "Yes", True),
        ("yes_no", False, False),
        ("number", "12", 12),
        ("number", "1_000.5", 1000.5),
        ("number", 3.5, 3.5),
        ("choice", "b", "b"),
    ],
)
def test_answers_have_the_kind_that_was_asked_for(form: Any, given: Any, answer: Any) -> None:
    question = Question(kind="ask", text="?", form=form, choices=("a", "b"))
    assert check_decision(question, Decision(verdict="answer", answer=given)).answer == answer


@pytest.mark.parametrize(
    ("form", "given", "said"),
    [
        ("yes_no", "perhaps", "answer yes or no"),
        ("number", "many", "answer with a number"),
        ("number", "nan", "answer with a number"),
        ("choice", "c", "choose one of a, b"),
    ],
)
def test_an_answer_of_another_kind_is_refused(form: Any, given: Any, said: str) -> None:
    question = Question(kind="ask", text="?", form=form, choices=("a", "b"))
    with pytest.raises(UserError, match=said):
        check_decision(question, Decision(verdict="answer", answer=given))
