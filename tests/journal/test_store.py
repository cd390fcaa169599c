from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentkit.errors import JournalCorrupt, JournalError, JournalReadOnly, UserError
from agentkit.events import Run, Step, Usage
from agentkit.journal.records import MessageNode, Outcome, Part, Use
from agentkit.journal.store import Store
from agentkit.journal.transactions import Writing
from tests.journal.journaling import chain, child, digest, intent, outcome, record, replayed, run_of, said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".agentkit" / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


# ---- intent, call, result


def test_an_intent_is_on_disk_before_the_call_may_be_made(store: Store, path: Path) -> None:
    claim = store.begin(intent(parts={"model": "ab"}, nodes=tuple(chain("hello")))).result()
    assert claim.mine
    with Store.open(path, read_only=True) as other:
        assert other.find(intent().key, 0) == claim.row
        assert claim.row.status == "started"


def test_a_result_is_found_as_it_was_recorded(store: Store) -> None:
    node = chain("hello")[0]
    claim = store.begin(intent(slot=digest("slot"), parts={"model": "ab"}, history=digest("h"), model="m")).result()
    usage = Usage(input_tokens=1, output_tokens=2, cost=0.1)
    use = Use("run", 1, claim.row.id, False, 100.0, 103.5)
    ended = outcome(
        claim,
        b"\x00body",
        result="text",
        usage=usage,
        nested={"ab": 2},
        shown=b"figure",
        node=node,
        use=use,
        model="m2",
    )
    store.finish(ended).result()
    row = store.find(intent().key, 0)
    assert row is not None
    assert (row.status, row.body, row.usage, row.nested, row.shown) == (
        "done",
        b"\x00body",
        usage,
        {"ab": 2},
        b"figure",
    )
    assert (row.started, row.ended, row.model, row.reply, row.history) == (100.0, 103.5, "m2", node.digest, digest("h"))
    assert row == store.step(row.id)
    assert store.messages(node.digest) == [b"hello"]


def test_the_nth_equal_request_is_another_step(store: Store) -> None:
    record(store, answer=b"1", n=0)
    record(store, answer=b"2", n=1, ord=2)
    assert [row.body for n in (0, 1) if (row := store.find(intent().key, n))] == [b"1", b"2"]
    assert store.find(intent().key, 2) is None


def test_an_equal_request_in_flight_belongs_to_the_first(store: Store, path: Path) -> None:
    first = store.begin(intent()).result()
    second = store.begin(intent(ord=2)).result()
    assert (first.mine, second.mine, second.row.id) == (True, False, first.row.id)
    with Store.open(path) as other:
        assert other.begin(intent(run="other")).result().mine is False


def test_a_finished_step_is_not_begun_again_unless_asked_anew(store: Store) -> None:
    first = record(store, answer=b"old")
    assert store.begin(intent()).result().mine is False
    second = record(store, answer=b"new", fresh=True)
    assert first != second
    found = store.find(intent().key, 0)
    assert found is not None
    assert (found.body, found.gen) == (b"new", 2)
    third = record(store, answer=b"newest", redo=True)
    assert store.nearest(kind="model", name="model", agent="analyst", limit=2)[0].id == third


@pytest.mark.parametrize("status", ["failed", "cancelled"])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("paid", [False, True])
def test_a_step_without_an_answer_is_tried_again_as_the_same_step(
    store: Store, status: str, fresh: bool, paid: bool
) -> None:
    claim = store.begin(intent()).result()
    store.finish(outcome(claim, status=status, body=None, error="429")).result()
    again = store.begin(intent(run="later", fresh=fresh, paid_before=paid)).result()
    assert again.mine
    assert (again.row.id, again.row.attempt, again.row.run) == (claim.row.id, 2, "later")
    assert (again.row.status, again.row.error, again.row.maybe_paid_twice) == ("started", None, paid)


def test_an_answer_of_another_member_is_found_under_that_members_key(store: Store) -> None:
    record(store, "b", answer=b"older")
    claim = store.begin(intent("a", ord=2)).result()
    store.finish(outcome(claim, b"by b", key=digest("b"), model="b")).result()
    found = store.find(digest("b"), 0)
    assert found is not None
    assert (found.body, found.gen, found.id) == (b"by b", 2, claim.row.id)
    assert store.find(digest("a"), 0) is None


def test_a_second_result_never_replaces_the_first(store: Store) -> None:
    claim = store.begin(intent()).result()
    store.finish(outcome(claim, b"first")).result()
    with pytest.raises(JournalError, match=f"step {claim.row.id} \\(model\\) already has its result"):
        store.finish(outcome(claim, b"second")).result()
    assert store.find(intent().key, 0).body == b"first"  # type: ignore[union-attr]


def test_a_late_result_of_a_stopped_step_is_kept(store: Store) -> None:
    claim = store.begin(intent()).result()
    store.finish(outcome(claim, status="cancelled", body=None, error="stopped")).result()
    store.finish(outcome(claim, b"late")).result()
    found = store.find(intent().key, 0)
    assert found is not None
    assert (found.status, found.body, found.error) == ("done", b"late", None)


def test_a_result_of_no_step_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="no step 7"):
        store.finish(Outcome(step=7, status="done")).result()


def test_text_that_sqlite_cannot_hold_does_not_lose_the_answer(store: Store) -> None:
    claim = store.begin(intent(request="half \ud83d", name="t\udc00", agent="a\udc00")).result()
    store.finish(outcome(claim, b"x", result="\udfff", error="\udfff")).result()
    row = store.step(claim.row.id)
    assert row is not None
    assert (row.request, row.name, row.result, row.error) == ("half ?", "t?", "?", "?")
    store.open_run(run_of(prompt="\ud83d")).result()
    assert store.run("run").prompt == "?"  # type: ignore[union-attr]


def test_a_slot_finds_the_newest_answer_whatever_the_rest_of_the_key(store: Store) -> None:
    slot = digest("tool and arguments")
    record(store, "code 1", b"1", slot=slot)
    record(store, "code 2", b"2", slot=slot, ord=2)
    store.begin(intent("code 3", slot=slot, ord=3)).result()
    found = store.find_slot(slot, 0)
    assert found is not None
    assert found.body == b"2"
    store.forget(step=found.id).result()
    assert store.find_slot(slot, 0).body == b"1"  # type: ignore[union-attr]
    assert store.find_slot(slot, 1) is None


# ---- runs and what stood in them


def test_a_run_reads_back_as_it_was_written(store: Store) -> None:
    started = run_of(prompt="Straße?", notes=("diverged", "zwei"), cell="c1", parent_run="p", parent_ord=3)
    store.open_run(started).result()
    assert store.run("run") == started
    ended = run_of(status="done", ended=9.0, output="42")
    nodes = tuple(chain("hello", "there"))
    store.close_run(ended, history=nodes[-1].digest, output=b"42", nodes=nodes).result()
    assert store.run("run") == ended
    assert (store.run_history("run"), store.run_output("run")) == (nodes[-1].digest, b"42")
    assert (store.run("no"), store.run_history("no"), store.run_output("no")) == (None, None, None)


def test_runs_are_listed_newest_first_and_by_agent_and_label(store: Store) -> None:
    for number, agent in enumerate("aabb"):
        store.open_run(run_of(str(number), agent=agent, label=f"note{number % 2}", started=float(number))).result()
    assert [run.id for run in store.runs()] == ["3", "2", "1", "0"]
    assert [run.id for run in store.runs(agent="a")] == ["1", "0"]
    assert [run.id for run in store.runs(agent="b", label="note0")] == ["2"]
    assert [run.id for run in store.runs(limit=1)] == ["3"]


def test_a_trace_holds_the_runs_inside_steps_where_they_ran(store: Store) -> None:
    store.open_run(run_of("outer")).result()
    record(store, "1", run="outer", ord=1)
    tool = store.begin(intent("2", run="outer", ord=2, kind="tool", name="ask")).result()
    store.open_run(run_of("inner", parent_run="outer", parent_ord=2)).result()
    record(store, "3", run="inner", ord=1, parent=tool.row.id)
    store.open_run(run_of("loose", parent_run="outer", parent_ord=None)).result()
    record(store, "4", run="outer", ord=3)
    shown = [event.id if isinstance(event, Run) else (event.run, event.ord) for event in store.trace("outer")]
    assert shown == ["outer", ("outer", 1), ("outer", 2), "inner", ("inner", 1), ("outer", 3), "loose"]
    assert store.trace("nothing") == []


def test_runs_that_claim_to_contain_each_other_do_not_trap_the_trace(store: Store) -> None:
    store.open_run(run_of("a", parent_run="b", parent_ord=1)).result()
    store.open_run(run_of("b", parent_run="a", parent_ord=1)).result()
    assert [event.id for event in store.trace("a") if isinstance(event, Run)] == ["a", "b"]


def test_a_live_step_shows_its_own_times_and_what_it_cost(store: Store) -> None:
    claim = store.begin(intent()).result()
    use = Use("run", 1, claim.row.id, False, 100.0, 103.0)
    store.finish(outcome(claim, usage=Usage(input_tokens=1), use=use)).result()
    (step,) = store.steps("run")
    assert (step.replayed, step.shared, step.started, step.ended, step.recorded_seconds) == (False, False, 100, 103, 3)
    assert (step.usage, step.status, step.result) == (Usage(input_tokens=1), "done", '"answer"')


def test_a_replayed_step_shows_the_times_of_this_run_and_what_it_saved(store: Store) -> None:
    id = record(store, run="first")
    store.note([replayed(id, run="second")])
    store.close_run(run_of("second"), history=None, output=None).result()
    (step,) = store.steps("second")
    assert (step.replayed, step.shared, step.started, step.ended) == (True, False, 5.0, 6.0)
    assert step.usage == Usage(input_tokens=10, output_tokens=5, cost=0.25)


def test_an_answer_adopted_from_the_call_cache_is_replayed_and_shared(store: Store) -> None:
    claim = store.begin(intent()).result()
    store.finish(outcome(claim, use=replayed(claim.row.id))).result()
    store.note([replayed(claim.row.id, run="later")])
    store.close_run(run_of("later"), history=None, output=None).result()
    assert [(step.replayed, step.shared) for step in store.steps("run")] == [(True, True)]
    assert [(step.replayed, step.shared) for step in store.steps("later")] == [(True, False)]


def test_a_step_that_was_taken_over_counts_once(store: Store) -> None:
    claim = store.begin(intent(run="crashed")).result()
    store.finish(outcome(claim, status="cancelled", body=None)).result()
    record(store, run="second")
    (old,), (new,) = store.steps("crashed"), store.steps("second")
    assert (old.status, old.usage, old.attempt) == ("cancelled", None, 1)
    assert "taken over by attempt 2" in str(old.error)
    assert (new.status, new.usage is not None, new.attempt) == ("done", True, 2)


def test_notes_are_on_disk_within_a_second_without_anybody_waiting(store: Store, path: Path) -> None:
    id = record(store)
    store.note([replayed(id, run="second", ord=ord) for ord in range(3)])
    until = time.monotonic() + 5
    with Store.open(path, read_only=True) as other:
        while len(other.steps("second")) < 3:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_notes_are_on_disk_once_the_store_is_closed(path: Path) -> None:
    with Store.open(path) as store:
        store.note([replayed(record(store), run="second")])
    with Store.open(path, read_only=True) as other:
        assert len(other.steps("second")) == 1


def test_a_conversation_is_stored_once_and_read_oldest_first(store: Store) -> None:
    nodes = chain(*(f"message {number}" for number in range(50)))
    record(store, "1", nodes=tuple(nodes[:30]))
    record(store, "2", nodes=tuple(nodes), ord=2)
    assert store.messages(nodes[-1].digest) == [node.body for node in nodes]
    assert store.messages(nodes[9].digest) == [node.body for node in nodes[:10]]
    assert (store.has_message(nodes[0].digest), store.has_message(digest("no"))) == (True, False)


def test_a_conversation_with_a_hole_is_an_error_and_not_a_shorter_one(store: Store) -> None:
    nodes = chain("1", "2", "3")
    record(store, nodes=(nodes[0], nodes[2]))
    for end in (nodes[2].digest, digest("unknown")):
        with pytest.raises(JournalCorrupt, match="is not whole"):
            store.messages(end)


def test_parts_are_stored_once(store: Store) -> None:
    part = Part(digest("tools"), b"[]")
    record(store, "1", bodies=(part,))
    record(store, "2", bodies=(part,), ord=2)
    assert (store.part(part.digest), store.part(digest("no"))) == (b"[]", None)


def test_the_nearest_records_are_the_newest_of_the_same_step_and_agent(store: Store) -> None:
    ids = [record(store, str(number), ord=number) for number in range(5)]
    record(store, "other agent", agent="b", ord=6)
    record(store, "other kind", kind="tool", ord=7)
    found = store.nearest(kind="model", name="model", agent="analyst", before=ids[4], limit=2)
    assert [row.id for row in found] == [ids[3], ids[2]]


def test_what_runs_need_is_their_steps_messages_and_parts(store: Store) -> None:
    nodes = chain("1", "2", "3")
    tools = Part(digest("tools"), b"[]")
    store.open_run(run_of("outer")).result()
    first = record(store, "1", run="outer", nodes=tuple(nodes[:2]), history=nodes[1].digest)
    record(
        store,
        "not needed",
        run="else",
        bodies=(Part(digest("else"), b""),),
        nodes=(MessageNode(digest("x"), None, b""),),
    )
    store.open_run(run_of("inner", parent_run="outer", parent_ord=1)).result()
    second = record(store, "2", run="inner", parts={"tools": tools.digest.hex(), "note": "no hex"}, bodies=(tools,))
    store.close_run(run_of("outer", status="done"), history=nodes[2].digest, output=None, nodes=(nodes[2],)).result()
    rows, messages, parts = store.dependencies_of(["outer"])
    assert [row.id for row in rows] == [first, second]
    assert (messages, parts) == (nodes, [tools])


# ---- owners


def killed_holder(path: Path) -> None:
    """A process that begins a model request and a payment in its run and is killed before they end."""
    process = child(
        """
        store = Store.open(Path(arguments[0]))
        store.open_run(run_of("killed")).result()
        store.begin(intent("model", run="killed")).result()
        store.begin(intent("pay", run="killed", kind="tool", name="pay", effects="once", ord=2)).result()
        print("begun", flush=True)
        signal.pause()
        """,
        path,
    )
    with process, Store.open(path) as store:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert store.in_doubt() == []
        assert store.begin(intent("model")).result().mine is False
        process.kill()


def test_a_killed_process_leaves_its_steps_in_doubt_and_the_next_takes_over(path: Path) -> None:
    killed_holder(path)
    with Store.open(path) as store:
        assert [row.name for row in store.in_doubt()] == ["model", "pay"]
        run = store.run("killed")
        assert run is not None
        assert run.status == "stopped"
        assert "process ended" in str(run.error)
        claim = store.begin(intent("model")).result()
        assert (claim.mine, claim.row.attempt, claim.row.maybe_paid_twice) == (True, 2, True)
        paid = store.begin(intent("pay", kind="tool", name="pay", effects="once", redo=True, ord=2)).result()
        assert (paid.mine, paid.row.attempt, paid.row.maybe_paid_twice) == (True, 2, False)
        assert store.in_doubt() == []
        store.finish(outcome(claim)).result()
        assert [row.id for row in store.double_payments()] == [claim.row.id]
        assert [step.maybe_paid_twice for step in store.steps("run")] == [True, False]


def test_a_closed_store_owns_nothing_any_more(path: Path) -> None:
    with Store.open(path) as first:
        owner = first.owner
        first.begin(intent()).result()
        with Store.open(path) as second:
            assert second.is_alive(owner)
    with Store.open(path) as second:
        assert not second.is_alive(owner)
        assert len(second.in_doubt()) == 1


def test_a_kill_at_any_moment_loses_no_step_that_was_acknowledged(path: Path) -> None:
    code = """
    store = Store.open(Path(arguments[0]))
    number = 0
    while True:
        record(store, f"{os.getpid()} {number}", b"x" * 3000, run=str(os.getpid()), ord=number)
        number += 1
        print(number, flush=True)
    """
    acknowledged: dict[int, int] = {}
    for trial in range(6):
        with child(code, path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.03 * trial + 0.01)
            process.kill()
            lines = process.stdout.read().splitlines()
            acknowledged[process.pid] = int(lines[-1]) if lines else 1
    with Store.open(path) as store:
        assert store.verify() == []
        for pid, count in acknowledged.items():
            rows = [store.find(intent(f"{pid} {number}").key, 0) for number in range(count)]
            assert all(row is not None and row.body == b"x" * 3000 for row in rows)
        assert len(store.in_doubt()) <= 6


def test_a_commit_is_on_the_disk_and_not_in_its_cache(store: Store) -> None:
    def settings(to: Writing) -> list[object]:
        names = ("journal_mode", "synchronous", "page_size")
        return [to.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert store._tell(settings).result() == ["wal", 2, 8192]


def test_two_processes_claim_each_of_500_keys_once(path: Path) -> None:
    Store.open(path).close()
    code = """
    with Store.open(Path(arguments[0])) as store:
        mine = 0
        print("ready", flush=True)
        sys.stdin.readline()
        for start in range(0, 500, 10):
            claims = [store.begin(intent(str(number))) for number in range(start, start + 10)]
            won = [claim.result() for claim in claims if claim.result().mine]
            mine += len(won)
            for ended in [store.finish(outcome(claim)) for claim in won]:
                ended.result()
        print(mine)
    """
    processes = [child(code, path) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(said(process)) for process in processes]
    assert sum(won) == 500
    with Store.open(path) as store:
        assert all(store.find(intent(str(number)).key, 0).status == "done" for number in range(500))  # type: ignore[union-attr]
        assert store.verify() == []


def test_a_forked_child_writes_in_its_own_name_and_the_parent_goes_on(store: Store, path: Path) -> None:
    record(store, "before")
    running = store.begin(intent("running", ord=2)).result()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        # Nothing of pytest's may run in the child, whatever happens, and a deadlock ends it.
        signal.alarm(20)
        try:
            seen = store.find(intent("before").key, 0)
            joined = store.begin(intent("running", ord=2)).result()
            record(store, "child", ord=3)
            store.close()
            os.write(writing, f"{seen is not None} {joined.mine} {store.is_alive(running.row.owner)}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    record(store, "parent", ord=4)
    os.waitpid(process, 0)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "True False True"
    child_row, own = store.find(intent("child").key, 0), store.find(intent("parent").key, 0)
    assert child_row is not None
    assert own is not None
    assert (own.owner, child_row.owner != own.owner) == (store.owner, True)
    assert store.begin(intent("running", ord=2)).result().mine is False
    store.finish(outcome(running)).result()
    assert store.verify() == []


def test_a_fork_while_threads_write_leaves_both_sides_usable(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(record, store, str(number), ord=number) for number in range(40)]
        for _ in range(3):
            process = os.fork()
            if process == 0:
                # Nothing of pytest's may run in the child, and a deadlock ends it.
                signal.alarm(20)
                failed = 1
                try:
                    record(store, f"child {os.getpid()}", run=f"child {os.getpid()}")
                    failed = 0
                finally:
                    os._exit(failed)
            assert os.waitpid(process, 0)[1] == 0
        assert len({write.result() for write in writes}) == 40
    assert store.verify() == []


# ---- a person decides


def doubtful(path: Path) -> int:
    with Store.open(path) as store:
        return store.begin(intent(kind="tool", name="pay", effects="once")).result().row.id


def test_settled_to_redo_the_next_begin_runs_it(path: Path) -> None:
    id = doubtful(path)
    with Store.open(path) as store:
        row = store.settle(id, "redo").result()
        assert (row.status, row.settled, store.in_doubt()) == ("cancelled", "redo", [])
        claim = store.begin(intent()).result()
        assert (claim.mine, claim.row.settled, claim.row.attempt) == (True, None, 2)


def test_settled_with_a_result_it_replays_that(path: Path) -> None:
    id = doubtful(path)
    with Store.open(path) as store:
        store.settle(id, "result", b'"paid"').result()
        row = store.find(intent().key, 0)
        assert row is not None
        assert (row.status, row.settled, row.body) == ("done", "result", b'"paid"')
        assert store.begin(intent()).result().mine is False


def test_settled_to_stop_it_is_not_run_again_unasked(path: Path) -> None:
    id = doubtful(path)
    with Store.open(path) as store:
        row = store.settle(id, "stop").result()
        assert (row.status, row.settled) == ("failed", "stop")
        assert store.begin(intent()).result().mine is False
        assert store.begin(intent(redo=True)).result().mine is True


def test_a_payment_that_was_made_can_be_settled_when_its_code_has_changed(store: Store) -> None:
    id = record(store, answer=b"old", kind="tool", name="pay", effects="once")
    kept = store.settle(id, "redo").result()
    assert (kept.status, kept.settled, kept.body) == ("done", "redo", b"old")
    decided = store.settle(id, "result", b"by hand").result()
    assert (decided.status, decided.settled, decided.body) == ("done", "result", b"by hand")
    assert store.verify() == []


def test_a_model_request_settled_to_redo_may_be_paid_twice(path: Path) -> None:
    with Store.open(path) as store:
        id = store.begin(intent()).result().row.id
    with Store.open(path) as store:
        store.settle(id, "redo").result()
        assert [row.id for row in store.double_payments()] == [id]


def test_what_is_running_or_has_ended_cannot_be_settled(store: Store) -> None:
    running = store.begin(intent()).result()
    with pytest.raises(UserError, match="still running"):
        store.settle(running.row.id, "redo").result()
    store.finish(outcome(running)).result()
    with pytest.raises(UserError, match="has its result"):
        store.settle(running.row.id, "result", b"other").result()
    with pytest.raises(UserError, match="no step 99"):
        store.settle(99, "stop").result()


@pytest.mark.parametrize("what", [{"run": "outer"}, {"agent": "analyst"}, {"step": 1}])
def test_what_is_forgotten_is_listed_and_never_replayed(store: Store, what: dict[str, object]) -> None:
    store.close_run(run_of("outer"), history=None, output=b"secret output").result()
    store.open_run(run_of("inner", agent="helper", parent_run="outer", parent_ord=1)).result()
    id = record(store, run="outer", slot=digest("slot"))
    record(store, "inside", run="inner", agent="helper")
    count = store.forget(**what).result()  # type: ignore[arg-type]
    assert count == (1 if "step" in what else 2)
    assert (store.find(intent().key, 0), store.find_slot(digest("slot"), 0)) == (None, None)
    row = store.step(id)
    assert row is not None
    assert (row.settled, row.body, row.request, row.result) == ("forgotten", None, "", "")
    assert row.usage == Usage(input_tokens=10, output_tokens=5, cost=0.25)
    assert len([step for step in store.trace("outer") if isinstance(step, Step)]) == 2
    assert (store.run_output("outer") is None) == ("step" not in what)
    again = store.begin(intent(ord=9)).result()
    assert (again.mine, again.row.gen) == (True, 2)
    assert store.verify() == []


def test_an_older_answer_does_not_come_back_when_the_newest_is_forgotten(store: Store) -> None:
    record(store, answer=b"old")
    newest = record(store, answer=b"new", fresh=True)
    assert store.forget(step=newest).result() == 2
    assert store.find(intent().key, 0) is None


# ---- the place


def test_the_folder_is_private_and_stays_out_of_git(path: Path) -> None:
    before = os.umask(0o000)
    try:
        with Store.open(path) as store:
            record(store)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir() if file.is_file()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((path.parent / "owners").stat().st_mode) == 0o700
    assert set(modes) == {"journal.db", "journal.db-wal", "journal.db-shm", ".gitignore", "ballast"}
    assert set(modes.values()) == {0o600}
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_what_a_clone_or_an_archive_opened_to_others_is_private_again(path: Path) -> None:
    with Store.open(path) as store:
        record(store)
    path.parent.chmod(0o755)
    path.chmod(0o644)
    with Store.open(path):
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("journal.db*")}
    assert (stat.S_IMODE(path.parent.stat().st_mode), modes) == (0o700, {0o600})


def test_a_store_opened_to_read_leaves_no_trace(path: Path) -> None:
    with Store.open(path) as store:
        id = record(store)
    before = path.read_bytes()
    with Store.open(path, read_only=True) as store:
        store.note([replayed(id)])
        for refused in (store.begin(intent("new")), store.open_run(run_of()), store.forget(step=id)):
            with pytest.raises(JournalReadOnly, match="no live call is made"):
                refused.result()
        assert store.find(intent().key, 0) is not None
    assert path.read_bytes() == before


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(JournalError, match="is closed"):
        store.find(intent().key, 0)
    with pytest.raises(JournalError, match="is closed"):
        store.begin(intent())


def test_on_a_network_disk_one_process_has_the_journal_to_itself(path: Path) -> None:
    with Store.open(path, exclusive=True) as store:
        record(store)
        store.note([replayed(1, run="second")])
        assert not Path(f"{path}-shm").exists()
        code = """
        from agentkit.errors import JournalBusy
        from agentkit.journal import schema
        schema.BUSY_SECONDS = 0.2
        try:
            Store.open(Path(arguments[0]))
        except JournalBusy as error:
            print(error.problem)
        """
        assert said(child(code, path)) == "is held by another process"
        assert store.find(intent().key, 0) is not None
    with Store.open(path, exclusive=True) as store:
        assert len(store.steps("second")) == 1
        assert store.erase(everything=True) == 1
