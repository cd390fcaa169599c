"""Rows in batches, against a server that speaks the protocols: once sent, once paid, whatever happens between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel

import agentkit
from agentkit import Spec
from agentkit.budget import reservation
from agentkit.errors import UserError
from agentkit.map.batch import BatchCollection, BatchOptions
from agentkit.map.map import RowMap
from agentkit.runtime.session import Session
from tests.batch_serving import BatchServing, batch_serving

QUICK = BatchOptions(poll=0.02, longest_poll=0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServing]:
    with batch_serving(polls=3) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.root)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-0123456789abcdef")
        yield running


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with agentkit.session(folder=tmp_path) as opened:
        yield opened


def cities(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"city {n}" for n in range(count)]}, index=[f"k{n}" for n in range(count)])


def build(model: str = "openai:gpt-5-mini", **options: Any) -> Any:
    return agentkit.build(Spec.parse("You answer."), name="a", model=model, **options)


def run(agent: Any, rows: object, prompt: str = "Tell of {{ row.name }}", **options: Any) -> agentkit.MapResult:
    return asyncio.run(agentkit.map(agent, rows, prompt, **{"batch": QUICK, **options}))


MODELS = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")


@pytest.mark.parametrize("model", MODELS)
def test_all_rows_but_the_first_are_one_batch(server: BatchServing, session: Session, model: str) -> None:
    result = run(build(model), cities(20))
    assert list(result.frame["answer"]) == [f"You said: Tell of city {n}" for n in range(20)]
    assert set(result.frame["status"]) == {"done"}
    assert [len(job.requests) for job in server.batches.values()] == [19]
    assert len(server.ledger()) == 1
    assert Counter(server.charged) == Counter(f"Tell of city {n}" for n in range(20))


def test_what_was_batched_is_replayed_without_batches_too(server: BatchServing, tmp_path: Path) -> None:
    frames = []
    for batch in (QUICK, False):
        with agentkit.session(folder=tmp_path):
            frames.append(run(build(), cities(20), batch=batch).frame)
    assert len(server.charged) == 20
    assert len(server.batches) == 1
    columns = ["answer", "status", "cost", "tokens"]
    pd.testing.assert_frame_equal(frames[0][columns], frames[1][columns])


@pytest.mark.parametrize("model", MODELS)
def test_a_row_of_a_batch_costs_what_the_provider_takes_for_batches(
    server: BatchServing, session: Session, model: str
) -> None:
    frame = pd.DataFrame({"name": [f"city {n}" for n in range(10, 20)]})
    costs = run(build(model), frame).frame["cost"]
    assert costs[0] > 0
    assert list(costs[1:]) == pytest.approx([costs[0] / 2] * 9)


def test_several_batches_are_waited_for_at_once(server: BatchServing, session: Session) -> None:
    result = run(build(), cities(31), batch=BatchOptions(rows=10, poll=0.02, longest_poll=0.05))
    assert [len(job.requests) for job in server.batches.values()] == [10, 10, 10]
    assert list(result.frame["answer"]) == [f"You said: Tell of city {n}" for n in range(31)]
    assert max(job.created for job in server.batches.values()) < min(job.created for job in server.batches.values()) + 5


def test_equal_prompts_are_one_request_of_a_batch(server: BatchServing, session: Session) -> None:
    result = run(build(), pd.DataFrame({"name": ["x", "y", "z"] * 10}))
    assert Counter(server.charged) == Counter(["Tell of x", "Tell of y", "Tell of z"])
    assert list(result.frame["answer"]) == ["You said: Tell of x", "You said: Tell of y", "You said: Tell of z"] * 10


# ---- rows that are not answered


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fate", ["expires", "breaks", "vanishes"])
def test_what_may_be_answered_next_time_is_in_the_next_batch(
    server: BatchServing, session: Session, model: str, fate: str
) -> None:
    frame = pd.DataFrame({"name": [f"{n} {fate if n in (3, 5) else 'is answered'}" for n in range(8)]})
    result = run(build(model), frame)
    assert set(result.frame["status"]) == {"done"}
    assert [len(job.requests) for job in server.batches.values()] == [7, 2]
    assert Counter(server.charged) == Counter(f"Tell of {name}" for name in frame["name"])


@pytest.mark.parametrize("model", MODELS)
def test_a_refused_row_fails_and_is_asked_again_by_the_next_map(
    server: BatchServing, session: Session, model: str
) -> None:
    frame = pd.DataFrame({"name": [f"{n} {'refused' if n == 3 else 'answered'}" for n in range(8)]})
    result = run(build(model), frame)
    assert list(result.failed.index) == [3]
    assert "400" in result.frame.loc[3, "error"]
    result = run(build(model), frame)
    assert set(result.frame["status"]) == {"done"}
    assert [len(job.requests) for job in server.batches.values()] == [7, 1]
    assert len(server.charged) == 8


def test_the_finished_rows_of_an_expired_batch_are_kept(server: BatchServing, session: Session) -> None:
    server.end = "expired"
    frame = pd.DataFrame({"name": [f"{n} {'expires' if n in (3, 5) else 'answered'}" for n in range(8)]})
    result = run(build(), frame)
    assert set(result.frame["status"]) == {"done"}
    assert Counter(server.charged) == Counter(f"Tell of {name}" for name in frame["name"])


def test_a_batch_whose_file_is_refused_fails_its_rows(server: BatchServing, session: Session) -> None:
    server.end = "failed"
    result = run(build(), cities(5))
    assert list(result.frame["status"]) == ["done", *["failed"] * 4]
    assert "no JSON" in result.frame["error"].iloc[1]
    server.end = "completed"
    assert set(run(build(), cities(5)).frame["status"]) == {"done"}
    assert len(server.charged) == 5


def test_an_answer_that_does_not_fit_is_asked_again_alone(server: BatchServing, session: Session) -> None:
    class Size(BaseModel):
        size: int

    frame = pd.DataFrame({"size": ["1", '"many"', "3", "4"]})
    prompt = 'do final_result {"size": {{ row.size }}}\ndo final_result {"size": 7}'
    result = run(build(output=Size), frame, prompt)
    assert list(result.frame["size"]) == [1, 7, 3, 4]
    assert [len(job.requests) for job in server.batches.values()] == [3]
    assert len(server.charged) == 5


# ---- a provider that fails


@pytest.mark.parametrize("place", ["GET /batches/", "GET /files/"])
def test_a_look_that_fails_is_repeated(server: BatchServing, session: Session, place: str) -> None:
    server.faults += [(place, 503)] * 2
    assert set(run(build(), cities(5)).frame["status"]) == {"done"}
    assert len(server.batches) == 1


def test_a_batch_that_is_not_taken_is_said_in_one_line(server: BatchServing, session: Session) -> None:
    server.faults.append(("POST /batches", 400))
    with pytest.raises(agentkit.errors.Stopped, match=r"the batch of 4 rows was not taken: .*400"):
        run(build(), cities(5))
    assert not server.batches
    assert set(run(build(), cities(5)).frame["status"]) == {"done"}
    assert [len(job.requests) for job in server.batches.values()] == [4]


@pytest.mark.parametrize("model", MODELS)
def test_a_create_whose_answer_is_lost_is_looked_up_and_not_repeated(
    server: BatchServing, session: Session, model: str
) -> None:
    server.cut_creates = 1
    with pytest.raises(agentkit.errors.Stopped, match="looked up when you run it again"):
        run(build(model), cities(5))
    assert len(server.batches) == 1
    assert set(run(build(model), cities(5)).frame["status"]) == {"done"}
    assert len(server.batches) == 1
    assert len(server.charged) == 5


def test_a_batch_that_the_provider_forgot_is_sent_again_and_said(server: BatchServing, session: Session) -> None:
    def forget(job: Any) -> None:
        del server.batches[job.id]
        server.looked = lambda job: None

    server.looked = forget
    result = run(build(), cities(5))
    assert set(result.frame["status"]) == {"done"}
    assert any("paid twice" in note for note in result.notes)


# ---- stopped


def test_a_stopped_map_leaves_its_batch_and_collects_it_when_it_runs_again(
    server: BatchServing, tmp_path: Path
) -> None:
    server.polls_to_end = 1_000_000

    async def stop() -> RowMap:
        row_map = RowMap(build(), cities(10), "Tell of {{ row.name }}", batch=QUICK)
        task = asyncio.create_task(row_map.run())
        while not any(job.looks for job in server.batches.values()):
            await asyncio.sleep(0.01)
        (standing,) = row_map.progress.snapshot().batches
        assert (standing.rows, standing.status) == (9, "in_progress")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return row_map

    with agentkit.session(folder=tmp_path):
        stopped = asyncio.run(stop())
    assert any("goes on at openai" in note for note in stopped.result().notes)
    server.polls_to_end = 3
    # The table has grown and was turned round meanwhile: only what is new is sent.
    with agentkit.session(folder=tmp_path):
        result = run(build(), cities(13).iloc[::-1])
    assert list(result.frame["answer"]) == [f"You said: Tell of city {n}" for n in reversed(range(13))]
    assert [len(job.requests) for job in server.batches.values()] == [9, 2]
    assert len(server.charged) == 13


def test_a_batch_stays_open_for_the_rows_that_were_not_asked_for(server: BatchServing, tmp_path: Path) -> None:
    server.polls_to_end = 1_000_000
    with agentkit.session(folder=tmp_path), pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(agentkit.map(build(), cities(10), "Tell of {{ row.name }}", batch=QUICK), 3))
    server.polls_to_end = 1
    for rows in (4, 10):
        with agentkit.session(folder=tmp_path):
            assert set(run(build(), cities(rows)).frame["status"]) == {"done"}
    assert [len(job.requests) for job in server.batches.values()] == [9]
    assert len(server.charged) == 10
    with agentkit.session(folder=tmp_path) as session:
        assert not session.store.open_batches("collect")


def test_a_batch_whose_rows_are_all_recorded_is_closed_without_a_look(
    server: BatchServing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if killed between the record of the last row and that of the batch.
    monkeypatch.setattr(BatchCollection, "control", lambda self, payload: "killed")
    with agentkit.session(folder=tmp_path) as session:
        run(build(), cities(10))
        assert session.store.open_batches("collect")
    monkeypatch.undo()
    looks = [job.looks for job in server.batches.values()]
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with agentkit.session(folder=tmp_path) as session:
        run(build(), cities(10))
        assert not session.store.open_batches("collect")
    assert [job.looks for job in server.batches.values()] == looks


def test_who_maps_without_batches_hears_of_an_open_one(server: BatchServing, tmp_path: Path) -> None:
    server.polls_to_end = 1_000_000
    with agentkit.session(folder=tmp_path), pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(agentkit.map(build(), cities(10), "Tell of {{ row.name }}", batch=QUICK), 3))
    with agentkit.session(folder=tmp_path):
        result = run(build(), cities(3), batch=False)
    assert any("a batch of this agent is sent and not collected" in note for note in result.notes)


# ---- budgets


def test_a_batch_that_passes_the_budget_is_not_sent(server: BatchServing, session: Session) -> None:
    result = run(build(), cities(50), budget="900 tokens")
    assert not server.batches
    assert len(server.charged) == 1
    assert any("a batch of 49 rows at once" in note for note in result.notes)
    result = run(build(), cities(50), budget="1m tokens")
    assert set(result.frame["status"]) == {"done"}
    assert len(server.charged) == 50


def test_the_replies_of_a_batch_are_counted_once(server: BatchServing, session: Session) -> None:
    result = run(build(), cities(20), budget="1usd")
    budgets = reservation.budgets_of(session)
    book = budgets.ledger
    assert book is not None
    spent = book.later(lambda: book.spending(budgets.node("a"))).result()
    assert spent.usd == pytest.approx(sum(result.frame["cost"]) * 1e9, rel=1e-3)
    assert spent.requests == 20
    assert book.later(book.under_way).result() == 0


# ---- bad input


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def test_what_cannot_be_batched_is_one_line_before_anything_is_paid(server: BatchServing, session: Session) -> None:
    for agent, said in (
        (build(tools=[double]), r"a cannot be batched, because it has tools \(double\)"),
        (build(server.model("small")), r"small \(OpenAIChatModel\) is asked over the chat protocol.*openai:small"),
        (build("openai:gpt-5-mini | anthropic:claude-haiku-4-5"), "is a chain"),
        (build("offline"), "offline .* answers at once"),
        (build("test"), r"\(TestModel\) has no batch API"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            run(agent, cities(3))
        assert "\n" not in str(caught.value)
    assert not server.charged


def test_a_poll_that_never_comes_is_refused() -> None:
    with pytest.raises(UserError, match="poll"):
        BatchOptions(poll=0)


def test_nothing_is_sent_where_nothing_is_recorded(server: BatchServing, tmp_path: Path) -> None:
    with agentkit.session(folder=tmp_path, mode="off"), pytest.raises(UserError, match="mode off"):
        run(build(), cities(3))
    assert not server.charged
