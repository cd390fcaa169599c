from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from agentkit.errors import (
    JournalBusy,
    JournalCorrupt,
    JournalError,
    JournalFormat,
    JournalFull,
    JournalReadOnly,
)
from agentkit.journal import row_codec, schema
from agentkit.journal.records import Part
from agentkit.journal.store import Store
from tests.journal.journaling import chain, child, intent, outcome, record, replayed, run_of, said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".agentkit" / "journal.db"


@pytest.fixture
def recorded(path: Path) -> Path:
    """A journal with a few steps, closed."""
    with Store.open(path) as store:
        for number in range(20):
            record(store, str(number), b"answer %d " % number * 200, ord=number)
    return path


def change(path: Path, statement: str, *values: object) -> None:
    """Write into the file behind the journal's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount != 0


def refused(path: Path, error: type[JournalError], match: str) -> None:
    """Opening it either way gives this error, which names the file and says what to do."""
    for read_only in (False, True):
        with pytest.raises(error, match=match) as caught:
            Store.open(path, read_only=read_only)
        assert str(path) in str(caught.value)
        assert caught.value.remedy


# ---- tampered and damaged


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("column", ["body.body", "body.shown", "step.nested", "step.parts", "step.error", "step.key"])
@pytest.mark.parametrize("resealed", [False, True])
def test_a_planted_pickle_is_an_error_and_is_never_unpickled(
    recorded: Path, tmp_path: Path, column: str, resealed: bool
) -> None:
    witness = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(witness))
    table, name = column.split(".")
    change(recorded, f"UPDATE {table} SET {name} = ? WHERE {'step' if table == 'body' else 'id'} = 1", bomb)
    if resealed:
        reseal(recorded)
    with Store.open(recorded, read_only=True) as store:
        if resealed and column in ("body.body", "body.shown", "step.error", "step.key"):
            # Whoever can compute checksums can plant bytes; bytes they stay.
            row = store.step(1)
            assert row is not None
            assert bomb in (row.body, row.shown, row.error, row.key)
        else:
            with pytest.raises(JournalCorrupt, match="step 1 "):
                store.step(1)
        store.verify()
    assert not witness.exists()


@pytest.mark.parametrize("nested", ['{"00": 1000000000000}', '{"00": -1}', '{"00": 1.5}', '{"zz": 1}', "[1]", "7"])
def test_a_foreign_record_does_not_say_how_long_a_replay_counts(recorded: Path, nested: str) -> None:
    """Each step inside is counted one by one: a hostile number of them held the kernel for ever."""
    change(recorded, "UPDATE step SET nested = ? WHERE id = 1", nested)
    reseal(recorded)
    with Store.open(recorded, read_only=True) as store:
        with pytest.raises(JournalCorrupt, match="step 1 cannot be read"):
            store.step(1)
        assert any("step 1 cannot be read" in problem for problem in store.verify())


def reseal(path: Path) -> None:
    """Give step 1 the checksum of what it holds now."""
    with closing(sqlite3.connect(path)) as connection, connection:
        query = f"SELECT {row_codec.ROW} FROM {row_codec.STORED} WHERE step.id = 1"
        values = connection.execute(query).fetchone()
        sealed = row_codec.seal(values[: row_codec.BODIES], *values[row_codec.BODIES : row_codec.SEAL])
        connection.execute("UPDATE step SET sum = ? WHERE id = 1", (sealed,))


@pytest.mark.parametrize(
    ("table", "column"),
    [("body", "body"), ("step", "name"), ("step", "status"), ("step", "cost"), ("step", "sum"), ("step", "reply")],
)
def test_a_changed_column_is_named_with_its_step_and_the_rest_still_reads(
    recorded: Path, table: str, column: str
) -> None:
    id = "step" if table == "body" else "id"
    change(recorded, f"UPDATE {table} SET {column} = ? WHERE {id} = 3", b"tampered")
    with Store.open(recorded) as store:
        with pytest.raises(JournalCorrupt, match="step 3 does not match its checksum") as caught:
            store.find(intent("2").key, 0)
        assert "agentkit journal verify" in caught.value.remedy
        assert store.find(intent("1").key, 0) is not None
        assert any("step 3" in line for line in store.verify())
        assert store.forget(step=3).result() == 1
        assert store.verify() == []


def test_one_flipped_byte_of_a_body_is_found(recorded: Path) -> None:
    # Every copy: SQLite leaves old ones in the free space of its pages.
    content = recorded.read_bytes()
    recorded.write_bytes(content.replace(b"answer 7 answer 7", b"answer 7 answes 7"))
    with Store.open(recorded) as store:
        with pytest.raises(JournalCorrupt, match="step 8 does not match its checksum"):
            store.find(intent("7").key, 0)
        assert store.verify() == [f"{recorded}: step 8 does not match its checksum"]


def test_answers_that_were_swapped_are_found(recorded: Path) -> None:
    change(recorded, "UPDATE body SET step = -1 WHERE step = 1")
    change(recorded, "UPDATE body SET step = 1 WHERE step = 2")
    change(recorded, "UPDATE body SET step = 2 WHERE step = -1")
    with Store.open(recorded) as store:
        assert len(store.verify()) == 2


def test_a_changed_message_part_and_run_are_found(path: Path) -> None:
    (node,) = chain("hello")
    part = Part(b"p" * 32, b"[]")
    with Store.open(path) as store:
        record(store, nodes=(node,), bodies=(part,))
        store.close_run(run_of(), history=node.digest, output=b"out").result()
    for table, column in (("node", "body"), ("part", "body"), ("run", "output")):
        change(path, f"UPDATE {table} SET {column} = ?", b"tampered")
    with Store.open(path) as store:
        reads: list[Callable[[], object]] = [
            lambda: store.messages(node.digest),
            lambda: store.part(part.digest),
            lambda: store.run_output("run"),
        ]
        for read in reads:
            with pytest.raises(JournalCorrupt, match="does not match its checksum"):
                read()
        assert len(store.verify()) == 3


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"not a journal at all, but some other text", os.urandom(100)],
    ids=["zeros", "text", "random"],
)
def test_a_destroyed_header_is_an_error_at_once(recorded: Path, garbage: bytes) -> None:
    with recorded.open("r+b") as file:
        file.write(garbage)
    before = recorded.read_bytes()
    refused(recorded, JournalCorrupt, "damaged|not an agentkit journal")
    assert recorded.read_bytes() == before


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.99])
def test_a_file_cut_short_is_an_error_at_once(recorded: Path, kept: float) -> None:
    size = int(recorded.stat().st_size * kept)
    os.truncate(recorded, size)
    refused(recorded, JournalCorrupt, "damaged|cut to nothing|is empty|is cut short")
    assert recorded.stat().st_size == size


def test_garbage_in_the_middle_is_reported_and_loses_nothing_else(recorded: Path) -> None:
    content = bytearray(recorded.read_bytes())
    at = content.index(b"answer 15 answer 15") // 8192 * 8192
    content[at : at + 8192] = os.urandom(8192)
    recorded.write_bytes(content)
    with Store.open(recorded) as store:
        with pytest.raises(JournalCorrupt):
            store.find(intent("15").key, 0)
        assert store.find(intent("0").key, 0) is not None
        assert store.verify() != []


def test_a_commit_torn_by_a_crash_is_left_out_and_every_other_is_there(path: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn" / "journal.db"
    torn.parent.mkdir()
    with Store.open(path) as store:
        for number in range(10):
            record(store, str(number), ord=number)
        shutil.copy(path, torn)
        shutil.copy(f"{path}-wal", f"{torn}-wal")
    os.truncate(f"{torn}-wal", os.stat(f"{torn}-wal").st_size - 100)
    with Store.open(torn) as store:
        assert [row.status for number in range(10) if (row := store.find(intent(str(number)).key, 0))] == [
            *["done"] * 9,
            "started",
        ]
        assert [row.name for row in store.in_doubt()] == ["model"]
        assert store.verify() == []


def test_a_newer_format_is_not_touched(recorded: Path) -> None:
    with closing(sqlite3.connect(recorded)) as connection:
        connection.execute(f"PRAGMA user_version={schema.FORMAT + 1}")
    refused(recorded, JournalFormat, f"has format {schema.FORMAT + 1}.*upgrade jupyter-agentkit")


def test_a_database_of_somebody_else_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    refused(path, JournalCorrupt, "is not an agentkit journal")


def test_a_journal_without_its_tables_is_an_error(recorded: Path) -> None:
    with closing(sqlite3.connect(recorded)) as connection:
        connection.execute("DROP TABLE body")
    with Store.open(recorded) as store:
        with pytest.raises(JournalCorrupt, match="does not have the tables"):
            store.find(intent("1").key, 0)
        with pytest.raises(JournalCorrupt, match="does not have the tables"):
            store.begin(intent("new")).result()


def test_reading_where_there_is_no_journal_says_so(path: Path) -> None:
    with pytest.raises(JournalError, match="does not exist"):
        Store.open(path, read_only=True)
    assert not path.parent.exists()


# ---- a folder that cannot be written


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own at `folder`, if this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
    except FileNotFoundError:
        yield False
        return
    if mount.returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only_folder(folder: Path) -> Iterator[None]:
    for parent in (folder.parent, *folder.parent.parents):
        if parent.owner() == folder.owner() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    for file in folder.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    folder.chmod(0o555)
    try:
        with unprivileged():
            yield
    finally:
        folder.chmod(0o700)


def reads_but_does_not_write(path: Path) -> None:
    with pytest.raises(JournalReadOnly, match="cannot be written, so no live call is made"):
        Store.open(path)
    with Store.open(path, read_only=True) as store:
        row = store.find(intent("7").key, 0)
        assert row is not None
        assert row.body == b"answer 7 " * 200
        assert len(store.steps("run")) == 20
        assert store.verify() == []


def test_a_read_only_folder_can_be_read(recorded: Path) -> None:
    with read_only_folder(recorded.parent):
        reads_but_does_not_write(recorded)


def test_a_read_only_file_can_be_read(recorded: Path) -> None:
    recorded.parent.chmod(0o755)
    recorded.chmod(0o444)
    with read_only_folder(recorded.parent.parent):
        reads_but_does_not_write(recorded)


@pytest.mark.parametrize("read_only", [False, True], ids=["to write", "to read"])
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_another_user_is_told_whose_it_is_and_what_can_be_done(recorded: Path, read_only: bool, closed: str) -> None:
    owner = recorded.owner()
    for parent in recorded.parent.parents:
        if parent.owner() == owner and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    recorded.parent.chmod(0o700 if closed == "folder" else 0o755)
    with unprivileged(), pytest.raises(JournalReadOnly) as told:
        Store.open(recorded, read_only=read_only)
    # Only root can become another user here; anybody else owns what is closed to them.
    if os.geteuid() == 0:
        assert f"belongs to {owner} alone" in str(told.value) and "replay" not in str(told.value)
        assert "AGENTKIT_HOME" in str(told.value) and "journal export" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_new_journal_in_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with read_only_folder(folder), pytest.raises(JournalReadOnly):
        Store.open(folder / ".agentkit" / "journal.db")


def test_a_read_only_disk_can_be_read(recorded: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m") as own:
        shutil.copytree(recorded.parent, disk / ".agentkit")
        if own:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            reads_but_does_not_write(disk / ".agentkit" / "journal.db")
        else:
            with read_only_folder(disk):
                reads_but_does_not_write(disk / ".agentkit" / "journal.db")


def test_the_newest_steps_are_read_from_a_read_only_folder_after_a_crash(path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied" / ".agentkit"
    with Store.open(path) as store:
        for number in range(20):
            record(store, str(number), b"answer %d " % number * 200, ord=number)
        # As after a crash: the log beside the file holds the newest, and its index is gone.
        copied.mkdir(parents=True)
        shutil.copy(path, copied)
        shutil.copy(f"{path}-wal", copied)
    with read_only_folder(copied.parent):
        reads_but_does_not_write(copied / "journal.db")


# ---- a full disk, a file-size limit


def test_on_a_full_disk_what_was_paid_is_recorded_and_nothing_new_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=2m") as own:
        if own:
            on_a_full_disk(disk)
        else:
            beyond_a_page_limit(tmp_path, monkeypatch)


def test_beyond_a_page_limit_nothing_new_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beyond_a_page_limit(tmp_path, monkeypatch)


def on_a_full_disk(disk: Path) -> None:
    path = disk / ".agentkit" / "journal.db"
    with Store.open(path) as store:
        done = [record(store, str(number), b"x" * 2000, ord=number) for number in range(10)]
        begun = [store.begin(intent(f"begun {number}", ord=20 + number)).result() for number in range(5)]
        fill(disk)
        for number, ended in enumerate([store.finish(outcome(claim, b"y" * 3000)) for claim in begun]):
            assert ended.result() is None, number
        assert not (path.parent / "ballast").exists()
        for again in range(2):
            with pytest.raises(JournalFull, match="no space is left on its disk; free some space") as caught:
                store.begin(intent("new", ord=30 + again)).result()
            assert str(path) in str(caught.value)
        assert store.find(intent("new").key, 0) is None
        (disk / "filler").unlink()
        assert store.begin(intent("new", ord=30)).result().mine
        assert (path.parent / "ballast").exists()
        assert [row.status for id in done if (row := store.step(id))] == ["done"] * 10
        assert [row.body for claim in begun if (row := store.step(claim.row.id))] == [b"y" * 3000] * 5
        assert store.verify() == []
    fill(disk)
    with pytest.raises(JournalFull):
        Store.open(path)
    with Store.open(path, read_only=True) as store:
        assert store.find(intent("1").key, 0) is not None


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert os.statvfs(disk).f_bavail == 0


def beyond_a_page_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own way to be full, where no file system can be mounted."""
    path = tmp_path / "limited" / ".agentkit" / "journal.db"
    plain = schema.connect

    def limited(path: Path, *, exclusive: bool = False) -> sqlite3.Connection:
        connection = plain(path, exclusive=exclusive)
        connection.execute("PRAGMA max_page_count=40")
        return connection

    monkeypatch.setattr(schema, "connect", limited)
    recorded: list[int] = []
    with Store.open(path) as store:
        with pytest.raises(JournalFull, match="no space"):
            recorded.extend(record(store, str(number), b"x" * 8000, ord=number) for number in range(100))
        assert recorded or store.steps("run")
        assert all(row.body == b"x" * 8000 for id in recorded if (row := store.step(id)))
        assert store.verify() == []
    monkeypatch.undo()
    with Store.open(path) as store:
        assert store.begin(intent("new", ord=200)).result().mine


def test_at_a_file_size_limit_what_was_paid_is_recorded_and_nothing_new_is_begun(path: Path) -> None:
    code = """
    import resource
    from agentkit.errors import JournalFull
    store = Store.open(Path(arguments[0]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    number = 0
    try:
        while True:
            claim = store.begin(intent(str(number), ord=number)).result()
            store.finish(outcome(claim, b"x" * 20_000)).result()
            number += 1
    except JournalFull as error:
        print(number, store.find(intent(str(number)).key, 0), error.problem, sep="|")
    """
    count, found, problem = said(child(code, path)).split("|")
    assert found == "None"
    assert problem == "this process may not write files over 2000000 bytes (ulimit -f)"
    assert int(count) > 10
    with Store.open(path) as store:
        assert all(store.find(intent(str(number)).key, 0).body == b"x" * 20_000 for number in range(int(count)))  # type: ignore[union-attr]
        assert store.in_doubt() == []
        assert store.verify() == []
        assert store.begin(intent(count)).result().mine


def test_a_limit_that_not_even_a_new_journal_fits_under_is_named(path: Path) -> None:
    code = """
    import resource
    from agentkit.errors import JournalFull
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        Store.open(Path(arguments[0]))
    except JournalFull as error:
        print(error.problem)
    """
    assert "over 10000 bytes (ulimit -f)" in said(child(code, path))


# ---- under our feet


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_deleted_under_the_kernel_takes_no_more_steps(path: Path, replaced: bool) -> None:
    store = Store.open(path)
    claim = store.begin(intent()).result()
    shutil.rmtree(path.parent)
    if replaced:
        Store.open(path).close()
    for refused_write in (store.begin(intent("new")), store.finish(outcome(claim))):
        with pytest.raises(JournalError, match="was deleted or replaced while it was open; put the folder back"):
            refused_write.result()
    store.close()
    with Store.open(path) as again:
        assert again.find(intent().key, 0) is None
        record(again)


def test_notes_that_could_not_be_written_are_reported_when_closing(path: Path) -> None:
    store = Store.open(path)
    shutil.rmtree(path.parent)
    store.note([replayed(1)])
    with pytest.raises(JournalError, match="1 replayed steps could not be noted"):
        store.close()


def test_a_journal_held_by_somebody_else_is_busy_and_then_usable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    with Store.open(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalBusy, match="is held by another process; close the other kernel"):
            store.begin(intent()).result()
        assert store.find(intent().key, 0) is None
        holder.execute("ROLLBACK")
        record(store)
