"""The moves made in a stepped run, recorded in their order, so that opening it again comes to the same pause."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from agentkit.journal.execution import dumps
from agentkit.journal.records import Intent
from agentkit.journal.redaction import Redactor
from agentkit.journal.store import Store

Verb: TypeAlias = Literal["open", "next", "continue", "back", "goto", "edit"]
By: TypeAlias = Literal["cell", "click", "code"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One move: `n` steps, `into` the agents they call or `out` of one, `to` a step, up to `until`, with an `edit`."""

    verb: Verb
    n: int = 1
    into: bool = False
    out: bool = False
    to: str = ""
    until: str = ""
    edit: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recorded move: who made it, and in which cell."""

    move: Command
    by: By
    cell: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, given: dict[str, Any]) -> Entry:
        return cls(move=Command(**given["move"]), by=given["by"], cell=given["cell"])


@dataclass(kw_only=True, eq=False)
class CommandLog:
    """The recorded moves of one stepping, and how many of them have been made again since it was opened.

    Each is stored under what came before it, the newest winning: another move at the same place begins another way on,
    and the old one is left behind.
    """

    store: Store
    redactor: Redactor
    agent: str
    identity: bytes
    entries: list[Entry] = field(default_factory=list)
    cursor: int = 0

    @classmethod
    def read(cls, store: Store, redactor: Redactor, agent: str, identity: bytes, *, others: bool = False) -> CommandLog:
        """The moves made by this user; those of `others` too, where nothing is performed."""
        log = cls(store=store, redactor=redactor, agent=agent, identity=identity)
        while (row := store.find(log._key(len(log.entries)), 0)) is not None and row.body is not None:
            if row.source and not others:
                break
            log.entries.append(Entry.of_json(redactor.restore(json.loads(row.body))[0]))
        return log

    @property
    def next_entry(self) -> Entry | None:
        """The recorded move that comes next."""
        return self.entries[self.cursor] if self.cursor < len(self.entries) else None

    def knows(self, cell: str) -> bool:
        """Whether this cell has moved a run of this agent before, this one or another."""
        return self.store.find_slot(self._slot(cell), 0) is not None

    def of_cell(self, cell: str | None) -> list[Entry]:
        """The recorded moves of this cell that come next; without an id of the cell, one."""
        found: list[Entry] = []
        for entry in self.entries[self.cursor :]:
            if entry.by != "cell" or entry.cell != cell or (cell is None and found):
                break
            found.append(entry)
        return found

    def clicks(self) -> list[Entry]:
        """The recorded moves that come next and were made by clicks, which no cell makes again."""
        found: list[Entry] = []
        for entry in self.entries[self.cursor :]:
            if entry.by != "click":
                break
            found.append(entry)
        return found

    def add(self, entry: Entry) -> None:
        """The move was made: go over its record, or record it as the new way on from here."""
        if self.next_entry == entry:
            self.cursor += 1
            return
        del self.entries[self.cursor :]
        if not self.store.read_only:
            body = dumps(self._redact(entry))
            intent = Intent(
                key=self._key(self.cursor),
                n=0,
                slot=None if entry.cell is None else self._slot(entry.cell),
                kind="capability",
                name=f"move {entry.move.verb}",
                effects="none",
                agent=self.agent,
                run=f"moves-{self.identity.hex()[:12]}",
                ord=self.cursor,
                fresh=True,
            )
            self.store.put(intent, body).result()
        self.entries.append(entry)
        self.cursor += 1

    def _key(self, place: int) -> bytes:
        before: Sequence[Entry] = self.entries[:place]
        told = [self._redact(entry) for entry in before]
        return hashlib.sha256(b"agentkit moves" + self.identity + dumps(told)).digest()

    def _redact(self, entry: Entry) -> dict[str, Any]:
        """As it is written: an edit may hold a secret."""
        told: dict[str, Any] = self.redactor.scrub_json(entry.as_json())
        return told

    def _slot(self, cell: str) -> bytes:
        return hashlib.sha256(f"agentkit moves {self.agent} {cell}".encode()).digest()
