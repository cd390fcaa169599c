"""Somebody else's folder and file, opened in a real kernel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from agentkit.cli.main import main
from tests.notebook.kernels import Cell, Kernel, kernel

CELLS = (
    "%load_ext agentkit",
    """
import agentkit
from agentkit.testing import Call, ScriptedModel

@agentkit.tool(effects="once", approve="ask")
def pay(amount: int) -> str:
    \"\"\"Pay an amount.\"\"\"
    with open("effects", "a") as file:
        file.write(f"{amount}\\n")
    return f"paid {amount}"

scripted = ScriptedModel([Call("pay", {"amount": 100}), "Done."] * 4)
""",
    "%%agent build payer --tools pay --model scripted\nYou pay.",
)
PAY = "%%agent run payer\nPay."


@contextmanager
def opened(folder: Path, who: str) -> Iterator[Kernel]:
    """A kernel of this user with the agent, its first cells executed."""
    of_user = {"XDG_STATE_HOME": str(folder.parent / f"state of {who}")}
    with mock.patch.dict(os.environ, of_user), kernel(folder) as shell:
        for cell in CELLS:
            done = shell.run(cell)
            assert done.status == "ok", done.traceback
        yield shell


def error(cell: Cell) -> str:
    assert cell.status == "error"
    return f"{cell.ename}: {cell.error}"


def pays_nothing(got: Path) -> None:
    """Opened twice by Bob it replays, says so, and asks before anything is paid once it was left."""
    for _ in range(2):
        with opened(got, "bob") as shell:
            run = shell.run(PAY)
            assert "4 steps: 0 live, 4 replayed" in run.headline
            panel = run.panels[0]["data"]["text/plain"]
            assert "by you" not in panel and "decided" in panel
            assert "mode replay, records" in shell.run("%agent").text
            assert error(shell.run("%%agent run payer\nPay again.")).startswith("ReplayMiss")
            assert "not decided by you here" in shell.run("%agent approvals").text
    assert not (got / "effects").exists()
    with opened(got, "bob") as shell:
        shell.run("%agent mode auto")
        assert error(shell.run(PAY)).startswith("ApprovalPending")
    with opened(got, "bob") as shell:
        assert "mode auto" in shell.run("%agent").text
        assert error(shell.run("%%agent run payer\nPay again.")).startswith("ApprovalPending")
    assert not (got / "effects").exists()


def test_a_copied_folder_pays_nothing(tmp_path: Path) -> None:
    made, got = tmp_path / "made", tmp_path / "got"
    made.mkdir()
    with opened(made, "mallory") as shell:
        shell.run("%agent policy --headless allow")
        assert shell.run(PAY).status == "ok"
    assert (made / "effects").read_text() == "100\n"
    got.mkdir()
    shutil.copytree(made / ".agentkit", got / ".agentkit")
    with opened(got, "bob") as shell:
        assert "are not signed by this user" in shell.run(PAY).text
    pays_nothing(got)


def test_a_file_beside_the_notebook_pays_nothing(tmp_path: Path) -> None:
    made, got = tmp_path / "made", tmp_path / "got"
    made.mkdir()
    got.mkdir()
    with opened(made, "mallory") as shell:
        shell.run("%agent policy --headless allow")
        assert shell.run(PAY).status == "ok"
    notebook = made / "default.ipynb"
    notebook.write_text('{"cells": []}')
    assert main(["journal", "export", str(notebook), "-o", str(got / "default.agentkit")]) == 0
    pays_nothing(got)
