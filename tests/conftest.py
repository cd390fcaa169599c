"""What every test gets: no keys or settings of the person, no network beyond loopback; and no caller is left after."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.callers import left_after, none_left

_PERSONAL = re.compile(
    r"^AGENTKIT_|_API_KEY$|_TOKEN$|_SECRET$|_BASE_URL$|^JPY_SESSION_NAME$|^(https?|all)_proxy$", re.IGNORECASE
)

_LONG = re.compile(
    r"tests/(browser|kill|notebook|powercut)/|tests/test_notebooks\.py"
    r"|tests/models/test_(fallback|relay\w*|throttle|unsent)\.py|tests/sandbox/test_isolate\.py"
    r"|tests/agent/test_(mcp_servers|resume_mcp)\.py|tests/pipeline/test_export\.py"
)
"""Files that begin kernels, browsers and callers: `slow`, and first, so that no other worker waits for one of them."""

_RUNTIME = Path(tempfile.mkdtemp(prefix="agentkit-run-"))
_left: list[str] = []


def pytest_configure() -> None:
    for name in [name for name in os.environ if _PERSONAL.search(name)]:
        del os.environ[name]
    # What this user's kernels share (budgets, which servers fail) is not the tests'.
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="agentkit-state-")
    # One process more for each of a thousand sessions is for the tests that are about it.
    os.environ["AGENTKIT_CALLER"] = "off"
    # Nor is the place of their sockets, by which the callers that tests begin are told from anybody else's.
    os.environ["XDG_RUNTIME_DIR"] = str(_RUNTIME)
    # How long an example takes depends on who else uses the machine.
    hypothesis.settings.register_profile("machine", deadline=None)
    hypothesis.settings.load_profile("machine")
    sys.addaudithook(_refuse_beyond_loopback)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/browser/"):
            item.add_marker("browser")
        if _LONG.match(item.nodeid):
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _refuse_beyond_loopback(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or args[0].family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = str(args[1][0])
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        # Not an Exception, so that no retry or narrow except in the code under test hides it.
        pytest.fail(f"a test tried to reach {args[1]!r}: only loopback is allowed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "agentkit.models.relay.client" in sys.modules:
        # Sessions that a test left open end with this process, which is not yet over.
        sys.modules["agentkit.models.relay.client"].release_all()
    _left.extend(left_after(_RUNTIME, within=20))
    shutil.rmtree(_RUNTIME)
    if _left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left:
        terminalreporter.section("left behind by the tests", red=True, bold=True)
        for line in _left:
            terminalreporter.write_line(line)


# ---- a project whose calls go through a caller, for the tests that are about it; none of the callers outlives them


@pytest.fixture(scope="module")
def ended() -> Iterator[None]:
    with none_left():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: None) -> Path:
    monkeypatch.setenv("AGENTKIT_CALLER", "on")
    return tmp_path


@pytest.fixture(params=["off", "on"], ids=["direct", "caller"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, ended: None) -> None:
    """Everything twice: what a server says must reach a run in the same words, whoever makes the call."""
    monkeypatch.setenv("AGENTKIT_CALLER", request.param)
