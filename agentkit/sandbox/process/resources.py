"""What a declared tool may use, how a try of it ended, and the words for a person and for an agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

Walls: TypeAlias = Literal["none", "network", "everything"]
"""What a child is kept from: nothing; the network and writing to files; or all but Python and its libraries."""

How: TypeAlias = Literal["done", "raised", "memory", "timeout", "stopped", "crashed", "refused", "flooded", "forged"]
"""How a child ended. `refused`: it was not begun, for it could not be limited as asked. `forged`: what it answered is
no answer of a child, so the program wrote it."""

_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """The limits of one child: bytes of memory, seconds, and what it is kept from. None is no limit."""

    memory: int | None = None
    seconds: float | None = None
    walls: Walls = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One try of a tool in a child: what it was given, the most memory it held (bytes), and how it ended."""

    asked: int | None
    peak: int
    seconds: float
    how: How
    text: str = ""

    @property
    def description(self) -> str:
        """`used 143MB`, `out of memory: used 515MB of 512MB (it was stopped there)`"""
        if self.how == "done":
            return f"used {format_size(self.peak)}"
        of = "" if self.asked is None else f" of {format_size(self.asked)}"
        more = f" ({self.why})" if self.why else ""
        return f"{describe_outcome(self.how)}: used {format_size(self.peak)}{of}{more}"

    @property
    def why(self) -> str:
        """What the process said of its end; a refused allocation is named also where Python has no words for it."""
        if not self.text and self.how == "memory" and self.asked is not None and self.peak < self.asked:
            return "it wanted more at once than was left"
        return self.text


def describe_outcome(how: How) -> str:
    match how:
        case "memory":
            return "out of memory"
        case "timeout":
            return "out of time"
        case "flooded":
            return "its result is too large"
        case "forged":
            return "its answer is forged"
        case "done" | "raised" | "stopped" | "crashed" | "refused":
            return how
        case _:
            assert_never(how)


def format_size(size: int) -> str:
    """`512MB`, `1.5GB`; units of 1024."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g}{_UNITS[unit]}" if value < 1000 else f"{value:.0f}{_UNITS[unit]}"


HAD_TOO_LITTLE = ("ran out of memory", "did not end within")


def short_of(tool: str, sizes: Sequence[int]) -> str:
    """How every shortage of this ladder begins."""
    if not sizes:
        return f"{tool} ran out of memory, though it may have all there is."
    return (
        f"{tool} ran out of memory. It was given {', then '.join(map(format_size, sizes))}; more cannot be asked for."
    )


def shortage(tool: str, tries: Sequence[Try]) -> str:
    """What an agent is told when its tool ran out of memory at the largest size there is."""
    begin = short_of(tool, [each.asked for each in tries if each.asked is not None])
    last = tries[-1]
    wanted = f" ({last.why})" if last.why else ""
    return (
        f"{begin} It held {format_size(last.peak)} when it ended{wanted}. Call it again with less to do: fewer rows or "
        "columns, a filter, a shorter period or a sample, in several calls if need be. The same call again will fail "
        "again."
    )


def slow_at(tool: str, seconds: float) -> str:
    """How every answer that took longer than this begins."""
    return f"{tool} did not end within {seconds:g} s and was stopped"


def too_slow(tool: str, tries: Sequence[Try], seconds: float) -> str:
    """What an agent is told when its tool did not end in time."""
    return (
        f"{slow_at(tool, seconds)} (it held {format_size(tries[-1].peak)} of memory). More time cannot be asked for. "
        "Call it again with less to do, in several calls if need be."
    )


def too_much(tool: str) -> str:
    """What an agent is told when its tool returned more than can be handed over."""
    return f"{tool} returned more than can be handed over. Call it again with less to return: a summary, or fewer rows."
