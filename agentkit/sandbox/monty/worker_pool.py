"""The processes that sandbox programs run in: one fresh worker for each, which Stop and a dead kernel cannot orphan."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pydantic_monty
from pydantic_monty._binary import find_monty_binary

from agentkit.errors import SandboxError
from agentkit.sandbox.limits import Limits

T = TypeVar("T")

_MOST_WORKERS = 64
_PATIENCE = 30.0
_TURNS = 50_000
_SPARE_SECONDS = 3
_SHELL = "/bin/sh"


class Worker:
    """One sandbox process and the thread that waits for it, so that no event loop ever does."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._session: Any = None
        self._pid: int | None = None
        self._killed = False
        threading.Thread(target=self._work, name="agentkit-sandbox", daemon=True).start()

    def submit(self, turn: Callable[[], T]) -> Future[T]:
        """Run `turn` on the worker's thread, after those submitted before."""
        future: Future[T] = Future()
        self._jobs.put((future, turn))
        return future

    def open(self, limits: Limits, os_policy: Any, *, bound: float) -> Any:
        """Take a fresh process, which ends after `bound` seconds of computing; called on the worker's thread."""
        session = _pool().checkout(
            script_name="cell.py",
            limits={
                "max_memory": limits.memory,
                "max_feed_duration_secs": limits.time,
                "max_turn_duration_secs": limits.time,
                "max_suspensions": _TURNS,
                "max_total_sleep_secs": 0,
            },
            os_policy=os_policy,
            assert_message_annotations=False,
        )
        try:
            session.__enter__()
        except TimeoutError as error:
            raise SandboxError("limit", f"{_MOST_WORKERS} sandbox programs are running already") from error
        self._session, self._pid = session, session.worker_pid
        if self._killed:
            self.kill()
        _limit_worker(self._pid, bound)
        return session

    def kill(self) -> None:
        """End the process now, whatever it is doing; from any thread."""
        self._killed = True
        if self._pid is not None:
            # It may have ended by itself.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Throw the process away and end the thread, once its turn has ended; nobody waits for it."""
        self._jobs.put((Future(), self._leave))
        self._jobs.put(None)

    def _leave(self) -> None:
        session, self._session, self._pid = self._session, None, None
        if session is not None:
            session.__exit__(None, None, None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, turn = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(turn())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the turn raises it
                future.set_exception(error)


def _limit_worker(pid: int | None, seconds: float) -> None:
    """Let the system end a worker that computes on after its kernel is gone and that no longer looks at its clock."""
    if pid is None or not sys.platform.startswith("linux"):
        return
    import resource

    most = math.ceil(seconds) + _SPARE_SECONDS
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (most, most))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except (ProcessLookupError, PermissionError):
        return  # It has ended already, or the system does not allow it: the program's own limits hold all the same.


_pools: dict[int, tuple[Any, str]] = {}
_lock = threading.Lock()


def _pool() -> Any:
    """The workers of this process: a forked child must not talk to those of its parent."""
    with _lock:
        known = _pools.get(os.getpid())
        if known is None or not Path(known[1]).exists():
            start = _interrupt_proof_script(_binary())
            pool = pydantic_monty.Monty(
                binary_path=start,
                max_processes=_MOST_WORKERS,
                checkout_timeout=_PATIENCE,
                max_checkouts_per_worker=1,
            )
            _pools[os.getpid()] = known = (pool.__enter__(), start)
        return known[0]


def _binary() -> str:
    try:
        return find_monty_binary()
    except FileNotFoundError as error:
        raise SandboxError(
            "crash",
            "the sandbox's binary `monty` is not installed: pip install pydantic-monty-runtime, or set MONTY_BIN",
        ) from error


def _interrupt_proof_script(binary: str) -> str:
    """A script that starts `binary` deaf to SIGINT: Stop goes to the whole process group, other cells' programs too."""
    if os.name != "posix" or "'" in binary:
        return binary
    if not os.access(_SHELL, os.X_OK):
        raise SandboxError(
            "crash", f"the sandbox starts its programs by {_SHELL}, and there is none here: install one (dash, busybox)"
        )
    folder = Path(tempfile.mkdtemp(prefix="agentkit-sandbox-"))
    atexit.register(_forget, folder, os.getpid())
    script = folder / "monty"
    script.write_text(f"#!{_SHELL}\ntrap '' INT\nexec '{binary}' \"$@\"\n")
    script.chmod(0o700)
    return str(script)


def _forget(folder: Path, owner: int) -> None:
    # What a forked child leaves alone: its parent starts workers with it.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
