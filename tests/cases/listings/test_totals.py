"""What the database adds up is what the fold of every trace adds up to, whatever stands in the journal."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.agent.agent import DurableAgent
from agentkit.events import Usage
from agentkit.journal.records import CONTROL_ERROR, STALE, Intent
from agentkit.journal.settlements import WAITING
from agentkit.journal.store import Store
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from agentkit.trace.trace import Trace
from tests.compatibility import test_compatibility
from tests.journal.journaling import child, intent, outcome, record, replayed, run_of, said

_PAID = Usage(input_tokens=10, output_tokens=5, cost=0.25)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal.db") as opened:
        yield opened


def finished(store: Store, wanted: Intent, **changes: object) -> int:
    claim = store.begin(wanted).result()
    store.finish(replace(outcome(claim), **changes)).result()  # type: ignore[arg-type]
    return claim.row.id


def tool(question: str, **more: object) -> Intent:
    return intent(question, kind="tool", name="query", effects="once", **more)


def begin(store: Store, *runs: str) -> None:
    for run in runs:
        store.open_run(run_of(run)).result()


def end(store: Store, run: str, **more: object) -> None:
    store.close_run(run_of(run, status="done", ended=time.time(), **more), history=None, output=None).result()


def live_and_replayed(store: Store) -> None:
    begin(store, "a", "b")
    step = record(store, run="a", ord=1)
    store.note((replayed(step, run="b", ord=1),))
    store.flush().result()


def unpriced(store: Store) -> None:
    begin(store, "a", "b")
    step = finished(store, intent("unpriced", run="a", ord=1), usage=replace(_PAID, cost=None))
    finished(store, intent("no usage", run="a", ord=2))
    store.note((replayed(step, run="b", ord=1),))
    store.flush().result()


def offline(store: Store) -> None:
    begin(store, "a", "b")
    finished(store, intent("free", name="offline", run="a", ord=1), usage=replace(_PAID, cost=0.0))
    finished(store, intent("paid", run="b", ord=1), usage=_PAID)


def endings(store: Store) -> None:
    begin(store, "a")
    for ord, (status, error) in enumerate(
        [("failed", "ValueError: no"), ("failed", f"{CONTROL_ERROR}{STALE}an hour old"), ("cancelled", "stopped")], 1
    ):
        finished(store, tool(f"ends {ord}", run="a", ord=ord), status=status, error=error, body=None)
    asked = intent("asked", kind="approval", name="approve", run="a", ord=9)
    finished(store, asked, status="cancelled", error=WAITING, body=None)


def under_way(store: Store) -> None:
    begin(store, "a", "b")
    store.begin(intent("goes on", run="a", ord=1)).result()
    store.begin(intent("asks on", kind="question", name="ask", run="a", ord=2)).result()
    store.begin(intent("run ended", run="b", ord=1)).result()
    end(store, "b")


def in_doubt(store: Store) -> None:
    process = child(
        """
        store = Store.open(Path(arguments[0]))
        store.open_run(run_of("a")).result()
        store.begin(intent("model", run="a", ord=1)).result()
        store.begin(intent("tool", kind="tool", name="pay", effects="once", run="a", ord=2)).result()
        os._exit(0)
        """,
        store.path,
    )
    said(process)


def taken_over(store: Store) -> None:
    in_doubt(store)
    begin(store, "b")
    finished(store, intent("model", run="b", ord=1), usage=_PAID)


def inside(store: Store) -> None:
    begin(store, "a")
    outer = store.begin(tool("outer", run="a", ord=1)).result()
    store.open_run(run_of("b", agent="inner", parent_run="a", parent_ord=1)).result()
    inner = record(store, "inner", run="b", ord=1, parent=outer.row.id)
    store.finish(outcome(outer, usage=_PAID)).result()
    # Replayed as a whole, and replayed by going into it.
    store.open_run(run_of("whole")).result()
    store.open_run(run_of("entered")).result()
    store.open_run(run_of("c", agent="inner", parent_run="entered", parent_ord=1)).result()
    uses = (
        replayed(outer.row.id, run="whole"), replayed(outer.row.id, run="entered"), replayed(inner, run="c")
    )  # fmt: skip
    store.note(uses)
    store.flush().result()


@pytest.mark.parametrize(
    "fill", [live_and_replayed, unpriced, offline, endings, under_way, in_doubt, taken_over, inside]
)
def test_the_database_and_the_fold_agree(store: Store, fill: Callable[[Store], None]) -> None:
    fill(store)
    agree(store)


def agree(store: Store) -> None:
    runs = store.runs(limit=1_000)
    assert runs
    folded = {run.id: Trace.of(store.trace(run.id)).totals for run in runs}
    empty = Trace().totals
    by_run = store.totals_by_run(folded)
    assert {run: by_run.get(run, empty) for run in folded} == folded
    top = [event for run in store.runs(top=True, limit=1_000) for event in store.trace(run.id)]
    everything = store.totals()
    assert replace(everything, spent=0, saved=0, saved_seconds=0) == replace(
        Trace.of(top).totals, spent=0, saved=0, saved_seconds=0
    )
    assert everything.spent == pytest.approx(Trace.of(top).totals.spent)
    assert everything.saved == pytest.approx(Trace.of(top).totals.saved)
    assert everything.saved_seconds == pytest.approx(Trace.of(top).totals.saved_seconds)


def test_a_journal_of_another_day_adds_up(tmp_path: Path) -> None:
    recorded = Path(test_compatibility.__file__).with_name("journal-1.db.gz")
    (tmp_path / "journal.db").write_bytes(gzip.decompress(recorded.read_bytes()))
    with Store.open(tmp_path / "journal.db") as old:
        agree(old)


def test_runs_of_agents_with_agents_add_up(tmp_path: Path) -> None:
    inner = DurableAgent(ScriptedModel(["fine"] * 9, cost=0.5), name="inner")

    async def ask_inner() -> str:
        return str((await inner.run("x")).output)

    outer = DurableAgent(
        ScriptedModel([Call("ask_inner"), "done", Call("ask_inner"), "again"], cost=0.25), name="o", tools=[ask_inner]
    )
    for _ in range(2):
        with session("one", folder=tmp_path) as opened:
            asyncio.run(outer.run("first"))
            agree(opened.store)
            assert opened.totals(label="one").spent == pytest.approx(1.0)
            assert opened.totals(label="two").steps == 0


def test_a_sum_reads_no_run_into_python(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(120):
        store.open_run(run_of(f"r{number}"))
        record(store, f"question {number}", run=f"r{number}")

    def refuse(*_: object) -> object:
        raise AssertionError("a sum read a row")

    for reader in ("run_of", "step_of", "row_of"):
        monkeypatch.setattr(f"agentkit.journal.queries.{reader}", refuse)
    assert store.totals().spent == pytest.approx(30.0) and store.count() == 120
