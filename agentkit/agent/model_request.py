"""The step that a model request is: what it is known by, what its reply cost, and who of a fallback chain gave it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast
from weakref import WeakValueDictionary

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from agentkit.budget import request_estimate
from agentkit.events import Kind, Usage
from agentkit.journal.codec import RESULT_CODEC, mark_replay
from agentkit.journal.keys import Key, model_key
from agentkit.journal.operation import Operation, Payload, Reading
from agentkit.models import resolve
from agentkit.models.request_context import Attempts
from agentkit.runtime import describe, fallback_record
from agentkit.runtime.guard import ModelRequestInfo
from agentkit.runtime.run_state import RunState

SHARED_SECONDS = 30 * 24 * 3600.0
"""How long the call cache keeps an answer that is declared shared and says nothing else."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest(Operation):
    """One request. `by_member` are the keys of the other members of a chain, `names` who answers under which name."""

    kind: Kind = "model"
    info: ModelRequestInfo
    frame: RunState
    tried: Attempts
    by_member: Mapping[str, bytes] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        frame: RunState,
        model: Model | None,
        model_id: str | None,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelRequest:
        """The request that the run `frame` makes; `model` is None where it is known by its id only."""
        history = frame.chain.digest(messages, trusted=frame.trusted)
        members = resolve.answering_models(model) if isinstance(model, FallbackModel) else ()
        identity = model_id or "" if model is None else resolve.identity(members[0] if members else model)

        def make_key(name: str) -> Key:
            shared = frame.share is not None
            return model_key(
                model=name, history=history, settings=settings, params=parameters, memo=frame.memo, shared=shared
            )

        key = make_key(identity)
        by_member = {resolve.identity(member): make_key(resolve.identity(member)).key for member in members[1:]}
        return cls(
            key=key,
            name=identity,
            request=describe.last_text(messages),
            history=history,
            chain=frame.chain,
            alternatives=tuple(by_member.values()),
            cache=frame.cache(frame.share),
            ttl=frame.ttl or SHARED_SECONDS,
            info=ModelRequestInfo(model=model, messages=messages, settings=settings, parameters=parameters),
            frame=frame,
            tried=Attempts(resting=frame.execution.resting),
            by_member=by_member,
            names={member.model_name: resolve.identity(member) for member in members},
        )

    @property
    def model(self) -> str:
        return self.name

    @property
    def about(self) -> ModelRequestInfo:
        return self.info

    @property
    def sends(self) -> bool:
        model = self.info.model
        return model is not None and not self.info.batch and resolve.tells_when_it_sends(model)

    def watching(self) -> AbstractContextManager[object]:
        fallback_record.begin(self.frame, self.key, self.info.parameters, self.tried)
        return nullcontext()

    def control(self, payload: Payload) -> str | None:
        return fallback_record.control(payload)

    def read(self, payload: Payload) -> Reading:
        response = cast(ModelResponse, RESULT_CODEC.load(ModelResponse, payload))
        unreported = request_estimate.estimate_missing_usage(self.info, response)
        if unreported is not None:
            response = replace(response, usage=unreported)
        price = resolve.price_reply(response, self.info.settings)
        usage = Usage(
            input_tokens=resolve.tokens(response.usage.input_tokens),
            output_tokens=resolve.tokens(response.usage.output_tokens),
            cost=None if price is None else price.dollars,
            estimated=unreported is not None,
            list_price=price is not None and price.listed,
        )
        answered = self.tried.answered or self.names.get(response.model_name or "")
        return Reading(usage=usage, model=answered, key=self.by_member.get(answered or ""))

    def describe(self, payload: Payload) -> str:
        return fallback_record.describe_reply(payload, self.name, self.tried.answered, self.names)

    def cacheable(self, payload: Payload) -> bool:
        """Only a whole reply is."""
        cut = payload.get("finish_reason") in ("length", "content_filter", "error")
        return not cut and bool(payload.get("parts"))

    def as_replayed(self, payload: Payload) -> Payload:
        return mark_replay(payload)


_instances: WeakValueDictionary[str, Model] = WeakValueDictionary()
_INSTANCE = "agentkit-instance:"


def keep_instance(model: Model) -> str:
    """The id of a model instance that is given to one run: its steps run in this process, so it can simply be kept."""
    key = f"{_INSTANCE}{id(model)}"
    _instances[key] = model
    return key


def model_in_use(model_id: str | None, ctx: RunContext[Any]) -> Model | None:
    if model_id is not None and model_id.startswith(_INSTANCE):
        return _instances.get(model_id)
    return unwrap(ctx.model) if model_id is None or model_id == ctx.model_id else None


def unwrap(model: object) -> Model:
    """The model below what only wraps it."""
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return cast(Model, model)
