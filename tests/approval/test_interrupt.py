"""Calls that need a person: held back, asked once, decided from anywhere, and never asked again by a replay."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import AfterValidator, BaseModel
from pydantic_ai import Agent, DeferredToolRequests, ModelRetry, Tool
from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.usage import UsageLimits

import agentkit
from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision, Policy, Question
from agentkit.cli.main import main
from agentkit.errors import ApprovalPending, InDoubt, Stopped, UserError
from agentkit.events import Step
from agentkit.runtime.session import Session
from agentkit.testing import Call, ScriptedModel

Replies = Callable[[Question], Decision]


class World:
    """Tools that note what they did, and an agent whose model asks for `calls` and then reports."""

    def __init__(self, folder: Path, calls: Sequence[Call], **build: Any) -> None:
        self.folder = folder
        self.done: list[Any] = []
        self.asked: list[tuple[Question, ...]] = []
        self.requests = 0
        self._calls = calls
        self._build = build

    def model(self) -> ScriptedModel:
        def answer(messages: list[ModelMessage]) -> Any:
            self.requests += 1
            results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            return "; ".join(str(part.content) for part in results) if results else ["Because.", *self._calls]

        return ScriptedModel.by(answer)

    def agent(self, **more: Any) -> DurableAgent:
        done, broken = self.done, self.folder / "broken"

        @agentkit.tool(effects="once", approve="ask")
        def delete(ids: list[int]) -> str:
            """Delete rows."""
            if broken.exists():
                raise ConnectionError("the line went dead")
            done.append(ids)
            return f"deleted {ids}"

        @agentkit.tool(effects="none")
        def look(at: int) -> str:
            """Look at a row."""
            done.append(at)
            return f"row {at}"

        options = {"name": "cleaner", "tools": [delete, look], "model": self.model(), **self._build, **more}
        return agentkit.build(Spec.parse("You clean."), **options)

    def asker(self, reply: Replies) -> Callable[[tuple[Question, ...]], Awaitable[tuple[Decision, ...]]]:
        async def ask(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
            self.asked.append(questions)
            return tuple(reply(question) for question in questions)

        return ask

    def run(
        self,
        reply: Replies | None = None,
        *,
        policy: Policy | None = None,
        times: int = 1,
        build: Any = None,
        **run: Any,
    ) -> list[Answer]:
        async def work(agent: DurableAgent) -> list[Answer]:
            return [await agentkit.ask(agent, "Clean up.", **run) for _ in range(times)]

        with self.session() as session:
            session.policy = policy or session.policy
            session.asker = None if reply is None else self.asker(reply)
            return asyncio.run(work(self.agent(**(build or {}))))

    def session(self) -> Session:
        return agentkit.session("here", folder=self.folder)

    def questions(self) -> list[decisions.QuestionRecord]:
        with self.session() as session:
            return decisions.everything(session.store)


def approve(question: Question) -> Decision:
    return Decision(verdict="approve")


def kinds(answer: Answer) -> list[tuple[str, bool]]:
    return [(event.kind, event.replayed) for event in answer.events() if isinstance(event, Step)]


ONE = [Call("delete", {"ids": [1, 2]})]


def test_an_approved_call_is_made_and_a_replay_never_asks_again(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    (first,) = world.run(approve)
    (again,) = world.run(None)
    assert first.output == again.output == "deleted [1, 2]"
    assert (world.done, len(world.asked), world.requests) == ([[1, 2]], 1, 2)
    assert kinds(first) == [("model", False), ("approval", False), ("tool", False), ("model", False)]
    assert all(replayed for _, replayed in kinds(again))


def test_the_question_says_what_is_needed_to_decide(tmp_path: Path) -> None:
    world = World(tmp_path, [Call("look", {"at": 3}), *ONE])
    world.run(approve)
    ((question,),) = world.asked
    assert (question.tool, question.arguments, question.agent) == ("delete", {"ids": [1, 2]}, "cleaner")
    assert question.reason == "Because."
    assert question.before == ("look(at=3) → row 3",)
    assert question.schema["properties"]["ids"]["type"] == "array"


def test_edited_arguments_are_what_runs_and_both_are_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    (first,) = world.run(lambda question: Decision(verdict="edit", arguments={"ids": [9]}))
    (again,) = world.run(None)
    assert first.output == again.output == "deleted [9]"
    assert world.done == [[9]]
    (one,) = world.questions()
    assert one.question.arguments == {"ids": [1, 2]}
    assert one.decision is not None and one.decision.arguments == {"ids": [9]}


def test_a_denied_call_is_not_made_and_the_agent_is_told_why(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    for reply in (lambda question: Decision(verdict="deny", reason="keep them"), None):
        (answer,) = world.run(reply)
        assert answer.output == "This call was denied by the person: keep them. It was not made."
    assert world.done == []


def test_what_needs_nobody_is_done_before_the_question_and_several_are_one(tmp_path: Path) -> None:
    calls = [Call("delete", {"ids": [1]}), Call("look", {"at": 1}), Call("delete", {"ids": [2]})]
    world = World(tmp_path, calls)
    with pytest.raises(ApprovalPending, match="delete waits for a person: `agentkit approvals decide 3 4` in a shell"):
        world.run()
    assert world.done == [1]
    world.run(approve)
    assert [[question.arguments for question in asked] for asked in world.asked] == [[{"ids": [1]}, {"ids": [2]}]]
    # The two that were approved are done side by side.
    assert world.done[0] == 1 and sorted(world.done[1:]) == [[1], [2]]


def test_equal_calls_are_asked_each_for_itself(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.run(approve, times=2)
    assert (len(world.asked), world.done) == (2, [[1, 2], [1, 2]])
    world.run(None, times=2)
    assert (len(world.asked), world.done) == (2, [[1, 2], [1, 2]])
    # One more than is on record is a new call.
    with pytest.raises(ApprovalPending):
        world.run(None, times=3)


def test_a_decision_for_the_second_of_two_equal_runs_does_not_go_to_the_first(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.run(approve)
    with pytest.raises(ApprovalPending):
        world.run(None, times=2)
    waiting = [one for one in world.questions() if one.decision is None]
    assert len(waiting) == 1
    with world.session() as session:
        session.decide(waiting[0].question, Decision(verdict="deny", reason="once is enough"))
    first, second = world.run(None, times=2)
    assert (first.output, world.done) == ("deleted [1, 2]", [[1, 2]])
    assert "once is enough" in second.output


def test_a_changed_call_asks_and_fresh_asks_again(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.run(approve)
    World(tmp_path, [Call("delete", {"ids": [3]})])
    changed = World(tmp_path, [Call("delete", {"ids": [3]})])
    changed.run(approve, build={"model": ScriptedModel([changed._calls, "done"], model_name="other")})
    assert len(changed.asked) == 1


def test_a_tool_that_ran_before_it_needed_anybody_replays_without_a_question(tmp_path: Path) -> None:
    world = World(tmp_path, [Call("look", {"at": 1})])
    world.run(None)
    (again,) = world.run(None, policy=Policy(patterns=("look",)))
    assert (again.output, world.done, world.questions()) == ("row 1", [1], [])
    with pytest.raises(ApprovalPending):
        world.run(None, policy=Policy(patterns=("look",)), times=2)


@pytest.mark.parametrize(
    ("headless", "output"), [("allow", "deleted [1, 2]"), ("deny", "This call was denied by policy")]
)
def test_the_policy_decides_where_nobody_is(tmp_path: Path, headless: Any, output: str) -> None:
    world = World(tmp_path, ONE)
    (answer,) = world.run(None, headless=headless)
    assert answer.output.startswith(output)
    (one,) = world.questions()
    assert one.decision is not None and one.decision.by == "policy"


def test_the_policy_comes_from_the_option_the_session_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, ONE)
    monkeypatch.setenv("AGENTKIT_HEADLESS", "maybe")
    with pytest.raises(UserError, match="AGENTKIT_HEADLESS='maybe': one of suspend, deny, allow"):
        world.run(None)
    monkeypatch.setenv("AGENTKIT_HEADLESS", "allow")
    with pytest.raises(ApprovalPending):
        world.run(None, policy=Policy(headless="suspend"))
    (answer,) = world.run(None, policy=Policy(headless="suspend"), headless="deny")
    assert "denied" in answer.output


def test_what_stays_open_is_decided_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, ONE)
    with pytest.raises(ApprovalPending) as pending:
        world.run(None)
    (id_,) = pending.value.steps
    journal = ["--journal", str(tmp_path / ".agentkit")]
    assert main(["approvals", "ls", *journal]) == 0
    assert f'{id_}  cleaner wants to call delete: {{"ids": [1, 2]}} · waiting' in capsys.readouterr().out
    assert main(["approvals", "decide", id_, "--edit", '{"ids": "x"}', *journal]) == 1
    assert "these arguments do not fit delete: ids: 'x' is not an array" in capsys.readouterr().err
    assert main(["approvals", "decide", id_, "--edit", '{"ids": [5]}', *journal]) == 0
    assert "approved with changes" in capsys.readouterr().out
    assert main(["approvals", "decide", id_, *journal]) == 1
    assert "is decided already: approved with changes" in capsys.readouterr().err
    assert main(["approvals", "decide", "999", *journal]) == 1
    assert "no question 999: nothing waits for a decision" in capsys.readouterr().err
    (answer,) = world.run(None)
    assert (answer.output, world.done) == ("deleted [5]", [[5]])


def _even(ids: list[int]) -> list[int]:
    if any(number % 2 for number in ids):
        raise ValueError("only even ones")
    return ids


@agentkit.tool(effects="once", approve="ask")
def delete(ids: Annotated[list[int], AfterValidator(_even)]) -> str:
    """Delete rows."""
    return f"deleted {ids}"


def test_an_edit_made_elsewhere_that_the_tool_refuses_is_said_and_the_question_is_open_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, [Call("delete", {"ids": [2]})], tools=[delete])
    with pytest.raises(ApprovalPending) as pending:
        world.run(None)
    (id_,) = pending.value.steps
    decide = ["approvals", "decide", id_, "--journal", str(tmp_path / ".agentkit"), "--edit"]
    # A shell knows the schema of the tool, and not its validators.
    assert main([*decide, '{"ids": ["x"]}']) == 1
    assert "these arguments do not fit delete: ids[0]: 'x' is not an integer" in capsys.readouterr().err
    assert main([*decide, '{"ids": [7]}']) == 0
    for _ in range(2):
        with pytest.raises(ApprovalPending) as again:
            world.run(None)
        assert again.value.steps == (id_,)
    assert "delete waits for a person" in str(again.value)
    assert main([*decide, '{"ids": [7]}']) == 0
    said = (
        rf'question {id_} was approved with changes: {{"ids": \[7\]}} by you on the command line, but these arguments '
        rf"do not fit delete: ids: Value error, only even ones; it is open again: delete waits .* "
        rf"`agentkit approvals decide {id_}` "
    )
    with pytest.raises(ApprovalPending, match=said):
        world.run(None)
    assert main([*decide, '{"ids": [8]}']) == 0
    assert world.run(None)[0].output == "deleted [8]"


def test_always_holds_for_the_same_call_in_the_same_session_until_it_is_withdrawn(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.run(lambda question: Decision(verdict="approve", always=True))
    world.run(None, times=2)
    assert len(world.done) == 2
    with agentkit.session("elsewhere", folder=tmp_path), pytest.raises(ApprovalPending):
        asyncio.run(_thrice(world.agent()))
    with pytest.raises(ApprovalPending):
        world.run(None, build={"model": ScriptedModel([Call("delete", {"ids": [1, 2, 3]})], model_name="other")})
    standing = next(one for one in world.questions() if one.decision is not None and one.decision.always)
    with world.session() as session:
        session.store.withdraw(int(standing.id)).result()
        with pytest.raises(UserError, match="is no standing approval"):
            session.store.withdraw(int(standing.id)).result()
    with pytest.raises(ApprovalPending):
        world.run(None, times=3)
    world.run(None, times=2)


async def _thrice(agent: DurableAgent) -> None:
    for _ in range(3):
        await agentkit.ask(agent, "Clean up.")


def test_patterns_given_at_the_build_are_checked(tmp_path: Path) -> None:
    world = World(tmp_path, [Call("look", {"at": 1})], approve="look")
    with pytest.raises(ApprovalPending):
        world.run(None)
    with pytest.raises(UserError, match=r"approve='lok' names no tool of this agent \(did you mean look\?\)"):
        world.agent(approve="lok")


def test_an_agent_inside_a_tool_waits_too_and_the_outer_run_goes_on_after(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    boss = ScriptedModel.by(lambda messages: _delegated(messages))

    def go(reply: Replies | None) -> str:
        with world.session() as session:
            session.asker = None if reply is None else world.asker(reply)
            outer = agentkit.build(Spec.parse("You lead."), name="boss", tools=[world.agent()], model=boss)
            return str(asyncio.run(agentkit.ask(outer, "Go.")).output)

    with pytest.raises(ApprovalPending):
        go(None)
    assert go(approve) == go(None) == "deleted [1, 2]"
    assert (world.done, len(world.asked)) == ([[1, 2]], 1)


@pytest.mark.parametrize("in_session", [True, False])
def test_what_an_agent_was_built_to_ask_about_holds_for_the_agents_it_calls(tmp_path: Path, in_session: bool) -> None:
    world = World(tmp_path, [Call("look", {"at": 1})])
    model = ScriptedModel.by(_delegated)

    def boss(approve: str) -> DurableAgent:
        middle = agentkit.build(Spec.parse("You pass it on."), name="cleaner", tools=[world.agent()], model=model)
        return agentkit.build(Spec.parse("You lead."), name="boss", tools=[middle], model=model, approve=approve)

    with pytest.raises(UserError, match=r"approve='lok' names no tool of this agent \(did you mean look\?\)"):
        boss("lok")
    if in_session:
        with world.session(), pytest.raises(ApprovalPending, match="look waits for a person"):
            asyncio.run(boss("look").run("Go."))
    else:
        with pytest.raises(UserError, match="look needs an approval"):
            asyncio.run(boss("loo*").run("Go."))
    assert world.done == []
    with world.session():
        assert asyncio.run(world.agent().run("Clean up.")).output == "row 1"


@pytest.mark.parametrize(("at", "asked"), [(1, "rows below 5 are old"), (7, None), (0, "approve= raised ValueError")])
def test_a_tool_decides_for_itself_and_may_take_its_time(tmp_path: Path, at: int, asked: str | None) -> None:
    async def old(at: int) -> str | bool:
        await asyncio.sleep(0.01)
        if at == 0:
            raise ValueError("no such row")
        return "rows below 5 are old" if at < 5 else False

    @agentkit.tool(effects="none", approve=old)
    def peek(at: int) -> str:
        """Look at a row."""
        return f"row {at}"

    world = World(tmp_path, [Call("peek", {"at": at})], tools=[peek])
    (answer,) = world.run(approve)
    assert answer.output == f"row {at}"
    said = [question.text for questions in world.asked for question in questions]
    assert [text.partition(":")[0] for text in said] == ([] if asked is None else [asked])


def _delegated(messages: list[ModelMessage]) -> Any:
    last = messages[-1].parts[-1]
    return str(last.content) if isinstance(last, ToolReturnPart) else Call("cleaner", {"prompt": "Clean up."})


def test_a_tool_that_pydantic_ai_itself_holds_back_is_asked_about(tmp_path: Path) -> None:
    ran = []

    def drop(table: str) -> str:
        """Drop a table."""
        ran.append(table)
        return "dropped"

    model = ScriptedModel.by(lambda messages: _once(messages, Call("drop", {"table": "t"})))
    asked: list[str] = []

    async def ask(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        asked.extend(question.tool for question in questions)
        return tuple(map(approve, questions))

    with agentkit.session("here", folder=tmp_path) as session:
        session.asker = ask
        agent = durable(Agent(model, name="adopted", tools=[Tool(drop, requires_approval=True)]))
        assert asyncio.run(agent.run("go")).output == "dropped"
        left = Agent(
            model, name="left", tools=[Tool(drop, requires_approval=True)], output_type=[str, DeferredToolRequests]
        )
        assert isinstance(asyncio.run(durable(left).run("go")).output, DeferredToolRequests)
    assert (ran, asked) == (["t"], ["drop"])


def _once(messages: list[ModelMessage], call: Call) -> Any:
    last = messages[-1].parts[-1]
    return str(last.content) if isinstance(last, ToolReturnPart) else call


def test_outside_a_session_a_call_that_needs_a_person_is_not_made(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    with pytest.raises(UserError, match="delete needs an approval, and nothing is recorded here"):
        asyncio.run(world.agent().run("Clean up."))
    with pytest.raises(UserError, match="delete needs an approval"):
        world.run(approve, mode="off")
    with pytest.raises(UserError, match="look needs an approval"):
        asyncio.run(World(tmp_path, [Call("look", {"at": 1})]).agent(approve="look").run("Clean up."))
    assert world.done == []


# ---- questions of the agent


@pytest.mark.parametrize(
    ("args", "answer", "output"),
    [
        ({"question": "Which year?", "kind": "number"}, "2024", "2024"),
        ({"question": "Sure?", "kind": "yes_no"}, "no", "False"),
        ({"question": "Which?", "kind": "choice", "choices": ["a", "b"]}, "b", "b"),
        ({"question": "Which?", "choices": ["a", "b"]}, "a", "a"),
        ({"question": "Why?"}, "so", "so"),
    ],
)
def test_an_agent_asks_and_gets_the_answer(tmp_path: Path, args: dict[str, Any], answer: str, output: str) -> None:
    world = World(tmp_path, [Call("ask_user", args)], ask=True)
    (first,) = world.run(lambda question: Decision(verdict="answer", answer=answer))
    (again,) = world.run(None)
    assert first.output == again.output == output
    assert [kind for kind, _ in kinds(first)] == ["model", "question", "model"]


def test_a_question_is_stopped_at_and_left_open_where_nobody_is(tmp_path: Path) -> None:
    world = World(tmp_path, [Call("ask_user", {"question": "Why?"})], ask=True)
    with pytest.raises(ApprovalPending):
        world.run(None, headless="allow")
    with pytest.raises(Stopped, match=r"^you said stop at the question: Why\?"):
        world.run(lambda question: Decision(verdict="stop"))


# ---- steps in doubt


@pytest.mark.parametrize(
    ("decision", "output", "done"),
    [
        (Decision(verdict="redo"), "deleted [1, 2]", 1),
        (Decision(verdict="result", answer="it was done"), "it was done", 0),
    ],
)
def test_a_step_in_doubt_is_settled_by_the_same_question(
    tmp_path: Path, decision: Decision, output: str, done: int
) -> None:
    world = World(tmp_path, ONE)
    _leave_in_doubt(world)
    with pytest.raises(InDoubt):
        world.run(None)
    (first,) = world.run(lambda question: decision)
    (again,) = world.run(None)
    assert first.output == again.output == output
    assert [question.kind for asked in world.asked for question in asked] == ["doubt"]
    assert len(world.done) == done


def test_a_step_in_doubt_that_is_stopped_stays_stopped(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    _leave_in_doubt(world)
    for _ in range(2):
        with pytest.raises(InDoubt, match="was settled as stop"):
            world.run(lambda question: Decision(verdict="stop"))
    assert (len(world.asked), world.done) == (1, [])


def _leave_in_doubt(world: World) -> None:
    """The call is approved, begins, and breaks where nobody knows what came of it."""

    (world.folder / "broken").touch()
    with pytest.raises(ConnectionError):
        world.run(None, headless="allow")
    (world.folder / "broken").unlink()


# ---- bailing out


class Score(BaseModel):
    points: int


def _stuck(tmp_path: Path, *, output: Any = None) -> tuple[Callable[..., Any], list[int]]:
    requests: list[int] = []

    @agentkit.tool(effects="none")
    def look(at: int) -> str:
        """Look."""
        if at < 5:
            raise ModelRetry(f"{at} is too small")
        return f"found {at}"

    def answer(messages: list[ModelMessage]) -> Any:
        requests.append(len(messages))
        last = messages[-1].parts[-1]
        if isinstance(last, UserPromptPart) and "seven" in str(last.content):
            return Call("look", {"at": 7})
        if isinstance(last, ToolReturnPart) and last.outcome == "success":
            return str(last.content)
        return Call("look", {"at": len(messages)})

    def run(asker: Any, **options: Any) -> Any:
        with agentkit.session("here", folder=tmp_path) as session:
            session.asker = asker
            agent = agentkit.build(
                Spec.parse("Look."), name="looker", tools=[look], model=ScriptedModel.by(answer), output=output
            )
            return asyncio.run(agent.run("Look at it.", **options)).output

    return run, requests


def test_an_agent_that_used_up_its_retries_goes_on_with_a_hint(tmp_path: Path) -> None:
    run, requests = _stuck(tmp_path)
    asked: list[Question] = []

    async def hint(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        asked.extend(questions)
        return (Decision(verdict="hint", reason="try seven"),)

    assert run(hint) == run(hint) == "found 7"
    assert (len(asked), len(requests)) == (1, 4)
    assert asked[0].before == ('look({"at":1}): 1 is too small', 'look({"at":3}): the last attempt')
    assert "exceeded max retries" in asked[0].text


def test_an_answer_given_by_hand_must_be_of_the_agents_kind(tmp_path: Path) -> None:
    run, _ = _stuck(tmp_path, output=Score)
    given = [{"points": "many"}, {"points": 3}]

    async def answer(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        return (Decision(verdict="answer", answer=given.pop(0)),)

    with pytest.raises(UserError, match="this cannot be the answer: points: "):
        run(answer)
    assert run(answer) == Score(points=3)


def test_a_raised_limit_replays_what_was_done_and_goes_on(tmp_path: Path) -> None:
    run, requests = _stuck(tmp_path)

    async def decide(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        (question,) = questions
        return (Decision(verdict="raise") if question.default else Decision(verdict="answer", answer="enough"),)

    assert run(decide, usage_limits=UsageLimits(request_limit=1)) == "enough"
    assert len(requests) == 2


def test_an_answer_made_elsewhere_must_be_of_the_agents_kind_too(tmp_path: Path) -> None:
    run, _ = _stuck(tmp_path, output=Score)

    async def nobody(questions: tuple[Question, ...]) -> None:
        return None

    given: list[Any] = [{"points": "many"}, {"points": 3}]
    for answer in given:
        with pytest.raises(ApprovalPending):
            run(nobody)
        with agentkit.session("here", folder=tmp_path) as session:
            (waiting,) = decisions.everything(session.store)
            session.decide(waiting.question, Decision(verdict="answer", answer=answer))
        if answer == given[0]:
            with pytest.raises(ApprovalPending, match=r"this cannot be the answer: points: .*; it is open again"):
                run(nobody)
    assert run(nobody) == Score(points=3)


def test_nobody_there_the_error_stays_what_it_is(tmp_path: Path) -> None:
    run, _ = _stuck(tmp_path)
    with pytest.raises(Exception, match="exceeded max retries count"):
        run(None)


# ---- whatever happens in between


class Deciding(RuleBasedStateMachine):
    """Runs that end at the gate, decisions from anywhere, restarts: each approved call is made once, others never."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        calls = [Call("delete", {"ids": [1]}), Call("delete", {"ids": [2]}), Call("look", {"at": 1})]
        self.world = World(Path(self._temporary.name), calls)
        self.decisions: dict[str, Decision] = {}
        self.finished = False

    def teardown(self) -> None:
        self._temporary.cleanup()

    @rule()
    def run_again(self) -> None:
        if len(self.decisions) == 2:
            (answer,) = self.world.run(None)
            self.finished = True
            assert answer.output.count(";") == 2
        else:
            with pytest.raises(ApprovalPending):
                self.world.run(None)

    @rule(yes=st.booleans(), edited=st.booleans())
    def decide(self, yes: bool, edited: bool) -> None:
        waiting = [one for one in self.world.questions() if one.decision is None]
        if not waiting:
            return
        verdict: Any = ("edit" if edited else "approve") if yes else "deny"
        changed = {"ids": [9, *waiting[0].question.arguments["ids"]]} if verdict == "edit" else None
        decision = Decision(verdict=verdict, arguments=changed)
        with self.world.session() as session:
            session.decide(waiting[0].question, decision)
        self.decisions[str(waiting[0].question.arguments)] = decision

    @rule()
    def decide_again_changes_nothing(self) -> None:
        done = [one for one in self.world.questions() if one.decision is not None]
        for one in done:
            with self.world.session() as session:
                assert session.decide(one.question, Decision(verdict="deny")) == one.decision

    @invariant()
    def each_call_was_made_as_decided_and_once(self) -> None:
        made = [ids for ids in self.world.done if isinstance(ids, list)]
        allowed = [
            decision.arguments["ids"] if decision.verdict == "edit" else ids
            for ids in ([1], [2])
            if (decision := self.decisions.get(str({"ids": ids}))) is not None and decision.verdict != "deny"
        ]
        assert all(made.count(ids) <= 1 and ids in allowed for ids in made)
        assert not self.finished or sorted(made) == sorted(allowed)


Deciding.TestCase.settings = settings(max_examples=15, stateful_step_count=8, deadline=None)
TestDeciding = Deciding.TestCase
