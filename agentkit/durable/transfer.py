"""Records that come from another journal: put in beside the own ones, under new ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agentkit.durable import changes
from agentkit.durable.changes import Writing
from agentkit.durable.records import Node, Part, Row, Use
from agentkit.events import Run


class Conversation(NamedTuple):
    """A run as it ended, with the digest of its messages and its output."""

    run: Run
    history: bytes | None
    output: bytes | None


class Parcel(NamedTuple):
    """What a set of runs rests on, with the runs: all that another journal needs to replay them."""

    runs: Sequence[Conversation]
    uses: Sequence[Use]
    rows: Sequence[Row]
    nodes: Sequence[Node]
    parts: Sequence[Part]


def bring_in(to: Writing, parcel: Parcel) -> int:
    """Add what is not there yet, and say how many steps were added; an own record is never replaced."""
    changes.put_nodes(to.connection, parcel.nodes)
    changes.put_parts(to.connection, parcel.parts)
    ids: dict[int, int] = {}
    added = 0
    for row in sorted(parcel.rows, key=lambda row: row.id):
        own = changes.replayable(to, row.key, row.n)
        if own is None:
            ids[row.id] = changes.copy_row(to, row, parent=None if row.parent is None else ids.get(row.parent))
            added += 1
        else:
            ids[row.id] = own
    known = {run for (run,) in to.connection.execute("SELECT id FROM run")}
    for conversation in parcel.runs:
        if conversation.run.id not in known:
            changes.put_run(to, conversation.run, history=conversation.history, output=conversation.output)
    fresh = [use._replace(step=ids[use.step]) for use in parcel.uses if use.run not in known and use.step in ids]
    changes.put_uses(to.connection, fresh)
    return added
