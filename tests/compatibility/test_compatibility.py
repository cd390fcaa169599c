"""What an earlier agentkit wrote is replayed by this one, with nothing performed again.

`journal-1.db.gz` and `portable-1.agentkit` were written by `program.py` and `agentkit journal export` at f2455ce.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentkit.journal import schema
from agentkit.journal.store import Store

HERE = Path(__file__).parent


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / ".agentkit" / "journal.db"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(gzip.decompress((HERE / "journal-1.db.gz").read_bytes()))
    path.chmod(0o600)
    return path


def perform(folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "program.py"), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_journal_of_format_1_is_replayed_whole(journal: Path, tmp_path: Path) -> None:
    first = perform(tmp_path)
    assert first["live"] == [] and first["steps"] == 21
    assert first["outputs"][0] == "Bern." and first["outputs"][-1] == 215.0
    assert perform(tmp_path) == first


def test_a_portable_file_of_format_1_is_replayed_whole(tmp_path: Path) -> None:
    shutil.copy(HERE / "portable-1.agentkit", tmp_path / "portable.agentkit")
    command = [str(Path(sys.executable).with_name("agentkit")), "journal", "attach", "portable.agentkit"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])}, check=True)
    assert perform(tmp_path)["live"] == []


def test_an_old_journal_gets_what_its_format_lacks(journal: Path) -> None:
    assert tables(journal).isdisjoint(schema._ADDED)
    with Store.open(journal):
        pass
    assert tables(journal) >= set(schema._ADDED) and version(journal) == schema.FORMAT


def test_an_old_journal_is_read_without_being_changed(journal: Path) -> None:
    before = journal.read_bytes()
    with Store.open(journal, read_only=True) as store:
        assert store.verify() == [] and len(store.runs()) > 5
    assert journal.read_bytes() == before and version(journal) == 1


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
