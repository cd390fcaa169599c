"""What an earlier record of a step forbids or leaves open: done twice, paid twice, changed since."""

from __future__ import annotations

from typing import NamedTuple

from agentkit.events import Effects
from agentkit.journal.execution import StepFrame
from agentkit.journal.provenance import origin
from agentkit.journal.records import CONTROL_ERROR, LOST, PAUSED, UNPERFORMED, Row


class EarlierRecord(NamedTuple):
    """An earlier record of a step; `edited` when it is of another version of the tool, or says `changed`.

    `changed` is which of what it read from outside is not as it was.
    """

    row: Row
    edited: bool
    changed: str | None = None


def doubt(found: EarlierRecord, effects: Effects) -> str | None:
    """Why an earlier record of this step forbids performing it unasked; None when it may be performed."""
    row = found.row
    if found.edited:
        return f"ran before and {found.changed or 'its code or data has changed since'}"
    if row.status != "started" and (row.error or "").startswith(CONTROL_ERROR):
        return None
    if (row.status == "failed" or row.error == PAUSED) and effects != "once":
        return None
    if effects not in ("once", "undeclared"):
        return None
    match row.status:
        case "failed":
            return f"failed before ({row.error}) and may have taken effect"
        case "cancelled":
            return "was stopped while it ran and may have taken effect"
        case "started":
            return "was started and has no recorded end"
        case "done" if row.source:
            return f"was performed before, {origin(row.source)}"
        case "done":
            return None


def may_have_cost(row: Row) -> bool:
    """Whether a request was under way when its record ended."""
    if row.kind != "model":
        return False
    underway = row.status in ("started", "cancelled") and row.error != UNPERFORMED
    return underway or (row.error or "").endswith(LOST)


def is_double_payment(frame: StepFrame) -> bool | None:
    """What the wire says about double payment; None leaves what was assumed when the step was begun."""
    if frame.arrivals is None:
        return None
    if frame.arrivals.lost_and_asked_again:
        return True
    return frame.paid_before if frame.arrivals.answered else None
