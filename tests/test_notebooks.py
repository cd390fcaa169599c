"""Every notebook, executed from top to bottom in a real kernel; tagged cells must say what they said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.notebook import forks

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What nbval says of all of them, the first time and replayed, each in a folder and a kernel of its own."""
    top = tmp_path_factory.mktemp("notebooks")
    for notebook in NOTEBOOKS:
        # A copy, so that nothing recorded beside the notebooks of a clone answers.
        (top / notebook.stem).mkdir()
        shutil.copy(notebook, top / notebook.stem)
    environment = {**os.environ, **forks.install(top / ".jupyter")}
    return [nbval(top, environment) for _ in range(2)]


def nbval(top: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--nbval-lax"]
    done = subprocess.run(
        [
            *(*command, "--nbval-current-env"),
            f"--nbval-sanitize-with={HERE.parent / 'agentkit' / 'notebook' / 'nbval.cfg'}",
            *(f"{notebook.stem}/{notebook.name}" for notebook in NOTEBOOKS),
        ],
        cwd=top,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_does_what_it_shows_the_first_time_and_replayed(notebook: Path, rounds: list[str]) -> None:
    cells = code_cells(notebook)
    for said in rounds:
        verdicts = re.findall(rf"^([A-Z]+) {re.escape(notebook.stem)}/.*::Cell \d+", said, re.MULTILINE)
        assert verdicts == ["PASSED"] * len(cells), said[-9000:]


def code_cells(notebook: Path) -> list[Any]:
    read = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in read["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_was_executed(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    checked = [cell for cell in cells if "nbval-check-output" in cell["metadata"].get("tags", [])]
    assert len(checked) >= 3
    assert all(cell["outputs"] for cell in checked)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_nothing_of_the_machine_it_was_executed_on(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert "/tmp/" not in text
    assert str(Path.home()) + "/" not in text


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3
