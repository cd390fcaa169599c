"""Conversations of every kind of part, for the tests of keys: fixed samples and strategies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    RetryInfo,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False}

NAMES = ["timestamp", "tool_call_id", "run_id", "id", "metadata", "usage", "a"]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # pydantic's JSON is UTF-8, which has no surrogates.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text('ab"\\é'), inner),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
call_ids = st.sampled_from(["call_1", "call_2", "t00000000", "t00000001", 'odd"\\id', "pyd_ai_7f", "é"])
moments = st.datetimes(timezones=st.just(UTC))
arguments = st.dictionaries(st.sampled_from([*NAMES, "b"]), json_values, max_size=3)

request_parts: st.SearchStrategy[Any] = st.one_of(
    st.builds(UserPromptPart, content=texts, timestamp=moments),
    st.builds(SystemPromptPart, content=texts, timestamp=moments),
    st.builds(
        UserPromptPart,
        content=st.lists(
            texts | st.builds(BinaryContent, data=st.binary(), media_type=st.just("image/png")), min_size=1
        ),
        timestamp=moments,
    ),
    st.builds(ToolReturnPart, tool_name=st.just("look"), content=json_values, tool_call_id=call_ids, timestamp=moments),
    st.builds(RetryFeedbackPart, content=texts, retry=st.just(RetryInfo("model_retry")), timestamp=moments),
)
response_parts: st.SearchStrategy[Any] = st.one_of(
    st.builds(TextPart, content=texts),
    st.builds(ThinkingPart, content=texts, signature=st.none() | texts),
    st.builds(ToolCallPart, tool_name=st.just("look"), args=arguments, tool_call_id=call_ids),
)
requests = st.builds(ModelRequest, parts=st.lists(request_parts, max_size=3), run_id=st.none() | texts)
responses = st.builds(
    ModelResponse,
    parts=st.lists(response_parts, max_size=3),
    model_name=st.none() | texts,
    timestamp=moments,
    metadata=st.sampled_from([None, {"agentkit": {"replayed": True}}, {"agentkit": {}, "mine": 1}]),
)
messages: st.SearchStrategy[ModelMessage] = requests | responses
conversations = st.lists(messages, max_size=6)


def conversation(*, run: int = 0) -> list[ModelMessage]:
    """One conversation as run number `run` has it: said alike, with other clocks, ids and bookkeeping."""
    at = datetime(2026, 1, 1 + run, tzinfo=UTC)
    call, other = f"call_{run}_x", f"pyd_ai_{run:032x}"
    return [
        ModelRequest(
            parts=[
                SystemPromptPart("Answer briefly.", timestamp=at),
                UserPromptPart(
                    ["Look at", BinaryContent(b"\x89PNG\xff", media_type="image/png"), ImageUrl("http://x.test/a.png")],
                    timestamp=at,
                ),
            ],
            timestamp=at,
            instructions=f"Today is {at:%A}.",
            run_id=f"run {run}",
            conversation_id=f"conversation {run}",
            metadata={"cell": run},
        ),
        ModelResponse(
            parts=[
                ThinkingPart("Hm.", id=f"rs_{run}", signature="sig", provider_name=f"provider {run}"),
                TextPart("I shall look.", id=f"msg_{run}"),
                ToolCallPart("look", {"q": "a", "timestamp": 3, "n": 1.5}, tool_call_id=call, id=f"fc_{run}"),
                ToolCallPart("look", '{"q": "é"}' if run else {"q": "é"}, tool_call_id=other),
            ],
            usage=RequestUsage(input_tokens=run, output_tokens=7 * run),
            model_name=f"model {run}",
            timestamp=at,
            provider_name="p" if run else None,
            provider_response_id=f"resp_{run}",
            provider_details={"finish_reason": "stop", "timestamp": str(at)},
            finish_reason="stop" if run else "tool_call",
            run_id=f"run {run}",
            metadata={"agentkit": {"usage": {"input_tokens": 3}}} if run else None,
        ),
        ModelRequest(
            parts=[
                ToolReturnPart(
                    "look", [{"rows": [1, 2.0, None]}], tool_call_id=call, timestamp=at, metadata={"run": run}
                ),
                ToolReturnPart("look", "No such table.", tool_call_id=other, timestamp=at, outcome="failed"),
            ]
        ),
    ]


def parameters(*, run: int = 0, description: str = "Look it up.") -> ModelRequestParameters:
    """What run number `run` asks with beside the conversation."""
    look = ToolDefinition(
        name="look",
        description=description,
        parameters_json_schema=SCHEMA,
        return_schema={"type": "string", "title": str(run)},
        capability_id=f"<code_mode:{run:06x}>",
        toolset_id=f"toolset {run}",
        metadata={"run": run},
        timeout=float(run) or None,
        sequential=bool(run),
    )
    return ModelRequestParameters(
        function_tools=[look],
        output_object=OutputObjectDefinition(json_schema=SCHEMA, name="answer"),
        output_mode="native",
        instruction_parts=[InstructionPart(content="Be brief.", dynamic=bool(run))],
    )
