"""A fallback chain of models: which failure leads on to which member, decided before the first token."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings, merge_model_settings

from agentkit.errors import UserError
from agentkit.models.canned_replies import WordByWord
from agentkit.models.request_context import Attempts, Cause, Failed, current_request, update_request
from agentkit.models.transport.rate_limit import NotSent
from agentkit.values.durations import parse_duration

FIRST_TOKEN = 30.0
"""Seconds until a streamed answer of a member that is not the last must have begun."""

REST = 30.0
"""Seconds for which a member that was down or over its rate is not asked again in the same cell."""
_LONGEST_REST = 600.0

KNOWS_FIRST_TOKEN = "first_event_timeout" in ModelSettings.__annotations__
"""Whether this pydantic-ai can give a member up before its first token; older ones wait for it."""

_OPTIONS = re.compile(r"^(?P<name>.*\S)\s*\((?P<options>[^()]*)\)$")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A member as typed: `NAME`, `NAME(5s)` for its first token, `NAME(filter)` where it takes what was filtered."""

    name: str
    first_token: float | None = None
    takes_filtered: bool = False


def parse_link(text: str) -> Link:
    found = _OPTIONS.match(text)
    if found is None or found["name"] == "cached":
        return Link(name=text)
    first, takes = None, False
    for option in filter(None, (part.strip() for part in found["options"].split(","))):
        if option == "filter":
            takes = True
        elif (seconds := parse_duration(option, bare=False)) is not None:
            first = seconds
        else:
            raise UserError(
                f"model {text!r}: what is {option!r}? In brackets stand a time for the first token (10s), "
                "or filter for a member that takes what another one's content filter refused"
            )
    return Link(name=found["name"], first_token=first, takes_filtered=takes)


def parse_age(text: str) -> float | None:
    """The seconds that `cached(7d)` says; None for any other name."""
    found = re.match(r"^cached\s*(?:\((.*)\))?$", text)
    if found is None:
        return None
    seconds = parse_duration(found[1] or "", bare=False)
    if seconds is None:
        raise UserError(f"model {text!r}: write how old a cached reply may be, as in cached(7d) or cached(12h)")
    return seconds


class PassedOver(ModelAPIError):
    """A member was not asked, because it could not have helped."""


class Resting(PassedOver):
    """A member was not asked, because it failed a moment ago in the same cell."""


class Member(WrapperModel):
    """One model of a chain: asked only where what failed before it makes it worth while, and remembered when it is."""

    def __init__(self, wrapped: Model, *, link: Link, identity: str) -> None:
        super().__init__(wrapped)
        self.link = link
        self.identity = identity
        self.filter_goes_on = False

    def _start_request_deadline(self, model_settings: ModelSettings | None, **given: Any) -> Any:
        # Older releases start it without saying whether it is for a stream, and know no limit for its first event.
        if given.get("stream") and self.link.first_token is not None:
            patience = ModelSettings(first_event_timeout=self.link.first_token)
            model_settings = merge_model_settings(patience, model_settings)
        return self.wrapped._start_request_deadline(model_settings, **given)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self._check()
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        if response.finish_reason == "content_filter" and self.filter_goes_on:
            raise ContentFilterError(f"{self.identity}: the content filter ended the answer")
        self._answers()
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        self._check()
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as response:
            # A stream that fails before its first event is followed by another member, which says so in its turn.
            self._answers()
            yield response

    def _answers(self) -> None:
        if (seen := current_request.get().attempts) is not None:
            seen.answered = self.identity

    def _check(self) -> None:
        seen = current_request.get().attempts
        passing = current_request.get().affordable
        if passing is not None and self.identity not in passing and not isinstance(self.wrapped, CachedReply):
            raise PassedOver(self.model_name, "the budget does not allow it")
        if seen is None:
            return
        if (left := seen.resting.get(self.identity, 0.0) - time.monotonic()) > 0:
            raise Resting(self.model_name, f"it failed a moment ago and is left alone for {left:.0f} s")
        causes = {failed.cause for failed in seen.failed}
        if "content filter" in causes and not self.link.takes_filtered:
            raise PassedOver(self.model_name, "is not marked (filter), and a content filter refused this")
        if "context overflow" in causes:
            window = self.context_window
            needed = max(
                (failed.window or 0 for failed in seen.failed if failed.cause == "context overflow"), default=0
            )
            if isinstance(self.wrapped, CachedReply) or (window is not None and needed and window <= needed):
                raise PassedOver(self.model_name, "its window is no larger than the one that overflowed")


class FallbackChain(FallbackModel):
    """pydantic-ai's fallback over members that know the cause: a wrong request goes nowhere, an outage goes on."""

    def __init__(self, *members: Member) -> None:
        for place, member in enumerate(members):
            member.filter_goes_on = any(later.link.takes_filtered for later in members[place + 1 :])
        super().__init__(*members, fallback_on=self._is_recoverable)
        self._links = members

    def _is_recoverable(self, error: Exception) -> bool:
        if not isinstance(error, ModelAPIError | ContentFilterError):
            return False
        seen = current_request.get().attempts
        tried = 0 if seen is None else len(seen.failed)
        member = self._links[min(tried, len(self._links) - 1)]
        cause = cause_of(error)
        if cause == "content filter" and not member.filter_goes_on:
            return False
        if cause == "refused":
            return False
        if seen is not None:
            if cause in ("outage", "rate limit"):
                seen.resting[member.identity] = time.monotonic() + _rest(error)
            seen.failed.append(
                Failed(
                    member.identity, cause, _describe_error(error), member.context_window, isinstance(error, Resting)
                )
            )
            seen.answered = None
        return True

    def _begin(self) -> None:
        seen = current_request.get().attempts
        if seen is None or seen.begun:
            seen = Attempts(resting={} if seen is None else seen.resting)
            update_request(attempts=seen)
        seen.begun = True
        asking = {member.identity for member in self._links if not isinstance(member.wrapped, CachedReply)}
        if all(seen.resting.get(name, 0.0) > time.monotonic() for name in asking):
            # Nobody else is left: rather ask one of them too early than nobody.
            seen.resting.clear()

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self._begin()
        return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        self._begin()
        async with super().request_stream(messages, model_settings, model_request_parameters, run_context) as response:
            yield response


def _rest(error: Exception) -> float:
    """How long to leave a member alone: as long as its server says, within bounds."""
    headers = getattr(error, "headers", None) or {}
    try:
        return min(max(float(headers.get("retry-after", REST)), 0.0), _LONGEST_REST)
    except ValueError:
        # A date; how far it is off depends on two clocks.
        return REST


def cause_of(error: Exception) -> Cause:
    """What a failure of a member means for the others."""
    match error:
        case PassedOver():
            return "passed over"
        case ContentFilterError():
            return "content filter"
        case ModelContextWindowExceededError():
            return "context overflow"
        case ModelRateLimitError() | ModelQuotaExceededError():
            return "rate limit"
        case ModelAuthenticationError() | ModelNotFoundError():
            return "outage"
        case ModelRequestRejectedError() if _is_filter(error):
            return "content filter"
        case ModelRequestRejectedError():
            return "refused"
        case _:
            return "outage"


def _is_filter(error: Exception) -> bool:
    body = error.body if isinstance(error, ModelHTTPError) else None
    return "content_filter" in str(body) or "content_policy" in str(body)


def _describe_error(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotSent):
            return str(cause)
        cause = cause.__cause__
    if isinstance(error, ModelHTTPError):
        return str(error.status_code)
    return " ".join(str(getattr(error, "message", error)).split())[:120]


class CachedReply(Model):
    """The last member of a chain: an earlier reply to the same request, as old as allowed, and labelled as stale."""

    def __init__(self, *, age: float, name: str) -> None:
        super().__init__()
        self._age = age
        self._name = name

    @property
    def model_name(self) -> str:
        return self._name

    @property
    def model_id(self) -> str:
        return self._name

    @property
    def system(self) -> str:
        return "agentkit"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return self._reply()

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        reply = self._reply()
        stream = WordByWord(model_request_parameters=model_request_parameters, reply=reply, seconds=0.0)
        stream.metadata = reply.metadata
        yield stream

    def _reply(self) -> ModelResponse:
        find = current_request.get().last_resort
        found = "nothing is recorded outside a session" if find is None else find(self._age)
        if isinstance(found, str):
            raise ModelAPIError(self._name, found)
        return found
