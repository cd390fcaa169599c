"""The steps of pydantic-ai's loop that are no model request and no tool call, and a person's edit of one that is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_ai.tools import RunContext

from agentkit.events import Kind
from agentkit.journal.codec import signal_of
from agentkit.journal.keys import operation_key
from agentkit.journal.operation import Operation, Payload
from agentkit.runtime.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class LoopOperation(Operation):
    """What servers offer (`discovery`), arguments that are checked (`validate`), and what capabilities do."""

    @classmethod
    def of(
        cls, frame: RunState, kind: Kind, name: str, payload: Any, ctx: RunContext[Any] | None, **more: Any
    ) -> LoopOperation:
        history = frame.chain.digest([] if ctx is None else ctx.messages, trusted=frame.trusted)
        key = operation_key(name=f"{kind}:{name}", payload=payload, history=history, memo=frame.memo)
        return cls(key=key, kind=kind, name=name, history=history, chain=frame.chain, **more)

    def control(self, payload: Payload) -> str | None:
        return signal_of(payload)


@dataclass(frozen=True, kw_only=True)
class StepEdit(LoopOperation):
    """What a person put in the place of a step."""

    answered: str = ""

    @classmethod
    def at(cls, frame: RunState, name: str, edit: Any, ctx: RunContext[Any] | None) -> LoopOperation:
        value = edit["value"]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        stands = edit["what"] in ("result", "reply")
        asked, answered = ("", f"{text} (by you)") if stands else (f": {text}", "by you")
        request = f"step {edit['at']}{asked}"
        return cls.of(frame, "question", name, edit, ctx, request=request, answered=answered)

    def describe(self, payload: Payload) -> str:
        return self.answered
