"""One at a time: who performs a step in this process, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from agentkit.errors import UserError

_LOOK_SECONDS = 0.2


@dataclass(kw_only=True, eq=False)
class InFlight:
    """The right to look up and perform one step in this process; whoever wants it too waits for `landed`.

    `held` says why that will not be before a person goes on with what is paused inside it.
    """

    key: bytes
    n: int
    landed: Future[None] = field(default_factory=Future)
    handed_over: bool = False
    held: str = ""

    async def wait(self) -> None:
        """Until it has landed; UserError when only a person can bring it down."""
        landed = asyncio.wrap_future(self.landed)
        while not landed.done():
            if self.held:
                raise UserError(self.held)
            await asyncio.wait({landed}, timeout=_LOOK_SECONDS)


class Flights:
    """The steps that are looked up or performed just now, by any thread of this process.

    `landings` counts those that have ended: what was looked up before holds as long as it stays the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[bytes, int], InFlight] = {}
        self.landings = 0

    def take_off(self, key: bytes, n: int) -> tuple[InFlight, bool]:
        """The flight of this step, and whether it is the caller's own."""
        with self._lock:
            flight = self._flights.get((key, n))
            if flight is not None:
                return flight, False
            flight = self._flights[key, n] = InFlight(key=key, n=n)
        # Out of reach of whoever waits for it and is cancelled.
        flight.landed.set_running_or_notify_cancel()
        return flight, True

    def land(self, flight: InFlight) -> None:
        with self._lock:
            del self._flights[flight.key, flight.n]
            self.landings += 1
        flight.landed.set_result(None)

    def get(self, key: bytes, n: int) -> InFlight | None:
        return self._flights.get((key, n))
