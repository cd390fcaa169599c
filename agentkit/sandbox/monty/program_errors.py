"""What Monty says of a program that failed, as an error that says by whose fault and where."""

from __future__ import annotations

import re
from typing import Any, Protocol

import pydantic_monty as monty

from agentkit.errors import SandboxError
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import dialect

PROGRAM = re.compile(r"<python-input-(\d+)>$")
"""How Monty names what was fed to it, counted from 0."""
_PRELUDE = "<python-input-0>"
"""What is fed first: the shims, where there are any."""
_MEMORY = re.compile(r"memory limit exceeded|exceeded its memory limit")
_LONGEST = 300


class FailedCall(Protocol):
    """A call that failed as calls do: of which type and by whose fault, should the program not handle it."""

    kind: str
    message: str
    fault: str


class Faults:
    """The faults of one program; `calls` are its failed host calls, by the type and text that it saw."""

    def __init__(self, source: str, prepared: dialect.Prepared, limits: Limits) -> None:
        self._source = source
        self._prepared = prepared
        self._limits = limits
        self.calls: dict[tuple[str, str], FailedCall] = {}

    def of(self, error: monty.MontyError) -> SandboxError:
        """What Monty says, as an error with a kind and a place."""
        if isinstance(error, monty.MontyCrashedError):
            return self._crash_error(error)
        kind = type(error.exception()).__name__
        message = _one_line(f"{kind}: {error.exception()}" if kind == "KeyError" else str(error))
        frames, in_shim = self._frames(error)
        # Before the limits: a host call may fail with the very words of one.
        if frames and (failed := self.calls.get((kind, text_of(error.exception())))) is not None:
            return self._place(SandboxError(failed.fault, _one_line(f"{failed.kind}: {failed.message}")), frames)
        if (limit := self._limit(error, frames)) is not None:
            return limit
        is_dialect, hint = dialect.hint(message)
        is_dialect = is_dialect or kind == "SyntaxError" or (in_shim and dialect.REFUSED in message)
        return self._place(SandboxError("dialect" if is_dialect else "code", message, hint=hint), frames)

    def _frames(self, error: Any) -> tuple[list[Any], bool]:
        """Where in the program it was, outermost first, and whether a shim that it called raised it."""
        found = error.traceback() if hasattr(error, "traceback") else []
        found = [frame for frame in found if PROGRAM.match(frame.filename)]
        if not self._prepared.prelude:
            return found, False
        own = [frame for frame in found if frame.filename != _PRELUDE]
        return own, own != found

    def _place(self, error: SandboxError, frames: list[Any]) -> SandboxError:
        """The error with its place in the program as it was written."""
        if not frames:
            return error
        frame = frames[-1]
        lines = self._source.split("\n")
        source = lines[frame.line - 1] if frame.line <= len(lines) else ""
        column = self._prepared.column(frame.line, frame.column)
        end = self._prepared.column(frame.line, frame.end_column) if frame.end_line == frame.line else len(source) + 1
        width = max(1, min(end, len(source) + 1) - column)
        return SandboxError(
            error.fault, error.message, line=frame.line, column=column, width=width, source=source, hint=error.hint
        )

    def _crash_error(self, error: monty.MontyCrashedError) -> SandboxError:
        if error.timed_out or "limit" in str(error):
            return SandboxError(
                "limit", f"more than {self._limits.time:g} s of computing (time={self._limits.time:g}s)"
            )
        return SandboxError("crash", f"the sandbox's process ended: {_one_line(str(error))}")

    def _limit(self, error: Any, frames: list[Any]) -> SandboxError | None:
        """The limit that was reached. A program that raises the same words itself has its own line to show for it."""
        exception = error.exception()
        if isinstance(exception, TimeoutError) and not frames:
            return SandboxError(
                "limit", f"more than {self._limits.time:g} s of computing (time={self._limits.time:g}s)"
            )
        raised = bool(frames) and frames[-1].line in self._prepared.raises
        if isinstance(exception, MemoryError) and not raised and _MEMORY.search(str(exception)):
            size = f"{self._limits.memory / (1 << 20):g}MB"
            return self._place(SandboxError("limit", f"more than {size} of memory (memory={size})"), frames)
        if isinstance(exception, RuntimeError) and not raised and "suspension limit" in str(exception):
            return SandboxError("limit", "too many turns between the program and the host")
        return None


def text_of(error: BaseException) -> str:
    """What an error says."""
    # The text of a KeyError is the repr of its key.
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _one_line(text: str) -> str:
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
