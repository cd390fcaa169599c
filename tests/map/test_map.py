"""An agent over a table, against a real server: order, resumption, edits, failures, limits, questions, ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel

import agentkit
from agentkit import Spec
from agentkit.approval.policy import Decision, Question
from agentkit.errors import UserError
from agentkit.runtime.session import Session
from tests.serving import Fault, Serving, serving
from tests.wire import Answer


class City(BaseModel):
    name: str
    size: int


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with agentkit.session(folder=tmp_path) as opened:
        yield opened


def cities(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"city {n}" for n in range(count)]}, index=[f"k{n}" for n in range(count)])


def build(server: Serving, **options: Any) -> Any:
    return agentkit.build(Spec.parse("You answer."), name="a", model=server.model(), **options)


def run(agent: Any, rows: object, prompt: str = "Tell of {{ row.name }}", **options: Any) -> agentkit.MapResult:
    return asyncio.run(agentkit.map(agent, rows, prompt, **options))


def asked(server: Serving) -> list[str]:
    return [entry.prompt for entry in server.ledger()]


def test_the_frame_has_the_order_and_the_index_of_the_input(server: Serving, session: Session) -> None:
    result = run(build(server), cities(30), workers=7)
    assert list(result.frame.index) == [f"k{n}" for n in range(30)]
    assert list(result.frame["answer"]) == [f"You said: Tell of city {n}" for n in range(30)]
    assert set(result.frame["status"]) == {"done"}
    assert list(result.frame.columns) == ["answer", "status", "error", "cost", "tokens", "seconds", "run"]
    assert (result.frame["tokens"] > 0).all()


def test_what_is_on_record_is_asked_no_more_in_a_new_session(server: Serving, tmp_path: Path) -> None:
    frames = []
    for _ in range(2):
        with agentkit.session(folder=tmp_path):
            frames.append(run(build(server), cities(30)).frame)
    assert len(server.ledger()) == 30
    columns = ["answer", "status", "cost", "tokens"]
    pd.testing.assert_frame_equal(frames[0][columns], frames[1][columns])


def test_only_new_content_of_a_table_is_paid(server: Serving, session: Session) -> None:
    run(build(server), cities(20))
    server.reset()
    grown = cities(25).iloc[::-1].iloc[:15]
    result = run(build(server), grown)
    assert sorted(asked(server)) == sorted(f"Tell of city {n}" for n in range(20, 25))
    assert list(result.frame["answer"]) == [f"You said: Tell of {name}" for name in grown["name"]]


def test_an_edited_prompt_asks_only_the_rows_whose_prompt_differs(server: Serving, session: Session) -> None:
    frame = cities(10).assign(note=["", "new"] * 5)
    run(build(server), frame, "Tell of {{ row.name }}")
    server.reset()
    run(build(server), frame, "Tell of {{ row.name }}{{ row.note }}")
    assert sorted(asked(server)) == sorted(f"Tell of city {n}new" for n in range(1, 10, 2))


def test_equal_prompts_are_asked_once(server: Serving, session: Session) -> None:
    result = run(build(server), pd.DataFrame({"name": ["x", "y"] * 10}), workers=5)
    assert len(server.ledger()) == 2
    assert list(result.frame["answer"]) == ["You said: Tell of x", "You said: Tell of y"] * 10


def test_a_row_is_what_a_run_of_its_prompt_is(server: Serving, session: Session) -> None:
    asyncio.run(build(server).run("Tell of city 3"))
    run(build(server), cities(5))
    assert len(server.ledger()) == 5
    asyncio.run(build(server).run("Tell of city 4"))
    assert len(server.ledger()) == 5


def test_the_fields_of_the_output_are_columns_with_their_types(server: Serving, session: Session) -> None:
    frame = pd.DataFrame({"n": range(8)})
    prompt = 'do final_result {"name": "x", "size": {{ row.n }}}'
    for _ in range(2):
        result = run(build(server, output=City), frame, prompt)
        assert list(result.frame["size"]) == list(range(8))
        assert (str(result.frame.dtypes["size"]), str(result.frame.dtypes["name"])) == ("Int64", "string")
        # Only the first one needed a run to tell what rows are like.
        assert [one.row for one in session.runs(rows_of=result.run)] == [0]
    assert len(server.ledger()) == 8


def test_an_output_that_does_not_fit_is_asked_again_as_in_a_run(server: Serving, session: Session) -> None:
    frame = pd.DataFrame({"size": ["1", '"many"', "3"]})
    prompt = 'do final_result {"name": "x", "size": {{ row.size }}}\ndo final_result {"name": "y", "size": 7}'
    result = run(build(server, output=City), frame, prompt)
    assert list(result.frame["size"]) == [1, 7, 3]
    assert len(server.ledger()) == 4


# ---- rows that fail


def test_a_failed_row_keeps_its_place_and_is_asked_again(server: Serving, session: Session) -> None:
    server.script(Fault(match="city 4", status=400), Fault(match="city 7", status=400))
    result = run(build(server), cities(10))
    assert list(result.failed.index) == ["k4", "k7"]
    assert list(result.frame["status"]).count("done") == 8
    assert "400" in result.frame.loc["k4", "error"]
    server.reset()
    result = run(build(server), cities(10))
    assert sorted(asked(server)) == ["Tell of city 4", "Tell of city 7"]
    assert set(result.frame["status"]) == {"done"}
    assert result.frame["error"].isna().all()


@pytest.mark.parametrize(("errors", "most"), [("stop", 1), ("10%", 5)])
def test_too_many_failures_end_the_map(server: Serving, session: Session, errors: str, most: int) -> None:
    server.script(*(Fault(match=f"city {n}", status=400) for n in range(10, 40)))
    result = run(build(server), cities(40), errors=errors, workers=1)
    statuses = list(result.frame["status"])
    assert (statuses.count("done"), statuses.count("failed")) == (10, most)
    assert statuses.count("pending") == 30 - most
    assert any("rows failed" in note for note in result.notes)


def test_the_first_row_may_fail(server: Serving, session: Session) -> None:
    server.script(Fault(match="city 0", status=400))
    result = run(build(server), cities(6))
    assert list(result.frame["status"]) == ["failed", *["done"] * 5]


# ---- tools


def test_rows_with_tools_are_replayed_at_once_until_a_tool_is_edited(server: Serving, session: Session) -> None:
    def double(n: int) -> int:
        return 2 * n

    calls: list[int] = []
    prompt = 'do double {"n": {{ row.n }}}\nsay done'
    frame = pd.DataFrame({"n": range(6)})
    run(build(server, tools=[double]), frame, prompt)
    assert len(server.ledger()) == 12
    result = run(build(server, tools=[double]), frame, prompt)
    assert (len(server.ledger()), result.snapshot.replayed) == (12, 6)
    # The first row was walked, the others were looked up: they have no run of their own in this map.
    assert [one.row for one in session.runs(rows_of=result.run)] == [0]

    def edited(n: int) -> int:
        calls.append(n)
        return 3 * n

    edited.__name__ = "double"
    run(build(server, tools=[edited]), frame, prompt)
    assert sorted(calls) == list(range(6))


def test_a_tool_that_read_a_file_is_run_again_when_the_file_changed(
    server: Serving, session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "prices.txt"
    file.write_text("1")

    def price(n: int) -> str:
        return file.read_text()

    frame = pd.DataFrame({"n": range(3)})
    prompt = 'do price {"n": {{ row.n }}}\nsay done'
    first = run(build(server, tools=[price]), frame, prompt)
    assert run(build(server, tools=[price]), frame, prompt).snapshot.replayed == 3
    before = len(server.ledger())
    file.write_text("2")
    second = run(build(server, tools=[price]), frame, prompt)
    assert second.snapshot.live == 3
    assert len(server.ledger()) == before + 3
    assert list(first.frame["status"]) == list(second.frame["status"])


# ---- what is known by prompt is only what a walk would find


def test_a_forgotten_row_is_asked_again(server: Serving, session: Session) -> None:
    run(build(server), cities(4))
    row = next(step for step in session.trace(session.runs(top=True)[0].id) if getattr(step, "ord", 0) == 3)
    session.forget(step=row.id)  # type: ignore[arg-type]
    server.reset()
    run(build(server), cities(4))
    assert len(server.ledger()) == 1


def test_a_forgotten_map_is_asked_again(server: Serving, session: Session) -> None:
    result = run(build(server), cities(4))
    session.forget(run=result.run)
    run(build(server), cities(4))
    assert len(server.ledger()) == 8


def test_an_erased_agent_leaves_no_answer(server: Serving, session: Session) -> None:
    run(build(server), cities(4), "Tell of {{ row.name }} in Samarkand")
    session.store.erase(agent="a")
    assert b"Samarkand" not in session.path.read_bytes()
    run(build(server), cities(4), "Tell of {{ row.name }} in Samarkand")
    assert len(server.ledger()) == 8


def test_the_newest_answer_of_a_row_holds(server: Serving, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    run(build(server), cities(3))
    monkeypatch.setattr(server, "_plan", lambda asking: Answer(text="newer"))
    asyncio.run(agentkit.ask(build(server), "Tell of city 1", fresh=True))
    result = run(build(server), cities(3))
    assert list(result.frame["answer"]) == ["You said: Tell of city 0", "newer", "You said: Tell of city 2"]
    assert len(server.ledger()) == 4


def test_fresh_asks_all_rows_anew(server: Serving, session: Session) -> None:
    run(build(server), cities(3))
    run(build(server), cities(3), fresh=True)
    assert len(server.ledger()) == 6
    run(build(server), cities(3))
    assert len(server.ledger()) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"spec": Spec.parse("You answer in verse.")},
        {"output": City},
    ],
    ids=["instructions", "output"],
)
def test_another_agent_asks_anew(server: Serving, session: Session, change: dict[str, Any]) -> None:
    prompt = 'do final_result {"name": "{{ row.name }}", "size": 1}'
    run(build(server), cities(3), prompt, errors="keep")
    before = len(server.ledger())
    spec = change.pop("spec", Spec.parse("You answer."))
    agent = agentkit.build(spec, name="a", model=server.model(), **change)
    run(agent, cities(3), prompt)
    assert len(server.ledger()) > before


# ---- ends before the last row


def test_a_map_that_is_stopped_keeps_what_arrived_and_goes_on(server: Serving, session: Session) -> None:
    server.delay = 0.2
    agent = build(server)

    async def stop() -> float:
        running = asyncio.create_task(agentkit.map(agent, cities(300), "Tell of {{ row.name }}", workers=100))
        await asyncio.sleep(1.5)
        began = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.monotonic() - began

    asyncio.run(stop())
    arrived = len([entry for entry in server.ledger() if entry.sent is not None])
    assert 0 < arrived < 300
    assert session.runs(top=True)[0].status == "stopped"
    server.delay = 0.0
    result = run(agent, cities(300))
    assert set(result.frame["status"]) == {"done"}
    assert result.snapshot.replayed > 0


def test_a_stream_tells_each_row_and_may_be_left(server: Serving, session: Session) -> None:
    agent = build(server)

    async def some() -> list[agentkit.MapRow[Any]]:
        rows = []
        async for row in agentkit.map_stream(agent, cities(50), "Tell of {{ row.name }}", workers=3):
            rows.append(row)
            if len(rows) == 5:
                break
        return rows

    async def every() -> list[agentkit.MapRow[Any]]:
        return [row async for row in agentkit.map_stream(agent, cities(8), "Tell of {{ row.name }}")]

    for _ in range(5):
        rows = asyncio.run(some())
    assert all(row.status == "done" and row.answer == f"You said: Tell of city {row.ordinal}" for row in rows)
    assert {row.ordinal for row in asyncio.run(every())} == set(range(8))


# ---- limits, samples, questions


def test_a_budget_ends_the_map_between_rows_and_a_higher_one_goes_on(server: Serving, session: Session) -> None:
    result = run(build(server), cities(20), budget="8 requests", workers=1)
    statuses = list(result.frame["status"])
    assert statuses == ["done"] * 8 + ["pending"] * 12
    assert len(server.ledger()) == 8
    assert any("8 requests" in note for note in result.notes)
    result = run(build(server), cities(20), budget="15 requests", workers=1)
    assert len(server.ledger()) == 15
    result = run(build(server), cities(20))
    assert (len(server.ledger()), set(result.frame["status"])) == (20, {"done"})


def test_a_budget_that_the_rows_on_record_say_is_too_small_is_refused_at_the_start(
    server: Serving, session: Session
) -> None:
    run(build(server), cities(100), sample=20)
    took = int(run(build(server), cities(100), sample=20).frame["tokens"].sum())
    before = len(server.ledger())
    with pytest.raises(UserError, match=r"100 rows will take about .* 2\d rows on record .*limit="):
        run(build(server), cities(100), budget=f"{2 * took} tokens")
    # The first row, which says what all have in common, may have been asked.
    assert len(server.ledger()) <= before + 1
    assert set(run(build(server), cities(100), budget=f"{6 * took} tokens").frame["status"]) == {"done"}


def test_a_sample_says_what_all_rows_would_take(server: Serving, session: Session) -> None:
    result = run(build(server), cities(40), sample=10)
    assert len(server.ledger()) == 10
    assert result.estimate is not None
    assert (result.estimate.rows, result.estimate.sampled) == (40, 10)
    assert "40 rows" in result.summary
    run(build(server), cities(40))
    assert len(server.ledger()) == 40


def test_a_limit_runs_the_first_rows(server: Serving, session: Session) -> None:
    result = run(build(server), cities(40), limit=5)
    assert sorted(asked(server)) == [f"Tell of city {n}" for n in range(5)]
    assert len(result.frame) == 40


def test_questions_of_all_rows_are_put_at_once(server: Serving, session: Session) -> None:
    saved: list[int] = []

    @agentkit.tool(effects="once", approve="ask")
    def save(n: int) -> str:
        saved.append(n)
        return "saved"

    rounds: list[tuple[Question, ...]] = []

    async def ask(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        rounds.append(questions)
        return tuple(Decision(verdict="approve") for _ in questions)

    session.asker = ask
    frame = pd.DataFrame({"n": range(6)})
    prompt = 'do save {"n": {{ row.n }}}\nsay done'
    result = run(build(server, tools=[save]), frame, prompt, workers=2)
    assert [len(questions) for questions in rounds] == [6]
    assert sorted(saved) == list(range(6))
    assert set(result.frame["status"]) == {"done"}


def test_rows_that_wait_for_a_person_are_told_where_nobody_is(server: Serving, session: Session) -> None:
    @agentkit.tool(effects="once", approve="ask")
    def save(n: int) -> str:
        raise AssertionError("nobody said yes")

    frame = pd.DataFrame({"n": range(3)})
    result = run(build(server, tools=[save]), frame, 'do save {"n": {{ row.n }}}\nsay done')
    assert list(result.frame["status"]) == ["waiting"] * 3
    assert "save" in result.frame["error"].iloc[0]
    assert len(result.waiting) == 3


def test_a_map_is_one_run_with_those_of_its_rows_inside(server: Serving, session: Session) -> None:
    def double(n: int) -> int:
        return 2 * n

    frame = pd.DataFrame({"n": range(4)})
    result = run(build(server, tools=[double]), frame, 'do double {"n": {{ row.n }}}\nsay done')
    (listed,) = session.runs(top=True)
    assert (listed.id, listed.rows, listed.status) == (result.run, 4, "done")
    assert sorted(one.row or 0 for one in session.runs(rows_of=result.run)) == [0, 1, 2, 3]
    assert [one.id for one in session.runs()] == [result.run]
    assert session.store.count() == 1
    assert session.totals(run=result.run).requests == 8


def test_nothing_is_recorded_in_mode_off(server: Serving, tmp_path: Path) -> None:
    with agentkit.session(folder=tmp_path, mode="off") as session:
        assert list(run(build(server), cities(3)).frame["status"]) == ["done"] * 3
        assert session.runs() == []


# ---- bad input, before anything is paid


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "Tell of {{ row.nam }}"}, "name"),
        ({"errors": "some"}, "keep, stop"),
        ({"errors": "500%"}, "keep, stop"),
        ({"workers": 0}, "workers"),
        ({"limit": 0}, "limit"),
        ({"sample": -1}, "sample"),
        ({"sample": 2, "limit": 2}, "one of them"),
        ({"key": "nam"}, "name"),
        ({"budget": "much"}, "much"),
        ({"out": "somewhere.xls"}, "parquet"),
        ({"rows": cities(0)}, "no rows"),
        ({"rows": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_paid(
    server: Serving, session: Session, options: dict[str, Any], words: str
) -> None:
    given = {"rows": cities(3), "prompt": "Tell of {{ row.name }}", **options}
    with pytest.raises(UserError) as refused:
        run(build(server), **given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert server.ledger() == []
    assert session.runs() == []


def test_a_field_that_is_called_as_a_column_of_the_map_is_refused(server: Serving, session: Session) -> None:
    class Parcel(BaseModel):
        status: str

    with pytest.raises(UserError, match="status"):
        run(build(server, output=Parcel), cities(3))


def test_without_a_session_it_is_said(server: Serving) -> None:
    with pytest.raises(UserError, match="no session is open"):
        run(build(server), cities(3))


def test_the_result_is_written_where_it_is_asked(server: Serving, session: Session, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    result = run(build(server), cities(4), out=out)
    read = pd.read_csv(out, index_col=0)
    assert list(read["answer"]) == list(result.frame["answer"])


def test_secrets_are_not_kept_beside_the_steps(
    server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "tok-9f8e7d6c5b4a3f2e1d")
    frame = pd.DataFrame({"name": ["tok-9f8e7d6c5b4a3f2e1d", "x"]})
    for _ in range(2):
        with agentkit.session(folder=tmp_path) as session:
            result = run(build(server), frame)
            assert "tok-9f8e7d6c5b4a3f2e1d" in result.frame["answer"].iloc[0]
    assert b"tok-9f8e7d6c5b4a3f2e1d" not in session.path.read_bytes()
    assert len(server.ledger()) == 2
