"""`%agent export` and `agentkit export`: the notebook at hand as a program, checked before it is left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from agentkit.errors import UserError, nearest
from agentkit.journal.storage import journal_path
from agentkit.map.frame import without_run
from agentkit.notebook import location, parser, template
from agentkit.notebook.context import Reply, VerbContext
from agentkit.notebook.output import say
from agentkit.notebook.parser import Line
from agentkit.pipeline.cells import Language
from agentkit.pipeline.export import PipelineProgram, program
from agentkit.pipeline.reader import Notebook, from_history, read
from agentkit.pipeline.settings import Settings, Target
from agentkit.pipeline.verify import Verdict, check
from agentkit.tools.digest import value_digest

LANGUAGE = Language(line=parser.parse, holes=template.holes)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is to be made of a notebook, and where."""

    output: Path
    target: str = "flyte"
    checked: bool = True
    everything: bool = False
    container: bool = False
    cron: str | None = None
    force: bool = False


def export(notebook: Notebook, wish: ExportOptions, *, journal: Path, folder: Path) -> tuple[str, ...]:
    """Write the program and say what was checked; UserError when it cannot be exported, or is another program.

    A program that fails its check is left beside as `NAME.failed.py`.
    """
    _check_free(wish)
    made = program(notebook, LANGUAGE, _settings(wish), everything=wish.everything)
    verdict = Verdict(lines=("not checked (--no-check)",))
    if wish.checked:
        verdict = check(made, journal=journal, expected=_in_kernel(made), folder=folder)
    if not verdict.passed:
        failed = wish.output.with_name(f"{wish.output.stem}.failed{wish.output.suffix}")
        failed.write_text(made.text((*verdict.lines, *verdict.problems)), encoding="utf-8")
        problems = made.scrub("; ".join(verdict.problems))
        raise UserError(f"{notebook.name} was not exported: {problems} (left as {failed.name} to look at)")
    wish.output.write_text(made.text(verdict.lines), encoding="utf-8")
    return _describe_export(made, wish, verdict)


def _check_free(wish: ExportOptions) -> None:
    if wish.target not in get_args(Target):
        known = get_args(Target)
        raise UserError(f"--target {wish.target}: one of {', '.join(known)}{nearest(wish.target, known)}")
    if wish.output.suffix != ".py":
        raise UserError(f"{wish.output} is not a Python file: name it like pipeline.py")
    if not wish.output.parent.is_dir():
        raise UserError(f"{wish.output.parent} is not a folder: make it, or name another place")
    if wish.output.exists() and not wish.force:
        raise UserError(f"{wish.output} is there already: --force writes over it")
    if wish.target == "script" and (wish.container or wish.cron):
        raise UserError("--container and --cron are for --target flyte")


def _settings(wish: ExportOptions) -> Settings:
    return Settings(target=wish.target, file=wish.output.name, container=wish.container, cron=wish.cron)  # type: ignore[arg-type]


def _in_kernel(made: PipelineProgram) -> dict[str, str]:
    live = made.plan.notebook.live or {}
    return {name: value_digest(without_run(live[name])).hex() for name in made.plan.results if name in live}


def _describe_export(made: PipelineProgram, wish: ExportOptions, verdict: Verdict) -> tuple[str, ...]:
    tasks = len(made.plan.tasks)
    lines = [
        f"{wish.output}: {tasks} task{'' if tasks == 1 else 's'}, gives {', '.join(made.plan.results) or 'nothing'}"
    ]
    lines += [f"  {line}" for line in verdict.lines]
    lines += [f"  left out: {each}" for each in made.plan.left_out]
    return tuple(map(made.scrub, lines))


# ---- in a kernel


async def perform(context: VerbContext, line: Line) -> Reply:
    """`%agent export FILE`."""
    options = line.options
    wish = ExportOptions(
        output=Path(line.word).expanduser(),
        target=options.get("target", "flyte"),
        checked="no-check" not in options,
        everything="all" in options,
        container="container" in options,
        cron=options.get("cron"),
        force="force" in options,
    )
    where = location.of(os.environ, context.names, Path.cwd())
    notebook, note = _find_notebook(context, where, options.get("notebook"))
    context.remark((note,) if note else ())
    told = await asyncio.to_thread(export, notebook, wish, journal=context.session.path, folder=where.folder)
    return Reply(show=lambda: say("\n".join(told)))


def _find_notebook(context: VerbContext, where: location.NotebookLocation, named: str | None) -> tuple[Notebook, str]:
    """The saved notebook that has the cell which is being executed, else what this kernel executed."""
    live = own_names(context.names)
    if named is not None:
        return read(Path(named).expanduser(), live=live), ""
    typed = context.shell.agentkit.typed.strip()
    saved = [file for file in sorted(where.folder.glob("*.ipynb")) if typed and typed in _sources(file)]
    own = [file for file in saved if file.stem == where.label] or saved
    if len(own) > 1:
        names = ", ".join(file.name for file in own)
        raise UserError(f"several notebooks here have this cell ({names}): say which with --notebook FILE")
    if own:
        return read(own[0], live=live), ""
    before = _last_of_each([str(source) for source in context.shell.history_manager.input_hist_raw[1:-1]])
    if not before:
        raise UserError("no saved notebook here has this cell: save the notebook, or name it with --notebook FILE")
    note = "no saved notebook has this cell: exported is what ran in this kernel"
    return from_history(where.label, before, live), note


def _sources(file: Path) -> set[str]:
    try:
        return {cell.source.strip() for cell in read(file).cells}
    except UserError:
        # Another notebook in the folder may be half written.
        return set()


def _last_of_each(sources: Sequence[str]) -> list[str]:
    last = {source.strip(): number for number, source in enumerate(sources)}
    return [source for number, source in enumerate(sources) if last[source.strip()] == number]


def own_names(names: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's variables, without the shell's."""
    hidden = {"In", "Out", "exit", "quit", "get_ipython", "open"}
    return {name: value for name, value in names.items() if not name.startswith("_") and name not in hidden}


# ---- from a file


def export_file(notebook: Path, wish: ExportOptions, *, journal: Path | None) -> tuple[str, ...]:
    """`agentkit export NOTEBOOK`."""
    folder = notebook.resolve().parent
    return export(read(notebook), wish, journal=journal_path(folder, journal), folder=folder)
