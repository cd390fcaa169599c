"""How records stand in columns, and the checksum that ties the columns of one record together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, NamedTuple

from agentkit.events import Gauge, Run, Step, Usage
from agentkit.journal import database_errors
from agentkit.journal.provenance import DIGEST, Provenance, decides
from agentkit.journal.records import Row
from agentkit.journal.shown_output import in_short

SEALED: Final = (
    "key", "n", "gen", "slot", "kind", "name", "effects", "status", "settled", "history", "reply",
    "input_tokens", "output_tokens", "cost", "nested", "error", "parts", "model",
)  # fmt: skip
_OPEN: Final = ("id", "agent", "run", "parent", "attempt", "owner", "started", "ended", "request", "result", "twice")

_UNSURE: Final = "(SELECT unsure.tokens + 2 * unsure.price FROM unsure WHERE unsure.step = step.id)"

ROW: Final = (
    ", ".join(f"step.{name}" for name in SEALED)
    + ", body.body, body.shown, step.sum, "
    + ", ".join(f"step.{name}" for name in _OPEN)
    + f", {_UNSURE}, input.body, input.sum"
)
"""The columns `row_of` reads, of STORED; the sealed ones come first, then the bodies and the seal."""
STORED: Final = "step LEFT JOIN body ON body.step = step.id LEFT JOIN input ON input.step = step.id"
BODIES: Final = len(SEALED)
SEAL: Final = BODIES + 2

USE: Final = (
    "use.run, use.ord, use.step, use.replayed, use.started, use.ended, use.attempt, step.kind, step.name, step.status, "
    "step.effects, step.started, step.ended, step.input_tokens, step.output_tokens, step.cost, step.attempt, "
    "step.twice, step.request, step.result, step.error, step.run, step.ord, step.parent, step.settled, step.sum, "
    f"{_UNSURE}, input.body, (SELECT body.shown FROM body WHERE body.step = step.id AND step.kind = 'tool')"
)
RUN: Final = "id, data, owner, sum"
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
FORGOTTEN: Final = "forgotten"
MOST_NESTED: Final = 100_000
"""Steps inside one step that a record from elsewhere may tell of: a replay counts them one by one."""
_KEY: Final = re.compile("(?:[0-9a-f]{2})+")


class UseRow(NamedTuple):
    """The columns of USE."""

    run: str
    ord: int
    step: int
    replayed: int
    started: float
    ended: float | None
    attempt: int | None
    kind: Any
    name: str
    status: Any
    effects: Any
    live_started: float
    live_ended: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    newest_attempt: int
    twice: int
    request: str
    result: str
    error: str | None
    live_run: str
    live_ord: int
    parent: int | None
    settled: str | None
    sum: bytes
    unsure: int | None
    evidence: bytes | None
    shown: bytes | None


def seal(values: Sequence[object], *blobs: bytes | None) -> bytes:
    """The sha256 of the values, their order, their types and the blobs."""
    # ascii() and not repr(): what repr() escapes depends on the Unicode tables of the Python that runs.
    shape = [None if blob is None else len(blob) for blob in blobs]
    digest = hashlib.sha256(ascii((*values, shape)).encode())
    for blob in blobs:
        if blob:
            digest.update(blob)
    return digest.digest()


def holds(sum: object, values: Sequence[object], *blobs: object) -> bool:
    """Whether it is the checksum of these; who signed it is another question."""
    if not isinstance(sum, bytes) or not all(blob is None or isinstance(blob, bytes) for blob in blobs):
        return False
    return seal(values, *blobs) == sum[:DIGEST]  # type: ignore[arg-type]


def row_of(values: Sequence[Any], path: Path, connection: Connection, provenance: Provenance) -> Row:
    """The row, once its checksum was seen to hold, and where it is from."""
    if not holds(values[SEAL], values[:BODIES], values[BODIES], values[BODIES + 1]):
        raise database_errors.corrupt(path, f"step {values[SEAL + 1]} does not match its checksum")
    (key, n, gen, slot, kind, name, effects, status, settled, history, reply, *spent, nested, error, parts, model) = (
        values[:BODIES]
    )
    try:
        parts, nested = json.loads(parts), json.loads(nested) if nested else {}
    except ValueError as problem:
        raise database_errors.corrupt(path, f"step {values[SEAL + 1]} cannot be read ({problem})") from problem
    input_tokens, output_tokens, cost = spent
    (
        body, shown, sum, id_, agent, run, parent, attempt, owner, started, ended, request, result, twice, unsure,
        evidence, evidence_sum,
    ) = values[BODIES:]  # fmt: skip
    if evidence is not None and not holds(evidence_sum, (id_,), evidence):
        raise database_errors.corrupt(path, f"what step {id_} read does not match its checksum")
    source = provenance.source(connection, "step", id_, sum, decides=decides(kind, settled))
    if source and not is_countable(nested):
        raise database_errors.corrupt(path, f"step {id_} cannot be read (it says that it performed what no step can)")
    return Row(
        id=id_, key=key, n=n, gen=gen, slot=slot, kind=kind, name=name, effects=effects, agent=agent, run=run,
        parent=parent, status=status, attempt=attempt, owner=owner, started=started, ended=ended,
        parts=parts, request=request, result=result, history=history, body=body,
        usage=usage_of(input_tokens, output_tokens, cost, unsure),
        nested=nested, shown=shown, error=error, settled=settled,
        maybe_paid_twice=bool(twice), model=model, reply=reply, source=source, evidence=evidence,
    )  # fmt: skip


def is_countable(nested: object) -> bool:
    """Whether a record from elsewhere says of the steps inside it what a replay can count: keys, and not too many."""
    if not isinstance(nested, dict):
        return False
    return (
        all(_KEY.fullmatch(key) for key in nested)
        and all(type(times) is int and times >= 0 for times in nested.values())
        and sum(nested.values()) <= MOST_NESTED
    )


def usage_of(
    input_tokens: int | None, output_tokens: int | None, cost: float | None, unsure: int | None
) -> Usage | None:
    if input_tokens is None or output_tokens is None:
        return None
    about = unsure or 0
    return Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cost=cost,
        estimated=bool(about & 1), list_price=bool(about & 2),
    )  # fmt: skip


def columns_of(usage: Usage | None) -> tuple[int | None, int | None, float | None]:
    if usage is None:
        return None, None, None
    return usage.input_tokens, usage.output_tokens, None if usage.cost is None else float(usage.cost)


def step_of(use: UseRow, *, source: str, within: int | None = None) -> Step:
    """What stood at one place of one run. A live use whose attempt was taken over counts for nothing there."""
    replayed = bool(use.replayed)
    overtaken = not replayed and use.attempt is not None and use.attempt < use.newest_attempt
    ended = use.ended if replayed or overtaken else use.live_ended
    took = None if use.live_ended is None else use.live_ended - use.live_started
    # Live, the steps inside a tool's step stand beside it with what they cost.
    counts = not overtaken and (replayed or use.kind == "model")
    return Step(
        run=use.run, ord=use.ord, id=use.step, kind=use.kind, name=use.name,
        status="cancelled" if overtaken else use.status, replayed=replayed, effects=use.effects,
        started=use.started if replayed or overtaken else use.live_started, ended=ended,
        recorded_seconds=None if overtaken else took,
        usage=usage_of(use.input_tokens, use.output_tokens, use.cost, use.unsure) if counts else None,
        attempt=use.attempt or use.newest_attempt,
        # Recorded at this very place and yet replayed: it came from the call cache.
        shared=replayed and (use.live_run, use.live_ord) == (use.run, use.ord),
        maybe_paid_twice=bool(use.twice), request=use.request, result="" if overtaken else use.result,
        error=f"ended without a record; taken over by attempt {use.newest_attempt}" if overtaken else use.error,
        shown="" if overtaken else in_short(use.shown), within=within, source=source,
        unchecked=unchecked_inputs(use.evidence),
    )  # fmt: skip


def unchecked_inputs(evidence: bytes | None) -> tuple[str, ...]:
    """What a step read in ways that nobody could see."""
    try:
        found = json.loads(evidence) if evidence else {}
    except ValueError:
        # A listing does not fail for it: `agentkit journal verify` and a replay say that the file is damaged.
        return ("its record of what it read, which is damaged",)
    return tuple(map(str, found.get("unchecked", ())))


def run_to_json(run: Run) -> str:
    kept = asdict(run)
    # Only where it is known: other runs are as an older agentkit reads them.
    for gauge in kept["gauges"]:
        if gauge["before"] is None:
            del gauge["before"]
    unknown = {name for name in ("caller", "thread") if not kept[name]}
    unknown |= {name for name in ("rows", "row") if kept[name] is None}
    return compact({name: value for name, value in kept.items() if name not in {"id", "source"} | unknown})


def run_of(id_: str, data: str, *, source: str = "") -> Run:
    fields = json.loads(data)
    gauges = tuple(Gauge(**gauge) for gauge in fields.get("gauges", ()))
    return Run(id=id_, **{**fields, "notes": tuple(fields["notes"]), "gauges": gauges, "source": source})


def compact(value: object) -> str:
    return _ENCODER.encode(value)


def text(value: str) -> str:
    """`value` as SQLite can hold it: half of a surrogate pair, which models do send, becomes `?`."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
