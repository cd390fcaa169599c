"""One output of a cell: drawn again and again where somebody watches, once where nobody does."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from IPython import display as ipython

from agentkit.agent.markdown import neutralize
from agentkit.text import visible
from agentkit.values.registry import text as writable

INTERVAL = 0.1
"""Seconds between two drawings: faster is not seen and slows the browser down."""

# IPython has no types for it.
show: Callable[..., Any] = ipython.display


def say(text: str) -> None:
    """Print a line under the cell."""
    sys.stdout.write(f"{clean_terminal(text)}\n")


def clean_terminal(text: str) -> str:
    """`text` without what steers a terminal: names in it may be a server's, and an answer is a model's."""
    return visible(text)


def has_viewer(shell: Any) -> bool:
    """Whether a person's front end executes this cell.

    Only such a front end can be asked for input; nbclient, papermill and nbval cannot, and a terminal prints every
    update on a new line. Both get each output once, finished.
    """
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False)) or shows_at_end()


def shows_at_end() -> bool:
    """Whether a person sees this cell once all cells have run: Voila, which cannot be asked for input either."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


class CellOutput:
    """A place under the cell that can be drawn over."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._handle: Any = None

    def draw(self, bundle: dict[str, Any], *, metadata: dict[str, Any] | None = None) -> None:
        """Draw the present state; nothing happens where nobody watches."""
        if not self.live:
            return
        if self._handle is None:
            self._handle = show(bundle, raw=True, metadata=metadata or {}, display_id=True)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata or {})

    def finish(self, bundle: dict[str, Any], *, metadata: dict[str, Any] | None = None) -> None:
        """Draw the last state."""
        if self.live:
            self.draw(bundle, metadata=metadata)
        else:
            show(bundle, raw=True, metadata=metadata or {})


class Notice:
    """A line under the cell that stands only as long as it is true."""

    def __init__(self) -> None:
        self._output = CellOutput(live=True)

    @classmethod
    def here(cls) -> Notice:
        """The notice of this cell; a run that goes on after its cell has ended has that cell's."""
        if (place := _cell.get().notice) is not None:
            return place
        place = cls()
        _cell.set(_cell.get()._replace(notice=place))
        return place

    def show(self, line: str) -> None:
        self._output.draw({"text/plain": line})

    def clear(self) -> None:
        self.show("")


class AnswerOutput:
    """The answer as it arrives, as Markdown. Where somebody watches, its place is taken at once, above the panel."""

    def __init__(self, *, live: bool, formatter: Any) -> None:
        self._output = CellOutput(live=live)
        self._format: Callable[[object], tuple[dict[str, Any], dict[str, Any]]] = formatter.format
        # The model's step is going on while text arrives: what is drawn is not something that step showed.
        self._context = contextvars.copy_context()
        self._drawn = 0.0
        self._text = ""
        self._late: asyncio.TimerHandle | None = None
        self._output.draw(markdown(""))

    @classmethod
    def here(cls, *, live: bool, formatter: Any) -> AnswerOutput:
        """The place for the answer of this cell; a run that goes on after its cell has ended takes that cell's."""
        if live and (place := _cell.get().resumed) is not None:
            return place
        place = cls(live=live, formatter=formatter)
        _cell.set(_cell.get()._replace(answer=place))
        return place

    def stream(self, text: str) -> None:
        """The text so far; drawn at most ten times a second."""
        self._text = text
        wait = self._drawn + INTERVAL - time.monotonic()
        if wait <= 0:
            self._draw()
        elif self._late is None:
            # What comes last is seen even when nothing follows it for long, as where a person is asked.
            self._late = asyncio.get_running_loop().call_later(wait, self._draw)

    def _draw(self) -> None:
        self._cancel()
        self._drawn = time.monotonic()
        self._context.run(self._output.draw, markdown(self._text))

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def finish(self, answer: object) -> None:
        """The whole answer: text as Markdown, anything else as the notebook shows it."""
        self._cancel()
        if isinstance(answer, str):
            self._output.finish(markdown(answer))
            return
        bundle, metadata = self._format(answer)
        # A widget draws itself and leaves nothing to put in the place that was taken.
        self._output.finish(bundle or markdown(""), metadata=metadata)


class CellContext(NamedTuple):
    """How deep cells run in cells, and where this one draws; `resumed` is the answer's place of one that ended."""

    depth: int = 0
    answer: AnswerOutput | None = None
    notice: Notice | None = None
    resumed: AnswerOutput | None = None


_NO_CELL = CellContext()
_cell: contextvars.ContextVar[CellContext] = contextvars.ContextVar("agentkit_cell", default=_NO_CELL)


def cell_depth() -> int:
    """How many cells run here, one inside the other."""
    return _cell.get().depth


def set_cell_depth(depth: int) -> None:
    _cell.set(_cell.get()._replace(depth=depth))


def resume(notice: Notice) -> None:
    """From now on this context is that of a cell that has ended: its output's places are used again."""
    cell = _cell.get()
    _cell.set(cell._replace(notice=notice, resumed=cell.answer))


def is_resumption() -> bool:
    """Whether this is a run that goes on after its cell has ended."""
    return _cell.get().resumed is not None


def markdown(text: str) -> dict[str, Any]:
    # A stream may stand in the middle of a character, of which no message can hold a half.
    whole = writable(text)
    return {"text/markdown": neutralize(whole), "text/plain": clean_terminal(whole)}


def answer_bundle(answer: object, formatter: Any) -> dict[str, Any]:
    """An answer to be shown once: text as Markdown, anything else as the notebook shows it."""
    if isinstance(answer, str):
        return markdown(answer)
    bundle: dict[str, Any] = formatter.format(answer)[0]
    return bundle or markdown("")
