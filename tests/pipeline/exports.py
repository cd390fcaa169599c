"""The notebooks executed, exported for both targets, and the programs run against the record, each once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline.export import PipelineProgram, program
from agentkit.pipeline.proof import MARK
from agentkit.pipeline.reader import read
from agentkit.pipeline.settings import Settings, Target
from agentkit.pipeline.verify import child_environment
from tests.notebook.kernels import ROOT, kernel
from tests.pipeline.notebooks import Sample, write

TARGETS: tuple[Target, ...] = ("script", "flyte")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A notebook's program for one target, and what running it said."""

    program: PipelineProgram
    said: dict[str, Any]


def make(sample: Sample, folder: Path, name: str, target: Target) -> PipelineProgram:
    path = folder / f"{name}.ipynb"
    write(sample, path)
    return program(read(path), LANGUAGE, Settings(target=target))


def execute(samples: dict[str, Sample], folder: Path) -> dict[str, list[str]]:
    """Every notebook's cells in one kernel, emptied in between; the errors by notebook."""
    errors: dict[str, list[str]] = {}
    with kernel(folder) as shell:
        for name, sample in samples.items():
            shell.run("%reset -f")
            said = [shell.run(source) for source in sample.every_cell]
            errors[name] = [cell.traceback for cell in said if cell.status != "ok"]
    return errors


def run_all(
    programs: dict[tuple[str, Target], PipelineProgram], folder: Path
) -> dict[tuple[str, Target], dict[str, Any]]:
    """One process runs them all in `replay` mode, one after the other."""
    files = []
    for (name, target), made in programs.items():
        file = folder / f"{name}_{target}.py"
        file.write_text(made.text(), encoding="utf-8")
        files.append((str(file), target, len(made.plan.results)))
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    code = (
        "import json, sys\nfrom agentkit.pipeline import proof\nfor each in json.loads(sys.argv[1]): proof.main(*each)"
    )
    environment = child_environment(folder / ".agentkit" / "journal.db", str(scratch))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(files)],
        cwd=folder,
        env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=170,
        check=True,
    )
    said = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    return dict(zip(programs, said, strict=True))


def exported_of(samples: dict[str, Sample], folder: Path) -> dict[tuple[str, Target], Exported]:
    """Every sample executed, exported for each target, and each program run against the record."""
    errors = execute(samples, folder)
    assert {name: each for name, each in errors.items() if each} == {}
    programs = {(name, target): make(samples[name], folder, name, target) for name in samples for target in TARGETS}
    said = run_all(programs, folder)
    return {key: Exported(program=programs[key], said=said[key]) for key in programs}
