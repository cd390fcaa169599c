"""Prices of service tiers, batches and long contexts, before a request is made and after it was answered."""

from __future__ import annotations

import pytest
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage

from agentkit.models import pricing, resolve
from agentkit.models.offline import OfflineModel
from tests.tables import cases, named


def pairs(text: str) -> dict[str, str]:
    return dict(part.split("=") for part in text.split())


@pytest.mark.parametrize("case", cases("prices/tiers"), ids=named)
def test_a_tier_has_its_own_price_or_is_marked_as_list_price(case: dict[str, str]) -> None:
    usage, asked = RequestUsage(input_tokens=int(case["input"])), pairs(case["asked"])
    reply = ModelResponse(
        parts=[], usage=usage, model_name=case["model"], provider_name=case["provider"],
        provider_details=pairs(case["answered"]) or None,
    )  # fmt: skip
    found = resolve.price_reply(reply, asked)
    assert found is not None
    assert found.dollars == pytest.approx(float(case["price"])) and found.listed == (case["sure"] == "list")
    reserve = pricing.dearest(
        usage, model=case["model"], provider=case["provider"], tier=pricing.tier_of_settings(asked)
    )
    assert reserve == pytest.approx(float(case["reserve"]))


def test_the_settings_of_a_model_are_asked_for_too_and_bedrock_names_its_tier_inside() -> None:
    assert pricing.tier_of_settings({"bedrock_service_tier": {"type": "priority"}}) == {"service_tier": "priority"}
    assert pricing.tier_of_settings({"service_tier": "flex", "openai_service_tier": "priority"}) == {
        "service_tier": "priority"
    }
    assert pricing.tier_of_settings({"anthropic_speed": "fast", "temperature": 0.5}) == {"speed": "fast"}
    assert resolve.list_price(WrapperModel(OfflineModel()), RequestUsage(input_tokens=5), {"service_tier": "flex"}) == 0
