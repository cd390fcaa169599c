"""A journal that travels: the steps some runs rest on, as one redacted, checksummed file, and back into a journal.

The file is gzipped JSON lines: a head, then runs, steps, uses, messages and parts, then the sha256 of all before it.
Equal records give equal bytes. The checksum finds damage, not forgery: what is attached is marked as from the file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentkit.errors import JournalError
from agentkit.events import Run, Step, Usage
from agentkit.journal import database_errors
from agentkit.journal.archive import BODIES, DIGESTS, FORMAT, KIND, LINE, ROW, Archive, format_line, is_evidence, read
from agentkit.journal.records import ASKED, Intent, MessageNode, Outcome, Part, Row, Use
from agentkit.journal.row_codec import compact
from agentkit.journal.store import Store

SUFFIX: Final = ".agentkit"
_NOTES: Final = 1_000
_NOT_CARRIED: Final = "what it read from outside, which the portable file does not carry"


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
class ArchiveContents:
    """A portable journal in memory; `ends` holds the history and the output of a run, by its id."""

    runs: list[Run] = field(default_factory=list)
    ends: dict[str, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    nodes: list[MessageNode] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


def export(store: Store, runs: Iterable[str], target: Path, scrub: Callable[[str], str]) -> Exported:
    """Write what `runs` (and the runs inside them) rest on to `target`, every text through `scrub` once more."""
    contents = _gather(store, runs)
    packed = _pack(contents, target, scrub)
    if not target.parent.is_dir():
        raise JournalError(target, "cannot be written, its folder is not there", "make the folder or name another")
    forming = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        forming.write_bytes(packed)
        os.replace(forming, target)
    except OSError as error:
        forming.unlink(missing_ok=True)
        raise database_errors.translate(error, target) from error
    return Exported(target, len(contents.runs), len(contents.rows), len(packed))


def attach(path: Path, store: Store) -> Attached:
    """Take the records of the file at `path` into `store`, which only replays from then on (`Store.leave` ends that).

    Steps that `store` has already stay its own.
    """
    with read(path) as archive:
        attaching = _Attaching(archive, store, path.name)
        added, known = attaching.steps()
        attaching.messages()
        runs = attaching.runs()
    if added or runs:
        store.hold(path.name)
    return Attached(runs, added, known)


# ---- writing


def _gather(store: Store, runs: Iterable[str]) -> ArchiveContents:
    wanted = list(runs)
    events = [event for run in wanted for event in store.trace(run)]
    found = {event.id: event for event in events if isinstance(event, Run)}
    needed = store.dependencies_of(wanted)
    # A step without an end answers nothing; the reader's own run begins it anew.
    rows = {row.id: row for row in needed.rows if row.status != "started" and row.settled in (None, "result")}
    uses = {
        (step.run, step.ord): Use(step.run, step.ord, step.id, step.replayed, step.started, step.ended)
        for step in events
        if isinstance(step, Step) and step.id in rows
    }
    used = {use.step for use in uses.values()}
    return ArchiveContents(
        runs=[replace(run, status="stopped") if run.status == "running" else run for run in found.values()],
        ends={id_: (store.run_history(id_), store.run_output(id_)) for id_ in found},
        rows=[rows[id_] for id_ in sorted(used)],
        uses=[uses[place] for place in sorted(uses)],
        nodes=needed.nodes,
        parts=sorted(needed.parts),
    )


def _pack(contents: ArchiveContents, target: Path, scrub: Callable[[str], str]) -> bytes:
    text = io.BytesIO()
    digest = hashlib.sha256()
    for record in _records(contents):
        line = format_line(_scrub_value(record, scrub))
        if len(line) > LINE:
            raise JournalError(target, f"cannot be written, one record has more than {LINE >> 20} MB", "export less")
        digest.update(line)
        text.write(line)
    text.write(format_line({"sha256": digest.hexdigest()}))
    # A fixed time, so that equal records give equal bytes.
    return gzip.compress(text.getvalue(), mtime=0)


def _records(contents: ArchiveContents) -> Iterator[dict[str, Any]]:
    yield {"agentkit": KIND, "format": FORMAT}
    for run in sorted(contents.runs, key=lambda run: (run.started, run.id)):
        history, output = contents.ends[run.id]
        told = {name: value for name, value in asdict(run).items() if name != "source"}
        yield {"run": told, "history": _hex(history), "output": _text(output)}
    for row in map(_without_always, contents.rows):
        # Beside what older readers know; they pass it over.
        beside = {} if row.evidence is None else {"evidence": json.dumps(_without_values(json.loads(row.evidence)))}
        yield {"step": {name: _plain(name, getattr(row, name)) for name in ROW}, **beside}
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


def _without_values(evidence: dict[str, Any]) -> dict[str, Any]:
    """What a step read, without what the values of the person's own names say: their digests are enough."""
    reads = {name: [digest, None] for name, (digest, _) in evidence.get("reads", {}).items()}
    told = {**evidence, "reads": reads}
    # Too much of it for a reader to take from a file: the step is replayed, and says so.
    return told if is_evidence(told) else {"inputs": [], "wrote": [], "unchecked": [_NOT_CARRIED], "reads": {}}


def _plain(name: str, value: Any) -> Any:
    if name in DIGESTS:
        return _hex(value)
    if name in BODIES:
        return _text(value)
    if isinstance(value, Usage):
        # What is sure is written as it always was, so that older readers know all of its names.
        return {name: each for name, each in asdict(value).items() if name not in ("estimated", "list_price") or each}
    return value


def _scrub_value(value: Any, scrub: Callable[[str], str]) -> Any:
    """Each text by itself: inside one line, a body's own escapes would be escaped again and hide a secret."""
    match value:
        case str():
            return scrub(value)
        case dict():
            return {name: _scrub_value(each, scrub) for name, each in value.items()}
        case list() | tuple():
            return [_scrub_value(each, scrub) for each in value]
        case _:
            return value


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


# ---- into a journal


class _Attaching:
    """Says each step again as the intent and the outcome it was, through the doors that every step goes."""

    def __init__(self, archive: Archive, store: Store, source: str) -> None:
        self._archive = archive
        self._store = store
        self._source = source

    def steps(self) -> tuple[int, int]:
        """Gives how many were added, and how many the journal had already."""
        added = known = 0
        for some in self._archive.waves():
            # A later generation follows only one of this file: the reader's own newest answer stays the newest.
            claims = [(row, self._store.begin(self._intent(row, fresh=self._archive.add_row(row)))) for row in some]
            endings = []
            for row, claimed in claims:
                claim = claimed.result()
                self._archive.place(row.id, claim.row.id, added=claim.mine)
                if claim.mine:
                    endings.append(self._store.finish(self._outcome(row, claim.row.id)))
            for ending in endings:
                ending.result()
            added += len(endings)
            known += len(some) - len(endings)
        return added, known

    def messages(self) -> None:
        for some in self._archive.nodes():
            self._store.bring(some, self._source).result()

    def runs(self) -> int:
        """Gives how many the journal did not have."""
        added = 0
        for run, history, output in self._archive.runs():
            if self._store.run(run.id) is not None:
                continue
            for number, use in enumerate(self._archive.uses(run.id), start=1):
                self._store.note([use])
                if number % _NOTES == 0:
                    self._store.flush().result()
            brought = replace(run, source=self._source)
            self._store.close_run(brought, history=history, output=output).result()
            added += 1
        return added

    def _intent(self, row: Row, *, fresh: bool) -> Intent:
        use = self._archive.first_use(row.id)
        parts = (self._archive.part(digest) for digest in row.parts.values())
        return Intent(
            key=row.key, n=row.n, slot=row.slot, kind=row.kind, name=row.name, effects=row.effects, agent=row.agent,
            run=use.run, ord=use.ord, parts=row.parts, request=row.request, history=row.history, model=row.model,
            bodies=tuple(part for part in parts if part is not None), fresh=fresh, source=self._source,
        )  # fmt: skip

    def _outcome(self, row: Row, step: int) -> Outcome:
        use = self._archive.first_use(row.id)
        told = _without_always(row)
        evidence = self._archive.evidence(row.id)
        return Outcome(
            step=step, status=row.status, body=told.body, usage=row.usage, nested=row.nested,
            shown=row.shown, error=row.error, result=told.result, model=row.model,
            node=self._archive.node(row.reply), use=Use(use.run, use.ord, step, False, row.started, row.ended),
            source=self._source, evidence=None if evidence is None else compact(evidence).encode(),
            wrote=tuple(one["path"] for one in (evidence or {}).get("wrote", ())),
        )  # fmt: skip
