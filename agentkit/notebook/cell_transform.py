"""How a cell is run: `%%agent` and `%agent` become awaited calls, Stop wakes the loop, nested ones wait on another."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import inspect
import re
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from IPython import get_ipython as _get_ipython

from agentkit.errors import Interrupted, SpecError
from agentkit.notebook.output import cell_depth

T = TypeVar("T")
# IPython has no types for it.
get_ipython: Callable[[], Any] = _get_ipython

_CELL = re.compile(r"%%agent(?:[ \t]+(.*))?$")
_LINE = re.compile(r"(?P<indent>[ \t]*)(?P<target>[\w.,\[\]\"' \t*()]+=[ \t]*)?%agent(?P<args>[ \t].*)?$")
_MARKER = re.compile(r"%%(?:$| (?:\[|\w+=))")
"""A cell's first line in jupytext's percent format, without the `# ` that it takes off a body."""
_HEADER = re.compile(r"[ \t]*(async[ \t]+def|def|class)\b")
_TOKEN = re.compile(r'#[^\n]*|"""|\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\\.|[\[\](){}]', re.DOTALL)


def transform(lines: list[str]) -> list[str]:
    """IPython's line transform: what stands after `%agent` reaches us as typed, with its quotes and question marks."""
    if not lines:
        return lines
    awaited = cell_depth() == 0 and bool(getattr(get_ipython(), "autoawait", True))
    cell = _CELL.match(lines[0].rstrip("\r\n"))
    if cell:
        return [_call("cell", awaited, cell[1] or "", "".join(lines[1:]))] if awaited else lines
    if lines[0].startswith("%%") or not any("%agent" in line for line in lines):
        return lines
    return _lines(lines, awaited)


def never_run(cell: str) -> str | None:
    """Return what to say of a cell whose body IPython will not run: one that awaits, under `%%capture`."""
    head, _, body = cell.lstrip().partition("\n")
    if not head.startswith("%%capture"):
        return None
    code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in body.split("\n"))
    try:
        made = compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return None  # The cell itself says what is wrong with it.
    if not made.co_flags & inspect.CO_COROUTINE:
        return None
    return (
        "%%capture does not run a body that awaits, and this cell still counts as executed: take %%capture away, or "
        "write `with IPython.utils.capture.capture_output() as taken:` around the await"
    )


def refuse_joined(body: str) -> None:
    """Raise SpecError where jupytext joined the cells after this one to its body, for an odd triple quote in it."""
    quoted = dict.fromkeys(('"""', "'''"), 0)
    odd = 0
    for number, text in enumerate(body.splitlines(), start=2):
        if odd and _MARKER.match(text):
            raise SpecError(
                f"line {number}: {text.strip()!r} begins another cell: jupytext joined it to this one, because the "
                f"triple quote of line {odd} has no second one; write them in pairs, what follows in its own cells"
            )
        for quotes in quoted:
            quoted[quotes] += text.count(quotes)
        odd = (odd or number) if any(count % 2 for count in quoted.values()) else 0


def _lines(lines: list[str], awaited: bool) -> list[str]:
    done: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position].rstrip("\r\n")
        position += 1
        found = _LINE.match(line)
        if found is None or _inside(done):
            done.append(lines[position - 1])
            continue
        args = found["args"] or ""
        while args.endswith("\\") and position < len(lines):
            args = args[:-1] + lines[position].rstrip("\r\n")
            position += 1
        target = found["target"] or ""
        how = "value" if target else "line"
        done.append(found["indent"] + target + _call(how, awaited and _may_await(done, found["indent"]), args.strip()))
    return done


def _call(how: str, awaited: bool, *args: str) -> str:
    values = ", ".join(map(repr, args))
    return f"{'await ' if awaited else ''}get_ipython().agentkit.{'' if awaited else 'blocking_'}{how}({values})\n"


def _inside(lines: list[str]) -> bool:
    """Whether the line after these is in the middle of a string or a bracket."""
    code = "".join("\n" if line.lstrip().startswith(("%", "!")) else line for line in lines)
    level, position = 0, 0
    while (token := _TOKEN.search(code, position)) is not None:
        position = token.end()
        text = token[0]
        if text in {'"""', "'''"}:
            end = re.compile(r"(?:\\.|(?!" + text + r").)*" + text, re.DOTALL).match(code, position)
            if end is None:
                return True
            position = end.end()
        elif text in "[({":
            level += 1
        elif text in "])}":
            level -= 1
    return level > 0


def _may_await(lines: list[str], indent: str) -> bool:
    """Whether the innermost function around the line is async, or there is none."""
    width = len(indent.expandtabs())
    for line in reversed(lines):
        here = len(line) - len(line.lstrip())
        if width == 0:
            return True
        if not line.strip() or len(line[:here].expandtabs()) >= width:
            continue
        width = len(line[:here].expandtabs())
        header = _HEADER.match(line)
        if header:
            return header[1].startswith("async")
    return True


def is_statement() -> bool:
    """Return whether the magic that IPython is calling stands alone in its code, so that nobody gets its value."""
    # Imported where a cell was not transformed: the one that loads the extension, and calls of `run_line_magic`.
    import executing

    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("IPython", "agentkit"):
        frame = frame.f_back
    if frame is None:
        return False
    return isinstance(getattr(executing.Source.executing(frame).node, "parent", None), ast.Expr)


@contextlib.contextmanager
def prompt_stop() -> Iterator[None]:
    """Make Stop act at once in an awaiting cell: ipykernel cancels the task but leaves the loop asleep (#881)."""
    undo = wake_on_stop()
    try:
        yield
    finally:
        undo()


def wake_on_stop() -> Callable[[], None]:
    """Wake the running loop after the present handler of Stop has acted; returns what puts that handler back."""
    before = signal.getsignal(signal.SIGINT)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _nothing
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return _nothing

    def stop(number: int, frame: Any) -> None:
        before(number, frame)
        loop.call_soon_threadsafe(_nothing)

    signal.signal(signal.SIGINT, stop)

    def undo() -> None:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, before)

    return undo


def _nothing() -> None:
    """Only its being called matters."""


_loops: list[asyncio.AbstractEventLoop] = []


def _other_loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
        threading.Thread(target=_loops[0].run_forever, name="agentkit-loop", daemon=True).start()
    return _loops[0]


def is_other_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether code runs where awaiting is impossible, on the loop that stands in for the kernel's."""
    return loop in _loops


def run_blocking(work: Coroutine[Any, Any, T], *, meanwhile: Callable[[], None] = _nothing) -> T:
    """Run `work` on a loop of our own and wait for it here, where awaiting is impossible (nested magics, `def`).

    The cell's context goes with it, so that what it prints and shows lands in this cell. Stop cancels it and waits
    until it has ended.
    """
    loop, context = _other_loop(), contextvars.copy_context()
    done: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(work, context=context)
        tasks.append(task)
        task.add_done_callback(lambda task: _settle(done, task))

    loop.call_soon_threadsafe(start)
    while True:
        try:
            return done.result(timeout=0.1)
        except TimeoutError:
            if done.done():
                raise
            meanwhile()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])


def _settle(done: Future[T], task: asyncio.Task[T]) -> None:
    # A KeyboardInterrupt set here would escape into the loop's thread and end it: only an ordinary error may pass.
    if task.cancelled():
        done.set_exception(Interrupted("stopped; what is recorded is kept: run again to continue"))
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
