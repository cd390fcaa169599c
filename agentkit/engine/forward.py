"""Fast-forward: a run that is on record goes on at its last valid reply instead of walking there turn by turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.messages import InstructionPart, ModelMessage, ModelResponse, ToolReturnPart
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_core import from_json

from agentkit.define.digest import tool_digest, value_digest
from agentkit.define.tools import declaration, stood_for
from agentkit.durable.frames import bounded
from agentkit.durable.journal import Performed
from agentkit.durable.keys import restore
from agentkit.durable.reading import Used
from agentkit.durable.records import Node, Row
from agentkit.engine.asking import function_of
from agentkit.engine.codec import RESULT_CODEC, as_replayed

_SAME_QUESTION = ("model", "settings", "tools", "output", "instructions")
# A part beside these (the edits of a branch) makes it another call than the loop would make.
_PARTS = frozenset({*_SAME_QUESTION, "name", "args", "code", "deps", "history"})
_ONE_LINE = 200
_SECRET = b"<secret:"
_RETRIES = ("retry-prompt", "retry-feedback")
_UNSUCCESSFUL = re.compile(rb'"outcome":"(?!success")|"part_kind":"retry-')
# What a run may be given and still be decided by what its steps are keyed by.
_KNOWN = frozenset({"user_prompt", "message_history", "deps", "model", "output_type", "infer_name", "conversation_id"})
_STATIC_CAPABILITIES = frozenset({"ToolSearch", "PendingMessageDrainCapability", "Instrumentation"})


class _Turn(NamedTuple):
    """A recorded reply, and the steps after the reply before it; the last of them is the reply's own."""

    reply: Used
    steps: tuple[Used, ...]


class _Present(NamedTuple):
    """What a recorded step is held against: the request just made, its run's context, and how many equal ones came."""

    first: Row
    ctx: RunContext[Any]
    deps: str | None
    seen: Counter[bytes]


@dataclass(kw_only=True)
class Forward:
    """What one run may pass over. `walks` says why it may not; `walked` that it could have, but for that."""

    frame: Any
    walks: Callable[[], str]
    walked: str = ""
    _turns: tuple[_Turn, ...] = ()
    _places: dict[int, int] | None = None
    _obstacle: str | None = None
    _code: dict[str, str] = field(default_factory=dict)

    def beyond(self, performed: Performed, ctx: RunContext[Any]) -> Performed:
        """The last recorded reply that this run would come to from the replayed reply `performed`; else `performed`.

        What was said in between then stands in the run's messages, and its steps are noted as replayed.
        """
        # How often a tool may still fail is counted by the loop: it walks until that tool has succeeded.
        if not _calls(performed.payload) or _failing(ctx) or self.frame.state is None:
            return performed
        place = self._place(performed.step)
        if place is None:
            return performed
        if self._obstacle is None:
            self._obstacle = self.walks()
        self.walked = self._obstacle
        if self.walked:
            return performed
        valid = tuple(self._valid(place, ctx))
        return self._pass(valid, performed, ctx) if valid else performed

    # -- what is recorded

    def _place(self, step: int) -> int | None:
        """Where in an earlier run the reply of this step stands, when more is recorded behind it."""
        if self._places is None:
            self._turns = tuple(self._recorded(step))
            self._places = {turn.reply.row.id: place for place, turn in enumerate(self._turns)}
        place = self._places.get(step)
        return None if place is None or place + 1 >= len(self._turns) else place

    def _recorded(self, step: int) -> Iterator[_Turn]:
        """The turns of that run which began with this step and came furthest."""
        store = self.frame.journal.store
        longest = store.longest_from(step, agent=self.frame.agent)
        every = [] if longest is None else store.used_by(longest)
        ids = {used.row.id for used in every}
        steps: list[Used] = []
        for used in every:
            # What was done inside a step of this run comes and goes with that step.
            if used.row.parent in ids:
                continue
            steps.append(used)
            if used.row.kind == "model":
                yield _Turn(used, tuple(steps))
                steps = []

    # -- what of it still holds

    def _valid(self, place: int, ctx: RunContext[Any]) -> Iterator[_Turn]:
        """The turns behind `place` that the loop would come to."""
        present = _Present(self._turns[place].reply.row, ctx, self._deps(ctx), Counter())
        for before, turn in zip(self._turns[place:], self._turns[place + 1 :], strict=False):
            asked = turn.reply.request
            if asked is None or turn.reply.answers != before.reply.row.history:
                return
            if not all(self._holds(used, asked, present) for used in turn.steps):
                return
            # What a tool was told to do better counts against its retries, and the loop does the counting.
            if _SECRET in asked.body or (_UNSUCCESSFUL.search(asked.body) and _has_retry(asked)):
                return
            yield turn

    def _holds(self, used: Used, asked: Node, present: _Present) -> bool:
        """Whether the loop would come to this step and be answered from this very row."""
        row = used.row
        if used.superseded or row.status != "done" or row.body is None or row.settled not in (None, "result"):
            return False
        if not _PARTS.issuperset(row.parts):
            return False
        # What is put back from the environment is put back, or missed, where the step itself is replayed.
        if _SECRET in row.body or (row.shown is not None and _SECRET in row.shown):
            return False
        match row.kind:
            case "model":
                return _same_question(row, present.first) and self._in_turn(row, present.seen)
            case "tool":
                return self._same_tool(row, asked, present)
            case _:
                # Decisions, edits and what capabilities do have their own rules, which walking keeps.
                return False

    def _same_tool(self, row: Row, asked: Node, present: _Present) -> bool:
        manager = present.ctx.tool_manager
        tool = None if manager is None else (manager.tools or {}).get(row.name)
        function = function_of(tool)
        if function is None:
            return False
        declared = declaration(function)
        if declared.effects != row.effects:
            return False
        if declared.effects == "kernel" and row.owner != self.frame.journal.store.owner:
            return False
        if row.parts.get("code") != self._code_of(row.name, function) or row.parts.get("deps") != present.deps:
            return False
        if declared.share is not None:
            return row.n == 0
        return row.history == asked.parent and self._in_turn(row, present.seen)

    def _code_of(self, name: str, function: Callable[..., Any]) -> str:
        if name not in self._code:
            digest = tool_digest(stood_for(function), memo=self.frame.digests)
            self._code[name] = self._part({"digest": digest.digest.hex(), "reads": dict(digest.reads)})
        return self._code[name]

    def _deps(self, ctx: RunContext[Any]) -> str | None:
        return None if ctx.deps is None else self._part(value_digest(ctx.deps).hex())

    def _part(self, value: object) -> str:
        return str(self.frame.memo.part(value).digest.hex())

    def _in_turn(self, row: Row, seen: Counter[bytes]) -> bool:
        """Whether the count of equal requests in this execution would come to this row."""
        expected = self.frame.execution.counts[row.key] + seen[row.key]
        seen[row.key] += 1
        for key, times in row.nested.items():
            seen[bytes.fromhex(key)] += times
        return bool(row.n == expected)

    # -- passing over

    def _pass(self, turns: Sequence[_Turn], performed: Performed, ctx: RunContext[Any]) -> Performed:
        frame, state = self.frame, self.frame.state
        bodies = [turn.reply.row.body or b"" for turn in turns]
        payloads = [performed.payload, *map(as_replayed, from_json(b"[" + b",".join(bodies) + b"]"))]
        replies = RESULT_CODEC.load(list[ModelResponse], payloads[:-1])
        requests = restore([turn.reply.request.body for turn in turns if turn.reply.request is not None])
        names = frame.chain.number(replies)
        for reply, request in zip(replies, requests, strict=True):
            state.message_history += (_said(reply, ctx), _asked(request, names, ctx))
        for turn in turns:
            for used in turn.steps:
                self._note(used.row)
        state.run_step += len(turns)
        state.usage.requests += len(turns)
        state.usage.tool_calls += sum(map(_succeeded, requests, turns))
        last = turns[-1].reply
        assert last.request is not None
        frame.chain.jump(state.message_history, last.request.digest)
        return Performed(payloads[-1], True, last.row.id)

    def _note(self, row: Row) -> None:
        counted = row.kind != "tool" or "history" in row.parts
        self.frame.journal.pass_over(row, self.frame, counted=counted)
        if row.kind == "tool":
            line = f"{row.name}({bounded(row.request, _ONE_LINE)})"
            self.frame.ran.append(f"{line} → {bounded(row.result, _ONE_LINE)}" if row.result else line)


def _calls(payload: Any) -> bool:
    return any("tool_name" in part for part in payload.get("parts", ()))


def _failing(ctx: RunContext[Any]) -> bool:
    manager = ctx.tool_manager
    return bool(ctx.retries) or (manager is not None and manager.ctx is not None and bool(manager.ctx.retries))


def _same_question(row: Row, first: Row) -> bool:
    """Whether all but the history is as in the request that was just made."""
    return row.model == first.model and all(row.parts.get(name) == first.parts.get(name) for name in _SAME_QUESTION)


def _has_retry(asked: Node) -> bool:
    parts = restore([asked.body])[0].parts
    return any(part.part_kind in _RETRIES or getattr(part, "outcome", "success") != "success" for part in parts)


def _said(reply: ModelResponse, ctx: RunContext[Any]) -> ModelResponse:
    reply.run_id, reply.conversation_id = ctx.run_id, ctx.conversation_id
    if getattr(reply, "model_id", "") is None:
        reply.model_id = getattr(ctx.model, "model_id", None)
    return reply


def _asked(request: ModelMessage, names: Mapping[str, str], ctx: RunContext[Any]) -> ModelMessage:
    """A recorded request in this run: the ids of its calls are those of the replies."""
    request.run_id, request.conversation_id = ctx.run_id, ctx.conversation_id
    for part in request.parts:
        if isinstance(part, ToolReturnPart):
            part.tool_call_id = names.get(part.tool_call_id, part.tool_call_id)
    return request


def _succeeded(request: ModelMessage, turn: _Turn) -> int:
    called = {used.row.name for used in turn.steps if used.row.kind == "tool"}
    return sum(isinstance(part, ToolReturnPart) and part.tool_name in called for part in request.parts)


# -- why a run walks


def obstacle(agent: AbstractAgent[Any, Any], given: Mapping[str, Any]) -> str:
    """Why the next request of this run may depend on more than its record; "" when it cannot."""
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    if not isinstance(agent, Agent):
        return f"a {type(agent).__name__} may decide anything"
    reasons = (*_from_run(given), *_from_agent(agent), *_from_tools(agent))
    return next(iter(reasons), "")


def _from_run(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if name == "event_stream_handler" and getattr(value, "__module__", "") == "agentkit.engine.run":
            continue
        if name == "capabilities":
            yield from _from_capabilities(value or ())
        elif name not in _KNOWN and value is not None:
            yield f"run(…, {name}=…) is given"


def _from_agent(agent: Agent[Any, Any]) -> Iterator[str]:
    state = vars(agent)
    for name in ("_instructions", "_system_prompt_functions", "_system_prompt_dynamic_functions", "_dynamic_toolsets"):
        for value in state.get(name) or ():
            # Newer releases say beside an instruction where it comes from.
            if not isinstance(getattr(value, "instruction", value), str | InstructionPart):
                yield f"its {name.strip('_').replace('_', ' ')} are functions"
    if callable(agent.model_settings):
        yield "its model settings are a function"
    for name, value in state.items():
        if name.startswith("_override_") and name != "_override_model" and value.get(None) is not None:
            yield f"agent{name.replace('_override_', '.override(')}=…) is in force"
    yield from _from_capabilities(agent.root_capability.capabilities)


def _from_capabilities(capabilities: Iterable[Any]) -> Iterator[str]:
    for capability in capabilities:
        kind = type(capability)
        package = kind.__module__.partition(".")[0]
        if package != "agentkit" and not (package == "pydantic_ai" and kind.__name__ in _STATIC_CAPABILITIES):
            yield f"its capability {kind.__name__} may change what is sent"


def _from_tools(agent: Agent[Any, Any]) -> Iterator[str]:
    for toolset in agent.toolsets:
        if not isinstance(toolset, FunctionToolset):
            yield f"its toolset {toolset.label} may offer other tools each time"
            continue
        for name, tool in toolset.tools.items():
            if tool.prepare is not None:
                yield f"its tool {name} has a prepare function"
            if tool.args_validator is not None:
                yield f"its tool {name} has an args_validator"
