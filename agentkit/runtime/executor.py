"""Where work blocks: the threads of sync tools, which also record that it was done, and `run_sync` of agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from agentkit.errors import UserError
from agentkit.journal.execution import current_step

P = ParamSpec("P")
T = TypeVar("T")


class RecordingExecutor(ThreadPoolExecutor):
    """Runs a tool's function and writes its result to the journal before anybody else sees it.

    A stopped cell does not stop a thread: without this, what the thread did would be in doubt.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        frame = current_step()
        if frame is None or frame.finish_in_thread is None or frame.thread is not None:
            return super().submit(_convert_stop, lambda: fn(*args, **kwargs))
        ended: Future[bool] = Future()
        future = super().submit(
            _record_end, ended, frame.finish_in_thread, lambda: _convert_stop(lambda: fn(*args, **kwargs))
        )
        future.add_done_callback(lambda work: ended.set_result(False) if work.cancelled() else None)
        frame.thread = ended
        return future


def _record_end(ended: Future[bool], finish: Callable[[object], None], work: Callable[[], T]) -> T:
    try:
        value = work()
        finish(value)
        return value
    finally:
        ended.set_result(True)


def _convert_stop(work: Callable[[], T]) -> T:
    """A future cannot hold a StopIteration: whoever waited for it would wait for ever."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("StopIteration: `next` found nothing; give it a default: next(found, None)") from error


def outside_loops(run_sync: Callable[..., Any]) -> Callable[..., Any]:
    """An agent's `run_sync`, which cannot wait where the loop of a notebook's cell is running already."""

    @wraps(run_sync)
    def check_and_run(agent: Any, *args: Any, **kwargs: Any) -> Any:
        if _loop_runs_here():
            name = agent.name or "agent"
            raise UserError(f"{name}.run_sync cannot wait where an event loop runs, as in a cell: await {name}.run(…)")
        return run_sync(agent, *args, **kwargs)

    return check_and_run


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
