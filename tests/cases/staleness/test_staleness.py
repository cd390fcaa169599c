"""Every case in real new processes: recorded, replayed as it stands, and made live by the edit, with its cause."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cases.staleness.cases import CODE, INNOCENT, OUTSIDE, Case

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("program.py")
CASES = [*CODE, *OUTSIDE, *INNOCENT]


class Told(NamedTuple):
    """What each case said when it was recorded, run again, and run after the edit: two runs of each."""

    recorded: dict[str, Any]
    again: dict[str, Any]
    edited: dict[str, Any]


def write(folder: Path, cases: Sequence[Case], *, edited: bool) -> None:
    programs = {}
    for number, case in enumerate(cases):

        def filled(text: str, number: int = number, case: Case = case) -> str:
            text = text.replace(case.old, case.new) if edited else text
            return re.sub(r"\bM(2?)\b", rf"m\g<1>_{number}", text)

        names = {name.replace(case.old, case.new): name for name in case.files} if edited else {}
        for name, text in [*case.files.items(), *((new, case.files[old]) for new, old in names.items())]:
            file = folder / filled(name)
            file.parent.mkdir(exist_ok=True)
            if not file.exists() or file.read_text() != filled(text):
                file.write_text(filled(text))
                if file.suffix == ".sql":
                    make_database(file.with_suffix(".db"), filled(text))
        programs[case.name] = filled(case.program)
        assert not edited or case.old in "".join((case.program, *case.files, *case.files.values())), case.name
    (folder / "cases.json").write_text(json.dumps(programs))


def make_database(file: Path, script: str) -> None:
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.executescript(script)


def run(folder: Path) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("staleness")
    write(folder, CASES, edited=False)
    recorded, again = run(folder), run(folder)
    write(folder, CASES, edited=True)
    return Told(recorded, again, run(folder))


@pytest.mark.parametrize("case", [*CODE, *OUTSIDE], ids=lambda case: case.name)
def test_what_a_tool_reaches_and_reads_is_followed(told: Told, case: Case) -> None:
    first, second = told.recorded[case.name]
    assert "tool" in first["live"]
    assert second["live"] == []
    assert [run["live"] for run in told.again[case.name]] == [[], []]
    edited, replayed = told.edited[case.name]
    assert "tool" in edited["live"]
    assert replayed["live"] == []
    named = case.names.replace("M", f"m_{CASES.index(case)}")
    assert any("tool" in line and named in line for line in edited["why"]), edited["why"]


@pytest.mark.parametrize("case", INNOCENT, ids=lambda case: case.name)
def test_what_a_tool_does_not_read_is_no_change(told: Told, case: Case) -> None:
    assert "tool" in told.recorded[case.name][0]["live"]
    again = [*told.again[case.name], *told.edited[case.name]]
    assert [run["live"] for run in again] == [[]] * 4, [run["why"] for run in again]
