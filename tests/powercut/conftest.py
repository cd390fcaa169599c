"""These tests are collected only where the power can be cut; elsewhere the summary says why they were not run."""

from __future__ import annotations

import pytest

from tests.powercut.disk import unable

_REASON = unable()
collect_ignore_glob = [] if _REASON is None else ["test_*.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REASON is not None:
        terminalreporter.write_line(f"tests/powercut was not run, for the power cannot be cut here: {_REASON}")
