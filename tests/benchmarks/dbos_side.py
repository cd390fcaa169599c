"""The comparison's work on DBOS with SQLite: steps in a workflow, and pydantic-ai's own integration for agents.

A replay is DBOS's recovery: the workflow is put back to PENDING, as a crash leaves it, and recovered. Timed is the
workflow function itself, without the queue that recovered workflows wait in.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from dbos import DBOS, SetWorkflowID
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability

from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, script
from tests.benchmarks.side import Performed, Side


class Sides(NamedTuple):
    bare: Side
    agent: Side


@contextmanager
def on_dbos(folder: Path, *, steps: int) -> Iterator[Sides]:
    file = folder / "dbos.sqlite"
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{file}",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )
    bare, agent = _bare(steps), _agent(steps)
    DBOS.launch()
    try:
        yield Sides(*(_side(file, made) for made in (bare, agent)))
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)


class _Made(NamedTuple):
    """A registered workflow, how often its steps were performed, and the seconds each execution took."""

    workflow: Callable[[], object]
    performed: Performed
    took: list[float]


def _bare(steps: int) -> _Made:
    performed, took = Performed(), list[float]()
    step = DBOS.step(name="step")(lambda number: performed.answer())

    def count() -> int:
        started = time.perf_counter()
        for number in range(steps):
            step(number)
        took.append(time.perf_counter() - started)
        return steps

    return _Made(DBOS.workflow(name="bare steps")(count), performed, took)


def _agent(steps: int) -> _Made:
    performed, took = Performed(), list[float]()

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return performed.add(a, b)

    # The scripted model has no reply left after the recording: asked again it would raise.
    counter = Agent(
        script(steps),
        name="counter",
        instructions=INSTRUCTIONS,
        tools=[DBOS.step(name="add")(add)],
        capabilities=[DBOSDurability()],
    )

    async def count() -> str:
        started = time.perf_counter()
        answer = await counter.run("Count.", usage_limits=UNLIMITED)
        took.append(time.perf_counter() - started)
        return answer.output

    run = DBOS.workflow(name="agent run")(count)
    return _Made(lambda: DBOS.start_workflow(run).get_result(polling_interval_sec=0.05), performed, took)


def _side(file: Path, made: _Made) -> Side:
    name = f"bench {id(made)}"

    def record() -> float:
        with SetWorkflowID(name):
            made.workflow()
        return made.took[-1]

    def replay() -> float:
        with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
            connection.execute(
                "UPDATE workflow_status SET status = 'PENDING', output = NULL WHERE workflow_uuid = ?", (name,)
            )
        (handle,) = DBOS._recover_pending_workflows()
        handle.get_result(polling_interval_sec=0.05)
        return made.took[-1]

    return Side(name="DBOS (SQLite)", record=record, replay=replay, performed=made.performed)
