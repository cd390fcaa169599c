"""The README's pictures, taken anew in a real JupyterLab: `python -m tests.browser.pictures [NAME ...]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from tests.browser import lab

IMAGES = lab.ROOT / "docs" / "images"
_SIZE = {"width": 1000, "height": 1000}
_BARE = """
.jp-cell-toolbar, .jp-Collapser { visibility: hidden }
.jp-Notebook .jp-Cell { border-color: transparent !important; box-shadow: none !important }
"""

_ASK = """%load_ext agentkit
import agentkit
from agentkit.testing import Call, ScriptedModel

@agentkit.tool(effects="none")
def find_orders(status: str) -> list[int]:
    "Find orders."
    return [1041, 1042, 1057]

@agentkit.tool(effects="once", approve="ask")
def delete_orders(ids: list[int], reason: str) -> str:
    "Delete orders."
    return f"{len(ids)} deleted"

def rule(messages):
    if len(messages) == 1:
        return ["Let me look first.", Call("find_orders", {"status": "test"})]
    return ["These three orders were made by our own tests in May, so they distort the totals.",
            Call("delete_orders", {"ids": [1041, 1042, 1057], "reason": "test data"}),
            Call("ask_user", {"question": "Shall I write the deleted orders to a file first?", "kind": "yes_no"})]

scripted = ScriptedModel.by(rule)"""
_MAP = """%load_ext agentkit
import asyncio
from typing import Literal

import pandas as pd
from agentkit.testing import Call, ScriptedModel
from pydantic import BaseModel

class Product(BaseModel):
    category: Literal["tools", "toys", "food"]
    certain: bool

async def rule(messages):
    number = int(str(messages[0].parts[-1].content).split("no. ")[1].split(" ")[0])
    await asyncio.sleep(0.2 + number % 7 / 10)
    return [Call("final_result", {"category": ["tools", "toys", "food"][number % 3], "certain": number % 5 > 0})]

scripted = ScriptedModel.by(rule, cost=0.0004)
names = ["drill", "kite", "honey"]
titles = [f"{names[n % 3]} no. {n}" for n in range(600)]
products = pd.DataFrame({"title": titles, "price": [n % 90 for n in range(600)]}, index=titles)"""
_SANDBOX = '''%load_ext agentkit
import agentkit

@agentkit.tool(effects="none")
def search(query: str) -> list[int]:
    "Find rows."
    return [1, 2]

@agentkit.tool(effects="once", approve="ask")
def delete(rows: list[int]) -> str:
    "Delete rows."
    return f"deleted {len(rows)}"'''


def cells(page: Callable[[Sequence[str]], lab.Notebook]) -> None:
    """`cell-live` and `cell-replayed`."""
    sources = of("01_first_agent", "%%agent run analyst --as rainy")
    notebook = page(sources)
    last = run_all(notebook, sources)
    take(notebook, last, "cell-live")
    notebook.restart()
    theme(notebook, "JupyterLab Dark")
    run_all(notebook, sources)
    take(notebook, last, "cell-replayed")
    theme(notebook, "JupyterLab Light")


def step(page: Callable[[Sequence[str]], lab.Notebook]) -> None:
    sources = of("04_step_through", "%%agent step analyst --as answer")
    notebook = page(sources)
    last = run_all(notebook, sources)
    press(notebook, last, "Next")
    notebook.text(last, "paused before step 2")
    notebook.output(last).get_by_text("Edit this step").click()
    take(notebook, last, "step")


def ask(page: Callable[[Sequence[str]], lab.Notebook]) -> None:
    asked = "%%agent run clerk\nRemove what does not belong into the order book."
    build = "%%agent build clerk --model scripted --tools find_orders, delete_orders --ask\nYou keep the order book."
    notebook = page([_ASK, build, asked])
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.text(2, "clerk asks", "waiting for you")
    take(notebook, 2, "ask")


def sandbox(page: Callable[[Sequence[str]], lab.Notebook]) -> None:
    notebook = page(
        [_SANDBOX, "%%agent sandbox --call search, delete\nrows = search('old')\nwhat = delete(rows)\nwhat"]
    )
    notebook.do(0)
    notebook.run(1)
    notebook.text(1, "sandbox wants to call delete")
    press(notebook, 1, "Approve")
    notebook.finished(1)
    take(notebook, 1, "sandbox")


def table(page: Callable[[Sequence[str]], lab.Notebook]) -> None:
    """`map`: in the middle of its rows."""
    notebook = page(
        [
            _MAP,
            "%%agent build shop --model scripted --output Product\nYou sort products.",
            "%%agent map shop --rows products --as answers --workers 12 --budget 1usd\n"
            "Which category does {{ row.title }} at {{ row.price }} EUR belong to?",
        ]
    )
    notebook.do(0)
    notebook.do(1)
    notebook.run(2)
    notebook.text(2, "left")
    notebook.page.wait_for_timeout(5000)
    take(notebook, 2, "map")


def of(name: str, last: str) -> list[str]:
    """The code cells of a notebook, to the one that begins with `last`."""
    read: Any = nbformat.read(lab.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    sources = [str(cell.source) for cell in read.cells if cell.cell_type == "code"]
    return sources[: next(number for number, source in enumerate(sources) if source.startswith(last)) + 1]


def run_all(notebook: lab.Notebook, sources: Sequence[str]) -> int:
    for number in range(len(sources)):
        notebook.do(number)
    return len(sources) - 1


def press(notebook: lab.Notebook, cell: int, name: str) -> None:
    notebook.output(cell).get_by_role("button", name=name, exact=True).last.click()


def theme(notebook: lab.Notebook, name: str) -> None:
    notebook.menu("Settings", "Theme")
    notebook.page.locator(".lm-Menu-itemLabel", has_text=name).first.click()
    notebook.page.wait_for_timeout(1500)


def take(notebook: lab.Notebook, cell: int, name: str) -> None:
    """The cell as it stands, without the frame and the buttons of the cell that is being worked in."""
    notebook.page.locator(".jp-NotebookPanel-toolbar").click(position={"x": 5, "y": 5})
    notebook.page.add_style_tag(content=_BARE)
    notebook.page.wait_for_timeout(800)
    notebook.cell(cell).screenshot(path=str(IMAGES / f"{name}.png"))
    print(f"docs/images/{name}.png")


PICTURES = {"cells": cells, "step": step, "ask": ask, "sandbox": sandbox, "map": table}


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, lab.server(Path(folder)) as served, lab.browser() as chromium:
        for name in names or PICTURES:
            context = chromium.new_context(viewport=_SIZE, device_scale_factor=1.5)

            def page(sources: Sequence[str], *, name: str = name, context: Any = context) -> lab.Notebook:
                path = lab.write(Path(folder) / f"{name}.ipynb", sources)
                opened = lab.Notebook(context.new_page(), served, path)
                opened.page.keyboard.press("Control+B")
                return opened

            PICTURES[name](page)
            context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
