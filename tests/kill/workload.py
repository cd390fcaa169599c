"""What is run and killed: agents over real HTTP, every class of effect, fan-out, sub-agents, streams, big answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
from pydantic_ai.models import Model

from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.journal.execution import idempotency_key
from agentkit.models.transport.http_client import Connections
from agentkit.tools.declaration import tool

STEP = "x-step"
"""The header by which the server's ledger says which step asked."""

SITE = "http://127.0.0.1:0"
"""Where effects happen; the harness sets it before it forks."""


def happened(name: str) -> str:
    """What each tool returns; an oracle that saw the effect knows it too."""
    return f"{name} happened"


def post(name: str) -> str:
    key = idempotency_key() or ""
    headers = {STEP: key, "idempotency-key": key}
    request = urllib.request.Request(f"{SITE}/effect/{name}", data=b"{}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        json.load(reply)
    return happened(name)


async def post_async(name: str) -> str:
    key = idempotency_key() or ""
    async with httpx2.AsyncClient(transport=Connections()) as client:
        await client.post(f"{SITE}/effect/{name}", json={}, headers={STEP: key, "idempotency-key": key})
    return happened(name)


@tool(effects="none")
def look(name: str) -> str:
    """Look something up."""
    return post(name)


@tool(effects="none")
async def find(name: str) -> str:
    """Look something up without a thread."""
    return await post_async(name)


@tool(effects="idempotent")
async def put(name: str) -> str:
    """Put something where putting twice is putting once."""
    return await post_async(name)


@tool(effects="once")
def send(name: str) -> str:
    """Send something that cannot be taken back."""
    return post(name)


@tool(effects="once")
async def order(name: str) -> str:
    """Order something that cannot be taken back."""
    return await post_async(name)


def touch(name: str) -> str:
    """Do something nobody declared."""
    return post(name)


TOOLS = (look, find, put, send, order, touch)
REPEATABLE = frozenset({"look", "find"})
KEYED = frozenset({"put"})


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The agents of the workload."""

    worker: DurableAgent
    lead: DurableAgent


def crew(model: Model, *, tools: Sequence[Any] = TOOLS) -> Crew:
    worker = build(Spec(instructions="Do it."), name="worker", tools=tools, model=model)
    lead = build(Spec(instructions="Lead."), name="lead", tools=[worker, *tools], model=model)
    return Crew(worker=worker, lead=lead)


def does(*turns: str) -> str:
    """A prompt that makes the server's model call `tool:name` on each turn (`tool:name+tool:name` in parallel)."""
    return "\n".join("do " + " & ".join(map(_call, turn.split("+"))) for turn in turns)


def _call(words: str) -> str:
    tool_name, _, name = words.partition(":")
    return f"{tool_name} {json.dumps({'name': name})}"


async def perform(agents: Crew) -> list[str]:
    """About 40 steps; the outputs, which say what every tool returned."""
    outputs = [await _say(agents.worker, does("look:a1", "send:a2", "touch:a3+put:a4", "order:a5"))]
    outputs += await asyncio.gather(
        *(
            _say(agents.worker, does(turn))
            for turn in ("send:b1+find:b2", "order:b3", "put:b4", "touch:b5", "look:b6+send:b7")
        )
    )
    inner = does("send:c1", "find:c2")
    outputs.append(await _say(agents.lead, f'do worker {json.dumps({"prompt": inner})} & order {{"name": "c3"}}'))
    outputs.append((await ask(agents.worker, does("order:d1"), on_text=lambda text: None)).output)
    outputs.append(await _read(agents.worker, "tell me a story of a journal that forgot nothing"))
    outputs += await asyncio.gather(*(_say(agents.worker, "a sample, please") for _ in range(3)))
    return outputs


async def streamed(agents: Crew) -> list[str]:
    """Long answers read piece by piece, one after the other and two at once, some after tools."""
    outputs = [await _read(agents.worker, "tell of the sea\nwrite 200")]
    outputs += await asyncio.gather(*(_read(agents.worker, f"tell of {what}\nwrite 120") for what in ("ice", "fire")))
    outputs.append(
        (await ask(agents.lead, does("look:s1", "send:s2") + "\nwrite 80", on_text=lambda text: None)).output
    )
    outputs.append(await _read(agents.worker, does("touch:s3+find:s4", "put:s5") + "\nwrite 80"))
    return outputs


async def wide(agents: Crew) -> list[str]:
    """Many runs at once, each with an effect, and as many samples of one prompt."""
    turns = ("send:w{}", "look:w{}", "order:w{}", "touch:w{}", "put:w{}", "find:w{}")
    prompts = [does(turns[n % len(turns)].format(n)) for n in range(12)] + ["a sample, please"] * 4
    return list(await asyncio.gather(*(_say(agents.worker, prompt) for prompt in prompts)))


async def nested(agents: Crew) -> list[str]:
    """Sub-agents, beside each other and one after the other, below runs that wait for them."""

    def inner(*turns: str) -> str:
        return f"worker {json.dumps({'prompt': does(*turns)})}"

    beside = f"do {inner('send:n1', 'look:n2')} & {inner('order:n3')} & put {json.dumps({'name': 'n4'})}"
    after = f"do {inner('touch:n5')}\ndo {inner('find:n6', 'send:n7')}"
    return list(await asyncio.gather(*(_say(agents.lead, prompt) for prompt in (beside, after))))


async def big(agents: Crew) -> list[str]:
    """Answers of a megabyte, whole and streamed, before and after tools."""
    outputs = [await _say(agents.worker, does("send:g1") + "\nfill 1000000")]
    outputs += await asyncio.gather(
        _read(agents.worker, "read this\nfill 1000000"),
        _say(agents.worker, "take this\nfill 600000"),
        _say(agents.lead, does("order:g2", "touch:g3")),
    )
    return [f"{len(output)} {hashlib.sha256(output.encode()).hexdigest()}" for output in outputs]


Job = Callable[[Crew], Coroutine[Any, Any, list[str]]]

JOBS: dict[str, Job] = {"mixed": perform, "streamed": streamed, "wide": wide, "nested": nested, "big": big}


async def _read(agent: DurableAgent, prompt: str) -> str:
    async with agent.run_stream(prompt) as answer:
        return "".join([text async for text in answer.stream_text(delta=True, debounce_by=None)])


async def _say(agent: DurableAgent, prompt: str) -> str:
    return str((await agent.run(prompt)).output)
