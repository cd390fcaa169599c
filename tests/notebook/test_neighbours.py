"""What the tools around a notebook do to cells with agents: each line of docs/neighbours.md that agentkit answers."""

from __future__ import annotations

import ast
import importlib.resources
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest

from agentkit.cli import run_notebook
from tests.notebook.kernels import ROOT, Kernel, kernel

SETUP = """
%load_ext agentkit
import agentkit
from agentkit.testing import ScriptedModel
WORDS = "one two three four five six".split()
echo = agentkit.build(agentkit.Spec(instructions="Echo."), name="echo", model=ScriptedModel(WORDS))
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("neighbours")) as running:
        cell = running.run(SETUP)
        assert cell.status == "ok", cell.traceback
        yield running


def test_an_agent_awaited_under_capture_is_said_not_to_have_run(shell: Kernel) -> None:
    shell.run("answer = None")
    cell = shell.run("%%capture taken\nanswer = await echo.run('go')")
    assert (cell.status, shell.run("print(answer)").text) == ("ok", "None\n")
    assert "%%capture does not run a body that awaits" in cell.text
    assert "counts as executed" in cell.text


def test_what_it_advises_captures(shell: Kernel) -> None:
    cell = shell.run(
        "import IPython.utils.capture\n"
        "with IPython.utils.capture.capture_output() as taken:\n"
        "    answer = await echo.run('go')\n    print(answer.output)"
    )
    assert cell.status == "ok" and cell.text == ""
    assert shell.run("print(repr(taken.stdout))").text == "'one\\n'\n"


@pytest.mark.parametrize(
    "source", ["%%capture\nprint(1)", "%%capture\nasync def f():\n    await g()", "%%agent run echo\nagain", "print(2)"]
)
def test_nothing_is_said_of_a_cell_that_runs(shell: Kernel, source: str) -> None:
    assert "%%capture does not run" not in shell.run(source).text


def test_a_magic_cell_under_capture_runs(shell: Kernel) -> None:
    cell = shell.run("%%capture taken\n%%agent run echo --as under\nonce more")
    assert cell.status == "ok" and "does not run" not in cell.text
    assert shell.run("print(under)").text in ("one\n", "two\n", "three\n")


def test_a_given_value_wins_over_each_cell_tagged_parameters(tmp_path: Path) -> None:
    """papermill puts it after the first of them, and the second one's default wins without a word."""
    tagged = [nbformat.v4.new_code_cell(f"n = {n}", metadata={"tags": ["parameters"]}) for n in (1, 2)]
    path = tmp_path / "two.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*tagged, nbformat.v4.new_code_cell("print('n is', n)")]), path)
    assert run_notebook.run(path, ["n=3"], tmp_path / "out.ipynb") == 0
    (shown,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    assert shown.text == "n is 3\n"


@pytest.mark.timeout(300)
def test_strict_nbval_passes_over_cells_with_panels_live_and_replayed(tmp_path: Path) -> None:
    sources = [
        SETUP.strip(),
        "%%agent run echo\nOnce.",
        "%%agent run echo\nTwice.",
        "answer = await echo.run('In Python.')\nanswer.output",
        "totals = %agent cost",
    ]
    path = tmp_path / "strict.ipynb"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.write(book, path)
    assert "1 step: 1 live" in path.read_text() and "one" in path.read_text()
    shutil.rmtree(tmp_path / ".agentkit")
    for _ in ("live", "replayed"):
        done = strict_nbval(path)
        assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout[-4000:]
    book.cells[1].outputs[0]["data"]["text/markdown"] = "another answer"
    nbformat.write(book, path)
    assert "1 failed, 4 passed" in strict_nbval(path).stdout


def strict_nbval(notebook: Path) -> subprocess.CompletedProcess[str]:
    """As docs/neighbours.md says."""
    normalised = importlib.resources.files("agentkit") / "notebook" / "nbval.cfg"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    return subprocess.run(
        [*command, f"--nbval-sanitize-with={normalised}", notebook.name],
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        timeout=170,
    )


def test_jupytext_keeps_a_body_as_a_comment_with_the_documented_setting(tmp_path: Path) -> None:
    sources = ['%%agent build echo\nIt\'s enough to say "once".\n\n# A heading\n{{ names }}', "x = 1", "%agent runs"]
    sources += ['%%agent run echo\nQuote it in """ or in \'\'\'.\n"""\n# + a list', "y = 2"]
    setting = 'custom_cell_magics = "agent"'
    assert setting in (ROOT / "docs" / "neighbours.md").read_text(encoding="utf-8")
    (tmp_path / "jupytext.toml").write_text(f"{setting}\n")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(book, tmp_path / "paired.ipynb")
    jupytext(tmp_path, "--to", "py:percent", "paired.ipynb")
    program = (tmp_path / "paired.py").read_text(encoding="utf-8")
    assert [type(node).__name__ for node in ast.parse(program).body] == ["Assign", "Assign"]
    (tmp_path / "paired.ipynb").unlink()
    jupytext(tmp_path, "--to", "ipynb", "paired.py")
    back = nbformat.read(tmp_path / "paired.ipynb", as_version=4)
    assert [cell.source for cell in back.cells] == sources


def test_cells_that_jupytext_joined_are_refused(tmp_path: Path, shell: Kernel) -> None:
    sources = ['%%agent run echo\nQuote it in """ please', "y = 2", "%%agent run echo\nagain"]
    (tmp_path / "jupytext.toml").write_text('custom_cell_magics = "agent"\n')
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(book, tmp_path / "paired.ipynb")
    jupytext(tmp_path, "--to", "py:percent", "paired.ipynb")
    jupytext(tmp_path, "--to", "ipynb", "paired.py")
    (joined,) = nbformat.read(tmp_path / "paired.ipynb", as_version=4).cells
    said = str(shell.run(joined.source).error)
    assert said.startswith("line 4: '%%' begins another cell: jupytext joined it") and "line 2" in said
    assert shell.run(sources[0]).error is None
    assert shell.run('%%agent run echo\nSay """a""" and\n%% of it').error is None


def jupytext(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "jupytext", *arguments], cwd=folder, check=True, capture_output=True, timeout=60
    )
