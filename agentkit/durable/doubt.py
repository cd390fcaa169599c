"""When an earlier record forbids performing a step unasked, and when it may have been paid for."""

from __future__ import annotations

from agentkit.durable.frames import StepFrame
from agentkit.durable.records import CONTROL_ERROR, LOST, UNPERFORMED, Row
from agentkit.events import Effects


def may_have_been_paid(row: Row) -> bool:
    if row.kind != "model":
        return False
    return (row.error or "").endswith(LOST) or (row.status == "cancelled" and row.error != UNPERFORMED)


def paid_twice(frame: StepFrame) -> bool | None:
    """What the wire says about double payment; None leaves what was assumed when the step was begun."""
    if frame.arrivals is None:
        return None
    if frame.arrivals.lost_and_asked_again:
        return True
    return frame.paid_before if frame.arrivals.answered else None


def doubt(row: Row, effects: Effects, *, edited: bool) -> str | None:
    """Why an earlier record of this step forbids performing it unasked; None when it may be performed."""
    if edited:
        return "ran before and its code or data has changed since"
    if row.status != "started" and (row.error or "").startswith(CONTROL_ERROR):
        return None
    if row.status == "failed" and effects != "once":
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
        case "done":
            return None
