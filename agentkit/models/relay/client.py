"""A session's way to its caller: found by whoever holds the same journal, started by the first."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from agentkit.journal.owner import Owner
from agentkit.models.relay.http_transport import frame, peer_of
from agentkit.models.request_context import RelayAddress

VARIABLE = "AGENTKIT_CALLER"
_POINTER = "caller"
_STARTS = 3
_TRIES = 20
_TRY_SECONDS = 0.05
_DEATHS = 2
_ANSWER_SECONDS = 5.0
# Secrets are told through the socket; what a process needs to start and to trust a server is all it inherits.
_INHERITED = re.compile(
    r"^(PATH|HOME|LANG|LC_.*|TMPDIR|XDG_RUNTIME_DIR|LD_LIBRARY_PATH|PYTHONPATH|SSL_CERT_(FILE|DIR)|VIRTUAL_ENV)$"
)
NOTE = "the caller ended while it made a call: what was under way may have been paid, and was asked again"


class RelayClient:
    """The caller of the journal in `folder`; `off` says why calls are made directly."""

    def __init__(
        self,
        folder: Path,
        *,
        owner: Callable[[], str],
        secrets: Callable[[], Mapping[str, str]],
        remark: Callable[[str], None],
    ) -> None:
        self._folder = folder.absolute()
        self._owner = owner
        self._secrets = secrets
        self._remark = remark
        self._line: RelayAddress | None = None
        self._lease: socket.socket | None = None
        self._lock = threading.Lock()
        self._deaths = 0
        self._told_of_deaths = False
        # The secrets that the caller knows of: what it must not write.
        self._told: Mapping[str, str] = {}
        _all.add(self)
        self._untold = _cannot_live()
        told_off = os.environ.get(VARIABLE, "on").lower() in ("off", "0", "false", "no")
        self.off: str | None = f"{VARIABLE} says so" if told_off else self._untold

    async def line(self, *, again: bool = False) -> RelayAddress | None:
        if self.off is not None:
            if self.off == self._untold:
                self._untold = None
                self._remark(f"the caller is off here: {self.off}; calls are made directly")
            return None
        if self._line is not None and not again and self._told is self._secrets():
            return self._line
        return await asyncio.to_thread(self._connect, self._line)

    def mark_dead(self, line: RelayAddress) -> None:
        """It ended under a call, or under several, which all say so. Where another does too, it cannot live."""
        with self._lock:
            if self._line != line:
                return
            self._forget()
            self._deaths += 1
        self._remark(NOTE)
        if self._deaths >= _DEATHS and self.off is None:
            self.off = "it was ended by something, twice"
            self._remark(f"the caller is off here: {self.off}; calls are made directly")

    def turn_on(self) -> None:
        self.off, self._deaths = _cannot_live(), 0

    def turn_off(self, why: str = "turned off") -> None:
        self.off = why
        self.release()

    def release(self) -> None:
        """This kernel needs it no longer."""
        with self._lock:
            self._forget()

    def ask(self, do: Literal["status", "stop"]) -> dict[str, Any] | None:
        """Its state (`status`), after which it ends when nothing is under way (`stop`); None when there is none."""
        try:
            told = self._greet(do)
        except TimeoutError:
            told = None
        if told is not None:
            told[1].close()
        return None if told is None else told[0]

    def of_child(self) -> None:
        """After a fork: the lease is the parent's alone, and whatever thread held the lock is not here."""
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._line = None
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def _connect(self, known: RelayAddress | None) -> RelayAddress | None:
        with self._lock:
            if self._line is not None and self._line is not known:
                return self._line
            self._forget()
            try:
                self._line = self._find() or self._start()
            except OSError as error:
                self.off = f"it cannot be used ({error})"
                self._remark(f"the caller is off here: {self.off}; calls are made directly")
            return self._line

    def _find(self) -> RelayAddress | None:
        return self._join(self._greet("greet"))

    def _join(self, greeted: tuple[dict[str, Any], socket.socket] | None) -> RelayAddress | None:
        if greeted is None:
            return None
        told, self._lease = greeted
        if told["deaths"] >= _DEATHS and not self._told_of_deaths:
            self._told_of_deaths = True
            self._remark(
                f"{told['deaths']} callers of this journal were killed in a row: if the end of the kernel ends them, "
                "calls under way then may be paid again"
            )
        return RelayAddress(told["address"], told["token"])

    def _start(self) -> RelayAddress:
        for _ in range(_STARTS):
            said = self._spawn()
            if "failed" in said:
                raise OSError(said["failed"])
            if "address" in said and (line := self._join(self._greet("greet", given=said))) is not None:
                return line
            # Another kernel was first, and its caller is about to listen.
            for _ in range(_TRIES):
                if (line := self._find()) is not None:
                    return line
                time.sleep(_TRY_SECONDS)
        raise OSError("no answer from it")

    def _spawn(self) -> dict[str, Any]:
        """What a caller says: where it listens, that there is one already (`taken`), or why it `failed`."""
        command = [sys.executable, "-P", "-m", "agentkit.models.relay.server", str(self._folder)]
        kept = {name: value for name, value in os.environ.items() if _INHERITED.match(name)}
        package = str(Path(__file__).parents[3])
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), package]))
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept, cwd="/",
            start_new_session=True, text=True,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            said = child.stdout.readline()
        return dict(json.loads(said)) if said else {"failed": "it ended before it said anything"}

    def _greet(self, do: str, given: dict[str, Any] | None = None) -> tuple[dict[str, Any], socket.socket] | None:
        try:
            where = given or json.loads((self._folder / _POINTER).read_text())
            connected = socket.socket(socket.AF_UNIX)
        except (OSError, ValueError):
            return None
        try:
            connected.settimeout(_ANSWER_SECONDS)
            # The folder may have come from anywhere: no secret goes to where it only says that a caller listens.
            of_this_user = os.lstat(where["address"]).st_uid == os.getuid()
            _enter_queue(connected, where["address"])
            if not of_this_user or peer_of(connected)[1] not in (None, os.getuid()):
                raise ConnectionRefusedError
            order: dict[str, Any] = {"do": do, "token": where.get("token", ""), "owner": self._owner()}
            known = self._secrets()
            if do == "greet":
                order["secrets"] = dict(known)
            connected.sendall(frame(b"J", order))
            length = struct.unpack(">cI", _exactly(connected, 5))[1]
            told = json.loads(_exactly(connected, length))
        except TimeoutError:
            # It is there and does not answer: another one cannot be started beside it.
            connected.close()
            raise TimeoutError("it does not answer") from None
        except (OSError, EOFError, ValueError, TypeError, KeyError):
            connected.close()
            return None
        if do == "greet":
            self._told = known
        return {**told, "address": where["address"]}, connected


def _enter_queue(connecting: socket.socket, address: str) -> None:
    """Connect; raise TimeoutError when the queue stays full, which a Unix socket says at once (BlockingIOError)."""
    until = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return connecting.connect(address)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(_TRY_SECONDS)


def _cannot_live() -> str | None:
    if not hasattr(socket, "AF_UNIX"):
        return "this system has no Unix sockets"
    if os.getpid() == 1:
        return "this kernel is the first process of its container, and nothing outlives that"
    return None


_all: WeakSet[RelayClient] = WeakSet()


def _in_child() -> None:
    for calling in list(_all):
        calling.of_child()


os.register_at_fork(after_in_child=_in_child)


def release_all() -> None:
    """Whatever sessions of this process are still open: none of them holds a caller any longer."""
    for calling in list(_all):
        calling.release()


def _exactly(connected: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        piece = connected.recv(length - len(got))
        if not piece:
            raise EOFError
        got += piece
    return bytes(got)


def describe_state(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "no caller is running; where it is on, the next live call starts one"
    return (
        f"caller {state['pid']} since {state['seconds']:.0f} s: {_count_text(state['calls'], 'call')}, "
        f"{state['running']} under way, {_count_text(state['kernels'], 'kernel')}"
    )


def describe_stop(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "no caller is running"
    waits = " once the calls under way have ended" if state["running"] else ""
    return f"caller {state['pid']} ends{waits}; the next live call starts another where it is on"


def steer(folder: Path, do: Literal["status", "stop"]) -> str:
    """Ask or end the caller of the journal in `folder` from outside a session."""
    if not folder.is_dir():
        return describe_state(None) if do == "status" else describe_stop(None)
    # Whoever may lock an owner's file there may ask.
    owner = Owner(folder / "owners")
    try:
        calling = RelayClient(folder, owner=lambda: owner.id, secrets=dict, remark=lambda text: None)
        state = calling.ask(do)
    finally:
        owner.release()
    return describe_state(state) if do == "status" else describe_stop(state)


def _count_text(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
