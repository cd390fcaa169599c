from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from agentkit.errors import JournalError, UserError
from agentkit.journal.store import Store
from agentkit.journal.transactions import Writing
from tests.journal.journaling import intent, outcome, record, replayed, run_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / ".agentkit" / "journal.db") as opened:
        yield opened


class Held:
    """The writer's thread, held at its work until it is let go, so that what follows must wait together."""

    def __init__(self, store: Store) -> None:
        self.statements: list[str] = []
        self._go = threading.Event()
        entered = threading.Event()

        def work(to: Writing) -> None:
            entered.set()
            assert self._go.wait(30)
            to.connection.set_trace_callback(self.statements.append)

        self._future = store._tell(work)
        assert entered.wait(30)

    def let_go(self) -> None:
        self._go.set()
        self._future.result()


def test_all_that_waits_is_written_in_one_transaction(store: Store) -> None:
    held = Held(store)
    claims = [store.begin(intent(str(number), ord=number)) for number in range(50)]
    store.note([replayed(1, run="second")])
    assert not any(claim.done() for claim in claims)
    held.let_go()
    assert len({claim.result().row.id for claim in claims}) == 50
    assert held.statements.count("BEGIN IMMEDIATE") == 1
    assert len(store.steps("second")) == 1


def test_a_refused_item_does_not_take_the_others_along(store: Store) -> None:
    first = store.begin(intent("first")).result()
    store.finish(outcome(first)).result()
    held = Held(store)
    good = store.begin(intent("good", ord=2))
    refused = store.settle(first.row.id, "redo")
    second = store.begin(intent("second", ord=3))
    held.let_go()
    with pytest.raises(UserError, match="has its result"):
        refused.result()
    assert good.result().mine
    assert second.result().mine
    assert held.statements.count("BEGIN IMMEDIATE") == 1
    assert store.verify() == []


def test_an_item_sqlite_refuses_does_not_take_the_others_along(store: Store) -> None:
    held = Held(store)
    good = store.begin(intent("good"))
    impossible = store.begin(intent("impossible", n=2**70, ord=2))
    nodeless = store.begin(intent("no kind", kind=None, ord=3))
    second = store.begin(intent("second", ord=4))
    held.let_go()
    assert good.result().mine
    assert second.result().mine
    with pytest.raises(OverflowError):
        impossible.result()
    with pytest.raises(JournalError, match="NOT NULL"):
        nodeless.result()
    assert [step.ord for step in store.steps("run")] == [1, 4]
    assert store.verify() == []


def test_an_intent_nobody_waits_for_any_more_is_not_written(store: Store) -> None:
    held = Held(store)
    claim = store.begin(intent())
    assert claim.cancel()
    held.let_go()
    record(store, "next")
    assert store.find(intent().key, 0) is None
    with pytest.raises(CancelledError):
        claim.result()


def test_a_result_is_recorded_although_the_task_that_paid_for_it_was_cancelled(store: Store) -> None:
    async def pay() -> None:
        claim = await asyncio.wrap_future(store.begin(intent()))
        held = Held(store)
        recording = asyncio.ensure_future(asyncio.wrap_future(store.finish(outcome(claim))))
        await asyncio.sleep(0)
        recording.cancel()
        held.let_go()
        with pytest.raises(asyncio.CancelledError):
            await recording

    asyncio.run(pay())
    record(store, "next", ord=2)
    row = store.find(intent().key, 0)
    assert row is not None
    assert row.status == "done"


def test_a_wait_for_the_disk_does_not_stop_the_loop_or_the_readers(store: Store) -> None:
    record(store, "before")

    async def ask() -> int:
        held = Held(store)
        claim = asyncio.wrap_future(store.begin(intent("new", ord=2)))
        turns = 0
        while turns < 100:
            await asyncio.sleep(0)
            assert store.find(intent("before").key, 0) is not None
            turns += 1
        assert not claim.done()
        held.let_go()
        assert (await claim).mine
        return turns

    assert asyncio.run(ask()) == 100


def test_writes_of_many_threads_are_all_there(store: Store) -> None:
    def work(thread: int) -> None:
        for number in range(25):
            record(store, f"{thread} {number}", run=str(thread), ord=number)
            store.note([replayed(1, run=f"again {thread}", ord=number)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    store.close_run(run_of(), history=None, output=None).result()
    assert [len(store.steps(str(thread))) for thread in range(8)] == [25] * 8
    assert [len(store.steps(f"again {thread}")) for thread in range(8)] == [25] * 8
    assert store.verify() == []


def test_a_reader_sees_what_a_future_promised(store: Store) -> None:
    for number in range(100):
        claim = store.begin(intent(str(number), ord=number)).result()
        assert store.step(claim.row.id) == claim.row
        store.finish(outcome(claim)).result()
        assert store.find(intent(str(number)).key, 0).status == "done"  # type: ignore[union-attr]


def test_the_log_beside_the_file_does_not_grow_without_end(store: Store) -> None:
    for number in range(600):
        record(store, str(number), b"x" * 2000, ord=number)
    assert Path(f"{store.path}-wal").stat().st_size < 20 * 2**20
    assert store.path.stat().st_size > 600 * 2000


def test_after_a_failure_of_the_place_the_writer_goes_on(store: Store, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.move(store.path.parent, away)
    with pytest.raises(JournalError, match="deleted or replaced"):
        store.begin(intent()).result()
    shutil.move(away, store.path.parent)
    assert store.begin(intent()).result().mine
