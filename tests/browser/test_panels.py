"""The panel in JupyterLab and nbclassic, from wide to narrow: names stay, columns line up, nothing runs over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from agentkit.trace import render_html
from agentkit.trace.trace import Trace
from tests.browser import lab
from tests.trace.samples import NOW, SAMPLES

SHOWN = ("nested sub-agents", "200 runs", "20 parallel runs", "errors")
_DRAW = f"""
from agentkit.trace import render_html as panel
from agentkit.trace.trace import Trace
from tests.trace.samples import NOW, SAMPLES
for name in {SHOWN!r}:
    display(panel.bundle(Trace.of(SAMPLES[name]()), now=NOW), raw=True)
"""
# Of each row: what of its cells is seen, and where; a cell whose text went to its second line is not seen.
_MEASURE = """panels => panels.map(panel => ({
  edge: panel.getBoundingClientRect().right,
  wide: panel.scrollWidth - panel.clientWidth,
  rows: [...panel.querySelectorAll('span')].filter(one => one.children.length === 6).map(row => {
    const cells = [...row.children].map(cell => {
      const box = cell.getBoundingClientRect(), range = document.createRange()
      range.selectNodeContents(cell)
      const text = range.getBoundingClientRect(), lines = [...range.getClientRects()]
      const last = lines.length ? lines[lines.length - 1] : box
      return {left: box.left, right: box.right, width: box.width, text: cell.innerText.trim(),
              seen: last.top < box.bottom - 4, over: last.right - box.right}
    })
    return cells
  }),
}))"""
NAME, STATE, BAR, TOOK, TOKENS, PRICE = range(6)


@pytest.fixture(scope="module")
def drawn(served: lab.Server) -> Path:
    """A notebook that draws the samples when its cell is run, and in which they stand, as in one that was cloned."""
    outputs = [
        nbformat.v4.new_output("display_data", render_html.bundle(Trace.of(SAMPLES[name]()), now=NOW)) for name in SHOWN
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_DRAW, outputs=outputs, execution_count=1)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = served.folder / "panels.ipynb"
    nbformat.write(notebook, path)
    return path


def in_lab(page: Any, served: lab.Server, path: Path) -> None:
    page.goto(f"{served.url}/lab/tree/{path.name}?token={lab.TOKEN}&reset")
    page.wait_for_selector(".jp-OutputArea-output details", timeout=60_000)
    if page.locator(".jp-SideBar.lm-mod-current, .jp-FileBrowser").first.is_visible():
        page.keyboard.press("Control+B")


def in_nbclassic(page: Any, served: lab.Server, path: Path) -> None:
    page.goto(f"{served.url}/notebooks/{path.name}?token={lab.TOKEN}")
    page.wait_for_function("() => window.Jupyter?.notebook?.kernel?.is_connected?.()", timeout=60_000)
    page.evaluate("() => { Jupyter.notebook.clear_all_output(); Jupyter.notebook.execute_all_cells() }")
    page.wait_for_function(f"() => document.querySelectorAll('.output_html > details').length === {len(SHOWN)}")


@pytest.fixture(scope="module", params=[in_lab, in_nbclassic])
def page(request: pytest.FixtureRequest, chromium: Any, served: lab.Server, drawn: Path) -> Iterator[Any]:
    """The panels as this front end shows them."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1400})
    page = context.new_page()
    request.param(page, served, drawn)
    yield page
    context.close()
    served.end_kernels()


@pytest.mark.parametrize("width", [1400, 800, 480])
def test_names_stay_columns_line_up_and_nothing_runs_over(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1400})
    page.wait_for_timeout(500)
    measured = page.evaluate(
        f"({_MEASURE})([...document.querySelectorAll('.jp-OutputArea-output > details, .output_html > details')])"
    )
    assert len(measured) == len(SHOWN)
    for shown in measured:
        assert shown["wide"] <= 1 and len(shown["rows"]) > 3
        head, *rows = shown["rows"]
        for place in range(6):
            assert len({round(row[place]["right"]) for row in shown["rows"]}) == 1, f"column {place} does not line up"
        for row in rows:
            assert row[NAME]["width"] >= 100 and row[NAME]["text"] and row[TOOK]["over"] <= 1
            # A figure is there whole, or not at all; and the bars go before the price, the price before the tokens.
            for place in (TOKENS, PRICE):
                assert not row[place]["text"] or not row[place]["seen"] or row[place]["over"] <= 1
            assert row[BAR]["width"] < 30 or head[PRICE]["seen"]
        assert head[TOKENS]["seen"] or not head[PRICE]["seen"]
    if width >= 800:
        assert all(shown["rows"][0][place]["seen"] for shown in measured for place in (BAR, TOKENS, PRICE))
