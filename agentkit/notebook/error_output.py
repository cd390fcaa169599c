"""An error as one line under the cell, and the full one kept for `%agent traceback`."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from agentkit.errors import (
    AgentKitError,
    ApprovalPending,
    InDoubt,
    Interrupted,
    RunFailed,
    RunPaused,
    SandboxError,
    UserError,
    leaves,
    reason,
)
from agentkit.journal.redaction import Redactor
from agentkit.notebook.grammar import VERBS
from agentkit.notebook.output import Notice, clean_terminal

_CELL_FILE = re.compile(r"ipykernel_\d+|<ipython-input")
_MEMBERS = 4
_DOING = re.compile(r"%agent (\w+)")
# How agentkit names an option where Python is written, at the beginning of a message and within it.
_FIRST = re.compile(r"([a-z_]+)(?=: | '| [\w/]+=)")
_KEYWORD = re.compile(r"(?<![\w.(@'\"-])([a-z_]+)=('[^']*'|True\b)")
# Calls and commands that a verb stands for.
_TYPED = (
    (re.compile(r"`agentkit (budget [^`]+)`"), r"%agent \1"),
    (re.compile(r"`agentkit approvals ls`"), "%agent approvals"),
    (re.compile(r"\bsession\.runs\(\)"), "%agent runs"),
    (re.compile(r"\bsession\.trace\(run\)"), "%agent trace"),
    (re.compile(r"\bsession\.forget\(step=(\d+)\)"), r"%agent forget \1"),
    (re.compile(r"\bask anew with fresh=True"), "ask anew with --fresh"),
    (re.compile(r"\brun\.(back|next)\(\)"), r"%agent \1"),
    (re.compile(r"\bopen it with agentkit\.step\(…\) first"), "run its %%agent step cell first"),
    (re.compile(r"\bbuild the agent again with agentkit\.build\(…\)"), "run its %%agent build cell again"),
)
_kept: list[str] = []
_raised: list[AgentKitError] = []
_for_now: list[AgentKitError] = []


def full() -> str:
    """The last error with its causes and traceback."""
    return _kept[-1] if _kept else "no error so far"


def shorten_error(error: Exception, *, doing: str) -> AgentKitError:
    """What to raise in the cell instead of `error`: a one-line error, cut off from what led to it.

    IPython prints the native traceback of any error that has an ExceptionGroup somewhere behind it, so nothing may be
    left behind it; the full text is kept first.
    """
    _kept[:] = [_fit("".join(traceback.format_exception(error)))]
    told = error if isinstance(error, AgentKitError) else _describe_error(error, doing)
    told.args = (_in_words_of_the_cell(told, doing), *told.args[1:])
    told.args = tuple(_fit(said) if isinstance(said, str) else said for said in told.args)
    told.__cause__ = told.__context__ = None
    _raised[:] = [told]
    return told.with_traceback(None)


def _in_words_of_the_cell(error: AgentKitError, doing: str) -> str:
    """Return what `error` says, with what is to be typed in a cell where it names a call, a keyword or a command."""
    text = str(error)
    match error:
        case ApprovalPending():
            ids = " ".join(error.steps)
            told = f"%agent approve {ids} {error.how}".rstrip()
            here = f"{told}, in a shell `agentkit approvals decide {ids}`"
            for command in (f"`agentkit approvals decide {ids}`", f"`agentkit approvals decide {ids} {error.how}`"):
                text = text.replace(f"{command} in a shell", here)
            return text
        case InDoubt():
            settled = f"%agent settle {error.step} --redo | --result JSON | --stop"
            return f"step {error.step} ({error.name}) {error.reason}: settle it with {settled}, then run again"
        case RunPaused():
            paused = f"{error.agent} is paused before {error.step} ({error.cause})"
            return f"{paused}: %agent next performs it, %agent continue goes on; then run this cell again"
    for pattern, typed in _TYPED:
        text = pattern.sub(typed, text)
    found = _DOING.match(doing)
    # What a program did wrong is said of the program: its `code` and its `limit` are no options.
    if found is None or found[1] not in VERBS or isinstance(error, SandboxError):
        return text
    # What is wrong with a tool of a program may be right for an agent.
    options = VERBS["build"].options | VERBS[found[1]].options
    first = _FIRST.match(text)
    if first is not None and _option(first[1]) in options:
        text = f"--{_option(first[1])}{text[first.end(1) :]}"
    return _KEYWORD.sub(lambda keyword: _as_option(keyword) if _option(keyword[1]) in options else keyword[0], text)


_OPTIONS = {"calls": "call", "inputs": "in", "outputs": "out"}
"""Options that have another name than the keyword of the function."""


def _option(keyword: str) -> str:
    return _OPTIONS.get(keyword, keyword).replace("_", "-")


def _as_option(keyword: re.Match[str]) -> str:
    name, value = _option(keyword[1]), keyword[2].strip("'")
    return f"--{name}" if value in ("", "True") else f"--{name} {value}"


def _fit(text: str) -> str:
    """What may be shown and saved with the notebook: no secret of the environment, nothing that steers a terminal."""
    return clean_terminal(_redactor().scrub(text))


def _redactor() -> Redactor:
    """What the open session keeps out of its records; an error may come before there is one, or the engine."""
    engine = sys.modules.get("agentkit.runtime.session")
    opened = None if engine is None else engine.current()
    if opened is None:
        return Redactor.from_environ(os.environ)
    opened.keep_secret()
    return cast(Redactor, opened.redactor)


def interruption(doing: str) -> Interrupted:
    return Interrupted(f"{doing}stopped; what is recorded is kept: run the cell again to continue")


def show_for_now(shell: Any, error: AgentKitError, text: str, notice: Notice) -> None:
    """Show `text` in `notice` instead of `error`, which would stay under its cell for good.

    The cell fails all the same, so that nothing queued after it runs.
    """
    if _ours(shell):
        _for_now[:] = [error]
        notice.show(f"\x1b[31m{type(error).__name__}\x1b[0m: {_fit(text)}")


def was_shown(error: AgentKitError) -> bool:
    """Whether the last call of `show_for_now` was for this error."""
    return error in _for_now


def _ours(shell: Any) -> bool:
    return AgentKitError.__name__ in {kind.__name__ for kind in shell.custom_exceptions}


def register(shell: Any, *, ran_agents: Callable[[], bool]) -> None:
    """Show our errors in one line in plain cells too, and a Stop in a cell for which `has_run_agents` is true.

    IPython has one place for such a handler: where somebody else has taken it, it stays theirs.
    """

    def one_line(
        shell: Any, etype: type[BaseException], value: BaseException, tb: TracebackType, tb_offset: int | None = None
    ) -> None:
        told = value
        if value in _for_now:
            # What the kernel answers for the cell has it too.
            shell._last_traceback = value._render_traceback_()
            return
        if isinstance(value, AgentKitError):
            # A verb's error was kept, with all that led to it, before it was raised.
            told = value if value in _raised else shorten_error(value.with_traceback(tb), doing="")
        elif ran_agents():
            told = interruption("")
            # IPython renders what it keeps of an error once more, for seconds: every frame of every library in it.
            vars(value)["_render_traceback_"] = told._render_traceback_
        else:
            shell.showtraceback((etype, value, tb), tb_offset=tb_offset)
            return
        shell._showtraceback(type(told), told, told._render_traceback_())

    if not shell.custom_exceptions:
        shell.set_custom_exc((AgentKitError, asyncio.CancelledError), one_line)


def unregister(shell: Any) -> None:
    if _ours(shell):
        shell.set_custom_exc((), None)


def _describe_error(error: Exception, doing: str) -> AgentKitError:
    members = list(leaves(error))
    leaf = members[0] if members else error
    module = type(leaf).__module__.partition(".")[0]
    # The members of a fallback chain, each with what was wrong with it.
    others = "".join(f"; then {type(other).__name__}: {_first_line(other)}" for other in members[1:_MEMBERS])
    what = f"{type(leaf).__name__}: {_explain(leaf) or _first_line(leaf)}{_place(leaf)}{others}"
    if module == "pydantic_ai" and type(leaf).__name__ == "UserError":
        return UserError(f"{doing}: {_first_line(leaf)}")
    again = _describe_rerun(leaf) if " run " in f"{doing} " else ""
    return RunFailed(f"{doing}: {what}; %agent traceback shows it in full{again}", cause=error)


def _explain(error: BaseException) -> str | None:
    """What a failed request means, in a line that names its server; None for anything else."""
    # A request can only have failed where models are loaded, which are too heavy for every notebook.
    models = sys.modules.get("agentkit.models.resolve")
    return None if models is None or not isinstance(error, models.ModelAPIError) else str(models.explain(error))


def _describe_rerun(error: BaseException) -> str:
    """What running the cell again does. A reply that no agent can go on from is on record, and stays as it is."""
    stuck = any(kind.__name__ == "UnexpectedModelBehavior" for kind in type(error).__mro__)
    return ", --fresh asks the model anew" if stuck else ", running again continues"


def _first_line(error: BaseException) -> str:
    text = " ".join(reason(error).split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def _place(error: BaseException) -> str:
    """Where in the notebook it was raised, if it was raised in the notebook."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _CELL_FILE.search(frame.filename)]
    return f" (in {frames[-1].name}, line {frames[-1].lineno} of its cell)" if frames else ""
