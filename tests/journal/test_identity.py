"""The secret that signs: made once, by whoever comes first, and never one that others may know."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.journal import identity as identities
from agentkit.journal.identity import VARIABLE, identity
from agentkit.journal.provenance import ELSEWHERE, _same
from agentkit.journal.store import Store
from tests.journal.journaling import ROOT, record


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """As a new process reads it."""
    identities._of.cache_clear()
    identities._temporary_identity.cache_clear()
    yield
    identities._of.cache_clear()
    identities._temporary_identity.cache_clear()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "agentkit" / "identity"


def test_it_is_made_at_first_use_for_this_user_only_and_kept(file: Path) -> None:
    first = identity()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    identities._of.cache_clear()
    assert identity().secret == first.secret and len(first.secret) == 32 and first.problem == ""
    assert first.secret.hex() not in repr(first)
    assert sorted(each.name for each in file.parent.iterdir()) == ["identity"]


def test_of_processes_that_make_it_at_once_all_get_the_same(file: Path) -> None:
    program = "from agentkit.journal.identity import identity; print(identity().secret.hex())"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = [subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE) for _ in range(8)]
    assert len({each.communicate()[0] for each in made}) == 1
    assert sorted(each.name for each in file.parent.iterdir()) == ["identity"]


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_one_that_others_may_know_or_have_written_is_not_used(file: Path, mode: int) -> None:
    secret = identity().secret
    if os.getuid() == 0:
        # What root has put there is for all processes of a container to read, and for no one to write.
        mode |= 0o002
    file.chmod(mode)
    identities._of.cache_clear()
    passing = identity()
    assert passing.secret != secret and "is open to others" in passing.problem


@pytest.mark.parametrize("content", ["", "zz" * 32, "00" * 31, "00" * 33, "\0" * 64])
def test_one_that_is_cut_short_or_changed_is_not_used(file: Path, content: str) -> None:
    identity()
    file.write_text(content)
    identities._of.cache_clear()
    assert "does not hold what agentkit wrote" in identity().problem


def test_a_link_to_another_file_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("00" * 32)
    (tmp_path / "known").chmod(0o600)
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "known")
    assert identity().secret != bytes(32) and identity().problem


def test_where_none_can_be_kept_that_is_said_and_nothing_is_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a file"))
    with Store.open(tmp_path / "j" / "journal.db") as store:
        record(store)
        assert "no secret of this user can be kept" in store.notice and VARIABLE in store.notice
        assert store.replay_only_reason == "" and store.sources() == {}
    identities._of.cache_clear()
    identities._temporary_identity.cache_clear()
    with Store.open(tmp_path / "j" / "journal.db") as store:
        assert store.replay_only_reason == ELSEWHERE and f"name a file for its secret with {VARIABLE}" in store.notice
        assert store.sources() == {ELSEWHERE: (1, 0)}


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_it_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert identity().problem == "this user has no home folder"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lasts" / "identity"))
    secret = identity().secret
    identities._of.cache_clear()
    assert identity().secret == secret and (tmp_path / "lasts" / "identity").exists()


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"path": "/moved"}, True),
        ({"device": 9}, True),  # mounted anew: a volume, a disk after a boot
        ({"path": "/in/a/container", "device": 9}, False),
        ({"folder": 9}, False),
        ({"file": 9}, False),
        ({"user": 9}, False),
    ],
)
def test_a_folder_is_known_again(changed: dict[str, object], same: bool) -> None:
    seen = {"path": "/work", "device": 1, "folder": 2, "file": 3, "user": 4}
    assert _same(seen, {**seen, **changed}) is same
