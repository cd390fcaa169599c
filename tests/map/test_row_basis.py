"""What the answer of a row rests on besides its prompt: none is believed for another, none asked with another's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest

import agentkit
from agentkit.approval import interrupt
from agentkit.journal.answers import RowAnswer
from agentkit.map import first_request
from agentkit.runtime.session import Session
from agentkit.testing import Call, Output, ScriptedModel
from agentkit.tools.digest import ToolDigest

ROWS = ["a", "b", "cc"]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with agentkit.session(folder=tmp_path) as opened:
        yield opened


def run(agent: Agent[Any, Any], **options: Any) -> agentkit.MapResult:
    return asyncio.run(agentkit.map(agentkit.durable(agent), ROWS, "{{ row }}", **options))


def prompt_of(messages: list[ModelMessage]) -> str:
    parts = [part.content for message in messages for part in message.parts if part.part_kind == "user-prompt"]
    return str(parts[-1])


def heard(messages: list[ModelMessage]) -> str:
    """All that the model is told, but for the prompt."""
    (request,) = (message for message in messages if isinstance(message, ModelRequest))
    system = [str(part.content) for part in request.parts if part.part_kind == "system-prompt"]
    return "|".join([*system, request.instructions or ""])


def about(ctx: RunContext[Any]) -> str:
    return f"about {ctx.prompt}"


@pytest.mark.parametrize("way", ["instructions", "system_prompt"])
def test_instructions_that_are_a_function_are_those_of_each_row(way: str, session: Session) -> None:
    model = ScriptedModel.by(heard)
    for _ in range(2):
        agent = Agent(model, name="a")
        getattr(agent, way)(about)
        assert [answer.strip("|") for answer in run(agent).frame["answer"]] == ["about a", "about b", "about cc"]
    assert len(model.requests) == 3


def test_settings_that_are_a_function_are_those_of_each_row(session: Session) -> None:
    model = ScriptedModel.by(prompt_of)
    run(Agent(model, name="a", model_settings=lambda ctx: {"max_tokens": 10 + len(str(ctx.prompt))}))
    given = [request.settings["max_tokens"] for request in model.requests if request.settings is not None]
    assert sorted(given) == [11, 11, 12]


def test_a_tool_that_reads_other_deps_is_called_again(session: Session) -> None:
    def rule(messages: list[ModelMessage]) -> str | Call:
        found = [part.content for message in messages for part in message.parts if part.part_kind == "tool-return"]
        return f"{found[-1]} {prompt_of(messages)}" if found else Call("shop")

    def shop(ctx: RunContext[str]) -> str:
        return ctx.deps

    model = ScriptedModel.by(rule)
    for deps, requests in (("north", 6), ("south", 9), ("north", 9)):
        agent = Agent(model, name="a", deps_type=str, tools=[agentkit.tool(effects="none")(shop)])
        assert list(run(agent, deps=deps).frame["answer"]) == [f"{deps} {row}" for row in ROWS]
        assert len(model.requests) == requests


def field_checked(cut: int) -> Any:
    class Word(BaseModel):
        word: str

        @field_validator("word")
        @classmethod
        def shorten(cls, word: str) -> str:
            return word[:cut]

    return Word


def annotated(cut: int) -> Any:
    short = Annotated[str, AfterValidator(lambda word: word[:cut])]

    class Word(BaseModel):
        word: short

    return Word


def nested(cut: int) -> Any:
    class Inner(BaseModel):
        text: str

        @model_validator(mode="after")
        def shorten(self) -> Inner:
            self.text = self.text[:cut]
            return self

    class Word(BaseModel):
        word: list[Inner]

    return Word


def made_afterwards(cut: int) -> Any:
    class Word(BaseModel):
        word: str

        def model_post_init(self, context: Any, /) -> None:
            self.word = self.word[:cut]

    return Word


def made_by_init(cut: int) -> Any:
    class Word(BaseModel):
        word: str

        def __init__(self, **given: Any) -> None:
            super().__init__(word=given["word"][:cut])

    return Word


def a_dataclass(cut: int) -> Any:
    @dataclasses.dataclass
    class Word:
        word: str

        def __post_init__(self) -> None:
            self.word = self.word[:cut]

    return Word


def by_default(cut: int) -> Any:
    class Word(BaseModel):
        missing: str = Field(default_factory=lambda: "abcdef"[:cut])

    return Word


@pytest.mark.parametrize(
    "kind", [field_checked, annotated, nested, made_afterwards, made_by_init, a_dataclass, by_default]
)
def test_an_edited_check_of_the_output_is_applied_to_recorded_replies(
    kind: Callable[[int], Any], session: Session
) -> None:
    value = [{"text": "abcdef"}] if kind is nested else "abcdef"
    model = ScriptedModel.by(lambda messages: Output({"word": value}))
    for cut in (3, 3, 5):
        frame = run(Agent(model, name="a", output_type=kind(cut))).frame
        shown = '[{"text":"%s"}]' if kind is nested else "%s"
        assert list(frame.iloc[:, 0]) == [shown % "abcdef"[:cut]] * 3
    assert len(model.requests) == 3


def test_the_same_check_is_one_lookup(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel.by(lambda messages: Output({"word": "abcdef"}))
    run(Agent(model, name="a", output_type=field_checked(3)))
    looked_up: list[RowAnswer] = []
    find = session.store.row_answers

    def row_answers(basis: bytes, prompts: Sequence[bytes]) -> list[RowAnswer]:
        looked_up.extend(found := find(basis, prompts))
        return found

    monkeypatch.setattr(session.store, "row_answers", row_answers)
    run(Agent(model, name="a", output_type=field_checked(3)))
    assert len(looked_up) == 2


def test_the_code_of_a_tool_is_hashed_once_for_all_rows(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []

    def code_of(function: Callable[..., Any]) -> ToolDigest:
        hashed.append(function)
        return interrupt.code_of(function)

    monkeypatch.setattr(first_request, "code_of", code_of)

    @agentkit.tool(effects="none")
    def shop() -> str:
        return "open"

    run(Agent(ScriptedModel.by(prompt_of), name="a", tools=[shop]))
    assert len(hashed) == 1
