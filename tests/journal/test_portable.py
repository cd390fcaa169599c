from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit.errors import AgentKitError, JournalCorrupt, JournalError, JournalFormat
from agentkit.events import Run, Step, Usage
from agentkit.journal.archive import is_evidence, read
from agentkit.journal.portable import Attached, attach, export
from agentkit.journal.records import Intent, MessageNode, Outcome, Part, Use
from agentkit.journal.store import Store


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


FIRST = MessageNode(digest("question"), None, b'{"said":"question"}')
SECOND = MessageNode(digest("answer"), FIRST.digest, b'{"said":"answer"}')
TOOLS = Part(digest("tools"), b'{"tools":["query"]}')


def same(text: str) -> str:
    return text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "writer" / "journal.db") as opened:
        yield opened


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "reader" / "journal.db") as opened:
        yield opened


def record(store: Store, run: str, *, ord: int, key: str, body: bytes, fresh: bool = False) -> int:
    intent = Intent(
        key=digest(key), n=0, slot=digest("slot " + key), kind="model", name="offline", effects="none", agent="analyst",
        run=run, ord=ord, parts={"tools": TOOLS.digest.hex()}, request="asked", history=FIRST.digest, model="offline",
        nodes=(FIRST,), bodies=(TOOLS,), fresh=fresh,
    )  # fmt: skip
    step = store.begin(intent).result().row.id
    use = Use(run, ord, step, False, 10.0 + ord, 11.5 + ord)
    usage = Usage(input_tokens=7, output_tokens=3, cost=0.25)
    store.finish(
        Outcome(step=step, status="done", body=body, usage=usage, result="said", node=SECOND, use=use, shown=b"[]")
    ).result()
    return step


def make_run(store: Store, name: str = "r1", *, body: bytes = b'{"a":1}') -> None:
    run = Run(id=name, agent="analyst", status="running", label="first", prompt="how many?", started=10.0)
    store.open_run(run).result()
    step = record(store, name, ord=0, key="k0", body=body)
    record(store, name, ord=1, key="k1", body=b'"two"')
    store.note([Use(name, 2, step, True, 13.0, 13.01)])
    ended = Run(
        id=name, agent="analyst", status="done", label="first", prompt="how many?", started=10.0, ended=14.0,
        output="42", notes=("one remark",),
    )  # fmt: skip
    store.close_run(ended, history=SECOND.digest, output=b'"42"', nodes=(FIRST, SECOND)).result()


def shape(store: Store, run: str) -> list[Run | Step]:
    """The trace without what belongs to one journal file."""
    events = [replace(event, source="") for event in store.trace(run)]
    return [event if isinstance(event, Run) else replace(event, id=0) for event in events]


def test_what_is_attached_reads_as_it_did_where_it_was_written(store: Store, reader: Store, tmp_path: Path) -> None:
    make_run(store)
    written = export(store, ["r1"], tmp_path / "first.agentkit", same)
    assert (written.runs, written.steps) == (1, 2)
    assert attach(written.path, reader) == Attached(runs=1, steps=2, known=0)
    assert shape(reader, "r1") == shape(store, "r1")
    assert {event.source for event in reader.trace("r1")} == {"first.agentkit"}
    for key in ("k0", "k1"):
        ours, theirs = reader.find(digest(key), 0), store.find(digest(key), 0)
        assert ours and theirs
        assert (ours.body, ours.usage, ours.parts, ours.history, ours.reply, ours.shown, ours.status) == (
            theirs.body, theirs.usage, theirs.parts, theirs.history, theirs.reply, theirs.shown, theirs.status,
        )  # fmt: skip
        assert (ours.started, ours.ended) == (theirs.started, theirs.ended)
    assert reader.messages(SECOND.digest) == [FIRST.body, SECOND.body]
    assert reader.part(TOOLS.digest) == TOOLS.body
    assert (reader.run_history("r1"), reader.run_output("r1")) == (SECOND.digest, b'"42"')


def test_attaching_twice_adds_nothing(store: Store, reader: Store, tmp_path: Path) -> None:
    make_run(store)
    record(store, "r1", ord=3, key="k0", body=b'"asked anew"', fresh=True)
    written = export(store, ["r1"], tmp_path / "first.agentkit", same)
    assert attach(written.path, reader).steps == 3
    before = shape(reader, "r1")
    assert attach(written.path, reader) == Attached(runs=0, steps=0, known=3)
    assert shape(reader, "r1") == before


def test_the_newest_of_several_answers_stays_the_newest(store: Store, reader: Store, tmp_path: Path) -> None:
    make_run(store)
    record(store, "r1", ord=3, key="k0", body=b'"asked anew"', fresh=True)
    attach(export(store, ["r1"], tmp_path / "first.agentkit", same).path, reader)
    found = reader.find(digest("k0"), 0)
    assert found
    assert found.body == b'"asked anew"'


def test_the_answers_of_the_reader_are_not_replaced(store: Store, reader: Store, tmp_path: Path) -> None:
    make_run(store)
    record(store, "r1", ord=3, key="k0", body=b'"asked anew"', fresh=True)
    record(reader, "mine", ord=0, key="k0", body=b'"my own"')
    attached = attach(export(store, ["r1"], tmp_path / "first.agentkit", same).path, reader)
    assert (attached.steps, attached.known) == (1, 2)
    found = reader.find(digest("k0"), 0)
    assert found
    assert found.body == b'"my own"'


def test_a_step_without_an_end_does_not_travel(store: Store, reader: Store, tmp_path: Path) -> None:
    make_run(store)
    open_step = Intent(key=digest("open"), n=0, kind="tool", name="pay", effects="once", agent="a", run="r1", ord=5)
    store.begin(open_step).result()
    attach(export(store, ["r1"], tmp_path / "first.agentkit", same).path, reader)
    assert reader.find(digest("open"), 0) is None


def test_equal_records_give_equal_bytes(store: Store, tmp_path: Path) -> None:
    make_run(store)
    export(store, ["r1"], tmp_path / "a.agentkit", same)
    export(store, ["r1"], tmp_path / "b.agentkit", same)
    assert (tmp_path / "a.agentkit").read_bytes() == (tmp_path / "b.agentkit").read_bytes()


def test_only_the_named_runs_travel(store: Store, tmp_path: Path) -> None:
    make_run(store)
    other = Run(id="r2", agent="analyst", status="done", started=20.0)
    store.close_run(other, history=None, output=b"null").result()
    with read(export(store, ["r2"], tmp_path / "x.agentkit", same).path) as archive:
        assert [ended.run.id for ended in archive.runs()] == ["r2"]


def test_a_secret_is_scrubbed_wherever_it_stands(store: Store, tmp_path: Path) -> None:
    make_run(store, body=json.dumps({"url": 'https://x/?key=hunter2hunter2&q="'}).encode())
    written = export(store, ["r1"], tmp_path / "x.agentkit", lambda text: text.replace("hunter2hunter2", "<secret:K>"))
    unpacked = gzip.decompress(written.path.read_bytes())
    assert b"hunter2" not in unpacked
    assert b"<secret:K>" in unpacked


def test_the_file_says_nothing_of_the_machine_it_was_written_on(store: Store, tmp_path: Path) -> None:
    make_run(store)
    unpacked = gzip.decompress(export(store, ["r1"], tmp_path / "x.agentkit", same).path.read_bytes())
    assert store.owner.encode() not in unpacked
    assert str(tmp_path).encode() not in unpacked


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    with Store.open(folder / "journal.db") as store:
        make_run(store)
        return export(store, ["r1"], folder / "good.agentkit", same).path.read_bytes()


def lines_of(good: bytes) -> list[bytes]:
    return gzip.decompress(good).splitlines(keepends=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "cut").write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(JournalCorrupt):
        read(tmp_path / "cut")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_one_changed_character_inside_is_refused(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    unpacked = gzip.decompress(good)
    place = data.draw(st.integers(0, len(unpacked) - 1) | st.integers(len(unpacked) - 80, len(unpacked) - 1))
    other = unpacked[place] ^ data.draw(st.integers(1, 255))
    (tmp_path / "changed").write_bytes(gzip.compress(unpacked[:place] + bytes([other]) + unpacked[place + 1 :]))
    with pytest.raises((JournalCorrupt, JournalFormat)):
        read(tmp_path / "changed")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=300))
def test_any_other_bytes_are_refused_with_a_journal_error(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "any").write_bytes(raw)
    with pytest.raises(AgentKitError):
        read(tmp_path / "any")
    (tmp_path / "any").write_bytes(gzip.compress(raw))
    with pytest.raises(AgentKitError):
        read(tmp_path / "any")


def test_a_missing_line_is_refused_before_anything_is_taken_in(good: bytes, tmp_path: Path, reader: Store) -> None:
    lines = lines_of(good)
    (tmp_path / "short").write_bytes(gzip.compress(b"".join(lines[:2] + lines[3:])))
    with pytest.raises(JournalCorrupt, match="checksum"):
        attach(tmp_path / "short", reader)
    assert reader.runs() == []


def rewritten(good: bytes, **head: object) -> bytes:
    lines = lines_of(good)[:-1]
    lines[0] = json.dumps({**json.loads(lines[0]), **head}).encode() + b"\n"
    total = hashlib.sha256(b"".join(lines)).hexdigest()
    return gzip.compress(b"".join([*lines, trailer(total)]))


def trailer(total: str) -> bytes:
    return b'{"sha256":"%s"}\n' % total.encode()


def test_a_file_of_a_newer_agentkit_says_to_upgrade(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "newer").write_bytes(rewritten(good, format=99))
    with pytest.raises(JournalFormat, match=r"has format 99.*upgrade jupyter-agentkit"):
        read(tmp_path / "newer")


def test_another_kind_of_file_is_named_as_such(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(rewritten(good, agentkit="shopping list"))
    with pytest.raises(JournalCorrupt, match="not a portable journal"):
        read(tmp_path / "other")


def test_a_record_of_an_unknown_kind_is_refused(good: bytes, tmp_path: Path) -> None:
    lines = [*lines_of(good)[:-1], b'{"pickle":"gASV"}\n']
    total = hashlib.sha256(b"".join(lines)).hexdigest()
    (tmp_path / "odd").write_bytes(gzip.compress(b"".join([*lines, trailer(total)])))
    with pytest.raises(JournalCorrupt, match="unknown record"):
        read(tmp_path / "odd")


def test_a_missing_file_is_a_journal_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="not there"):
        read(tmp_path / "nowhere.agentkit")


def test_a_target_in_no_folder_is_a_journal_error(store: Store, tmp_path: Path) -> None:
    make_run(store)
    with pytest.raises(JournalError, match="its folder is not there"):
        export(store, ["r1"], tmp_path / "no such folder" / "x.agentkit", same)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.journal.archive.LIMIT", 1 << 20)
    packer = zlib.compressobj(9, wbits=31)
    (tmp_path / "bomb").write_bytes(packer.compress(b"0" * (2 << 20)) + packer.flush())
    with pytest.raises(JournalCorrupt, match="unpacks to more than 1 MB"):
        read(tmp_path / "bomb")


def test_what_a_file_says_that_a_step_read_has_the_form_that_agentkit_writes() -> None:
    said = {
        "inputs": [{"path": "a.csv", "size": 1, "mtime": 2, "sum": "3"}, {"folder": "data", "count": 1, "sum": "4"}],
        "wrote": [{"path": "b.csv"}],
        "unchecked": ["os.environ as a whole"],
        "reads": {"RATE": ["5", None]},
    }
    assert is_evidence(said)
    for name, wrong in {
        "inputs": [{"path": "a.csv", "env": "A"}],
        "wrote": [{"env": "A"}],
        "unchecked": [3],
        "reads": {"RATE": "5"},
    }.items():
        assert not is_evidence({**said, name: wrong})
    assert not is_evidence({**said, "inputs": [{"folder": "data", "names": ["a"] * 1_000}]})
    assert not is_evidence([])
