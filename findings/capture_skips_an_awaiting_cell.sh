#!/usr/bin/env bash
# ipython 9.18.1, ipykernel 7.4.0, nbclient 0.11.0: `%%capture` over a cell with a top-level `await` never runs the
# cell's body; the error stands in the cell's output, yet the cell counts as a success and nbclient goes on.
#
# Why one would guess otherwise: `await` works at the top level of every cell, `%%capture` only redirects output, and
# nbclient raises CellExecutionError for a cell that failed.
# What is seen: a variable that the body sets stays unset; the output is a RuntimeError ("This event loop is already
# running"); the execute reply says ok, so nbclient raises nothing and runs the next cell.
# What follows: an agent awaited under `%%capture` was not asked, however green the run looks.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 nbformat==5.11.1
cat > probe.py <<'PY'
import nbformat, nbclient
from nbformat.v4 import new_code_cell, new_notebook

book = new_notebook(cells=[
    new_code_cell("import asyncio\nreached = False"),
    new_code_cell("%%capture held\nawait asyncio.sleep(0)\nreached = True"),
    new_code_cell("print(reached)"),
    new_code_cell("%%capture plain\nreached = True"),
    new_code_cell("print(reached)"),
])
nbclient.NotebookClient(book, kernel_name="python3").execute()
awaiting, sync = (book.cells[n].outputs[0].text.strip() for n in (2, 4))
errors = [(o.ename, o.evalue) for cell in book.cells for o in cell.get("outputs", []) if o.output_type == "error"]
print("body with await ran:", awaiting, "| body without await ran:", sync, "| outputs of type error:", errors)
assert (awaiting, sync) == ("False", "True"), "the behaviour changed"
assert errors == [("RuntimeError", "This event loop is already running")], "the error changed"
print("nbclient raised nothing")
PY
env/bin/python probe.py
