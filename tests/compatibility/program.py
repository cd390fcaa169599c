"""A program whose journal an earlier agentkit wrote: every kind of step, by the public names only.

`python program.py FOLDER` runs it with the journal in FOLDER and prints its outputs and its live steps as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent

import agentkit
from agentkit.events import Step
from agentkit.testing import Call, ScriptedModel

PRICES = {"Bern": 120.0, "Rome": 95.0, "Oslo": 180.5}


class Trip(BaseModel):
    city: str
    nights: int


@agentkit.tool(effects="none")
def price(city: str) -> float:
    """The price of a night."""
    return PRICES[city]


@agentkit.tool(effects="once", approve="ask")
def book(city: str, nights: int = 1) -> str:
    """Book a room."""
    return f"booked {nights} in {city}"


@agentkit.tool(effects="idempotent")
async def note(text: str) -> dict[str, Any]:
    """Write something down."""
    return {"text": text, "length": len(text)}


def weigh(things: list[str]) -> int:
    """Weigh things; nobody declared what this does."""
    return sum(map(len, things))


async def perform() -> tuple[list[Any], list[Any]]:
    """Return what the program says, and every answer whose steps are counted."""
    tools = [price, note, weigh]
    turns = [Call("price", {"city": "Bern"}), Call("weigh", {"things": ["bag", "boots"]})]
    scripted = ScriptedModel([turns, Call("note", {"text": "Bern it is"}), "Bern."] * 2)
    agent = agentkit.build(agentkit.Spec(instructions="You compare prices."), name="agent", tools=tools, model=scripted)
    answers: list[Any] = [await agentkit.ask(agent, "Where is it cheap?")]
    offline = agentkit.build(
        agentkit.Spec(instructions="You compare prices."), name="offline", tools=[price], model="offline"
    )
    answers += [await agentkit.ask(offline, prompt) for prompt in ("What is a night in `Rome`?", "What is in `Oslo`?")]
    answers.append(await agentkit.ask(offline, "And in `Bern`?", continues=answers[-1].run.id))
    answers += await asyncio.gather(*(agentkit.ask(offline, "a sample, please") for _ in range(3)))
    typed = agentkit.build(agentkit.Spec(instructions="You plan."), name="typed", output=Trip, model="offline")
    answers.append(await agentkit.ask(typed, "Three nights in `Oslo`."))
    lead = agentkit.build(
        agentkit.Spec(instructions="You lead."),
        name="lead",
        tools=[agent, book],
        model=ScriptedModel(
            [[Call("agent", {"prompt": "Where is it dear?"}), Call("book", {"city": "Oslo"})], "Done."]
        ),
    )
    answers.append(await agentkit.ask(lead, "Arrange it.", headless="allow"))
    said: list[Any] = [_plain(answer.output) for answer in answers]
    adopted = agentkit.durable(Agent(ScriptedModel(["Once upon a time."]), name="teller"))
    async with adopted.run_stream("Tell me a story.") as stream:
        said.append("".join([text async for text in stream.stream_text(delta=True, debounce_by=None)]))
    answers.append(adopted.last)
    result = await agentkit.sandbox(
        "total = 0\nfor city in cities:\n    total = total + price(city=city)\ntotal",
        inputs={"cities": ["Bern", "Rome"]},
        calls=[price],
    )
    return [*said, result.value], answers


def _plain(output: Any) -> Any:
    return output.model_dump() if isinstance(output, BaseModel) else output


def main(folder: Path) -> None:
    with agentkit.session("compatibility", folder=folder):
        said, answers = asyncio.run(perform())
        steps = [event for answer in answers for event in answer.events() if isinstance(event, Step)]
    print(json.dumps({"outputs": said, "steps": len(steps), "live": [s.name for s in steps if not s.replayed]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
