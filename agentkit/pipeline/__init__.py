"""From notebook to pipeline: read the cells, see what depends on what, write one module, prove it the same program.

The names below are what an exported program calls; each is imported at its first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.pipeline.closure import closure as closure
    from agentkit.pipeline.runtime import elsewhere as elsewhere
    from agentkit.pipeline.runtime import start as start
    from agentkit.pipeline.runtime import task as task
    from agentkit.pipeline.runtime import walled as walled

_HOME = {
    "closure": "agentkit.pipeline.closure",
    "elsewhere": "agentkit.pipeline.runtime",
    "start": "agentkit.pipeline.runtime",
    "task": "agentkit.pipeline.runtime",
    "walled": "agentkit.pipeline.runtime",
}

__all__ = ["closure", "elsewhere", "start", "task", "walled"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'agentkit.pipeline' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value
