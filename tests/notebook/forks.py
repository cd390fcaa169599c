"""Kernels that are forks of a process which has imported what is not agentkit's, so that a new one is there at once.

Of agentkit nothing is imported before the fork, and two kernels one after the other hash differently, as two
that began from nothing do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

_ROOT = Path(__file__).parents[2]
IMPORTED = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell"),
    *("pydantic_ai", "pydantic_ai.durable_exec._base", "pydantic_ai.embeddings", "pydantic_ai.images"),
    *("pydantic_ai.models.instrumented", "pydantic_ai.models.wrapper", "pydantic_ai.retries"),
    *("genai_prices", "httpx2", "nh3", "pydantic_monty", "rich.console", "tenacity", "truststore", "yaml"),
)
_SPEC = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
    "metadata": {"debugger": True, "kernel_provisioner": {"provisioner_name": "forked"}},
}
_launches = itertools.count()
_one_at_a_time = threading.Lock()


class Fork:
    """A kernel's process, as a provisioner uses one."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return 0 if select.select([self._handle], [], [], 0)[0] else None

    def wait(self) -> int:
        select.select([self._handle], [], [])
        os.close(self._handle)
        return 0

    def send_signal(self, number: int) -> None:
        # As `Popen` does: who has ended hears nothing.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkProvisioner(LocalProvisioner):
    """Asks for a fork where a process would be begun; all else is as for any local kernel."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        asked = {"argv": cmd[cmd.index("ipykernel_launcher") + 1 :], "cwd": options.get("cwd"), "env": options["env"]}
        # The first one waits for the imports: a server goes on meanwhile.
        await asyncio.to_thread(self._fork, json.dumps(asked).encode() + b"\n")
        return self.connection_info

    def _fork(self, asked: bytes) -> None:
        with _one_at_a_time:
            connection = _parent(next(_launches) % 2)
            connection.sendall(asked)
            self.pid = self.pgid = int(connection.recv(32))
            self.process = Fork(self.pid)  # type: ignore[assignment]
            # It lives until it is known here, so that its id is nobody else's.
            connection.sendall(b"\n")


def install(folder: Path) -> dict[str, str]:
    """Make the kernel `python3` a forked one, for a server or a tool that begins with these variables."""
    metadata = folder / "plugins" / "forked-1.dist-info"
    provisioners = f"[jupyter_client.kernel_provisioners]\nforked = {ForkProvisioner.__module__}:ForkProvisioner\n"
    for path, text in (
        (folder / "data" / "kernels" / "python3" / "kernel.json", json.dumps(_SPEC)),
        (metadata / "METADATA", "Metadata-Version: 2.1\nName: forked\nVersion: 1\n"),
        (metadata / "entry_points.txt", provisioners),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    places = [str(_ROOT), os.environ.get("PYTHONPATH", ""), str(folder / "plugins")]
    return {"JUPYTER_DATA_DIR": str(folder / "data"), "PYTHONPATH": os.pathsep.join(filter(None, places))}


@functools.cache
def _parent(number: int) -> socket.socket:
    """The connection to one of the processes that fork; it ends, and its kernels with it, when this one does."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.notebook.forks", str(theirs.fileno())],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait(timeout=20)

    return ours


def _serve(connection: socket.socket) -> None:
    """Fork for each line that arrives, until the other side is gone."""
    places = sys.path[1 + len(_given(os.environ)) :]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Nobody waits for a kernel here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    lines = connection.makefile("rb")
    while line := lines.readline():
        ready, begin = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(begin)
            os.read(ready, 1)
            _become(json.loads(line), places)
        connection.sendall(str(pid).encode())
        lines.readline()
        os.close(begin)
        os.close(ready)


def _become(asked: dict[str, Any], places: list[str]) -> None:
    """Be the kernel that `python -m ipykernel_launcher` would be."""
    os.setsid()
    os.closerange(3, 256)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"] or ".")
    sys.path[:] = _given(asked["env"]) + places
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    launcher = importlib.util.find_spec("ipykernel_launcher")
    assert launcher is not None and launcher.origin is not None
    # What the environment says of it was read when ipykernel was imported.
    sys.argv = [launcher.origin, *asked["argv"], f"--IPKernelApp.parent_handle={os.getppid()}"]
    sys.modules["ipykernel.kernelapp"].launch_new_instance()
    sys.exit()


def _given(environment: Any) -> list[str]:
    return list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
