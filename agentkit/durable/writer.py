"""The one thread that writes: everything that waits goes to disk in one transaction, with one sync."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from agentkit.durable import changes, faults
from agentkit.durable.changes import Writing
from agentkit.durable.place import Place
from agentkit.durable.records import Use
from agentkit.errors import AgentKitError, JournalFull

T = TypeVar("T")
Urgency = Literal["intent", "result", "plain"]
"""An intent is refused when its result might not fit; a result may use the room set aside and cannot be cancelled."""

_NOTE_SECONDS: Final = 0.5
_BATCH: Final = 256
_CHECKPOINT_BATCHES: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    work: Callable[[Writing], Any]
    urgency: Urgency
    future: Future[Any]


class Writer:
    """`guard` is held while a transaction is open: a lock where reader and writer share a connection."""

    def __init__(
        self, place: Place, *, connect: Callable[[], Writing], guard: AbstractContextManager[object], shared: bool
    ) -> None:
        self._place = place
        self._connect = connect
        self._guard = guard
        self._shared = shared
        self._wake = threading.Condition()
        self._items: list[_Item] = []
        self._uses: list[Use] = []
        self._uses_due = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._batches = 0

    def submit(self, work: Callable[[Writing], T], urgency: Urgency = "plain") -> Future[T]:
        future: Future[T] = Future()
        if urgency == "result":
            # Out of reach of a cancelled task: what was paid for is recorded.
            future.set_running_or_notify_cancel()
        with self._wake:
            self._items.append(_Item(work, urgency, future))
            self._ensure_thread()
            self._wake.notify()
        return future

    def later(self, uses: Sequence[Use]) -> None:
        """Written with the next transaction, or alone after half a second."""
        if not uses:
            return
        with self._wake:
            if not self._uses:
                self._uses_due = time.monotonic() + _NOTE_SECONDS
            self._uses.extend(uses)
            self._ensure_thread()
            self._wake.notify()

    def stop(self) -> None:
        """Write what waits and end the thread; a later `submit` starts another."""
        with self._wake:
            thread, self._stopping = self._thread, True
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._thread, self._stopping = None, False

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="agentkit-journal", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        to: Writing | None = None
        while (batch := self._next()) is not None:
            waiting = [item for item in batch if item.urgency == "result" or item.future.set_running_or_notify_cancel()]
            try:
                with self._guard:
                    to = to or self._connect()
                    self._write(to, waiting)
                    self._checkpoint(to)
            except Exception as error:  # whatever went wrong belongs to those who wait, and the thread must live on
                _fail(waiting, faults.translated(error, self._place.path))
        if to is not None and not self._shared:
            to.connection.close()

    def _next(self) -> list[_Item] | None:
        """What waits now, once something does; None when it is time to end."""
        with self._wake:
            while not self._items:
                if self._stopping:
                    if not self._uses:
                        return None
                    break
                pause = self._uses_due - time.monotonic() if self._uses else None
                if pause is not None and pause <= 0:
                    break
                self._wake.wait(pause)
            batch, self._items = self._items[:_BATCH], self._items[_BATCH:]
            return batch

    def _write(self, to: Writing, batch: list[_Item]) -> None:
        self._place.check()
        batch = self._with_room(to, batch)
        with self._wake:
            uses, self._uses = self._uses, []
        try:
            to.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._keep(uses)
            raise
        if self._together(to, batch, uses):
            return
        # One of them broke the transaction: each alone, so that it breaks only its own.
        self._alone_uses(to, uses)
        for item in batch:
            self._alone(to, item)

    def _with_room(self, to: Writing, batch: list[_Item]) -> list[_Item]:
        if not any(item.urgency == "intent" for item in batch):
            return batch
        try:
            self._place.reserve(to.connection)
        except JournalFull as error:
            _fail([item for item in batch if item.urgency == "intent"], error)
            return [item for item in batch if item.urgency != "intent"]
        return batch

    def _together(self, to: Writing, batch: list[_Item], uses: list[Use]) -> bool:
        settled: list[tuple[_Item, Any, AgentKitError | None]] = []
        try:
            if uses:
                changes.put_uses(to.connection, uses)
            for item in batch:
                settled.append((item, *_guarded(to, item)))
            to.connection.execute("COMMIT")
        except Exception:  # nothing is settled yet; `_alone` meets the same error again and hands it to its owner
            _roll_back(to)
            return False
        for item, value, refusal in settled:
            if refusal is None:
                item.future.set_result(value)
            else:
                item.future.set_exception(refusal)
        return True

    def _alone(self, to: Writing, item: _Item) -> None:
        try:
            value = _transact(to, item.work)
        except Exception as error:  # it belongs to the one who waits
            problem = faults.translated(error, self._place.path)
            if isinstance(problem, JournalFull) and item.urgency == "result" and self._place.give_room():
                self._alone(to, item)
                return
            item.future.set_exception(problem)
            return
        item.future.set_result(value)

    def _alone_uses(self, to: Writing, uses: list[Use]) -> None:
        try:
            _transact(to, lambda to: changes.put_uses(to.connection, uses))
        except sqlite3.Error:
            self._keep(uses)
            raise

    def _keep(self, uses: list[Use]) -> None:
        with self._wake:
            self._uses[:0] = uses
            self._uses_due = time.monotonic() + _NOTE_SECONDS

    def _checkpoint(self, to: Writing) -> None:
        """Between batches, so that nobody waits for it."""
        self._batches += 1
        if self._batches >= _CHECKPOINT_BATCHES:
            self._batches = 0
            to.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _guarded(to: Writing, item: _Item) -> tuple[Any, AgentKitError | None]:
    """A refusal undoes this item alone; an error of SQLite undoes them all."""
    to.connection.execute("SAVEPOINT item")
    try:
        value = item.work(to)
    except AgentKitError as refusal:
        to.connection.execute("ROLLBACK TO item")
        to.connection.execute("RELEASE item")
        return None, refusal
    to.connection.execute("RELEASE item")
    return value, None


def _transact(to: Writing, work: Callable[[Writing], T]) -> T:
    to.connection.execute("BEGIN IMMEDIATE")
    try:
        value = work(to)
        to.connection.execute("COMMIT")
    except BaseException:
        _roll_back(to)
        raise
    return value


def _roll_back(to: Writing) -> None:
    if to.connection.in_transaction:
        to.connection.execute("ROLLBACK")


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)
