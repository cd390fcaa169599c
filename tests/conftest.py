"""What every test gets: an environment without keys and settings of the person, and no network beyond loopback."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
import tempfile
from typing import Any

import pytest

_PERSONAL = re.compile(
    r"^AGENTKIT_|_API_KEY$|_TOKEN$|_SECRET$|_BASE_URL$|^JPY_SESSION_NAME$|^(https?|all)_proxy$", re.IGNORECASE
)


def pytest_configure() -> None:
    for name in [name for name in os.environ if _PERSONAL.search(name)]:
        del os.environ[name]
    # What this user's kernels share (budgets, which servers fail) is not the tests'.
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="agentkit-state-")
    # One process more for each of a thousand sessions is for the tests that are about it.
    os.environ["AGENTKIT_CALLER"] = "off"
    sys.addaudithook(_refuse_beyond_loopback)


def _refuse_beyond_loopback(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or args[0].family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = str(args[1][0])
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        # Not an Exception, so that no retry or narrow except in the code under test hides it.
        pytest.fail(f"a test tried to reach {args[1]!r}: only loopback is allowed")
