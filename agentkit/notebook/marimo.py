"""agentkit in a marimo notebook: an answer with its panel, and the widget that asks, under the cell that asks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import marimo
from marimo._runtime.control_flow import MarimoStopError

from agentkit.agent.result import Answer, shown_as
from agentkit.approval import decisions
from agentkit.approval.interrupt import pending_error
from agentkit.approval.policy import Decision, Question, read_click
from agentkit.errors import AgentKitError, ApprovalPending
from agentkit.journal.store import Store
from agentkit.notebook.widget import REFUSAL, ask_widget
from agentkit.runtime.session import Session, current, entered
from agentkit.trace import approval_cards, format, render_html
from agentkit.trace.trace import Trace


def attend() -> None:
    """From now on answers are shown with their panel, and the questions of each session in the page."""
    shown_as["marimo"] = _with_panel
    if _attend_session not in entered:
        entered.append(_attend_session)


def _with_panel(answer: Answer) -> tuple[str, str]:
    text = marimo.md(answer._repr_markdown_()).text
    # It is shown when the cell has ended, and with it the session that it opened.
    with Store.open(answer.session.store.path, read_only=True) as store:
        trace = Trace.of(store.trace(answer.run.id))
    return "text/html", text + render_html.html(trace, now=time.time())


def _attend_session() -> None:
    session = current()
    if session is not None and session.asker is None and marimo.running_in_notebook():
        session.asker = _Page(session).ask


class _Waiting(ApprovalPending, MarimoStopError):
    """Ends the cell with the widget in its place; marimo shows of an error nothing else, and runs no cell after it."""

    output: Any


class _Page:
    """The questions of one session in the page of a marimo notebook."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ask(self, questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        """Raise ApprovalPending: marimo hears of no click while a cell runs."""
        card = _Card(self._session, questions)
        error = pending_error(questions)
        error.__class__ = _Waiting
        error.output = marimo.ui.anywidget(card.widget)  # type: ignore[attr-defined]
        raise error


class _Card:
    """The widget of one turn's questions; what is clicked is recorded for the next run of the cell."""

    def __init__(self, session: Session, questions: Sequence[Question]) -> None:
        self._session = session
        self._questions = {question.id: question for question in questions}
        self.widget = ask_widget(approval_cards.cards(questions), self._on_message)

    def _on_message(self, message: object) -> None:
        match message:
            case {"type": "decide", "id": str(id_), **content} if id_ in self._questions:
                self._decide(self._questions[id_], content)

    def _decide(self, question: Question, content: Mapping[Any, Any]) -> None:
        try:
            given = read_click(question, content)
            # The cell has ended, and with it the session that it opened.
            with Store.open(self._session.store.path) as store:
                decision = decisions.decide(store, self._session.redactor, question, given)
        except (AgentKitError, TypeError, ValueError, RecursionError) as error:
            # What the page sends may be anybody's: anything but a decision leaves the question open.
            self.widget.send({"type": "refused", "id": question.id, "text": format.clean(str(error), REFUSAL)})
            return
        served = marimo.app_meta().mode == "run"
        text = approval_cards.format_decision(decision) + ("" if served else ": run the cell again to go on")
        self.widget.settled = {**self.widget.settled, question.id: text}
        # A page that is served has no button to run a cell: loaded again it replays to here and goes on.
        self.widget.again = served and len(self.widget.settled) == len(self._questions)
