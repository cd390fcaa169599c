"""The step that a question to a person is: known by what is asked and, where code is decided about, by that code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentkit.approval.policy import Decision, Question
from agentkit.events import Kind
from agentkit.journal.keys import operation_key
from agentkit.journal.operation import Operation, Payload
from agentkit.runtime.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class HumanQuestion(Operation):
    """An approval, or a question that an agent, a budget or a step in doubt has."""

    @classmethod
    def of(
        cls,
        frame: RunState,
        kind: Kind,
        question: Question,
        *,
        payload: Mapping[str, Any],
        history: bytes | None,
        counted: bool = True,
    ) -> HumanQuestion:
        """What is shown with it is kept beside its key and is not part of it.

        The digest of the tool is: about an edited tool nothing is decided yet. Older journals have keys without it.
        """
        name = f"{kind}:{question.kind}"
        key = operation_key(name=name, payload=payload, history=history, memo=frame.memo)
        older = (key.key,) if question.code else ()
        if question.code:
            payload = {**payload, "code": question.code}
            key = operation_key(name=name, payload=payload, history=history, memo=frame.memo)
        shown = frame.memo.part(question.to_json())
        return cls(
            key=replace(key, parts={**key.parts, "question": shown.digest.hex()}, bodies=(*key.bodies, shown)),
            kind=kind,
            name=question.tool or question.kind,
            request=question.text if question.kind == "ask" else json.dumps(question.arguments, ensure_ascii=False),
            history=history,
            chain=frame.chain,
            counted=counted,
            alternatives=older,
        )

    def describe(self, payload: Payload) -> str:
        return Decision.from_json(payload).description
