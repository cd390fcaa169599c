"""Cells that IPython does not announce or that were read before: the one that loads the extension, `ipython FILE`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

from tests.notebook.kernels import ROOT, kernel

SETUP = """%load_ext agentkit
from agentkit.testing import ScriptedModel
model = ScriptedModel.by(lambda messages: "Noon is at **12**.")
get_ipython().run_cell_magic("agent", "build clock --model model", "You tell the time.")"""
RUN = 'get_ipython().run_cell_magic("agent", "run clock", "When is noon?")'
PAIR = 'pair = [get_ipython().run_line_magic("agent", "runs")]'


def test_the_cell_that_loads_it_shows_what_a_verb_shows(tmp_path: Path) -> None:
    with kernel(tmp_path) as shell:
        first = shell.run(f"{SETUP}\n{RUN}\n%agent\nheld = %agent runs\n{PAIR}\n%agent runs")
        own = shell.run("%agent")
        runs = shell.run("%agent runs")
        assert first.status == "ok", first.traceback
        assert own.text and own.text in first.text
        assert first.of("text/markdown") == ["Noon is at **12**."]
        assert "1 step: 1 live, 0 replayed" in first.headline
        tables = [html for html in first.of("text/html") if "<table" in html and "tex2jax_ignore" not in html]
        assert tables == runs.of("text/html")[-1:], "as the last expression, once; not where a name gets it"
        assert shell.value("held.shape == pair[0].shape == _.shape") == "True"


def test_ipython_prints_what_a_script_of_magics_shows(tmp_path: Path) -> None:
    (tmp_path / "clock.ipy").write_text(f"{SETUP}\n{RUN}\n%agent\n%agent runs\n")
    printed = ipython(tmp_path, "clock.ipy")
    assert "Noon is at **12**." in printed and "last run" in printed
    assert printed.count("agent notebook status") == 1
    assert "clock · done · 1 step: 1 live, 0 replayed" in printed


def test_ipython_prints_what_a_notebook_shows(tmp_path: Path) -> None:
    sources = [SETUP + "\n%agent", "%%agent run clock\nWhen is noon?", "%%agent run clock\nAnd midnight?"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "clock.ipynb")
    printed = ipython(tmp_path, "clock.ipynb")
    assert "agents    clock" in printed
    assert printed.count("\nNoon is at **12**.\n") == 2
    assert printed.count("clock · done · 1 step: 1 live, 0 replayed") == 2
    assert ipython(tmp_path, "clock.ipynb").count("clock · done · 1 step: 0 live, 1 replayed") == 2


def test_a_panel_under_another_magic_is_that_magics(tmp_path: Path) -> None:
    sources = [SETUP, "%%capture taken\n%%agent run clock\nWhen is noon?", "print('taken', len(taken.outputs))"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "clock.ipynb")
    printed = ipython(tmp_path, "clock.ipynb")
    assert "taken 2" in printed, printed
    assert "clock · done" not in printed


def ipython(folder: Path, name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", name],
        cwd=folder,
        env={**os.environ, "IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and "Error" not in done.stdout, done.stdout + done.stderr
    return done.stdout
