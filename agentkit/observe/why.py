"""Why a step was live: which part of its key differs from the nearest recording, old and new."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentkit.durable.records import Row
from agentkit.durable.store import Store
from agentkit.events import Run, Step

_SHOWN = 160


class Change(NamedTuple):
    """One ingredient of a key that differs: `old` and `new` are short texts."""

    part: str
    old: str
    new: str


class Reason(NamedTuple):
    """Why one step did not replay: the recording it was held against, and what differs."""

    step: Step
    against: int | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        head = f"step {self.step.ord} {self.step.kind} {self.step.name}: live"
        if self.step.attempt > 1:
            tries = f"{head}, try {self.step.attempt} of a step whose earlier tries left no result"
            return f"{tries}; possibly paid twice" if self.step.maybe_paid_twice else tries
        if self.against is None:
            return f"{head}, nothing like it was recorded before"
        if not self.changes:
            return f"{head}, the same as step {self.against} but asked again (n, --fresh or a changed effect)"
        parts = "; ".join(f"{change.part} was {change.old} and is {change.new}" for change in self.changes)
        return f"{head}, unlike step {self.against}: {parts}"


def explain(store: Store, run: str) -> list[Reason]:
    """A reason for every live step of `run`, in order; empty when all of it was replayed."""
    record = store.run(run)
    if record is None:
        return []
    steps = [event for event in store.trace(run) if isinstance(event, Step) and event.run == run]
    before = previous(store, record)
    earlier = (
        [] if before is None else [e for e in store.trace(before.id) if isinstance(e, Step) and e.run == before.id]
    )
    return [_reason(store, step, _counterpart(step, steps, earlier)) for step in steps if not step.replayed]


def previous(store: Store, run: Run) -> Run | None:
    """The recorded run to hold `run` against: the same prompt first, then the same cell, then the newest."""
    others = [
        other
        for other in store.runs(agent=run.agent, limit=200)
        if other.id != run.id
        and other.started <= run.started
        and (other.parent_run is None) == (run.parent_run is None)
    ]
    for alike in (
        [other for other in others if other.prompt == run.prompt],
        [other for other in others if run.cell is not None and other.cell == run.cell],
        others,
    ):
        if alike:
            return alike[0]
    return None


def diverged(store: Store, run: Run) -> str | None:
    """What a changed run leaves unused: "from step k: m recorded steps unused, …"; None when it replays to its end."""
    before = previous(store, run)
    if before is None or (before.prompt != run.prompt and (run.cell is None or before.cell != run.cell)):
        return None
    steps = [event for event in store.trace(run.id) if isinstance(event, Step) and event.run == run.id]
    first = next((step for step in steps if not step.replayed), None)
    if first is None:
        return None
    used = {step.id for step in steps}
    earlier = [event for event in store.trace(before.id) if isinstance(event, Step) and event.run == before.id]
    unused = [step for step in earlier if step.id not in used]
    # A branch that a person edited is not what this run could have repeated.
    if not unused or any(step.name.startswith("edit ") for step in earlier):
        return None
    costs = [step.usage.cost for step in unused if step.usage is not None and step.usage.cost is not None]
    price = f", the next call costs about ${costs[0]:.4f}" if costs and costs[0] else ""
    return f"diverged: from step {first.ord}: {len(unused)} recorded step{'s' * (len(unused) != 1)} unused{price}"


def _counterpart(step: Step, steps: Sequence[Step], earlier: Sequence[Step]) -> Step | None:
    """The step of the earlier run that this one stands for: the same tool, or the same place among its kind."""
    alike = [
        other for other in earlier if other.kind == step.kind and (step.kind == "model" or other.name == step.name)
    ]
    place = [other for other in steps if other.kind == step.kind and (step.kind == "model" or other.name == step.name)]
    index = place.index(step)
    candidates = [other for other in alike if other.id != step.id]
    if index < len(alike) and alike[index] in candidates:
        return alike[index]
    return candidates[-1] if candidates else None


def _reason(store: Store, step: Step, other: Step | None) -> Reason:
    new = store.step(step.id)
    old = None if other is None else store.step(other.id)
    if new is None or old is None:
        return Reason(step, None, ())
    changed = [part for part in sorted({*new.parts, *old.parts}) if new.parts.get(part) != old.parts.get(part)]
    return Reason(step, old.id, tuple(_change(store, part, old, new) for part in changed))


def _change(store: Store, part: str, old: Row, new: Row) -> Change:
    if part == "history" and old.history is not None and new.history is not None:
        return _first_message(store, old.history, new.history)
    return Change(part, *_differing(_part(store, old.parts.get(part)), _part(store, new.parts.get(part))))


def _part(store: Store, digest: str | None) -> Any:
    if digest is None:
        return None
    try:
        body = store.part(bytes.fromhex(digest))
    except ValueError:
        return digest
    return digest[:12] if body is None else json.loads(body)


def _first_message(store: Store, old: bytes, new: bytes) -> Change:
    before = [json.loads(body) for body in store.messages(old)]
    after = [json.loads(body) for body in store.messages(new)]
    for index, (one, other) in enumerate(zip(before, after, strict=False)):
        path, left, right = _first_difference(_content(one), _content(other))
        if path is not None:
            return Change(f"messages[{index}]{path}", _short(left), _short(right))
    return Change("messages", f"{len(before)} messages", f"{len(after)} messages")


_VOLATILE = {"timestamp", "run_id", "conversation_id", "usage", "provider_response_id", "metadata", "provider_details"}


def _content(message: Any) -> Any:
    if isinstance(message, dict):
        return {name: _content(value) for name, value in message.items() if name not in _VOLATILE}
    if isinstance(message, list):
        return [_content(value) for value in message]
    return message


def _first_difference(old: Any, new: Any, path: str = "") -> tuple[str | None, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            found = _first_difference(old.get(name), new.get(name), f"{path}.{name}")
            if found[0] is not None:
                return found
        return None, None, None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            found = _first_difference(one, other, f"{path}[{index}]")
            if found[0] is not None:
                return found
        return None, None, None
    return (None, None, None) if old == new else (path, old, new)


def _differing(old: Any, new: Any) -> tuple[str, str]:
    _, left, right = _first_difference(old, new)
    return _short(left), _short(right)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
