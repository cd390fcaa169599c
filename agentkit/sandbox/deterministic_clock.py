"""What is the same each time a sandbox program runs again: its clock and its random seed, kept in the record."""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from agentkit.events import Kind
from agentkit.journal.keys import operation_key
from agentkit.journal.operation import Operation, Payload
from agentkit.runtime.run_state import RunState
from agentkit.sandbox.monty.driver import Clock

TOLD_CALLS = 12
"""How many of the host calls made before an error are told with it."""

_CLOCK = re.compile(r"\b(?:datetime|date|time|random)\b")
_STILL = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, kw_only=True)
class ClockReading(Operation):
    """The step that reads the clock for a program."""

    kind: Kind = "capability"
    name: str = "clock"

    def describe(self, payload: Payload) -> str:
        return str(payload["now"])


async def deterministic_clock(frame: RunState | None, source: str, *, place: str | None) -> Clock:
    """The clock and the seed: as they were when this program first ran there, so that running it again is the same."""
    if frame is None:
        return Clock(now=datetime.datetime.now(datetime.UTC), seed=secrets.randbits(32))
    if not _CLOCK.search(source):
        return Clock(now=_STILL)
    # The seed stays when a cell is edited, so that what its program draws, and asks the host for, stays too.
    steady = hashlib.sha256((place or "").encode()).digest()
    seed = secrets.randbits(32) if frame.fresh else int.from_bytes(steady[:4])

    async def now() -> Any:
        return {"now": datetime.datetime.now(datetime.UTC).isoformat(), "seed": seed}

    key = operation_key(name="sandbox:clock", payload=[source, place], history=None, memo=frame.memo)
    kept = (await frame.journal.perform(ClockReading(key=key), now)).payload
    return Clock(now=datetime.datetime.fromisoformat(kept["now"]), seed=kept["seed"])
