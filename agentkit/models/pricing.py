"""What tokens of a model cost at list price: service tiers, batches and long contexts as genai-prices knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_ai.usage import RequestUsage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

_STANDARD = frozenset({"auto", "default", "standard", "standard_only", "on_demand"})
_TIERS = ("service_tier", "speed", "processing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """USD for one request; `listed`: it was asked in a tier whose price is not known, so this is the standard one."""

    dollars: float
    listed: bool = False


def tier_of(details: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return the tier that a reply says it was answered in; empty is the standard one, None where it does not say."""
    told = {name: str(value) for name, value in (details or {}).items() if name in _TIERS and value}
    return _beyond_standard(told) if told else None


def tier_of_settings(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the tier that a request asks for, by its own setting of the provider before the common one."""
    asked: dict[str, str] = {}
    for name, value in sorted((settings or {}).items(), key=lambda item: item[0] not in _TIERS):
        kind = next((tier for tier in _TIERS if name == tier or name.endswith(f"_{tier}")), None)
        # Bedrock names its tier inside a mapping.
        if kind is not None and (said := value.get("type") if isinstance(value, Mapping) else value):
            asked[kind] = str(said)
    return _beyond_standard(asked)


def _beyond_standard(tier: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tier.items() if value not in _STANDARD}


def price_of(
    usage: RequestUsage, *, model: str, provider: str | None, url: str | None, at: datetime | None, tier: dict[str, str]
) -> Price | None:
    """Return what a request took in this tier; None where no price is known."""
    found = _find(model, provider, url)
    if found is None:
        return None
    known = tier if not tier or _knows(found[1], tier) else {}
    dollars = _calculate(found, usage, at, known)
    return None if dollars is None else Price(dollars=dollars, listed=bool(tier) and not known)


def in_batch(usage: RequestUsage, *, model: str, provider: str | None) -> float | None:
    """Return what a request takes in a batch; the standard price where no other is known, None where none is."""
    price = price_of(usage, model=model, provider=provider, url=None, at=None, tier={"processing": "batch"})
    return None if price is None else price.dollars


def dearest(usage: RequestUsage, *, model: str, provider: str | None, tier: dict[str, str]) -> float | None:
    """Return the most that a request may take which asks for this tier: a server may answer it in another one."""
    found = _find(model, provider, None)
    if found is None:
        return None
    asked = [tier] if not tier or _knows(found[1], tier) else _variants(found[1])
    prices = (_calculate(found, usage, None, each) for each in ({}, *asked))
    return max((price for price in prices if price is not None), default=None)


def _find(model: str, provider: str | None, url: str | None) -> tuple[Provider, ModelInfo] | None:
    # Half a second of prices, wanted by the first reply and not by an import.
    from genai_prices.data_snapshot import get_snapshot

    # The one provider that shares its address with another.
    by_address = None if provider == "openai-decisions" else url
    for provider_id, address in ((None, by_address), (provider, None)):
        if provider_id is None and address is None:
            continue
        try:
            return get_snapshot().find_provider_model(model, None, provider_id, address)
        except LookupError:
            continue
    return None


def _variants(model: ModelInfo) -> list[dict[str, str]]:
    # Older releases of genai-prices know no variants.
    return [dict(variant.when) for variant in getattr(model, "price_variants", None) or ()]


def _knows(model: ModelInfo, tier: dict[str, str]) -> bool:
    conditions = _variants(model)
    return all(any(when.get(name) == value for when in conditions) for name, value in tier.items())


def _calculate(
    found: tuple[Provider, ModelInfo], usage: RequestUsage, at: datetime | None, tier: dict[str, str]
) -> float | None:
    provider, model = found
    context: dict[str, Any] = {"price_context": tier} if tier else {}
    try:
        price = model.calc_price(usage, provider, genai_request_timestamp=at or datetime.now(UTC), **context)
    except (LookupError, ValueError, ArithmeticError):
        return None
    return float(price.total_price)
