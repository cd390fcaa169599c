"""Execute the notebooks and commit what they say: `python -m tests.refresh_notebooks [NAME ...]`.

Each is executed in a folder of its own, so that its panels show the first, live run.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def main(names: list[str]) -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or any(path.name.startswith(name) for name in names):
            refresh(path)
            print(f"executed {path.name}")


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTKIT_")}
    with tempfile.TemporaryDirectory() as folder:
        # Where one exports itself it is found as it lies in a person's folder.
        shutil.copy(path, folder)
        client = NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        client.execute(env={**environment, "AGENTKIT_NOTEBOOK": path.name})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
