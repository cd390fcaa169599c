"""The model that works without any model: it calls the tools a prompt names and reports what they gave."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from agentkit.define.planner.answer import answer, called, summary
from agentkit.define.planner.output import coverage, fill
from agentkit.define.planner.plan import Wish, next_calls, sure, told
from agentkit.define.planner.talk import Result, Talk
from agentkit.define.replies import WordByWord, estimate, overhead

_WORD_SECONDS = 0.012
"""Per streamed word, so that an answer is seen to arrive."""
_LONGEST_SECONDS = 0.8


class OfflineModel(Model):
    """Deterministic, free and without network: equal messages give equal replies.

    It calls tools whose names, descriptions and parameters match the prompt, with arguments found in the prompt or in
    earlier results; tools that change something only when the prompt says so in their own verb. It never calls the
    same tool with the same arguments twice for one prompt, and signs its answers.
    """

    def __init__(self) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True))

    @property
    def model_name(self) -> str:
        return "offline"

    @property
    def system(self) -> str:
        return "agentkit"

    @property
    def model_id(self) -> str:
        return "offline"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, params = self.prepare_request(model_settings, model_request_parameters)
        return _reply(messages, params)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        _, params = self.prepare_request(model_settings, model_request_parameters)
        reply = _reply(messages, params)
        words = sum(len(part.content.split()) for part in reply.parts if isinstance(part, TextPart))
        yield WordByWord(
            model_request_parameters=params, reply=reply, seconds=min(_WORD_SECONDS * words, _LONGEST_SECONDS)
        )


def _reply(messages: Sequence[ModelMessage], params: ModelRequestParameters) -> ModelResponse:
    tools = params.function_tools
    talk = Talk.of(messages, tools=frozenset(tool.name for tool in tools))
    results = told(talk.good, tools) or told(talk.earlier, tools)[-1:]
    wishes = next_calls(talk, tools, summary=summary(talk.prompt, results))
    parts = _call_parts(wishes, len(messages)) or [_final(talk, results, params, place=len(messages))]
    reply = ModelResponse(parts=parts, model_name="offline", provider_name="agentkit")
    usage = estimate(messages, reply)
    sent = usage.input_tokens + overhead(params)
    return replace(reply, usage=replace(usage, input_tokens=sent, cost=Decimal(0)))


def _call_parts(wishes: Sequence[Wish], place: int) -> list[ModelResponsePart]:
    # The place in the conversation makes ids that are unique in it and the same on every run.
    return [
        ToolCallPart(wish.tool, wish.args, tool_call_id=f"offline_{place}_{number}")
        for number, wish in enumerate(wishes)
    ]


def _final(talk: Talk, results: Sequence[Result], params: ModelRequestParameters, *, place: int) -> ModelResponsePart:
    variant = len(talk.complaints)
    if params.output_object is not None:
        schema = params.output_object.json_schema
        return TextPart(json.dumps(fill(schema, talk.prompt, results, variant=variant), ensure_ascii=False))
    if params.output_tools and (tool := _output_tool(talk, results, params)):
        args = fill(tool.parameters_json_schema, talk.prompt, results, variant=variant)
        return ToolCallPart(tool.name, args, tool_call_id=f"offline_{place}_output")
    return TextPart(answer(talk.prompt, results, remarks=_remarks(talk, results, params.function_tools)))


def _output_tool(talk: Talk, results: Sequence[Result], params: ModelRequestParameters) -> ToolDefinition | None:
    """The output the results speak of most; a text where one is allowed and none of the others is half spoken of."""

    def covered(tool: ToolDefinition) -> float:
        return coverage(tool.parameters_json_schema, talk.prompt, results)

    best = max(params.output_tools, key=covered)
    return None if params.allow_text_output and covered(best) < 0.5 else best


def _remarks(talk: Talk, results: Sequence[Result], tools: Sequence[ToolDefinition]) -> list[str]:
    """What has to be said before the results: nothing fitted, something failed, something was not looked at."""
    remarks: list[str] = []
    if talk.attachments:
        remarks.append(f"{talk.attachments} attached file(s) were not looked at: the offline model reads text only.")
    failed = any(not result.ok for result in talk.results)
    if not results:
        # What was tried and failed, or was denied, speaks for itself.
        remarks += [] if failed else [_nothing(tools)]
    elif not talk.good:
        remarks.append("From an earlier result:")
    elif not sure(talk, tools):
        remarks.append("No tool here answers this directly; the nearest one gave this.")
    remarks += [f"{called(result)} failed: {result.value}" for result in talk.results if not result.ok]
    return remarks


def _nothing(tools: Sequence[ToolDefinition]) -> str:
    advice = "For a real answer choose a model: `%agent model openai:gpt-5`."
    if not tools:
        return f"This agent has no tools, and the offline model knows nothing itself. {advice}"
    names = ", ".join(f"`{tool.name}`" for tool in tools[:12])
    return (
        f"The prompt names nothing that a tool here could look up. The tools are {names}; "
        f"use the words of their names and parameters. {advice}"
    )
