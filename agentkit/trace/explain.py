"""Why a step was live: which part of its key differs from the nearest recording, old and new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from agentkit.events import Run, Step
from agentkit.journal.records import Row
from agentkit.journal.store import Store
from agentkit.tools.inputs import Input, difference, is_absent, is_same, name_of, read_now

_SHOWN = 160
_LOOKED_AT = 50
_SHARE = "it was called with the same arguments in step {}: @agentkit.tool(share=True) lets it reuse that result"
_WITHIN = frozenset({"history", "args", "name", "call"})
"""What differs of a step because the steps before it did."""


class Change(NamedTuple):
    """One ingredient of a step that differs: `old` and `new` are short texts, and equal where only the name says it."""

    part: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.part} has changed" if self.old == self.new else f"{self.part} was {self.old} and is {self.new}"


class Reason(NamedTuple):
    """Why one step did not replay: the recording it was held against, and what differs.

    `follows`: it is live only because an earlier step of the run was. `again` is a recorded call of the same pure tool
    with the same arguments.
    """

    step: Step
    against: int | None
    changes: tuple[Change, ...]
    follows: bool = False
    again: int | None = None

    def __str__(self) -> str:
        head = f"step {self.step.ord} {self.step.kind} {self.step.name}: live"
        if self.step.attempt > 1:
            tries = f"{head}, try {self.step.attempt} of a step whose earlier tries left no result"
            return f"{tries}; possibly paid twice" if self.step.maybe_paid_twice else tries
        if self.against is None:
            return f"{head}, nothing like it was recorded before"
        if not self.changes:
            return f"{head}, the same as step {self.against} but asked again (n, --fresh or a changed effect)"
        parts = "; ".join(map(str, self.changes))
        shared = "" if self.again is None else f"; {_SHARE.format(self.again)}"
        return f"{head}, unlike step {self.against}: {parts}{shared}"


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
    reasons: list[Reason] = []
    for step in steps:
        if not step.replayed:
            reasons.append(_reason(store, step, _counterpart(step, steps, earlier), reasons))
    return reasons


def summarize(store: Store, run: str) -> list[str]:
    """Each cause in a line, how many steps follow from it, and what was replayed without being checked in full."""
    lines: list[str] = []
    following: list[int] = []
    for reason in explain(store, run):
        if reason.follows and reason.again is None:
            following.append(reason.step.ord)
            continue
        lines += [*_format_numbers(following), str(reason)]
        following = []
    lines += _format_numbers(following)
    for event in store.trace(run):
        if not (isinstance(event, Step) and event.run == run and event.replayed):
            continue
        unchecked = (*event.unchecked, *(_missing_inputs(store, event) if event.kind == "tool" else ()))
        if unchecked:
            head = f"step {event.ord} {event.kind} {event.name}"
            lines.append(f"{head}: answered from the record; not checked: {'; '.join(unchecked)}")
    return lines


def _missing_inputs(store: Store, step: Step) -> Iterator[str]:
    """What a replayed step read and what is not here: nobody can say whether it is as it was."""
    row = store.step(step.id)
    for one in () if row is None else _evidence(row).get("inputs", ()):
        if is_absent(found := read_now(one)) and not is_same(one, found):
            yield f"{name_of(one)}, which is not here"


def _format_numbers(steps: Sequence[int]) -> list[str]:
    if not steps:
        return []
    if len(steps) == 1:
        return [f"1 step follows from it ({steps[0]})"]
    return [f"{len(steps)} steps follow from it ({steps[0]} to {steps[-1]})"]


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


def describe_divergence(store: Store, run: Run) -> str | None:
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


def _reason(store: Store, step: Step, other: Step | None, before: Sequence[Reason]) -> Reason:
    new = store.step(step.id)
    old = store.step(other.id) if other is not None else None if new is None else _elsewhere(store, step, new)
    if new is None or old is None:
        return Reason(step, None, (), follows=bool(before) and step.attempt == 1)
    changed = [part for part in sorted({*new.parts, *old.parts}) if new.parts.get(part) != old.parts.get(part)]
    changes = [change for part in changed for change in _changes(store, part, old, new)]
    if new.kind == "tool":
        changes += _outside(store, old, new)
    told = {change for reason in before for change in reason.changes}
    own = [change for part in changed if part not in _WITHIN for change in _changes(store, part, old, new)]
    follows = bool(before) and "history" in changed and told.issuperset(own) and step.attempt == 1
    again = _same_call(store, new) if new.kind == "tool" and new.effects == "none" and "code" not in changed else None
    return Reason(step, old.id, tuple(changes), follows, again)


def _same_call(store: Store, new: Row) -> int | None:
    """A call of the same version of the tool with the same arguments, in another conversation."""
    if "history" not in new.parts:
        return None
    rows = store.nearest(kind="tool", name=new.name, agent=new.agent, before=new.id, limit=_LOOKED_AT)
    same = (
        row
        for row in rows
        if row.status == "done" and all(row.parts.get(n) == new.parts.get(n) for n in ("args", "code"))
    )
    return next((row.id for row in same if row.history != new.history), None)


def _outside(store: Store, old: Row, new: Row) -> Iterator[Change]:
    """Files and variables that are not as the earlier call read them."""
    before = {name_of(one): one for one in _evidence(old).get("inputs", ())}
    for one in _evidence(new).get("inputs", ()):
        name = name_of(one)
        earlier = before.pop(name, None)
        if earlier is not None and not is_same(earlier, one):
            yield _change(name, earlier, one)
    for name, earlier in before.items():
        if not is_same(earlier, read_now(earlier)):
            yield _change(name, earlier, read_now(earlier))


def _change(name: str, old: Input, new: Input) -> Change:
    return Change(name, _state(old), f"{_state(new)}{difference(old, new)}")


def _state(one: Input) -> str:
    if "files" in one:
        return f"{one['count']} files"
    if "folder" in one:
        return f"{one['count']} name{'s' * (one['count'] != 1)}" if "count" in one else "not there"
    if "env" in one:
        return "set" if "sum" in one else "not set"
    return f"{one['size']:,} bytes" if "size" in one else "not there"


def _evidence(row: Row) -> dict[str, Any]:
    return {} if row.evidence is None else cast("dict[str, Any]", json.loads(row.evidence))


def _elsewhere(store: Store, step: Step, new: Row) -> Row | None:
    """The recording most like this one, where the run before did not come this far: of the same call if any."""
    rows = store.nearest(kind=new.kind, name=new.name, agent=new.agent, before=new.id, limit=_LOOKED_AT)
    others = [row for row in rows if row.run != step.run]
    return next((row for row in others if row.slot == new.slot), others[0] if others else None)


def _changes(store: Store, part: str, old: Row, new: Row) -> list[Change]:
    if part == "history" and old.history is not None and new.history is not None:
        return [_first_message(store, old.history, new.history)]
    if part == "code":
        return _code(store, old, new)
    return [Change(part, *_differing_parts(_part(store, old.parts.get(part)), _part(store, new.parts.get(part))))]


def _code(store: Store, old: Row, new: Row) -> list[Change]:
    """What of the tool's code and of the values it reads differs, by name, as deep down as it is known."""
    before, after = _evidence(old).get("reads"), _evidence(new).get("reads")
    if before is None or after is None:
        # Recorded by an earlier agentkit, or it failed: only what the tool itself names is known.
        one, other = (_reads(store, row) for row in (old, new))
        return [Change(name, "", "") for name in sorted({*one, *other}) if one.get(name) != other.get(name)] or [
            Change("code", "", "")
        ]
    nothing = [None, None]
    changed = [
        name for name in sorted({*before, *after}) if before.get(name, nothing)[0] != after.get(name, nothing)[0]
    ]
    deepest = [name for name in changed if not any(other.startswith(f"{name} → ") for other in changed)]
    found = [Change(name, *_texts(before.get(name), after.get(name))) for name in deepest]
    return found or [Change("code", "", "")]


def _texts(old: list[Any] | None, new: list[Any] | None) -> tuple[str, str]:
    if old is None or new is None:
        return ("not read", "read") if old is None else ("read", "not read")
    return (str(old[1]), str(new[1])) if old[1] and new[1] else ("", "")


def _reads(store: Store, row: Row) -> dict[str, Any]:
    digest = row.parts.get("code")
    body = None if digest is None else store.part(bytes.fromhex(digest))
    return {} if body is None else cast("dict[str, Any]", json.loads(body).get("reads", {}))


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


def _differing_parts(old: Any, new: Any) -> tuple[str, str]:
    _, left, right = _first_difference(old, new)
    return _short(left), _short(right)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
