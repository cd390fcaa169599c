"""The one file of a user in which all kernels reserve what a step may take, and write down what it took."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from agentkit.budget.budget import Amounts, AtLimit, Budget, BudgetScope, Limit, Window, check_tree, dump, load
from agentkit.errors import JournalError
from agentkit.journal import presence

FORMAT: Final = 1
OWNER: Final = "owner"
"""The process that counted in a row last. A file without this column gets it; whoever does not know it can go on."""
TABLES: Final = """
CREATE TABLE IF NOT EXISTS node (
  id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, limits TEXT NOT NULL DEFAULT '', at_limit TEXT NOT NULL DEFAULT '',
  at REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS spent (
  node INTEGER NOT NULL, bucket TEXT NOT NULL, at REAL NOT NULL,
  usd INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, requests INTEGER NOT NULL DEFAULT 0,
  held_usd INTEGER NOT NULL DEFAULT 0, held_tokens INTEGER NOT NULL DEFAULT 0, held_requests INTEGER NOT NULL DEFAULT 0,
  owner TEXT NOT NULL DEFAULT '', PRIMARY KEY (node, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS minute (
  node INTEGER NOT NULL, second INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (node, second)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
  id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, at REAL NOT NULL,
  usd INTEGER NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL, buckets TEXT NOT NULL
);
"""
HOLD: Final = (
    "INSERT INTO spent (node, bucket, at, held_usd, held_tokens, held_requests, owner) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (node, bucket) DO UPDATE SET at = excluded.at, owner = excluded.owner, "
    "held_usd = held_usd + excluded.held_usd, held_tokens = held_tokens + excluded.held_tokens, "
    "held_requests = held_requests + excluded.held_requests"
)
SPEND: Final = (
    "INSERT INTO spent (node, bucket, at, usd, tokens, requests, owner) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (node, bucket) DO UPDATE SET at = excluded.at, owner = excluded.owner, usd = usd + excluded.usd, "
    "tokens = tokens + excluded.tokens, requests = requests + excluded.requests"
)
GIVE_BACK: Final = (
    "UPDATE spent SET held_usd = held_usd - ?, held_tokens = held_tokens - ?, held_requests = held_requests - ? "
    "WHERE node = ? AND bucket = ?"
)


T = TypeVar("T")

VARIABLE: Final = "AGENTKIT_BUDGETS"
_BUSY_SECONDS: Final = 10.0
_MINUTE: Final = 60
_AHEAD: Final = 2
"""A clock that was set back leaves what was counted in the future, which must not be waited for."""
_KEPT_SECONDS: Final = 7 * 24 * 3600.0
_TICK: Final = 0.001
_NOTHING: Final = (0, 0, 0, 0, 0, 0)
_PLACE: Final = {"usd": 0, "tokens": 1, "requests": 2}


def default_path() -> Path:
    """$AGENTKIT_BUDGETS, else `agentkit/budgets.db` in the user's folder for state."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state).expanduser() if state else Path.home() / ".local" / "state") / "agentkit" / "budgets.db"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stand:
    """One window of a scope as a step comes by: its name, when it began, and what was only replayed in it so far.

    `began` is read from `time.monotonic`, which nobody sets.
    """

    id: str
    began: float = field(default_factory=time.monotonic)
    replayed: Amounts = field(default=Amounts())


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """A scope that a step spends from, with the run and the cell that it is part of there."""

    node: BudgetScope
    run: Stand
    cell: Stand


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What is set aside for a step until it is committed or released. `id` is 0 where nothing limits it."""

    id: int
    scopes: tuple[Scope, ...]
    amounts: Amounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """A limit that leaves no room: what was used, what others have set aside, and what was needed.

    `until` is when there may be room again; None when there will be none in this window.
    """

    node: BudgetScope
    limit: Limit
    used: int
    held: int
    need: int
    at_limit: AtLimit | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A limit and what has been used of it. For a run or cell without a name it is the newest one's."""

    node: BudgetScope
    limit: Limit | None
    used: int
    held: int
    at_limit: AtLimit | None


class Ledger:
    """Limits, reservations and spending of all scopes. Work is done on a thread of its own, in the order it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owners = path.with_name(f"{path.name}-owners")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agentkit-budget")
        self._ids: dict[BudgetScope, int] = {}
        self._connection: sqlite3.Connection | None = None
        self._file = 0
        self.owner = ""

    # ---- for the loop

    def later(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` on the ledger's thread."""
        return self._thread.submit(self._translate_errors, work)

    def _translate_errors(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                self.path, f"the budgets cannot be read or written ({error})", f"repair it or set {VARIABLE}=FILE"
            ) from error

    def close(self) -> None:
        """Give back what is still set aside, and the file."""
        self._thread.submit(self._close).result()
        self._thread.shutdown(wait=True)

    def _close(self) -> None:
        if self._connection is None:
            return
        with self._writing() as db:
            self._give_back(db, "owner = ?", self.owner)
        self._connection.close()
        self._connection = None
        presence.leave(self._owners, self.owner)

    # ---- limits

    def set(self, node: BudgetScope, limits: Sequence[Limit], *, at_limit: AtLimit | None = None) -> None:
        """Give a scope these limits and no others. UserError when they contradict those above or below it."""
        with self._writing() as db:
            related = [(other, kept) for other, kept in self._all(db) if other != node and kept.limits]
            check_tree(node, limits, [(other, kept.limits) for other, kept in related])
            id_ = self._id(db, node)
            # After whatever was set before it, also where the clock was set back since.
            at = max(time.time(), _newest(db) + _TICK)
            db.execute(
                "UPDATE node SET limits = ?, at_limit = ?, at = ? WHERE id = ?",
                (dump(limits), at_limit or "", at, id_),
            )

    def budget(self, node: BudgetScope) -> Budget:
        row = self._db.execute("SELECT limits, at_limit FROM node WHERE path = ?", (node,)).fetchone()
        return _budget(*row) if row else Budget()

    def set_at(self, node: BudgetScope) -> float:
        """Return when the limits of a scope were set: unix seconds, and later than whatever was set before."""
        row = self._db.execute("SELECT at FROM node WHERE path = ?", (node,)).fetchone()
        return float(row[0]) if row else 0.0

    def newest(self) -> float:
        """Return when limits were set last, of whichever scope."""
        return _newest(self._db)

    def budgets(self) -> list[tuple[BudgetScope, Budget]]:
        """Every scope that is known, from the user down."""
        return self._all(self._db)

    def _all(self, db: sqlite3.Connection) -> list[tuple[BudgetScope, Budget]]:
        rows = db.execute("SELECT path, limits, at_limit FROM node ORDER BY path").fetchall()
        return [(BudgetScope(path), _budget(limits, at_limit)) for path, limits, at_limit in rows]

    # ---- reserving

    def hold(self, scopes: Sequence[Scope], need: Amounts, *, now: float | None = None) -> Hold:
        """Set `need` aside on every scope, whatever is left there: it cannot be refused any more."""
        when = time.time() if now is None else now
        with self._writing() as db:
            buckets = [
                (id_, _bucket(limit.window, scope, when))
                for scope in scopes
                if (id_ := self._id(db, scope.node))
                for limit in load(db.execute("SELECT limits FROM node WHERE id = ?", (id_,)).fetchone()[0])
                if limit.measure != "seconds"
            ]
            return self._hold(db, scopes, need, buckets, when)

    def reserve(self, scopes: Sequence[Scope], need: Amounts, *, now: float | None = None) -> Hold | Shortfall:
        """Set `need` aside on every scope, or on none: then the limit that leaves no room for it."""
        when = time.time() if now is None else now
        with self._writing() as db:
            found = self._reserve(db, scopes, need, when)
            if isinstance(found, Shortfall) and found.held and self._expire(db):
                found = self._reserve(db, scopes, need, when)
        return found

    def _reserve(self, db: sqlite3.Connection, scopes: Sequence[Scope], need: Amounts, now: float) -> Hold | Shortfall:
        buckets: list[tuple[int, str]] = []
        refused: list[Shortfall] = []
        chosen = ""
        for scope in scopes:
            id_ = self._id(db, scope.node)
            limits, at_limit = db.execute("SELECT limits, at_limit FROM node WHERE id = ?", (id_,)).fetchone()
            # What the agent says holds at the limits above it too.
            chosen = at_limit or chosen
            for limit in load(limits):
                left = _room(db, id_, scope, limit, need, now)
                if left is None:
                    buckets += [] if limit.measure == "seconds" else [(id_, _bucket(limit.window, scope, now))]
                else:
                    refused.append(left)
        if refused:
            # What cannot be waited for decides.
            first = min(refused, key=lambda one: (one.until is not None, -one.node.depth))
            return replace(first, at_limit=chosen or None)  # type: ignore[arg-type]
        return self._hold(db, scopes, need, buckets, now)

    def _hold(
        self,
        db: sqlite3.Connection,
        scopes: Sequence[Scope],
        need: Amounts,
        buckets: Iterable[tuple[int, str]],
        now: float,
    ) -> Hold:
        if not buckets or need == Amounts():
            return Hold(id=0, scopes=tuple(scopes), amounts=need)
        unique = sorted(set(buckets))
        needed = (now, need.usd, need.tokens, need.requests, self.owner)
        db.executemany(HOLD, [(*bucket, *needed) for bucket in unique])
        cursor = db.execute(
            "INSERT INTO held (owner, at, usd, tokens, requests, buckets) VALUES (?, ?, ?, ?, ?, ?)",
            (self.owner, now, need.usd, need.tokens, need.requests, json.dumps(unique)),
        )
        return Hold(id=int(cursor.lastrowid or 0), scopes=tuple(scopes), amounts=need)

    def commit(self, held: Hold, took: Amounts, *, now: float | None = None) -> None:
        """Count what the step really took in place of what was set aside for it."""
        when = time.time() if now is None else now
        with self._writing() as db:
            self._spend(db, held, self._drop(db, held.id) if held.id else (), took, when)

    def commit_part(self, held: Hold, part: Amounts, took: Amounts, *, now: float | None = None) -> None:
        """Count what a part of the step took in place of its part of what was set aside; the rest stays set aside."""
        when = time.time() if now is None else now
        with self._writing() as db:
            self._spend(db, held, self._give_back_part(db, held.id, part) if held.id else (), took, when)

    def _spend(
        self, db: sqlite3.Connection, held: Hold, kept: Iterable[tuple[int, str]], took: Amounts, when: float
    ) -> None:
        buckets = set(kept)
        for scope in held.scopes:
            id_ = self._id(db, scope.node)
            buckets |= {(id_, _bucket(window, scope, amount_at(buckets, id_, when))) for window in _COUNTED}
        spending = [bucket for bucket in sorted(buckets) if bucket[1] != "minute"]
        taken = (when, took.usd, took.tokens, took.requests, self.owner)
        db.executemany(SPEND, [(*bucket, *taken) for bucket in spending])
        for id_, bucket in buckets:
            if bucket == "minute":
                _spend_minute(db, id_, took.tokens, when)

    def release(self, held: Hold) -> None:
        """The step took nothing."""
        if held.id:
            with self._writing() as db:
                self._drop(db, held.id)

    def _drop(self, db: sqlite3.Connection, id_: int) -> list[tuple[int, str]]:
        row = db.execute("SELECT usd, tokens, requests, buckets FROM held WHERE id = ?", (id_,)).fetchone()
        if row is None:
            return []
        usd, tokens, requests, kept = row
        buckets = [(int(node), str(bucket)) for node, bucket in json.loads(kept)]
        db.executemany(GIVE_BACK, [(usd, tokens, requests, *bucket) for bucket in buckets])
        db.execute("DELETE FROM held WHERE id = ?", (id_,))
        return buckets

    def _give_back_part(self, db: sqlite3.Connection, id_: int, part: Amounts) -> list[tuple[int, str]]:
        row = db.execute("SELECT usd, tokens, requests, buckets FROM held WHERE id = ?", (id_,)).fetchone()
        if row is None:
            return []
        back = [min(kept, given) for kept, given in zip(row[:3], (part.usd, part.tokens, part.requests), strict=True)]
        buckets = [(int(node), str(bucket)) for node, bucket in json.loads(row[3])]
        db.executemany(GIVE_BACK, [(*back, *bucket) for bucket in buckets])
        db.execute(
            "UPDATE held SET usd = usd - ?, tokens = tokens - ?, requests = requests - ? WHERE id = ?", (*back, id_)
        )
        return buckets

    def _expire(self, db: sqlite3.Connection) -> bool:
        """Give back what processes that are gone had set aside; whether there was any."""
        owners = [owner for (owner,) in db.execute("SELECT DISTINCT owner FROM held WHERE owner != ?", (self.owner,))]
        gone = [owner for owner in owners if not presence.present(self._owners, owner)]
        for owner in gone:
            self._give_back(db, "owner = ?", owner)
        return bool(gone)

    def _give_back(self, db: sqlite3.Connection, where: str, *values: object) -> None:
        for (id_,) in db.execute(f"SELECT id FROM held WHERE {where}", values).fetchall():
            self._drop(db, id_)

    # ---- reading

    def standings(self, nodes: Iterable[BudgetScope], *, now: float | None = None) -> list[Standing]:
        """How much of each limit of these scopes is used; one without a limit where a scope has none."""
        when = time.time() if now is None else now
        with self._writing() as db:
            self._expire(db)
            return [standing for node in nodes for standing in self._standings(db, node, when)]

    def _standings(self, db: sqlite3.Connection, node: BudgetScope, now: float) -> Iterator[Standing]:
        row = db.execute("SELECT id, limits, at_limit FROM node WHERE path = ?", (node,)).fetchone()
        id_, limits, kept = row or (0, "", "")
        at_limit = _budget("", kept).at_limit
        for limit in load(limits):
            used, held = (0, 0) if limit.measure == "seconds" else _recent_use(db, id_, limit, now)
            yield Standing(node=node, limit=limit, used=used, held=held, at_limit=at_limit)
        if not limits:
            yield Standing(node=node, limit=None, used=0, held=0, at_limit=at_limit)

    def spending(self, node: BudgetScope, window: Window = "total", *, now: float | None = None) -> Amounts:
        """What a scope has spent in total, today or this month, since the ledger exists."""
        when = time.time() if now is None else now
        row = self._db.execute("SELECT id FROM node WHERE path = ?", (node,)).fetchone()
        found = None if row is None else _row(self._db, row[0], _bucket_of(window, when))
        return Amounts() if found is None else Amounts(usd=found[0], tokens=found[1], requests=found[2])

    def under_way(self) -> int:
        """How many reservations there are, of all processes."""
        return int(self._db.execute("SELECT count(*) FROM held").fetchone()[0])

    # ---- the file

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is not None and self._is_missing():
            self._connection.close()
            self._connection = None
            self._ids.clear()
            presence.leave(self._owners, self.owner)
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        # After a power cut the last counts may be missing: what was paid is in the journal, this is the brake.
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA trusted_schema=OFF")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > FORMAT:
            raise JournalError(self.path, "the budgets were written by a newer agentkit", "update agentkit")
        db.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={FORMAT}")
        if OWNER not in [name for _, name, *_ in db.execute("PRAGMA table_info(spent)")]:
            db.execute(f"ALTER TABLE spent ADD COLUMN {OWNER} TEXT NOT NULL DEFAULT ''")
        self._drop_old(db)
        db.execute("COMMIT")
        self.owner = presence.appear(self._owners)
        presence.sweep(self._owners)
        self._file = self.path.stat().st_ino
        return db

    def _drop_old(self, db: sqlite3.Connection) -> None:
        """Remove the counters of runs and cells that ended long ago: a process that lives may still be in its own."""
        now = time.time()
        # What a clock that was ahead has left in the future is as old.
        old = "(at < ? OR at > ?) AND held_requests = 0 AND (bucket LIKE 'run:%' OR bucket LIKE 'cell:%')"
        span = (now - _KEPT_SECONDS, now + _KEPT_SECONDS)
        for (owner,) in db.execute(f"SELECT DISTINCT owner FROM spent WHERE {old}", span).fetchall():
            if not owner or not presence.present(self._owners, owner):
                db.execute(f"DELETE FROM spent WHERE owner = ? AND {old}", (owner, *span))

    def _is_missing(self) -> bool:
        """Whether somebody removed the file, or put another one in its place."""
        try:
            return self.path.stat().st_ino != self._file
        except FileNotFoundError:
            return True

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            self._ids.clear()
            raise
        db.execute("COMMIT")

    def _id(self, db: sqlite3.Connection, node: BudgetScope) -> int:
        known = self._ids.get(node)
        if known is not None:
            return known
        db.execute("INSERT OR IGNORE INTO node (path) VALUES (?)", (node,))
        id_ = int(db.execute("SELECT id FROM node WHERE path = ?", (node,)).fetchone()[0])
        self._ids[node] = id_
        return id_


_COUNTED: tuple[Window, ...] = ("day", "month", "total")


def amount_at(buckets: Iterable[tuple[int, str]], node: int, now: float) -> float:
    """A step counts on the day on which it was reserved, though it ends on the next one."""
    day = next((bucket[4:] for id_, bucket in buckets if id_ == node and bucket.startswith("day:")), None)
    return now if day is None else time.mktime(time.strptime(day, "%Y-%m-%d"))


def _budget(limits: str, at_limit: str) -> Budget:
    return Budget(limits=load(limits), at_limit=at_limit or None)  # type: ignore[arg-type]


def _bucket(window: Window, scope: Scope, now: float) -> str:
    match window:
        case "run":
            return f"run:{scope.run.id}"
        case "cell":
            return f"cell:{scope.cell.id}"
        case _:
            return _bucket_of(window, now)


def _bucket_of(window: Window, now: float) -> str:
    match window:
        case "day":
            return time.strftime("day:%Y-%m-%d", time.localtime(now))
        case "month":
            return time.strftime("month:%Y-%m", time.localtime(now))
        case _:
            return window


def _room(db: sqlite3.Connection, node: int, scope: Scope, limit: Limit, need: Amounts, now: float) -> Shortfall | None:
    """None when there is room for `need` below the limit."""
    stand = scope.run if limit.window == "run" else scope.cell if limit.window == "cell" else None
    if limit.measure == "seconds":
        used = 0 if stand is None else round((time.monotonic() - stand.began) * 1000)
        return None if used < limit.amount else Shortfall(
            node=scope.node, limit=limit, used=used, held=0, need=0
        )  # fmt: skip
    wanted = need.of(limit.measure)
    if wanted == 0:
        return None
    place = _PLACE[limit.measure]
    kept = _row(db, node, _bucket(limit.window, scope, now)) or _NOTHING
    used, held = kept[place], kept[place + 3]
    if limit.window == "minute":
        used = _minute(db, node, now)
    if stand is not None:
        used += stand.replayed.of(limit.measure)
    if used + held + wanted <= limit.amount:
        return None
    until = _until(db, node, limit, used=used, held=held, wanted=wanted, now=now)
    return Shortfall(node=scope.node, limit=limit, used=used, held=held, need=wanted, until=until)


_SOON: Final = 0.05
"""How soon to look again where others may give back what they have set aside."""


def _until(
    db: sqlite3.Connection, node: int, limit: Limit, *, used: int, held: int, wanted: int, now: float
) -> float | None:
    if limit.window != "minute":
        return now + _SOON if used + wanted <= limit.amount else None
    if wanted > limit.amount:
        return None
    surplus = used + wanted - limit.amount
    for second, tokens in db.execute(
        "SELECT second, tokens FROM minute WHERE node = ? AND second > ? AND second <= ? ORDER BY second",
        (node, now - _MINUTE, now + _AHEAD),
    ):
        if surplus <= 0:
            break
        surplus -= tokens
        until = second + _MINUTE
    else:
        return now + _SOON if surplus > 0 or used + wanted <= limit.amount else float(until)
    return now + _SOON if used + wanted <= limit.amount else float(until)


def _newest(db: sqlite3.Connection) -> float:
    return float(db.execute("SELECT max(at) FROM node").fetchone()[0] or 0.0)


def _row(db: sqlite3.Connection, node: int, bucket: str) -> Any:
    return db.execute(
        "SELECT usd, tokens, requests, held_usd, held_tokens, held_requests FROM spent WHERE node = ? AND bucket = ?",
        (node, bucket),
    ).fetchone()


def _minute(db: sqlite3.Connection, node: int, now: float) -> int:
    lately = "SELECT sum(tokens) FROM minute WHERE node = ? AND second > ? AND second <= ?"
    row = db.execute(lately, (node, now - _MINUTE, now + _AHEAD)).fetchone()
    return int(row[0] or 0)


def _spend_minute(db: sqlite3.Connection, node: int, tokens: int, now: float) -> None:
    db.execute("DELETE FROM minute WHERE node = ? AND (second <= ? OR second > ?)", (node, now - _MINUTE, now + _AHEAD))
    # Counted at the end of its second, so that it is let go of a little late and never early.
    db.execute(
        "INSERT INTO minute VALUES (?, ?, ?) "
        "ON CONFLICT (node, second) DO UPDATE SET tokens = tokens + excluded.tokens",
        (node, int(now) + 1, tokens),
    )


def _recent_use(db: sqlite3.Connection, node: int, limit: Limit, now: float) -> tuple[int, int]:
    place = _PLACE[limit.measure]
    if limit.window in ("run", "cell"):
        kept = db.execute(
            "SELECT usd, tokens, requests, held_usd, held_tokens, held_requests FROM spent "
            "WHERE node = ? AND bucket LIKE ? ORDER BY at DESC LIMIT 1",
            (node, f"{limit.window}:%"),
        ).fetchone()
    else:
        kept = _row(db, node, _bucket_of(limit.window, now))
    used, held = (kept or _NOTHING)[place], (kept or _NOTHING)[place + 3]
    return (_minute(db, node, now) if limit.window == "minute" else used), held


_open: dict[tuple[Path, int], Ledger] = {}
_opening = threading.Lock()


def ledger(path: Path | None = None) -> Ledger:
    """The ledger of this process at `path` (default: the user's). A forked process gets one of its own."""
    key = (path or default_path(), os.getpid())
    with _opening:
        if key not in _open:
            _open[key] = Ledger(key[0])
        return _open[key]
