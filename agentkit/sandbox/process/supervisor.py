"""The first process of an isolated call: starts the one that does the work, watches what it uses, and ends it.

It speaks with the kernel by its standard input (the job; when it closes, everything here ends) and its standard output
(one line of JSON, how it ended). It runs nothing foreign itself, so that whatever the work does, the keeper remains.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from agentkit.sandbox.process import child_worker, namespaces
from agentkit.sandbox.process.resources import Box, How
from agentkit.sandbox.process.worker_reply import BEGUN, FalseReply, read_reply

_LOOK_MILLISECONDS = 10
_LOOK_AROUND = 10
"""Every so many looks the processes that the work has started are looked for too."""
_MOST_PROCESSES = 256
_REPLY_BYTES = 64 << 20
_READ_BYTES = 1 << 30
_CHUNK = 1 << 20


def main() -> NoReturn:
    """Perform the job on standard input and say how it ended."""
    kernel = os.getppid()
    job = json.loads(_exactly(int.from_bytes(_exactly(8), "big")))
    box = Box(**job["box"])
    try:
        if sys.platform == "linux":
            namespaces.adopt_orphans()
            if box.walls != "none":
                namespaces.leave_host()
        elif box.memory is not None or box.walls != "none":
            raise OSError("only Linux can limit the memory of a process and cut off its network")
        if sys.platform == "linux":
            # The work runs as the same user, and must not open what this process speaks to the kernel by.
            namespaces.hide(True)
    except OSError as error:
        _say("refused", text=error.strerror or str(error))
    reading, writing = os.pipe()
    began = time.monotonic()
    worker = os.fork()
    if worker == 0:
        os.close(reading)
        if sys.platform == "linux":
            namespaces.hide(False)
        child_worker.run_job(job, box, writing)
    os.close(writing)
    _limit_own_memory()
    watch = _MemoryWatch(job["scratch"], worker=worker, reading=reading, box=box, began=began, kernel=kernel)
    watch.outputs = job.get("outputs")
    watch.run_forever()


def _limit_own_memory() -> None:
    """A reply of three letters for each value takes thirty times its length once it is read."""
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = _READ_BYTES if most == resource.RLIM_INFINITY else min(_READ_BYTES, most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _exactly(size: int) -> bytes:
    whole = bytearray()
    while len(whole) < size:
        piece = os.read(0, min(_CHUNK, size - len(whole)))
        if not piece:
            sys.exit(1)
        whole += piece
    return bytes(whole)


def _say(how: How, *, peak: int = 0, seconds: float = 0.0, text: str = "", reply: Any = None) -> NoReturn:
    line = json.dumps({"how": how, "peak": peak, "seconds": seconds, "text": text, "reply": reply}).encode()
    while line:
        line = line[os.write(1, line) :]
    os._exit(0)


class _MemoryWatch:
    """One worker until its end; its own processes end with it."""

    def __init__(self, scratch: str, *, worker: int, reading: int, box: Box, began: float, kernel: int) -> None:
        self._scratch = scratch
        self._worker, self._reading, self._box, self._began, self._kernel = worker, reading, box, began, kernel
        self.outputs: list[str] | None = None
        """The names that a cell was asked for."""
        self._reply = bytearray()
        self._looks = 0
        self._others: list[int] = []
        self._peak = self._used = self._mapped = 0

    def run_forever(self) -> NoReturn:
        poll = select.poll()
        # Standard input says nothing more: it only ends, when the kernel is done with this call or is dead.
        poll.register(0, select.POLLIN | select.POLLHUP)
        poll.register(self._reading, select.POLLIN | select.POLLHUP)
        while True:
            ready = dict(poll.poll(_LOOK_MILLISECONDS))
            if 0 in ready or os.getppid() != self._kernel:
                self._end_all()
                # A kernel that was killed leaves it behind.
                shutil.rmtree(self._scratch, ignore_errors=True)
                os._exit(1)
            if self._reading in ready and not self._read():
                poll.unregister(self._reading)
                os.close(self._reading)
                self._reading = -1
            self._look()
            self._enforce()
            ended, state = os.waitpid(self._worker, os.WNOHANG)
            if ended:
                self._conclude(os.waitstatus_to_exitcode(state))

    def _read(self) -> bool:
        piece = os.read(self._reading, _CHUNK)
        self._reply += piece
        return bool(piece)

    # -- what it uses

    def _look(self) -> None:
        if self._looks % _LOOK_AROUND == 0:
            # Who loses its parent becomes a child of this process, and counts on.
            self._others = [pid for pid in _below(os.getpid()) if pid != self._worker]
        pids = (self._worker, *self._others)
        held = [_process_bytes(self._worker)] if not self._others else [_share(pid) for pid in pids]
        private, shared = (sum(sizes) for sizes in zip(*held, strict=True))
        if self._box.walls != "none" and self._reply.startswith(BEGUN):
            # Before it has begun its folders are those of everybody.
            shared = self._shared_bytes(pids, resident=shared)
        self._looks += 1
        self._used = private + shared
        self._peak = max(self._peak, self._used)

    def _shared_bytes(self, pids: Iterable[int], *, resident: int) -> int:
        """Memory that is nobody's own: files in memory, and what is shared, whether it is mapped just now or not."""
        files = sum(
            _folder_bytes(f"/proc/{self._worker}/root{folder}") for folder in namespaces.IN_MEMORY[self._box.walls]
        )
        if self._looks % _LOOK_AROUND == 0:
            self._mapped = _mapping_bytes(pids)
        return files + max(self._mapped, resident - files)

    def _enforce(self) -> None:
        box = self._box
        if box.memory is not None and self._used > box.memory:
            self._finish("memory", "it was stopped there")
        if box.seconds is not None and time.monotonic() - self._began > box.seconds:
            self._finish("timeout")
        if len(self._others) > _MOST_PROCESSES:
            self._finish("crashed", f"more than {_MOST_PROCESSES} processes")
        if len(self._reply) > _REPLY_BYTES:
            self._finish("flooded")

    # -- the end

    def _conclude(self, code: int) -> NoReturn:
        self._read_rest()
        try:
            reply = read_reply(bytes(self._reply), outputs=self.outputs)
        except FalseReply as error:
            self._finish("forged", str(error))
        except MemoryError:
            self._reply.clear()
            self._finish("flooded")
        if reply is not None:
            self._peak = max(self._peak, int(reply.pop("peak")))
            self._finish(reply.pop("how"), str(reply.pop("text", "")), reply=reply)
        if code == -signal.SIGKILL:
            # None of ours: what else kills like this is the system when its memory runs out.
            self._finish("memory", "the system killed it")
        self._finish("crashed", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _read_rest(self) -> None:
        """What the worker wrote before its end. What it has forked may hold the pipe open, and is not waited for."""
        if self._reading < 0:
            return
        os.set_blocking(self._reading, False)
        try:
            while len(self._reply) <= _REPLY_BYTES and self._read():
                namespaces.hide(True)
        except BlockingIOError:
            return

    def _finish(self, how: How, text: str = "", *, reply: Any = None) -> NoReturn:
        seconds = time.monotonic() - self._began
        self._end_all()
        _say(how, peak=self._peak, seconds=seconds, text=text, reply=reply)

    def _end_all(self) -> None:
        """Nobody is left: who loses its parent meanwhile becomes a child of this process."""
        while left := list(_below(os.getpid())):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            while _reap():
                namespaces.hide(True)
            time.sleep(0.001)


def _reap() -> bool:
    try:
        ended, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return ended != 0


def _below(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those they have; the living and the ended."""
    if sys.platform != "linux":
        return
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children = [int(child) for child in file.read().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _below(child)


def _process_bytes(pid: int) -> tuple[int, int]:
    """Bytes that this process holds, private and shared: its libraries' files are not its own."""
    fields = namespaces.status(pid)
    private = ("RssAnon", "VmSwap", "HugetlbPages")
    return sum(fields.get(name, 0) for name in private), fields.get("RssShmem", 0)


def _share(pid: int) -> tuple[int, int]:
    """Its share of what it holds together with others; what a fork has not written to yet is counted once."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            lines = [line.split() for line in file if line.endswith(" kB\n")]
    except OSError:
        return _process_bytes(pid)
    sizes = {name: int(size) << 10 for name, size, *_ in lines}
    private = ("Pss_Anon:", "SwapPss:", "Private_Hugetlb:")
    return sum(sizes.get(name, 0) for name in private), sizes.get("Pss_Shmem:", 0)


def _folder_bytes(folder: str) -> int:
    """Bytes in the files of a folder in memory."""
    try:
        state = os.statvfs(folder)
    except OSError:
        # Its walls do not stand yet, or it has ended.
        return 0
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _mapping_bytes(pids: Iterable[int]) -> int:
    """Bytes of the shared mappings without a file: who touched a page may have ended, and the page is held on."""
    found: dict[str, int] = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps") as file:
                lines = [line.split(None, 5) for line in file if _SHARED in line]
        except OSError:
            continue
        for place, _, offset, _, inode, *_ in lines:
            start, end = (int(edge, 16) for edge in place.split("-"))
            found[inode] = max(found.get(inode, 0), int(offset, 16) + end - start)
    return sum(found.values())


_SHARED = "/dev/zero (deleted)"


if __name__ == "__main__":
    main()
