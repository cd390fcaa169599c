"""What agentkit gives to a tracer: names, times and figures of every step, and nothing of what was said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import agentkit
from agentkit.agent.spec import Spec
from agentkit.testing import Call, ScriptedModel
from tests.journal.tokens import SECRETS

WORDS = "the words of a prompt"


@pytest.mark.parametrize("fails", [False, True])
def test_spans_hold_nothing_of_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    token = SECRETS["github-token"]

    @agentkit.tool(effects="none")
    def use(value: str) -> str:
        """Use it."""
        if fails:
            raise RuntimeError(f"not with {value}")
        return f"used {value}"

    model = ScriptedModel([Call("use", {"value": token}), f"done with {token}"])
    agent = agentkit.build(Spec.parse("Go."), name="spanned", tools=[use], model=model)
    with agentkit.session(folder=tmp_path):
        asked = agentkit.ask(agent, f"{WORDS} {token}")
        if fails:
            with pytest.raises(RuntimeError):
                asyncio.run(asked)
        else:
            asyncio.run(asked)
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) >= 3 and "execute_tool use" in "".join(spans)
    assert token not in "".join(spans) and WORDS not in "".join(spans)
