#!/usr/bin/env bash
# nbclient 0.11.0 with ipywidgets 8.1.9: an updated display inside an Output widget is saved with its first value,
# while the same display outside of one is saved with its last.
#
# Why one would guess otherwise: `handle.update()` is one protocol message, and nbclient applies it to the cells.
# What is seen: the widget state of the saved notebook holds "first" and not "second"; the plain cell holds "second".
# What follows: a panel that is updated must not stand inside an Output widget if the saved notebook is to be true.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 ipywidgets==8.1.9 nbformat==5.11.1
cat > probe.py <<'PY'
import json
import nbclient
from nbformat.v4 import new_code_cell, new_notebook

book = new_notebook(cells=[
    new_code_cell("from IPython.display import display\nimport ipywidgets\n"
                  "plain = display('first', display_id=True)\nplain.update('second')"),
    new_code_cell("held = ipywidgets.Output()\nwith held:\n    handle = display('first', display_id=True)\nhandle.update('second')\nheld"),
])
nbclient.NotebookClient(book, kernel_name="python3", store_widget_state=True).execute()
plain = book.cells[0].outputs[0]["data"]["text/plain"]
states = book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
inside = next(s["state"]["outputs"] for s in states if s["model_name"] == "OutputModel")
text = inside[0]["data"]["text/plain"]
print("in the cell:", plain, "| in the Output widget:", text, "| outputs there:", len(inside))
assert plain == "'second'" and text == "'first'" and len(inside) == 1, "the behaviour changed"
PY
env/bin/python probe.py
