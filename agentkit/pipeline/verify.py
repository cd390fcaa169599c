"""Whether the program is the notebook: read as code, run against the notebook's record, put in Flyte's wire form."""

from __future__ import annotations

import ast
import builtins
import json
import os
import subprocess
import symtable
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentkit.events import Run
from agentkit.journal.store import Store
from agentkit.map.map import counts_of
from agentkit.pipeline.entry import MODE_VARIABLE
from agentkit.pipeline.export import PipelineProgram
from agentkit.pipeline.proof import MARK

_SECONDS = 600
_LAST_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found, in one line each; `problems` are why the program must not be used as it is."""

    lines: tuple[str, ...]
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems


def check(
    program: PipelineProgram, *, journal: Path, expected: Mapping[str, str] | None = None, folder: Path | None = None
) -> Verdict:
    """All three checks; `journal` is the notebook's, `expected` are digests of results as they are in the kernel."""
    problems = [f"code: {problem}" for problem in read_as_code(program.text())]
    lines = [] if problems else ["code: no undefined name, no unused import, well-formed"]
    if not problems:
        replayed = against_record(program, journal=journal, expected=expected or {}, folder=folder)
        wired = serialize(program, folder=folder)
        lines += [*replayed.lines, *wired.lines]
        problems += [*replayed.problems, *wired.problems]
    return Verdict(lines=tuple(lines), problems=tuple(problems))


# ---- (a) read as code


def read_as_code(text: str) -> list[str]:
    """Undefined names, unused imports, and lines that no formatter would leave."""
    try:
        tree = ast.parse(text)
        table = symtable.symtable(text, "pipeline.py", "exec")
    except SyntaxError as error:
        return [f"line {error.lineno}: {error.msg}"]
    bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    bound |= {child.get_name() for child in table.get_children()} | set(_global_inputs(tree))
    known = bound | set(dir(builtins)) | {"__file__", "__name__", "__doc__"}
    undefined = sorted(set(_global_reads(table)) - known)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | _in_texts(tree)
    unused = [name for name in _imports(tree) if name not in used]
    blanks = [number for number, line in enumerate(text.split("\n"), 1) if line != line.rstrip()]
    loose = [number for number in blanks if not _in_text(tree, number)]
    return [
        *(f"the name {name} is not defined" for name in undefined),
        *(f"the import {name} is not used" for name in unused),
        *(f"line {number} ends in blanks" for number in loose),
    ]


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_reads(child)


def _global_inputs(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="globals")), attr="update")):
                yield from (word.arg for word in node.keywords if word.arg)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.Import(names=aliases):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases) if module != "__future__":
                yield from (alias.asname or alias.name for alias in aliases)


def _in_texts(tree: ast.AST) -> set[str]:
    """Names in annotations that are written as texts."""
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            words |= set(node.value.replace("[", " ").replace("]", " ").replace(".", " ").replace(",", " ").split())
    return words


def _in_text(tree: ast.AST, line: int) -> bool:
    return any(
        isinstance(node, ast.Constant | ast.JoinedStr) and node.lineno <= line < (node.end_lineno or 0)
        for node in ast.walk(tree)
    )


# ---- (b) run against the record


def against_record(
    program: PipelineProgram, *, journal: Path, expected: Mapping[str, str], folder: Path | None = None
) -> Verdict:
    """The program in a fresh process that may only replay: no live call, and the notebook's own answers."""
    target = program.settings.target
    if target == "flyte" and find_spec("flyte") is None:
        return Verdict(lines=("replay: not run, flyte is not installed (pip install 'jupyter-agentkit[flyte]')",))
    if not journal.exists():
        return Verdict(
            lines=("replay: nothing is recorded",),
            problems=(f"replay: there is no journal at {journal}: run the notebook first, or --no-check",),
        )
    said = _run_in_child(program, journal, folder)
    problems = list(_differences(program, said, journal, expected))
    rows = sum(run.get("rows", 0) for run in said.get("runs", ()))
    maps = f" (maps of {rows:,} rows)" if rows else ""
    steps = f"{said.get('replayed', 0)} steps replayed, {said.get('live', 0)} live"
    runs = f"{len(said.get('runs', ()))} runs{maps}, {steps}"
    if problems:
        last = tuple(f"  {step}" for step in said.get("steps", ())[-_LAST_STEPS:])
        return Verdict(lines=(f"replay: FAILED after {runs}, the last of them:", *last), problems=tuple(problems))
    values = f"; {len(expected)} results equal to the kernel's" if expected else ""
    return Verdict(lines=(f"replay: {runs}, every answer equal to the notebook's{values}",))


def _run_in_child(program: PipelineProgram, journal: Path, folder: Path | None) -> dict[str, Any]:
    count = str(len(program.plan.results))
    with tempfile.TemporaryDirectory(prefix="agentkit-check-") as scratch:
        file = Path(scratch) / "pipeline.py"
        file.write_text(program.text(), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "agentkit.pipeline.proof", str(file), program.settings.target, count],
            cwd=folder or Path.cwd(),
            env=child_environment(journal, scratch),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            said: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return said
    return {"error": f"the process ended with status {done.returncode}: {done.stderr.strip()[-600:]}"}


def child_environment(journal: Path, scratch: str) -> dict[str, str]:
    """The notebook's record and nothing live; Flyte's own cache and telemetry stay out of it."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    kept = {name: value for name, value in os.environ.items() if name != "AGENTKIT_NOTEBOOK"}
    return {
        **kept,
        "PYTHONPATH": path,
        "AGENTKIT_HOME": str(journal.parent.resolve()),
        MODE_VARIABLE: "replay",
        "DO_NOT_TRACK": "1",
        "TMPDIR": scratch,
    }


def _differences(
    program: PipelineProgram, found: Mapping[str, Any], journal: Path, expected: Mapping[str, str]
) -> Iterator[str]:
    if found.get("error"):
        yield f"replay: {found['error']}"
        return
    if found["live"]:
        yield f"replay: {found['live']} steps were performed live"
    with Store.open(journal, read_only=True) as store:
        runs = store.runs(limit=1_000_000)
    recorded = Counter((run.agent, run.prompt, run.output) for run in runs)
    asked = {(run.agent, run.prompt): run.output for run in runs}
    yield from _map_differences([run for run in found["runs"] if "rows" in run], [run for run in runs if run.rows])
    for run in found["runs"]:
        if "rows" not in run and (run["agent"], run["prompt"], run["output"]) not in recorded:
            was = asked.get((run["agent"], run["prompt"]), "nothing")
            said = f"{run['agent']} answers {run['output'][:80]!r} to {run['prompt'][:60]!r}"
            yield f"replay: {said}, recorded is {was[:80]!r}"
    given = dict(zip(program.plan.results, found["results"], strict=False))
    for name, digest in expected.items():
        if name in given and given[name] != digest:
            yield f"replay: the result {name} is not what it is in the kernel: run the notebook from top to bottom"


def _map_differences(found: Sequence[Mapping[str, Any]], recorded: Sequence[Run]) -> Iterator[str]:
    """A map came out as a recorded one did; what did not may be shards, which did so together."""
    known: dict[tuple[str, str], list[Counter[str]]] = defaultdict(list)
    for record in recorded:
        known[record.agent, record.prompt].append(counts_of(record.output or ""))
    shards: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in found:
        map_, counts = (run["agent"], run["prompt"]), counts_of(run["output"] or "")
        if counts not in known[map_]:
            shards[map_] += counts
    for (agent, prompt), counts in shards.items():
        if counts not in known[agent, prompt]:
            was = dict(known[agent, prompt][0]) if known[agent, prompt] else "nothing"
            yield f"replay: the map of {agent} with {prompt[:60]!r} gives {dict(counts)}, recorded is {was}"


# ---- (c) Flyte's wire form


def serialize(program: PipelineProgram, *, folder: Path | None = None) -> Verdict:
    """Every task as Flyte would send it to a cluster, made here without one."""
    if program.settings.target != "flyte":
        return Verdict(lines=())
    if find_spec("flyte") is None:
        return Verdict(lines=("wire form: not run, flyte is not installed",))
    with tempfile.TemporaryDirectory(prefix="agentkit-check-") as scratch:
        file = Path(scratch) / "pipeline.py"
        file.write_text(program.text(), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "agentkit.pipeline.wire", str(file)],
            cwd=folder or Path.cwd(),
            env=child_environment(Path(scratch) / "journal.db", scratch),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    if done.returncode:
        return Verdict(lines=("wire form: FAILED",), problems=(f"wire form: {done.stderr.strip()[-600:]}",))
    tasks = json.loads(done.stdout.splitlines()[-1])
    return Verdict(lines=(f"wire form: {len(tasks)} tasks serialised ({', '.join(sorted(tasks))})",))
