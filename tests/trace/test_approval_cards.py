from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentkit.approval.policy import Decision, Question
from agentkit.events import Run, Step
from agentkit.journal.settlements import WAITING
from agentkit.trace import approval_cards, render_html
from agentkit.trace.trace import Trace

OURS = re.compile(r"</?(?:div|b|bdi|pre|span)(?: (?:class|style)=\"[^\"<>]*\")*>")
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
EVIL = '<img src=x onerror="alert(1)">\x1b[31m\u202egnp.exe</pre><script>alert(2)</script>'


def question(**more: Any) -> Question:
    return Question(**{"id": "7", "kind": "approve", "tool": "delete", "arguments": {"ids": [1]}, **more})


@example(text=EVIL, kind="approve")
@example(text="\x7f", kind="approve")
@given(text=st.text(), kind=st.sampled_from(["approve", "ask", "doubt", "bailout"]))
def test_whatever_an_agent_writes_stays_text(text: str, kind: Any) -> None:
    one = question(kind=kind, tool=text, arguments={text: text}, text=text, reason=text, before=(text,), agent=text)
    decision = Decision(verdict="deny", reason=text, by=text)
    for bundle in (approval_cards.open_bundle([one]), approval_cards.decision_bundle([(one, decision)])):
        assert "<" not in OURS.sub("", bundle["text/html"])
        assert not UNSEEN.search(html.unescape(bundle["text/html"]))
        assert not UNSEEN.search(bundle["text/plain"])
    for value in approval_cards.card(one).values():
        assert not isinstance(value, str) or not UNSEEN.search(value)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_arguments_are_shown_as_json_that_reads_back_as_the_same(value: Any) -> None:
    assert json.loads(approval_cards.json_text({"value": value})) == {"value": value}
    assert json.loads(approval_cards.json_text(value)) == value


def test_what_is_long_is_cut_with_its_length_and_cannot_be_edited() -> None:
    card = approval_cards.card(question(arguments={"text": "x" * 1_000_000}))
    assert not card["editable"]
    assert len(card["arguments"]) < 5_000
    assert re.search(r"… \(996,\d\d\d more characters\)$", card["arguments"])
    assert approval_cards.card(question())["editable"]


def test_choices_that_look_alike_are_told_apart_by_their_number() -> None:
    long = "x" * 2_000
    one = question(kind="ask", form="choice", choices=(f"{long}1", f"{long}2", "a\u202eb"))
    shown = approval_cards.card(one)["choices"]
    assert len(set(shown)) == 3 and [text[:3] for text in shown] == ["1. ", "2. ", "3. "]
    assert shown[2] == "3. a\\u202eb" and max(map(len, shown)) < 1_100
    assert approval_cards.card(question(kind="ask", form="choice", choices=("disk", "tape")))["choices"] == [
        "disk",
        "tape",
    ]


def test_one_turn_says_once_what_its_questions_have_in_common() -> None:
    first, second, other = (question(id=id_, reason=why) for id_, why in (("1", "a"), ("2", "a"), ("3", "b")))
    assert [card["reason"] for card in approval_cards.cards([first, second, other])] == ["a", "", "b"]


@pytest.mark.parametrize("kind", ["approve", "ask", "doubt", "bailout"])
def test_an_open_question_says_how_to_answer_by_typing(kind: Any) -> None:
    assert "%agent approve 7 " in approval_cards.open_bundle([question(kind=kind)])["text/plain"]


def test_a_question_that_nobody_decided_waits_in_the_trace_too() -> None:
    run = Run(id="r", agent="a", status="stopped", started=1.0, ended=2.0, error="ApprovalPending: …")
    step = Step(run="r", ord=1, id=7, kind="approval", name="delete", status="cancelled", replayed=False, error=WAITING)
    trace = Trace.of([run, step])
    assert trace.roots[0].state == "waiting"
    assert trace.roots[0].steps[0].state == "waiting"
    shown = render_html.text(trace, now=3.0)
    assert "waiting for you" in shown and WAITING not in shown
