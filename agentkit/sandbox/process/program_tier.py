"""The sandbox's second tier: a program in real Python, with pandas and numpy, in a process cut off from everything."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from agentkit.errors import SandboxError, UserError
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty.driver import Program, ProgramEnd
from agentkit.sandbox.process.isolate import run_in_child
from agentkit.sandbox.process.parent import walls_stand
from agentkit.sandbox.process.resources import Box, format_size
from agentkit.values.typed_json import Forged, Parcel

_FILE = "<sandbox>"


async def run_in_process(
    program: Program,
    *,
    limits: Limits | None = None,
    printed: Callable[[str], None] = lambda text: None,
    pause: Any = None,
    **unused: Any,
) -> ProgramEnd:
    """Run `program` in a process without network, other processes and files beyond Python's own.

    Inputs and outputs are parcels. Raises SandboxError when it fails or reaches a limit, and UserError, before anything
    of it runs, where the system cannot cut it off.
    """
    if pause is not None:
        raise UserError("with tier='process' a program runs as a whole; step through it with tier='monty'")
    limits = limits or Limits()
    _check(program, limits)
    if (why := await asyncio.to_thread(walls_stand)) is not None:
        raise UserError(f"tier='process' cannot run here, for a process cannot be cut off on this system: {why}")
    job = {
        "kind": "cell",
        "source": program.source,
        "file": _FILE,
        "inputs": {name: parcel.packed for name, parcel in program.inputs.items()},
        "outputs": list(program.outputs),
    }
    box = Box(memory=limits.memory, seconds=limits.time, walls="everything")
    ended = await run_in_child(job, box, heard=printed, most=limits.printed)
    reply = ended.reply
    match ended.attempt.how:
        case "done":
            # What was handed over may be large, and the loop is the kernel's.
            return await asyncio.to_thread(_read, reply, program)
        case "raised":
            raise _error_at_place(program, "code", f"{reply['kind']}: {reply['message']}".rstrip(": "), reply["line"])
        case "memory":
            asked = format_size(limits.memory)
            raise SandboxError("limit", f"more than {asked} of memory (memory={asked}); {ended.attempt.description}")
        case "timeout":
            raise SandboxError("limit", f"more than {limits.time:g} s (time={limits.time:g}s)")
        case "flooded":
            raise SandboxError("limit", "more leaves it than can be handed over: return a summary or fewer rows")
        case "forged":
            raise _forgery_error(ended.attempt.text)
        case "stopped":
            raise asyncio.CancelledError
        case _:
            raise SandboxError("crash", f"its process ended: {ended.attempt.text or ended.attempt.how}")


def _read(reply: Mapping[str, Any], program: Program) -> ProgramEnd:
    """What the program gave, once it is known that it can be read: what cannot is not recorded either."""
    outputs = {name: Parcel(packed) for name, packed in reply["outputs"].items()}
    value = Parcel(reply["value"])
    for name, parcel in {**outputs, "its value": value}.items():
        try:
            parcel.open(program.classes)
        except Forged as error:
            raise _forgery_error(f"{name}: {error}") from error
    return ProgramEnd(value=value, outputs=outputs, calls=0)


def _forgery_error(why: str) -> SandboxError:
    return SandboxError("code", f"the program forged its reply, and nothing of it was made: {why}")


def _check(program: Program, limits: Limits) -> None:
    if program.functions:
        name = min(program.functions)
        raise UserError(f"a program of tier='process' cannot call {name}; give it the data as an input")
    if (size := len(program.source.encode())) > limits.source:
        raise SandboxError("limit", f"the program is {size:,} bytes long, more than {limits.source:,}")
    try:
        ast.parse(program.source)
    except SyntaxError as error:
        raise SandboxError(
            "code",
            f"SyntaxError: {error.msg}",
            line=error.lineno,
            column=error.offset or 1,
            source=(error.text or "").rstrip("\n"),
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SandboxError("code", f"the program cannot be read: {error}") from None


def _error_at_place(program: Program, fault: str, message: str, line: int | None) -> SandboxError:
    one_line = " ".join(message.split())
    lines = program.source.splitlines()
    if line is None or line > len(lines):
        return SandboxError(fault, one_line)
    text = lines[line - 1].rstrip()
    indent = len(text) - len(text.lstrip())
    return SandboxError(fault, one_line, line=line, column=indent + 1, width=max(1, len(text) - indent), source=text)
