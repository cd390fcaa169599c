"""What a tool prints, logs and displays belongs to its step: in its row, bounded, and there again on replay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notebook.kernels import Cell, Kernel, kernel

_SETUP = """
import asyncio, logging, sys, threading, time, warnings
import pandas as pd
from IPython.display import display
from agentkit.testing import Call, ScriptedModel
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", force=True)
%load_ext agentkit
"""
TOOLS = {
    "prints": ("print('line one'); print('line two')", ["line one", "line two"]),
    "prints to the other stream": ("print('aside', file=sys.stderr)", ["aside"]),
    "logs": ("logging.getLogger('x').info('connected')", ["INFO connected"]),
    "warns": ("warnings.warn('deprecated thing')", ["UserWarning: deprecated thing"]),
    "displays a frame": ("display(pd.DataFrame({'region': ['west']}))", ["region", "west"]),
    "displays a picture": ("display({'image/png': 'iVBORw0KGgo='}, raw=True)", ["[image/png]"]),
    "fails": ("print('before it broke'); raise ValueError('no')", ["before it broke", "ValueError: no"]),
    "prints a lot": ("print('x' * 79 + '\\n', end='') or [print('y' * 99) for _ in range(2000)]", ["more characters"]),
    "prints a script": ("print('<script>alert(1)</script>')", ["&lt;script&gt;alert(1)"]),
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("output")) as running:
        assert running.run(_SETUP).status == "ok"
        yield running


def build(notebook: Kernel, name: str, body: str, *, sync: bool) -> None:
    notebook.run(f"{'' if sync else 'async '}def {name}() -> str:\n    'Work.'\n    {body}\n    return 'worked'")
    notebook.run(f"{name}_model = ScriptedModel.by(lambda m: Call('{name}') if len(m) == 1 else 'done')")
    notebook.run(f"%%agent build {name}_agent --model {name}_model --tools {name}\nYou work.")


def row(cell: Cell) -> str:
    (panel,) = cell.panels
    return str(panel["data"]["text/html"])


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("case", TOOLS)
def test_it_is_in_the_row_live_and_replayed_and_not_under_the_cell(notebook: Kernel, case: str, sync: bool) -> None:
    body, wanted = TOOLS[case]
    name = f"{case.replace(' ', '_')}_{'sync' if sync else 'async'}"
    build(notebook, name, body, sync=sync)
    for _ in range(2):
        cell = notebook.run(f"%%agent run {name}_agent\nGo.", watched=True)
        assert all(text in row(cell) for text in wanted), row(cell) + cell.traceback
        assert not any(text in cell.text for text in wanted), cell.text
        assert len(row(cell)) < 23_000
        # Recorded, it is what `trace` shows from the disk.
        told = notebook.run(f"%agent trace {name}_agent")
        assert all(text in row(told) for text in wanted), row(told)


def test_a_frame_and_a_picture_are_shown_again_on_replay(notebook: Kernel) -> None:
    build(
        notebook,
        "paints",
        "display(pd.DataFrame({'a': [1]})); display({'image/png': 'iVBORw0KGgo='}, raw=True)",
        sync=True,
    )
    for _ in range(2):
        cell = notebook.run("%%agent run paints_agent\nGo.", watched=True)
        assert any("<table" in html for html in cell.of("text/html")) and cell.of("image/png")


def test_what_a_tool_of_an_earlier_cell_prints_is_in_that_cells_row(notebook: Kernel) -> None:
    build(notebook, "slow", "time.sleep(2); print('from the first cell')", sync=True)
    first = notebook.run("task = asyncio.ensure_future(slow_agent.run('Go.'))", watched=True)
    later = notebook.run("print('second'); await task; print('after')", watched=True)
    assert later.text == "second\nafter\n" and "from the first cell" not in first.text


def test_prints_outside_of_tools_are_printed_as_ever(notebook: Kernel) -> None:
    assert notebook.run("print('plain'); print('err', file=sys.stderr)").text == "plain\nerr\n"
    build(notebook, "quiet", "pass", sync=True)
    shown = notebook.run("r = await quiet_agent.run('Go.')\nprint(r.output)")
    assert "done\n" in shown.text
