"""The contract of everything that comes to the journal's door: each kind of step is a class that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from agentkit.events import Effects, Kind, Usage
from agentkit.journal.keys import Key, MessageChain
from agentkit.journal.records import MessageNode, Row

Payload: TypeAlias = Any
"""What a step answers: JSON values only."""


class CallCacheView(Protocol):
    """What the journal needs of the call cache that is shared across projects."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, body: bytes, ttl: float | None) -> None: ...


class Reading(NamedTuple):
    """What the engine reads from a payload before it is recorded."""

    usage: Usage | None = None
    node: MessageNode | None = None
    model: str | None = None
    key: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step about to be answered, from the record or live.

    A kind of step is a subclass: agent/model_request.py, agent/tool_call.py, agent/loop_operation.py,
    approval/human_question.py, guards/loop_guard.py, map/batch.py, and what a sandbox does in sandbox/.

    `history` is the digest of the conversation it stands in, whose messages are those of `chain`; `request` is what a
    person is shown of it. `alternatives` are other keys that answer it, looked up in order. Not `counted`, equal ones
    are one. `batch` is the step of the batch that its result came with. `outer`: its body performs steps or tasks of
    its own, each of them kept by itself. `encode` is how the thread that performs it writes its result down; None where
    no thread does.
    """

    key: Key
    kind: Kind
    name: str
    effects: Effects = "none"
    request: str = ""
    history: bytes | None = None
    chain: MessageChain | None = None
    counted: bool = True
    alternatives: tuple[bytes, ...] = ()
    cache: CallCacheView | None = None
    ttl: float | None = None
    batch: int | None = None
    outer: bool = False
    encode: Callable[[object], Payload] | None = None

    @property
    def model(self) -> str | None:
        """The model that is asked."""
        return None

    @property
    def sends(self) -> bool:
        """Whether it tells when a request leaves, so that until then nothing can have been paid."""
        return False

    @property
    def about(self) -> object:
        """What guards want to know of it."""
        return None

    @property
    def reads_outside(self) -> bool:
        """Whether a recorded answer is compared with the world before it is given (`stale`, `find_change`)."""
        return False

    @property
    def verifiable(self) -> bool:
        """Whether `verify` can say that it happened."""
        return False

    async def verify(self) -> Payload | None:
        """Return the result of an earlier attempt without an end; None where nothing happened."""
        return None

    # -- before

    def nodes(self) -> tuple[MessageNode, ...]:
        """The messages of its history that are not on disk yet."""
        return () if self.chain is None else self.chain.take()

    def watching(self) -> AbstractContextManager[object]:
        """It is performed inside this."""
        return nullcontext()

    # -- after

    def control(self, payload: Payload) -> str | None:
        """The name of a payload that is a signal and must not be recorded as an answer."""
        return None

    def read(self, payload: Payload) -> Reading:
        return Reading()

    def describe(self, payload: Payload) -> str:
        """The answer, as a person is shown it."""
        return json.dumps(payload, ensure_ascii=False)

    def evidence(self) -> dict[str, Any] | None:
        """What it read from outside, as JSON."""
        return None

    def cacheable(self, payload: Payload) -> bool:
        """Whether other projects may be given this answer."""
        return True

    # -- found on record

    def known(self) -> None:
        """Its history is on disk: a step that stands in it was replayed."""
        if self.chain is not None:
            self.chain.on_disk()

    def stale(self, body: bytes) -> bool:
        """Whether a recorded body is no answer any more."""
        return False

    def find_change(self, row: Row, evidence: Mapping[str, Any]) -> str | None:
        """Why a record with such evidence no longer answers it."""
        return None

    def unchecked(self) -> tuple[str, ...]:
        """What it reads in ways that nobody can see."""
        return ()

    def as_replayed(self, payload: Payload) -> Payload:
        return payload
