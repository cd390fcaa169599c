"""Fallback chains against a real server: causes told apart, each member's own key, and cached replies as the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelAPIError, ModelHTTPError

import agentkit
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.errors import UserError
from agentkit.events import Step
from agentkit.models import resolve
from agentkit.models.fallback import KNOWS_FIRST_TOKEN
from agentkit.models.transport import http_client
from agentkit.trace import render_html
from agentkit.trace.trace import Trace
from tests.serving import FILTERED, OVERFLOW, Fault, Serving, serving

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def down(times: int = 1) -> list[Fault]:
    """An outage that a client does not try again: what counts here is the chain."""
    return [Fault(status=503, headers={"x-should-retry": "false"})] * times


def run(folder: Path, model: str, *, prompt: str = "hello", streams: bool = False, **build: Any) -> Answer:
    agent = agentkit.build(Spec.parse("You answer."), name="steady", model=model, **build)
    with agentkit.session(folder=folder):
        return asyncio.run(agentkit.ask(agent, prompt, on_text=(lambda text: None) if streams else None))


def asked(server: Serving) -> list[str]:
    return [entry.name for entry in server.ledger()]


def chain(server: Serving, *links: str) -> str:
    return " | ".join(link if link.startswith("cached") else server.model(link) for link in links)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(status=503, headers={"x-should-retry": "false"}), "outage: 503"),
        (Fault(status=429, headers={"x-should-retry": "false"}), "rate limit: 429"),
        (Fault(status=401), "outage: 401"),
        (OVERFLOW, "context overflow: 400"),
    ],
    ids=["outage", "rate limit", "key", "overflow"],
)
def test_the_next_member_answers(tmp_path: Path, server: Serving, fault: Fault, cause: str, streams: bool) -> None:
    server.script(fault)
    answer = run(tmp_path, chain(server, "a", "b"), streams=streams)
    assert answer.output == "You said: hello"
    assert asked(server) == ["a", "b"]
    (note,) = answer.run.notes
    assert note == f"a ({cause}) → answered by b"
    with agentkit.session(folder=tmp_path) as session:
        (kept,) = [event for event in session.trace(answer.run.id) if isinstance(event, Step)]
    assert kept.result == "by b: You said: hello"


def test_a_member_that_failed_is_left_alone_for_a_while_in_the_same_cell(tmp_path: Path, server: Serving) -> None:
    agent = agentkit.build(Spec.parse("You answer."), name="steady", model=chain(server, "a", "b"))

    async def cell() -> list[Answer]:
        return [await agentkit.ask(agent, prompt) for prompt in ("one", "two", "three")]

    with agentkit.session(folder=tmp_path) as session:
        server.script(*down())
        answers = asyncio.run(cell())
        assert asked(server) == ["a", "b", "b", "b"]
        assert [len(answer.run.notes) for answer in answers] == [1, 0, 0]
        session.start_cell("another")
        assert asyncio.run(agentkit.ask(agent, "four")).output == "You said: four"
        assert asked(server)[4:] == ["a"]


def test_where_all_are_left_alone_they_are_asked(tmp_path: Path, server: Serving) -> None:
    agent = agentkit.build(Spec.parse("You answer."), name="steady", model=chain(server, "a", "b"))
    server.script(*down(2))
    with agentkit.session(folder=tmp_path):
        with pytest.raises(FallbackExceptionGroup):
            asyncio.run(agentkit.ask(agent, "one"))
        assert asyncio.run(agentkit.ask(agent, "one")).output == "You said: one"
    assert asked(server) == ["a", "b", "a"]


def test_a_wrong_request_goes_nowhere(tmp_path: Path, server: Serving) -> None:
    server.script(Fault(status=400, code="invalid_value"))
    with pytest.raises(ModelHTTPError):
        run(tmp_path, chain(server, "a", "b"))
    assert asked(server) == ["a"]


@pytest.mark.parametrize("fault", [FILTERED, Fault(finish="content_filter")], ids=["refused", "ended"])
def test_what_was_filtered_goes_only_to_those_marked(tmp_path: Path, server: Serving, fault: Fault) -> None:
    server.script(fault)
    answer = run(tmp_path, chain(server, "a", "b", "c(filter)"))
    assert (answer.output, asked(server)) == ("You said: hello", ["a", "c"])
    server.reset()
    server.script(FILTERED)
    with pytest.raises(ModelHTTPError):
        run(tmp_path, chain(server, "a", "b"), prompt="again")
    assert asked(server) == ["a"]


def test_an_overflow_goes_to_a_larger_window_only(tmp_path: Path, server: Serving) -> None:
    model = resolve.resolve(chain(server, "a", "b", "c"))
    for member, window in zip(resolve.members(model), (1000, 1000, 2000), strict=True):
        member.profile["context_window"] = window
    server.script(OVERFLOW)
    answer = run(tmp_path, model)  # type: ignore[arg-type]
    assert (answer.output, asked(server)) == ("You said: hello", ["a", "c"])


def test_a_slow_first_token_is_decided_before_it(tmp_path: Path, server: Serving) -> None:
    if not KNOWS_FIRST_TOKEN:
        with pytest.raises(UserError, match="needs a newer pydantic-ai"):
            resolve.resolve(f"{server.model('a')}(1s) | {server.model('b')}")
        return
    # The caller has begun when the second counts: on a busy machine that alone takes as long.
    run(tmp_path, server.model("warm"), prompt="good morning")
    server.script(Fault(match="hello", first=5.0))
    began = time.monotonic()
    answer = run(tmp_path, f"{server.model('a')}(1s) | {server.model('b')}", streams=True)
    assert (answer.output, asked(server)) == ("You said: hello", ["warm", "a", "b"])
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_connection_cut_before_the_answer_goes_on(tmp_path: Path, server: Serving, streams: bool) -> None:
    server.script(*[Fault(match="hello", cut="before")] * http_client.ATTEMPTS)
    answer = run(tmp_path, chain(server, "a", "b"), streams=streams)
    assert answer.output == "You said: hello"
    assert asked(server) == ["a"] * http_client.ATTEMPTS + ["b"]


def test_a_stream_cut_in_its_middle_does_not_go_on(tmp_path: Path, server: Serving) -> None:
    """What was begun is shown already: another model must not go on with it."""
    server.script(Fault(cut="middle"))
    with pytest.raises(ModelAPIError):
        run(tmp_path, chain(server, "a", "b"), streams=True)
    assert asked(server) == ["a"]


def test_each_member_has_its_own_key_and_another_member_re_pays_nothing(tmp_path: Path, server: Serving) -> None:
    server.script(*down())
    run(tmp_path, chain(server, "a", "b"))
    for again in (chain(server, "a", "c", "b"), chain(server, "b"), chain(server, "a", "b", "cached(7d)")):
        answer = run(tmp_path, again)
        assert all(step.replayed for step in answer.events() if isinstance(step, Step))
    assert asked(server) == ["a", "b"]


def fresh(folder: Path, model: str, *, streams: bool = False, **build: Any) -> Answer:
    agent = agentkit.build(Spec.parse("You answer."), name="steady", model=model, **build)
    with agentkit.session(folder=folder):
        on_text = (lambda text: None) if streams else None
        return asyncio.run(agentkit.ask(agent, "hello", fresh=True, on_text=on_text))


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_cached_reply_is_the_last_resort_and_says_how_old_it_is(
    tmp_path: Path, server: Serving, streams: bool
) -> None:
    run(tmp_path, chain(server, "a"))
    server.script(*down(2))
    answer = fresh(tmp_path, chain(server, "a", "b", "cached(7d)"), streams=streams)
    assert answer.output == "You said: hello"
    assert answer.stale is not None and answer.stale < 60
    (note,) = answer.run.notes
    assert "cached reply" in note and "by openai-chat:a" in note
    shown = render_html.text(Trace.of(answer.events()), now=time.time())
    assert "stale" in shown and "cached reply" in shown
    assert "failed" not in shown


def test_a_cached_reply_of_another_model_is_taken(tmp_path: Path, server: Serving) -> None:
    run(tmp_path, chain(server, "other"))
    server.script(*down())
    answer = run(tmp_path, chain(server, "a", "cached(1h)"))
    assert answer.output == "You said: hello" and answer.stale is not None


def test_a_cached_reply_is_never_kept_as_new(tmp_path: Path, server: Serving) -> None:
    run(tmp_path, chain(server, "other"))
    server.script(*down())
    run(tmp_path, chain(server, "a", "cached(1h)"))
    answer = run(tmp_path, chain(server, "a", "cached(1h)"))
    assert answer.stale is None
    assert asked(server) == ["other", "a", "a"]


def test_a_cached_reply_that_is_too_old_is_none(tmp_path: Path, server: Serving) -> None:
    run(tmp_path, chain(server, "other"))
    time.sleep(1.1)
    server.script(*down())
    with pytest.raises(FallbackExceptionGroup):
        run(tmp_path, chain(server, "a", "cached(1s)"))


def writer(effects: Any) -> Any:
    def save(text: str) -> str:
        """Save."""
        return "saved"

    return save if effects is None else agentkit.tool(effects=effects)(save)


@pytest.mark.parametrize("effects", ["once", "idempotent", "kernel", None])
def test_a_cached_reply_is_never_served_where_tools_may_write(tmp_path: Path, server: Serving, effects: Any) -> None:
    run(tmp_path, chain(server, "other"), tools=[writer(effects)])
    server.script(*down())
    with pytest.raises(FallbackExceptionGroup) as failed:
        run(tmp_path, chain(server, "a", "cached(7d)"), tools=[writer(effects)])
    assert "not given where tools may write (save)" in str(failed.value.exceptions)


def test_a_cached_reply_is_served_where_tools_only_read(tmp_path: Path, server: Serving) -> None:
    run(tmp_path, chain(server, "other"), tools=[writer("none")])
    server.script(*down())
    assert run(tmp_path, chain(server, "a", "cached(7d)"), tools=[writer("none")]).stale is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cached(7d)", "write it last"),
        ("cached(7d) | offline", "write it last"),
        ("offline | cached(soon)", "as in cached(7d)"),
        ("offline | cached", "as in cached(7d)"),
        ("offline(quick) | test", "what is 'quick'?"),
        ("offline | ofline", "did you mean 'offline'?"),
    ],
)
def test_a_chain_that_cannot_be_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve.resolve(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_all_attempts_are_made_before_the_next_member(tmp_path: Path, server: Serving) -> None:
    server.script(*[Fault(status=503)] * http_client.ATTEMPTS)
    run(tmp_path, chain(server, "a", "b"))
    assert asked(server) == ["a"] * http_client.ATTEMPTS + ["b"]
