"""What is written before a live step, from the call and the run it is made in; and what else was ever like it."""

from __future__ import annotations

from collections.abc import Callable

from agentkit.journal.execution import Operation, RunFrame, current_step, shorten
from agentkit.journal.records import Intent, Row
from agentkit.journal.store import Store
from agentkit.journal.uncertain_steps import may_have_cost


def intent_of(
    call: Operation,
    run: RunFrame,
    before: Row | None,
    *,
    n: int,
    ord: int,
    redo: bool,
    owner: str,
    scrub: Callable[[str], str],
    unsent: Callable[[Row], bool],
) -> Intent:
    """The intent of `call`, the `n`-th equal one, by `owner`; `before` is what is on record of it."""
    outer = current_step.get()
    return Intent(
        key=call.key.key,
        n=n,
        slot=call.key.slot,
        kind=call.kind,
        name=call.name,
        effects=call.effects,
        agent=run.agent,
        run=run.id,
        ord=ord,
        parent=None if outer is None else outer.row.id,
        parts=call.key.parts,
        request=shorten(scrub(call.request)),
        history=call.history,
        model=call.model,
        nodes=call.nodes(),
        bodies=call.key.bodies,
        fresh=run.fresh or run.mode == "live",
        redo=redo,
        paid_before=before is not None and may_have_cost(before) and not unsent(before),
        abandoned=before is not None and before.status == "started" and before.owner == owner,
    )


def missing(store: Store, call: Operation, run: RunFrame, own: Row | None) -> str:
    """In one line, why `call` has no answer on record: `own` has none, or which parts of the nearest key differ."""
    if own is not None:
        why = f" ({own.error.splitlines()[0]})" if own.error else ""
        return f"its recording is step {own.id}, which is {own.status}{why}: only what is done is replayed"
    rows = store.nearest(kind=call.kind, name=call.name, agent=run.agent, limit=1)
    if not rows:
        return f"nothing is recorded for {call.name} of {run.agent}"
    changed = [part for part, value in call.key.parts.items() if rows[0].parts.get(part) != value]
    return f"the nearest recording is step {rows[0].id}; different: {', '.join(changed) or 'its place (n)'}"
