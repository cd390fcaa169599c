"""From notebook to pipeline: read the cells, see what depends on what, write one module, prove it the same program.

The names below are what an exported program calls; each is imported at its first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.pipeline.entry import elsewhere as elsewhere
    from agentkit.pipeline.entry import start as start
    from agentkit.pipeline.entry import task as task
    from agentkit.pipeline.entry import walled as walled
    from agentkit.pipeline.shard_tasks import cut as cut
    from agentkit.pipeline.shard_tasks import join as join
    from agentkit.pipeline.task_version import closure as closure

_HOME = {
    "closure": "agentkit.pipeline.task_version",
    "cut": "agentkit.pipeline.shard_tasks",
    "elsewhere": "agentkit.pipeline.entry",
    "join": "agentkit.pipeline.shard_tasks",
    "start": "agentkit.pipeline.entry",
    "task": "agentkit.pipeline.entry",
    "walled": "agentkit.pipeline.entry",
}

__all__ = ["closure", "cut", "elsewhere", "join", "start", "task", "walled"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'agentkit.pipeline' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value
