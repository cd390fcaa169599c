from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.errors import JournalBusy, UserError
from agentkit.journal import schema
from agentkit.journal.records import Part
from agentkit.journal.store import Store
from tests.journal.journaling import chain, digest, intent, record, replayed, run_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / ".agentkit" / "journal.db") as opened:
        yield opened


def on_disk(store: Store) -> bytes:
    return b"".join(file.read_bytes() for file in store.path.parent.glob("journal.db*"))


def fill(store: Store, run: str, *, agent: str = "analyst", started: float = 0.0) -> int:
    """A run of one step whose every text is told by the run's name."""
    nodes = chain(f"shared question of {agent}", f"message-{run}")
    part = Part(digest(f"part {run}"), f"part-{run}".encode())
    started = started or time.time()
    store.open_run(run_of(run, agent=agent, started=started, prompt=f"prompt-{run}")).result()
    step = record(
        store, f"request-{run}", f"answer-{run}".encode(), run=run, agent=agent, nodes=tuple(nodes), bodies=(part,),
        history=nodes[1].digest, parts={"tools": part.digest.hex()},
    )  # fmt: skip
    ended = run_of(run, agent=agent, status="done", started=started)
    store.close_run(ended, history=nodes[1].digest, output=f"output-{run}".encode()).result()
    return step


def texts(run: str) -> list[bytes]:
    return [f"{what}-{run}".encode() for what in ("message", "part", "request", "answer", "output")]


def test_an_erased_run_is_in_no_file_any_more_and_the_others_are_whole(store: Store) -> None:
    fill(store, "first")
    kept = fill(store, "second")
    assert all(text in on_disk(store) for text in texts("first"))
    assert store.erase(run="first") == 1
    assert not any(text in on_disk(store) for text in texts("first"))
    assert all(text in on_disk(store) for text in texts("second"))
    assert store.step(kept) is not None
    assert store.messages(store.run_history("second") or b"")[0] == b"shared question of analyst"
    assert store.run("first") is None
    assert store.verify() == []


def test_a_step_that_another_run_replayed_stays_with_it(store: Store) -> None:
    step = fill(store, "first")
    store.open_run(run_of("second")).result()
    store.note([replayed(step, run="second")])
    assert store.erase(run="first") == 0
    assert len(store.steps("second")) == 1
    assert store.find(intent("request-first").key, 0) is not None


def test_the_runs_inside_a_run_go_with_it(store: Store) -> None:
    fill(store, "outer")
    store.open_run(run_of("inner", agent="helper", parent_run="outer", parent_ord=1)).result()
    record(store, "inside", run="inner", agent="helper")
    assert store.erase(run="outer") == 2
    assert store.runs() == []


def test_an_agent_a_step_and_a_past_can_be_erased(store: Store) -> None:
    fill(store, "a", agent="other")
    fill(store, "old", started=100.0)
    new = fill(store, "new")
    assert store.erase(agent="other") == 1
    assert [run.id for run in store.runs()] == ["new", "old"]
    assert store.erase(before=200.0) == 1
    assert [run.id for run in store.runs()] == ["new"]
    assert store.erase(step=new) == 1
    assert store.steps("new") == []
    assert store.verify() == []


def test_every_generation_of_an_erased_step_goes(store: Store) -> None:
    record(store, answer=b"old")
    newest = record(store, answer=b"new", fresh=True)
    assert store.erase(step=newest) == 2
    assert store.find(intent().key, 0) is None


def test_everything_can_be_erased_and_the_journal_goes_on(store: Store) -> None:
    for number in range(50):
        fill(store, f"run{number}")
    assert store.erase(everything=True) == 50
    assert b"run7" not in on_disk(store)
    assert len(on_disk(store)) < 200_000
    assert (store.runs(), store.verify()) == ([], [])
    record(store)
    assert store.find(intent().key, 0) is not None


def test_nothing_is_erased_unless_it_is_named(store: Store) -> None:
    fill(store, "first")
    with pytest.raises(UserError, match="nothing was named"):
        store.erase()
    assert len(store.runs()) == 1


def test_another_kernel_that_still_reads_the_old_pages_is_reported(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    fill(store, "first")
    with Store.open(store.path, read_only=True) as other:
        connection = other._connection()
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM step").fetchone()
        with pytest.raises(JournalBusy, match="close the other kernels and run the same erase again"):
            store.erase(run="first")
        connection.execute("ROLLBACK")
        assert store.erase(everything=True) == 0
        assert not any(text in on_disk(store) for text in texts("first"))


def test_a_whole_journal_has_no_problems(store: Store) -> None:
    fill(store, "first")
    fill(store, "second")
    assert store.verify() == []


def test_a_message_without_its_predecessor_is_a_problem(store: Store) -> None:
    nodes = chain("1", "2")
    record(store, nodes=(nodes[1],))
    assert store.verify() == [f"{store.path}: 1 messages have no predecessor, so their conversations are not whole"]
