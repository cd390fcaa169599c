"""Fast-forward: a run that is on record goes on at its last valid reply instead of walking there turn by turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart
from pydantic_ai.tools import RunContext
from pydantic_core import from_json

from agentkit.agent.resume_blockers import is_early, is_server, leaf_of, obstacle, servers
from agentkit.approval.interrupt import code_of, declaration_of, function_of, may_ask
from agentkit.errors import JournalError
from agentkit.guards.loop_detector import OFF
from agentkit.guards.loop_guard import BREAKER
from agentkit.journal.codec import RESULT_CODEC, mark_replay
from agentkit.journal.execution import dumps, shorten
from agentkit.journal.journal import Performed
from agentkit.journal.keys import MessageChain, place_key, restore
from agentkit.journal.queries import Used
from agentkit.journal.records import MessageNode, Row
from agentkit.journal.redaction import Redactor
from agentkit.journal.replay import is_trusted
from agentkit.journal.store import Store
from agentkit.runtime.evidence import InputWatch
from agentkit.tools.declaration import Declaration
from agentkit.tools.digest import ToolDigest, value_digest

_WHOSE = ("caller", "thread")
_SAME_QUESTION = ("model", "settings", "tools", "output", "instructions", *_WHOSE)
# A part beside these (the edits of a branch) makes it another call than the loop would make.
_PARTS = frozenset({*_SAME_QUESTION, "name", "args", "code", "deps", "history", "payload"})
_ONE_LINE = 200
_SECRET = b"<secret:"
_RETRIES = ("retry-prompt", "retry-feedback")
_UNSUCCESSFUL = re.compile(rb'"outcome":"(?!success")|"part_kind":"retry-')
_CALL = b'"part_kind":"tool-call"'
_SAID = re.compile(rb'"part_kind":"(?:text|file)"')
_PAGE = 256
_SMALL = 4096


class _Turn(NamedTuple):
    """A recorded reply, and the steps after the reply before it; the last of them is the reply's own."""

    reply: Used
    steps: tuple[Used, ...]


class _Tool(NamedTuple):
    """A tool that is offered now, and what the agent calls it."""

    name: str
    tool: Any


class _Present(NamedTuple):
    """What a recorded step is held against: the request just made, its run's context, and how many equal ones came."""

    first: Row
    ctx: RunContext[Any]
    deps: str | None
    seen: Counter[bytes]
    tools: Mapping[str, _Tool]
    fitting: dict[str, Declaration | None]
    discoveries: Mapping[tuple[str, str], bytes]


class _Place(NamedTuple):
    """The digests of the conversation up to a reply, and up to the request after it, as steps in between know them."""

    said: bytes | None
    asked: bytes


class _Checkpoint:
    """The conversation as the run keeps it, where that is more than what is sent (settings, instructions of a server).

    Then requests are keyed by what is sent, and all other steps by what is kept.
    """

    def __init__(self, messages: Sequence[ModelMessage], redactor: Redactor) -> None:
        self._messages = list(messages)
        self._chain = MessageChain(redactor=redactor)
        self._chain.digest(self._messages)

    def numbers(self) -> dict[str, str]:
        """The calls by their numbers."""
        return self._chain.number(())

    def add(self, reply: Row, asked: MessageNode) -> _Place:
        self._messages.append(RESULT_CODEC.load(ModelResponse, from_json(reply.body or b"")))
        said = self._chain.digest(self._messages)
        self._messages.append(_rename_calls(restore([asked.body])[0], self.numbers()))
        return _Place(said, self._chain.digest(self._messages))


class _Record:
    """The turns of an earlier run from one of its replies on, read as far as they are asked for."""

    def __init__(self, store: Store, run: str, *, place: int) -> None:
        self._turns: list[_Turn] = []
        self._places: dict[int, int] = {}
        self._read = self._turns_of(store, run, place)

    def place(self, reply: int) -> int | None:
        """Where the reply of this step stands."""
        while reply not in self._places and self._more():
            pass
        return self._places.get(reply)

    def turn(self, place: int) -> _Turn | None:
        while place >= len(self._turns) and self._more():
            pass
        return self._turns[place] if place < len(self._turns) else None

    def _more(self) -> bool:
        turn = next(self._read, None)
        if turn is None:
            return False
        self._places[turn.reply.row.id] = len(self._turns)
        self._turns.append(turn)
        return True

    def _turns_of(self, store: Store, run: str, place: int) -> Iterator[_Turn]:
        ids: set[int] = set()
        steps: list[Used] = []
        for used in self._uses(store, run, place):
            ids.add(used.row.id)
            # What was done inside a step of this run comes and goes with that step.
            if used.row.parent in ids:
                continue
            steps.append(used)
            if used.row.kind == "model":
                yield _Turn(used, tuple(steps))
                steps = []

    def _uses(self, store: Store, run: str, place: int) -> Iterator[Used]:
        while True:
            try:
                page = store.uses_of(run, since=place, limit=_PAGE)
            except JournalError:
                # Who walks there is told, and perhaps nobody does.
                return
            yield from map(_slim, page)
            if len(page) < _PAGE:
                return
            place = page[-1].ord + 1


def _slim(used: Used) -> Used:
    """Without a tool's answer: it is in the message after it. Whether there was one, and a secret in it, counts."""
    row = used.row
    if row.kind != "tool" or row.body is None or len(row.body) < _SMALL:
        return used
    return used._replace(row=replace(row, body=_SECRET if _SECRET in row.body else b""))


@dataclass(kw_only=True)
class FastForward:
    """What one run may pass over. `walks` says why it may not; `walked` that it could have, but for that.

    `early`: a reply may be the last one although it calls tools, namely where it says something too.
    `discovered` is what servers said they offer, by the operation that asked and the name of the server.
    """

    frame: Any
    walks: Callable[[], str]
    early: bool = False
    walked: str = ""
    discovered: dict[tuple[str, str], Any] = field(default_factory=dict)
    _record: _Record | None = None
    _obstacle: str | None = None
    _code: dict[str, ToolDigest] = field(default_factory=dict)
    _parts: dict[str, str] = field(default_factory=dict)
    _unchecked: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _live: int = 0

    @classmethod
    def of(cls, frame: Any, given: Mapping[str, Any], *, streams: bool) -> FastForward:
        """For the run of `frame`, which was given this; `streams`: the first text that comes may be its answer."""
        return cls(frame=frame, walks=partial(obstacle, frame.owner, given), early=streams or is_early(frame.owner))

    def jump_from(self, performed: Performed, ctx: RunContext[Any]) -> Performed:
        """The last recorded reply that this run would come to from the replayed reply `performed`; else `performed`.

        What was said in between then stands in the run's messages, and its steps are noted as replayed.
        """
        # How often a tool may still fail is counted by the loop: it walks until that tool has succeeded.
        if not _calls(performed.payload) or _has_failures(ctx) or self.frame.state is None:
            return performed
        record = self._record_with(performed.step)
        if record is None or (place := record.place(performed.step)) is None or record.turn(place + 1) is None:
            return performed
        if self._obstacle is None:
            self._obstacle = self.walks()
        self.walked = self._obstacle
        if self.walked:
            return performed
        kept = self._read_checkpoint(record.turn(place))
        valid = self._unless_the_breaker_spoke(list(self._valid(record, place, ctx, kept)))
        return self._pass(valid, performed, ctx, kept) if valid else performed

    def _record_with(self, step: int) -> _Record | None:
        """An earlier run that came to this reply as this one does."""
        if self._record is None or self._record.place(step) is None:
            store, place = self.frame.journal.store, self.frame.ord
            longest = store.longest_from(step, agent=self.frame.agent, place=place)
            # Another branch may be on record from here; the one that was followed so far may be met again.
            if longest is not None:
                self._record = _Record(store, longest, place=place)
        return self._record

    def _read_checkpoint(self, turn: _Turn | None) -> _Checkpoint | None:
        """None where the request just made was all of the conversation."""
        frame, messages = self.frame, self.frame.state.message_history
        if turn is not None and turn.reply.row.history == frame.chain.digest(messages, trusted=frame.trusted):
            return None
        return _Checkpoint(messages, frame.journal.redactor)

    # -- what of it still holds

    def _valid(self, record: _Record, place: int, ctx: RunContext[Any], kept: _Checkpoint | None) -> Iterator[_Turn]:
        """The turns behind `place` that the loop would come to."""
        before = record.turn(place)
        assert before is not None
        present = self._present(before.reply.row, ctx)
        while (turn := record.turn(place := place + 1)) is not None:
            if not _calls_match(before.reply.row, turn) or (self.early and _SAID.search(before.reply.row.body or b"")):
                return
            asked = turn.reply.request
            if asked is None or turn.reply.answers != before.reply.row.history:
                return
            stands = _Place(asked.parent, asked.digest) if kept is None else kept.add(before.reply.row, asked)
            if not all(self._holds(used, stands, present) for used in turn.steps):
                return
            if sum(used.row.kind == "discovery" for used in turn.steps) != len(present.discoveries):
                return
            # What a tool was told to do better counts against its retries, and the loop does the counting.
            if _SECRET in asked.body or (_UNSUCCESSFUL.search(asked.body) and _has_retry(asked)):
                return
            yield turn
            before = turn

    def _present(self, first: Row, ctx: RunContext[Any]) -> _Present:
        if self._live != self.frame.live:
            # What a tool reads may have been changed by another one.
            self._live = self.frame.live
            self._code.clear()
        deps = None if ctx.deps is None else self._part(value_digest(ctx.deps).hex())
        return _Present(first, ctx, deps, Counter(), self._tools(ctx), {}, self._discoveries(ctx))

    def _tools(self, ctx: RunContext[Any]) -> dict[str, _Tool]:
        """The tools offered now, by the part that names them in a key."""
        manager = ctx.tool_manager
        found: dict[str, _Tool] = {}
        for name, tool in ({} if manager is None else manager.tools or {}).items():
            toolset, there = leaf_of(tool, name)
            found[self._text(f"{toolset.id}:{there}")] = _Tool(name, tool)
        return found

    def _discoveries(self, ctx: RunContext[Any]) -> dict[tuple[str, str], bytes]:
        """What each turn asks of the servers, by its name and its question in a key, and what they said now."""
        found: dict[tuple[str, str], bytes] = {}
        for server in servers(self.frame.owner):
            asked = (
                ("ToolsetGetToolsId", not server.cache_tools),
                ("ToolsetGetInstructionsId", server.include_instructions),
            )
            for operation in (operation for operation, each_turn in asked if each_turn):
                question = self._part({"operation": operation, "prompt": ctx.prompt})
                said = self.discovered.get((operation, server.id))
                found[self._text(f"discovery:{server.id}"), question] = b"" if said is None else dumps(said)
        return found

    def _holds(self, used: Used, stands: _Place, present: _Present) -> bool:
        """Whether the loop would come to this step and be answered from this very row."""
        row = used.row
        if used.superseded or row.status != "done" or row.body is None or row.settled not in (None, "result"):
            return False
        if not is_trusted(row, self.frame.mode) or (used.source and self.frame.mode != "replay"):
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
                return self._same_tool(row, stands, present)
            case "discovery":
                said = present.discoveries.get((row.parts["name"], row.parts["payload"]))
                same = row.settled is None and row.body == said and row.history == stands.asked and self._own(row)
                return same and self._in_turn(row, present.seen)
            case _:
                # Decisions, edits and what capabilities do have their own rules, which walking keeps.
                return False

    def _same_tool(self, row: Row, stands: _Place, present: _Present) -> bool:
        named = row.parts.get("name", "")
        if named not in present.fitting:
            present.fitting[named] = self._free_declaration(row.name, present.tools.get(named))
        declared = present.fitting[named]
        if declared is None or declared.effects != row.effects:
            return False
        if declared.effects == "kernel" and row.owner != self.frame.journal.store.owner:
            return False
        if row.parts.get("code") not in self._code_of(present.tools[named]) or row.parts.get("deps") != present.deps:
            return False
        if self._is_outdated(row, present.tools[named], declared):
            return False
        if declared.share is not None:
            return row.n == 0
        return row.history == stands.said and self._own(row) and self._in_turn(row, present.seen)

    def _own(self, row: Row) -> bool:
        """Whether it was made for the caller and the thread of this run."""
        identity = self.frame.memo.identity
        return all(
            row.parts.get(name) == (identity[name].digest.hex() if name in identity else None) for name in _WHOSE
        )

    def _free_declaration(self, name: str, offered: _Tool | None) -> Declaration | None:
        """What a tool declares whose calls need nobody; None for another one."""
        if offered is None or offered.tool.tool_def.kind != "function" or may_ask(self.frame, name, offered.tool):
            return None
        return declaration_of(offered.tool)

    def _digest_of(self, offered: _Tool) -> ToolDigest | None:
        """None where nobody can know what a tool is made of."""
        name, tool = offered
        if name not in self._code:
            function = function_of(tool)
            if function is not None:
                self._code[name] = code_of(function)
            elif is_server(leaf_of(tool, name)[0]):
                self._code[name] = ToolDigest(digest=b"", unhashed=(), assigns=(), reads={})
        return self._code.get(name)

    def _code_of(self, offered: _Tool) -> tuple[str, ...]:
        """The parts of a key that are the code of a tool, as it is digested now and was before."""
        digest = self._digest_of(offered)
        known = [] if digest is None else [digest] if digest.older is None else [digest, digest.older]
        return tuple(self._part({"digest": each.digest.hex(), "reads": dict(each.reads)}) for each in known)

    def _is_outdated(self, row: Row, offered: _Tool, declared: Declaration) -> bool:
        """Whether something that the recorded call read has changed since."""
        digest = self._digest_of(offered)
        if digest is None or row.evidence is None:
            return False
        watch = InputWatch(self.frame, declared, digest)
        outdated = watch.find_change(row, from_json(row.evidence)) is not None
        self._unchecked[row.id] = watch.blind_spots
        return outdated

    def _part(self, value: object) -> str:
        return str(self.frame.memo.part(value).digest.hex())

    def _text(self, text: str) -> str:
        if text not in self._parts:
            self._parts[text] = self._part(text)
        return self._parts[text]

    def _in_turn(self, row: Row, seen: Counter[bytes]) -> bool:
        """Whether the count of equal requests in this execution would come to this row."""
        expected = self.frame.execution.counts.peek(row.key, seen[row.key])
        seen[row.key] += 1
        for key, times in row.nested.items():
            seen[bytes.fromhex(key)] += times
        return bool(row.n == expected)

    def _unless_the_breaker_spoke(self, turns: list[_Turn]) -> list[_Turn]:
        """Those before the first request that something was said at by the breaker, in whichever run."""
        if self.frame.breaker.thresholds is OFF:
            return turns
        places = [place_key(BREAKER, turn.reply.row.history or b"", self.frame.memo).key for turn in turns]
        spoke = self.frame.journal.store.any_of(places)
        return turns[: next((at for at, place in enumerate(places) if place in spoke), len(turns))]

    # -- passing over

    def _pass(
        self, turns: Sequence[_Turn], performed: Performed, ctx: RunContext[Any], kept: _Checkpoint | None
    ) -> Performed:
        frame, state = self.frame, self.frame.state
        tools = self._tools(ctx)
        bodies = [turn.reply.row.body or b"" for turn in turns]
        payloads = [performed.payload, *map(mark_replay, from_json(b"[" + b",".join(bodies) + b"]"))]
        replies = RESULT_CODEC.load(list[ModelResponse], payloads[:-1])
        requests = restore([turn.reply.request.body for turn in turns if turn.reply.request is not None])
        names = frame.chain.number(replies) if kept is None else kept.numbers()
        instructions = _instructions(state.message_history)
        for reply, request in zip(replies, requests, strict=True):
            state.message_history += (_stamp_reply(reply, ctx), _rebuild_request(request, names, ctx, instructions))
        for turn in turns:
            for used in turn.steps:
                self._note(used.row)
        state.usage.requests += len(turns)
        state.usage.tool_calls += sum(_count_successes(*each, tools) for each in zip(requests, turns, strict=True))
        self._step_on(ctx, len(turns))
        last = turns[-1].reply
        if kept is None and last.request is not None:
            frame.chain.jump(state.message_history, last.request.digest)
        return Performed(payloads[-1], True, last.row.id)

    def _step_on(self, ctx: RunContext[Any], turns: int) -> None:
        state, manager = self.frame.state, ctx.tool_manager
        state.run_step += turns
        # What was offered with the last of them is what is offered now: no server is asked for it again.
        if manager is not None and manager.ctx is not None and manager.ctx.messages is state.message_history:
            manager.ctx.run_step = state.run_step

    def _note(self, row: Row) -> None:
        counted = row.kind != "tool" or "history" in row.parts
        unchecked = self._unchecked.get(row.id, ())
        self.frame.journal.pass_over(row, self.frame, counted=counted, unchecked=unchecked)
        if row.kind == "tool":
            line = f"{row.name}({shorten(row.request, _ONE_LINE)})"
            self.frame.ran.append(f"{line} → {shorten(row.result, _ONE_LINE)}" if row.result else line)


def _calls(payload: Any) -> bool:
    return any("tool_name" in part for part in payload.get("parts", ()))


def _calls_match(reply: Row, turn: _Turn) -> bool:
    """Whether each call that this reply asks for is a step of the turn after it, and there is one at all."""
    calls = (reply.body or b"").count(_CALL)
    return 0 < calls == sum(used.row.kind == "tool" for used in turn.steps)


def _has_failures(ctx: RunContext[Any]) -> bool:
    manager = ctx.tool_manager
    return bool(ctx.retries) or (manager is not None and manager.ctx is not None and bool(manager.ctx.retries))


def _same_question(row: Row, first: Row) -> bool:
    """Whether all but the history is as in the request that was just made."""
    return row.model == first.model and all(row.parts.get(name) == first.parts.get(name) for name in _SAME_QUESTION)


def _has_retry(asked: MessageNode) -> bool:
    parts = restore([asked.body])[0].parts
    return any(part.part_kind in _RETRIES or getattr(part, "outcome", "success") != "success" for part in parts)


def _instructions(messages: Sequence[ModelMessage]) -> str | None:
    """Those of the request just made; a record may be older than its message's own."""
    asked = takewhile(lambda message: isinstance(message, ModelRequest), reversed(messages))
    return next(filter(None, (getattr(message, "instructions", None) for message in asked)), None)


def _stamp_reply(reply: ModelResponse, ctx: RunContext[Any]) -> ModelResponse:
    reply.run_id, reply.conversation_id = ctx.run_id, ctx.conversation_id
    if getattr(reply, "model_id", "") is None:
        reply.model_id = getattr(ctx.model, "model_id", None)
    return reply


def _rebuild_request(
    request: ModelMessage, names: Mapping[str, str], ctx: RunContext[Any], instructions: str | None
) -> ModelMessage:
    """A recorded request in this run."""
    request.run_id, request.conversation_id = ctx.run_id, ctx.conversation_id
    if isinstance(request, ModelRequest):
        request.instructions = instructions
    return _rename_calls(request, names)


def _rename_calls(request: ModelMessage, names: Mapping[str, str]) -> ModelMessage:
    """With the ids of its calls as they are in the replies."""
    for part in request.parts:
        if isinstance(part, ToolReturnPart):
            part.tool_call_id = names.get(part.tool_call_id, part.tool_call_id)
    return request


def _count_successes(request: ModelMessage, turn: _Turn, tools: Mapping[str, _Tool]) -> int:
    called = {tools[used.row.parts["name"]].name for used in turn.steps if used.row.kind == "tool"}
    return sum(isinstance(part, ToolReturnPart) and part.tool_name in called for part in request.parts)
