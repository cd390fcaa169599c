"""The step that a tool call is, whoever makes it: its key by code and data, its probe, and what it read and wrote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from agentkit.agent.model_request import SHARED_SECONDS
from agentkit.approval import interrupt
from agentkit.events import Kind
from agentkit.journal.codec import encode_tool_result, signal_of
from agentkit.journal.keys import Key, tool_key
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.records import Row
from agentkit.runtime import describe
from agentkit.runtime.evidence import InputWatch
from agentkit.runtime.guard import ToolCallInfo
from agentkit.runtime.run_state import RunState
from agentkit.sandbox.process import isolate
from agentkit.tools.declaration import Declaration, loop_identity, performs_more
from agentkit.tools.digest import ToolDigest, tool_digest

# The code of MCP and dynamic tools is somewhere else: they are known by their schema, which is in the history.
_FOREIGN = ToolDigest(digest=b"", unhashed=(), assigns=(), reads={})


@dataclass(frozen=True, kw_only=True)
class ToolCall(Operation):
    """One call. `watch` hears what its function reads; None where that is not here, or performs steps of its own."""

    kind: Kind = "tool"
    info: ToolCallInfo
    declared: Declaration
    function: Callable[..., Any] | None
    watch: InputWatch | None

    @classmethod
    def of(
        cls,
        frame: RunState,
        identity: str,
        args: Any,
        *,
        name: str,
        function: Callable[..., Any] | None,
        declared: Declaration,
        history: bytes | None,
        deps: bytes | None = None,
        place: str | None = None,
        encode: Callable[[object], Payload] | None = None,
    ) -> ToolCall:
        """The call of the tool `identity`, called `name` here; `place` keeps apart what different cells ask."""
        shared = declared.share is not None

        def make_key(digest: ToolDigest) -> Key:
            return tool_key(
                name=identity,
                args=args,
                digest=digest.digest,
                history=None if shared else history,
                call=None if shared else place,
                deps=deps,
                reads=digest.reads,
                memo=frame.memo,
            )

        digest = _FOREIGN if function is None else interrupt.code_of(function)
        older = [] if digest.older is None else [digest.older]
        if function is not None and hasattr(function, interrupt.CALLED):
            # Journals of before the agent that a tool asks was a part of its code.
            before = tool_digest(function)
            older += [before, *([] if before.older is None else [before.older])]
        outer = function is not None and performs_more(function)
        return cls(
            key=make_key(digest),
            alternatives=tuple(make_key(each).key for each in older),
            name=name,
            effects=declared.effects,
            request=describe.format_arguments(args),
            history=history,
            chain=frame.chain,
            counted=not shared,
            cache=frame.cache(declared.share) if declared.effects == "none" else None,
            ttl=declared.ttl or SHARED_SECONDS,
            outer=outer,
            encode=encode,
            info=ToolCallInfo(name=name, arguments=args, poll=declared.poll, loop=loop_identity(declared, name, args)),
            declared=declared,
            function=function,
            watch=None if function is None or outer else InputWatch(frame, declared, digest),
        )

    @property
    def about(self) -> ToolCallInfo:
        return self.info

    @property
    def reads_outside(self) -> bool:
        return True

    @property
    def verifiable(self) -> bool:
        return self.declared.verify is not None

    async def verify(self) -> Payload | None:
        if self.declared.verify is None:
            return None
        answer = self.declared.verify(**self.info.arguments)
        if isinstance(answer, Awaitable):
            answer = await answer
        return None if answer is None else encode_tool_result(answer)

    def watching(self) -> AbstractContextManager[object]:
        return nullcontext() if self.watch is None else self.watch.begin()

    def control(self, payload: Payload) -> str | None:
        return signal_of(payload)

    def describe(self, payload: Payload) -> str:
        return describe.describe_result(payload)

    def evidence(self) -> dict[str, Any] | None:
        return None if self.watch is None else self.watch.evidence()

    def cacheable(self, payload: Payload) -> bool:
        return bool(payload.get("kind") == "tool_return")

    def stale(self, body: bytes) -> bool:
        return isolate.is_outgrown(self.function, self.declared, body)

    def find_change(self, row: Row, evidence: Mapping[str, Any]) -> str | None:
        return None if self.watch is None else self.watch.find_change(row, evidence)

    def unchecked(self) -> tuple[str, ...]:
        return () if self.watch is None else self.watch.blind_spots
