"""A caller whose queue of connections is full: it is waited for, never taken for one that has ended."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkit.models.relay import client, http_transport


def in_loop(address: str) -> socket.socket:
    return asyncio.run(http_transport._connect(address))


def greeting(address: str) -> socket.socket:
    connecting = socket.socket(socket.AF_UNIX)
    connecting.settimeout(client._ANSWER_SECONDS)
    client._enter_queue(connecting, address)
    return connecting


@pytest.mark.parametrize("connect", [in_loop, greeting])
def test_a_full_queue_is_waited_for(tmp_path: Path, connect: Callable[[str], socket.socket]) -> None:
    address = str(tmp_path / "caller.sock")
    accepted: list[socket.socket] = []

    def accept() -> None:
        time.sleep(0.3)
        accepted.extend(listening.accept()[0] for _ in range(2))

    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as before:
        listening.bind(address)
        listening.listen(0)
        before.connect(address)
        accepting = threading.Thread(target=accept)
        accepting.start()
        with connect(address) as connected:
            accepting.join()
            connected.setblocking(True)
            connected.sendall(b"here")
            assert accepted[1].recv(4) == b"here"
        for one in accepted:
            one.close()


@pytest.mark.parametrize("connect", [in_loop, greeting])
def test_a_queue_that_stays_full_ends_in_a_timeout(
    tmp_path: Path, connect: Callable[[str], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, "_QUEUE_SECONDS", 0.1)
    monkeypatch.setattr(client, "_ANSWER_SECONDS", 0.1)
    address = str(tmp_path / "caller.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as before:
        listening.bind(address)
        listening.listen(0)
        before.connect(address)
        with pytest.raises(TimeoutError):
            connect(address)


@pytest.mark.parametrize("connect", [in_loop, greeting])
def test_nobody_at_the_address_is_refused_at_once(tmp_path: Path, connect: Callable[[str], socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "caller.sock"))
    with pytest.raises(ConnectionRefusedError):
        connect(str(tmp_path / "caller.sock"))
