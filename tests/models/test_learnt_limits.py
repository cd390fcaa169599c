"""What one kernel learnt of a server, another begins with; what cannot be right is not believed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.map.concurrency import MOST
from agentkit.map.scheduler import Scheduler
from agentkit.models.transport.learnt_limits import LearntLimit, LearntLimits
from agentkit.models.transport.provider_health import Health
from agentkit.models.transport.throttle import FoundLimit, Throttle
from agentkit.runtime import server_limits
from agentkit.runtime.server_limits import ServerLimiter

NOW = 1_000_000.0


@pytest.fixture
def learnt(tmp_path: Path) -> LearntLimits:
    return LearntLimits(tmp_path / "providers.db", clock=lambda: NOW)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[LearntLimits]:
    """What this kernel shares with the user's others."""
    limits = LearntLimits(tmp_path / "providers.db")
    health = Health(tmp_path / "providers.db")
    server_limits.use(ServerLimiter(throttle=Throttle(learnt=limits), health=health, learnt=limits))
    yield limits
    server_limits.use(None)


def test_it_is_found_again_by_name(learnt: LearntLimits) -> None:
    assert learnt.find("m") is None
    learnt.keep("m", LearntLimit(40, 0.0))
    learnt.keep("m", LearntLimit(50, 0.0))
    assert learnt.find("m") == LearntLimit(50, 0.0) and learnt.find("n") is None


@pytest.mark.parametrize(
    "row",
    [
        (0, 0.0, NOW), (-3, 0.0, NOW), (10**9, 0.0, NOW), ("many", 0.0, NOW), (5, -1.0, NOW), (5, 1e9, NOW),
        (5, 0.0, NOW - 90_000), (5, 0.0, NOW + 60), (5, "x", NOW), (5, 0.0, "x"), (b"\x00", 0.0, NOW),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_not_believed(learnt: LearntLimits, tmp_path: Path, row: tuple[object, ...]) -> None:
    learnt.keep("m", LearntLimit(5, 0.0))
    with sqlite3.connect(tmp_path / "providers.db") as connection:
        connection.execute("INSERT OR REPLACE INTO learnt_limit VALUES ('m', ?, ?, ?)", row)
    assert learnt.find("m") is None


def test_the_file_stays_small(tmp_path: Path) -> None:
    now = [NOW]
    learnt = LearntLimits(tmp_path / "providers.db", clock=lambda: now[0])
    for number in range(700):
        now[0] += 1
        learnt.keep(f"{number} {'x' * 5_000}", LearntLimit(5, 0.0))
    with sqlite3.connect(tmp_path / "providers.db") as connection:
        ((rows, longest),) = connection.execute("SELECT count(*), max(length(name)) FROM learnt_limit")
    assert rows == 500 and longest == 300
    assert learnt.find(f"699 {'x' * 5_000}") == LearntLimit(5, 0.0) and learnt.find(f"0 {'x' * 5_000}") is None


@pytest.mark.parametrize("bytes", [b"not a database" * 100, b""])
def test_a_file_that_cannot_be_used_stops_nobody(tmp_path: Path, bytes: bytes) -> None:
    place = tmp_path / "folder"
    place.write_bytes(bytes)
    for path in (place, place / "providers.db"):
        learnt = LearntLimits(path)
        learnt.keep("m", LearntLimit(5, 0.0))
        assert learnt.find("m") in (None, LearntLimit(5, 0.0))


def test_a_second_map_begins_at_the_limit_that_was_learnt(shared: LearntLimits) -> None:
    first = Scheduler("auto", model_name="small")
    assert first._control is not None and first.limit == 20
    first._control.count_refusal()
    assert first.limit == 15
    assert (Scheduler("auto", model_name="small").limit, Scheduler("auto", model_name="large").limit) == (15, 20)
    assert Scheduler(7, model_name="small").limit == 7


KERNEL = """
from agentkit.map.scheduler import Scheduler
scheduler = Scheduler("auto", model_name="small")
print(scheduler.limit, flush=True)
scheduler._control.count_refusal()
print(scheduler.limit, flush=True)
"""


def test_a_second_kernel_begins_at_the_limit_that_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seen = [subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True).stdout for _ in range(2)]
    assert seen == ["20\n15\n", "15\n10\n"]


def test_a_limit_beyond_all_bounds_is_bounded(shared: LearntLimits) -> None:
    shared.keep("rows at once of small", LearntLimit(9_000_000, 0.0))
    assert Scheduler("auto", model_name="small").limit == MOST


def test_the_requests_that_one_kernel_found_another_keeps_to(tmp_path: Path) -> None:
    learnt = LearntLimits(tmp_path / "providers.db")

    async def scene() -> None:
        first = Throttle(learnt=learnt)
        for _ in range(25):
            (await first.enter("m @ here", 10)).record_answer(200, {})
        (await first.enter("m @ here", 10)).record_answer(429, {"retry-after": "29"})
        second = Throttle(learnt=LearntLimits(tmp_path / "providers.db"))
        (await second.enter("m @ here", 10)).record_answer(200, {})
        (lane,) = second.lanes().values()
        assert isinstance(lane.found, FoundLimit)
        assert (lane.found.requests, round(lane.found.period)) == (25, 29)

    asyncio.run(scene())
