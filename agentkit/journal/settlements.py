"""What a person decided, written to the row of the question: by whoever is asked, from whatever process."""

from __future__ import annotations

import json
import time

from agentkit.errors import UserError
from agentkit.journal.provenance import origin
from agentkit.journal.records import ASKED, Row
from agentkit.journal.row_codec import FORGOTTEN, text
from agentkit.journal.transactions import Writing, reseal

WAITING = "nobody has decided yet"
"""Ends the attempt of a question that was left open."""


def decide(to: Writing, step: int, *, body: bytes, said: str) -> Row:
    """Put the decision on a question that is open, whether or not somebody waits for it now."""
    row = _question(to, step)
    if row.source:
        raise UserError(f"step {step} ({row.name}) was asked {origin(row.source)}: run it again to be asked here")
    if row.status == "done" or row.settled == FORGOTTEN:
        raise UserError(f"step {step} ({row.name}) is decided already: {row.result or 'forgotten'}")
    to.connection.execute(
        "UPDATE step SET status = 'done', error = NULL, ended = ?, result = ? WHERE id = ?",
        (time.time(), text(said), step),
    )
    to.connection.execute("INSERT OR REPLACE INTO body (step, body, shown) VALUES (?, ?, NULL)", (step, body))
    reseal(to, step)
    return to.row(step)


def reopen(to: Writing, step: int) -> Row:
    """What was decided cannot be done: the question is open again. One from elsewhere stays as it is."""
    row = _question(to, step)
    if row.source:
        return row
    to.connection.execute(
        "UPDATE step SET status = 'cancelled', error = ?, result = '' WHERE id = ?",
        (WAITING, step),
    )
    to.connection.execute("DELETE FROM body WHERE step = ?", (step,))
    reseal(to, step)
    return to.row(step)


def withdraw(to: Writing, step: int) -> Row:
    """The decision holds for its own step only from now on."""
    row = _question(to, step)
    decision = {} if row.body is None else json.loads(row.body)
    if row.source or row.status != "done" or not decision.pop("always", False):
        raise UserError(f"step {step} ({row.name}) is no standing approval: `agentkit approvals ls` lists those")
    body = json.dumps(decision, ensure_ascii=False, separators=(",", ":")).encode()
    to.connection.execute("UPDATE body SET body = ? WHERE step = ?", (body, step))
    to.connection.execute(
        "UPDATE step SET result = ? WHERE id = ?", (row.result.removesuffix(", always") + ", withdrawn", step)
    )
    reseal(to, step)
    return to.row(step)


def _question(to: Writing, step: int) -> Row:
    row = to.row(step)
    if row.kind not in ASKED:
        raise UserError(
            f"step {step} ({row.name}) is a {row.kind} step, not a question: `agentkit approvals ls` lists those"
        )
    return row
