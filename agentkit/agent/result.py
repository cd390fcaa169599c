"""What an agent answered, with the run that is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from pydantic_ai.messages import FinishReason, ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.output import OutputDataT

from agentkit.agent.markdown import neutralize
from agentkit.events import Event, Run, RunStatus, Usage
from agentkit.runtime import fallback_record
from agentkit.runtime.session import Session

_REPR_CHARACTERS = 4_000
_SHOWN_CHARACTERS = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class NotWhole:
    """What a run is called whose answer is not whole, and what a person is told of it."""

    status: RunStatus
    note: str


NOT_WHOLE: Mapping[FinishReason | None, NotWhole] = {
    "length": NotWhole(
        status="truncated",
        note="the answer ends where its tokens ended (finish reason length): raise max_tokens, or ask for less",
    ),
    "content_filter": NotWhole(
        status="filtered",
        note="the provider's content filter ended the answer, or the model refused (finish reason content_filter)",
    ),
    "error": NotWhole(
        status="truncated", note="the provider failed in the middle of the answer (finish reason error): run again"
    ),
}
"""By the finish reason of the reply that an answer was taken from."""


def finish_reason(messages: Sequence[ModelMessage]) -> FinishReason | None:
    """Return why the last reply among `messages` ended; None where its server did not say."""
    last = next((message for message in reversed(messages) if isinstance(message, ModelResponse)), None)
    return None if last is None else last.finish_reason


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[OutputDataT]):
    """What an agent answered: its `output`, the `run` that is recorded and the conversation's `messages`."""

    output: OutputDataT
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
    def finish_reason(self) -> FinishReason | None:
        """Why the reply ended that this answer was taken from: `stop`, `length`, `content_filter`, …"""
        return finish_reason(self.messages)

    @property
    def truncated(self) -> bool:
        """Whether the answer ends where its tokens ended, and not where the model would have ended it."""
        return self._not_whole("truncated")

    @property
    def filtered(self) -> bool:
        """Whether a content filter ended the answer, or the model refused."""
        return self._not_whole("filtered")

    def _not_whole(self, status: RunStatus) -> bool:
        found = NOT_WHOLE.get(self.finish_reason)
        return found is not None and found.status == status

    @property
    def stale(self) -> float | None:
        """How old, in seconds, the oldest cached reply is that this answer rests on; None when models answered."""
        return fallback_record.oldest(self.messages)

    @property
    def usage(self) -> Usage:
        """What this run used live, with the runs inside it: tokens, and `cost` in USD."""
        if not self.run.id:
            # In mode `off` there is no record but the conversation.
            replies = [message.usage for message in self.messages if isinstance(message, ModelResponse)]
            return Usage(
                input_tokens=sum(usage.input_tokens for usage in replies),
                output_tokens=sum(usage.output_tokens for usage in replies),
            )
        totals = self.session.totals(run=self.run.id)
        cost = None if totals.unpriced else totals.spent
        return Usage(input_tokens=totals.input_tokens, output_tokens=totals.output_tokens, cost=cost)

    @property
    def cost(self) -> float | None:
        """What this run cost in USD: 0 where all of it was replayed, None where a price is not known."""
        return self.usage.cost

    def events(self) -> list[Event]:
        """The run and its steps, those of sub-agents included, as recorded."""
        return self.session.trace(self.run.id)

    def __repr__(self) -> str:
        left = len(self.text) - _REPR_CHARACTERS
        if left <= 0:
            return self.text
        return f"{self.text[:_REPR_CHARACTERS]}… ({left:,} more characters: print(answer.text))"

    def _mime_(self) -> tuple[str, str]:
        # What marimo shows of it; agentkit.notebook.marimo puts the panel below.
        return shown_as.get("marimo", _as_markdown)(self)

    def _repr_markdown_(self) -> str:
        left = len(self.text) - _SHOWN_CHARACTERS
        more = f"\n\n… ({left:,} more characters: `answer.text`)" if left > 0 else ""
        return neutralize(self.text[:_SHOWN_CHARACTERS]) + more


def _as_markdown(answer: Answer[Any]) -> tuple[str, str]:
    return "text/markdown", answer._repr_markdown_()


shown_as: dict[str, Callable[[Answer[Any]], tuple[str, str]]] = {}
"""How a front end that asks the answer itself shows it, by its name: mime type and data."""
