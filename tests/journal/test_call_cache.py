from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit.errors import MissingExtra, UserError
from agentkit.journal.call_cache import CallCache

KEY = bytes(range(32))
OTHER = bytes(reversed(range(32)))


class Reports(list[str]):
    """What the cache told the session."""


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def cache(tmp_path: Path, reports: Reports) -> Iterator[CallCache]:
    opened = CallCache.open(tmp_path / "calls", report=reports.append)
    yield opened
    opened.close()


def plant(cache: CallCache, statement: str, *values: Any) -> None:
    """Write into the file behind the cache's back."""
    with closing(sqlite3.connect(cache.path)) as connection:
        assert connection.execute(statement, values).rowcount == 1
        connection.commit()


def test_what_was_put_is_got_back(cache: CallCache, reports: Reports) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, b"answer")
    assert cache.get(KEY) == b"answer"
    assert cache.get(OTHER) is None
    assert reports == []


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(key=st.binary(max_size=64), body=st.binary(max_size=100_000))
def test_any_bytes_come_back_as_they_were(cache: CallCache, key: bytes, body: bytes) -> None:
    cache.put(key, body)
    assert cache.get(key) == body


def test_an_answer_outlives_the_process(cache: CallCache) -> None:
    code = (
        "import sys; from pathlib import Path; from agentkit.journal.call_cache import CallCache\n"
        "CallCache.open(Path(sys.argv[1]), report=print).put(bytes(range(32)), b'from the child')"
    )
    subprocess.run([sys.executable, "-c", code, str(cache.path.parent)], check=True, timeout=60)
    assert cache.get(KEY) == b"from the child"


def test_an_answer_is_gone_after_its_time_to_live(cache: CallCache) -> None:
    cache.put(KEY, b"old", ttl=-1.0)
    assert cache.get(KEY) is None
    cache.put(KEY, b"young", ttl=60.0)
    assert cache.get(KEY) == b"young"


def test_a_row_cannot_be_given_a_longer_life_in_the_table(cache: CallCache) -> None:
    cache.put(KEY, b"old", ttl=0.02)
    time.sleep(0.03)
    plant(cache, "UPDATE Cache SET expire_time = NULL")
    assert cache.get(KEY) is None


def test_a_forgotten_answer_is_not_given_again(cache: CallCache) -> None:
    cache.put(KEY, b"wrong")
    cache.forget(KEY)
    assert cache.get(KEY) is None


def test_the_oldest_answers_go_when_the_size_limit_is_reached(tmp_path: Path, reports: Reports) -> None:
    cache = CallCache.open(tmp_path, report=reports.append, size_limit=1_000_000)
    for n in range(300):
        cache.put(n.to_bytes(4), os.urandom(10_000))
    assert cache.get((0).to_bytes(4)) is None
    assert cache.get((299).to_bytes(4)) is not None
    assert cache.path.stat().st_size < 1_500_000


def test_a_file_made_without_vacuuming_is_mended(tmp_path: Path, reports: Reports) -> None:
    with diskcache.Cache(str(tmp_path), sqlite_auto_vacuum=0):
        pass
    cache = CallCache.open(tmp_path, report=reports.append, size_limit=1_000_000)
    for n in range(200):
        cache.put(n.to_bytes(4), os.urandom(10_000))
    assert cache.get((199).to_bytes(4)) is not None
    assert reports == []


def test_large_answers_lie_inside_the_database(cache: CallCache) -> None:
    body = os.urandom(3_000_000)
    cache.put(KEY, body)
    assert cache.get(KEY) == body
    assert {file.name for file in cache.path.parent.iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("mode", [0, 2, 3, 4, 5, None, "4"])
def test_a_planted_pickle_is_a_reported_miss(cache: CallCache, reports: Reports, tmp_path: Path, mode: Any) -> None:
    mark = tmp_path / "ran"
    cache.put(KEY, b"answer")
    plant(cache, "UPDATE Cache SET mode = ?, value = ?", mode, pickle.dumps(Bomb(mark)))
    assert cache.get(KEY) is None
    assert not mark.exists()
    assert "not written by agentkit" in reports[0]


def test_the_bomb_of_these_tests_does_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_planted_pickle_among_the_keys_is_refused(cache: CallCache, tmp_path: Path) -> None:
    cache.put(KEY, b"answer")
    plant(cache, "UPDATE Cache SET raw = 0, key = ?", pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ValueError, match="not written by agentkit"):
        list(cache._cache.iterkeys())
    assert not (tmp_path / "ran").exists()


def test_a_planted_file_name_is_neither_read_nor_removed(cache: CallCache, reports: Reports, tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(b"not for you")
    cache.put(KEY, b"answer")
    plant(cache, "UPDATE Cache SET mode = 2, filename = '../private', value = NULL, expire_time = 9e9")
    assert cache.get(KEY) is None
    assert len(reports) == 1
    plant(cache, "UPDATE Cache SET expire_time = 1.0")
    cache.put(OTHER, b"culls what has ended")
    cache.forget(KEY)
    assert (tmp_path / "private").read_bytes() == b"not for you"


@pytest.mark.parametrize("value", [None, 3, 2.5, "text", b"", b"short", b"x" * 100])
def test_a_planted_value_is_a_reported_miss(cache: CallCache, reports: Reports, value: Any) -> None:
    cache.put(KEY, b"answer")
    plant(cache, "UPDATE Cache SET value = ?", value)
    assert cache.get(KEY) is None
    assert len(reports) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), body=st.binary(min_size=1, max_size=200))
def test_one_flipped_bit_anywhere_in_a_row_is_a_miss(cache: CallCache, data: st.DataObject, body: bytes) -> None:
    cache.put(KEY, body)
    with closing(sqlite3.connect(cache.path)) as connection:
        stored = bytearray(connection.execute("SELECT value FROM Cache").fetchone()[0])
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    plant(cache, "UPDATE Cache SET value = ?", bytes(stored))
    assert cache.get(KEY) is None


def test_a_row_moved_to_another_key_is_a_miss(cache: CallCache, reports: Reports) -> None:
    cache.put(KEY, b"yes, delete it")
    plant(cache, "UPDATE Cache SET key = ?", OTHER)
    assert cache.get(OTHER) is None
    assert "checksum" in reports[0]


def test_the_settings_of_another_opener_do_not_stay(cache: CallCache, tmp_path: Path, reports: Reports) -> None:
    cache.put(KEY, b"answer")
    cache.close()
    with diskcache.Cache(str(tmp_path / "calls"), size_limit=1, cull_limit=100, disk_min_file_size=0, statistics=1):
        pass
    again = CallCache.open(tmp_path / "calls", report=reports.append)
    assert again.get(KEY) == b"answer"
    again.put(OTHER, b"y" * 50_000)
    assert again.get(KEY) == b"answer"
    assert again.get(OTHER) == b"y" * 50_000
    assert reports == []


def test_settings_that_would_break_diskcache_are_dropped(cache: CallCache, tmp_path: Path, reports: Reports) -> None:
    cache.put(KEY, b"answer")
    for name, value in [("get", 1), ("disk_evil", 1), ("sqlite_writable_schema", 1), ("_directory", "/")]:
        plant(cache, "INSERT INTO Settings VALUES (?, ?)", name, value)
    plant(cache, "UPDATE Settings SET value = 'no such policy' WHERE key = 'eviction_policy'")
    cache.close()
    again = CallCache.open(tmp_path / "calls", report=reports.append)
    assert again.get(KEY) == b"answer"
    assert reports == []


def test_another_opener_while_we_are_open_costs_money_not_correctness(
    cache: CallCache, tmp_path: Path, reports: Reports
) -> None:
    cache.put(KEY, b"answer")
    with diskcache.Cache(
        str(tmp_path / "calls"), disk_min_file_size=0, eviction_policy="least-frequently-used"
    ) as other:
        other[OTHER] = {"a": "pickle"}
    from_thread: list[bytes | None] = []
    thread = threading.Thread(target=lambda: from_thread.extend([cache.get(KEY), cache.get(OTHER)]))
    thread.start()
    thread.join()
    assert from_thread == [b"answer", None]
    assert len(reports) == 1


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_a_damaged_file_is_reported_and_every_call_is_live(tmp_path: Path, reports: Reports, damage: str) -> None:
    first = CallCache.open(tmp_path, report=reports.append)
    first.put(KEY, b"answer")
    first.close()
    whole = first.path.read_bytes()
    first.path.write_bytes({"garbage": b"\xff" * len(whole), "truncated": whole[:5000], "empty": b""}[damage])
    again = CallCache.open(tmp_path, report=reports.append)
    assert again.get(KEY) is None
    if damage != "empty":
        again.put(KEY, b"anew")
        assert again.get(KEY) is None
        assert str(again.path) in reports[0]


def test_pages_damaged_while_open_are_misses(cache: CallCache, tmp_path: Path, reports: Reports) -> None:
    for n in range(200):
        cache.put(n.to_bytes(32), os.urandom(2000))
    cache.close()
    again = CallCache.open(tmp_path / "calls", report=reports.append)
    with again.path.open("r+b") as file:
        file.seek(40_000)
        file.write(os.urandom(200_000))
    got = [again.get(n.to_bytes(32)) for n in range(200)]
    assert None in got
    assert all(body is None or len(body) == 2000 for body in got)
    assert reports


def test_a_held_file_is_reported_not_waited_for(tmp_path: Path, reports: Reports) -> None:
    CallCache.open(tmp_path, report=reports.append).close()
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        held = CallCache.open(tmp_path, report=reports.append)
    assert "locked" in reports[0]
    held.put(KEY, b"answer")
    assert held.get(KEY) is None


def test_a_full_disk_is_reported_and_the_answer_is_simply_not_kept(
    cache: CallCache, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(cache._cache, "set", full)
    cache.put(KEY, b"answer")
    assert "disk is full" in reports[0]


def test_only_this_user_can_read_it(cache: CallCache) -> None:
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700
    cache.put(KEY, b"answer")
    assert {stat.S_IMODE(file.stat().st_mode) for file in cache.path.parent.iterdir()} == {0o600}


def test_a_folder_others_could_read_is_closed_to_them(tmp_path: Path, reports: Reports) -> None:
    tmp_path.chmod(0o755)
    CallCache.open(tmp_path, report=reports.append)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path, reports: Reports) -> None:
    (tmp_path / "cache.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a plain file"):
        CallCache.open(tmp_path, report=reports.append)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    with pytest.raises(UserError, match="belongs to another user"):
        CallCache.open(tmp_path, report=reports.append)


def test_a_shared_folder_must_be_there(tmp_path: Path, reports: Reports) -> None:
    with pytest.raises(UserError, match="is not there"):
        CallCache.open(tmp_path / "typo", scope="shared", report=reports.append)


def test_a_shared_folder_that_anybody_can_write_needs_a_secret(tmp_path: Path, reports: Reports) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(UserError, match="AGENTKIT_SHARED_KEY"):
        CallCache.open(tmp_path, scope="shared", report=reports.append)
    shared = CallCache.open(tmp_path, scope="shared", secret=b"team", report=reports.append)
    shared.put(KEY, b"answer")
    assert shared.get(KEY) == b"answer"


def test_rows_of_people_without_the_secret_are_misses(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    CallCache.open(tmp_path, scope="shared", secret=b"guessed", report=reports.append).put(KEY, b"planted")
    monkeypatch.setenv("AGENTKIT_SHARED_KEY", "team")
    team = CallCache.open(tmp_path, scope="shared", report=reports.append)
    assert team.get(KEY) is None
    team.put(KEY, b"answer")
    assert CallCache.open(tmp_path, scope="shared", report=reports.append).get(KEY) == b"answer"


def test_threads_share_one_cache(cache: CallCache, reports: Reports) -> None:
    def work(start: int) -> None:
        for n in range(start, start + 25):
            cache.put(n.to_bytes(4), str(n).encode())

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.get(n.to_bytes(4)) for n in range(100)] == [str(n).encode() for n in range(100)]
    assert reports == []


def test_without_diskcache_the_error_gives_the_pip_line(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "agentkit.journal.bytes_disk", raising=False)
    monkeypatch.setitem(sys.modules, "diskcache", None)
    with pytest.raises(MissingExtra, match=r"pip install 'jupyter-agentkit\[notebook\]'"):
        CallCache.open(tmp_path, report=reports.append)


def test_diskcache_is_imported_only_when_a_cache_is_opened() -> None:
    code = "import sys, agentkit.journal.call_cache; sys.exit('diskcache' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_shared_cache_without_a_secret_says_at_once_that_its_members_can_forge_answers(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTKIT_SHARED_KEY", raising=False)
    CallCache.open(tmp_path, scope="shared", report=reports.append)
    assert len(reports) == 1 and "can forge answers" in reports[0] and "AGENTKIT_SHARED_KEY" in reports[0]
    reports.clear()
    CallCache.open(tmp_path, scope="shared", secret=b"team", report=reports.append)
    CallCache.open(tmp_path / "own", report=reports.append)
    assert reports == []


def test_a_home_that_cannot_be_written_to_is_said_once_and_calls_are_made_live(tmp_path: Path) -> None:
    # A file where a folder is wanted stops root too.
    (tmp_path / "home").write_text("")
    said: list[str] = []
    with closing(CallCache.open(tmp_path / "home" / "calls", scope="user", report=said.append)) as opened:
        opened.put(b"key", b"body")
        assert opened.get(b"key") is None
    assert len(said) == 1 and "the call cache cannot be used" in said[0]
