"""Waiting for a person in the cell where clicks arrive while it runs, and going on after a later click where not."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from agentkit.approval import decisions
from agentkit.approval.interrupt import pending_error
from agentkit.approval.policy import Decision, Question, read_click
from agentkit.errors import AgentKitError, ApprovalPending
from agentkit.notebook.output import show, shows_at_end
from agentkit.notebook.widget import REFUSAL, ask_widget
from agentkit.runtime.session import Session
from agentkit.trace import approval_cards, format

READY_SECONDS = 3.0
"""How long the front end may take to show the widget and say that its clicks arrive."""

POLL_SECONDS = 0.3
"""How often to look whether somebody decided elsewhere."""

_AGAIN = "run the cell again to continue"

Then = Callable[[], Coroutine[Any, Any, None]]


class Asker:
    """Asks the person in front of this notebook (`session.asker`)."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._asked: list[Asking] = []

    async def ask(self, questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        self._asked = [one for one in self._asked if one.open]
        asking = Asking(self.session, questions)
        self._asked.append(asking)
        return await asking.wait()

    def on_decision(self, error: ApprovalPending, then: Then) -> bool:
        """Go on with `then`, in the context of the cell that asked, once everything `error` waits for is decided.

        Return whether that can be: not where the page has to be loaded again for it.
        """
        found = [asking for asking in self._asked if set(error.steps) <= set(asking.ids)]
        for asking in found:
            asking.go_on_with(then)
        return bool(found) and not shows_at_end()

    def look(self) -> None:
        """Take over what was decided elsewhere, where no cell waits for it."""
        for asking in [one for one in self._asked if one.open]:
            asking.look()


class Asking:
    """The questions of one turn under the cell that asks them."""

    def __init__(self, session: Session, questions: Sequence[Question]) -> None:
        self._then: Then | None = None
        self._session = session
        self._questions = {question.id: question for question in questions}
        self._decisions: dict[str, Decision] = {}
        self._loop = asyncio.get_running_loop()
        # What is shown later belongs under this cell, whichever one runs then.
        self._context = contextvars.copy_context()
        self._news = asyncio.Event()
        self._ready = False
        self._waiting = True
        self._widget = ask_widget(approval_cards.cards(questions), self._on_message)
        bundle = {**approval_cards.open_bundle(questions), **self._widget.view()}
        self._handle = show(bundle, raw=True, display_id=True)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._questions)

    @property
    def open(self) -> bool:
        return len(self._decisions) < len(self._questions)

    async def wait(self) -> tuple[Decision, ...]:
        """The decisions; ApprovalPending when this front end does not deliver clicks now. Stopped, it stays open."""
        patience = time.monotonic() + (0 if shows_at_end() else READY_SECONDS)
        try:
            while self.open:
                if not self._ready and time.monotonic() >= patience:
                    raise pending_error([self._questions[id_] for id_ in self.ids if id_ not in self._decisions])
                await self._on_news()
                self.look()
        finally:
            self._waiting = False
        self._close("")
        return tuple(self._decisions[id_] for id_ in self.ids)

    async def _on_news(self) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
        except TimeoutError:
            return
        self._news.clear()

    def look(self) -> None:
        """Take over what was decided by a verb, by another notebook or on the command line."""
        for id_ in self.ids:
            if id_ not in self._decisions:
                found = decisions.find(self._session.store, id_).decision
                if found is not None:
                    self._take_over(id_, found)

    def _take_over(self, id_: str, decision: Decision) -> None:
        session = self._session
        try:
            made = decisions.apply_decision(session.store, session.redactor, self._questions[id_], decision)
        except AgentKitError as error:
            self._widget.send({"type": "refused", "id": id_, "text": str(error)})
        else:
            self._on_settlement(id_, made)

    # ---- clicks

    def _on_message(self, message: object) -> None:
        # Which thread this is depends on the kernel's version.
        self._loop.call_soon_threadsafe(self._take, message)

    def _take(self, message: object) -> None:
        # What the page sends may be anybody's: anything but a decision leaves the question open.
        match message:
            case {"type": "ready"}:
                self._ready = True
                self._news.set()
            case {"type": "decide", "id": str(id_), **content} if id_ in self._questions:
                try:
                    question = self._questions[id_]
                    self._on_settlement(id_, self._session.decide(question, read_click(question, content)))
                except (AgentKitError, TypeError, ValueError, RecursionError) as error:
                    self._widget.send({"type": "refused", "id": id_, "text": format.clean(str(error), REFUSAL)})

    def _on_settlement(self, id_: str, decision: Decision) -> None:
        self._decisions[id_] = decision
        self._widget.settled = {**self._widget.settled, id_: approval_cards.format_decision(decision)}
        self._news.set()
        if not self._waiting and not self.open:
            if shows_at_end():
                self._widget.again = True
                return
            self._close("" if self._then is not None else _AGAIN)
            self._continue()

    def go_on_with(self, then: Then) -> None:
        self._then = then
        if not self.open and not shows_at_end():
            self._continue()

    def _continue(self) -> None:
        if self._then is not None:
            self._loop.create_task(self._then(), context=self._context.copy())

    def _close(self, after: str) -> None:
        """Nothing that cannot be clicked any more stays in the notebook."""
        pairs = [(self._questions[id_], self._decisions[id_]) for id_ in self.ids]
        self._context.run(self._handle.update, approval_cards.decision_bundle(pairs, after=after), raw=True)
        self._widget.close()
