"""The session: the durable container of a kernel or script, which opens the project's journal and knows its policy."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from agentkit.approval import decisions
from agentkit.approval.policy import HEADLESS_VARIABLE, Decision, Headless, Policy, Question, parse_headless
from agentkit.debugger.debug_registry import DebugRegistry
from agentkit.errors import JournalReadOnly, UserError
from agentkit.events import Event, Mode, Run, Scope
from agentkit.guards.loop_detector import Thresholds
from agentkit.journal.call_cache import CallCache
from agentkit.journal.execution import Execution, dumps
from agentkit.journal.journal import Journal
from agentkit.journal.operation import CallCacheView
from agentkit.journal.records import Row
from agentkit.journal.redaction import Redactor, secrets_of
from agentkit.journal.storage import journal_path
from agentkit.journal.store import Store
from agentkit.journal.totals import Totals
from agentkit.models.relay.client import RelayClient
from agentkit.runtime.executor import RecordingExecutor

_LONGEST_NAME = 200
Asker: TypeAlias = Callable[[tuple[Question, ...]], Awaitable[tuple[Decision, ...] | None]]
"""Asks a person; None when it turns out that there is nobody."""
SettleAction = Literal["redo", "result", "stop"]


def label_from_environment() -> str:
    """The notebook's name as far as it can be known: a label on runs, never part of a key."""
    for variable in ("AGENTKIT_NOTEBOOK", "JPY_SESSION_NAME"):
        if value := os.environ.get(variable):
            return Path(value).stem
    return "default"


def _cache_folder(scope: Literal["user", "shared"]) -> Path:
    if scope == "user":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentkit" / "calls"
    folder = os.environ.get("AGENTKIT_SHARED")
    if not folder:
        raise UserError('share="shared" needs the folder that the team shares: set AGENTKIT_SHARED=FOLDER')
    return Path(folder).expanduser()


@dataclass(frozen=True, kw_only=True)
class Last:
    """The newest run of an agent in this kernel, and the cell it ran in."""

    run: str
    cell: str | None


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """For whom a run is made: its answers are nobody else's. A part of each key where it is known."""

    caller: str | None = None
    thread: str | None = None

    @property
    def parts(self) -> dict[str, str]:
        given = {"caller": self.caller, "thread": self.thread}
        return {name: value for name, value in given.items() if value is not None}


class Session:
    """An open journal with its policy: mode, listeners, the current top-level execution.

    Use it as a context manager (`with` or `async with agentkit.session("name"):`); agents run inside are journaled.
    """

    def __init__(
        self,
        label: str | None = None,
        *,
        path: Path,
        mode: Mode | None = None,
        read_only: bool = False,
        whose: RunIdentity | None = None,
        served: bool = False,
    ) -> None:
        self.whose = whose or RunIdentity()
        self.served = served
        self.label = label or label_from_environment()
        self.folder = path.parent
        self.path = path
        self._mode = mode
        self.model = os.environ.get("AGENTKIT_MODEL") or "offline"
        self.execution = Execution()
        self.last_runs: list[tuple[str, Last]] = []
        self._read_only = read_only
        self._listeners: list[Callable[[Event], None]] = []
        self._caches: dict[Scope, CallCache] = {}
        self._executors: dict[int, ThreadPoolExecutor] = {}
        self.remarks: list[str] = []
        self.bench = DebugRegistry()
        self.policy = Policy()
        self.asker: Asker | None = None
        # Shows a map while it runs; what it is given is an `agentkit.map.map.RowMap`.
        self.map_view: Callable[[Any], AbstractContextManager[None]] | None = None
        self.guards: tuple[Any, ...] = ()
        self.breaker = Thresholds()
        self.show: Callable[[dict[str, Any], str], None] = lambda bundle, source: None

    @cached_property
    def store(self) -> Store:
        try:
            opened = Store.open(self.path, read_only=self._read_only)
        except JournalReadOnly:
            # What is on record needs nobody to write; a live step is refused when it comes to it.
            if self._mode == "live" or not os.path.exists(self.path):
                raise
            opened = Store.open(self.path, read_only=True)
            self.remark(f"{self.path} cannot be written: what is on record is replayed, and no live call is made")
        if opened.notice:
            self.remark(opened.notice)
        return opened

    @property
    def mode(self) -> Mode:
        """How runs are made that do not say it themselves. Where the records are from elsewhere: replay."""
        if self._mode is None:
            return "replay" if self.store.replay_only_reason else "auto"
        return self._mode

    @mode.setter
    def mode(self, value: Mode) -> None:
        self._mode = value

    def leave_replay(self) -> None:
        """Go live although records here are from elsewhere, from now on and in later sessions."""
        if self.store.replay_only_reason and not self.store.read_only:
            self.store.leave()

    @cached_property
    def redactor(self) -> Redactor:
        return Redactor.from_environ(os.environ)

    def keep_secret(self, given: Iterable[tuple[str, str]] = ()) -> None:
        """Keep `given` out of all records, and what the environment holds by now: keys come after the first cell."""
        self.redactor.learn((*given, *secrets_of(os.environ)))

    @cached_property
    def journal(self) -> Journal:
        return Journal(
            self.store,
            redactor=self.redactor,
            emit=self.emit,
            show=lambda *shown: self.show(*shown),
            is_heard=lambda: bool(self._listeners),
        )

    def cache(self, scope: Scope | None) -> CallCacheView | None:
        """The call cache of a scope beyond this project, opened when a step first asks for it."""
        if scope is None or scope == "project":
            return None
        if scope not in self._caches:
            self._caches[scope] = CallCache.open(_cache_folder(scope), scope=scope, report=self.remark)
        return self._caches[scope]

    def remark(self, text: str) -> None:
        """Keep a one-line remark for the person until it is shown (`remarks`)."""
        if text not in self.remarks:
            self.remarks.append(text)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads of sync tools; a forked process has none of its parent's and starts its own."""
        known = self._executors.get(os.getpid())
        if known is None:
            known = RecordingExecutor(max_workers=64, thread_name_prefix="agentkit-tool")
            known = self._executors.setdefault(os.getpid(), known)
        return known

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every change of a run or step, from any thread; returns the function that ends it."""
        self._listeners.append(listener)

        def unlisten() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unlisten

    def emit(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    def start_cell(self, cell: str | None = None) -> Execution:
        """Begin a top-level execution: equal requests are counted from 0 again."""
        self.execution = Execution(cell=cell)
        surround(execution=self.execution)
        return self.execution

    @contextmanager
    def identity(self, caller: str | None = None, thread: str | None = None) -> Iterator[RunIdentity]:
        """One request of a server: runs inside are for `caller`, in `thread`, and answer nobody else.

        A thread of its own where none is given. The same request of the same caller in the same thread is answered from
        the record.
        """
        _check_identity(caller, thread)
        whose = RunIdentity(caller=caller or self.whose.caller, thread=thread or _unique())
        token = surround(whose=whose, execution=Execution(cell=execution_of(self).cell))
        try:
            yield whose
        finally:
            surroundings.reset(token)

    def continue_cell(self, cell: str | None) -> None:
        """In this context, equal requests are counted from 0 again as those of a cell that has ended."""
        surround(execution=Execution(cell=cell))

    # -- reading the record

    def runs(
        self,
        *,
        agent: str | None = None,
        label: str | None = None,
        top: bool = False,
        limit: int = 100,
        caller: str | None = None,
        thread: str | None = None,
        rows_of: str | None = None,
    ) -> list[Run]:
        """Newest first: those of an agent, of a notebook (`label`), and with `top` none that ran inside another.

        The runs of the rows of a map are part of it; `rows_of` gives those of one map, oldest first.
        """
        if rows_of is not None:
            return self.store.rows_of(rows_of, limit=limit)
        return self.store.runs(agent=agent, label=label, top=top, limit=limit, caller=caller, thread=thread)

    def totals(self, *, agent: str | None = None, label: str | None = None, run: str | None = None) -> Totals:
        """What every recorded run of this agent and notebook (`label`) adds up to, or one run."""
        return self.store.totals(agent=agent, label=label, run=run)

    def trace(self, run: str) -> list[Event]:
        return [self.redactor.scrub_event(event) for event in self.store.trace(run)]

    def in_doubt(self) -> list[Row]:
        return self.store.in_doubt()

    # -- what a person decides

    @property
    def headless(self) -> Headless:
        """What happens to a call that needs a person where there is none."""
        named = os.environ.get(HEADLESS_VARIABLE)
        return self.policy.headless or (parse_headless(named, option=HEADLESS_VARIABLE) if named else "suspend")

    def decide(self, question: Question, decision: Decision) -> Decision:
        """Record what a person decided; where something was decided already, that is what holds."""
        return decisions.decide(self.store, self.redactor, question, decision)

    def find_standing(self, question: Question) -> Decision | None:
        """The approval that an earlier Always, given by this user here, gives this call."""
        caller = self.redactor.scrub(identity_of(self).caller or "")
        return decisions.find_standing(self.store, question, label=self.label, caller=caller)

    def settle(self, step: int, action: SettleAction, result: object = None) -> str:
        """Decide on a step that must not be repeated unasked: redo it, give its result, or stop there for good."""
        row = self.store.step(step)
        if row is None:
            raise UserError(f"no step {step} in {self.path}: session.runs() lists what is recorded")
        body = self._settlement_body(row, result) if action == "result" else None
        self.store.settle(step, action, body).result()
        return {
            "redo": f"step {step} ({row.name}) will be performed again at the next run",
            "result": f"step {step} ({row.name}) now has the result you gave; run again to continue",
            "stop": f"step {step} ({row.name}) stays stopped; runs that reach it end there",
        }[action]

    def _settlement_body(self, row: Row, result: object) -> bytes:
        if row.kind == "model":
            raise UserError(f"step {row.id} is a model request: it can be redone or stopped, not answered by hand")
        payload = {"kind": "tool_return", "result": result} if row.kind == "tool" else result
        return dumps(self.redactor.scrub_json(payload))

    def forget(self, *, run: str | None = None, step: int | None = None, agent: str | None = None) -> int:
        """Never replay these steps again; a tombstone stays. Returns how many."""
        return self.store.forget(run=run, step=step, agent=agent).result()

    # -- life

    @cached_property
    def calling(self) -> RelayClient:
        """What makes model requests that outlive this process."""
        return RelayClient(
            self.folder, owner=lambda: self.store.owner, secrets=lambda: self.redactor.secrets, remark=self.remark
        )

    def close(self) -> None:
        if "calling" in self.__dict__:
            self.calling.release()
        self.bench.close()
        if (executor := self._executors.pop(os.getpid(), None)) is not None:
            # A stopped run's thread goes on; what it does is recorded before the journal is closed.
            executor.shutdown(wait=True)
        if "store" in self.__dict__:
            self.store.close()
            del self.__dict__["store"]
            self.__dict__.pop("journal", None)
        while self._caches:
            self._caches.popitem()[1].close()

    def __enter__(self) -> Session:
        outer = current()
        self.execution = Execution(cell=None if outer is None else execution_of(outer).cell)
        self._entered = surround(session=self, execution=self.execution)
        _inside.append((threading.get_ident(), self))
        for told in tuple(entered):
            told()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()
        self.close()

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self._leave()
        # Closing waits for the threads of stopped tools, which may need the loop to come to their end.
        await asyncio.to_thread(self.close)

    def _leave(self) -> None:
        _inside[:] = [(thread, session) for thread, session in _inside if session is not self]
        surroundings.reset(self._entered)


class Surroundings(NamedTuple):
    """Where runs begin: the session, the execution that equal requests are counted in, and for whom they are made."""

    session: Session | None = None
    execution: Execution | None = None
    whose: RunIdentity | None = None


_NOWHERE = Surroundings()
surroundings: ContextVar[Surroundings] = ContextVar("agentkit_surroundings", default=_NOWHERE)


def surround(**changes: Any) -> Token[Surroundings]:
    """Change these fields of Surroundings from here on in this context."""
    return surroundings.set(surroundings.get()._replace(**changes))


entered: list[Callable[[], object]] = []
"""Told when a session is entered: a notebook looks after those that its own cells open, too."""
_inside: list[tuple[int, Session]] = []
"""The sessions that are entered, in their order, and the thread that entered each."""
_ambient: dict[str, Session] = {}
_AMBIENT = "session"


def session(
    name: str | None = None,
    *,
    folder: Path | str | None = None,
    journal: Path | str | None = None,
    mode: Mode | None = None,
    read_only: bool = False,
    caller: str | None = None,
    thread: str | None = None,
    served: bool = False,
) -> Session:
    """A durable container for a script: `with` or `async with agentkit.session("name"):` journals every run inside.

    Without a `mode` it is auto, or replay where the records are from elsewhere (`agentkit journal attach`).
    The journal is `.agentkit/journal.db` in `folder` (default: the working folder), or `journal`, or $AGENTKIT_HOME.
    What is recorded for a `caller` or in a `thread` answers that one only, unless a tool or an agent says `share=`.
    `served`: each run is somebody else's request, and has a thread of its own where none is given.
    """
    _check_identity(caller, thread)
    whose = RunIdentity(caller=caller, thread=thread)
    path = journal_path(folder, journal)
    return Session(name, path=path, mode=mode, read_only=read_only, whose=whose, served=served)


def identity_of(owner: Session) -> RunIdentity:
    """For whom a run that begins now is made."""
    whose = surroundings.get().whose or owner.whose
    return replace(whose, thread=_unique()) if owner.served and whose.thread is None else whose


def _unique() -> str:
    return uuid.uuid4().hex


def _check_identity(caller: object, thread: object) -> None:
    for name, value in (("caller", caller), ("thread", thread)):
        if value is not None and not (
            isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()
        ):
            raise UserError(f"{name}={value!r:.40}: a line of 1 to {_LONGEST_NAME} characters says whose run it is")


def open_ambient(label: str | None = None, folder: Path | str | None = None) -> Session:
    """Make a session the kernel's own: agents in ordinary cells are journaled in it. Opens no file yet."""
    old = _ambient.get(_AMBIENT)
    if old is not None:
        old.close()
    _ambient[_AMBIENT] = session(label, folder=folder)
    return _ambient[_AMBIENT]


def current() -> Session | None:
    """The session agents run in now: the innermost `with agentkit.session(...)`, else the kernel's.

    A thread of a pool begins without the context it was given work in: it is inside the `with` of the thread that has
    one, as long as only one has.
    """
    return surroundings.get().session or _ambient.get(_AMBIENT) or _around_thread()


def _around_thread() -> Session | None:
    inside = tuple(_inside)
    threads = {thread for thread, _ in inside}
    return inside[-1][1] if len(threads) == 1 and threading.get_ident() not in threads else None


def execution_of(owner: Session) -> Execution:
    """The top-level execution that equal requests are counted in."""
    execution = surroundings.get().execution
    return owner.execution if execution is None else execution


@contextmanager
def mode(value: Mode) -> Iterator[None]:
    """Run the code inside in another mode."""
    owner = current()
    if owner is None:
        raise UserError("no session is open: use `with agentkit.session(...)` or %load_ext agentkit")
    before, owner._mode = owner._mode, value
    try:
        yield
    finally:
        owner._mode = before


if sys.platform == "win32":
    raise ImportError("agentkit keeps its journal with POSIX locks: Linux and macOS for now")
