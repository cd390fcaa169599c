"""Which model a string means, what a model is called in keys, and what its replies cost."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any
from urllib.parse import SplitResult, urlsplit
from weakref import WeakSet

import httpx2
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.exceptions import UserError as ModelError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, infer_model, known_model_names
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers import Provider, infer_provider, infer_provider_class
from pydantic_ai.usage import RequestUsage

from agentkit.errors import MissingExtra, UserError
from agentkit.models import pricing
from agentkit.models.fallback import (
    FIRST_TOKEN,
    KNOWS_FIRST_TOKEN,
    CachedReply,
    FallbackChain,
    Member,
    parse_age,
    parse_link,
)
from agentkit.models.offline import OfflineModel
from agentkit.models.pricing import Price
from agentkit.models.transport.http_client import client

DEFAULT = "offline"
_SHORTEST_KEY = 20
_FORTUNE = 1e6
_MOST_TOKENS = 10**12
_USER_INFO = re.compile(r"//[^/\s|]*@")

_OWN_EXTRAS = frozenset({"anthropic", "google", "mcp"})

_MAKERS = {"gpt": "openai", "o3": "openai", "o4": "openai", "claude": "anthropic", "gemini": "google", "grok": "xai"}

_HOME_HOSTS = (
    "api.openai.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "api.groq.com",
    "api.mistral.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "api.x.ai",
    "api.cerebras.ai",
    "openrouter.ai",
)
"""Hosts that a provider's name already says; any other is part of a model's identity."""


def resolve(model: str | Model | None, *, environ: Mapping[str, str] = os.environ) -> Model:
    """The model a string means; `a | b | cached(7d)` is a fallback chain, nothing is AGENTKIT_MODEL or `offline`.

    Nothing is sent: an unknown name, a missing package or a missing key is an error here.
    """
    if isinstance(model, Model):
        return model
    if not model and (default := environ.get("AGENTKIT_MODEL")):
        try:
            return resolve(default, environ=environ)
        except UserError as error:
            error.args = (f"AGENTKIT_MODEL: {error}", *error.args[1:])
            raise
    text = (model or DEFAULT).strip()
    names = [name.strip() for name in text.split("|")]
    if not all(names):
        raise UserError(f"model {text!r}: a name is missing beside '|'; write it as 'openai:gpt-5 | offline'")
    if len(names) == 1 and parse_age(names[0]) is None:
        return _single(names[0])
    return _chain(names)


def _chain(names: Sequence[str]) -> FallbackChain:
    ages = [parse_age(name) for name in names]
    early = next((name for name, age in zip(names, ages, strict=True) if age is not None), None)
    if early is not None and (len(names) == 1 or early != names[-1] or names.count(early) > 1):
        raise UserError(
            f"model {early!r} stands in for models that fail: write it last, as in 'openai:gpt-5 | offline | {early}'"
        )
    links = [parse_link(name) for name in names]
    if any(link.first_token for link in links) and not KNOWS_FIRST_TOKEN:
        raise UserError(
            f"model {' | '.join(names)!r}: a time for the first token needs a newer pydantic-ai: "
            "pip install -U pydantic-ai-slim"
        )
    single = [
        _single(link.name) if age is None else CachedReply(age=age, name=link.name)
        for link, age in zip(links, ages, strict=True)
    ]
    patient = [
        replace(link, first_token=link.first_token or (FIRST_TOKEN if place < len(links) - 1 else None))
        for place, link in enumerate(links)
    ]
    return FallbackChain(
        *(Member(model, link=link, identity=identity(model)) for model, link in zip(single, patient, strict=True))
    )


def _single(name: str) -> Model:
    if name == DEFAULT:
        return OfflineModel()
    if name.startswith(("http://", "https://")):
        return _server(name)
    if ":" not in name and name != "test":
        raise _unknown_model_error(name)
    try:
        return infer_model(name, provider_factory=_provider)
    except ValueError as error:
        raise _unknown_model_error(name) from error
    except ImportError as error:
        raise _missing_package(name) from error
    except ModelError as error:
        raise UserError(f"model {format_model_name(name)!r}: {_remedy(str(error))}") from error


def _server(name: str) -> Model:
    """Any server that speaks OpenAI's chat protocol: `http://127.0.0.1:8000/v1#name`, a key as `http://:KEY@...`."""
    try:
        url = urlsplit(name)
        url.port  # noqa: B018 - it is read when it is asked for
    except ValueError as error:
        raise UserError(
            f"model {format_model_name(name)!r}: {_wrong(error)}; write it as http://127.0.0.1:8000/v1#qwen3"
        ) from error
    if not url.fragment or not url.hostname:
        raise UserError(
            f"model {format_model_name(name)!r}: name the model after a '#', as in http://127.0.0.1:8000/v1#qwen3"
        )
    key = url.password or url.username or "no-key"
    openai: Any = infer_provider_class("openai")
    provider = with_own_client(openai(base_url=_bare(url), api_key=key, http_client=client()))
    return infer_model(f"openai-chat:{url.fragment}", provider_factory=lambda _: _once(provider))


def _provider(name: str) -> Provider[Any]:
    if name.startswith("gateway/"):
        return infer_provider(name)
    kind: Any = infer_provider_class(name)
    takes_client = "http_client" in inspect.signature(kind.__init__).parameters
    return _once(with_own_client(kind(http_client=client())) if takes_client else kind())


_telling: WeakSet[Provider[Any]] = WeakSet()


def with_own_client(provider: Provider[Any]) -> Provider[Any]:
    """A provider whose client is one of ours: what leaves through it is told to the step."""
    _telling.add(provider)
    return provider


def tells_when_it_sends(model: Model) -> bool:
    """Whether every model that may be asked here tells when a request leaves, or asks nobody."""
    return all(isinstance(each, OfflineModel | CachedReply) or _tells(each) for each in members(model))


def _tells(model: Model) -> bool:
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return model.provider in _telling


def _once(provider: Provider[Any]) -> Provider[Any]:
    # The provider's SDK would try each of our tries again.
    if hasattr(provider.client, "max_retries"):
        provider.client.max_retries = 0
    return provider


def _unknown_model_error(name: str) -> UserError:
    near = _nearest(name)
    offer = f"did you mean {near!r}?" if near else "try 'offline', 'openai:gpt-5' or 'http://127.0.0.1:8000/v1#name'"
    return UserError(f"unknown model {format_model_name(name)!r}: {offer}")


def _nearest(name: str) -> str | None:
    known = names()
    kind, colon, model = name.rpartition(":")
    if colon:
        kinds = get_close_matches(kind, dict.fromkeys(each.partition(":")[0] for each in known if ":" in each), n=1)
        return f"{kinds[0]}:{model}" if kinds else None
    if near := get_close_matches(name, [each for each in known if ":" not in each], n=1, cutoff=0.75):
        return near[0]
    maker = next((maker for family, maker in _MAKERS.items() if name.startswith(family)), None)
    return f"{maker}:{name}" if maker else None


def _missing_package(name: str) -> UserError:
    kind = name.partition(":")[0].removeprefix("gateway/")
    extra = "google" if kind.startswith("google") else kind
    if extra in _OWN_EXTRAS:
        return MissingExtra(f"the package for {name!r}", extra)
    return UserError(f"model {name!r}: its package is not installed: pip install 'pydantic-ai-slim[{extra}]'")


def _remedy(message: str) -> str:
    variable = re.search(r"`([A-Z][A-Z0-9_]+)`", message)
    return f"set the environment variable {variable[1]}, or use the model 'offline'" if variable else message


def names() -> list[str]:
    """Model strings for completion: ours first, then what this pydantic-ai knows, gateways last."""
    known = sorted(known_model_names(), key=lambda name: name.startswith("gateway/"))
    return [DEFAULT, *known]


def keys(model: Model) -> Iterator[tuple[str, str]]:
    """The API keys that a model was given, each with the name that its variable would have."""
    for member in members(model):
        key = getattr(getattr(member, "client", None), "api_key", None)
        # What stands for no key, as a server of one's own wants it, is a word that anybody may write.
        if isinstance(key, str) and len(key) >= _SHORTEST_KEY and any(map(str.isdigit, key)):
            yield f"{member.system.upper().replace('-', '_')}_API_KEY", key


def members(model: Model) -> tuple[Model, ...]:
    """The models of a fallback chain in order, or the model itself."""
    inner = model
    while isinstance(inner, WrapperModel):
        inner = inner.wrapped
    if isinstance(model, Member):
        return members(model.wrapped)
    if not isinstance(inner, FallbackModel):
        return (model,)
    return tuple(member for each in inner.models for member in members(each))


def answering_models(model: Model) -> tuple[Model, ...]:
    """The members that answer themselves: all but a cached reply."""
    return tuple(member for member in members(model) if not isinstance(member, CachedReply))


def identity(model: Model) -> str:
    """What a model is called in keys: protocol, name, and the server where it is not the provider's own."""
    return " | ".join(_one_identity(member) for member in members(model))


def _one_identity(model: Model) -> str:
    while isinstance(model, WrapperModel):
        model = model.wrapped
    name = model.model_id
    # One server may answer differently on its two protocols, and pydantic-ai calls both `openai:`.
    if name.startswith("openai:") and any(kind.__name__ == "OpenAIChatModel" for kind in type(model).__mro__):
        name = f"openai-chat:{name.removeprefix('openai:')}"
    url = urlsplit(model.base_url or "")
    at_home = not url.hostname or url.hostname in _HOME_HOSTS
    return name if at_home else f"{name} @ {_bare(url)}"


def format_model_name(name: str) -> str:
    """What a model, or a chain of them, was called, without the keys in its addresses."""
    return _USER_INFO.sub("//", name)


def _bare(url: SplitResult) -> str:
    """The URL without key, query and model name."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{host}{port}{url.path.rstrip('/')}"


def price(response: ModelResponse) -> float | None:
    """What a reply costs in USD at list price, 0.0 for `offline`, None where no price is known."""
    found = price_reply(response)
    return None if found is None else found.dollars


def price_reply(response: ModelResponse, settings: Mapping[str, Any] | None = None) -> Price | None:
    """The price of a reply in the tier that it says it was answered in, or that `settings` asked for."""
    if response.usage.cost is not None:
        dollars = _plausible_price(float(response.usage.cost))
        return None if dollars is None else Price(dollars=dollars)
    # Older releases do not say it of a reply that its server counted nothing for.
    if not response.model_name or int(getattr(response.usage, "unmeasured_requests", False)):
        return None
    answered = pricing.tier_of(response.provider_details)
    found = pricing.price_of(
        response.usage,
        model=response.model_name,
        provider=response.provider_name,
        url=response.provider_url,
        at=response.timestamp,
        tier=pricing.tier_of_settings(settings) if answered is None else answered,
    )
    return None if found is None or _plausible_price(found.dollars) is None else found


def _plausible_price(dollars: float) -> float | None:
    """A price that a server gives, or that follows from its counts: less than nothing is none, and so is a fortune."""
    return dollars if 0 <= dollars <= _FORTUNE else None


def tokens(counted: int) -> int:
    """A count that a server gives: a wrong one must not lose the reply, and not give back what others have used."""
    return min(max(counted, 0), _MOST_TOKENS)


def list_price(
    model: Model, usage: RequestUsage, settings: Mapping[str, Any] | None = None, *, batched: bool = False
) -> float | None:
    """The most that a reply of this model would cost in USD, known before it is asked; None where no price is known.

    `batched`: it is asked in a batch.
    """
    settings = {**(getattr(model, "settings", None) or {}), **(settings or {})}
    while isinstance(model, WrapperModel):
        model = model.wrapped
    if isinstance(model, OfflineModel):
        return 0.0
    fixed = getattr(model, "cost_of_reply", None)
    if fixed is not None:
        return _plausible_price(float(fixed))
    if batched:
        dollars = pricing.in_batch(usage, model=model.model_name, provider=model.system)
    else:
        tier = pricing.tier_of_settings(settings)
        dollars = pricing.dearest(usage, model=model.model_name, provider=model.system, tier=tier)
    return None if dollars is None else _plausible_price(dollars)


def explain(error: ModelAPIError) -> str:
    """One line for a failed request: what happened, at which model, what to do."""
    where = _describe_place(error)
    if isinstance(error, ModelHTTPError):
        at = "" if where is None else f" at {where}"
        return f"model {error.model_name!r}{at} answered {error.status_code}: {_advice(error)}"
    lost = next((cause for cause in _causes(error) if isinstance(cause, httpx2.TransportError)), None)
    if lost is None:
        return f"model {error.model_name!r}: {'' if where is None else f'{where}: '}{error.message}"
    where = where or "the server"
    if (untrusted := explain_certificate_error(lost)) is not None:
        return f"model {error.model_name!r}: {where}: {untrusted}"
    if isinstance(lost, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return f"model {error.model_name!r}: cannot reach {where} ({lost}); is the server running and the URL right?"
    if isinstance(lost, httpx2.TimeoutException):
        return f"model {error.model_name!r}: {where} did not answer in time; run again, or set a longer timeout"
    detail = str(lost) or type(lost).__name__
    return f"model {error.model_name!r}: {where} cut the connection ({detail}); nothing was recorded, run again"


def _wrong(error: ValueError) -> str:
    """What `urlsplit` found wrong with an address, without the part of it that may hold a key."""
    return "its port is no number from 0 to 65535" if "ort" in str(error) else "it is not an address"


def explain_certificate_error(error: BaseException) -> str | None:
    """Return what to do about a certificate that nobody vouches for; None where something else went wrong."""
    for cause in _causes(error):
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            why = re.search(r"verify failed: ([^(]+)", str(cause))
            said = why[1].strip() if why else "it cannot be verified"
            return f"its certificate is not trusted ({said}): set SSL_CERT_FILE to that of the authority that signed it"
    return None


def _advice(error: ModelHTTPError) -> str:
    match error.status_code:
        case 401 | 403:
            return "the key is missing or refused; check the provider's environment variable"
        case 404:
            return "no such model or path; check the name after ':' or '#' and the base URL"
        case 429:
            return f"too many requests or no quota, also after waiting ({_describe_error(error)}); wait, then run again"
        case status if status >= 500:
            return f"the server failed, also when tried again ({_describe_error(error)}); run again later"
        case _:
            return _describe_error(error)


def _describe_error(error: ModelHTTPError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(body or "no details").split())[:200]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _describe_place(error: BaseException) -> str | None:
    """The URL that was asked, as far as the error or what caused it has the request."""
    for cause in _causes(error):
        try:
            request = getattr(cause, "request", None)
        except RuntimeError:
            # httpx2 raises it for an error that no request was put on.
            continue
        if (url := getattr(request, "url", None)) is not None:
            return _bare(urlsplit(str(url)))
    return None
