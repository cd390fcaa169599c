"""Scopes, fallback chains, secrets: who may reuse a step, and under which key it is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.models.fallback import FallbackModel

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import SecretMissing, UserError
from agentkit.events import Scope, Step
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from agentkit.tools.declaration import declaration, tool
from tests.journal.tokens import HIDDEN, SECRETS, WITHIN

PAID: list[str] = []


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PAID.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def agent(model: Any, *tools: Any, share: Scope | None = None, ttl: float | str | None = None) -> DurableAgent:
    return build(Spec(instructions="Go."), name="agent", tools=tools, model=model, share=share, ttl=ttl)


def run(folder: Path, asked: DurableAgent, prompt: str = "go", **options: Any) -> tuple[Any, list[Step]]:
    with session(folder=folder):
        answer = asyncio.run(ask(asked, prompt, **options))
        return answer.output, [event for event in answer.events() if isinstance(event, Step)]


def test_a_shared_tool_is_reused_by_another_prompt_of_the_project(tmp_path: Path) -> None:
    @tool(effects="none", share="project")
    def fetch(url: str) -> str:
        """Fetch a page."""
        PAID.append(url)
        return f"<{url}>"

    run(tmp_path, agent(ScriptedModel([Call("fetch", {"url": "a"}), "one"]), fetch), "first")
    _, steps = run(tmp_path, agent(ScriptedModel([Call("fetch", {"url": "a"}), "two"]), fetch), "second")
    assert PAID == ["a"]
    assert [(step.kind, step.replayed) for step in steps] == [("model", False), ("tool", True), ("model", False)]
    answer, again = run(tmp_path, agent(ScriptedModel([]), fetch), "second")
    assert answer == "two"
    assert all(step.replayed for step in again)


def test_equal_shared_calls_at_once_pay_once(tmp_path: Path) -> None:
    @tool(effects="none", share="project")
    async def slow(x: int) -> int:
        """Slow."""
        PAID.append("slow")
        await asyncio.sleep(0.1)
        return x

    calls = [Call("slow", {"x": 1}), Call("slow", {"x": 1}), Call("slow", {"x": 1})]
    run(tmp_path, agent(ScriptedModel([calls, "done"]), slow))
    assert PAID == ["slow"]


def test_answers_shared_by_the_user_cross_projects(tmp_path: Path) -> None:
    run(tmp_path / "one", agent(ScriptedModel(["paid"]), share="user", ttl=60))
    answer, steps = run(tmp_path / "two", agent(ScriptedModel([]), share="user", ttl=60))
    assert answer == "paid"
    assert [(step.replayed, step.shared) for step in steps] == [(True, True)]


def test_answers_not_declared_shareable_stay_in_their_project(tmp_path: Path) -> None:
    run(tmp_path / "one", agent(ScriptedModel(["paid"])))
    answer, _ = run(tmp_path / "two", agent(ScriptedModel(["paid again"])))
    assert answer == "paid again"


def test_a_shared_folder_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="AGENTKIT_SHARED"):
        run(tmp_path, agent(ScriptedModel(["x"]), share="shared"))


def test_a_fallback_chain_is_kept_under_the_member_that_answered(tmp_path: Path) -> None:
    def chain(*replies: Any) -> FallbackModel:
        down = ScriptedModel([ModelHTTPError(503, "first")], model_name="first")
        return FallbackModel(down, ScriptedModel(replies, model_name="second"))

    assert run(tmp_path, agent(chain("from second")))[0] == "from second"
    answer, steps = run(tmp_path, agent(chain()))
    assert answer == "from second"
    assert all(step.replayed for step in steps)
    alone, steps = run(tmp_path, agent(ScriptedModel([], model_name="second")))
    assert alone == "from second"
    assert all(step.replayed for step in steps)


def test_a_secret_never_reaches_the_journal_and_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-very-secret-value-1234"
    monkeypatch.setenv("DATA_API_KEY", secret)

    @tool(effects="none")
    def token() -> str:
        """The token."""
        return secret

    @tool(effects="none")
    def use(value: str) -> str:
        """Use it."""
        PAID.append(value)
        return "used"

    script = (Call("token"), Call("use", {"value": secret}), "done")
    run(tmp_path, agent(ScriptedModel(script), token, use), f"with {secret}")
    for file in (tmp_path / ".agentkit").rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
    answer, steps = run(tmp_path, agent(ScriptedModel([]), token, use), f"with {secret}")
    assert answer == "done"
    assert all(step.replayed for step in steps)
    assert [secret] == PAID


def test_a_live_step_is_not_given_a_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_API_KEY", "sk-very-secret-value-1234")

    @tool(effects="none")
    def token() -> str:
        """The token."""
        return "sk-very-secret-value-1234"

    with session(folder=tmp_path), pytest.raises(ConnectionError):
        asyncio.run(agent(ScriptedModel([Call("token"), ConnectionError("cut")]), token).run("go"))
    monkeypatch.delenv("DATA_API_KEY")
    with session(folder=tmp_path), pytest.raises(SecretMissing, match="DATA_API_KEY"):
        asyncio.run(agent(ScriptedModel(["never"]), token).run("go"))


def test_what_has_the_form_of_a_secret_is_in_no_file_and_comes_from_the_prompt_again(tmp_path: Path) -> None:
    token, url = SECRETS["github-token"], WITHIN["url-password"]
    used: list[str] = []

    @tool(effects="none")
    def use(value: str) -> str:
        """Use it."""
        used.append(value)
        return f"used {value}"

    prompt = f"with {token} and {url}"
    with session(folder=tmp_path), pytest.raises(ConnectionError):
        asyncio.run(agent(ScriptedModel([Call("use", {"value": token}), ConnectionError("cut")]), use).run(prompt))
    seen: list[str] = []

    def rule(messages: list[ModelMessage]) -> Call | str:
        seen.append(ModelMessagesTypeAdapter.dump_json(messages).decode())
        return Call("use", {"value": url}) if len(seen) == 1 else f"done with {token}"

    answer, steps = run(tmp_path, agent(ScriptedModel.by(rule), use), prompt)
    assert answer == f"done with {token}" and [step.replayed for step in steps] == [True, True, False, False, False]
    assert "<secret:" not in seen[0] and seen[0].count(token) == 3 and url in seen[0]
    again, steps = run(tmp_path, agent(ScriptedModel([]), use), prompt)
    assert again == answer and all(step.replayed for step in steps)
    assert used == [token, url]
    for file in (tmp_path / ".agentkit").rglob("*"):
        if file.is_file():
            assert token.encode() not in file.read_bytes() and HIDDEN.encode() not in file.read_bytes(), file


def test_a_live_step_is_not_given_what_only_a_tool_once_said(tmp_path: Path) -> None:
    @tool(effects="none")
    def token() -> str:
        """The token."""
        return SECRETS["jwt"]

    with session(folder=tmp_path), pytest.raises(ConnectionError):
        asyncio.run(agent(ScriptedModel([Call("token"), ConnectionError("cut")]), token).run("go"))
    with session(folder=tmp_path), pytest.raises(SecretMissing, match=r"jwt-\w+: .* ask anew with fresh=True"):
        asyncio.run(agent(ScriptedModel(["never"]), token).run("go"))


def test_two_prompts_that_differ_in_a_token_are_two_prompts(tmp_path: Path) -> None:
    for name in ("github-token", "github-token (fine-grained)"):
        answer, steps = run(tmp_path, agent(ScriptedModel([name])), f"whose is {SECRETS[name]}?")
        assert answer == name and not steps[0].replayed


@pytest.mark.parametrize("ttl", [90, 0.5, "90", "90s", "1.5 h", "7d", "2W"])
def test_an_agent_takes_the_times_that_a_tool_takes(ttl: float | str) -> None:
    @tool(effects="none", share="user", ttl=ttl)
    def looks(x: int) -> int:
        """Looks."""
        return x

    assert agent(ScriptedModel([]), share="user", ttl=ttl).policy.ttl == declaration(looks).ttl


@pytest.mark.parametrize("ttl", ["soon", "", "-1d", 0, -3])
def test_a_time_that_is_none_is_one_line_in_the_words_of_build(ttl: float | str) -> None:
    with pytest.raises(UserError) as caught:
        agent(ScriptedModel([]), share="user", ttl=ttl)
    assert str(caught.value) == f'ttl={ttl!r}: write seconds, or "90s", "10m", "2h", "7d"'
