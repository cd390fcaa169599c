#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0: a `ModelResponse` whose usage has the cost Decimal("NaN") is written by `ModelMessagesTypeAdapter` without a
# word, and cannot be read back by the same adapter.
#
# Why one would guess otherwise: what an adapter dumps as JSON it validates as JSON.
# What is seen: the round trip of a history with a finite price and with NaN (what a price table with an unknown rate gives).
# What follows: a price must be checked before it becomes part of a stored history.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pydantic-ai-slim==2.68.0
cat > probe.py <<'PY'
from decimal import Decimal
from pydantic import ValidationError
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

def round_trip(cost):
    raw = ModelMessagesTypeAdapter.dump_json([ModelResponse(parts=[TextPart("hello")], usage=RequestUsage(cost=cost))])
    try:
        return f"read back with cost {ModelMessagesTypeAdapter.validate_json(raw)[0].usage.cost}"
    except ValidationError as error:
        return f"refused: {error.errors()[0]['type']}"

finite, unknown = round_trip(Decimal("0.5")), round_trip(Decimal("NaN"))
print("cost 0.5:", finite, "| cost NaN:", unknown)
assert (finite, unknown) == ("read back with cost 0.5", "refused: finite_number"), "the behaviour changed"
PY
env/bin/python probe.py
