#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0: a run opened with `agent.iter()` can be advanced from other asyncio tasks, but closing it from
# another task fails with a ValueError about a ContextVar token.
#
# Why one would guess otherwise: every cell of a notebook is its own task, and `run.next()` works across cells.
# What is seen: enter in one task, next in a second, exit in a third.
# What follows: a run that is stepped through cell by cell needs one driver task that opens and closes it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pydantic-ai-slim==2.68.0
cat > probe.py <<'PY'
import asyncio
import contextvars
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

async def cell(coroutine):
    return await asyncio.create_task(coroutine, context=contextvars.copy_context())

async def main():
    manager = Agent(TestModel(), name="probe").iter("hello")
    run = await cell(manager.__aenter__())
    node = await cell(run.next(run.next_node))
    print("advanced in another task:", type(node).__name__)
    try:
        await cell(manager.__aexit__(None, None, None))
    except ValueError as error:
        return "different Context" in str(error), str(error).split(" var=")[-1][:60]
    return False, "closed"

failed, words = asyncio.run(main())
print("closed in another task:", words)
assert failed, "the behaviour changed"
PY
env/bin/python probe.py
