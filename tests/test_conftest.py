from __future__ import annotations

import socket
import subprocess
import sys

import pytest


def test_a_test_that_reaches_beyond_loopback_fails() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(pytest.fail.Exception, match="only loopback"):
        sock.connect(("192.0.2.1", 9))


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_what_is_slow_is_known_by_its_folder_and_is_first(pytestconfig: pytest.Config) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--collect-only",
            "-m",
            "slow",
            "tests/browser",
            "tests/test_conftest.py",
        ],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = [line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line]
    assert {"tests/browser/test_panels.py", "tests/browser/test_stepping.py"} <= set(found), done.stdout
    assert all(place.startswith("tests/browser/") for place in found)
