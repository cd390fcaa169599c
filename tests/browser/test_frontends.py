"""The other front ends, each really served and clicked in: Voila and marimo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser import lab
from tests.browser.test_approvals import cells

pytestmark = pytest.mark.timeout(240)

PROGRAM = """
import marimo

app = marimo.App()


@app.cell
def _():
    import agentkit
    from agentkit.testing import Call, ScriptedModel
    from pydantic_ai.messages import ToolReturnPart

    def rule(messages):
        parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        return f"The tool said: {parts[-1].content}" if parts else Call("delete_rows", {"ids": [1, 2]})

    @agentkit.tool(effects="once", approve="ask")
    def delete_rows(ids: list[int]) -> str:
        "Delete rows of the table."
        with open("deleted", "a") as ledger:
            ledger.write("deleted ")
        return f"{len(ids)} rows deleted"

    spec = agentkit.Spec(instructions="You clean tables.")
    cleaner = agentkit.build(spec, name="cleaner", tools=[delete_rows], model=ScriptedModel.by(rule))
    return agentkit, cleaner


@app.cell
async def _(agentkit, cleaner):
    with agentkit.session("rows"):
        answer = await agentkit.ask(cleaner, "Clean up.")
    answer
    return (answer,)


@app.cell
def _(answer):
    f"after it: {answer.output}"
    return
"""


@contextmanager
def served(folder: Path, command: Sequence[str]) -> Iterator[str]:
    """The address of what `command` serves on the port that is put into it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(lab.ROOT), "IPYTHONDIR": str(folder / ".ipython")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.replace("PORT", str(port)) for part in command)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=30)


def approved(chromium: Any, address: str) -> str:
    """The page after its question was answered with Approve."""
    page = chromium.new_page(viewport={"width": 1000, "height": 1200})
    try:
        page.goto(address, timeout=90_000)
        page.get_by_role("button", name="Approve", exact=True).click(timeout=90_000)
        page.get_by_text("The tool said: 2 rows deleted").first.wait_for(timeout=90_000)
        page.get_by_text("after it").first.wait_for(timeout=90_000)
        return str(page.inner_text("body"))
    finally:
        page.close()


def test_voila_asks_with_the_widget_of_lab_and_goes_on(tmp_path: Path, chromium: Any) -> None:
    lab.write(tmp_path / "rows.ipynb", [*cells("voila"), "print('after it')"])
    with served(tmp_path, ["voila", "rows.ipynb", "--no-browser", "--port=PORT"]) as address:
        shown = approved(chromium, address)
    assert "approved by you" in shown and "2 replayed" in shown
    assert "deleted [[1, 2]] asked 1" in shown


def test_marimo_shows_the_panel_and_asks_in_the_page(tmp_path: Path, chromium: Any) -> None:
    (tmp_path / "rows.py").write_text(PROGRAM)
    command = ["marimo", "run", "rows.py", "--headless", "--no-token", "--port=PORT", "--host=127.0.0.1"]
    with served(tmp_path, command) as address:
        shown = approved(chromium, address)
    assert "approved by you" in shown and "2 replayed" in shown
    assert "after it: The tool said: 2 rows deleted" in shown
    assert (tmp_path / "deleted").read_text() == "deleted "
