"""Answers that are not whole: cut at their tokens, ended by a filter, or a stream that broke off in good order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_ai.exceptions import ContentFilterError, ModelAPIError
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentkit
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.events import Run, Step
from agentkit.models import resolve
from agentkit.models.transport.http_client import client
from agentkit.models.transport.response_capture import is_cut
from agentkit.trace import render_html
from agentkit.trace.format import GLYPHS
from agentkit.trace.trace import Trace
from tests.serving import Fault, Serving, serving
from tests.tables import cases, named

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def model_of(server: Serving, protocol: str) -> Model:
    if protocol == "chat":
        return resolve.resolve(server.model())
    provider = OpenAIProvider(base_url=server.url, api_key="none", http_client=client())
    return OpenAIResponsesModel("small", provider=resolve.with_own_client(provider))


def run(folder: Path, model: Model, *, streams: bool) -> Answer:
    agent = agentkit.build(Spec.parse("You answer."), name="one", model=model)
    with agentkit.session(folder=folder):
        return asyncio.run(agentkit.ask(agent, "say it is so", on_text=(lambda text: None) if streams else None))


def recorded(folder: Path) -> tuple[Run, list[Step]]:
    with agentkit.session(folder=folder) as session:
        newest = session.runs(limit=1)[0]
        return newest, [event for event in session.trace(newest.id) if isinstance(event, Step)]


ANSWERS = cases("finish_reasons/answers")
WHOLE = [case for case in ANSWERS if case["status"] in ("done", "truncated", "filtered")]
REFUSED = [case for case in ANSWERS if case["status"] == "refused"]
CUT = [case for case in ANSWERS if case["status"] == "failed"]


def begin(server: Serving, case: dict[str, str]) -> tuple[Model, bool]:
    server.script(Fault(finish=case["finish"], without=tuple(case["without"].split())))  # type: ignore[arg-type]
    return model_of(server, case["protocol"]), case["how"] == "streamed"


@pytest.mark.parametrize("case", WHOLE, ids=named)
def test_an_answer_that_is_not_whole_never_looks_finished(
    tmp_path: Path, server: Serving, case: dict[str, str]
) -> None:
    model, streams = begin(server, case)
    answer, again = (run(tmp_path, model, streams=streams) for _ in range(2))
    assert len(server.ledger()) == 1 + int(case["again"])
    whole = case["status"] == "done"
    for one in (answer, again):
        assert (one.output, one.run.status) == ("it is so", case["status"])
        assert (one.truncated, one.filtered) == (case["status"] == "truncated", case["status"] == "filtered")
        assert (one.finish_reason in (None, "stop"), one.run.notes == ()) == (whole, whole)
    shown = render_html.html(Trace.of(again.events()), now=time.time())
    assert (f'color:{render_html.AMBER}">{GLYPHS[case["status"]]}' in shown) != whole


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_a_refusal_is_an_error_that_says_so_and_is_not_paid_again(
    tmp_path: Path, server: Serving, case: dict[str, str]
) -> None:
    model, streams = begin(server, case)
    for _ in range(2):
        with pytest.raises(ContentFilterError, match="it is so"):
            run(tmp_path, model, streams=streams)
        assert recorded(tmp_path)[0].status == "failed"
    assert len(server.ledger()) == 1 + int(case["again"])


@pytest.mark.parametrize("case", CUT, ids=named)
def test_a_stream_that_is_cut_is_no_answer_and_asked_again(
    tmp_path: Path, server: Serving, case: dict[str, str]
) -> None:
    model, streams = begin(server, case)
    with pytest.raises(ModelAPIError):
        run(tmp_path, model, streams=streams)
    first, steps = recorded(tmp_path)
    assert (first.status, [step.status for step in steps]) == ("failed", ["failed"])
    answer = run(tmp_path, model, streams=streams)
    assert (answer.output, answer.run.status, len(server.ledger())) == ("it is so", "done", 1 + int(case["again"]))


@pytest.mark.parametrize("case", cases("finish_reasons/streams"), ids=lambda case: case["what"].replace(" ", "-"))
def test_a_stream_is_cut_where_it_does_not_say_how_its_answer_ended(case: dict[str, str], either_way: None) -> None:
    assert is_cut(case["events"].replace("⏎", "\n").encode()) == (case["cut"] == "yes")
