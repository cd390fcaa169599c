"""The run that steps are performed for, with what its keys are built from and whom it may ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from agentkit.approval.policy import Headless
from agentkit.budget.budget import USER, Amounts, BudgetScope
from agentkit.debugger.gate import Gate
from agentkit.events import Gauge, Scope
from agentkit.guards.loop_detector import LoopDetector
from agentkit.journal.execution import Occurrences, RunFrame, current_run
from agentkit.journal.journal import Journal, Performed
from agentkit.journal.keys import MessageChain, RequestParts
from agentkit.journal.operation import CallCacheView
from agentkit.runtime.session import RunIdentity, Session


class Shortcut(Protocol):
    """Passes over what of a run is on record; `walked` says why it did not.

    `discovered` is what servers said they offer, by the operation that asked and the name of the server.
    """

    walked: str
    discovered: dict[tuple[str, str], Any]

    def jump_from(self, performed: Performed, ctx: RunContext[Any]) -> Performed: ...


@dataclass(frozen=True, kw_only=True)
class FirstRequest:
    """What the run of a row asks its model first; `parts` are those of its key."""

    model_id: str | None
    messages: list[ModelMessage]
    settings: ModelSettings | None
    parameters: ModelRequestParameters
    ctx: RunContext[Any]
    parts: Mapping[str, str]


@dataclass(kw_only=True)
class RunState(RunFrame):
    """A run with the chain of its messages, the memo of its request parts, and its approvals.

    `held` are the tool calls put aside for a person, by the id of the call; `passed` those that need nobody because
    they only replay; `ran` says in one line each what tools have done so far. `owner` is the agent that runs, `began`
    how many equal requests there were before it, and `messages` gives its conversation so far. `agent_run` is
    pydantic-ai's own, `state` that of its loop, and `forward` passes over what of the run is on record, unless it has
    to `walk`. `asked_live`: the last reply was a live one; `notes` are remarks on this run for the person. `outer` is
    the run around it, `whose` says for whom it is made, `opened` when by a clock that nobody sets, `place` where it
    stands in the tree of budgets,
    `replayed_amounts` what its replayed steps took when they were live, and `gauges` how its limits stood; `restate`
    tells those who listen when they changed. `maps`: runs inside it are those of the rows of a table; `row` is
    the place of such a run in the table, and `first_request` what it asked its model first.
    """

    journal: Journal
    chain: MessageChain
    memo: RequestParts
    trusted: bool = True
    cache: Callable[[Scope | None], CallCacheView | None] = lambda scope: None
    share: Scope | None = None
    ttl: float | None = None
    gate: Gate | None = None
    session: Session | None = None
    owner: Any = None
    messages: Callable[[], list[ModelMessage]] = list
    began: Occurrences = field(default_factory=Occurrences)
    headless: Headless | None = None
    held: dict[str, Any] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    state: Any = None
    agent_run: Any = None
    forward: Shortcut | None = None
    walk: bool = False
    breaker: LoopDetector = field(default_factory=LoopDetector)
    asked_live: bool = False
    notes: list[str] = field(default_factory=list)
    outer: RunState | None = None
    maps: bool = False
    row: int | None = None
    first_request: FirstRequest | None = None
    whose: RunIdentity = field(default_factory=RunIdentity)
    place: BudgetScope = USER
    opened: float = field(default_factory=time.monotonic)
    replayed_amounts: Amounts = field(default_factory=Amounts)
    gauges: tuple[Gauge, ...] = ()
    restate: Callable[[], None] = lambda: None

    @property
    def in_map(self) -> bool:
        """Whether it is the run of a row of a table, or one inside that."""
        return self.outer is not None and (self.outer.maps or self.outer.in_map)


def frame_of_run() -> RunState | None:
    return cast("RunState | None", current_run())
