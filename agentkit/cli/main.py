"""The command line: `agentkit demo`, `agentkit lab`, and the journal from outside a notebook."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from agentkit.errors import AgentKitError, JournalError, MissingExtra, UserError
from agentkit.events import Run
from agentkit.journal import portable
from agentkit.journal.provenance import origin
from agentkit.journal.redaction import Redactor
from agentkit.journal.storage import journal_path
from agentkit.journal.store import Store
from agentkit.text import visible
from agentkit.trace import format, render_html
from agentkit.trace.trace import Trace

_MANY = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; an error of agentkit is one line on standard error and exit status 1."""
    understood = parser()
    given, further = _for_jupyterlab(sys.argv[1:] if arguments is None else arguments)
    options = understood.parse_args(given, Namespace(further=further))
    if "do" not in options:
        understood.print_help(sys.stderr)
        return 2
    try:
        return int(options.do(options))
    except AgentKitError as error:
        _say(f"agentkit: {error}", to=sys.stderr)
        return 1
    except BrokenPipeError:
        # Somebody looked at the head of a list and left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(text: str, *, to: TextIO | None = None) -> None:
    """Print lines of which no part steers the terminal: names, prompts and answers in them are anybody's."""
    print(visible(text), file=to)


def parser() -> ArgumentParser:
    """What the command line understands."""
    root = ArgumentParser(prog="agentkit", description="LLM agents in notebooks: nothing is paid for twice.")
    root.add_argument("--version", action="version", version=f"agentkit {version('jupyter-agentkit')}")
    commands = root.add_subparsers(metavar="COMMAND")
    demo = commands.add_parser("demo", help="execute the first notebook twice and show what each time cost")
    demo.set_defaults(do=_demo)
    lab = commands.add_parser("lab", help="open JupyterLab on the notebooks")
    lab.add_argument("folder", nargs="?", type=Path, help="another folder to open")
    lab.add_argument("jupyterlab", nargs="*", metavar="OPTION", help="what else to give to JupyterLab, as it spells it")
    lab.set_defaults(do=_lab)
    _add_export(commands.add_parser("export", help="a notebook as one Python program, proved to be the same program"))
    _add_run(commands.add_parser("run", help="execute a notebook with parameters, resumable"))
    _add_journal(commands.add_parser("journal", help="list, show, check, share or erase what is recorded"))
    _add_approvals(commands.add_parser("approvals", help="list what waits for a person, and decide"))
    _add_budget(commands.add_parser("budget", help="show what is limited and how much of it is used, or limit it"))
    caller = commands.add_parser(
        "caller", parents=[_location_parser()], help="the process that ends the calls a kernel began"
    )
    caller.add_argument("what", choices=("status", "stop"), nargs="?", default="status", help="default: status")
    caller.set_defaults(do=_caller)
    return root


def _add_budget(parser: ArgumentParser) -> None:
    parser.add_argument("scope", nargs="?", choices=("user", "project", "eval"), help="what to limit")
    parser.add_argument("limits", nargs="*", metavar="LIMITS", help="5usd/day, 100k tokens/day, …; off: no limit")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="of the project (default: .agentkit/)")
    parser.add_argument("--at-limit", metavar="HOW", help="what happens there: ask, wait, fallback or stop")
    parser.set_defaults(do=_budget)


def _location_parser() -> ArgumentParser:
    where = ArgumentParser(add_help=False)
    where.add_argument("--journal", type=Path, metavar="PATH", help="its file or folder (default: .agentkit/)")
    return where


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument("notebook", type=Path, help="the saved notebook")
    parser.add_argument("-o", "--output", type=Path, default=Path("pipeline.py"), help="default: pipeline.py")
    parser.add_argument("--target", default="flyte", help="flyte (default) or script, a plain asyncio program")
    parser.add_argument("--check", action=BooleanOptionalAction, default=True, help="prove that it is the same program")
    parser.add_argument("--all", action="store_true", help="keep every statement, also those that no result needs")
    parser.add_argument("--container", action="store_true", help="the image definition and the command that deploys it")
    parser.add_argument("--cron", metavar="SCHEDULE", help='run it on a schedule: "0 6 * * *"')
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="the notebook's journal (default: beside it)")
    parser.set_defaults(do=_export_notebook)


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("notebook", type=Path, help="the notebook to execute")
    parser.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter; may be repeated"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.ipynb", help="where the executed notebook goes")
    parser.add_argument("--wait", action="store_true", help="stay while a question waits: `agentkit approvals decide`")
    parser.add_argument("--timeout", type=float, help="seconds for each cell (default: none)")
    parser.set_defaults(do=_run_notebook)


def _add_approvals(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    ls = verbs.add_parser(
        "ls", parents=[_location_parser()], help="list what waits, what Always holds and what was decided"
    )
    ls.set_defaults(do=_approvals)

    decide = verbs.add_parser("decide", parents=[_location_parser()], help="decide; without an option: approve")
    decide.add_argument("ids", nargs="+", metavar="ID", help="as `agentkit approvals ls` shows it")
    chosen = decide.add_mutually_exclusive_group()
    chosen.add_argument("--edit", metavar="JSON", help="approve the call with these arguments")
    chosen.add_argument("--deny", nargs="?", const="", metavar="WHY", help="do not make the call")
    chosen.add_argument("--answer", metavar="TEXT", help="answer a question; the result (JSON) of a step in doubt")
    chosen.add_argument("--hint", metavar="TEXT", help="let an agent that got stuck go on with this hint")
    chosen.add_argument("--redo", action="store_const", const="", help="perform a step in doubt again")
    chosen.add_argument("--once", action="store_const", const="", help="let an open circuit pass one more request")
    chosen.add_argument(
        "--raise", nargs="?", const="", metavar="LIMIT", help="twice of what was reached, or this budget"
    )
    chosen.add_argument("--finish", action="store_const", const="", help="at a budget: end the run with what there is")
    chosen.add_argument("--stop", action="store_const", const="", help="stop the run there")
    decide.add_argument("--always", action="store_const", const="", help="approve equal calls in its session too")
    decide.set_defaults(do=_decide)


def _add_journal(parser: ArgumentParser) -> None:
    where = _location_parser()
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    ls = verbs.add_parser("ls", parents=[where], help="list the runs, newest first")
    ls.add_argument("--agent", help="only runs of this agent")
    ls.add_argument("--label", help="the notebook's name")
    ls.add_argument("-n", type=int, default=20, dest="limit", help="how many (default 20)")
    ls.set_defaults(do=_ls)

    show = verbs.add_parser("show", parents=[where], help="show the steps of a run, or one step whole")
    show.add_argument("what", metavar="RUN|STEP", help="the beginning of a run's id, or the number of a step")
    show.set_defaults(do=_show)

    verify = verbs.add_parser("verify", parents=[where], help="check every record; exit status 1 if one is damaged")
    verify.set_defaults(do=_verify)

    adopt = verbs.add_parser("adopt", parents=[where], help="take records from elsewhere for your own, decisions not")
    adopt.set_defaults(do=_adopt)

    leave = verbs.add_parser("leave", parents=[where], help="go live where records from elsewhere are only replayed")
    leave.set_defaults(do=_leave)

    erase = verbs.add_parser("erase", parents=[where], help="really delete records, the file is compacted")
    chosen = erase.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--run", metavar="RUN", help="one run")
    chosen.add_argument("--step", type=int, help="one step")
    chosen.add_argument("--agent", help="all runs of an agent")
    chosen.add_argument("--before", type=_date, metavar="YYYY-MM-DD", help="what is older than that day")
    chosen.add_argument("--everything", action="store_true", help="all records")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    erase.set_defaults(do=_erase)

    export = verbs.add_parser("export", parents=[where], help="write what a notebook needs as one portable file")
    export.add_argument("notebook", type=Path, help="the notebook whose steps are wanted")
    export.add_argument("-o", "--output", type=Path, help="the file to write (default: beside the notebook)")
    export.set_defaults(do=_export)

    attach = verbs.add_parser("attach", parents=[where], help="take a portable file into the journal")
    attach.add_argument("file", type=Path, help="what `agentkit journal export` wrote")
    attach.set_defaults(do=_attach)


# ---- caller


def _caller(options: Namespace) -> int:
    # Imported here, as wherever the engine is: it brings the model libraries.
    from agentkit.models.relay.client import steer

    _say(steer(journal_path(None, options.journal).parent, options.what))
    return 0


# ---- demo, lab


def _demo(_: Namespace) -> int:
    if find_spec("nbclient") is None:
        raise MissingExtra("nbclient", "notebook")
    # Imported here: it brings a kernel client and the price list.
    from agentkit.cli.demo import demo

    return demo()


def _lab(options: Namespace) -> int:
    if find_spec("jupyterlab") is None:
        raise MissingExtra("jupyterlab", "lab")
    folder = options.folder or _own_notebooks()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the one with your notebooks")
    command = [sys.executable, "-m", "jupyterlab", str(folder), *options.further, *_as_root(options.further)]
    os.execv(sys.executable, command)


def _for_jupyterlab(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What agentkit reads of a command line, and what of `agentkit lab` is for JupyterLab."""
    given = list(arguments)
    if given[:1] != ["lab"] or not {"-h", "--help"}.isdisjoint(given):
        return given, []
    own = 2 if len(given) > 1 and not given[1].startswith("-") else 1
    return given[:own], [option for option in given[own:] if option != "--"]


_OPENS = ("ip", "token", "password", "allow_root", "allow-root", "allow_unauthenticated_access", "config")
"""What may open the server to others, or says itself what is to hold for root."""


def _as_root(further: Sequence[str]) -> list[str]:
    """JupyterLab refuses to run as root. In a container that is everybody: on loopback, behind its token, it may."""
    named = {option.lstrip("-").partition("=")[0].rpartition(".")[2] for option in further}
    return ["--allow-root", "--ip=127.0.0.1"] if os.geteuid() == 0 and named.isdisjoint(_OPENS) else []


def _own_notebooks() -> Path:
    """The notebooks in a clone as they are; of an installed package a copy, since journals are written beside them."""
    from agentkit.cli.demo import notebooks

    if not notebooks().is_relative_to(Path(__file__).parents[1]):
        return notebooks()
    copy = Path("agentkit-notebooks")
    if not copy.exists():
        shutil.copytree(notebooks(), copy)
    return copy


# ---- notebooks without a browser


def _export_notebook(options: Namespace) -> int:
    from agentkit.notebook.verbs import export_notebook

    wish = export_notebook.ExportOptions(
        output=options.output,
        target=options.target,
        checked=options.check,
        everything=options.all,
        container=options.container,
        cron=options.cron,
        force=options.force,
    )
    _say("\n".join(export_notebook.export_file(options.notebook, wish, journal=options.journal)))
    return 0


def _run_notebook(options: Namespace) -> int:
    if find_spec("nbclient") is None:
        raise MissingExtra("nbclient", "notebook")
    from agentkit.cli.run_notebook import run

    return run(options.notebook, options.parameters, options.output, wait=options.wait, timeout=options.timeout)


# ---- approvals


def _approvals(options: Namespace) -> int:
    # Imported here: questions are read by the engine, and the other commands need not wait for it.
    from agentkit.approval import decisions
    from agentkit.trace import approval_cards

    with _open_store(options) as store:
        _say(approval_cards.format_list(decisions.everything(store)))
    return 0


def _decide(options: Namespace) -> int:
    from agentkit.approval import decisions
    from agentkit.trace import approval_cards

    names = ("edit", "deny", "answer", "hint", "redo", "once", "raise", "finish", "stop", "always")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    with _open_store(options, read_only=False) as store:
        for id_ in options.ids:
            one = decisions.find_open(store, id_)
            if one.decision is not None:
                raise UserError(f"question {id_} is decided already: {approval_cards.format_decision(one.decision)}")
            typed = decisions.parse_decision(one.question, given, usage="`agentkit approvals decide --help`")
            wanted = replace(typed, by="you on the command line")
            decision = decisions.decide(store, Redactor.from_environ(os.environ), one.question, wanted)
            _say(f"{approval_cards.title(one.question)} ({id_}): {approval_cards.format_decision(decision)}")
    return 0


def _budget(options: Namespace) -> int:
    from agentkit.budget import admin
    from agentkit.trace import budget_bars

    project = str(journal_path(None, options.journal).parent.resolve())
    if options.scope and (options.limits or options.at_limit):
        node = admin.node(options.scope, project=project)
        option = f"agentkit budget {options.scope}"
        _say(admin.change(node, " ".join(options.limits), option=option, at_limit=options.at_limit))
        return 0
    standings = admin.standings(None if options.scope is None else admin.node(options.scope, project=project))
    _say(budget_bars.plain(budget_bars.tree(standings)) or "nothing is limited yet: agentkit budget user 5usd/day")
    return 0


# ---- journal


def _ls(options: Namespace) -> int:
    with _open_store(options) as store:
        runs = store.runs(agent=options.agent, label=options.label, limit=options.limit)
        head: tuple[str, ...] = ("run", "began", "took", "agent", "status", "notebook", "prompt", "from")
        known = Redactor.from_environ(os.environ)
        rows = [_run_row(replace(run, prompt=known.scrub_again(run.prompt))) for run in runs]
        if not any(run.source for run in runs):
            head, rows = head[:-1], [row[:-1] for row in rows]
        _say(_columns(head, rows))
        if len(runs) < (count := store.count(agent=options.agent, label=options.label)):
            _say(f"the newest {len(runs):,} of {count:,} runs: -n {count} lists all")
        doubtful = store.in_doubt()
    for row in doubtful:
        _say(f"in doubt: step {row.id} ({row.name}) was started and has no recorded end")
    return 0


def _run_row(run: Run) -> tuple[str, ...]:
    began = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M:%S")
    took = "" if run.ended is None else format.duration(run.ended - run.started)
    words = (format.clean(text, most) for text, most in ((run.label, 24), (run.prompt, 60)))
    return (run.id[:12], began, took, format.clean(run.agent, 20), run.status, *words, format.clean(run.source, 24))


def _show(options: Namespace) -> int:
    with _open_store(options) as store:
        # A record may be older than what is known of secrets now.
        known = Redactor.from_environ(os.environ)
        what = options.what
        shown = _step_text(store, int(what)) if _is_step(store, what) else _run_text(store, what, known)
        _say(known.scrub_again(shown))
    return 0


def _is_step(store: Store, what: str) -> bool:
    if not what.isdecimal() or len(what) >= 10:
        return False
    # The short id of a run has eight characters, and they may all be digits.
    return len(what) < 8 or store.step(int(what)) is not None


def _run_text(store: Store, prefix: str, known: Redactor) -> str:
    run = _run(store, prefix)
    width = shutil.get_terminal_size((120, 40)).columns
    events = [known.scrub_event(event) for event in store.trace(run.id)]
    drawn = render_html.text(Trace.of(events), now=time.time(), width=width)
    prompt, output = visible(run.prompt), visible(run.output)
    return "\n".join([f"run {run.id}", f"prompt: {prompt}", drawn, f"output: {output}"])


def _step_text(store: Store, number: int) -> str:
    row = store.step(number)
    if row is None:
        raise UserError(f"no step {number} in {store.path}: `agentkit journal ls` lists the runs")
    facts = {
        "step": f"{row.id} {row.kind} {row.name}",
        "status": row.status + (f", settled by a person: {row.settled}" if row.settled else ""),
        "recorded": f"{origin(row.source)}, not by you here" if row.source else "",
        "effects": row.effects,
        "attempt": row.attempt,
        "possibly paid twice": row.maybe_paid_twice,
        "request": row.request,
        "error": row.error,
        "result": _pretty(row.body),
        **{f"key, {name}": digest for name, digest in row.parts.items()},
    }
    return "\n".join(f"{name}: {visible(str(value))}" for name, value in facts.items() if value)


def _pretty(body: bytes | None) -> str:
    return "" if body is None else json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def _verify(options: Namespace) -> int:
    with _open_store(options) as store:
        problems = store.verify()
        runs = store.count()
        path = store.path
        sources = {} if problems else store.sources()
        held = store.replay_only_reason
    for problem in problems:
        _say(problem)
    if not problems:
        _say(f"{path}: whole; every record of {format.format_count(runs, 'run')} matches its checksum")
    for line in format.origins(sources, held):
        _say(line)
    return 1 if problems else 0


def _adopt(options: Namespace) -> int:
    with _open_store(options, read_only=False, there=True) as store:
        _say(
            f"{format.format_count(store.adopt(), 'step')} taken for your own; what was decided elsewhere is asked "
            f"again"
        )
    return 0


def _leave(options: Namespace) -> int:
    with _open_store(options, read_only=False, there=True) as store:
        held = store.replay_only_reason
        store.leave()
    if held:
        _say(f"sessions here go live again; records {format.clean(origin(held), 160)} are not replayed by them")
    else:
        _say("nothing to leave: the records here are your own")
    return 0


def _erase(options: Namespace) -> int:
    with _open_store(options, read_only=False) as store:
        chosen: dict[str, Any] = {
            "run": options.run and _run(store, options.run).id,
            "step": options.step,
            "agent": options.agent,
            "before": options.before,
            "everything": options.everything,
        }
        what = ", ".join(f"{name} {value}" for name, value in chosen.items() if value)
        if not options.yes and input(f"Erase {what} from {store.path} for good? [y/N] ").strip().lower() != "y":
            _say("nothing was erased")
            return 1
        _say(f"erased {format.format_count(store.erase(**chosen), 'step')}")
    return 0


def _export(options: Namespace) -> int:
    notebook: Path = options.notebook
    if not notebook.is_file():
        raise UserError(f"{notebook} is not there: name the notebook whose steps to export")
    target = options.output or notebook.with_suffix(portable.SUFFIX)
    with _open_store(options, folder=notebook.parent) as store:
        runs = _runs_of(notebook, store)
        written = portable.export(store, runs, target, Redactor.from_environ(os.environ).scrub_again)
    _say(f"{written.path}: {_of_runs(written.steps, written.runs)}, {written.size:,} bytes")
    return 0


def _attach(options: Namespace) -> int:
    with _open_store(options, folder=options.file.parent, read_only=False) as store:
        attached = portable.attach(options.file, store)
    _say(f"{_of_runs(attached.steps, attached.runs)} added, {attached.known} were there already")
    _say("sessions here replay and perform nothing from now on: `agentkit journal leave` ends that")
    return 0


def _of_runs(steps: int, runs: int) -> str:
    return f"{format.format_count(steps, 'step')} of {format.format_count(runs, 'run')}"


def _runs_of(notebook: Path, store: Store) -> list[str]:
    """The runs whose panels the notebook shows, and those recorded under its name."""
    shown = [id_ for id_ in _format_runs(notebook) if store.run(id_) is not None]
    named = [run.id for run in store.runs(label=notebook.stem, limit=_MANY)]
    runs = list(dict.fromkeys([*shown, *named]))
    if not runs:
        raise UserError(f"no run of {notebook.name} is in {store.path}: execute and save the notebook first")
    return runs


def _format_runs(notebook: Path) -> Iterator[str]:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{notebook} is not a notebook ({error!r}): save it again in Jupyter") from error
    for cell in cells:
        for output in cell.get("outputs", ()):
            runs = output.get("metadata", {}).get("agentkit", {}).get("runs", ())
            yield from (run["id"] for run in runs)


def _run(store: Store, prefix: str) -> Run:
    found: list[Run] = [run for run in store.runs(limit=_MANY) if run.id.startswith(prefix)]
    if len(found) != 1:
        said = "no run" if not found else f"{len(found)} runs"
        raise UserError(
            f"{said} in {store.path} with an id that begins with {prefix!r}: `agentkit journal ls` lists them"
        )
    return found[0]


@contextmanager
def _open_store(
    options: Namespace, *, folder: Path | None = None, read_only: bool = True, there: bool = False
) -> Iterator[Store]:
    """The journal that a session in `folder` would open; `there`: one that is to be written must exist, too."""
    path = journal_path(folder, options.journal)
    if (read_only or there) and not path.exists():
        raise JournalError(path, "there is no journal", "run an agent in this folder first, or name one with --journal")
    with Store.open(path, read_only=read_only) as store:
        yield store


def _columns(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _date(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).astimezone().timestamp()
