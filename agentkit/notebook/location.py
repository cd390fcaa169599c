"""Which notebook this kernel belongs to: the folder its journal lies in and the label of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

VSCODE = "__vsc_ipynb_file__"


class NotebookLocation(NamedTuple):
    folder: Path
    label: str


def of(environ: Mapping[str, str], names: Mapping[str, Any], cwd: Path) -> NotebookLocation:
    """From AGENTKIT_NOTEBOOK, VS Code's variable, Jupyter's session name, else the working folder and `default`."""
    for given in (environ.get("AGENTKIT_NOTEBOOK"), names.get(VSCODE), environ.get("JPY_SESSION_NAME")):
        if not given:
            continue
        path = Path(str(given))
        folder = path.parent if path.is_absolute() else cwd / path.parent
        # A kernel on another machine than the server is told a path it does not have.
        return NotebookLocation(folder if folder.is_dir() else cwd, path.stem)
    return NotebookLocation(cwd, "default")
