"""A journal that travels: the steps some runs rest on, as one redacted, checksummed file, and back into a journal.

The file is gzipped JSON lines: a head, then runs, steps, uses, messages and parts, then the sha256 of all before it.
Equal records give equal bytes. The checksum finds damage, not forgery: attach a file as you would open a notebook.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentkit.durable import faults
from agentkit.durable.records import ASKED, Intent, Node, Outcome, Part, Row, Use
from agentkit.durable.store import Store
from agentkit.errors import JournalCorrupt, JournalError, JournalFormat
from agentkit.events import Run, Step, Usage

FORMAT: Final = 1
SUFFIX: Final = ".agentkit"
_KIND: Final = "agentkit portable journal"
_LIMIT: Final = 1 << 30  # a small file must not unpack to more than a machine holds

_ROW: Final = (
    "id key n gen slot kind name effects agent status started ended parts request result history body usage nested "
    "shown error model reply"
).split()
_DIGESTS: Final = frozenset({"key", "slot", "history", "reply", "digest", "parent"})
_BODIES: Final = frozenset({"body", "shown", "output"})


class Exported(NamedTuple):
    """What was written."""

    path: Path
    runs: int
    steps: int
    size: int


class Attached(NamedTuple):
    """What was taken into the journal; what it had already was left as it is."""

    runs: int
    steps: int
    known: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A portable journal in memory. `history` and `output` of a run stand beside it, by its id."""

    runs: list[Run] = field(default_factory=list)
    ends: dict[str, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


def export(store: Store, runs: Iterable[str], target: Path, scrub: Callable[[str], str]) -> Exported:
    """Write what `runs` (and the runs inside them) rest on to `target`, every text through `scrub` once more."""
    contents = _gather(store, runs)
    packed = _pack(contents, scrub)
    if not target.parent.is_dir():
        raise JournalError(target, "cannot be written, its folder is not there", "make the folder or name another")
    forming = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        forming.write_bytes(packed)
        os.replace(forming, target)
    except OSError as error:
        forming.unlink(missing_ok=True)
        raise faults.translated(error, target) from error
    return Exported(target, len(contents.runs), len(contents.rows), len(packed))


def attach(path: Path, store: Store) -> Attached:
    """Take the records of the file at `path` into `store`, which only replays from then on (`Store.leave` ends that).

    Steps that `store` has already stay its own.
    """
    contents = read(path)
    steps = _add_steps(contents, store, source=path.name)
    new = [run for run in contents.runs if store.run(run.id) is None]
    ids = {run.id for run in new}
    store.note([use._replace(step=steps.places[use.step]) for use in contents.uses if use.run in ids])
    nodes = tuple(contents.nodes)
    waiting = []
    for run in new:
        history, output = contents.ends[run.id]
        brought = replace(run, source=path.name)
        waiting.append(store.close_run(brought, history=history, output=output, nodes=nodes))
        nodes = ()
    for each in waiting:
        each.result()
    if steps.added or new:
        store.hold(path.name)
    return Attached(len(new), steps.added, len(contents.rows) - steps.added)


def read(path: Path) -> Contents:
    """The records in the file at `path`, or a JournalError that says what is wrong with it."""
    lines = _lines(path)
    head = _parsed(lines[0], path)
    if not isinstance(head, dict) or head.get("agentkit") != _KIND:
        raise JournalCorrupt(path, "is not a portable journal", "ask for the file again")
    if not isinstance(head.get("format"), int) or head["format"] > FORMAT:
        raise JournalFormat(
            path, f"has format {head.get('format')}, this agentkit reads up to {FORMAT}", "upgrade jupyter-agentkit"
        )
    _check_sum(lines, path)
    try:
        return _contents(_parsed(line, path) for line in lines[1:-1])
    except (KeyError, TypeError, ValueError) as error:
        raise JournalCorrupt(path, f"has a record that cannot be read ({error!r})", "export it again") from error


# ---- writing


def _gather(store: Store, runs: Iterable[str]) -> Contents:
    wanted = list(runs)
    events = [event for run in wanted for event in store.trace(run)]
    found = {event.id: event for event in events if isinstance(event, Run)}
    needed = store.needed_by(wanted)
    # A step without an end answers nothing; the reader's own run begins it anew.
    rows = {row.id: row for row in needed.rows if row.status != "started" and row.settled in (None, "result")}
    uses = {
        (step.run, step.ord): Use(step.run, step.ord, step.id, step.replayed, step.started, step.ended)
        for step in events
        if isinstance(step, Step) and step.id in rows
    }
    used = {use.step for use in uses.values()}
    return Contents(
        runs=[replace(run, status="stopped") if run.status == "running" else run for run in found.values()],
        ends={id_: (store.run_history(id_), store.run_output(id_)) for id_ in found},
        rows=[rows[id_] for id_ in sorted(used)],
        uses=[uses[place] for place in sorted(uses)],
        nodes=needed.nodes,
        parts=sorted(needed.parts),
    )


def _pack(contents: Contents, scrub: Callable[[str], str]) -> bytes:
    text = io.BytesIO()
    digest = hashlib.sha256()
    for record in _records(contents):
        line = _line(_scrubbed(record, scrub))
        digest.update(line)
        text.write(line)
    text.write(_line({"sha256": digest.hexdigest()}))
    # A fixed time, so that equal records give equal bytes.
    return gzip.compress(text.getvalue(), mtime=0)


def _records(contents: Contents) -> Iterator[dict[str, Any]]:
    yield {"agentkit": _KIND, "format": FORMAT}
    for run in sorted(contents.runs, key=lambda run: (run.started, run.id)):
        history, output = contents.ends[run.id]
        told = {name: value for name, value in asdict(run).items() if name != "source"}
        yield {"run": told, "history": _hex(history), "output": _text(output)}
    for row in map(_without_always, contents.rows):
        yield {"step": {name: _plain(name, getattr(row, name)) for name in _ROW}}
    for use in contents.uses:
        yield {"use": use._asdict()}
    for node in contents.nodes:
        yield {"node": {name: _plain(name, value) for name, value in node._asdict().items()}}
    for part in contents.parts:
        yield {"part": {name: _plain(name, value) for name, value in part._asdict().items()}}


def _without_always(row: Row) -> Row:
    """A standing approval does not travel: what is left of it is the decision about one call."""
    if row.kind not in ASKED or row.body is None or b'"always"' not in row.body:
        return row
    decision = json.loads(row.body)
    decision.pop("always", None)
    body = json.dumps(decision, ensure_ascii=False, separators=(",", ":")).encode()
    return replace(row, body=body, result=row.result.removesuffix(", always"))


def _plain(name: str, value: Any) -> Any:
    if name in _DIGESTS:
        return _hex(value)
    if name in _BODIES:
        return _text(value)
    if isinstance(value, Usage):
        # What is sure is written as it always was, so that older readers know all of its names.
        return {name: each for name, each in asdict(value).items() if name not in ("estimated", "list_price") or each}
    return value


def _scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """Each text by itself: inside one line, a body's own escapes would be escaped again and hide a secret."""
    match value:
        case str():
            return scrub(value)
        case dict():
            return {name: _scrubbed(each, scrub) for name, each in value.items()}
        case list() | tuple():
            return [_scrubbed(each, scrub) for each in value]
        case _:
            return value


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


# ---- reading


def _lines(path: Path) -> list[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            unpacked = file.read(_LIMIT + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JournalCorrupt(path, f"is cut short or damaged ({error})", "copy or export it again") from error
    except FileNotFoundError as error:
        raise JournalError(path, "is not there", "check its name and folder") from error
    except OSError as error:
        raise faults.translated(error, path) from error
    if len(unpacked) > _LIMIT:
        raise JournalCorrupt(path, f"unpacks to more than {_LIMIT >> 20} MB", "export fewer runs")
    lines = unpacked.splitlines(keepends=True)
    if not lines:
        raise JournalCorrupt(path, "is empty", "copy or export it again")
    return lines


def _check_sum(lines: list[bytes], path: Path) -> None:
    last = _parsed(lines[-1], path)
    if not isinstance(last, dict) or "sha256" not in last:
        raise JournalCorrupt(path, "has no checksum at its end", "copy or export it again")
    # Compared as it is written, so that no byte of the file may differ, those of the last line included.
    if lines[-1] != _line({"sha256": hashlib.sha256(b"".join(lines[:-1])).hexdigest()}):
        raise JournalCorrupt(path, "does not match its checksum", "copy or export it again")


def _parsed(line: bytes, path: Path) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise JournalCorrupt(path, f"has a line that is not JSON ({error})", "copy or export it again") from error


def _contents(records: Iterable[Any]) -> Contents:
    contents = Contents()
    for record in records:
        match record:
            case {"run": dict(values), "history": history, "output": output}:
                run = Run(**{**values, "notes": tuple(values["notes"])})
                contents.runs.append(run)
                contents.ends[run.id] = (_bytes("history", history), _bytes("output", output))
            case {"step": dict(values)}:
                contents.rows.append(_row(values))
            case {"use": dict(values)}:
                contents.uses.append(Use(**values))
            case {"node": dict(values)}:
                contents.nodes.append(Node(**{name: _bytes(name, value) for name, value in values.items()}))
            case {"part": dict(values)}:
                contents.parts.append(Part(**{name: _bytes(name, value) for name, value in values.items()}))
            case _:
                raise ValueError(f"unknown record {str(record)[:60]}")
    return contents


def _row(values: dict[str, Any]) -> Row:
    usage = values["usage"]
    made = {name: _bytes(name, values[name]) for name in _ROW}
    return Row(**{**made, "usage": usage and Usage(**usage)}, run="", attempt=1, owner="")


def _bytes(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _DIGESTS:
        return bytes.fromhex(value)
    return str(value).encode() if name in _BODIES else value


# ---- into a journal


class _Steps(NamedTuple):
    places: dict[int, int]
    added: int


def _add_steps(contents: Contents, store: Store, *, source: str) -> _Steps:
    """Through the doors every step goes: an intent, then its result. Gives the new id of each step."""
    carrier = _Carrier(contents, source)
    places: dict[int, int] = {}
    ours: set[tuple[bytes, int]] = set()
    added = 0
    for wave in _generations(contents.rows):
        # A later generation follows only one of this file: the reader's own newest answer stays the newest.
        fresh = {row.id: (row.key, row.n) in ours for row in wave}
        claims = [(row, store.begin(carrier.intent(row, fresh=fresh[row.id]))) for row in wave]
        endings = []
        for row, claim in claims:
            places[row.id] = claim.result().row.id
            if claim.result().mine:
                ours.add((row.key, row.n))
                endings.append(store.finish(carrier.outcome(row, places[row.id])))
        for ending in endings:
            ending.result()
        added += len(endings)
    return _Steps(places, added)


def _generations(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one key in the order they were made, each in a wave of its own: the newest must end up newest."""
    waves: defaultdict[int, list[Row]] = defaultdict(list)
    seen: defaultdict[tuple[bytes, int], int] = defaultdict(int)
    for row in sorted(rows, key=lambda row: (row.gen, row.id)):
        waves[seen[row.key, row.n]].append(row)
        seen[row.key, row.n] += 1
    return [waves[number] for number in sorted(waves)]


class _Carrier:
    """Says each step again as the intent and the outcome it was."""

    def __init__(self, contents: Contents, source: str) -> None:
        self._source = source
        self._parts = {part.digest.hex(): part for part in contents.parts}
        self._nodes = {node.digest: node for node in contents.nodes}
        self._first = {use.step: use for use in reversed(contents.uses)}

    def intent(self, row: Row, *, fresh: bool) -> Intent:
        use = self._first[row.id]
        return Intent(
            key=row.key, n=row.n, slot=row.slot, kind=row.kind, name=row.name, effects=row.effects, agent=row.agent,
            run=use.run, ord=use.ord, parts=row.parts, request=row.request, history=row.history, model=row.model,
            bodies=tuple(self._parts[digest] for digest in row.parts.values() if digest in self._parts), fresh=fresh,
            source=self._source,
        )  # fmt: skip

    def outcome(self, row: Row, step: int) -> Outcome:
        use = self._first[row.id]
        return Outcome(
            step=step, status=row.status, body=row.body, usage=row.usage, nested=row.nested, shown=row.shown,
            error=row.error, result=row.result, model=row.model, node=self._nodes.get(row.reply or b""),
            use=Use(use.run, use.ord, step, False, row.started, row.ended), source=self._source,
        )  # fmt: skip
