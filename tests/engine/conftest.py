"""A project whose calls go through a caller, for the tests that are about it; none of the callers outlives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callers import none_left


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
