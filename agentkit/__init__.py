"""The public names of agentkit, each imported at its first use, and what `%load_ext agentkit` calls."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from agentkit.agent.agent import DurableAgent as DurableAgent
    from agentkit.agent.agent import durable as durable
    from agentkit.agent.ask import Answer as Answer
    from agentkit.agent.ask import ask as ask
    from agentkit.agent.build import build as build
    from agentkit.agent.spec import Spec as Spec
    from agentkit.debugger.opening import step as step
    from agentkit.errors import AgentKitError as AgentKitError
    from agentkit.errors import ApprovalPending as ApprovalPending
    from agentkit.errors import BudgetAsks as BudgetAsks
    from agentkit.errors import BudgetExceeded as BudgetExceeded
    from agentkit.errors import ChildFailed as ChildFailed
    from agentkit.errors import CircuitOpen as CircuitOpen
    from agentkit.errors import CircuitPending as CircuitPending
    from agentkit.errors import InDoubt as InDoubt
    from agentkit.errors import Interrupted as Interrupted
    from agentkit.errors import JournalBusy as JournalBusy
    from agentkit.errors import JournalCorrupt as JournalCorrupt
    from agentkit.errors import JournalError as JournalError
    from agentkit.errors import JournalFormat as JournalFormat
    from agentkit.errors import JournalFull as JournalFull
    from agentkit.errors import JournalReadOnly as JournalReadOnly
    from agentkit.errors import MissingExtra as MissingExtra
    from agentkit.errors import ReplayMiss as ReplayMiss
    from agentkit.errors import RunFailed as RunFailed
    from agentkit.errors import RunPaused as RunPaused
    from agentkit.errors import SandboxError as SandboxError
    from agentkit.errors import SecretMissing as SecretMissing
    from agentkit.errors import ServerUnreachable as ServerUnreachable
    from agentkit.errors import SpecError as SpecError
    from agentkit.errors import Stopped as Stopped
    from agentkit.errors import UserError as UserError
    from agentkit.journal.execution import idempotency_key as idempotency_key
    from agentkit.map.map import MapResult as MapResult
    from agentkit.map.map import MapRow as MapRow
    from agentkit.map.map import map as map
    from agentkit.map.map import map_stream as map_stream
    from agentkit.notebook.template import fill as fill
    from agentkit.runtime.session import Session as Session
    from agentkit.runtime.session import session as session
    from agentkit.sandbox.program import SandboxResult as SandboxResult
    from agentkit.sandbox.program import sandbox as sandbox
    from agentkit.tools.declaration import tool as tool
    from agentkit.trace.trace import Trace as Trace

_HOME = {
    "AgentKitError": "agentkit.errors",
    "Answer": "agentkit.agent.ask",
    "ApprovalPending": "agentkit.errors",
    "BudgetAsks": "agentkit.errors",
    "BudgetExceeded": "agentkit.errors",
    "ChildFailed": "agentkit.errors",
    "CircuitOpen": "agentkit.errors",
    "CircuitPending": "agentkit.errors",
    "DurableAgent": "agentkit.agent.agent",
    "InDoubt": "agentkit.errors",
    "Interrupted": "agentkit.errors",
    "JournalBusy": "agentkit.errors",
    "JournalCorrupt": "agentkit.errors",
    "JournalError": "agentkit.errors",
    "JournalFormat": "agentkit.errors",
    "JournalFull": "agentkit.errors",
    "JournalReadOnly": "agentkit.errors",
    "MapResult": "agentkit.map.map",
    "MapRow": "agentkit.map.map",
    "MissingExtra": "agentkit.errors",
    "ReplayMiss": "agentkit.errors",
    "RunFailed": "agentkit.errors",
    "RunPaused": "agentkit.errors",
    "SandboxError": "agentkit.errors",
    "SandboxResult": "agentkit.sandbox.program",
    "SecretMissing": "agentkit.errors",
    "ServerUnreachable": "agentkit.errors",
    "Session": "agentkit.runtime.session",
    "Spec": "agentkit.agent.spec",
    "SpecError": "agentkit.errors",
    "Stopped": "agentkit.errors",
    "Trace": "agentkit.trace.trace",
    "UserError": "agentkit.errors",
    "ask": "agentkit.agent.ask",
    "build": "agentkit.agent.build",
    "durable": "agentkit.agent.agent",
    "fill": "agentkit.notebook.template",
    "idempotency_key": "agentkit.journal.execution",
    "map": "agentkit.map.map",
    "map_stream": "agentkit.map.map",
    "sandbox": "agentkit.sandbox.program",
    "session": "agentkit.runtime.session",
    "step": "agentkit.debugger.opening",
    "tool": "agentkit.tools.declaration",
}
_EXPORTED = frozenset({"closure", "elsewhere", "start", "task", "walled"})
"""What the programs of older exports find here: it has its place in `agentkit.pipeline` now."""

__all__ = [
    "AgentKitError",
    "Answer",
    "ApprovalPending",
    "BudgetAsks",
    "BudgetExceeded",
    "ChildFailed",
    "CircuitOpen",
    "CircuitPending",
    "DurableAgent",
    "InDoubt",
    "Interrupted",
    "JournalBusy",
    "JournalCorrupt",
    "JournalError",
    "JournalFormat",
    "JournalFull",
    "JournalReadOnly",
    "MapResult",
    "MapRow",
    "MissingExtra",
    "ReplayMiss",
    "RunFailed",
    "RunPaused",
    "SandboxError",
    "SandboxResult",
    "SecretMissing",
    "ServerUnreachable",
    "Session",
    "Spec",
    "SpecError",
    "Stopped",
    "Trace",
    "UserError",
    "ask",
    "build",
    "durable",
    "fill",
    "idempotency_key",
    "load_ipython_extension",
    "map",
    "map_stream",
    "sandbox",
    "session",
    "step",
    "tool",
]


class _Package(ModuleType):
    """A folder may have the name of a function, as `sandbox` has: `agentkit.sandbox` is the function all the same."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python binds a folder to its package as soon as anything in it is imported.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register `%agent` and `%%agent`; whatever is slow to import waits for the first cell."""
    import_module("agentkit.notebook.extension").load_ipython_extension(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take `%agent` and `%%agent` away again."""
    import_module("agentkit.notebook.extension").unload_ipython_extension(shell)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("jupyter-agentkit")
    if name in _EXPORTED:
        return getattr(import_module("agentkit.pipeline"), name)
    if name not in _HOME:
        raise AttributeError(f"module 'agentkit' has no attribute {name!r}")
    if name == "session" and "marimo" in sys.modules:
        import_module("agentkit.notebook.marimo").attend()
    if name in ("map", "map_stream"):
        import_module("agentkit.trace.map_line").attend()
    value = getattr(import_module(_HOME[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
