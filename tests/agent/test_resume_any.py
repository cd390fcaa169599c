"""Any scripted agent: what is passed over and what is walked are the same, and so is what a change makes of it.

`FORWARD_EXAMPLES=500 python -m pytest tests/agent/test_resume_any.py` draws more of them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel
from pydantic_ai import ModelRetry
from pydantic_ai.capabilities import AbstractCapability, Thinking
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

import agentkit
from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.runtime.run_terms import RunOptions, run_with
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, Output, ScriptedModel
from tests.replaying import assert_same, replies, said, seen, shown, steps

EXAMPLES = int(os.environ.get("FORWARD_EXAMPLES", "12"))

Turn = tuple[str, tuple[tuple[str, dict[str, Any]], ...]]


class Form(BaseModel):
    words: str


class Hook(AbstractCapability[Any]):
    """Does nothing, which nobody can know."""


@dataclass(frozen=True, kw_only=True)
class World:
    """An agent, what its model says turn by turn, and how it is run."""

    script: tuple[Turn, ...]
    server: Literal["none", "asked once", "asked each turn", "prefixed"] = "none"
    output: Literal["text", "picky text", "form"] = "text"
    deps: str | None = None
    effort: Literal["none", "low", "high"] = "none"
    hook: bool = False
    end: Literal["graceful", "early"] = "graceful"
    how: Literal["run", "ask", "told", "stream"] = "ask"
    follows: bool = False
    runs: int = 1
    instructions: str = "Act."
    settings: dict[str, Any] = field(default_factory=dict)
    edited: bool = False
    more: bool = False
    approve: str = ""


@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def _edited(a: int, b: int) -> int:
    """Add."""
    return b + a


_edited.__name__ = "add"
agentkit.tool(effects="none")(_edited)


@agentkit.tool(effects="none")
async def shout(text: str) -> str:
    """Louder."""
    await asyncio.sleep(0.002 if text == "a" else 0)
    return text.upper()


@agentkit.tool(effects="none")
def picky(x: int) -> int:
    """Takes even numbers."""
    if x % 2:
        raise ModelRetry(f"{x} is odd")
    return x // 2


@agentkit.tool(effects="none")
def more() -> str:
    """Nobody calls it."""
    return "more"


shop = MCPServer("shop", instructions="Be brief.")


@shop.tool(annotations=ToolAnnotations(read_only_hint=True))
def size(name: str) -> int:
    """The size of a name."""
    return len(name)


def helper() -> DurableAgent:
    def reply(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        return Call("add", {"a": n, "b": 1}) if n < 2 else "helped"

    return build(Spec(instructions="Help."), name="helper", tools=[add], model=ScriptedModel.by(reply))


def actor(world: World, *, die_at: int | None = None) -> DurableAgent[Any, Any]:
    agent: DurableAgent[Any, Any] = build(
        Spec(instructions=world.instructions),
        name="actor",
        tools=[
            _edited if world.edited else add,
            *(shout, picky, helper()),
            *((more,) if world.more else ()),
            *_server(world),
        ],
        model=ScriptedModel.by(lambda messages: _reply(world, messages, die_at)),
        output=Form if world.output == "form" else None,
        deps=world.deps,
        code=True,
        approve=world.approve,
        # What it does is a step with rules of its own, and random calls repeat themselves.
        breaker="off",
    )
    agent._max_tool_retries = agent._max_output_retries = 9
    agent.end_strategy = world.end
    if world.output == "picky text":
        agent.output_validator(_finished)
    return agent


def _server(world: World) -> list[Any]:
    match world.server:
        case "none":
            return []
        case "prefixed":
            return [MCPToolset(shop, id="shop").prefixed("x")]
        case how:
            return [MCPToolset(shop, id="shop", cache_tools=how == "asked once")]


def _finished(text: str) -> str:
    if text == "draft":
        raise ModelRetry("finish it")
    return text


def _reply(world: World, messages: list[ModelMessage], die_at: int | None) -> Any:
    n = len(replies(messages[_last_prompt(messages) :]))
    if n == die_at:
        raise RuntimeError("the wire is cut")
    if n >= len(world.script):
        ends = ["draft"] if world.output == "picky text" and n == len(world.script) else ["the end"]
        return Output({"words": "the end"}) if world.output == "form" else ends[0]
    text, calls = world.script[n]
    made = [Call(_called(world, name), args) for name, args in calls]
    return [text, *made] if text else made


def _called(world: World, name: str) -> str:
    if name != "size":
        return name
    return {"none": "add", "prefixed": "x_size"}.get(world.server, "size")


def _last_prompt(messages: list[ModelMessage]) -> int:
    return max(
        place
        for place, message in enumerate(messages)
        # Newer releases tell a model to try again in a prompt of their own kind.
        if isinstance(message, ModelRequest) and any(_prompts(part) for part in message.parts)
    )


def _prompts(part: object) -> bool:
    return type(part) is UserPromptPart and part.content in ("go", "and then?")


# -- how it is run


async def once(
    world: World, agent: DurableAgent[Any, Any], *, walk: bool, follows: str | None
) -> tuple[Answer[Any], Any]:
    """The answer, and what else the caller has of it."""
    prompt, deps = "go" if follows is None else "and then?", world.deps
    added: dict[str, Any] = {"model_settings": world.settings} if world.settings else {}
    capabilities: list[Any] = [Thinking(effort=world.effort)] if world.effort != "none" else []
    if world.hook:
        capabilities.append(Hook())
    if capabilities:
        added["capabilities"] = capabilities
    options: dict[str, Any] = {"walk": walk, "headless": "allow", "continues": follows}
    if follows is not None or world.how in ("ask", "told"):
        told: list[str] = []
        on_text = told.append if world.how == "told" else None
        answer = await ask(agent, prompt, deps=deps, more=added, on_text=on_text, **options)
        # Of what was passed over nothing is told; the last thing is the answer, where that is a text.
        return answer, None if world.output == "form" else told[-1:]
    with run_with(RunOptions(**options)):
        if world.how == "run":
            usage = (await agent.run(prompt, deps=deps, **added)).usage
        else:
            async with agent.run_stream(prompt, deps=deps, **added) as stream:
                await stream.get_output()
                usage = stream.usage
    assert agent.last is not None
    return agent.last, asdict(usage)


async def every(world: World, *, walk: bool) -> list[tuple[Answer, Any]]:
    found = []
    for _ in range(world.runs):
        agent = actor(world)
        found.append(await once(world, agent, walk=walk, follows=None))
        if world.follows:
            found.append(await once(world, agent, walk=walk, follows=found[-1][0].run.id))
    return found


@contextmanager
def held(folder: Path) -> Iterator[Session]:
    with session("test", folder=folder) as opened:
        yield opened


def all_of(folder: Path, world: World, *, walk: bool = False) -> list[tuple[Answer, Any]]:
    with held(folder):
        return asyncio.run(every(world, walk=walk))


def cut(folder: Path, world: World, at: int) -> None:
    with held(folder), pytest.raises(RuntimeError):
        asyncio.run(once(replace(world, how="ask"), actor(world, die_at=at), walk=False, follows=None))


_CALL = st.one_of(
    st.tuples(st.just("add"), st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.integers(0, 2)})),
    st.tuples(st.just("shout"), st.fixed_dictionaries({"text": st.sampled_from(["a", "b"])})),
    st.tuples(st.just("picky"), st.fixed_dictionaries({"x": st.integers(0, 3)})),
    st.tuples(st.just("helper"), st.fixed_dictionaries({"prompt": st.sampled_from(["one", "two"])})),
    st.tuples(st.just("run_code"), st.fixed_dictionaries({"code": st.sampled_from(["add(1, 2)", "1 + 1"])})),
    st.tuples(st.just("size"), st.fixed_dictionaries({"a": st.just(1), "b": st.just(2)})),
)


def _sized(call: tuple[str, dict[str, Any]], server: str) -> tuple[str, dict[str, Any]]:
    return ("size", {"name": "abc"}) if call[0] == "size" and server != "none" else call


@st.composite
def worlds(draw: st.DrawFn) -> World:
    output: Any = draw(st.sampled_from(["text", "picky text", "form"]))
    # A stream cannot be asked to try again.
    how: Any = draw(st.sampled_from(["run", "ask", "told", *(("stream",) if output == "text" else ())]))
    server: Any = draw(st.sampled_from(["none", "asked once", "asked each turn", "prefixed"]))
    calls = st.lists(_CALL, min_size=1, max_size=3).map(lambda found: tuple(_sized(call, server) for call in found))
    turns = st.tuples(st.sampled_from(["", "", "Let me see."]), calls)
    return World(
        script=tuple(draw(st.lists(turns, max_size=5))),
        server=server,
        output=output,
        deps=draw(st.sampled_from([None, "one"])),
        effort=draw(st.sampled_from(["none", "none", "low"])),
        hook=draw(st.integers(0, 5)) == 0,
        end=draw(st.sampled_from(["graceful", "graceful", "early"])),
        how=how,
        # A stream may end with a text beside calls that are not made, and nobody can go on from there.
        follows=how != "stream" and draw(st.booleans()),
        runs=draw(st.integers(1, 2)),
    )


ANY = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@ANY
@given(world=worlds(), at=st.none() | st.integers(0, 4))
def test_passing_over_and_walking_are_the_same(world: World, at: int | None) -> None:
    with _folder() as folder:
        if at is not None and at <= len(world.script) and world.end == "graceful":
            cut(folder, world, at)
        live = all_of(folder, world)
        over = all_of(folder, world)
        walked = all_of(folder, world, walk=True)
        for (one, had), (other, would_have), (first, _) in zip(over, walked, live, strict=True):
            assert_same(one, other)
            assert (one.output, had) == (first.output, would_have)
            assert all(step.replayed for step in steps(one))


# -- a change


CHANGES: dict[str, Callable[[World], World]] = {
    "instructions": lambda world: replace(world, instructions="Act well."),
    "tools": lambda world: replace(world, more=True),
    "settings": lambda world: replace(world, settings={"temperature": 0.5}),
    "effort": lambda world: replace(world, effort="high"),
    "output": lambda world: replace(world, output="text" if world.output == "form" else "form", how="ask"),
    "code of a tool": lambda world: replace(world, edited=True),
    "dependencies": lambda world: replace(world, deps="two"),
    "a validator": lambda world: replace(
        world, output="text" if world.output == "picky text" else "picky text", how="ask"
    ),
    "the end": lambda world: replace(world, end="early" if world.end == "graceful" else "graceful"),
    "the server": lambda world: replace(world, server="asked once" if world.server != "asked once" else "prefixed"),
    "approvals": lambda world: replace(world, approve="add" if world.server == "none" else "add,size"),
    "a hook": lambda world: replace(world, hook=not world.hook),
    "a stream": lambda world: replace(world, how="stream", follows=False) if world.output == "text" else world,
    "the script": lambda world: replace(world, script=(*world.script[:-1], ("", (("add", {"a": 9, "b": 9}),)))),
}
ASKED_ANEW = frozenset({"instructions", "tools", "settings", "effort", "output"})
# Calls that are made at once come in an order of their own.
IN_ORDER = frozenset({"id", "ord", "attempt", "within"})


@ANY
@given(world=worlds(), change=st.sampled_from(sorted(CHANGES)), forgotten=st.none() | st.integers(0, 20))
def test_a_change_makes_of_it_what_walking_makes_of_it(world: World, change: str, forgotten: int | None) -> None:
    with _folder() as folder:
        recorded = all_of(folder / "over", world)
        if forgotten is not None:
            made = steps(recorded[0][0])
            with held(folder / "over") as opened:
                opened.forget(step=made[forgotten % len(made)].id)
        shutil.copytree(folder / "over", folder / "walked")
        changed = CHANGES[change](world)
        over = all_of(folder / "over", changed)
        walked = all_of(folder / "walked", changed, walk=True)
        for (one, had), (other, would_have) in zip(over, walked, strict=True):
            assert one.output == other.output
            assert sorted(map(repr, seen(one, without=IN_ORDER))) == sorted(map(repr, seen(other, without=IN_ORDER)))
            assert said(one) == said(other)
            assert had == would_have
            if seen(one) == seen(other):
                assert shown(one) == shown(other)
            if change in ASKED_ANEW:
                own = [step for step in steps(one) if step.run == one.run.id]
                assert not any(step.replayed for step in own if step.kind == "model")
