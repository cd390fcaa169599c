"""Waiting for a person inside a step: the steps around it say on disk that nothing of theirs is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentkit.journal.execution import current_step
from agentkit.journal.store import Store


@asynccontextmanager
async def waiting(store: Store) -> AsyncIterator[None]:
    """A tool stopped here, by Stop or by a crash, is as one that raised here: not in doubt."""
    step = current_step()
    # What is declared is known well enough already, in whatever place it is stopped.
    around = [] if step is None else [frame for frame in step.lineage() if frame.row.effects == "undeclared"]
    if not around:
        yield
        return
    ids = tuple(frame.row.id for frame in around)
    for frame in around:
        frame.paused = True
    await asyncio.wrap_future(store.pause(ids, on=True))
    yield
    await asyncio.wrap_future(store.pause(ids, on=False))
    for frame in around:
        frame.paused = False
