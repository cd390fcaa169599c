"""Which model servers are failing, known to all kernels of a user: closed, open, or half-open with one probe."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["closed", "open", "half-open"]

_TABLE = (
    "CREATE TABLE IF NOT EXISTS provider (name TEXT PRIMARY KEY, failures TEXT NOT NULL, opened REAL, "
    "open_for REAL NOT NULL, probe TEXT NOT NULL, probed REAL NOT NULL, why TEXT NOT NULL) WITHOUT ROWID"
)
_LONGEST = 480.0
_PROBE_SECONDS = 120.0
_BACK = 5.0
"""A clock that was set back by more than this says nothing of how long ago something was."""
"""After so long a probe is taken for dead, with the kernel that made it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """So many failures within `window` seconds open it for `open_for` seconds, twice as long after a failed probe."""

    failures: int = 5
    window: float = 60.0
    open_for: float = 30.0


class ProviderOpen(Exception):
    """A server that keeps failing is not asked now."""

    def __init__(self, name: str, *, why: str, seconds: float) -> None:
        self.name, self.why, self.seconds = name, why, seconds
        super().__init__(f"{name} keeps failing ({why}); the next try is in {max(1, round(seconds))} s")


class Ticket(NamedTuple):
    """Who asks a server, and since when."""

    who: str
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Circuit:
    """One server as it stands: times of its failures, since when it is open, and who probes it."""

    failures: tuple[float, ...] = ()
    opened: float | None = None
    open_for: float = 0.0
    probe: str = ""
    probed: float = 0.0
    why: str = ""

    def state(self, now: float) -> State:
        if self.opened is None:
            return "closed"
        return "half-open" if self.probe and self.probed - _BACK < now < self.probed + _PROBE_SECONDS else "open"

    def seconds_until_probe(self, now: float) -> float:
        """Seconds until somebody may ask again; 0 when that is now."""
        if self.opened is None:
            return 0.0
        if self.state(now) == "half-open":
            return max(1.0, self.probed + _PROBE_SECONDS - now)
        return max(0.0, self.opened + self.open_for - now) if now > self.opened - _BACK else 0.0

    def start_probe(self, who: str, now: float) -> Circuit:
        return replace(self, probe=who, probed=now)

    def count_failure(self, ticket: Ticket, why: str, now: float, rules: Rules) -> Circuit:
        if self.opened is not None:
            if self.probe != ticket.who:
                return self
            longer = min(2 * self.open_for, _LONGEST)
            return replace(self, opened=now, open_for=longer, probe="", probed=0.0, why=why)
        if self.failures and ticket.at < self.failures[-1]:
            # Attempts that were under way together and fail together are one failure, however many they are.
            return self
        recent = (*(when for when in self.failures if when > now - rules.window), now)
        if len(recent) < rules.failures:
            return replace(self, failures=recent, why=why)
        said = f"{len(recent)} failures within {rules.window:.0f} s, the last: {why}"
        return Circuit(failures=recent, opened=now, open_for=rules.open_for, why=said)


class Health:
    """The circuits of all servers in one small file; a file that cannot be used means that none is open."""

    def __init__(self, path: Path, *, rules: Rules | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self.rules = rules or Rules()
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def admit(self, name: str) -> Ticket:
        """A ticket to end with `record_success` or `record_failure`; ProviderOpen while the server is not to be
        asked.
        """
        ticket = Ticket(uuid.uuid4().hex, self._clock())
        with suppress(sqlite3.Error):
            self._check(name, ticket)
        return ticket

    def record_success(self, name: str, ticket: Ticket) -> str:
        """What changed by it, in words; empty when nothing did."""
        with suppress(sqlite3.Error):
            return self._record_success(name, ticket)
        return ""

    def record_failure(self, name: str, ticket: Ticket, why: str) -> str:
        """What changed by it, in words; empty when nothing did."""
        with suppress(sqlite3.Error):
            return self._record_failure(name, ticket, why)
        return ""

    def give_up(self, name: str, ticket: Ticket) -> None:
        """Nothing was learnt: another one may probe."""
        with suppress(sqlite3.Error):
            self._give_up(name, ticket)

    # A guess about a server is not worth stopping for: what goes wrong with the file is passed over above.

    def _check(self, name: str, ticket: Ticket) -> None:
        with self._reading() as connection:
            circuit = None if connection is None else self._load(connection, name)
        if circuit is None or circuit.opened is None:
            return
        with self._writing() as connection:
            circuit = None if connection is None else self._load(connection, name)
            if connection is None or circuit is None or circuit.opened is None:
                return
            now = self._clock()
            if (seconds := circuit.seconds_until_probe(now)) > 0:
                raise ProviderOpen(name, why=circuit.why, seconds=seconds)
            self._save(connection, name, circuit.start_probe(ticket.who, now))

    def _record_success(self, name: str, ticket: Ticket) -> str:
        with self._reading() as connection:
            if connection is None or self._load(connection, name) is None:
                return ""
        with self._writing() as connection:
            circuit = None if connection is None else self._load(connection, name)
            # What left before it opened and arrives now says nothing of how the server is.
            if connection is None or circuit is None or (circuit.opened is not None and circuit.probe != ticket.who):
                return ""
            connection.execute("DELETE FROM provider WHERE name = ?", (name,))
        return "" if circuit.opened is None else f"provider half-open → closed: {name} answers again"

    def _record_failure(self, name: str, ticket: Ticket, why: str) -> str:
        with self._writing() as connection:
            if connection is None:
                return ""
            before = self._load(connection, name) or Circuit()
            after = before.count_failure(ticket, why, self._clock(), self.rules)
            self._save(connection, name, after)
        if after.opened is None or after.opened == before.opened:
            return ""
        state = "closed" if before.opened is None else "half-open"
        return f"provider {state} → open: {name}: {after.why}"

    def _give_up(self, name: str, ticket: Ticket) -> None:
        with self._reading() as connection:
            circuit = None if connection is None else self._load(connection, name)
        if circuit is not None and circuit.probe == ticket.who:
            with self._writing() as connection:
                if connection is not None:
                    self._save(connection, name, replace(circuit, probe="", probed=0.0))

    def states(self) -> dict[str, tuple[State, Circuit]]:
        """Every server that failed lately."""
        with self._reading() as connection:
            names = [] if connection is None else [row[0] for row in connection.execute("SELECT name FROM provider")]
            found = {name: self._load(connection, name) for name in names if connection is not None}
        now = self._clock()
        return {name: (circuit.state(now), circuit) for name, circuit in found.items() if circuit is not None}

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- the file

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        with self._lock:
            yield self._open()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection | None]:
        with self._lock:
            connection = self._open()
            if connection is None:
                yield None
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None and self._usable:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                connection = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_TABLE)
            except (OSError, sqlite3.Error):
                self._usable = False
                return None
            self._connection = connection
        return self._connection

    def _load(self, connection: sqlite3.Connection, name: str) -> Circuit | None:
        found = connection.execute(
            "SELECT failures, opened, open_for, probe, probed, why FROM provider WHERE name = ?", (name,)
        ).fetchone()
        if found is None:
            return None
        failures, opened, open_for, probe, probed, why = found
        return Circuit(
            failures=tuple(json.loads(failures)), opened=opened, open_for=open_for, probe=probe, probed=probed, why=why
        )

    def _save(self, connection: sqlite3.Connection, name: str, circuit: Circuit) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO provider VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                json.dumps(circuit.failures),
                circuit.opened,
                circuit.open_for,
                circuit.probe,
                circuit.probed,
                circuit.why,
            ),
        )


def default_path() -> Path:
    """Beside the budgets of the user: losing it costs some requests, nothing else."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state).expanduser() if state else Path.home() / ".local" / "state") / "agentkit" / "providers.db"
