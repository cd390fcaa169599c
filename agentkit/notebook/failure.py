"""An error as one line under the cell, and the full one kept for `%agent traceback`."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from agentkit.errors import AgentKitError, RunFailed, UserError

_CELL_FILE = re.compile(r"ipykernel_\d+|<ipython-input")
_kept: list[str] = []


def full() -> str:
    """The last error with its causes and traceback."""
    return _kept[-1] if _kept else "no error so far"


def shown(error: Exception, *, doing: str) -> AgentKitError:
    """What to raise in the cell instead of `error`: a one-line error, cut off from what led to it.

    IPython prints the native traceback of any error that has an ExceptionGroup somewhere behind it, so nothing may be
    left behind it; the full text is kept first.
    """
    _kept[:] = ["".join(traceback.format_exception(error))]
    told = error if isinstance(error, AgentKitError) else _told(error, doing)
    told.__cause__ = told.__context__ = None
    return told.with_traceback(None)


def _told(error: Exception, doing: str) -> AgentKitError:
    leaf = next(_leaves(error), error)
    module = type(leaf).__module__.partition(".")[0]
    what = f"{type(leaf).__name__}: {_first_line(leaf)}{_place(leaf)}"
    if module == "pydantic_ai" and type(leaf).__name__ == "UserError":
        return UserError(f"{doing}: {_first_line(leaf)}")
    again = ", running again continues" if " run " in f"{doing} " else ""
    return RunFailed(f"{doing}: {what}; %agent traceback shows it in full{again}", cause=error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def _place(error: BaseException) -> str:
    """Where in the notebook it was raised, if it was raised in the notebook."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _CELL_FILE.search(frame.filename)]
    return f" (in {frames[-1].name}, line {frames[-1].lineno} of its cell)" if frames else ""
