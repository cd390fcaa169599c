"""What an exported program calls while it runs: a stretch of durable work, and a start from the command line."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from agentkit.approval.policy import parse_headless, parse_patterns
from agentkit.errors import UserError
from agentkit.events import Mode, Run
from agentkit.guards.loop_detector import parse_thresholds
from agentkit.journal.storage import journal_path
from agentkit.pipeline.conditions import conditions
from agentkit.runtime.flyte_journal import TracedSession
from agentkit.runtime.session import Session
from agentkit.sandbox.process import isolate
from agentkit.tools.declaration import declaration
from agentkit.tools.declaration import elsewhere as stand_in
from agentkit.trace import render_html
from agentkit.trace.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
MODE_VARIABLE = "AGENTKIT_MODE"
STEPS_VARIABLE = "AGENTKIT_STEPS"
"""`trace`: steps are kept by flyte.trace where the journal would keep them, as on a cluster."""
opened: list[Callable[[Session], None]] = []
"""Each is told of every session that a task opens: how a check listens."""


class Stretch:
    """One durable stretch of a pipeline: a cell of the notebook. Equal requests are counted from 0 in it.

    Its steps are answered from the journal or recorded there; with `flyte`, its trace is the task's report.
    """

    def __init__(self, label: str, *, flyte: Any, headless: str | None, approve: str, breaker: str) -> None:
        self._flyte = flyte
        self._runs: list[str] = []
        self._scratch: TemporaryDirectory[str] | None = None
        self._session = self._open_session(label)
        policy = None if headless is None else parse_headless(headless, option="headless")
        patterns = parse_patterns(approve) if approve and approve != "off" else ()
        self._session.policy = replace(self._session.policy, headless=policy, patterns=patterns)
        if breaker:
            self._session.breaker = parse_thresholds(breaker, base=self._session.breaker, option="breaker")
        if flyte is not None and policy in (None, "suspend"):
            self._session.asker = conditions(flyte)

    def _open_session(self, label: str) -> Session:
        """The project's journal; on a cluster, where no file outlives the task, the platform's own record."""
        if self._flyte is None or not _on_cluster(self._flyte):
            return Session(label, path=journal_path(None, None), mode=_mode(), read_only=_mode() == "replay")
        self._scratch = TemporaryDirectory(prefix="agentkit-")
        return TracedSession(label, folder=Path(self._scratch.name), trace=self._flyte.trace)

    async def __aenter__(self) -> Session:
        for tell in opened:
            tell(self._session)
        self._session.listen(lambda event: self._note(event))
        return self._session.__enter__()

    def _note(self, event: object) -> None:
        if isinstance(event, Run) and event.parent_run is None and event.id not in self._runs:
            self._runs.append(event.id)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._report()
        finally:
            self._session.__exit__(kind, error, traceback)
            if self._scratch is not None:
                self._scratch.cleanup()

    async def _report(self) -> None:
        if self._flyte is None or not self._runs or self._session.store.read_only or self._flyte.ctx() is None:
            return
        events = [event for run in self._runs for event in self._session.trace(run)]
        drawn = render_html.html(Trace.of(events), now=time.time(), open=True)
        await self._flyte.report.replace.aio(drawn, do_flush=True)


def task(
    label: str, *, flyte: Any = None, headless: str | None = None, approve: str = "", breaker: str = ""
) -> Stretch:
    """One cell of the notebook as a stretch of a pipeline, with the steps of its agents in the journal.

    `approve`, `headless` and `breaker` are what the notebook said with `%agent policy` and `%agent breaker`.
    """
    return Stretch(label, flyte=flyte, headless=headless, approve=approve, breaker=breaker)


def elsewhere(function: F, performed: Callable[..., Any], *, flyte: Any) -> F:
    """`function` as a tool that a cluster performs on a machine of its own, by `performed`; here as in the notebook."""
    return stand_in(function, performed) if _on_cluster(flyte) else function


async def walled(function: Callable[..., Any], **given: Any) -> Any:
    """What `function` gives, without the network where it declares so; how much memory there is its machine says."""
    return await isolate.call_isolated(function, given, declared=replace(declaration(function), memory=()))


def start(main: Callable[..., Coroutine[Any, Any, T]]) -> T:
    """Run `main` with the arguments of the command line: `--name value`, in JSON or as plain text."""
    parser = ArgumentParser(description=main.__doc__)
    hints = get_type_hints(main)
    for name, parameter in inspect.signature(main).parameters.items():
        parser.add_argument(f"--{name}", default=parameter.default, help=f"default: {parameter.default!r}")
    given = vars(parser.parse_args())
    typed = {
        name: value if value is _default(main, name) else _parse_typed(hints.get(name), value, name)
        for name, value in given.items()
    }
    return asyncio.run(main(**typed))


def _default(main: Callable[..., Any], name: str) -> Any:
    return inspect.signature(main).parameters[name].default


def _parse_typed(hint: Any, text: str, name: str) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(Any if hint is None else hint)
    for read in (adapter.validate_python, adapter.validate_json):
        try:
            return read(text)
        except ValidationError:
            continue
    raise UserError(f"--{name} {text}: not a value of type {getattr(hint, '__name__', hint)}")


def _on_cluster(flyte: Any) -> bool:
    context = flyte.ctx()
    if context is None:
        return False
    return context.mode != "local" or os.environ.get(STEPS_VARIABLE) == "trace"


def _mode() -> Mode:
    named = os.environ.get(MODE_VARIABLE) or "auto"
    if named not in get_args(Mode):
        raise UserError(f"{MODE_VARIABLE}={named}: choose one of {', '.join(get_args(Mode))}")
    return named  # type: ignore[return-value]
