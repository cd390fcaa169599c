"""What an agent answered, with the run that is recorded of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from agentkit.defend.markdown import harmless
from agentkit.engine import lastresort
from agentkit.engine.session import Session
from agentkit.events import Event, Run


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an agent answered: its `output`, the `run` that is recorded and the conversation's `messages`."""

    output: Any
    run: Run
    messages: tuple[ModelMessage, ...]
    session: Session

    @property
    def text(self) -> str:
        """The output as Markdown text."""
        return self.output if isinstance(self.output, str) else str(self.output)

    @property
    def conversation(self) -> str:
        """The conversation as JSON, for `ask(conversation=…)` in another process."""
        return ModelMessagesTypeAdapter.dump_json(list(self.messages)).decode()

    @property
    def stale(self) -> float | None:
        """How old, in seconds, the oldest cached reply is that this answer rests on; None when models answered."""
        return lastresort.oldest(self.messages)

    def events(self) -> list[Event]:
        """The run and its steps, those of sub-agents included, as recorded."""
        return self.session.trace(self.run.id)

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return harmless(self.text)
