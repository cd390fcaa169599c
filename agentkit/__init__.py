"""The public names of agentkit, each imported at its first use, and what `%load_ext agentkit` calls."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import agentkit.durable as _durable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from agentkit.define.spec import Spec as Spec
    from agentkit.define.tools import tool as tool
    from agentkit.durable.frames import idempotency_key as idempotency_key
    from agentkit.engine.build import build as build
    from agentkit.engine.opening import step as step
    from agentkit.engine.run import Answer as Answer
    from agentkit.engine.run import ask as ask
    from agentkit.engine.sandboxing import SandboxResult as SandboxResult
    from agentkit.engine.sandboxing import sandbox as sandbox
    from agentkit.engine.session import session as session
    from agentkit.errors import AgentKitError as AgentKitError
    from agentkit.notebook.prompt import fill as fill
    from agentkit.pipeline.closure import closure as closure
    from agentkit.pipeline.runtime import elsewhere as elsewhere
    from agentkit.pipeline.runtime import start as start
    from agentkit.pipeline.runtime import task as task
    from agentkit.pipeline.runtime import walled as walled

_HOME = {
    "AgentKitError": "agentkit.errors",
    "Answer": "agentkit.engine.run",
    "SandboxResult": "agentkit.engine.sandboxing",
    "Spec": "agentkit.define.spec",
    "ask": "agentkit.engine.run",
    "build": "agentkit.engine.build",
    "closure": "agentkit.pipeline.closure",
    "elsewhere": "agentkit.pipeline.runtime",
    "fill": "agentkit.notebook.prompt",
    "idempotency_key": "agentkit.durable.frames",
    "sandbox": "agentkit.engine.sandboxing",
    "session": "agentkit.engine.session",
    "start": "agentkit.pipeline.runtime",
    "step": "agentkit.engine.opening",
    "task": "agentkit.pipeline.runtime",
    "tool": "agentkit.define.tools",
    "walled": "agentkit.pipeline.runtime",
}

__all__ = [
    "AgentKitError",
    "Answer",
    "SandboxResult",
    "Spec",
    "ask",
    "build",
    "closure",
    "durable",
    "elsewhere",
    "fill",
    "idempotency_key",
    "load_ipython_extension",
    "sandbox",
    "session",
    "start",
    "step",
    "task",
    "tool",
    "walled",
]


class _DurablePackage(ModuleType):
    """`agentkit.durable` is a folder and the verb `agentkit.durable(agent)`: Python has one name for both."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("agentkit.engine.agent").durable(*args, **options)


_durable.__class__ = _DurablePackage
durable: Any = _durable


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register `%agent` and `%%agent`; whatever is slow to import waits for the first cell."""
    import_module("agentkit.notebook.magics").load_ipython_extension(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take `%agent` and `%%agent` away again."""
    import_module("agentkit.notebook.magics").unload_ipython_extension(shell)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("jupyter-agentkit")
    if name not in _HOME:
        raise AttributeError(f"module 'agentkit' has no attribute {name!r}")
    if name == "session" and "marimo" in sys.modules:
        import_module("agentkit.notebook.marimo").attend()
    value = getattr(import_module(_HOME[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
