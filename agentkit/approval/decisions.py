"""Questions as they stand in the journal: which are open, what was decided, and what holds from now on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentkit.approval.policy import Decision, Question, check_applies, check_decision
from agentkit.errors import UserError
from agentkit.journal.execution import dumps, shorten
from agentkit.journal.provenance import origin
from agentkit.journal.records import Row
from agentkit.journal.redaction import Redactor
from agentkit.journal.store import Store

_SAID = 200
SHOWN = "question"
"""The part of a key that holds what a person was shown."""


@dataclass(frozen=True, kw_only=True)
class QuestionRecord:
    """A question with what was decided, if anything was."""

    question: Question
    decision: Decision | None
    row: Row

    @property
    def source(self) -> str:
        """Where it was asked and decided, if not here by this user: such a decision lets nothing go live."""
        return self.row.source

    @property
    def waits(self) -> bool:
        """Whether it can be decided here."""
        return self.decision is None and not self.source

    @property
    def id(self) -> str:
        return self.question.id


def read_question(store: Store, row: Row) -> QuestionRecord | None:
    """The question that a step is; None for a step that is none."""
    kept = row.parts.get(SHOWN)
    shown = None if kept is None else store.part(bytes.fromhex(kept))
    if shown is None:
        return None
    decision = None if row.status != "done" or row.body is None else Decision.from_json(json.loads(row.body))
    return QuestionRecord(question=Question.from_json(json.loads(shown), id=str(row.id)), decision=decision, row=row)


def everything(store: Store) -> list[QuestionRecord]:
    """All questions, newest first."""
    return [found for row in store.questions() if (found := read_question(store, row)) is not None]


def find(store: Store, id_: str) -> QuestionRecord:
    """One question; UserError names those that are open."""
    row = store.step(int(id_)) if id_.isdecimal() and len(id_) < 10 else None
    found = None if row is None else read_question(store, row)
    if found is None:
        waiting = ", ".join(one.id for one in everything(store) if one.waits)
        raise UserError(f"no question {id_}: {f'waiting are {waiting}' if waiting else 'nothing waits for a decision'}")
    return found


def find_open(store: Store, id_: str) -> QuestionRecord:
    """One question that can be decided here, or that has been; UserError for one that was asked elsewhere."""
    found = find(store, id_)
    if found.source:
        raise UserError(f"question {id_} was asked {origin(found.source)}: run it again to be asked here")
    return found


def decide(store: Store, redactor: Redactor, question: Question, decision: Decision) -> Decision:
    """Put the decision on disk. One that is there already is what holds, and is given back."""
    decision = check_decision(question, decision)
    kept = redactor.scrub_json(decision.to_json())
    try:
        row = store.decide(int(question.id), dumps(kept), said=Decision.from_json(kept).description).result()
    except UserError:
        row = find(store, question.id).row
        if row.status != "done" or row.source:
            raise
    return Decision.from_json(json.loads(row.body or b"{}"))


def apply_decision(store: Store, redactor: Redactor, question: Question, decision: Decision) -> Decision:
    """A decision made elsewhere, if it can be done; else the question is open again, and UserError says why."""
    arguments, _ = redactor.restore(decision.arguments)
    try:
        check_applies(question, replace(decision, arguments=arguments))
    except UserError as error:
        store.reopen(int(question.id)).result()
        said = shorten(decision.description, _SAID)
        raise UserError(f"question {question.id} was {said}, but {error}; it is open again") from None
    return decision


def find_standing(store: Store, question: Question, *, label: str, caller: str = "") -> Decision | None:
    """The approval that an earlier Always gives: for this very tool, arguments and caller, in this session.

    It was given here, by this user: an Always does not travel.
    """
    if question.kind != "approve" or not question.lasting:
        return None
    for one in everything(store):
        if one.decision is None or not one.decision.always or _asks(one.question) != _asks(question):
            continue
        if one.source:
            continue
        run = store.run(one.row.run)
        if run is not None and run.label == label and run.caller == caller:
            return replace(one.decision, by=f"Always of step {one.id}", always=False, reason="")
    return None


def _asks(question: Question) -> tuple[str, str, Any]:
    return question.tool, question.code, question.arguments


# ---- typed, in a cell or in a shell

_TYPED = ("edit", "deny", "answer", "redo", "stop", "hint", "once", "raise", "finish")


def parse_decision(question: Question, given: Mapping[str, str], *, usage: str) -> Decision:
    """The decision that options say: none of them approves. What is JSON and what is text depends on the question."""
    chosen = [name for name in _TYPED if name in given]
    if len(chosen) > 1:
        raise UserError(f"--{' and --'.join(chosen)}: one of them; {usage}")
    always = "always" in given
    match chosen:
        case []:
            return Decision(verdict="approve", always=always)
        case ["edit"]:
            return Decision(verdict="edit", arguments=_json(given["edit"], option="--edit"), always=always)
        case ["deny"]:
            return Decision(verdict="deny", reason=given["deny"], always=always)
        case ["answer"]:
            return _answer(question, given["answer"])
        case ["hint"]:
            return Decision(verdict="hint", reason=given["hint"])
        case ["redo"]:
            return Decision(verdict="redo")
        case ["once"]:
            return Decision(verdict="once")
        case ["raise"]:
            return Decision(verdict="raise", answer=given["raise"] or None)
        case ["finish"]:
            return Decision(verdict="finish")
        case _:
            return Decision(verdict="stop")


def _answer(question: Question, text: str) -> Decision:
    if question.kind == "doubt":
        return Decision(verdict="result", answer=_json(text, option="--answer"))
    if question.kind == "bailout" and question.form != "text":
        return Decision(verdict="answer", answer=_json(text, option="--answer"))
    return Decision(verdict="answer", answer=text)


def _json(text: str, *, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f'{option} {text}: not JSON ({error}); text needs quotes: "like this"') from error
