"""The process that does the work of an isolated call: builds what the code needs, runs it, and says what came of it."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import json
import linecache
import os
import signal
import socket
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any, NoReturn

from agentkit.sandbox.process import namespaces
from agentkit.sandbox.process.resources import Box
from agentkit.sandbox.process.worker_reply import BEGUN, TEXT_CHARACTERS, TRACE_CHARACTERS
from agentkit.tools.inputs import Recorder, recording
from agentkit.values import typed_json
from agentkit.values.registry import to_json

_SPARE = 64 << 20
_FUTURE = 0x1000000  # annotations are not evaluated: what they name may not be here


def run_job(job: Mapping[str, Any], box: Box, writing: int) -> NoReturn:
    """Perform the job, write what came of it to `writing`, and end this process."""
    me = os.getpid()
    try:
        _settle_in(job, box)
    except OSError as error:
        _reply(writing, _encode_answer({"how": "refused", "text": (error.strerror or str(error))[:TEXT_CHARACTERS]}))
    os.write(writing, BEGUN)
    try:
        answer = _encode_answer(_perform(job, box))
    except BaseException as error:  # noqa: BLE001 - whatever foreign code raises is told, and this process ends
        answer = _encode_answer(_out_of_memory(error) if _is_memory(error) else _encode_error(error, job))
    if os.getpid() != me:
        # The work has forked: only one of them answers.
        os._exit(0)
    _reply(writing, answer)


def _settle_in(job: Mapping[str, Any], box: Box) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # What is printed goes the way of the errors: the keeper's output is the keeper's.
    os.dup2(2, 1)
    # What it printed before it was killed is not lost.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.path[:] = job["path"]
    os.chdir(job["folder"])
    if sys.platform == "linux":
        namespaces.die_with_parent(signal.SIGKILL)
        if box.walls != "none":
            libraries = namespaces.library_folders()
            namespaces.close(box.walls, scratch=job["scratch"], libraries=libraries, memory=box.memory)


def _encode_answer(answer: dict[str, Any]) -> memoryview:
    status = namespaces.status("self")
    peak = max(0, status.get("VmHWM", 0) - status.get("RssFile", 0))
    return memoryview(json.dumps({**answer, "peak": peak}).encode())


def _reply(writing: int, answer: memoryview) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    while answer:
        answer = answer[os.write(writing, answer) :]
    # Threads of the work must not keep it from ending.
    os._exit(0)


# -- what went wrong


def _is_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _out_of_memory(error: BaseException) -> dict[str, Any]:
    if sys.platform == "linux":
        namespaces.free_reserve()
    traceback.clear_frames(error.__traceback__)
    return {"how": "memory", "text": str(error)[:TEXT_CHARACTERS]}


def _encode_error(error: BaseException, job: Mapping[str, Any]) -> dict[str, Any]:
    kind = type(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    own = [frame.lineno for frame in frames if frame.filename == job.get("file")]
    return {
        "how": "raised",
        "kind": kind.__name__[:TEXT_CHARACTERS],
        "module": str(kind.__module__)[:TEXT_CHARACTERS],
        "message": str(error)[:TEXT_CHARACTERS],
        "line": own[-1] if own else None,
        "trace": "".join(lines)[-TRACE_CHARACTERS:],
    }


# -- the work


def _perform(job: Mapping[str, Any], box: Box) -> dict[str, Any]:
    match job["kind"]:
        case "tool":
            return _call(job, box)
        case "cell":
            return _run(job, box)
        case _:
            return _try_walls(job)


def _try_walls(job: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the walls hold: what can be reached of a listening port, and written beside the notebook."""
    holes = []
    try:
        socket.create_connection(("127.0.0.1", job["port"]), timeout=1).close()
        holes.append("a port of this machine could be reached")
    except OSError:
        pass
    try:
        with open(os.path.join(job["folder"], job["name"]), "x"):
            holes.append("a file could be written")
    except OSError:
        pass
    return {"how": "done", "value": holes}


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _call(job: Mapping[str, Any], box: Box) -> dict[str, Any]:
    # What the tool calls `agentkit.idempotency_key()` answers for the step that this process works for.
    vars(sys.modules["agentkit"])["idempotency_key"] = lambda: job["key"] or None
    space = vars(_module("__main__"))
    for name, module, attribute in job["imports"]:
        space[name] = _import_attribute(module, attribute)
    later = {name: packed for name, packed in job["values"].items() if not _set(name, packed, space)}
    for unit in job["units"]:
        _define(unit, space)
    for name, packed in later.items():
        space[name] = typed_json.unpack(packed, _Here(space))
    function = space[job["function"]]
    args = _arguments(function, job["args"])
    namespaces.limit_memory(box.memory, spare=_spare())
    with recording(Recorder()) as heard:
        result = function(**args)
        if inspect.isawaitable(result):
            import asyncio

            result = asyncio.run(_await(result))
    if type(result).__module__.partition(".")[0] == "pydantic_ai":
        raise TypeError(f"{job['function']} returns a {type(result).__name__}, which only works without isolate=")
    value = to_json(result, where=f"the result of {job['function']}")
    return {"how": "done", "value": value, "heard": heard.conclude()}


def _set(name: str, packed: Any, space: dict[str, Any]) -> bool:
    """False for what is of a class that is not defined yet; what definitions read must be there before them."""
    try:
        space[name] = typed_json.unpack(packed, _Here(space))
    except typed_json.NotDefined:
        return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class _Here:
    """The classes that what the kernel hands over is of: they are imported, those of the notebook are in `space`."""

    space: Mapping[str, Any]

    def find(self, module: str, name: str) -> Any:
        first, *rest = name.split(".")
        here = module == "__main__"
        if here and first not in self.space:
            raise typed_json.NotDefined(
                f"a value is a {first}, a class of the notebook that is not defined there: pass its fields"
            )
        found = self.space[first] if here else getattr(importlib.import_module(module), first)
        for part in rest:
            found = getattr(found, part)
        return found

    def make(self, kind: Any, fields: dict[str, Any]) -> Any:
        if hasattr(kind, "model_validate"):
            return kind.model_construct(**fields)
        given = {field.name for field in dataclasses.fields(kind) if field.init}
        made = kind(**{name: item for name, item in fields.items() if name in given})
        for name in fields.keys() - given:
            object.__setattr__(made, name, fields[name])
        return made


async def _await(result: Any) -> Any:
    return await result


def _import_attribute(module: str, attribute: str | None) -> Any:
    found = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


def _define(unit: Mapping[str, Any], space: dict[str, Any]) -> None:
    """Run a definition at the line where it stands in its cell, so that errors name the lines of the notebook."""
    text = "\n" * (unit["line"] - 1) + unit["text"]
    linecache.cache[unit["file"]] = (len(text), None, text.splitlines(keepends=True), unit["file"])
    exec(compile(text, unit["file"], "exec", flags=_FUTURE, dont_inherit=True), space)


def _arguments(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types say: they came as JSON."""
    hints = inspect.get_annotations(inspect.unwrap(function))
    typed = {name: hints[name] for name in given if hints.get(name) not in (None, "", *_NAMES_OF_PLAIN)}
    if not typed:
        return dict(given)
    from pydantic import TypeAdapter

    space = inspect.unwrap(function).__globals__
    read = {}
    for name, hint in typed.items():
        try:
            kind = eval(hint, space) if isinstance(hint, str) else hint
        except NameError:
            continue
        read[name] = TypeAdapter(kind).validate_python(given[name])
    return {**given, **read}


_NAMES_OF_PLAIN = (
    "str",
    "int",
    "float",
    "bool",
    "list",
    "dict",
    "None",
    "Any",
    "list[str]",
    "list[int]",
    "list[float]",
)


def _spare() -> int:
    """Room for what is reserved by libraries that are imported later: thread stacks and their pools."""
    return _SPARE + (40 << 20) * int(os.environ.get("OPENBLAS_NUM_THREADS") or 1)


# -- a cell


def _run(job: Mapping[str, Any], box: Box) -> dict[str, Any]:
    space = vars(_module(typed_json.SANDBOX))
    space |= {name: typed_json.unpack(packed, _Here({})) for name, packed in job["inputs"].items()}
    source, file = job["source"], job["file"]
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespaces.limit_memory(box.memory, spare=_spare())
    value = _evaluate(ast.parse(source, file), file, space)
    missing = [name for name in job["outputs"] if name not in space]
    if missing:
        raise NameError(f"the program never assigned {missing[0]}, which is one of its outputs")
    outputs = {name: typed_json.pack(space[name], where=name) for name in job["outputs"]}
    return {"how": "done", "outputs": outputs, "value": _value(value)}


def _evaluate(tree: ast.Module, file: str, space: dict[str, Any]) -> Any:
    """Run it; the value is that of a last line which is an expression."""
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, file, "exec", dont_inherit=True), space)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), file, "eval", dont_inherit=True), space)


def _value(value: Any) -> Any:
    try:
        return typed_json.pack(value, where="the value")
    except typed_json.Unpackable:
        return typed_json.pack(builtins.repr(value)[:TEXT_CHARACTERS], where="the value")
