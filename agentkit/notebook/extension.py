"""`%agent` and `%%agent` in IPython: registered in a moment, everything slow waits for the first use."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from agentkit.errors import AgentKitError, ApprovalPending
from agentkit.notebook import cell_transform, completion, error_output, help, location, output
from agentkit.notebook import parser as line

if TYPE_CHECKING:
    from agentkit.approval.policy import Decision, Question
    from agentkit.debugger.gate import Gate, Order, Pending
    from agentkit.map.map import RowMap
    from agentkit.notebook.approval_widget import Asker
    from agentkit.notebook.context import Reply, VerbContext
    from agentkit.notebook.panel import CellPanel, Panels
    from agentkit.runtime.session import Session
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ENGINE = "agentkit.runtime.session"


class _ImportHook(MetaPathFinder):
    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ENGINE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Announcing(spec.loader, self._then)
        return spec


class _Announcing(Loader):
    def __init__(self, loader: Loader, then: Callable[[], object]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then()


def when_engine_arrives(then: Callable[[], object]) -> None:
    """Call `then` once, as soon as the engine is imported; at once if it is."""
    forget()
    if ENGINE in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _ImportHook(then))


def forget() -> None:
    """Wait no longer; found by name, because a reloaded extension may have a new class."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]


class NotebookCalls:
    """agentkit in one shell (`get_ipython().agentkit`): the calls that transformed cells make."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._context: VerbContext | None = None
        self._panels: Panels | None = None
        self._cell = (_cell_id(shell), output.has_viewer(shell))
        self._undo_stop = _nothing
        self._asker: Asker | None = None
        self.typed = ""

    async def cell(self, text: str, body: str) -> None:
        """`%%agent …`. What it waits for when it ends may be decided later: then it goes on in its place."""
        try:
            await self._show_reply(text, body)
        except ApprovalPending as error:
            if self._asker is not None and output.cell_depth() <= 1:
                panel = None if self._panels is None else self._panels.newest
                cell = self._cell[0]
                notice = output.Notice.here()
                if self._asker.on_decision(error, lambda: self._continue(text, body, panel, cell, notice)):
                    error_output.show_for_now(self.shell, error, _what_waits(error), notice)
            raise

    async def _continue(
        self, text: str, body: str, panel: CellPanel | None, cell: str | None, notice: output.Notice
    ) -> None:
        """The cell once more, after its end: what is recorded replays, and the decisions are there now."""
        session = self.session()
        session.continue_cell(cell)
        output.resume(notice)
        session.asker = self._ask
        if self._panels is not None and panel is not None:
            self._panels.reopen(panel)
        try:
            await self.cell(text, body)
            notice.clear()
        except AgentKitError as error:
            if not error_output.was_shown(error):
                notice.show("".join(error._render_traceback_()))
        finally:
            if self._panels is not None and panel is not None:
                self._panels.finish(panel)

    async def line(self, text: str) -> None:
        """`%agent …` as a statement."""
        await self._show_reply(text, None)

    async def value(self, text: str) -> Any:
        """`x = %agent …`."""
        reply = await self._perform(text, None)
        if reply.remark:
            output.say(reply.remark)
        return reply.value

    def blocking_cell(self, text: str, body: str) -> None:
        """`%%agent` where awaiting is impossible: under another cell magic, in code that is exec'd."""
        self._block(self.cell, text, body)

    def blocking_line(self, text: str) -> None:
        self._block(self.line, text)

    def blocking_value(self, text: str) -> Any:
        return self._block(self.value, text)

    def _block(self, work: Any, *args: str) -> Any:
        problem: AgentKitError
        try:
            self._ready()
            return cell_transform.run_blocking(work(*args), meanwhile=self._redraw)
        except Exception as error:  # noqa: BLE001 - as in `_perform`
            problem = (
                error
                if isinstance(error, AgentKitError)
                else error_output.shorten_error(error, doing=f"%agent {args[0]}")
            )
        raise problem.with_traceback(None)

    async def _show_reply(self, text: str, body: str | None) -> None:
        reply = await self._perform(text, body)
        reply.show()
        if reply.remark:
            output.say(reply.remark)
        if reply.value is not None:
            # The result is on show already: `_` and Out get it without its being printed again.
            self.shell.displayhook.update_user_ns(reply.value)

    async def _perform(self, text: str, body: str | None) -> Reply:
        problem: AgentKitError
        doing = f"%agent {' '.join(text.split()[:2])}"
        try:
            asked = line.parse(text, cell=body is not None)
            # The engine is imported here, at the first use of a verb, so that loading the extension stays instant.
            from agentkit.notebook.verbs import run_agent

            if asked.verb == "help":
                return run_agent.help_on(asked)
            with cell_transform.prompt_stop():
                return await run_agent.perform(self._ready(), asked, body)
        except asyncio.CancelledError:
            problem = error_output.interruption(f"{doing}: ")
        except Exception as error:  # noqa: BLE001 - each becomes one line; %agent traceback keeps the rest
            problem = error_output.shorten_error(error, doing=doing)
        if not output.is_resumption():
            self._finish_panel()
        raise problem

    def session(self) -> Session:
        """The session of this kernel; the first call of it opens one for this notebook's folder."""
        from agentkit.notebook import output_recording, portable_journal
        from agentkit.notebook.panel import Panels
        from agentkit.runtime.session import current, entered, open_ambient

        found = current()
        if found is None:
            where = location.of(os.environ, self.shell.user_ns, Path.cwd())
            found = open_ambient(where.label, where.folder)
            found.start_cell(self._cell[0])
            entered[:] = [self.session]
            if (came := portable_journal.attach_beside(found, where.folder / where.label)) is not None:
                output.say(came)
        if self._panels is None:
            self._panels = Panels()
            self._panels.begin(self._cell[0], live=self._cell[1])
        self._panels.attach(found)
        output_recording.keep(self.shell, found)
        found.asker = self._ask if self._cell[1] else None
        found.map_view = self._view_map
        found.bench.attend = self._attend if self._cell[1] else None
        return found

    def _ready(self) -> VerbContext:
        from agentkit.notebook.context import VerbContext

        session = self.session()
        if self._context is None:
            self._context = VerbContext(shell=self.shell, session=session, decided=self._look)
        self._context.session = session
        return self._context

    async def _ask(self, questions: tuple[Question, ...]) -> tuple[Decision, ...]:
        """`session.asker`, where somebody watches."""
        from agentkit.notebook.approval_widget import Asker

        session = self.session()
        if self._asker is None or self._asker.session is not session:
            self._asker = Asker(session)
        return await self._asker.ask(questions)

    def _view_map(self, row_map: RowMap) -> AbstractContextManager[None]:
        """`session.map_view`."""
        from agentkit.notebook.verbs import map_rows

        return map_rows.draw_panel(self.shell, row_map)

    async def _attend(self, gate: Gate, step: Pending) -> Order | None:
        """`session.bench.attend`, where somebody watches."""
        from agentkit.notebook.verbs import debug

        context = self._ready()
        with nullcontext() if self._panels is None else self._panels.holding(gate.root):
            return await debug.attend(context, gate, step)

    def _look(self) -> None:
        if self._asker is not None:
            self._asker.look()

    def _redraw(self) -> None:
        if self._panels is not None:
            self._panels.redraw()

    def _finish_panel(self) -> None:
        if self._panels is not None:
            self._panels.end()

    def has_run_agents(self) -> bool:
        """Whether the present cell has run any agent."""
        return self._panels is not None and self._panels.has_content

    # -- IPython's events

    def before_cell(self, info: Any) -> None:
        """At the top level, requests are counted from 0 again and a new panel is begun."""
        outermost = output.cell_depth() == 0
        output.set_cell_depth(output.cell_depth() + 1)
        if not outermost:
            return
        self._cell = (getattr(info, "cell_id", None), output.has_viewer(self.shell))
        self.typed = str(getattr(info, "raw_cell", None) or "")
        self._undo_stop = cell_transform.wake_on_stop()
        if (unheard := cell_transform.never_run(self.typed)) is not None:
            output.say(unheard)
        if self._panels is not None:
            self.session().start_cell(self._cell[0])
            self._panels.begin(self._cell[0], live=self._cell[1])

    def before_plain_cell(self) -> None:
        """Begin a panel for a cell of `ipython file.ipynb`, of which IPython says no more than that it begins."""
        if output.cell_depth() == 0 and self._panels is not None and not hasattr(self.shell, "kernel"):
            self.session().start_cell()
            self._panels.begin(None, live=False)

    def after_plain_cell(self) -> None:
        """Draw that panel. In a kernel these two events also come with each click, in the middle of a cell."""
        if output.cell_depth() == 0 and not hasattr(self.shell, "kernel"):
            self._finish_panel()

    def after_cell(self, result: Any) -> None:
        output.set_cell_depth(max(0, output.cell_depth() - 1))
        if output.cell_depth() == 0:
            self._undo_stop()
            self._finish_panel()
            if self._panels is not None:
                # Cells that await an agent themselves say what its session has to remark, too.
                context = self._ready()
                context.remark(tuple(context.session.remarks))


def _nothing() -> None:
    """There is nothing to undo yet."""


def _what_waits(error: ApprovalPending) -> str:
    ids = " ".join(error.steps)
    return (
        f"{error.asked} waits for a person: decide above (or %agent approve {ids}) and this cell goes on here; "
        "what was to run after it has not run"
    )


def _cell_id(shell: Any) -> str | None:
    """The id of the cell that loads the extension: IPython had announced it before anybody listened."""
    parent: dict[str, Any] = getattr(shell, "get_parent", dict)()
    return (parent.get("metadata") or {}).get("cellId")


@magics_class
class AgentMagics(Magics):
    """The names `%agent` and `%%agent`: help, completion, and the way in where cells are not transformed."""

    @no_var_expand
    @line_cell_magic
    def agent(self, line: str, cell: str | None = None) -> Any:
        shell: Any = self.shell
        notebook: NotebookCalls = shell.agentkit
        if cell is not None:
            return notebook.blocking_cell(line, cell)
        return notebook.blocking_line(line) if cell_transform.is_statement() else notebook.blocking_value(line)


AgentMagics.agent.__doc__ = f"Build and run agents, never pay twice, see what it cost.\n\n{help.overview()}"


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext agentkit` does."""
    unload_ipython_extension(shell)
    notebook = NotebookCalls(shell)
    shell.agentkit = notebook
    shell.register_magics(AgentMagics)
    # Before IPython's own cell-magic transform, which would take the cell.
    shell.input_transformer_manager.line_transforms.insert(0, cell_transform.transform)
    shell.events.register("pre_run_cell", notebook.before_cell)
    shell.events.register("post_run_cell", notebook.after_cell)
    shell.events.register("pre_execute", notebook.before_plain_cell)
    shell.events.register("post_execute", notebook.after_plain_cell)
    completion.register(shell)
    error_output.register(shell, ran_agents=notebook.has_run_agents)
    when_engine_arrives(notebook.session)


def unload_ipython_extension(shell: Any) -> None:
    """Take everything back; a reload finds the old parts by name, because their modules may be new."""
    transforms = shell.input_transformer_manager.line_transforms
    transforms[:] = [one for one in transforms if getattr(one, "__module__", "") != cell_transform.__name__]
    for event in ("pre_run_cell", "post_run_cell", "pre_execute", "post_execute"):
        for callback in list(shell.events.callbacks[event]):
            if getattr(callback, "__module__", "") == __name__:
                shell.events.unregister(event, callback)
    completion.unregister(shell)
    error_output.unregister(shell)
    forget()
