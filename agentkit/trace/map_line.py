"""A map in a terminal: one line on standard error, drawn over while rows end."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from agentkit.map import map as maps
from agentkit.map.progress import Pulse
from agentkit.trace import map_panel

_LOOK = 0.05


def attend() -> None:
    """Have the maps of sessions that show nothing themselves shown here, where standard error is a terminal."""
    maps.default_view = draw_line


@contextmanager
def draw_line(row_map: maps.RowMap) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return

    async def redraw() -> None:
        pulse = Pulse()
        while True:
            if pulse.is_due():
                _draw(row_map)
            await asyncio.sleep(_LOOK)

    drawing = asyncio.get_running_loop().create_task(redraw())
    try:
        yield
    finally:
        drawing.cancel()
        row_map.progress.finish(row_map.ended)
        _draw(row_map)
        sys.stderr.write("\n")


def _draw(row_map: maps.RowMap) -> None:
    width = shutil.get_terminal_size().columns - 1
    line = map_panel.render_line(row_map.progress.snapshot(), title=row_map.name, width=max(20, width))
    sys.stderr.write(f"\r{line.ljust(width)}")
    sys.stderr.flush()
