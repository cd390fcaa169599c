"""What an exported program does around the tasks that each map a shard: cut the table, join their frames."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from agentkit.map import shards
from agentkit.map.rows import open_table
from agentkit.map.shards import Shard


def cut(rows: object, count: int, *, key: str | None = None) -> list[Shard]:
    """Return the rows in `count` shards of nearly equal length; `key` is checked here, for the rows of the whole."""
    return shards.cut(open_table(rows), count, key=key)


async def join(frames: AsyncIterable[Any]) -> Any:
    """Return the frame of the whole from those of its shards, as they come, in order."""
    return shards.join([frame async for frame in frames])
