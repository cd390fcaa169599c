"""The ledger: reservations on all scopes at once, by several kernels, with deaths, and nothing left behind."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentkit.budget.budget import USER, Amounts, BudgetScope, Limit, parse, place
from agentkit.budget.ledger import Hold, Ledger, Scope, Shortfall, Stand
from agentkit.errors import JournalError, UserError
from agentkit.journal import presence

ROOT = Path(__file__).parents[2]
ANALYST = place(project="/x/sales", label="report", agents=("analyst",))
HELPER = ANALYST.child("agent", "helper")
WRITER = place(project="/x/sales", label="report", agents=("writer",))
OTHER = place(project="/x/other", label="notes", agents=("analyst",))
NOTEBOOK = place(project="/x/sales", label="report")
PROJECT = next(node for node in NOTEBOOK.lineage() if node.level == "project")


def scopes(node: BudgetScope, run: str = "r", cell: str = "c", **stand: object) -> tuple[Scope, ...]:
    ran = Stand(id=run, **stand)  # type: ignore[arg-type]
    return tuple(Scope(node=one, run=ran, cell=Stand(id=cell)) for one in node.lineage())


def one(usd: int = 0, tokens: int = 0) -> Amounts:
    return Amounts(usd=usd, tokens=tokens, requests=1)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state" / "budgets.db")
    yield opened
    opened.close()


def held(found: Hold | Shortfall) -> Hold:
    assert isinstance(found, Hold), found
    return found


def refused(found: Hold | Shortfall) -> Shortfall:
    assert isinstance(found, Shortfall), found
    return found


def test_what_is_limited_nowhere_is_not_reserved_and_still_counted(book: Ledger) -> None:
    taken = held(book.reserve(scopes(HELPER), one(usd=7, tokens=3)))
    assert taken.id == 0 and book.under_way() == 0
    book.commit(taken, one(usd=5, tokens=2))
    assert book.spending(USER) == book.spending(HELPER, "day") == one(usd=5, tokens=2)
    assert book.spending(WRITER) == Amounts()


def test_a_reservation_is_made_on_every_scope_or_on_none(book: Ledger) -> None:
    book.set(USER, parse("100 tokens/total"))
    book.set(NOTEBOOK, parse("60 tokens/total"))
    book.set(ANALYST, parse("50 tokens/run"))
    taken = held(book.reserve(scopes(HELPER), one(tokens=40)))
    left = refused(book.reserve(scopes(HELPER), one(tokens=20)))
    assert (left.node, left.held, left.need) == (ANALYST, 40, 20)
    # Nothing of the refused one stays on those that had room.
    assert [standing.held for standing in book.standings([USER, NOTEBOOK, ANALYST])] == [40, 40, 40]
    book.commit(taken, one(tokens=10))
    assert [standing.held for standing in book.standings([USER, NOTEBOOK, ANALYST])] == [0, 0, 0]
    assert [standing.used for standing in book.standings([USER, NOTEBOOK, ANALYST])] == [10, 10, 10]


def test_a_sub_agent_spends_what_its_agent_was_given(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tokens/run"))
    book.commit(held(book.reserve(scopes(HELPER), one(tokens=90))), one(tokens=90))
    assert refused(book.reserve(scopes(ANALYST), one(tokens=20))).node == ANALYST
    held(book.reserve(scopes(WRITER), one(tokens=20)))


def test_others_set_aside_is_worth_waiting_for_and_spent_is_not(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tokens/total"))
    taken = held(book.reserve(scopes(ANALYST), one(tokens=100)))
    assert refused(book.reserve(scopes(ANALYST), one(tokens=1))).until is not None
    book.commit(taken, one(tokens=100))
    assert refused(book.reserve(scopes(ANALYST), one(tokens=1))).until is None


def test_each_run_cell_and_day_begins_anew_and_the_total_does_not(book: Ledger) -> None:
    book.set(ANALYST, parse("10 tokens/run, 20 tokens/cell, 30 tokens/day, 40 tokens/total"))
    now = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))

    def take(run: str, cell: str, at: float) -> Hold | Shortfall:
        found = book.reserve(scopes(ANALYST, run, cell), one(tokens=10), now=at)
        if isinstance(found, Hold):
            book.commit(found, one(tokens=10), now=at)
        return found

    held(take("1", "a", now))
    assert refused(take("1", "a", now)).limit.window == "run"
    held(take("2", "a", now))
    assert refused(take("3", "a", now)).limit.window == "cell"
    held(take("4", "b", now))
    assert refused(take("5", "c", now)).limit.window == "day"
    held(take("6", "d", now + 24 * 3600))
    assert refused(take("7", "e", now + 2 * 24 * 3600)).limit.window == "total"


def test_a_step_counts_on_the_day_on_which_it_began(book: Ledger) -> None:
    book.set(ANALYST, parse("30 tokens/day"))
    evening = time.mktime((2026, 3, 1, 23, 59, 0, 0, 0, -1))
    taken = held(book.reserve(scopes(ANALYST), one(tokens=10), now=evening))
    book.commit(taken, one(tokens=10), now=evening + 120)
    assert book.spending(ANALYST, "day", now=evening).tokens == 10
    assert book.spending(ANALYST, "day", now=evening + 120).tokens == 0


def test_what_only_replays_counts_in_its_run_and_nowhere_else(book: Ledger) -> None:
    book.set(USER, parse("100 tokens/day"))
    book.set(ANALYST, parse("50 tokens/run"))
    again = scopes(ANALYST, replayed=Amounts(tokens=45))
    assert refused(book.reserve(again, one(tokens=10))).used == 45
    assert book.spending(USER, "day") == Amounts()


def test_a_clock_that_is_set_back_is_not_waited_for(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tpm"))
    book.commit(held(book.reserve(scopes(ANALYST), one(tokens=90), now=10_000.0)), one(tokens=90), now=10_000.0)
    assert refused(book.reserve(scopes(ANALYST), one(tokens=50), now=10_001.0)).until is not None
    back = held(book.reserve(scopes(ANALYST), one(tokens=50), now=6_400.0))
    book.commit(back, one(tokens=50), now=6_400.0)
    # The minute after it counts as ever.
    until = refused(book.reserve(scopes(ANALYST), one(tokens=60), now=6_401.0)).until
    assert until is not None and until <= 6_401.0 + 61


def test_tokens_per_minute_come_back_after_a_minute(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tpm"))
    now = time.time()
    book.commit(held(book.reserve(scopes(ANALYST), one(tokens=60), now=now)), one(tokens=60), now=now)
    book.commit(held(book.reserve(scopes(ANALYST), one(tokens=30), now=now + 10)), one(tokens=30), now=now + 10)
    waits = refused(book.reserve(scopes(ANALYST), one(tokens=50), now=now + 20))
    assert waits.until is not None and now + 60 <= waits.until <= now + 61
    held(book.reserve(scopes(ANALYST), one(tokens=50), now=waits.until))
    assert refused(book.reserve(scopes(ANALYST), one(tokens=101), now=now + 500)).until is None


def test_the_time_of_a_run_is_used_up(book: Ledger) -> None:
    book.set(ANALYST, parse("10min"))
    now = time.monotonic()
    for jump in (0, -30 * 24 * 3600, 30 * 24 * 3600):
        at = time.time() + jump
        held(book.reserve(scopes(ANALYST, began=now - 590), Amounts(), now=at))
        assert refused(book.reserve(scopes(ANALYST, began=now - 600), Amounts(), now=at)).limit.measure == "seconds"
    assert book.under_way() == 0


def test_what_is_set_later_is_newer_also_where_the_clock_was_set_back(
    book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stamps = time.time, []
    for jump in (0, 3600, -24 * 3600, 0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        for node in (ANALYST, WRITER):
            book.set(node, parse("10min"))
            stamps.append(book.set_at(node))
            assert book.newest() == stamps[-1]
    assert stamps == sorted(set(stamps))


def test_what_the_innermost_scope_says_holds_at_the_limits_above_it(book: Ledger) -> None:
    book.set(USER, parse("1 tokens/day"), at_limit="stop")
    assert refused(book.reserve(scopes(WRITER), one(tokens=2))).at_limit == "stop"
    book.set(ANALYST, parse("1 request/run"), at_limit="ask")
    assert refused(book.reserve(scopes(ANALYST), one(tokens=2))).at_limit == "ask"


def test_a_budget_that_contradicts_another_is_refused_and_nothing_changes(book: Ledger) -> None:
    book.set(NOTEBOOK, parse("1usd/total"))
    with pytest.raises(UserError, match="more than the notebook allows"):
        book.set(ANALYST, parse("2usd"))
    assert book.budget(ANALYST).limits == ()


def test_the_file_is_the_users_own(book: Ledger) -> None:
    book.set(USER, parse("1usd/day"))
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.path.parent.stat().st_mode) == 0o700


def test_a_file_that_was_removed_is_made_anew_and_limits_hold_again(book: Ledger) -> None:
    book.set(USER, parse("10 tokens/day"))
    for file in book.path.parent.glob("budgets.db*"):
        if file.is_file():
            file.unlink()
    held(book.reserve(scopes(ANALYST), one(tokens=50)))
    book.set(USER, parse("20 tokens/day"))
    assert refused(Ledger(book.path).reserve(scopes(ANALYST), one(tokens=50))).limit.amount == 20


def test_a_file_that_is_no_ledger_and_one_of_a_newer_agentkit_say_so(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database, " * 100)
    unreadable = Ledger(garbage)
    with pytest.raises(JournalError, match=r"garbage\.db: the budgets cannot be read or written"):
        unreadable.later(unreadable.budgets).result()
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match="newer agentkit"):
        Ledger(newer).budgets()


# ---- two kernels


SPENDER = """
import sys, time
from pathlib import Path
from tests.budget.test_ledger import *
book = Ledger(Path(sys.argv[1]))
book.budgets()
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for number in range(int(sys.argv[2])):
    found = book.reserve(scopes(ANALYST, run=f"{sys.argv[3]}-{number}"), one(usd=3, tokens=10))
    if isinstance(found, Hold):
        book.commit(found, one(usd=2, tokens=10))
        taken += 1
    time.sleep(0.001)
print(taken)
"""


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_two_kernels_at_once_share_one_allowance(book: Ledger) -> None:
    book.set(USER, parse("1000 tokens/day"))
    kernels = [process(SPENDER, book.path, 200, name) for name in ("a", "b")]
    for kernel in kernels:
        assert kernel.stdout is not None and kernel.stdout.readline() == "ready\n"
    for kernel in kernels:
        assert kernel.stdin is not None
        kernel.stdin.write("go\n")
        kernel.stdin.flush()
    taken = [int(kernel.communicate(timeout=60)[0]) for kernel in kernels]
    assert sum(taken) == 100 and min(taken) > 0
    assert book.spending(USER) == Amounts(usd=200, tokens=1000, requests=100)
    assert book.under_way() == 0


HOLDER = """
import sys
from pathlib import Path
from tests.budget.test_ledger import *
book = Ledger(Path(sys.argv[1]))
held(book.reserve(scopes(ANALYST), one(tokens=80)))
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_kernel_had_set_aside_is_free_again_and_a_living_ones_is_not(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tokens/total"))
    kernel = process(HOLDER, book.path)
    assert kernel.stdout is not None and kernel.stdout.readline() == "held\n"
    assert refused(book.reserve(scopes(ANALYST), one(tokens=30))).held == 80
    assert book.under_way() == 1
    kernel.kill()
    kernel.wait()
    book.release(held(book.reserve(scopes(ANALYST), one(tokens=100))))
    assert book.under_way() == 0
    assert [file.name for file in book.path.with_name("budgets.db-owners").iterdir()] == [book.owner]


LIVING = """
import sys
from pathlib import Path
from tests.budget.test_ledger import *
book = Ledger(Path(sys.argv[1]))
book.commit(held(book.reserve(scopes(ANALYST, run="long"), one(tokens=60))), one(tokens=60))
held(book.reserve(scopes(ANALYST, run="other"), one(tokens=80)))
for _ in sys.stdin:
    found = book.reserve(scopes(ANALYST, run="long"), one(tokens=50))
    print(isinstance(found, Shortfall) and found.used, flush=True)
"""


@pytest.mark.parametrize("days", [8, 400, -8, -400])
def test_a_clock_that_jumps_takes_nothing_from_the_runs_of_a_kernel_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    path = tmp_path / "budgets.db"
    first = Ledger(path)
    first.set(ANALYST, parse("100 tokens/run"))
    first.close()
    kernel = process(LIVING, path)
    assert kernel.stdin is not None and kernel.stdout is not None

    def used() -> str:
        kernel.stdin.write("?\n")  # type: ignore[union-attr]
        kernel.stdin.flush()  # type: ignore[union-attr]
        return kernel.stdout.readline()  # type: ignore[union-attr]

    assert used() == "60\n"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 24 * 3600)
    second = Ledger(path)
    assert refused(second.reserve(scopes(ANALYST, run="other"), one(tokens=30))).held == 80
    second.close()
    assert used() == "60\n"
    kernel.kill()
    kernel.wait()
    # Of one that is gone nothing is kept for ever, whatever the clock said when it counted.
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM spent WHERE bucket = 'run:long'").fetchone() == (1,)
    third = Ledger(path)
    third.budgets()
    third.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM spent WHERE bucket = 'run:long'").fetchone() == (0,)


def test_a_file_of_an_earlier_agentkit_is_counted_in_as_before(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "budgets.db")
    book.set(ANALYST, parse("100 tokens/run"))
    book.commit(held(book.reserve(scopes(ANALYST), one(tokens=60))), one(tokens=60))
    book.close()
    with sqlite3.connect(book.path) as db:
        db.execute("ALTER TABLE spent DROP COLUMN owner")
    again = Ledger(book.path)
    assert refused(again.reserve(scopes(ANALYST), one(tokens=50))).used == 60
    again.close()


def test_threads_of_one_kernel_never_pass_the_limit_together(book: Ledger) -> None:
    book.set(ANALYST, parse("100 tokens/total"))
    taken: list[int] = []

    def spend() -> None:
        for _ in range(20):
            found = book.later(lambda: book.reserve(scopes(ANALYST), one(tokens=3))).result()
            if isinstance(found, Hold):
                book.later(lambda found=found: book.commit(found, one(tokens=3))).result()  # type: ignore[misc]
                taken.append(3)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 99


# ---- any interleaving


@dataclass
class Under:
    """A step that was let in: by which kernel, what was set aside, and which windows it counts in."""

    kernel: int
    held: Hold
    need: int
    bounded: bool
    windows: tuple[tuple[BudgetScope, Limit, str], ...] = field(default=())


KERNELS = 3
AGENTS = (ANALYST, HELPER, WRITER, OTHER)
BUDGETS = {
    USER: parse("400 tokens/total, 300 tokens/day"),
    PROJECT: parse("250 tokens/day"),
    NOTEBOOK: parse("200 tokens/day, 120 tokens/cell, 150 tpm"),
    ANALYST: parse("100 tokens/run"),
    HELPER: parse("60 tokens/run"),
}


class Interleaving(RuleBasedStateMachine):
    """Kernels that reserve, commit, release and die in any order, against a model that only adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "budgets.db"
        self.kernels = [Ledger(self.path) for _ in range(KERNELS)]
        for node, limits in BUDGETS.items():
            self.kernels[0].set(node, limits)
        today = time.localtime()
        self.now = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, 23, 58, 0, 0, 0, -1))
        self.under: list[Under] = []
        self.orphans: list[Under] = []
        self.spent: defaultdict[tuple[BudgetScope, str], int] = defaultdict(int)
        self.minutes: defaultdict[BudgetScope, list[tuple[float, int]]] = defaultdict(list)
        self.excess: defaultdict[tuple[BudgetScope, Limit, str], int] = defaultdict(int)

    @rule(
        kernel=st.integers(0, KERNELS - 1), node=st.sampled_from(AGENTS), run=st.sampled_from("xy"),
        need=st.integers(1, 70), bounded=st.booleans(),
    )  # fmt: skip
    def reserve(self, kernel: int, node: BudgetScope, run: str, need: int, bounded: bool) -> None:
        ways = scopes(node, run=f"{node}{run}", cell=run)
        found = self.kernels[kernel].reserve(ways, one(tokens=need), now=self.now)
        if isinstance(found, Shortfall):
            # It says the truth: with what is under way there is no room, the dead ones' shares not counted.
            key = (found.node, _bucket(found.limit, f"{node}{run}", run, self.now))
            live = sum(step.need for step in self.under if (found.node, found.limit, key[1]) in step.windows)
            assert self._spent(found.node, found.limit, key[1]) + live + need > found.limit.amount
            return
        if self.orphans and kernel >= 0:
            self.orphans = [step for step in self.orphans if self._still_held(step)]
        windows = tuple(
            (scope, limit, _bucket(limit, f"{node}{run}", run, self.now))
            for scope in node.lineage()
            for limit in BUDGETS.get(scope, ())
        )
        self.under.append(Under(kernel, found, need, bounded, windows))
        for scope, limit, bucket in windows:
            live = sum(step.need for step in self.under if (scope, limit, bucket) in step.windows)
            assert self._spent(scope, limit, bucket) + live <= limit.amount
            self.excess[scope, limit, bucket] = 0

    def _still_held(self, step: Under) -> bool:
        with sqlite3.connect(self.path) as db:
            return db.execute("SELECT 1 FROM held WHERE id = ?", (step.held.id,)).fetchone() is not None

    @precondition(lambda self: self.under)
    @rule(which=st.integers(0, 100), share=st.integers(0, 250))
    def commit(self, which: int, share: int) -> None:
        step = self.under.pop(which % len(self.under))
        took = step.need * min(share, 100) // 100 if step.bounded else step.need * share // 100
        self.kernels[step.kernel].commit(step.held, one(tokens=took), now=self.now)
        for node, limit, bucket in step.windows:
            if limit.window != "minute":
                self.excess[node, limit, bucket] += max(0, took - step.need)
        for node, bucket in {(node, bucket) for node, _, bucket in step.windows}:
            if bucket == "minute":
                self.minutes[node].append((self.now, took))
            else:
                self.spent[node, bucket] += took

    @precondition(lambda self: self.under)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        step = self.under.pop(which % len(self.under))
        self.kernels[step.kernel].release(step.held)

    @rule(kernel=st.integers(0, KERNELS - 1))
    def kill(self, kernel: int) -> None:
        died = self.kernels[kernel]
        if died.owner:
            # What the kernel of the operating system does: the lock goes, the file stays.
            os.close(presence._own.pop(died.owner))
        if died._connection is not None:
            died._connection.close()
        died._thread.shutdown()
        self.orphans += [step for step in self.under if step.kernel == kernel]
        self.under = [step for step in self.under if step.kernel != kernel]
        self.kernels[kernel] = Ledger(self.path)

    @rule(seconds=st.sampled_from((1.0, 20.0, 61.0, 3600.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_limit_is_passed_by_more_than_what_was_under_way_took_beyond_its_share(self) -> None:
        for (node, limit, bucket), excess in self.excess.items():
            if limit.window != "minute":
                assert self._spent(node, limit, bucket) <= limit.amount + excess

    @invariant()
    def nothing_leaks(self) -> None:
        known = self.under + [step for step in self.orphans if self._still_held(step)]
        with sqlite3.connect(self.path) as db:
            (kept,) = db.execute("SELECT total(held_tokens) FROM spent").fetchone()
            (rows,) = db.execute("SELECT count(*) FROM held").fetchone()
        assert rows == len(known)
        assert kept == sum(step.need * len({(node, bucket) for node, _, bucket in step.windows}) for step in known)

    def _spent(self, node: BudgetScope, limit: Limit, bucket: str) -> int:
        if limit.window == "minute":
            return sum(tokens for at, tokens in self.minutes[node] if at > self.now - 60)
        return self.spent[node, bucket]

    @invariant()
    def each_step_counts_once(self) -> None:
        today = time.strftime("day:%Y-%m-%d", time.localtime(self.now))
        assert self.kernels[0].spending(USER, "day", now=self.now).tokens == self.spent[USER, today]
        assert self.kernels[0].spending(USER).tokens == self.spent[USER, "total"]

    def teardown(self) -> None:
        for step in self.under:
            self.kernels[step.kernel].release(step.held)
        # A look at the table lets go of what the dead had set aside.
        assert all(standing.held == 0 for standing in self.kernels[0].standings(list(BUDGETS), now=self.now))
        assert self.kernels[0].under_way() == 0
        for kernel in self.kernels:
            kernel.close()
        self.folder.cleanup()


def _bucket(limit: Limit, run: str, cell: str, now: float) -> str:
    match limit.window:
        case "run":
            return f"run:{run}"
        case "cell":
            return f"cell:{cell}"
        case "day":
            return time.strftime("day:%Y-%m-%d", time.localtime(now))
        case _:
            return limit.window


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(
    max_examples=int(os.environ.get("LEDGER_EXAMPLES", 40)), stateful_step_count=40, deadline=None
)
