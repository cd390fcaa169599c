"""Every notebook, executed from top to bottom in a real kernel; tagged cells must say what they said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_does_what_it_shows_the_first_time_and_replayed(notebook: Path, tmp_path: Path) -> None:
    # A copy, so that nothing recorded beside the notebooks of a clone answers.
    shutil.copy(notebook, tmp_path)
    for _ in range(2):
        done = nbval(tmp_path / notebook.name)
        assert done.returncode == 0, done.stdout[-6000:]
        assert " passed" in done.stdout


def nbval(notebook: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    return subprocess.run(
        [*command, f"--nbval-sanitize-with={HERE.parent / 'agentkit' / 'notebook' / 'nbval.cfg'}", notebook.name],
        cwd=notebook.parent,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_was_executed(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
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
