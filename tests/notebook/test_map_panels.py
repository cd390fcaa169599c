"""The panel of a map under its cell, in a real kernel: drawn while it runs, seldom enough, and whole at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Cell, Kernel, kernel

SETUP = """
%load_ext agentkit
import asyncio
import agentkit
import pandas
from agentkit.testing import ScriptedModel

async def answer(messages):
    await asyncio.sleep(0.05)
    return ["fine"]

scripted = ScriptedModel.by(answer)
products = pandas.DataFrame({"name": [f"drill {n}" for n in range(60)]})
"""
BUILD = """%%agent build seller --model scripted
You sell."""
MAP = """%%agent map seller --rows products --as sold --workers 4
Sell {{ row.name }}"""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as started:
        for source in (SETUP, BUILD):
            cell = started.run(source)
            assert cell.status == "ok", cell.traceback
        yield started


def drawn(cell: Cell) -> list[str]:
    """The panels in the order they were drawn."""
    pages = [content["data"].get("text/html", "") for content in [*cell.shown, *cell.updates]]
    return [page for page in pages if 'role="progressbar"' in page]


def test_the_panel_goes_with_the_map(notebook: Kernel) -> None:
    cell = notebook.run(MAP, watched=True)
    assert cell.status == "ok", cell.traceback
    panels = drawn(cell)
    assert 3 <= len(panels) <= 4 * cell.seconds + 2
    assert all(len(panel) < 40_000 for panel in panels)
    assert "seller over products" in panels[0] and "running" in panels[1] and "of 4" in panels[1]
    assert "60 live" in panels[-1] and "✓ done" in panels[-1]
    again = notebook.run(MAP, watched=True)
    assert "60 replayed" in drawn(again)[-1]


def test_a_map_that_is_stopped_says_so_and_keeps_what_arrived(notebook: Kernel) -> None:
    cell = notebook.run(MAP, watched=True, stop_after=1.0)
    assert cell.status == "error"
    last = drawn(cell)[-1]
    assert "■ stopped" in last and "were not asked: run it again and it goes on with them" in last
    arrived = int(notebook.value("int((sold['status'] == 'done').sum())"))
    assert 0 < arrived < 60
    again = notebook.run(MAP, watched=True)
    assert f"{arrived} replayed" in drawn(again)[-1], (arrived, drawn(again)[-1])


def test_an_unwatched_map_is_drawn_once(notebook: Kernel) -> None:
    cell = notebook.run(MAP)
    assert len(drawn(cell)) == 1 and "60 live" in drawn(cell)[0]


def test_a_map_is_one_run_and_a_row_of_it_can_be_looked_at(notebook: Kernel) -> None:
    notebook.run(MAP)
    notebook.run("runs = %agent runs")
    assert notebook.value("len(runs)") == "1"
    whole = notebook.run("%agent trace")
    assert "over 60 rows" in whole.text and "%agent trace" in whole.text
    run = notebook.value("runs.run[0]").strip("'")
    for row in (0, 7):
        (panel,) = notebook.run(f"%agent trace {run} {row}").panels
        assert "1 step" in panel["data"]["text/plain"] and "fine" in panel["data"]["text/plain"]
    assert "from 0 to 59" in str(notebook.run(f"%agent trace {run} 60").error)


@pytest.mark.parametrize(
    ("line", "body", "words"),
    [
        ("seller", "Sell {{ row.name }}", "--rows"),
        ("seller --rows nothing", "Sell {{ row.name }}", "nothing"),
        ("seller --rows products", "Sell {{ row.nam }}", "did you mean name"),
        ("seller --rows products", "Sell {{ row.name }} in {{ town }}", "town is not defined"),
        ("seller --rows products", "", "the body is empty"),
        ("seller --rows products --workers many", "Sell {{ row.name }}", "--workers many"),
        ("seller --rows products --limit 0", "Sell {{ row.name }}", "--limit 0"),
        ("seller --rows products --batch", "Sell {{ row.name }}", "leave out batch"),
        ("seller --rows products --as print", "Sell {{ row.name }}", "print"),
        ("nobody --rows products", "Sell {{ row.name }}", "nobody"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_asked(notebook: Kernel, line: str, body: str, words: str) -> None:
    cell = notebook.run(f"%%agent map {line}\n{body}")
    assert cell.status == "error" and words in str(cell.error), cell.error
    assert "\n" not in str(cell.error).strip()
    assert notebook.value("len(agentkit.runtime.session.current().runs())") == "0"


def test_a_sample_says_under_its_panel_what_all_rows_would_take(notebook: Kernel) -> None:
    cell = notebook.run(MAP.replace("--workers 4", "--workers 4 --sample 10"))
    assert "60 rows: about " in cell.text and "from 10 rows by chance" in cell.text


def test_agents_that_a_row_asks_have_no_panel_beside_that_of_the_map(notebook: Kernel) -> None:
    notebook.run(
        "from agentkit.testing import Call\n"
        "def ask(messages):\n"
        "    told = [part for message in messages for part in message.parts if part.part_kind == 'tool-return']\n"
        "    return 'done' if told else Call('seller', {'prompt': messages[0].parts[-1].content})\n"
        "leading = ScriptedModel.by(ask, model_name='leading')"
    )
    built = notebook.run("%%agent build leader --model leading --tools seller\nYou lead.")
    assert built.status == "ok", built.traceback
    cell = notebook.run(MAP.replace("map seller", "map leader"), watched=True)
    assert cell.status == "ok", cell.traceback
    assert "60 live" in drawn(cell)[-1]
    assert [page for content in cell.shown if "seller" in (page := content["data"].get("text/html", ""))] == []
    # After the map, what is run has its panel as ever.
    after = notebook.run("answer = await leader.run('Another')")
    assert any("leader" in content["data"].get("text/html", "") for content in after.shown)
