"""What providers say of batches beside what pydantic-ai asks: who takes them, whether one was sent, how far it is.

pydantic-ai creates batches, reads their results and knows their formats (`Model.batch_*`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple

from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError, ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.batch import Batch
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel

from agentkit.errors import UserError
from agentkit.models.offline import OfflineModel

_CLOCKS = timedelta(minutes=10)
"""How far the clocks of a provider and of this machine may be apart."""
_AT_ONCE = 100
_TRANSIENT = frozenset({408, 409, 425, 429})


class Counts(NamedTuple):
    """How many requests of a batch the provider has answered, and how many of these with an error."""

    done: int
    failed: int


def explain_missing_batch_api(model: Model | None) -> str | None:
    """Return why the requests of this model cannot be batched, and what to do; None where they can."""
    inner = model
    while isinstance(inner, WrapperModel):
        inner = inner.wrapped
    if inner is None:
        return "the agent has no model: give it one that has a batch API, such as openai:gpt-5-mini"
    if isinstance(inner, FallbackModel):
        return f"a batch is answered by one model, and {inner.model_name} is a chain: build the agent with one of them"
    kind = type(inner).__name__
    if isinstance(inner, OfflineModel):
        return f"{inner.model_name} ({kind}) answers at once and for free: leave out batch"
    remote = "InMemoryBatchModel" not in {base.__name__ for base in type(inner).__mro__}
    if inner.batch_max_requests is not None and remote:
        return None
    if any(base.__name__ == "OpenAIChatModel" for base in type(inner).__mro__) and inner.system == "openai":
        return (
            f"{inner.model_name} ({kind}) is asked over the chat protocol, for which there are no batches: "
            f"build the agent with model='openai:{inner.model_name}' (the Responses protocol), or leave out batch"
        )
    return (
        f"{inner.model_name} ({kind}) has no batch API: build the agent with an openai:, anthropic: or google: model, "
        "or leave out batch"
    )


def is_transient(error: ModelAPIError) -> bool:
    """Whether the same request may be answered when it is sent again, as one that was sent alone would be."""
    if isinstance(error, ModelConnectionError):
        return True
    return isinstance(error, ModelHTTPError) and (error.status_code in _TRANSIENT or error.status_code >= 500)


async def count_answered(model: Model, batch: Batch) -> Counts | None:
    """Return how far a batch is that has not ended; None where the provider does not say it before the end."""
    client = _client(model)
    if not _is_openai(client):
        return None
    try:
        counts = (await client.batches.retrieve(batch.id)).request_counts
    except _api_error(client):
        # The batch itself was looked at a moment ago: this number is for the eye only.
        return None
    return None if counts is None else Counts(counts.completed, counts.failed)


def can_be_found(model: Model) -> bool:
    """Whether it can be looked up whether a batch was created."""
    client = _client(model)
    return _is_openai(client) or _is_anthropic(client)


async def find_batch(model: Model, *, token: str, requests: int, group: str, since: float) -> Batch | None:
    """Return the batch whose custom ids end with `token`; None where none was created since then (unix seconds).

    Raises UserError where that cannot be told yet.
    """
    client, earliest = _client(model), datetime.fromtimestamp(since, UTC) - _CLOCKS
    find = _find_at_openai if _is_openai(client) else _find_at_anthropic
    try:
        id_ = await find(client, token, requests, earliest)
    except _api_error(client) as error:
        raise UserError(
            f"whether a batch of {requests:,} rows was created at {model.system} cannot be looked up ({error}): "
            "run it again when it can be reached"
        ) from error
    if id_ is None:
        return None
    handle = Batch(
        id=id_, model_name=model.model_name, provider_name=model.system, group=group, status="in_progress",
        created_at=datetime.now(UTC), request_count=requests,
    )  # fmt: skip
    return await model.batch_status(handle)


async def _find_at_openai(client: Any, token: str, requests: int, earliest: datetime) -> str | None:
    """Each batch names its input file, whose first line has a custom id."""
    async for batch in client.batches.list(limit=_AT_ONCE):
        if datetime.fromtimestamp(batch.created_at, UTC) < earliest:
            return None
        counts = batch.request_counts
        if counts is not None and counts.total and counts.total != requests:
            continue
        async with client.files.with_streaming_response.content(batch.input_file_id) as file:
            if await _first_id(file.iter_lines(), token):
                return str(batch.id)
    return None


async def _first_id(lines: AsyncIterator[str], token: str) -> bool:
    async for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            return False
        return isinstance(said, dict) and str(said.get("custom_id")).endswith(token)
    return False


async def _find_at_anthropic(client: Any, token: str, requests: int, earliest: datetime) -> str | None:
    """A batch says nothing of its requests before it has ended: until then only its size and its time tell."""
    possible: list[str] = []
    async for batch in client.beta.messages.batches.list(limit=_AT_ONCE):
        if batch.created_at < earliest:
            break
        counts = batch.request_counts
        if sum((counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired)) != requests:
            continue
        if batch.processing_status != "ended":
            possible.append(str(batch.id))
        elif batch.results_url is not None:
            async for result in await client.beta.messages.batches.results(batch.id):
                if str(result.custom_id).endswith(token):
                    return str(batch.id)
                break
    if len(possible) > 1:
        raise UserError(
            f"one of the batches {', '.join(possible)} may hold these rows, and Anthropic says which only when they "
            "have ended: run it again then"
        )
    return possible[0] if possible else None


def _api_error(client: Any) -> type[Exception]:
    # Each of them is loaded where there is such a client.
    error: type[Exception] = import_module("openai" if _is_openai(client) else "anthropic").APIError
    return error


def _client(model: Model) -> Any:
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return getattr(model, "client", None)


def _is_openai(client: Any) -> bool:
    return hasattr(client, "batches") and hasattr(client, "files")


def _is_anthropic(client: Any) -> bool:
    return hasattr(client, "beta") and hasattr(client, "messages") and not _is_openai(client)
