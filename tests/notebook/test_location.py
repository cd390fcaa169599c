"""Which folder and which label."""

from __future__ import annotations

from pathlib import Path

from agentkit.notebook.location import VSCODE, of


def test_the_notebooks_folder_and_name_come_from_what_is_known(tmp_path: Path) -> None:
    there = tmp_path / "deep"
    there.mkdir()
    jupyter = {"JPY_SESSION_NAME": str(there / "analysis.ipynb")}
    assert of(jupyter, {}, tmp_path) == (there, "analysis")
    assert of(jupyter, {VSCODE: str(tmp_path / "code.ipynb")}, Path("/")) == (tmp_path, "code")
    assert of({**jupyter, "AGENTKIT_NOTEBOOK": "mine.ipynb"}, {}, tmp_path) == (tmp_path, "mine")
    assert of({}, {}, tmp_path) == (tmp_path, "default")


def test_a_path_of_another_machine_is_only_a_name(tmp_path: Path) -> None:
    assert of({"JPY_SESSION_NAME": "/nowhere/at/all/x.ipynb"}, {}, tmp_path) == (tmp_path, "x")
