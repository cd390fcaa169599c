"""What the rows of a map have in common: the first request that each of them makes, but for its prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, SystemPromptPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.settings import ModelSettings
from pydantic_core import from_json

from agentkit.agent import model_request
from agentkit.agent.durability import within_step
from agentkit.agent.resume_blockers import is_server, leaf_of, obstacle
from agentkit.approval.interrupt import code_of, function_of
from agentkit.budget.budget import BudgetScope
from agentkit.journal.codec import RESULT_CODEC
from agentkit.journal.execution import Execution, inside
from agentkit.journal.keys import MessageChain
from agentkit.runtime.guard import ModelRequestInfo
from agentkit.runtime.run_state import FirstRequest, RunState
from agentkit.tools.digest import ToolDigest, tool_digest, value_digest

_VERSION = b"agentkit row 1"
_FINAL_REASONS = (None, "stop", "tool_call")
_PLAIN_PARTS = frozenset({"text", "thinking"})


@dataclass(frozen=True, kw_only=True)
class RowBasis:
    """All that the answer of a row rests on besides its prompt and what it reads; `codes` are those of its tools."""

    digest: bytes
    codes: Mapping[str, str]


def basis_of(
    first: FirstRequest, prompt: str, codec: OutputCodec, frame: RunState, hashed: dict[Callable[..., Any], ToolDigest]
) -> RowBasis | None:
    """Return the basis of the run that asked `first`; None where its answer may rest on more than is known.

    `hashed` keeps the digests of the tools for the other rows. Where a tool changes meanwhile, what it answered has
    another digest on record, and is not kept as an answer.
    """
    request = _request_of(first, prompt)
    # Instructions, settings or tools that are made by a function may differ in every row.
    if request is None or _output_validators(frame.owner) or obstacle(frame.owner, {}) or codec.code is None:
        return None
    codes: dict[str, str] = {}
    manager = first.ctx.tool_manager
    for name, tool in ({} if manager is None else manager.tools or {}).items():
        toolset, there = leaf_of(tool, name)
        function = function_of(tool)
        if function is None and not is_server(toolset):
            if tool.tool_def.kind == "output":
                continue
            return None
        if function is not None and function not in hashed:
            hashed[function] = code_of(function)
        digest = None if function is None else hashed[function]
        code = {"digest": "", "reads": {}}
        if digest is not None:
            code = {"digest": digest.digest.hex(), "reads": dict(digest.reads)}
        codes[frame.memo.part(f"{toolset.id}:{there}").digest.hex()] = frame.memo.part(code).digest.hex()
    lead = [[part.part_kind, str(part.content)] for part in request.parts[:-1] if isinstance(part, SystemPromptPart)]
    parts = {name: value for name, value in first.parts.items() if name != "history"}
    approve = [str(pattern) for pattern in getattr(frame.owner.policy.approve, "patterns", ())]
    deps = [] if first.ctx.deps is None or not codes else [value_digest(first.ctx.deps).hex()]
    # Where there is neither, the digest is the one of the journals that know of neither.
    more = [{"deps": deps, "output": codec.code}] if deps or codec.code else []
    text = json.dumps([parts, request.instructions, lead, codes, approve, *more], sort_keys=True)
    return RowBasis(digest=hashlib.sha256(_VERSION + text.encode()).digest()[:16], codes=codes)


def prompt_digest(prompt: str) -> bytes:
    """Return what a prompt is looked up by."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:16]


def _request_of(first: FirstRequest, prompt: str) -> ModelRequest | None:
    """The one message of a request that asks nothing but the prompt, behind its instructions."""
    message: ModelMessage | None = first.messages[0] if len(first.messages) == 1 else None
    if not isinstance(message, ModelRequest) or not message.parts:
        return None
    *lead, last = message.parts
    if not all(isinstance(part, SystemPromptPart) for part in lead):
        return None
    return message if isinstance(last, UserPromptPart) and last.content == prompt else None


def _output_validators(agent: Any) -> bool:
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    return bool(getattr(agent, "_output_validators", ()))


# ---- outputs as JSON


class OutputCodec:
    """Outputs of an agent as JSON and back; `adapter` is None where only the agent's own loop can make them."""

    def __init__(self, output_type: Any) -> None:
        self.adapter: TypeAdapter[Any] | None = None
        plain = isinstance(output_type, type) or hasattr(output_type, "__origin__")
        if plain and not isinstance(output_type, list | tuple):
            try:
                self.adapter = TypeAdapter(output_type)
            except PydanticSchemaGenerationError:
                self.adapter = None

    @cached_property
    def code(self) -> list[str] | None:
        """The digests of the functions that check and change an output; None where one cannot be hashed whole."""
        if self.adapter is None:
            return None
        found = [tool_digest(function) for function in dict.fromkeys(_functions(self.adapter.core_schema))]
        return None if any(digest.unhashed for digest in found) else [digest.digest.hex() for digest in found]

    def dump(self, output: object) -> bytes | None:
        """Return the output as JSON that is read back as an equal one; None where there is none."""
        if self.adapter is None:
            return None
        try:
            body = self.adapter.dump_json(output)
            return body if self.adapter.validate_json(body) == output else None
        except ValueError:
            return None

    def final(self, payload: Mapping[str, Any], parameters: ModelRequestParameters) -> tuple[Any] | None:
        """Return the output that a reply ends a run with; None where the loop has to say what comes of it."""
        if payload.get("finish_reason") not in _FINAL_REASONS or payload.get("state", "complete") != "complete":
            return None
        calls = [part for part in payload.get("parts", ()) if part.get("part_kind") == "tool-call"]
        others = {part.get("part_kind") for part in payload.get("parts", ())} - {"tool-call"}
        if self.adapter is None or not others <= _PLAIN_PARTS or len(calls) > 1:
            return None
        if not calls:
            text = "".join(part["content"] for part in payload["parts"] if part["part_kind"] == "text")
            plain = parameters.output_mode == "text" and self.adapter.core_schema.get("type") == "str"
            return (text,) if plain and text else None
        (tool,) = parameters.output_tools if len(parameters.output_tools) == 1 else (None,)
        if tool is None or calls[0].get("tool_name") != tool.name:
            return None
        try:
            args = calls[0].get("args")
            given = from_json(args) if isinstance(args, str) else args
            if tool.outer_typed_dict_key is not None:
                if not isinstance(given, dict) or set(given) != {tool.outer_typed_dict_key}:
                    return None
                given = given[tool.outer_typed_dict_key]
            return (self.adapter.validate_json(json.dumps(given)),)
        except (ValueError, ValidationError):
            return None


def _functions(schema: object) -> Iterator[Callable[..., Any]]:
    """The functions in a core schema, those that a model is made with among them."""
    if isinstance(schema, list | tuple):
        for one in schema:
            yield from _functions(one)
    elif isinstance(schema, Mapping):
        cls = schema.get("cls")
        if isinstance(cls, type):
            written = ["__init__"] if schema.get("custom_init") else []
            post_init = schema.get("post_init")
            written += [post_init if isinstance(post_init, str) else "__post_init__"] if post_init else []
            yield from (getattr(cls, name) for name in written)
        for name, one in schema.items():
            if name not in ("metadata", "serialization", "cls", "custom_init", "post_init"):
                yield from _functions(one)
    elif callable(schema) and not isinstance(schema, type):
        # A method of the class is its code, whatever else the class holds.
        yield getattr(schema, "__func__", schema)


# ---- rows of one request


@dataclass(frozen=True, kw_only=True)
class RowRequest:
    """The one request of a row: its step, the state of the row that makes it, and what is sent."""

    frame: RunState
    asked: model_request.ModelRequest
    messages: list[ModelMessage]
    settings: ModelSettings | None
    parameters: ModelRequestParameters


@dataclass(frozen=True, kw_only=True)
class ArrivedReply:
    """The reply to a row's request, which came with a batch; `read` gives it, or raises what was answered instead.

    `batch` is the token of that, `step` what it is on record.
    """

    batch: str
    step: int
    read: Callable[[], ModelResponse]


@dataclass(frozen=True, kw_only=True)
class DirectReply:
    """What a row of one request was answered; `output` is None where its run has to go on."""

    output: tuple[Any] | None
    step: int
    replayed: bool


class DirectRows:
    """Asks rows of one request at the journal's door, as the loop of their agent would, without that loop."""

    def __init__(self, first: FirstRequest, prompt: str, codec: OutputCodec, *, model: Model, frame: RunState) -> None:
        request = _request_of(first, prompt)
        assert request is not None
        self._first = first
        self._request = request
        self._lead = request.parts[:-1]
        self._codec = codec
        self._frame = frame
        self._model = model

    @classmethod
    def of(
        cls, first: FirstRequest, prompt: str, codec: OutputCodec, row: RunState, map: RunState
    ) -> DirectRows | None:
        """Return how rows are asked directly; None where a row needs the loop, or something looks at its requests."""
        model = model_request.model_in_use(first.model_id, first.ctx)
        if model is None or cls.obstacle(first, prompt, codec, row, map):
            return None
        return cls(first, prompt, codec, model=model, frame=map)

    @staticmethod
    def obstacle(first: FirstRequest, prompt: str, codec: OutputCodec, row: RunState, map: RunState) -> str:
        """Return why a row may be more than its one request, or none that stands alone; empty where it is just that."""
        parameters = first.parameters
        model = model_request.model_in_use(first.model_id, first.ctx)
        limited = any(gauge.window == "run" and gauge.scope != BudgetScope(map.place).label for gauge in map.gauges)
        found = {
            "its model is chosen at each request": model is None,
            "a chain of models answers it": isinstance(model, FallbackModel),
            "it has tools": bool(parameters.function_tools or parameters.native_tools),
            "its output has a validator": _output_validators(row.owner),
            "its output type is no plain type": codec.adapter is None,
            "its output type rests on what cannot be hashed": codec.code is None,
            "each of its runs has a budget": limited,
            "its answers are shared": row.share is not None,
            "its requests are changed on their way": not row.trusted or row.gate is not None,
            "its request is more than the prompt": _request_of(first, prompt) is None,
        }
        return next((why for why, stands in found.items() if stands), obstacle(row.owner, {}))

    def gives(self, output: object) -> bool:
        """Whether the output of the run that was looked at is read from its last reply as it is here."""
        reply = self._first_reply()
        found = None if reply is None else self._codec.final(reply, self._first.parameters)
        return found is not None and found[0] == output

    def _first_reply(self) -> Any:
        replies = [message for message in self._first.ctx.messages if isinstance(message, ModelResponse)]
        return RESULT_CODEC.dump(ModelResponse, replies[0]) if len(replies) == 1 else None

    def _message(self, prompt: str) -> ModelRequest:
        return replace(
            self._request, parts=[*self._lead, UserPromptPart(content=prompt)], run_id=None, conversation_id=None
        )

    @property
    def model(self) -> Model:
        """The model that all rows ask."""
        return self._model

    def info(self, prompt: str) -> ModelRequestInfo:
        """Return what is known of a row's request before it is sent."""
        return ModelRequestInfo(
            model=self._model,
            messages=[self._message(prompt)],
            settings=self._first.settings,
            parameters=self._first.parameters,
        )

    def request(self, ordinal: int, prompt: str, execution: Execution) -> RowRequest:
        """Return what the row asks; nothing is sent."""
        outer, first = self._frame, self._first
        frame = RunState(
            id=outer.id, agent=outer.agent, execution=execution, mode=outer.mode, fresh=outer.fresh, ord=ordinal,
            journal=outer.journal, chain=MessageChain(redactor=outer.journal.redactor), memo=outer.memo,
            whose=outer.whose, cache=outer.cache, session=outer.session, owner=outer.owner, outer=outer,
            place=outer.place, headless=outer.headless,
        )  # fmt: skip
        messages: list[ModelMessage] = [self._message(prompt)]
        asked = model_request.ModelRequest.of(
            frame, self._model, first.model_id, messages, first.settings, first.parameters
        )
        return RowRequest(
            frame=frame, asked=asked, messages=messages, settings=first.settings, parameters=first.parameters
        )

    async def ask(
        self, ordinal: int, prompt: str, execution: Execution, arrived: ArrivedReply | None = None
    ) -> DirectReply:
        """Return the reply to `prompt`, from the record or live, recorded as a step of the map's run.

        A reply that `arrived` with a batch is recorded as if it had been asked for now.
        """
        row = self.request(ordinal, prompt, execution)
        asked = row.asked
        if arrived is not None:
            asked = replace(asked, info=replace(asked.info, batch=arrived.batch), batch=arrived.step or None)

        async def request() -> object:
            if arrived is not None:
                return RESULT_CODEC.dump(ModelResponse, arrived.read())
            response = await self._model.request(row.messages, row.settings, row.parameters)
            return RESULT_CODEC.dump(ModelResponse, response)

        with inside(row.frame):
            performed = await row.frame.journal.perform(asked, within_step(request))
        return DirectReply(
            output=self._codec.final(performed.payload, row.parameters),
            step=performed.step,
            replayed=performed.replayed,
        )
