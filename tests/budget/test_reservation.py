"""Runs and their budgets: stopped before the step that would pass a limit, and resumed paying only what is left."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ToolReturnPart

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.approval import decisions as decided
from agentkit.approval.policy import Decision, Question
from agentkit.budget import admin
from agentkit.budget.budget import USER, Amounts
from agentkit.budget.estimate import estimate
from agentkit.budget.ledger import Ledger, ledger
from agentkit.budget.reservation import budgets_of
from agentkit.debugger.opening import step
from agentkit.errors import ApprovalPending, BudgetAsks, BudgetExceeded, UserError
from agentkit.events import Event, Step
from agentkit.models import resolve
from agentkit.models.fallback import FallbackChain, Link, Member
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, ScriptedModel
from agentkit.trace.budget_bars import of_trace
from agentkit.trace.trace import Trace


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Ledger]:
    path = tmp_path / "budgets.db"
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(path))
    return lambda: ledger(path)


def lookup(place: str) -> str:
    """Look a place up."""
    return f"{place} is known"


def rule(calls: int) -> Callable[[list[ModelMessage]], Any]:
    def answer(messages: list[ModelMessage]) -> Any:
        seen = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
        return [f"Looking at {seen}.", Call("lookup", {"place": str(seen)})] if seen < calls else "all seen"

    return answer


def guide(model: Any, name: str = "guide", *, tools: Any = (lookup,), **options: Any) -> DurableAgent:
    return build(Spec(instructions="Look."), name=name, tools=tools, model=model, **options)


def priced(calls: int = 3, cost: float | None = 0.1, **options: Any) -> ScriptedModel:
    return ScriptedModel.by(rule(calls), cost=cost, **options)


def run(folder: Path, agent: Callable[[], DurableAgent], prompt: str = "go", **more: Any) -> Answer:
    with opened(folder, **more):
        return asyncio.run(ask(agent(), prompt))


def opened(folder: Path, **more: Any) -> Session:
    made = session("report", folder=folder)
    made.asker = more.get("asker")
    if "heard" in more:
        made.listen(more["heard"].append)
    return made


# ---- stop and resume


def test_a_run_stops_before_it_passes_its_limit_and_resumes_when_it_is_raised(tmp_path: Path) -> None:
    model = priced()
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=r"guide stopped at its budget, 0.25usd per run: 0.20usd used") as stop:
            run(tmp_path, lambda: guide(model, budget="0.25usd"))
        assert "raise it with `agentkit budget guide 0.50usd/run` and run again" in str(stop.value)
        assert len(model.requests) == 2
    answer = run(tmp_path, lambda: guide(model, budget="0.50usd"))
    assert answer.output == "all seen"
    assert len(model.requests) == 4
    assert [step.replayed for step in steps(answer) if step.kind == "model"] == [True, True, False, False]


def test_a_limit_raised_by_the_person_holds_until_the_next_build(tmp_path: Path) -> None:
    model = priced()
    with opened(tmp_path) as kept:
        agent = guide(model, budget="0.25usd")
        with pytest.raises(BudgetExceeded):
            asyncio.run(ask(agent, "go"))
        budgets = budgets_of(kept)
        admin.change(budgets.node("guide"), "1usd", option="budget", at_limit=None)
        kept.start_cell()
        assert asyncio.run(ask(agent, "go")).output == "all seen"


def steps(answer: Answer) -> list[Step]:
    return [event for event in answer.events() if isinstance(event, Step)]


def test_replayed_steps_reserve_and_spend_nothing(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    run(tmp_path, lambda: guide(priced(), budget="1usd"))
    assert book().spending(USER) == Amounts(usd=400_000_000, tokens=book().spending(USER).tokens, requests=4)
    silent = ScriptedModel()
    assert run(tmp_path, lambda: guide(silent, budget="0.000001usd")).output == "all seen"
    assert book().spending(USER).requests == 4
    assert book().under_way() == 0


def test_without_any_budget_nothing_is_written(tmp_path: Path) -> None:
    run(tmp_path, lambda: guide(priced()))
    assert not (tmp_path / "budgets.db").exists()


@pytest.mark.parametrize(
    ("budget", "performed"), [("2 requests", 2), ("300 tokens", 0), ("60min, 3 requests/cell", 3), ("5 requests", 4)]
)
def test_requests_tokens_and_time_are_limited_too(tmp_path: Path, budget: str, performed: int) -> None:
    model = priced()
    try:
        run(tmp_path, lambda: guide(model, budget=budget))
    except BudgetExceeded:
        assert performed < 4
    assert len(model.requests) == performed


def test_wall_time_stops_a_run(tmp_path: Path) -> None:
    model = priced(delay=0.15)
    with pytest.raises(BudgetExceeded, match=r"0.2s per run"):
        run(tmp_path, lambda: guide(model, budget="0.2s"))
    assert 1 <= len(model.requests) <= 2


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 3e7, -3e7])
def test_a_clock_that_jumps_gives_a_run_no_more_time_and_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real, calls = time.time, []

    def lookup(place: str) -> str:
        """Look a place up, while somebody sets the clock."""
        calls.append(place)
        monkeypatch.setattr(time, "time", lambda: real() + jump * (len(calls) % 2))
        return f"{place} is known"

    short = priced(delay=0.15)
    with pytest.raises(BudgetExceeded, match=r"0.4s per run: 0\.[4-9]"):
        run(tmp_path / "short", lambda: guide(short, tools=[lookup], budget="0.4s"))
    assert 1 <= len(short.requests) <= 3
    calls.clear()
    long = priced()
    answer = run(tmp_path / "long", lambda: guide(long, tools=[lookup], budget="10min, 30min/cell, 4 requests"))
    assert answer.output == "all seen" and len(long.requests) == 4
    # What was counted before the jump counts after it.
    calls.clear()
    third = priced(calls=5)
    with pytest.raises(BudgetExceeded, match="4 requests per run"):
        run(tmp_path / "third", lambda: guide(third, tools=[lookup], budget="10min, 4 requests"))
    assert len(third.requests) == 4


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_what_was_typed_after_a_jump_of_the_clock_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real = time.time
    with opened(tmp_path) as kept:
        helper = guide(ScriptedModel(["found", "found"], cost=0.1), name="helper", tools=[], budget="1usd")
        boss = guide(ScriptedModel.by(_boss, cost=0.1), name="boss", tools=[helper])
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        admin.change(budgets_of(kept).node("boss", "helper"), "0.05usd/run", option="budget", at_limit=None)
        with pytest.raises(BudgetExceeded, match=r"0\.05usd per run"):
            asyncio.run(ask(boss, "go"))


def _boss(messages: list[ModelMessage]) -> Any:
    seen = any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    return "done" if seen else Call("helper", {"prompt": "where"})


def test_max_tokens_bounds_what_is_reserved(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    model = ScriptedModel(["word " * 10])
    agent = build(
        Spec(instructions="", fields={"model_settings": {"max_tokens": 40}}), name="guide", model=model,
        budget="100 tokens",
    )  # fmt: skip
    with session("report", folder=tmp_path):
        assert asyncio.run(ask(agent, "go")).output.startswith("word")
        wide = build(Spec(instructions=""), name="wide", model=ScriptedModel(["x"]), budget="100 tokens")
        with pytest.raises(BudgetExceeded):
            asyncio.run(ask(wide, "go on"))


def test_an_unknown_price_under_a_limit_of_money_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    model = priced(cost=None)
    with pytest.raises(BudgetExceeded, match=r"scripted:scripted has no known price") as refused:
        run(tmp_path, lambda: guide(model, budget="1usd"))
    assert "budget='20k tokens'" in str(refused.value) and "`agentkit budget guide off`" in str(refused.value)
    assert model.requests == []
    assert run(tmp_path, lambda: guide(model, budget="20k tokens")).output == "all seen"


def test_a_reply_that_fails_gives_back_what_was_set_aside(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    with pytest.raises(RuntimeError, match="gone"):
        run(tmp_path, lambda: guide(ScriptedModel([RuntimeError("gone")], cost=0.1), budget="1usd"))
    assert book().under_way() == 0
    assert book().spending(USER).requests == 0


def test_a_run_that_is_stopped_under_way_leaves_nothing_set_aside(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    async def main() -> None:
        task = asyncio.create_task(ask(guide(priced(delay=5), budget="1usd"), "go"))
        await asyncio.sleep(0.4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with opened(tmp_path):
        asyncio.run(main())
    assert book().under_way() == 0
    # It was sent, and may have to be paid.
    assert book().spending(USER).requests == 1


# ---- the tree


def test_a_sub_agent_spends_the_allowance_of_its_agent(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    inner = priced(5)
    outer = ScriptedModel([Call("helper", {"prompt": "help"}), "done"], cost=0.1)

    def built() -> DurableAgent:
        helper = guide(inner, "helper", budget="10usd")
        return guide(outer, "guide", tools=(helper,), budget="10usd")

    run(tmp_path, built)
    with opened(tmp_path) as kept:
        budgets = budgets_of(kept)
        top = budgets.node("guide")
        assert book().spending(top).requests == 8
        assert book().spending(budgets.node("guide", "helper")).requests == 6
        assert book().spending(budgets.node("helper")).requests == 0


def test_a_sub_agent_stops_at_the_limit_of_its_agent(tmp_path: Path) -> None:
    inner = priced(5)
    outer = ScriptedModel.by(_asks_helper, cost=0.1)

    def built(limit: str) -> DurableAgent:
        helper = guide(inner, "helper")
        return guide(outer, "guide", tools=(helper,), budget=limit)

    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=r"helper stopped at the budget of guide, 0.40usd per run: 0.40usd"):
            run(tmp_path, lambda: built("0.40usd"))
        assert len(inner.requests) == 3
    assert run(tmp_path, lambda: built("2usd")).output == "helped"
    assert len(inner.requests) == 6 and len(outer.requests) == 2


def _asks_helper(messages: list[ModelMessage]) -> Any:
    parts = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    return "helped" if parts else Call("helper", {"prompt": "help"})


def test_a_child_with_more_than_its_parent_is_refused_at_build(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        budgets = budgets_of(kept)
        admin.change(budgets.node(), "1usd/total", option="budget", at_limit=None)
        with pytest.raises(UserError, match=r"guide: 2.00usd per run is more than the notebook allows"):
            guide(priced(), budget="2usd")


def test_gathered_runs_share_a_limit_and_pass_it_by_nothing(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    model = ScriptedModel.by(lambda messages: "yes", cost=0.1, delay=0.05)

    async def main(agent: DurableAgent) -> list[Any]:
        return await asyncio.gather(*(ask(agent, f"q{n}") for n in range(12)), return_exceptions=True)

    with opened(tmp_path) as kept:
        budgets = budgets_of(kept)
        admin.change(budgets.node(), "0.75usd/total", option="budget", at_limit=None)
        results = asyncio.run(main(guide(model)))
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 5
    assert len(model.requests) == 7
    assert book().spending(USER).usd == 700_000_000


def test_the_loop_goes_on_while_another_process_holds_the_file(tmp_path: Path, book: Callable[[], Ledger]) -> None:
    run(tmp_path, lambda: guide(priced(1), budget="9usd"))
    other = book().path
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    locked = threading.Event()

    def hold() -> None:
        with sqlite3.connect(other, isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
            locked.set()
            time.sleep(0.8)
            db.execute("COMMIT")

    with opened(tmp_path):
        agent = guide(priced(2), budget="9usd")
        thread = threading.Thread(target=hold)
        thread.start()
        locked.wait()

        async def held_up() -> None:
            pulse = asyncio.create_task(beat())
            await ask(agent, "another")
            pulse.cancel()

        asyncio.run(held_up())
        thread.join()
    assert max(after - before for before, after in pairwise(beats)) < 0.3


# ---- at a limit


def answering(*decisions: Decision) -> tuple[list[Question], Callable[..., Awaitable[Any]]]:
    asked: list[Question] = []
    left = list(decisions)

    async def asker(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        asked.extend(questions)
        return tuple(replace(left.pop(0), at=time.time()) for _ in questions)

    return asked, asker


def test_a_person_may_raise_it_and_the_run_goes_on(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="raise"), Decision(verdict="raise", answer="0.45usd"))
    model = priced()
    assert run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=asker).output == "all seen"
    first, second = asked
    assert first.default == "0.30usd/run" and "0.15usd per run" in first.text
    assert "0.30usd per run" in second.text
    # What was decided is on record: nobody is asked again, though the build says the old limit.
    asked.clear()
    silent = ScriptedModel()
    assert run(tmp_path, lambda: guide(silent, budget="0.15usd"), asker=asker).output == "all seen"
    assert asked == []


@pytest.mark.parametrize("walk", [False, True], ids=["passed over", "walked"])
def test_a_replayed_raise_is_in_the_bars_too(tmp_path: Path, walk: bool) -> None:
    _, asker = answering(Decision(verdict="raise"), Decision(verdict="raise", answer="0.45usd"))
    first = run(tmp_path, lambda: guide(priced(), budget="0.15usd"), asker=asker)
    assert _bars(first) == ["0.40usd of 0.45usd per run, raised from 0.15usd"]

    def again(budget: str) -> Answer:
        with opened(tmp_path):
            return asyncio.run(ask(guide(ScriptedModel(), budget=budget), "go", walk=walk))

    assert _bars(again("0.15usd")) == ["0.40usd of 0.45usd per run, raised from 0.15usd"]
    # Neither of these limits was raised.
    assert _bars(again("0.20usd")) == ["0.40usd of 0.20usd per run"]
    assert _bars(again("1usd")) == ["0.40usd of 1.00usd per run"]


def _bars(answer: Answer) -> list[str]:
    return [line.said for line in of_trace(Trace.of(answer.events()))]


def test_nobody_but_a_person_raises_it_again(tmp_path: Path) -> None:
    """Where the step after the raise was lost, the same limit is met again at the same place."""
    asked, asker = answering(Decision(verdict="raise"), Decision(verdict="raise"))
    failing = ScriptedModel([Call("lookup", {"place": "0"}), RuntimeError("gone")], cost=0.1)
    with pytest.raises(RuntimeError):
        run(tmp_path, lambda: guide(failing, budget="0.15usd"), asker=asker)
    rest = ScriptedModel(["done"], cost=0.1)
    assert run(tmp_path, lambda: guide(rest, budget="0.15usd"), asker=asker).output == "done"
    assert len(asked) == 2


def test_a_limit_that_was_put_back_after_a_raise_is_not_raised_again_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raise was decided while the clock was ahead: by the times alone it is newer than what was typed since."""
    real, ahead = time.time, [24 * 3600.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])

    async def gone(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        raise ApprovalPending(steps=[question.id for question in questions], asked="budget")

    model = priced()
    with pytest.raises(BudgetAsks) as waits:
        run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=gone)
    with opened(tmp_path) as kept:
        question = decided.find(kept.store, waits.value.steps[0]).question
        kept.decide(question, Decision(verdict="raise", answer="1usd", at=time.time()))
        ahead[0] = 0.0
        for limits in ("1usd", "0.15usd"):
            admin.change(budgets_of(kept).node("guide"), limits, option="budget", at_limit=None)
    asked, asker = answering(Decision(verdict="raise", answer="2usd"))
    assert run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=asker).output == "all seen"
    assert len(asked) == 1


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_what_is_decided_after_a_jump_of_the_clock_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    async def gone(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        raise ApprovalPending(steps=[question.id for question in questions], asked="budget")

    real, model = time.time, priced()
    with pytest.raises(BudgetAsks) as waits:
        run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=gone)
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    with opened(tmp_path) as kept:
        question = decided.find(kept.store, waits.value.steps[0]).question
        kept.decide(question, Decision(verdict="raise", answer="1usd", at=time.time()))
    assert run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=gone).output == "all seen"


def test_a_raise_that_is_not_enough_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    problems: list[str] = []

    async def asker(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        with opened(tmp_path) as other:
            for answer in ("0.151usd", "lots", "20k tokens"):
                with pytest.raises(UserError) as refused:
                    other.decide(questions[0], Decision(verdict="raise", answer=answer))
                problems.append(str(refused.value))
        return (Decision(verdict="stop"),)

    with pytest.raises(BudgetExceeded):
        run(tmp_path, lambda: guide(priced(), budget="0.15usd"), asker=asker)
    assert "is not enough for the next request, 0.20usd would be" in problems[0]
    assert "cannot be read" in problems[1] and "say how many usd per run" in problems[2]


def test_a_person_may_finish_with_what_there_is(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="finish"))
    for _ in range(2):
        answer = run(tmp_path, lambda: guide(priced(), budget="0.25usd"), asker=asker)
        assert answer.output.startswith("Looking at 0.\n\nLooking at 1.")
        assert "Finished at a budget" in answer.output
    assert len(asked) == 1


class Found(BaseModel):
    """What was found."""

    place: str


def test_an_agent_that_owes_a_form_cannot_be_finished(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="stop"))
    with pytest.raises(BudgetExceeded):
        run(tmp_path, lambda: guide(priced(), budget="0.05usd", output=Found), asker=asker)
    assert asked[0].choices == ()


def test_stopped_by_a_person_it_asks_again_at_the_next_run(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="stop"), Decision(verdict="raise", answer="9usd"))
    model = priced()
    with pytest.raises(BudgetExceeded):
        run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=asker)
    assert run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=asker).output == "all seen"
    assert len(asked) == 2 and len(model.requests) == 4


def test_where_the_person_cannot_click_the_question_stays_open(tmp_path: Path) -> None:
    async def gone(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        raise ApprovalPending(steps=[question.id for question in questions], asked="budget")

    model = priced()
    with pytest.raises(BudgetAsks, match=r"guide reached the budget of guide \(0.15usd per run\)") as waits:
        run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=gone)
    assert issubclass(BudgetAsks, BudgetExceeded)
    with opened(tmp_path) as kept:
        question = decided.find(kept.store, waits.value.steps[0]).question
        kept.decide(question, Decision(verdict="raise", answer="1usd", at=time.time()))
    assert run(tmp_path, lambda: guide(model, budget="0.15usd"), asker=gone).output == "all seen"


def test_stop_asks_nobody(tmp_path: Path) -> None:
    asked, asker = answering()
    with pytest.raises(BudgetExceeded):
        run(tmp_path, lambda: guide(priced(), budget="0.15usd", at_limit="stop"), asker=asker)
    assert asked == []


def test_gathered_runs_ask_once(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="raise", answer="5usd/total"))
    model = ScriptedModel.by(lambda messages: "yes", cost=0.1)

    async def main(agent: DurableAgent) -> list[Any]:
        return await asyncio.gather(*(ask(agent, f"q{n}") for n in range(6)))

    with opened(tmp_path, asker=asker) as kept:
        budgets = budgets_of(kept)
        admin.change(budgets.node(), "0.15usd/total", option="budget", at_limit=None)
        assert len(asyncio.run(main(guide(model)))) == 6
    assert len(asked) == 1


def test_gathered_runs_that_are_stopped_ask_once(tmp_path: Path) -> None:
    asked, asker = answering(Decision(verdict="stop"))
    model = ScriptedModel.by(lambda messages: "yes", cost=0.1)

    async def main(agent: DurableAgent) -> list[Any]:
        return await asyncio.gather(*(ask(agent, f"q{n}") for n in range(6)), return_exceptions=True)

    with opened(tmp_path, asker=asker) as kept:
        admin.change(budgets_of(kept).node(), "0.15usd/total", option="budget", at_limit=None)
        results = asyncio.run(main(guide(model)))
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 5
    assert len(asked) == 1
    with opened(tmp_path) as kept:
        assert decided.everything(kept.store) == []


def test_tokens_per_minute_are_waited_for_and_the_wait_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("agentkit.budget.ledger._MINUTE", 2)
    heard: list[Event] = []
    model = ScriptedModel.by(lambda messages: "yes")
    agent = Spec(instructions="", fields={"model_settings": {"max_tokens": 30}})

    async def main() -> None:
        built = build(agent, name="guide", model=model, budget="100 tpm")
        await ask(built, "x " * 60)
        await ask(built, "y " * 60)
        await ask(built, "z " * 60)

    begun = time.monotonic()
    with opened(tmp_path, heard=heard):
        asyncio.run(main())
    assert time.monotonic() - begun > 1
    waits = [event for event in heard if isinstance(event, Step) and event.waiting]
    assert waits and waits[0].waiting == "100 tokens per minute of guide"
    assert waits[0].until is not None and waits[0].until > time.time() - 60
    assert len(model.requests) == 3


def test_a_request_that_can_never_fit_into_a_minute_stops(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match="tokens per minute"):
        run(tmp_path, lambda: guide(priced(), budget="100 tpm"))


def test_a_fallback_goes_on_with_a_cheaper_member(tmp_path: Path) -> None:
    dear, cheap = priced(cost=0.2, model_name="dear"), priced(cost=0.01, model_name="cheap")
    chain = _chain(dear, cheap)
    answer = run(tmp_path, lambda: guide(chain, budget="0.5usd", at_limit="fallback"))
    assert answer.output == "all seen"
    assert (len(dear.requests), len(cheap.requests)) == (2, 2)


def _chain(*members: ScriptedModel) -> Any:
    return FallbackChain(
        *(Member(one, link=Link(name=one.model_name), identity=resolve.identity(one)) for one in members)
    )


# ---- estimates


def test_an_estimate_comes_from_recorded_runs_and_says_how(tmp_path: Path) -> None:
    run(tmp_path, lambda: guide(priced(1)), prompt="go 1")
    for _ in range(2):
        run(tmp_path, lambda: guide(priced(3)), prompt="go 3")
    with opened(tmp_path) as kept:
        found = estimate(kept, guide(priced()))
        assert found.cost is not None
        assert [round(found.cost.least, 6), round(found.cost.most, 6)] == [0.2, 0.4]
        assert found.runs == 2 and "1 that only replayed the same steps left out" in found.description
        longer = estimate(kept, guide(priced()), "go " * 400)
        assert longer.tokens is not None and found.tokens is not None and longer.tokens.least > found.tokens.most
        assert "tokens longer than theirs" in longer.description
        assert "replays and costs nothing" in estimate(kept, guide(priced()), "go 3").description


def test_without_recorded_runs_there_is_no_estimate(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        found = estimate(kept, guide(priced()))
        assert found.cost is None and "no finished run of guide is recorded yet" in found.description


def test_the_stepper_tells_the_price_of_a_first_step_from_recorded_runs(tmp_path: Path) -> None:
    run(tmp_path, lambda: guide(priced(2)), prompt="before")

    async def main(agent: DurableAgent) -> Any:
        stepped = await step(agent, "again")
        expected = stepped.forecast
        await stepped.stop()
        return expected

    with opened(tmp_path):
        expected = asyncio.run(main(guide(priced(2))))
    assert expected is not None and expected.output_tokens is not None
    assert expected.how == "as 3 answers of recorded runs of guide"
    assert (expected.least, expected.most) == (0.1, 0.1)
