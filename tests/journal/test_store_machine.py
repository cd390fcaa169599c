"""The journal against the simplest thing that could be right: a list of records per request."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentkit.errors import JournalError, UserError
from agentkit.journal.records import Claim
from agentkit.journal.store import Store
from tests.journal.journaling import digest, intent, outcome, replayed, run_of

QUESTIONS = ["a", "b", "c"]
Place = tuple[str, int]


@dataclass
class Record:
    """One step as it should stand on disk."""

    id: int
    kind: str
    status: str = "started"
    body: bytes | None = None
    attempt: int = 1
    settled: str | None = None
    twice: bool = False
    abandoned: bool = False

    def in_doubt(self) -> bool:
        return self.status == "started" and self.abandoned


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[Place, list[Record]] = {}
        self.claims: list[tuple[Claim, Record]] = []
        self.uses: dict[int, int] = {}
        self.ord = 0

    @initialize()
    def open(self) -> None:
        self.store = Store.open(self.path)

    @property
    def path(self) -> Path:
        return self.folder / "journal.db"

    def teardown(self) -> None:
        assert self.store.verify() == []
        self.store.close()
        with Store.open(self.path, read_only=True) as store:
            assert {step.ord: step.id for step in store.steps("run")} == self.uses
        shutil.rmtree(self.folder)

    def records(self) -> list[Record]:
        return [record for generations in self.model.values() for record in generations]

    # ---- what can happen

    @rule(
        question=st.sampled_from(QUESTIONS),
        n=st.integers(0, 1),
        kind=st.sampled_from(["model", "tool"]),
        again=st.sampled_from(["", "", "fresh", "redo"]),
    )
    def begin(self, question: str, n: int, kind: str, again: str) -> None:
        self.ord += 1
        kind = self.model[question, n][0].kind if (question, n) in self.model else kind
        asked = intent(question, n=n, kind=kind, ord=self.ord, fresh=again == "fresh", redo=again == "redo")
        claim = self.store.begin(asked).result()
        expected = self.expected_claim((question, n), kind, bool(again), claim.row.id)
        assert claim.mine is (expected is not None)
        if expected is not None:
            assert (claim.row.id, claim.row.attempt) == (expected.id, expected.attempt)
            assert (claim.row.status, claim.row.maybe_paid_twice) == ("started", expected.twice)
            self.claims = [(old, record) for old, record in self.claims if record is not expected]
            self.claims.append((claim, expected))
            self.uses[self.ord] = expected.id

    def expected_claim(self, place: Place, kind: str, again: bool, id: int) -> Record | None:
        """What begin should do: a new record, the newest taken over, or nothing."""
        generations = self.model.setdefault(place, [])
        newest = generations[-1] if generations else None
        if newest is None or newest.settled == "forgotten" or (newest.status == "done" and again):
            assert id not in {record.id for record in self.records()}
            generations.append(Record(id, kind))
            return generations[-1]
        running = newest.status == "started" and not newest.abandoned
        if running or newest.status == "done" or (newest.settled == "stop" and not again):
            return None
        newest.twice |= newest.status == "started" and kind == "model"
        newest.status, newest.settled, newest.abandoned, newest.body = "started", None, False, None
        newest.attempt += 1
        return newest

    @precondition(lambda self: self.claims)
    @rule(
        which=st.integers(0, 50),
        status=st.sampled_from(["done", "done", "failed", "cancelled"]),
        body=st.binary(max_size=20) | st.binary(min_size=9000, max_size=9000),
    )
    def finish(self, which: int, status: Literal["done", "failed", "cancelled"], body: bytes) -> None:
        claim, record = self.claims[which % len(self.claims)]
        ended = self.store.finish(outcome(claim, body, status=status, result=""))
        if record.status == "done":
            with pytest.raises(JournalError, match="already has its result"):
                ended.result()
            return
        ended.result()
        record.status, record.body, record.settled = status, body, None

    @precondition(lambda self: self.records())
    @rule(
        which=st.integers(0, 50),
        action=st.sampled_from(["redo", "result", "stop"]),
        body=st.binary(max_size=20),
    )
    def settle(self, which: int, action: Literal["redo", "result", "stop"], body: bytes) -> None:
        record = self.records()[which % len(self.records())]
        settled = self.store.settle(record.id, action, body)
        if record.status == "done" or (record.status == "started" and not record.abandoned):
            with pytest.raises(UserError):
                settled.result()
            return
        settled.result()
        record.twice |= action == "redo" and record.status == "started" and record.kind == "model"
        record.status = {"redo": "cancelled", "result": "done", "stop": "failed"}[action]
        record.settled, record.body = action, body if action == "result" else None

    @precondition(lambda self: self.records())
    @rule(which=st.integers(0, 50))
    def forget(self, which: int) -> None:
        chosen = self.records()[which % len(self.records())]
        generations = next(each for each in self.model.values() if chosen in each)
        assert self.store.forget(step=chosen.id).result() == len(generations)
        for record in generations:
            record.status = "cancelled" if record.status == "started" else record.status
            record.settled, record.body = "forgotten", None

    @precondition(lambda self: self.records())
    @rule(which=st.integers(0, 50))
    def replay(self, which: int) -> None:
        self.ord += 1
        record = self.records()[which % len(self.records())]
        self.store.note([replayed(record.id, ord=self.ord)])
        self.uses[self.ord] = record.id

    @rule()
    def end(self) -> None:
        """The kernel is shut down in order, and another one starts."""
        self.store.close()
        self.abandon()

    @rule()
    def crash(self) -> None:
        """The kernel is killed: what a new one finds are the file and the log as they lie there."""
        # What was noted and not yet written would be lost, and may be.
        self.store.open_run(run_of()).result()
        left = {suffix: Path(f"{self.path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        self.store.close()
        # Into the same files: a copy of the folder would be one from elsewhere, where what was decided does not hold.
        for suffix, content in left.items():
            Path(f"{self.path}{suffix}").write_bytes(content)
        self.abandon()

    def abandon(self) -> None:
        self.claims.clear()
        for record in self.records():
            record.abandoned |= record.status == "started"
        self.store = Store.open(self.path)

    # ---- what must hold

    @invariant()
    def every_request_finds_its_newest_record(self) -> None:
        for (question, n), generations in self.model.items():
            row = self.store.find(digest(question), n)
            newest = generations[-1] if generations else None
            if newest is None or newest.settled == "forgotten":
                assert row is None
                continue
            assert row is not None
            assert (row.id, row.gen) == (newest.id, len(generations))
            assert (row.status, row.body, row.settled) == (newest.status, newest.body, newest.settled)
            assert (row.attempt, row.maybe_paid_twice) == (newest.attempt, newest.twice)

    @invariant()
    def what_is_in_doubt_is_listed(self) -> None:
        assert {row.id for row in self.store.in_doubt()} == {each.id for each in self.records() if each.in_doubt()}
        assert {row.id for row in self.store.double_payments()} == {each.id for each in self.records() if each.twice}


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestJournalMachine = JournalMachine.TestCase
