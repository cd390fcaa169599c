"""Whether the configured models can be used: their key, their server, what they support and what they cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

from agentkit.errors import UserError, nearest
from agentkit.journal.execution import shorten
from agentkit.models import resolve
from agentkit.models.fallback import CachedReply, parse_link
from agentkit.models.transport.http_client import Connections
from agentkit.text import visible_line

CheckAnswer: TypeAlias = Literal["yes", "no", "unknown", "not needed"]

_LISTED = 5
_SECONDS = 5.0
_NAME = 120
# Where the list of models is, when the version is not part of the base URL.
_LISTS = {"api.anthropic.com": "/v1/models", "generativelanguage.googleapis.com": "/v1beta/models"}
_LOCAL = ("agentkit", "test", "function", "scripted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkup:
    """What was found of one model. `problem` is the first thing in its way, and what to do about it."""

    model: str
    used_by: str = ""
    key: CheckAnswer = "unknown"
    reachable: CheckAnswer = "unknown"
    tools: CheckAnswer = "unknown"
    streaming: CheckAnswer = "unknown"
    structured_output: CheckAnswer = "unknown"
    price: CheckAnswer = "unknown"
    window: int | None = None
    problem: str = ""


async def examine(configured: Mapping[str, str | Model], *, environ: Mapping[str, str] = os.environ) -> list[Checkup]:
    """One checkup for each model, by name; members of a chain each have their own. No model is asked anything."""
    members = [found for name, model in configured.items() for found in _members(name, model, environ)]
    users: dict[str, list[str]] = {}
    for name, model in members:
        users.setdefault(_label(model), []).append(name)
    unique = {_label(model): model for _, model in members}
    return list(
        await asyncio.gather(
            *(_checkup(", ".join(dict.fromkeys(users[label])), model) for label, model in unique.items())
        )
    )


def _members(used_by: str, model: str | Model, environ: Mapping[str, str]) -> list[tuple[str, Model | Checkup]]:
    names: Sequence[str | Model] = [model] if isinstance(model, Model) else [part.strip() for part in model.split("|")]
    found: list[tuple[str, Model | Checkup]] = []
    for name in names:
        if isinstance(name, str) and name.startswith("cached"):
            continue
        try:
            resolved = resolve.resolve(parse_link(name).name if isinstance(name, str) else name, environ=environ)
        except UserError as error:
            key: CheckAnswer = "no" if "environment variable" in str(error) else "unknown"
            found.append((used_by, Checkup(model=str(name), used_by=used_by, key=key, problem=str(error))))
            continue
        found += [(used_by, one) for one in resolve.members(resolved) if not isinstance(one, CachedReply)]
    return found


def _label(model: Model | Checkup) -> str:
    """Equal for what needs only one checkup: the same model with the same key."""
    return model.model if isinstance(model, Checkup) else f"{resolve.identity(model)} {_key_of(model)}"


def _key_of(model: Model) -> str:
    return str(getattr(getattr(model, "client", None), "api_key", None) or "")


async def _checkup(used_by: str, model: Model | Checkup) -> Checkup:
    if isinstance(model, Checkup):
        return replace(model, used_by=used_by)
    reachable, key, problem = await _reach(model)
    profile: Mapping[str, Any] = model.profile
    structured = profile.get("supports_json_schema_output") or profile.get("supports_json_object_output")
    return Checkup(
        model=resolve.identity(model),
        used_by=used_by,
        key=key,
        reachable=reachable,
        tools=_as_answer(profile.get("supports_tools", True)),
        streaming=_as_answer(type(model).request_stream is not Model.request_stream),
        structured_output=_as_answer(structured or profile.get("supports_tools", True)),
        price=_check_price(model),
        window=model.context_window,
        problem=problem,
    )


def _as_answer(value: object) -> CheckAnswer:
    return "yes" if value else "no"


def _check_price(model: Model) -> CheckAnswer:
    return _as_answer(resolve.list_price(model, RequestUsage(input_tokens=1000, output_tokens=1000)) is not None)


async def _reach(model: Model) -> tuple[CheckAnswer, CheckAnswer, str]:
    """Whether the server answers, and takes the key: its list of models is asked for, which costs nothing."""
    if model.system in _LOCAL or not model.base_url:
        return ("not needed", "not needed", "") if model.system in _LOCAL else ("unknown", "unknown", "")
    base = model.base_url.rstrip("/")
    url = base + _LISTS.get(urlsplit(base).hostname or "", "/models")
    try:
        status, listed = await _list(url, _key_of(model))
    except httpx2.TransportError as error:
        where = urlsplit(url).netloc.rpartition("@")[2]
        if (untrusted := resolve.explain_certificate_error(error)) is not None:
            return "no", "unknown", f"{where}: {untrusted}"
        return "no", "unknown", f"cannot reach {where} ({type(error).__name__}): is it running, and the URL right?"
    if status in (401, 403):
        return "yes", "no", f"the key is refused ({status}): check the provider's environment variable"
    if status >= 500:
        return "no", "unknown", f"the server fails ({status}): try again later"
    return "yes", "yes" if status < 300 else "unknown", _missing(model.model_name, listed)


def _missing(name: str, listed: Sequence[str]) -> str:
    """What to say of a model that its server does not list; lists may give it with a date or a folder."""
    if not listed or any(name == each or each.startswith(f"{name}-") or each.endswith(f"/{name}") for each in listed):
        return ""
    shown = ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")
    return f"the server does not list {name}{nearest(name, listed)}; it has {shown}"


async def _list(url: str, key: str) -> tuple[int, tuple[str, ...]]:
    """The status of a server's list of models, and the names in it where it is one."""
    headers = {"authorization": f"Bearer {key}", "x-api-key": key, "anthropic-version": "2023-06-01"}
    if "googleapis" in url:
        headers = {"x-goog-api-key": key}
    transport = Connections()
    async with httpx2.AsyncClient(transport=transport, timeout=_SECONDS) as client:
        answer = await client.get(url, headers=headers)
    try:
        body = answer.json() if answer.is_success else {}
    except ValueError:
        body = {}
    found = (body.get("data") or body.get("models") or ()) if isinstance(body, dict) else ()
    names = (each.get("id") or each.get("name") for each in found if isinstance(each, dict))
    # A server may say anything: what is shown of it steers no screen.
    return answer.status_code, tuple(shorten(visible_line(str(name)), _NAME) for name in names if name)
