"""Where records come from: made here by this user, brought from a file, or found in a folder from elsewhere.

What is recorded is signed with the user's identity. What a person decided is signed with the place too: the name that
a journal has for one user in one folder, which a copy does not have. A record without such a signature licenses nothing
live, and says where it is from.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, Literal, TypeAlias

from agentkit.journal.identity import VARIABLE, Identity, identity
from agentkit.journal.records import ASKED

Of: TypeAlias = Literal["step", "run", "node", "part"]

ELSEWHERE: Final = "elsewhere"
"""The source of what is not signed by this user, or was signed for another place."""

DIGEST: Final = 32
"""Bytes of a checksum; a signature may follow them."""


def decides(kind: str, settled: str | None) -> bool:
    """Whether a step says what a person decided, so that something may be performed live on the strength of it."""
    return kind in ASKED or settled == "redo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Signs what is recorded in one journal, and tells what is from elsewhere.

    `place` is the name of this journal for this user in this folder, empty where none could be given. `held`: the
    records are from there, and nothing is performed until the user says otherwise. `arrived`: this opening found them
    in a folder they were not made in, and `notice` is what to say of it.
    """

    identity: Identity
    place: bytes = b""
    held: str = ""
    arrived: bool = False
    notice: str = ""

    def sign(self, of: Of, digest: bytes, *, decides: bool = False) -> bytes:
        """The checksum with the signature behind it."""
        return digest + self.identity.sign(*self._pieces(of, digest, decides))

    def is_own(self, of: Of, sum: bytes, *, decides: bool = False) -> bool:
        """Whether this user recorded it; a decision, in this very folder."""
        if decides and not self.place:
            return False
        return self.identity.verify(sum[DIGEST:], *self._pieces(of, sum[:DIGEST], decides))

    def _pieces(self, of: Of, digest: bytes, decides: bool) -> tuple[bytes, ...]:
        return (b"decision", digest, self.place) if decides else (of.encode(), digest)

    def source(self, connection: Connection, of: Of, id: int | str, sum: bytes, *, decides: bool = False) -> str:
        """Where a record is from: the name of a file, ELSEWHERE, or nothing when it was made here."""
        if self.is_own(of, sum, decides=decides):
            return ""
        found = connection.execute("SELECT source, sum FROM origin WHERE record = ?", (f"{of} {id}",)).fetchone()
        if found is None or not self.identity.verify(found[1], *_origin(f"{of} {id}", found[0])):
            return ELSEWHERE
        return str(found[0])

    def bring(self, connection: Connection, of: Of, id: int | str, source: str) -> None:
        """Note that a record, which is not signed, came from `source`."""
        connection.execute(
            "INSERT OR REPLACE INTO origin (record, source, sum) VALUES (?, ?, ?)",
            (f"{of} {id}", source, self.identity.sign(*_origin(f"{of} {id}", source))),
        )


def origin(source: str) -> str:
    """A source in words: `from FILE`, or `elsewhere`."""
    return source if source == ELSEWHERE else f"from {source}"


def explain_restriction(source: str) -> str:
    """Why nothing is performed, and what to do about it."""
    where = origin(source).removeprefix("from ")
    return f"the records here come from {where}, so nothing is performed: `agentkit journal leave` goes live here"


def drop(connection: Connection, of: Of, id: int | str) -> None:
    """The record is gone, or is made here from now on."""
    connection.execute("DELETE FROM origin WHERE record = ?", (f"{of} {id}",))


def find_forgeries(connection: Connection, by: Identity) -> list[str]:
    """The records whose origin is not what this user noted."""
    found = connection.execute("SELECT record, source, sum FROM origin").fetchall()
    return [record for record, source, sum in found if not by.verify(sum, *_origin(record, source))]


def _origin(record: str, source: str) -> tuple[bytes, ...]:
    return b"origin", record.encode("utf-8", "replace"), source.encode("utf-8", "replace")


def count(connection: Connection, provenance: Provenance) -> dict[str, tuple[int, int]]:
    """By source, how many steps are from there, and how many of them are decisions."""
    found: dict[str, tuple[int, int]] = {}
    for id_, kind, settled, sum in connection.execute("SELECT id, kind, settled, sum FROM step"):
        deciding = decides(kind, settled)
        if source := provenance.source(connection, "step", id_, sum, decides=deciding):
            steps, decisions = found.get(source, (0, 0))
            found[source] = (steps + 1, decisions + deciding)
    return found


# ---- the place


def settle(connection: Connection, path: Path, *, writable: bool) -> Provenance:
    """The provenance of the journal at `path`, which is given a name for this user in this folder when it has none."""
    known = identity()
    found, changed = _read_provenance(connection, path, known)
    if not writable or not changed:
        return found
    connection.execute("BEGIN IMMEDIATE")
    try:
        found, changed = _read_provenance(connection, path, known)
        if changed:
            put(connection, path, found)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


def put(connection: Connection, path: Path, provenance: Provenance) -> None:
    seen = json.dumps(_fingerprint(path))
    connection.execute(
        "INSERT OR REPLACE INTO home (identity, place, seen, held, sum) VALUES (?, ?, ?, ?, ?)",
        (
            provenance.identity.name, provenance.place, seen, provenance.held,
            provenance.identity.sign(*_home_fields(provenance.place, seen, provenance.held)),
        ),
    )  # fmt: skip


def _read_provenance(connection: Connection, path: Path, known: Identity) -> tuple[Provenance, bool]:
    """What this opening finds, and whether it is to be kept."""
    row = connection.execute("SELECT place, seen, held, sum FROM home WHERE identity = ?", (known.name,)).fetchone()
    unnamed = Provenance(identity=known, place=secrets.token_bytes(16))
    if row is None or not known.verify(row[3], *_home_fields(*row[:3])):
        if _is_empty(connection):
            return replace(unnamed, notice=_temporary_provenance(known)), True
        return replace(unnamed, held=ELSEWHERE, arrived=True, notice=_foreign(path, known)), True
    place, seen, held = row[0], json.loads(row[1]), row[2]
    now = _fingerprint(path)
    if _same(seen, now):
        kept = Provenance(
            identity=known, place=place, held=held, notice=_describe_restriction(path, held) if held else ""
        )
        return kept, seen != now
    return replace(unnamed, held=held, arrived=True, notice=_describe_copy(path, seen["path"])), True


def _home_fields(place: bytes, seen: str, held: str) -> tuple[bytes, ...]:
    return b"home", place, seen.encode(), held.encode("utf-8", "replace")


def _fingerprint(path: Path) -> dict[str, Any]:
    """What tells this folder from a copy of it."""
    folder, file = path.parent.stat(), path.stat()
    return {
        "path": str(path.parent.resolve()), "device": folder.st_dev, "folder": folder.st_ino, "file": file.st_ino,
        "user": os.getuid(),
    }  # fmt: skip


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether it is the folder it was: renamed, or mounted as another device, it is; extracted anew, it is not."""
    if any(before[name] != now[name] for name in ("folder", "file", "user")):
        return False
    return bool(before["device"] == now["device"] or before["path"] == now["path"])


def _is_empty(connection: Connection) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM step) OR EXISTS (SELECT 1 FROM run)"
    return not connection.execute(query).fetchone()[0]


# ---- what is said of it


def _foreign(path: Path, known: Identity) -> str:
    why = f" (this process cannot know its own: {known.problem}; name a file for its secret with {VARIABLE})"
    return (
        f"{path.parent}: its records are not signed by this user, so they are replayed and nothing is performed "
        f"(mode replay){why if known.problem else ''}. If they are yours, made by an earlier agentkit or on another "
        "machine: `agentkit journal adopt`. To go live without them: `agentkit journal leave`"
    )


def _describe_restriction(path: Path, held: str) -> str:
    return (
        f"{path.parent}: records from {held} are replayed and nothing is performed (mode replay) until you leave that: "
        "`agentkit journal leave`"
    )


def _describe_copy(path: Path, before: str) -> str:
    if before == str(path.parent.resolve()):
        return f"{path.parent}: restored from a copy. Its answers replay; what was decided before is asked again"
    return f"{path.parent}: a copy of {before}. Its answers replay; what was decided there is asked again"


def _temporary_provenance(known: Identity) -> str:
    if not known.problem:
        return ""
    return (
        f"no secret of this user can be kept ({known.problem}): the next process will not know these records as its "
        f"own. Name a file for it that lasts with {VARIABLE}"
    )
