"""The journal of one project: what was done, on disk, before anybody acts on it."""

from __future__ import annotations

import atexit
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from agentkit.errors import JournalError
from agentkit.events import Event, Kind, Run, Step
from agentkit.journal import (
    answers,
    database,
    database_errors,
    maintenance,
    owner,
    provenance,
    queries,
    settlements,
    totals,
    transactions,
)
from agentkit.journal.answers import Means, RowAnswer
from agentkit.journal.identity import identity
from agentkit.journal.maintenance import Selection
from agentkit.journal.owner import Owner
from agentkit.journal.provenance import Provenance
from agentkit.journal.queries import Needed, RecordSource
from agentkit.journal.records import Claim, Intent, MessageNode, Outcome, Row, Use
from agentkit.journal.response_store import ResponseStore
from agentkit.journal.row_codec import FORGOTTEN
from agentkit.journal.storage import StorageLocation, on_network
from agentkit.journal.totals import Totals
from agentkit.journal.transactions import Settlement, Writing
from agentkit.journal.writer import Urgency, Writer

T = TypeVar("T")


class Store:
    """Reads answer at once on any thread; writes return a future that resolves once they are on disk."""

    def __init__(self, place: StorageLocation, *, read_only: bool, exclusive: bool) -> None:
        self.path = place.path
        self.inbox = ResponseStore(place.path.parent / "inbox")
        self.read_only = read_only
        self._place = place
        self._exclusive = exclusive
        self._closed = False
        self._owner: Owner | None = None
        self._reader: sqlite3.Connection | None = None
        self._provenance = Provenance(identity=identity())
        self._new_locks()

    def _new_locks(self) -> None:
        # Order: door before gate. The writer's thread takes the gate only, so it can be joined from behind the door.
        self._door = threading.RLock()
        # Its own lock: the writer's thread asks for the owner's id while somebody behind the door waits for it to end.
        self._naming = threading.Lock()
        self._gate = threading.RLock()
        guard = self._gate if self._exclusive else nullcontext()
        self._writer = Writer(self._place, connect=self._open_writing, guard=guard, shared=self._exclusive)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, exclusive: bool | None = None) -> Store:
        """Open the journal file at `path`, making it when it is not there. `exclusive` None asks the file system."""
        path = Path(os.path.abspath(path))
        try:
            alone = on_network(path) if exclusive is None else exclusive
            store = cls(StorageLocation(path), read_only=read_only, exclusive=alone and not read_only)
            store._start()
        except (sqlite3.Error, OSError) as error:
            raise database_errors.translate(error, path) from error
        _stores.add(store)
        return store

    def _start(self) -> None:
        if self.read_only:
            self._reader = database.open_to_read(self.path)
            self._provenance = provenance.settle(self._reader, self.path, writable=False)
            return
        self._reader = database.open_to_write(self._place, exclusive=self._exclusive)
        self._provenance = provenance.settle(self._reader, self.path, writable=True)
        owner.sweep(self._place.owners)
        self._owner = Owner(self._place.owners)
        if self._provenance.arrived:
            self.inbox.clear()
        self.inbox.sweep(self.find)

    def close(self) -> None:
        """Write what waits and let go. What was noted and cannot be written is raised, after everything is closed."""
        with self._door:
            if self._closed:
                return
            self._closed = True
            _stores.discard(self)
            lost = self._rest()
            if self._owner is not None:
                self._owner.release()
                self._owner = None
        if lost:
            raise JournalError(
                self.path, f"{lost} replayed steps could not be noted", "the answers themselves are kept"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def owner(self) -> str:
        """The id under which this process writes; a forked child has its own. Empty where nothing can be written."""
        if self.read_only:
            return ""
        with self._naming:
            if self._owner is None:
                self._owner = Owner(self._place.owners)
            return self._owner.id

    def is_alive(self, owner_id: str) -> bool:
        return owner.is_alive(self._place.owners, owner_id)

    # ---- where records come from

    @property
    def replay_only_reason(self) -> str:
        """What the records here were brought from, while they are to be replayed only; empty when not."""
        return self._provenance.held

    @property
    def notice(self) -> str:
        """What this opening found out about where the records come from, if a person should know."""
        return self._provenance.notice

    def hold(self, source: str) -> None:
        """Sessions replay and perform nothing from now on, at every opening, because records are from `source`."""
        self._hold(source)

    def leave(self) -> None:
        """Go live here again; what is from elsewhere is not replayed then."""
        self._hold("")

    def adopt(self) -> int:
        """Take all records here for this user's own, but for what was decided; says how many steps."""
        count = self._tell(maintenance.adopt).result()
        self._hold("")
        return count

    def sources(self) -> dict[str, tuple[int, int]]:
        """By source, how many steps are from elsewhere, and how many of them are decisions."""
        return self._ask(lambda source: provenance.count(source.connection, source.provenance))

    def bring(self, nodes: Sequence[MessageNode], source: str) -> Future[None]:
        """Put messages from `source` where there are none yet."""
        return self._tell(lambda to: transactions.put_nodes(to, nodes, source=source))

    def _hold(self, source: str) -> None:
        changed = replace(self._provenance, held=source, notice="")
        self._tell(lambda to: provenance.put(to.connection, to.path, changed)).result()
        self._provenance = changed

    # ---- reads

    def find(self, key: bytes, n: int) -> Row | None:
        """The newest record of the `n`-th request `key`, whatever its status; None when there is none to be used."""
        row = self._ask(lambda source: queries.one(source, queries.NEWEST, (key, n)))
        return None if row is None or row.settled == FORGOTTEN else row

    def find_slot(self, slot: bytes, n: int) -> Row | None:
        """The newest finished record of this slot."""
        return self._ask(lambda source: queries.one(source, queries.BY_SLOT, (slot, n)))

    def step(self, id: int) -> Row | None:
        return self._ask(lambda source: queries.one(source, queries.BY_ID, (id,)))

    def has_message(self, digest: bytes) -> bool:
        return self._ask(lambda source: queries.has_message(source, digest))

    def messages(self, digest: bytes) -> list[bytes]:
        """The bodies of the conversation that ends in `digest`, oldest first."""
        return self._ask(lambda source: queries.messages(source, digest))

    def part(self, digest: bytes) -> bytes | None:
        return self._ask(lambda source: queries.part(source, digest))

    def evidence(self, step: int) -> bytes | None:
        """What a step read from outside, as it was written; None where nothing was."""
        return self._ask(lambda source: queries.evidence(source, step))

    def writers(self, path: str) -> list[tuple[int, str]]:
        """The newest steps that wrote the file at `path`, each with the run that performed it."""
        return self._ask(lambda source: queries.writers(source, path))

    def run(self, id: str) -> Run | None:
        return self._ask(lambda source: queries.run(source, id))

    def run_history(self, id: str) -> bytes | None:
        contents = self._ask(lambda source: queries.run_contents(source, id))
        return None if contents is None else contents[0]

    def run_output(self, id: str) -> bytes | None:
        contents = self._ask(lambda source: queries.run_contents(source, id))
        return None if contents is None else contents[1]

    def runs(
        self,
        *,
        agent: str | None = None,
        label: str | None = None,
        top: bool = False,
        limit: int = 100,
        caller: str | None = None,
        thread: str | None = None,
    ) -> list[Run]:
        """Newest first; with `top` only those that no other run contains."""
        return self._ask(
            lambda source: queries.runs(
                source, agent=agent, label=label, top=top, limit=limit, caller=caller, thread=thread
            )
        )

    def rows_of(self, run: str, *, row: int | None = None, limit: int = 100) -> list[Run]:
        """The runs of the rows of a map, oldest first; of one row only, where it is given."""
        return self._ask(lambda source: queries.rows_of(source, run, row=row, limit=limit))

    def labels(self) -> list[str]:
        """The notebooks that have runs here."""
        return self._ask(queries.labels)

    def count(self, *, agent: str | None = None, label: str | None = None, top: bool = False) -> int:
        """How many runs `runs` would give without a limit."""
        return self._ask(lambda source: queries.count(source, agent=agent, label=label, top=top))

    def totals(self, *, agent: str | None = None, label: str | None = None, run: str | None = None) -> Totals:
        """What every run of this agent and notebook adds up to, or one run, with the runs inside them."""
        return self._ask(lambda source: totals.of_all(source, agent=agent, label=label, run=run))

    def totals_by_run(self, runs: Iterable[str]) -> dict[str, Totals]:
        """What each of these runs adds up to, with the runs inside it."""
        ids = json.dumps(list(runs))
        return self._ask(lambda source: totals.of_each(source, ids))

    def steps(self, run: str, *, place: int | None = None) -> list[Step]:
        """The steps of a run in order; the one at `place` only, where it is given."""
        return self._ask(lambda source: queries.steps(source, run, place=place))

    def uses_of(self, run: str, *, since: int, limit: int) -> list[queries.Used]:
        """What stood at each place of a run from the place `since` on, in order."""
        return self._ask(lambda source: queries.uses_of(source, run, since=since, limit=limit))

    def longest_from(self, step: int, *, agent: str, place: int) -> str | None:
        """Of the newer runs of this agent that had this step at this place, the one that came furthest."""
        return self._ask(lambda source: queries.longest_from(source, step, agent=agent, place=place))

    def questions_in(self, run: str, name: str) -> list[Row]:
        """The questions of this name that persons were asked in a run, in order."""
        return self._ask(lambda source: queries.questions_in(source, run, name))

    def any_of(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys under which there is a record of any kind."""
        return self._ask(lambda source: queries.any_of(source, keys))

    def trace(self, run: str) -> list[Event]:
        """The run, its steps in order, and behind each step the runs inside it."""
        return self._ask(lambda source: queries.trace(source, run))

    def in_doubt(self) -> list[Row]:
        """Steps that were started by a process that is gone, and have no recorded end."""
        return self._ask(queries.in_doubt)

    def double_payments(self) -> list[Row]:
        return self._ask(queries.double_payments)

    def nearest(self, *, kind: Kind, name: str, agent: str, before: int | None = None, limit: int = 5) -> list[Row]:
        """The newest recorded steps of this kind, name and agent, of ids below `before`."""
        return self._ask(
            lambda source: queries.nearest(source, kind=kind, name=name, agent=agent, before=before, limit=limit)
        )

    def open_batches(self, name: str) -> list[Row]:
        """The steps of this name of kind `batch` that have no recorded result, oldest first."""
        return self._ask(lambda source: queries.open_batches(source, name))

    def came_with_batch(self, row: Row) -> bool:
        """Whether the result of this step came with a batch, so that nothing was sent for it."""
        return self._ask(lambda source: queries.came_with_batch(source.connection, row))

    def answers(self, slot: bytes, *, since: float) -> list[Row]:
        """The replies to the model request of this slot, by any model, ended since then; newest first."""
        return self._ask(lambda source: queries.answers(source, slot, since=since))

    def questions(self, *, limit: int = 1000) -> list[Row]:
        """The approvals and questions, decided or not, newest first."""
        return self._ask(lambda source: queries.questions(source, limit=limit))

    def row_answers(self, basis: bytes, prompts: Sequence[bytes]) -> list[RowAnswer]:
        """The answers of rows to those of `prompts` (digests) that rest on `basis` and have one."""
        return self._ask(lambda source: list(answers.find(source, basis, prompts)))

    def row_means(self, basis: bytes) -> Means:
        """What a row of this basis took on average, of those that have an answer."""
        return self._ask(lambda source: answers.means(source, basis))

    def dependencies_of(self, runs: Iterable[str]) -> Needed:
        """The rows, messages and parts that these runs and the runs inside them rest on."""
        return self._ask(lambda source: queries.dependencies_of(source, runs))

    def verify(self) -> list[str]:
        """What is wrong with the file, one line each; nothing when every byte is as it was written."""
        return self._ask(maintenance.problems)

    # ---- writes

    def begin(self, intent: Intent) -> Future[Claim]:
        """Put the intent on disk. The call may be made only once this has resolved to a claim that is `mine`."""
        return self._tell(lambda to: transactions.begin(to, intent), "intent")

    def finish(self, outcome: Outcome) -> Future[None]:
        """Put the result on disk; it cannot be cancelled, and room was set aside for it."""
        return self._tell(lambda to: transactions.finish(to, outcome), "result")

    def put(self, intent: Intent, body: bytes) -> Future[int]:
        """Record at once what is decided and not performed; the newest of one key is found. Gives the step's id."""

        def work(to: Writing) -> int:
            step = transactions.begin(to, intent).row.id
            transactions.finish(to, Outcome(step=step, status="done", body=body))
            return step

        return self._tell(work, "result")

    def note(self, uses: Sequence[Use]) -> None:
        """Record replayed steps with the next write; a journal that cannot be written is left as it is."""
        if not self.read_only:
            with self._door:
                self._check_open()
                self._writer.later(uses)

    def flush(self) -> Future[None]:
        """Resolves once everything that was noted is on disk."""
        return self._tell(lambda to: None)

    def open_run(self, run: Run) -> Future[None]:
        return self._tell(lambda to: transactions.put_run(to, run, history=None, output=None))

    def close_run(
        self, run: Run, *, history: bytes | None, output: bytes | None, nodes: tuple[MessageNode, ...] = ()
    ) -> Future[None]:
        def work(to: Writing) -> None:
            transactions.put_nodes(to, nodes, source=run.source)
            transactions.put_run(to, run, history=history, output=output)

        return self._tell(work, "result")

    def put_answer(self, basis: bytes, answer: RowAnswer, codes: Mapping[str, str]) -> Future[bool]:
        """Keep the answer of a row where no walk through its run could come to another one; see `answers.put`."""
        return self._tell(lambda to: answers.put(to, basis, answer, codes))

    def settle(self, step: int, action: Settlement, body: bytes | None = None) -> Future[Row]:
        """What a person decided about a step without a recorded end."""
        return self._tell(lambda to: transactions.settle(to, step, action, body=body))

    def pause(self, steps: tuple[int, ...], *, on: bool) -> Future[None]:
        """Whether a person is waited for inside these steps, so that nothing of theirs is under way."""
        return self._tell(lambda to: transactions.pause(to, steps, on=on))

    def decide(self, step: int, body: bytes, *, said: str) -> Future[Row]:
        """Put a decision on an open question; UserError when there is one already."""
        return self._tell(lambda to: settlements.decide(to, step, body=body, said=said))

    def reopen(self, step: int) -> Future[Row]:
        """Ask again: what was decided cannot be done."""
        return self._tell(lambda to: settlements.reopen(to, step))

    def withdraw(self, step: int) -> Future[Row]:
        """Let a standing approval hold no longer."""
        return self._tell(lambda to: settlements.withdraw(to, step))

    def forget(self, *, run: str | None = None, step: int | None = None, agent: str | None = None) -> Future[int]:
        """Leave tombstones: these steps are never replayed again. The future gives their number."""
        return self._tell(lambda to: transactions.forget(to, run=run, step=step, agent=agent))

    def erase(
        self,
        *,
        run: str | None = None,
        step: int | None = None,
        agent: str | None = None,
        before: float | None = None,
        everything: bool = False,
    ) -> int:
        """Really delete, from the file and from its log, and say how many steps; steps that other runs used stay."""
        chosen = Selection(run=run, step=step, agent=agent, before=before, everything=everything)
        count = self._tell(lambda to: maintenance.erase(to, chosen)).result()
        with self._door:
            self._rest()
            try:
                with closing(database.open_again(self._place, exclusive=self._exclusive)) as connection:
                    maintenance.compact(connection, self.path)
            except sqlite3.Error as error:
                raise database_errors.translate(error, self.path) from error
        self.inbox.sweep(self.find)
        return count

    # ---- behind the doors

    def _ask(self, question: Callable[[RecordSource], T]) -> T:
        with self._gate:
            try:
                return question(RecordSource(self._connection(), self.path, self.is_alive, self._provenance))
            except sqlite3.Error as error:
                raise database_errors.translate(error, self.path) from error

    def _tell(self, work: Callable[[Writing], T], urgency: Urgency = "plain") -> Future[T]:
        if self.read_only:
            return _failure(database_errors.read_only(self.path))
        with self._door:
            self._check_open()
            return self._writer.submit(work, urgency)

    def _check_open(self) -> None:
        if self._closed:
            raise JournalError(self.path, "is closed", "open a session first")

    def _connection(self) -> sqlite3.Connection:
        self._check_open()
        if self._reader is None:
            if self.read_only:
                self._reader = database.open_to_read(self.path)
            else:
                self._reader = database.open_again(self._place, exclusive=self._exclusive)
        return self._reader

    def _open_writing(self) -> Writing:
        connection = self._connection() if self._exclusive else database.second(self._place)
        return Writing(
            connection=connection, path=self.path, owner=self.owner, alive=self.is_alive, unsent=self.inbox.is_unsent,
            provenance=self._provenance,
        )  # fmt: skip

    def _rest(self) -> int:
        """Close the connections and end the writer's thread; the next use starts them again."""
        lost = self._writer.stop()
        with self._gate:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        return lost

    # ---- forks: SQLite's locks must not be carried over, so nothing is open while the process is copied

    def _before_fork(self) -> None:
        self._door.acquire()
        self._rest()
        self._gate.acquire()

    def _after_fork(self) -> None:
        self._gate.release()
        self._door.release()

    def _in_child(self) -> None:
        self._owner = None
        self._new_locks()


def _failure(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_forking: list[Store] = []


def _before_fork() -> None:
    _forking[:] = list(_stores)
    for store in _forking:
        store._before_fork()


def _after_fork() -> None:
    for store in _forking:
        store._after_fork()
    _forking.clear()


def _in_child() -> None:
    owner.forget_parent()
    for store in _forking:
        store._in_child()
    _forking.clear()


def _close_all() -> None:
    for store in list(_stores):
        store.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
atexit.register(_close_all)
