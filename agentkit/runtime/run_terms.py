"""How the runs that begin here are made: what the code around them says before there is a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from agentkit.approval.policy import Headless, Policy
from agentkit.debugger.gate import Gate
from agentkit.events import Mode
from agentkit.runtime.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `ask` adds to one run, and the id of the run it became (`opened`); sub-agents do not inherit it.

    `row` is the place in its table of a run that a map makes, and `entered` is told of its state when it begins.
    """

    continues: str | None = None
    fresh: bool = False
    mode: Mode | None = None
    headless: Headless | None = None
    walk: bool = False
    row: int | None = None
    opened: list[str] = field(default_factory=list)
    entered: Callable[[RunState], None] = lambda frame: None


Way: TypeAlias = Literal["", "run", "stream"]
"""Through which method of an agent a run is made, where nobody holds its messages meanwhile; else empty."""


class RunTerms(NamedTuple):
    """`policies` say what needs a person, by the word of the agent that runs and of those around it, outermost first.

    `gate` is that of the stepping which the next run belongs to.
    """

    options: RunOptions = RunOptions()
    way: Way = ""
    gate: Gate | None = None
    policies: tuple[Policy, ...] = ()


_PLAIN = RunTerms()
_terms: ContextVar[RunTerms] = ContextVar("agentkit_run_terms", default=_PLAIN)


def run_terms() -> RunTerms:
    return _terms.get()


def step_through(gate: Gate) -> None:
    """From here on, a run that begins in this context is that of `gate`."""
    _terms.set(_terms.get()._replace(gate=gate))


@contextmanager
def run_with(options: RunOptions) -> Iterator[None]:
    """Runs that begin inside are run as `options` say."""
    with _set(_terms.get()._replace(options=options)):
        yield


@contextmanager
def nobody_edits(way: Way = "run") -> Iterator[None]:
    """Within `run` and its kin nobody holds the messages, so keys may be chained from the last known one."""
    with _set(_terms.get()._replace(way=way)):
        yield


@contextmanager
def asking_for(approve: Policy) -> Iterator[None]:
    """What is asked about here holds for the agents and programs inside too."""
    terms = _terms.get()
    with _set(terms._replace(policies=(*terms.policies, approve))):
        yield


@contextmanager
def _set(terms: RunTerms) -> Iterator[None]:
    token = _terms.set(terms)
    try:
        yield
    finally:
        _terms.reset(token)
