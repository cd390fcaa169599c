"""A process of its own for one call: spawned, never a fork of the kernel, fed and read as JSON, ended with it."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import IO, Any

from agentkit.errors import UserError
from agentkit.sandbox.process.resources import Box, How, Try, format_size

_ENTRY = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from agentkit.sandbox.process.supervisor import main; main()"
)
_PRINTED_BYTES = 256 << 10
_MOST_BYTES = 512 << 20
_THREADS = 4
_GRACE_SECONDS = 2.0
# Threads of number libraries reserve memory for each core, of which there may be a hundred.
_POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_BARE = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildEnd:
    """How a child ended: the `attempt` with its measures, what it answered, and what it printed (bounded)."""

    attempt: Try
    reply: dict[str, Any] = field(default_factory=dict)
    printed: str = ""


class Child:
    """One call in one process. `wait` blocks until it has ended; `stop` ends it and all it has started."""

    def __init__(
        self,
        job: Mapping[str, Any],
        box: Box,
        *,
        heard: Callable[[str], None] = lambda text: None,
        most: int = _PRINTED_BYTES,
    ) -> None:
        """`heard` is told on another thread what it prints, up to `most` bytes."""
        self._job, self._box, self._heard, self._most = job, box, heard, most
        self._scratch = tempfile.mkdtemp(prefix="agentkit-")
        self._printed: list[str] = []
        self._stopped = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> Future[ChildEnd]:
        """`wait` on a thread of its own, which keeps nobody from ending: the child ends with this process anyhow."""
        ends: Future[ChildEnd] = Future()
        threading.Thread(target=_settle, args=(ends, self.wait), name="agentkit-child", daemon=True).start()
        return ends

    def wait(self) -> ChildEnd:
        try:
            process = self._start()
            if process is None:
                return ChildEnd(attempt=self._attempt("stopped"))
            with process:
                return self._conclude(process)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def stop(self) -> None:
        """Returns at once: the keeper ends everything when its input closes; without it, whoever shares its session."""
        with self._lock:
            self._stopped = True
            if self._process is None or self._process.stdin is None:
                return
            process = self._process
        _close(process.stdin)
        threading.Thread(target=_make_sure, args=(process,), daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopped:
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _ENTRY, json.dumps(_import_path())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                start_new_session=True,
            )
            return self._process

    def _environment(self) -> dict[str, str]:
        threads = str(min(_THREADS, os.cpu_count() or 1))
        if self._box.walls == "everything":
            kept = {name: os.environ[name] for name in _BARE if name in os.environ}
            return {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", **dict.fromkeys(_POOLS, threads), **kept}
        own = {} if self._box.walls == "none" else {"TMPDIR": self._scratch, "MPLCONFIGDIR": self._scratch}
        return {**dict.fromkeys(_POOLS, threads), **os.environ, **own}

    def _conclude(self, process: subprocess.Popen[bytes]) -> ChildEnd:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        told = {"path": _import_path(), "folder": os.getcwd(), "scratch": self._scratch, "box": asdict(self._box)}
        body = json.dumps({**told, **self._job}).encode()
        if len(body) > _MOST_BYTES:
            raise UserError(f"more than {format_size(_MOST_BYTES)} would be handed to another process: hand over less")
        threads = [
            threading.Thread(target=_feed, args=(process.stdin, body), daemon=True),
            threading.Thread(target=self._collect, args=(process.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        said = process.stdout.read()
        # Nobody who could still print is left.
        threads[1].join(_GRACE_SECONDS)
        _close(process.stdin)
        process.wait()
        return self._read_end(said)

    def _read_end(self, said: bytes) -> ChildEnd:
        if self._stopped or not said:
            return ChildEnd(
                attempt=self._attempt("stopped" if self._stopped else "crashed"), printed="".join(self._printed)
            )
        try:
            told = json.loads(said)
        except (ValueError, RecursionError) as error:
            attempt = self._attempt("forged", text=f"its reply cannot be read: {type(error).__name__}")
            return ChildEnd(attempt=attempt, printed="".join(self._printed))
        attempt = self._attempt(told["how"], peak=told["peak"], seconds=told["seconds"], text=told["text"])
        return ChildEnd(attempt=attempt, reply=told["reply"] or {}, printed="".join(self._printed))

    def _attempt(self, how: How, *, peak: int = 0, seconds: float = 0.0, text: str = "") -> Try:
        return Try(asked=self._box.memory, peak=peak, seconds=seconds, how=how, text=text)

    def _collect(self, stream: IO[bytes]) -> None:
        # Read to the end, kept to the limit: who prints too much must not stand still.
        room, decoder = self._most, codecs.getincrementaldecoder("utf-8")("replace")
        while piece := os.read(stream.fileno(), 1 << 16):
            if room > 0:
                self._tell(decoder.decode(piece[:room]))
            if len(piece) > room >= 0:
                self._tell("\n… more was printed and is not kept\n")
                room = -1
            room -= len(piece) if room >= 0 else 0

    def _tell(self, text: str) -> None:
        self._printed.append(text)
        self._heard(text)


def _import_path() -> list[str]:
    return [str(place) for place in sys.path]


def _settle(ends: Future[ChildEnd], wait: Callable[[], ChildEnd]) -> None:
    ends.set_running_or_notify_cancel()
    try:
        ends.set_result(wait())
    except Exception as error:  # noqa: BLE001 - whoever waits gets it
        ends.set_exception(error)


def _feed(stream: IO[bytes], body: bytes) -> None:
    try:
        stream.write(len(body).to_bytes(8, "big") + body)
        stream.flush()
    except (BrokenPipeError, ValueError):
        # It has ended already, and says itself why.
        return


def _close(stream: IO[bytes] | None) -> None:
    if stream is None:
        return
    try:
        stream.close()
    except (BrokenPipeError, ValueError):
        return


def _make_sure(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def memory_holds() -> str | None:
    """Why this system cannot limit the memory of a process; None when it can."""
    return None if sys.platform == "linux" else "it takes Linux"


@cache
def walls_stand() -> str | None:
    """Why this system cannot cut a child off; None when it can, which was tried against a listening port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        job = {"kind": "walls", "port": listening.getsockname()[1], "name": f".agentkit-{uuid.uuid4().hex}"}
        box = Box(seconds=20.0, walls="network")
        ended = Child(job, box).wait()
    if ended.attempt.how != "done":
        return f"{ended.attempt.text or ended.attempt.how}"
    holes = ended.reply.get("value") or []
    return "; ".join(holes) or None
