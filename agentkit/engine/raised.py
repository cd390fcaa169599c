"""Limits that a person raised in a run that is replayed: the bars of the replay show them too."""

from __future__ import annotations

from typing import NamedTuple

from pydantic_core import from_json

from agentkit.defend.approval import Decision
from agentkit.defend.budget import Limit, Node, parse
from agentkit.durable.records import Row
from agentkit.durable.store import Store
from agentkit.engine.frame import AgentRunFrame


class Raise(NamedTuple):
    """At the recorded step `step` this limit of a scope was raised to these."""

    step: int
    node: Node
    limit: Limit
    to: tuple[Limit, ...]


class Raises:
    """What was raised in the runs that the steps of one run are replayed from, as it comes to be replayed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()
        self._waiting: list[Raise] = []

    def before(self, step: int, frame: AgentRunFrame) -> list[Raise]:
        """What was raised before this recorded step was performed, and not handed out before."""
        for run in frame.sources - self._known:
            self._known.add(run)
            self._waiting += filter(None, map(self._raise, self._store.asked_in(run, "budget")))
        due = [one for one in self._waiting if one.step < step]
        self._waiting = [one for one in self._waiting if one.step >= step]
        return due

    def _raise(self, row: Row) -> Raise | None:
        about = self._store.part(bytes.fromhex(row.parts["payload"]))
        if row.status != "done" or row.body is None or about is None or row.source:
            return None
        decision, asked = Decision.from_json(from_json(row.body)), from_json(about)
        if decision.verdict != "raise" or not decision.answer:
            return None
        (limit,) = parse(asked["limit"])
        return Raise(row.id, Node(asked["budget"]), limit, parse(str(decision.answer), window=limit.window))
