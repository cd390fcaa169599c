"""The sandbox driver: runs one program in Monty, answers what it asks of the host, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, get_args
from uuid import UUID

import pydantic_monty as monty

from agentkit.errors import SandboxError
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import dialect
from agentkit.sandbox.monty.analysis import Span, Statement, find_awaits, statements
from agentkit.sandbox.monty.program_errors import PROGRAM, Faults, text_of
from agentkit.sandbox.monty.worker_pool import Worker
from agentkit.values.typed_json import NOTHING, Entered

_ITEM = 8


def weight(value: Any) -> int:
    """About the bytes of `value` as a tree, each shared part looked at once; RecursionError where it is too deep."""
    return _Scale().of(value)


class _Scale:
    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, value: Any) -> int:
        match value:
            case str() | bytes():
                return len(value) + _ITEM
            case int():
                return value.bit_length() // 8 + _ITEM
            case dict() | list() | tuple() | set() | frozenset() | monty.MontyClassProxy():
                if id(value) not in self._known:
                    self._known[id(value)] = self._together(value)
                return self._known[id(value)]
            case _:
                return _ITEM

    def _together(self, value: Any) -> int:
        items = value.attributes if isinstance(value, monty.MontyClassProxy) else value
        if isinstance(items, dict):
            return _ITEM + sum(self.of(key) + self.of(item) for key, item in items.items())
        return _ITEM + sum(self.of(item) for item in items)


_MOST_UNKNOWN = 1_000
_SHOWN = 200
_HOUR = 3600.0
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Handle(ABC):
    """An object of the host that a program holds: it sees the named `attributes`, may call `methods`, nothing else."""

    attributes: ClassVar[tuple[str, ...]]
    methods: ClassVar[frozenset[str]]

    @property
    @abstractmethod
    def id(self) -> UUID: ...

    @abstractmethod
    def call(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What stands still while a program runs, so that running it again is the same: the clock and the random seed."""

    now: datetime.datetime
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and all it gets: `inputs` by name, the names of its host `functions`, and the `outputs` asked for.

    `classes` are those whose instances may come back from a process of its own.
    """

    source: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()
    outputs: tuple[str, ...] = ()
    classes: Entered = NOTHING


@dataclass(frozen=True, kw_only=True)
class HostCall:
    """A call that the program makes of the host: the `number`-th, at `line` (from 1), written as `text`."""

    number: int
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    line: int
    text: str


class CallFailed(Exception):
    """A host call that failed as calls do: the program sees it as an exception of type `kind` and may handle it.

    Everything else that a host call raises ends the program, which never sees it. `fault` is whose error it is, should
    the program not handle it: `tool`, or `code` for a call that was never made because it was written wrongly.
    """

    def __init__(self, kind: str, message: str, *, fault: str = "tool") -> None:
        self.kind = kind
        self.message = message
        self.fault = fault
        super().__init__(message)


def as_call_error(error: Exception) -> CallFailed:
    """An error of the host as the program sees it."""
    return CallFailed(type(error).__name__, text_of(error))


@dataclass(frozen=True, kw_only=True)
class ProgramEnd:
    """How a program ended: the value of its last expression, its outputs by name, and how many host calls it made."""

    value: Any
    outputs: Mapping[str, Any]
    calls: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A place between two statements: the one that comes next, and the variables that changed since the last stop."""

    statement: Statement
    changed: Mapping[str, str]


HostCallHandler = Callable[[HostCall], Awaitable[Any]]
Pause = Callable[[Stop], Awaitable[None]]


async def run(
    program: Program,
    *,
    world: Clock,
    call: HostCallHandler,
    limits: Limits | None = None,
    printed: Callable[[str], None] = lambda text: None,
    pause: Pause | None = None,
) -> ProgramEnd:
    """Run `program` in a process of its own; `call` answers its host calls, `printed` is told what it prints.

    `pause` is waited for before each top-level statement; the time limit is then that of each statement.
    Raises SandboxError when the program fails or reaches a limit, and whatever `call` raises besides CallFailed. The
    process is thrown away in any case, at once when this is cancelled.
    """
    limits = limits or Limits()
    if (size := len(program.source.encode(errors="replace"))) > limits.source:
        raise SandboxError("limit", f"the program is {size:,} bytes long, more than {limits.source:,}")
    # The first check of a process asks the installed Monty what it has.
    prepared = await asyncio.to_thread(_prepare, program)
    drive = _Drive(program, prepared, world, call, limits, printed)
    try:
        return await drive.to_end(pause)
    finally:
        await drive.leave()


def _prepare(program: Program) -> dialect.Prepared:
    """The program as it is fed; SandboxError says what of it the sandbox does not run."""
    dialect.check(program.source, calls=program.functions, given=frozenset(program.inputs))
    return dialect.prepare(program.source)


class _Feed(NamedTuple):
    """What was given to the worker in one go, and which of its calls are answered later."""

    source: bytes
    awaited: frozenset[Span]


class _Drive:
    """One program under way."""

    def __init__(
        self,
        program: Program,
        prepared: dialect.Prepared,
        world: Clock,
        call: HostCallHandler,
        limits: Limits,
        printed: Callable[[str], None],
    ) -> None:
        self._program = program
        self._prepared = prepared
        self._world = world
        self._call = call
        self._limits = limits
        self._tell = printed
        self._loop = asyncio.get_running_loop()
        # What it prints belongs to the cell that runs it, and the worker's thread knows of no cell.
        self._context = contextvars.copy_context()
        self._worker = Worker()
        self._feeds: list[_Feed] = []
        self._handles: dict[UUID, Handle] = {}
        self._under_way: dict[int, asyncio.Task[Any]] = {}
        self._calls = 0
        self._unknown = 0
        self._printed = 0
        self._faults = Faults(program.source, prepared, limits)
        self._session: Any = None

    async def to_end(self, pause: Pause | None) -> ProgramEnd:
        # Gone through by a person, each statement has the time of a whole program.
        bound = self._limits.time if pause is None else _HOUR
        self._session = await self._turn(lambda: self._worker.open(self._limits, self._policy(), bound=bound))
        inputs = {name: self._to_program(value) for name, value in self._program.inputs.items()}
        if self._prepared.prelude:
            await self._feed_code("\n".join(self._prepared.prelude), {})
        if pause is None:
            value = await self._feed_code(self._prepared.fed, inputs)
        else:
            value = await self._by_statement(inputs, pause)
        outputs = await self._outputs() if self._program.outputs else {}
        return ProgramEnd(value=self._from_program(value), outputs=outputs, calls=self._calls)

    async def leave(self) -> None:
        """Throw the process away; calls that are still under way are stopped."""
        self._worker.kill()
        self._worker.close()
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _policy(self) -> Any:
        return {"datetime": self._world.now, "random_start": {"seed": self._world.seed}, "sleep": "zero"}

    # -- turns

    async def _turn(self, turn: Callable[[], Any]) -> Any:
        """One turn of the worker. Stopped meanwhile, its process is killed at once."""
        try:
            return await asyncio.wrap_future(self._worker.submit(turn))
        except asyncio.CancelledError:
            self._worker.kill()
            raise
        except monty.MontyError as error:
            if self._printed > self._limits.printed:
                raise SandboxError("limit", f"more than {self._limits.printed:,} bytes printed") from None
            raise self._faults.of(error) from None

    async def _feed_code(self, code: str, inputs: dict[str, Any]) -> Any:
        session, heard = self._session, self._on_print
        self._feeds.append(_Feed(code.encode(), find_awaits(code)))
        snapshot = await self._turn(lambda: session.feed_start(code, inputs=inputs, print_callback=heard))
        while not isinstance(snapshot, monty.MontyComplete):
            snapshot = await self._answer(snapshot)
        return snapshot.output

    async def _by_statement(self, inputs: dict[str, Any], pause: Pause) -> Any:
        value, names, known = None, tuple[str, ...](), dict[str, str]()
        for statement in statements(self._program.source, fed=self._prepared.fed):
            shown = await self._format_variables(names)
            await pause(Stop(statement=statement, changed={k: v for k, v in shown.items() if known.get(k) != v}))
            if inputs:
                await self._feed_code("pass", inputs)
                shown, inputs = await self._format_variables(tuple(inputs)), {}
            value = await self._feed_code(statement.fed, {})
            names, known = tuple(dict.fromkeys([*shown, *names, *statement.names])), shown
        return value

    async def _format_variables(self, names: tuple[str, ...]) -> dict[str, str]:
        """The variables as text; those that a statement would have bound, had it come to that, are left out."""
        shown = {}
        for name in names:
            with contextlib.suppress(SandboxError):
                shown[name] = str(await self._feed_code(f"repr({name})[:{_SHOWN}]", {}))
        return shown

    async def _answer(self, snapshot: Any) -> Any:
        match snapshot:
            case monty.NameLookupSnapshot():
                return await self._turn(self._look_up(snapshot))
            case monty.FutureSnapshot():
                results = await self._gather(snapshot.pending_call_ids)
                return await self._turn(lambda: snapshot.resume(results))
            case monty.FunctionSnapshot(is_os_function=True):
                return await self._turn(snapshot.resume_not_handled)
            case _:
                answer = await self._serve_call(snapshot)
                return await self._turn(lambda: snapshot.resume(answer))

    def _look_up(self, snapshot: Any) -> Callable[[], Any]:
        name = snapshot.variable_name
        if name not in self._program.functions:
            # Each is a turn of the host's, which the time limit does not count.
            self._unknown += 1
            if self._unknown > _MOST_UNKNOWN:
                raise SandboxError("limit", f"more than {_MOST_UNKNOWN:,} uses of names that are not defined")
            return lambda: snapshot.resume()

        def function() -> None:
            """Stands for the host's function; a call of it comes out as a call."""

        function.__name__ = name
        return lambda: snapshot.resume(value=function)

    # -- host calls

    async def _serve_call(self, snapshot: Any) -> dict[str, Any]:
        if snapshot.object_id is not None:
            return self._method(snapshot)
        name = str(snapshot.function_name)
        if name not in self._program.functions:
            return {"exc_type": "NameError", "message": f"name '{name}' is not defined"}
        call = self._host_call(snapshot, name)
        if self._calls >= self._limits.calls:
            raise call_error(call, self._program.source, "limit", f"more than {self._limits.calls} host calls")
        self._calls += 1
        if (snapshot.position.start, snapshot.position.end) in self._feed(snapshot).awaited:
            self._under_way[snapshot.call_id] = asyncio.ensure_future(self._result(call))
            return {"future": ...}
        return await self._result(call)

    def _host_call(self, snapshot: Any, name: str) -> HostCall:
        source = self._feed(snapshot).source
        before = source[: snapshot.position.start]
        text = source[snapshot.position.start : snapshot.position.end].decode(errors="replace")
        args = tuple(self._from_program(value) for value in snapshot.args)
        kwargs = {key: self._from_program(value) for key, value in snapshot.kwargs.items()}
        return HostCall(
            number=self._calls, name=name, args=args, kwargs=kwargs, line=before.count(b"\n") + 1, text=text
        )

    def _feed(self, snapshot: Any) -> _Feed:
        """The piece of the program that the position is in; code in an `eval` has no place of its own."""
        found = PROGRAM.match(snapshot.position.filename)
        number = int(found[1]) if found else -1
        return self._feeds[number] if 0 <= number < len(self._feeds) else _Feed(b"", frozenset())

    async def _result(self, call: HostCall) -> dict[str, Any]:
        try:
            return {"return_value": self._to_program(await self._call(call))}
        except CallFailed as error:
            return self._error_for_program(error)

    def _error_for_program(self, error: CallFailed) -> dict[str, Any]:
        """A failed call as the program sees it."""
        kind = error.kind if error.kind in _KNOWN else "RuntimeError"
        message = error.message if kind == error.kind else f"{error.kind}: {error.message}"
        message = message.encode(errors="replace").decode()
        self._faults.calls[kind, message] = error
        return {"exc_type": kind, "message": message}

    async def _gather(self, ids: list[int]) -> dict[int, Any]:
        """All that is waited for, together: in which order the answers came makes no difference to the program."""
        tasks = {id_: self._under_way.pop(id_) for id_ in sorted(ids)}
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return dict(zip(tasks, results, strict=True))

    def _method(self, snapshot: Any) -> dict[str, Any]:
        handle, method = self._handles[snapshot.object_id], str(snapshot.function_name)
        if method not in handle.methods:
            return self._error_for_program(CallFailed("AttributeError", f"it has no method {method}", fault="code"))
        try:
            args = tuple(self._from_program(value) for value in snapshot.args)
            kwargs = {key: self._from_program(value) for key, value in snapshot.kwargs.items()}
            return {"return_value": self._to_program(handle.call(method, args, kwargs))}
        except CallFailed as error:
            return self._error_for_program(error)

    # -- values

    def _to_program(self, value: Any) -> Any:
        """`value` as Monty takes it: handles as objects with a few methods."""
        if type(value) in _SCALARS:
            return value
        match value:
            case Handle():
                self._handles[value.id] = value
                return monty.ClassInstance(
                    value, eager_attrs=value.attributes, allowed_methods=value.methods, id=value.id
                )
            case dict():
                return {key: self._to_program(item) for key, item in value.items()}
            case list():
                return [self._to_program(item) for item in value]
            case _:
                return value

    def _from_program(self, value: Any) -> Any:
        try:
            # A few lists in lists in lists, each named twice, are little to Monty and more than any host holds.
            if weight(value) > self._limits.memory:
                size = f"{self._limits.memory / (1 << 20):g}MB"
                raise SandboxError("limit", f"a value that leaves is more than {size} written out (memory={size})")
            return self._to_host(value)
        except RecursionError:
            raise SandboxError("limit", "a value that leaves is nested too deeply") from None

    def _to_host(self, value: Any) -> Any:
        """`value` as the host takes it: an instance of the program's own classes as the dict of its attributes."""
        if type(value) in _SCALARS:
            return value
        match value:
            case monty.MontyClassProxy():
                return {name: self._to_host(item) for name, item in value.attributes.items()}
            case dict():
                return {key: self._to_host(item) for key, item in value.items()}
            case list() | set() | frozenset():
                return type(value)(self._to_host(item) for item in value)
            case tuple():
                return tuple(self._to_host(item) for item in value)
            case _:
                return value

    async def _outputs(self) -> dict[str, Any]:
        names = self._program.outputs
        try:
            values = await self._feed_code("[" + ", ".join(names) + "]", {})
        except SandboxError as error:
            missing = re.match(r"NameError: name '(\w+)'", error.message)
            if missing is None:
                raise
            raise SandboxError(
                "code", f"the program never assigned {missing[1]}, which is one of its outputs"
            ) from None
        named = dict(zip(names, values, strict=True))
        await self._refuse_code({name for name, value in named.items() if _is_like_code(value)})
        return {name: self._from_program(value) for name, value in named.items()}

    async def _refuse_code(self, names: set[str]) -> None:
        """A function leaves Monty as a text that names it: it must not be taken for one."""
        for name in sorted(names):
            if await self._feed_code(f"isinstance({name}, str)", {}) is False:
                raise SandboxError("code", f"{name} is code, which cannot leave: make it numbers, text, lists or dicts")

    # -- what it prints

    def _on_print(self, stream: str, text: str) -> None:
        """Called on the worker's thread."""
        self._printed += len(text.encode())
        if self._printed > self._limits.printed:
            self._worker.kill()
            return
        self._loop.call_soon_threadsafe(self._tell, text, context=self._context)


def _is_like_code(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


def call_error(call: HostCall, source: str, fault: str, message: str) -> SandboxError:
    """An error that ends the program at one of its host calls."""
    lines = source.splitlines()
    line = lines[call.line - 1] if call.line <= len(lines) else ""
    written = call.text.splitlines()[0] if call.text else call.name
    column = max(0, line.find(written)) + 1
    return SandboxError(fault, message, line=call.line, column=column, width=len(written), source=line)


_KNOWN = frozenset(
    name
    for name in get_args(monty.ExcType)
    if name not in ("BaseException", "SystemExit", "KeyboardInterrupt", "StopIteration")
)
"""The exceptions that a program can be given by name; of another type it gets a RuntimeError that names it."""
