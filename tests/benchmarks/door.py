"""The engine's own door: one model request after another at the end of a long conversation, without an agent's loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

from pydantic_ai import Agent
from pydantic_ai.durable_exec import JSON_CODEC, ModelRequestId, ModelRequestParams, RoleBasedOperationConfig
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.usage import RequestUsage, RunUsage

from agentkit.agent.durability import JournalBackend, JournalDurability
from agentkit.events import Run
from agentkit.journal.execution import inside
from agentkit.journal.keys import MessageChain, RequestParts
from agentkit.runtime.run_state import RunState
from agentkit.runtime.session import Session, execution_of

SAID = "The numbers of the table say what they say, and here is what they say about it. " * 24
"""1.9 KB, so that a recorded response is 2 KB of JSON."""

REQUEST = ModelRequestId(None, model_name="scripted")
CONFIG: RoleBasedOperationConfig[None] = RoleBasedOperationConfig(model=None, event=None, capability=None, tool=None)
PARAMETERS = ModelRequestParameters(
    function_tools=[
        ToolDefinition(
            name=f"look_{number}",
            description="Look up a value in a table.",
            parameters_json_schema={
                "type": "object",
                "properties": {"column": {"type": "string"}, "row": {"type": "integer"}},
                "required": ["column"],
            },
        )
        for number in range(5)
    ]
)

Ask: TypeAlias = Callable[[list[ModelMessage], RunContext[None]], Awaitable[object]]
"""Makes one request: its messages, and the context the agent's loop would give."""


def asked(text: str) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(text)])


def reply() -> ModelResponse:
    return ModelResponse(
        parts=[TextPart(SAID)], usage=RequestUsage(input_tokens=100, output_tokens=400), model_name="scripted"
    )


PAYLOAD = JSON_CODEC.dump(ModelResponse, reply())


class OneReply(Model):
    """Always says the same, at once."""

    @property
    def model_name(self) -> str:
        return "scripted"

    @property
    def system(self) -> str:
        return "scripted"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return reply()


MODEL = OneReply()


class NoOpBackend(JournalBackend):
    """pydantic-ai's durable surface with nothing behind it."""

    async def execute(self, *, body: Callable[[], Awaitable[object]], **_: Any) -> object:
        return await body()


class NoOpDurability(JournalDurability):
    """The capability of a durable engine that records nothing."""

    @property
    def in_durable_context(self) -> bool:
        return True

    def get_durable_operation_backend(self) -> NoOpBackend:
        return NoOpBackend(agent_name=self.name, default_model_id=self.default_model_id, config=CONFIG)


def at_the_door(answer: Callable[[], object] = lambda: PAYLOAD) -> Ask:
    """What the engine itself costs: a request whose answer is there already goes through our door."""
    backend = JournalBackend(agent_name="bench", config=CONFIG)

    async def answered() -> object:
        return answer()

    async def ask(messages: list[ModelMessage], context: RunContext[None]) -> object:
        key = (None, messages, None, PARAMETERS, context)
        return await backend.execute(operation_id=REQUEST, name="request", body=answered, cache_key=key, config=None)

    return ask


def at_the_surface(durability: type[JournalDurability]) -> Ask:
    """What a durable request costs from pydantic-ai's operation down: its contexts and codec, and the engine behind."""
    capability = durability.from_agent(Agent(MODEL, name="bench", capabilities=[durability()]))
    assert capability is not None
    backend = capability.get_durable_operation_backend()
    # Bound anew for each request, and only there: pydantic-ai offers no public way to one bound operation.
    request = capability._bind_model_operations(backend, model_id=None, model_name=MODEL.model_name).request

    async def ask(messages: list[ModelMessage], context: RunContext[None]) -> object:
        return await request(
            ModelRequestParams(
                None,
                messages=messages,
                model_settings=None,
                model_request_parameters=PARAMETERS,
                run_context=context,
            )
        )

    return ask


class Conversation:
    """A run in which `said` messages were said already; each step is its next request, through `ask`.

    `session` is where it is journaled; None is for an engine that journals nothing.
    """

    def __init__(self, ask: Ask, *, said: int, tag: str, session: Session | None) -> None:
        self._ask = ask
        self._session = session
        self._frame = None if session is None else _frame(session)
        self._messages: list[ModelMessage] = []
        for number in range(said // 2):
            self._messages += [asked(f"{tag} {number}"), ModelResponse(parts=[TextPart(f"answer {number}")])]
        self._messages.append(asked(f"{tag}: begin"))

    async def begin(self) -> None:
        """The first request, which reads (or writes) all that was said before."""
        if self._session is not None and self._frame is not None:
            self._session.store.open_run(Run(id=self._frame.id, agent="bench", status="running"))
        await self.step()

    async def step(self) -> float:
        """The next request; the seconds it took."""
        messages = list(self._messages)
        context = RunContext[None](deps=None, model=MODEL, usage=RunUsage(), messages=messages)
        with nullcontext() if self._frame is None else inside(self._frame):
            started = time.perf_counter()
            await self._ask(messages, context)
            seconds = time.perf_counter() - started
        self._messages += [reply(), asked(f"and then, {len(messages)}? {'y' * 200}")]
        return seconds

    async def end(self) -> None:
        if self._session is not None and self._frame is not None:
            ended = Run(id=self._frame.id, agent="bench", status="done")
            await asyncio.wrap_future(self._session.store.close_run(ended, history=None, output=None))


def _frame(session: Session) -> RunState:
    return RunState(
        id=uuid.uuid4().hex[:8],
        agent="bench",
        execution=execution_of(session),
        journal=session.journal,
        chain=MessageChain(redactor=session.redactor),
        memo=RequestParts(session.redactor),
    )
