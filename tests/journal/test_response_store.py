"""What has arrived and is not recorded survives the process, for the step it belongs to and for nobody else."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.journal.records import Row
from agentkit.journal.response_store import PendingResponses, ResponseStore, leaves
from agentkit.journal.store import Store
from tests.journal.journaling import digest, intent, outcome

REQUEST = digest("request")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".agentkit" / "journal.db"


def begun(store: Store) -> Row:
    return store.begin(intent()).result().row


def of(store: Store, row: Row) -> PendingResponses:
    return store.inbox.of(row, clean=lambda text: "secret" not in text)


def files(path: Path) -> list[Path]:
    return sorted((path.parent / "inbox").glob("*"))


def test_an_answer_is_there_for_the_next_life_of_its_step(path: Path) -> None:
    with Store.open(path) as store:
        of(store, row := begun(store)).keep(REQUEST, b"answer")
    with Store.open(path) as store:
        again = of(store, row)
        assert again.find(REQUEST) == b"answer"
        assert again.find(digest("another request")) is None
        assert of(store, replace(row, n=1)).find(REQUEST) is None
        assert of(store, replace(row, gen=2)).find(REQUEST) is None
        assert again.answered


def test_it_is_private(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).keep(REQUEST, b"answer")
    (file,) = files(path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damaged", [b"", b"short", b"\0" * 38])
def test_a_damaged_answer_is_as_good_as_none(path: Path, damaged: bytes) -> None:
    with Store.open(path) as store:
        of(store, row := begun(store)).keep(REQUEST, b"answer")
        files(path)[0].write_bytes(damaged)
        again = of(store, row)
        assert again.find(REQUEST) is None
        assert not again.answered


def test_an_answer_that_repeats_a_secret_is_not_written(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).keep(REQUEST, b"the secret is out")
    assert files(path) == []


def test_what_was_asked_anew_is_not_called_answered(path: Path) -> None:
    with Store.open(path) as store:
        row = begun(store)
        of(store, row).keep(REQUEST, b"answer")
        again = of(store, row)
        again.find(REQUEST)
        again.mark_request()
        assert not again.answered


def test_dropped_when_the_step_is_recorded(path: Path) -> None:
    with Store.open(path) as store:
        hole = of(store, begun(store))
        hole.keep(REQUEST, b"answer")
        hole.drop()
    assert files(path) == []


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_leftovers_of_ended_steps_are_swept_at_the_next_opening(path: Path, ending: str) -> None:
    with Store.open(path) as store:
        claim = store.begin(intent()).result()
        of(store, claim.row).keep(REQUEST, b"answer")
        store.finish(outcome(claim, status=ending)).result()
    with Store.open(path):
        assert files(path) == []


def test_erasing_takes_them_along(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).keep(REQUEST, b"answer")
        store.erase(everything=True)
    assert files(path) == []


def test_nothing_is_swept_that_a_step_still_waits_for(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).keep(REQUEST, b"answer")
        with Store.open(path):
            pass
    assert len(files(path)) == 1


def test_a_full_or_vanished_folder_stops_nothing(tmp_path: Path) -> None:
    row = Row(
        id=1, key=digest("k"), n=0, gen=1, kind="model", name="m", effects="none", agent="a", run="r",
        status="started", attempt=1, owner="o", started=0.0,
    )  # fmt: skip
    hole = ResponseStore(tmp_path / "no" / "such" / "folder").of(row, clean=lambda text: True)
    hole.keep(REQUEST, b"answer")
    assert hole.find(REQUEST) is None
    hole.drop()


def taken_over(store: Store) -> bool:
    """Whether the next life of the step lists it as possibly paid twice."""
    return store.begin(intent()).result().row.maybe_paid_twice


def test_what_waited_and_never_left_was_not_paid(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).wait()
    with Store.open(path) as store:
        assert not taken_over(store)


@pytest.mark.parametrize("by_the_caller", [False, True])
def test_what_left_may_have_been_paid(path: Path, by_the_caller: bool) -> None:
    with Store.open(path) as store:
        hole = of(store, begun(store))
        hole.wait()
        if by_the_caller:
            leaves(hole.where(REQUEST))
        else:
            hole.leaves()
    with Store.open(path) as store:
        assert taken_over(store)


def test_what_does_not_say_when_it_leaves_may_have_been_paid(path: Path) -> None:
    with Store.open(path) as store:
        of(store, begun(store))
    with Store.open(path) as store:
        assert taken_over(store)


def test_a_mark_from_before_the_machine_began_says_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        of(store, begun(store)).wait()
    monkeypatch.setattr("agentkit.journal.owner.boot_id", lambda: "00000000")
    with Store.open(path) as store:
        assert taken_over(store)


def test_what_was_refused_is_as_if_it_had_not_left(path: Path) -> None:
    with Store.open(path) as store:
        hole = of(store, begun(store))
        hole.wait()
        hole.mark_request()
        hole.leaves()
        hole.mark_refusal()
    with Store.open(path) as store:
        assert not taken_over(store)


def test_a_refusal_says_nothing_of_another_request_under_way(path: Path) -> None:
    with Store.open(path) as store:
        hole = of(store, begun(store))
        hole.wait()
        for _ in range(2):
            hole.mark_request()
            hole.leaves()
        hole.mark_refusal()
    with Store.open(path) as store:
        assert taken_over(store)


def test_no_mark_is_left_when_the_step_is_recorded(path: Path) -> None:
    with Store.open(path) as store:
        hole = of(store, begun(store))
        hole.wait()
        hole.drop()
    assert files(path) == []
