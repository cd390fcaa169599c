from __future__ import annotations

import socket

import pytest


def test_a_test_that_reaches_beyond_loopback_fails() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(pytest.fail.Exception, match="only loopback"):
        sock.connect(("192.0.2.1", 9))


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
