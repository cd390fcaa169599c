"""The caller itself, `python -m agentkit.models.relay.server FOLDER`: it makes model requests and keeps each answer."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from agentkit.journal.owner import is_alive
from agentkit.journal.process_lock import boot_id
from agentkit.journal.redaction import Redactor
from agentkit.journal.response_store import leaves, read_answer, write_answer
from agentkit.models.relay.http_transport import PULSE_SECONDS, frame, peer_of, read_frame
from agentkit.models.transport.connections import Connections, when_it_leaves
from agentkit.models.transport.response_capture import Collected, pack

POINTER = "caller"
IDLE_SECONDS = 2.0
_UNWRITTEN_SECONDS = 600.0
_TICK = 0.25
_QUEUE = 1024
"""Connections that wait to be accepted; the system cuts it to its own limit."""
_YOUNG_SECONDS = 60.0
_LONGEST_ADDRESS = 100


class Exchange:
    """One request: the frames of its answer so far, whoever reads them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended: float | None = None
        self.written = False
        self.status = 0
        self._changed = asyncio.Event()

    def add(self, one: bytes, *, last: bool = False) -> None:
        self.frames.append(one)
        if last:
            self.ended = time.monotonic()
        self._changed.set()
        self._changed = asyncio.Event()

    async def tell(self, writer: asyncio.StreamWriter, *, first: bytes) -> None:
        """`first` goes with what there is to tell: each write wakes the other side."""
        sent = 0
        while True:
            changed = self._changed
            if sent < len(self.frames):
                writer.write(first + b"".join(self.frames[sent:]))
                first = b""
                sent = len(self.frames)
                await writer.drain()
            elif self.ended is not None:
                return
            else:
                await changed.wait()


class RelayServer:
    """What the caller knows: who is there, what is under way, and which secrets are never written."""

    def __init__(self, folder: Path, address: str, *, deaths: int) -> None:
        self.folder = folder
        self.deaths = deaths
        self.address = address
        self.token = secrets.token_urlsafe(24)
        self.flights: dict[str, Exchange] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.kernels: set[asyncio.StreamWriter] = set()
        self.stopping = False
        self.calls = 0
        self.began = time.monotonic()
        self._redactor = Redactor({})
        self._connections = Connections()

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            sort, content = await read_frame(reader)
            order = json.loads(content)
            if not self._may(order, writer.get_extra_info("socket")):
                writer.close()
                return
            if sort == b"C":
                await self._call(order, (await read_frame(reader))[1], writer)
            else:
                await self._order(order, reader, writer)
        self.kernels.discard(writer)
        writer.close()

    def _may(self, order: dict[str, Any], peer: socket.socket) -> bool:
        """The token; or, for who has none yet, the lock on this very journal held by the process that asks."""
        if secrets.compare_digest(str(order.get("token", "")), self.token):
            return True
        owner = str(order.get("owner", ""))
        pid, uid = peer_of(peer)
        return uid in (None, os.getuid()) and owner.startswith(f"{pid}-") and is_alive(self.folder / "owners", owner)

    async def _order(self, order: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running = sum(flight.ended is None for flight in self.flights.values())
        told = {
            "token": self.token, "pid": os.getpid(), "kernels": len(self.kernels), "running": running,
            "calls": self.calls, "seconds": time.monotonic() - self.began, "deaths": self.deaths,
        }  # fmt: skip
        self.stopping |= order["do"] == "stop"
        writer.write(frame(b"J", told))
        await writer.drain()
        if order["do"] == "greet":
            self._redactor.learn(order["secrets"].items())
            self.kernels.add(writer)
            await reader.read()

    async def _call(self, order: dict[str, Any], content: bytes, writer: asyncio.StreamWriter) -> None:
        name = order["file"]
        kept = None if name in self.flights else read_answer(Path(name))
        if kept is not None:
            # It was written in the moment between the look of the one who asks and its asking.
            headers, _, body = kept.partition(b"\n")
            head = frame(b"H", {"status": 200, "headers": list(json.loads(headers).items())})
            writer.write(frame(b"J", {"joined": True}) + head + frame(b"D", body) + frame(b"E", b""))
            await writer.drain()
            return
        joined = name in self.flights
        if not joined:
            self.flights[name] = Exchange()
            self.calls += 1
            task = asyncio.create_task(self._perform(self.flights[name], order, content))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        flight = self.flights[name]
        pulse = asyncio.create_task(_beat(writer))
        try:
            await flight.tell(writer, first=frame(b"J", {"joined": joined}))
        finally:
            pulse.cancel()
        if self.flights.get(name) is flight:
            # Read to its end by somebody: it need not be remembered.
            del self.flights[name]

    async def _perform(self, flight: Exchange, order: dict[str, Any], content: bytes) -> None:
        try:
            await self._receive(flight, order, content)
        except Exception as error:  # noqa: BLE001 - whatever it is: who waits would wait for ever
            flight.add(frame(b"X", {"type": type(error).__name__, "message": str(error)}), last=True)
            flight.written = True
        if flight.written or flight.status != httpx2.codes.OK:
            self.flights.pop(order["file"], None)

    async def _receive(self, flight: Exchange, order: dict[str, Any], content: bytes) -> None:
        extensions = {"timeout": order["timeout"]} if order["timeout"] else {}
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in order["headers"]]
        request = httpx2.Request(order["method"], order["url"], headers=headers, content=content, extensions=extensions)
        with when_it_leaves(request, partial(leaves, Path(order["file"]))):
            response = await self._connections.send_through(order["proxy"], request)
        raw = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        flight.status = response.status_code
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        waiting = [frame(b"H", {"status": response.status_code, "reason": reason, "headers": raw})]
        streamed = "text/event-stream" in response.headers.get("content-type", "")
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        if response.status_code == httpx2.codes.OK:
            file, kept = Path(order["file"]), response.headers
            stream = Collected(
                stream, kept, whole=lambda body: self._keep(flight, file, pack(kept, body)), lost=lambda: None
            )
        try:
            async for piece in stream:
                waiting.append(frame(b"D", piece))
                if streamed:
                    flight.add(b"".join(waiting))
                    waiting.clear()
        finally:
            await response.aclose()
        flight.add(b"".join([*waiting, frame(b"E", b"")]), last=True)

    def _keep(self, flight: Exchange, file: Path, answer: bytes) -> None:
        text = answer.decode("utf-8", "replace")
        flight.written = self._redactor.clean(text) and write_answer(file, answer)

    def is_idle(self) -> bool:
        """Whether nobody is left and nothing is under way, nor kept only here."""
        gone = not self.folder.exists()
        if gone and not self.kernels:
            # No run can ever ask for what is under way.
            return True
        now = time.monotonic()
        waiting = [
            flight
            for flight in self.flights.values()
            if flight.ended is None or (not (gone or self.stopping) and now - flight.ended < _UNWRITTEN_SECONDS)
        ]
        return not waiting and not self.tasks and (self.stopping or not self.kernels or gone)


async def _beat(writer: asyncio.StreamWriter) -> None:
    """Says that it lives, however long the server takes."""
    while not writer.is_closing():
        await asyncio.sleep(PULSE_SECONDS)
        writer.write(frame(b"P", b""))


async def serve(relay: RelayServer, listening: socket.socket) -> None:
    server = await asyncio.start_unix_server(relay.serve_client, sock=listening, limit=2**20, backlog=_QUEUE)
    idle = time.monotonic()
    while time.monotonic() - idle < (0 if relay.stopping else IDLE_SECONDS) or not relay.is_idle():
        await asyncio.sleep(_TICK)
        idle = idle if relay.is_idle() else time.monotonic()
    server.close()


def place() -> Path:
    """A folder for sockets that only this user can enter."""
    for root in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if not root:
            continue
        folder = Path(root) / f"agentkit-{os.getuid()}"
        if len(os.fsencode(folder)) + 25 > _LONGEST_ADDRESS:
            continue
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            if folder.is_dir() and status.st_uid == os.getuid() and not status.st_mode & 0o077:
                return folder
    raise OSError("no private folder for a socket")


def sweep(folder: Path, *, young: float = _YOUNG_SECONDS) -> None:
    """Remove the sockets of callers that were killed, but for those that may be bound and not listened to yet."""
    for file in folder.glob("*.sock"):
        with suppress(FileNotFoundError):
            if time.time() - file.lstat().st_mtime < young:
                continue
        _remove_dead(file)


def _remove_dead(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as trying:
        # A full queue is the sign of a process that lives, or is stopped: it is not waited for.
        trying.setblocking(False)
        try:
            trying.connect(str(file))
        except ConnectionRefusedError:
            file.unlink(missing_ok=True)
        except OSError:
            return


def _count_deaths(lock: int, sockets: Path) -> int:
    """How many callers in a row were killed before this one: whose lock is free and whose pointer is there, was.

    The socket of the last is removed. What died with the machine is not counted.
    """
    try:
        before = json.loads(os.read(lock, 4096))
        file, deaths = Path(before["address"]), int(before["deaths"]) + 1
    except (ValueError, TypeError, LookupError):
        return 0
    # Nothing else is touched, whatever a project that came from elsewhere says.
    if file.parent == sockets and file.suffix == ".sock":
        _remove_dead(file)
    return deaths if boot_id() and before.get("boot") == boot_id() else 0


def _claim(folder: Path) -> int | None:
    """The lock that makes this the one caller of the journal in `folder`."""
    while True:
        opened = os.open(folder / POINTER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _points(folder, opened):
                return opened
        except FileNotFoundError:
            pass
        except OSError:
            os.close(opened)
            return None
        # The one before removed it in this very moment.
        os.close(opened)


def _points(folder: Path, lock: int) -> bool:
    """Whether the locked file is still the one that others find."""
    return os.fstat(lock).st_ino == (folder / POINTER).stat().st_ino


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.fork():
        # Nobody's child: who started this need not wait for it, and does not take it along.
        os._exit(0)
    try:
        lock = _claim(folder)
        if lock is None:
            _say({"taken": True})
        else:
            _live(folder, lock)
    except OSError as error:
        _say({"failed": str(error)})


def _live(folder: Path, lock: int) -> None:
    sockets = place()
    deaths = _count_deaths(lock, sockets)
    sweep(sockets)
    address = str(sockets / f"{secrets.token_hex(8)}.sock")
    # Before there is a socket, so that none is ever there that the next caller does not find.
    pointer = {"pid": os.getpid(), "address": address, "boot": boot_id(), "deaths": deaths}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(pointer).encode(), 0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        try:
            _listen(listening, RelayServer(folder, address, deaths=deaths))
        finally:
            Path(address).unlink(missing_ok=True)
            with suppress(OSError):
                # Of a folder that was removed and made anew, it is the next caller's.
                if _points(folder, lock):
                    (folder / POINTER).unlink(missing_ok=True)


def _listen(listening: socket.socket, relay: RelayServer) -> None:
    os.chmod(relay.address, 0o600)
    listening.listen(_QUEUE)
    # Who started this may have died since: the next kernel finds it, or it ends like one that was left.
    _say({"address": relay.address, "token": relay.token})
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    asyncio.run(serve(relay, listening))


def _say(what: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
