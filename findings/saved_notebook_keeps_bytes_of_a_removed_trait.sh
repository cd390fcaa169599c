#!/usr/bin/env bash
# nbclient 0.11.0, ipywidgets 8.1.9, anywidget 0.11.0: bytes that a widget's trait held once stay in the saved notebook
# after the trait was set to something else.
#
# Why one would guess otherwise: the saved widget state is a snapshot of the last values.
# What is seen: a Bytes-or-None trait is set to a marker and then to None; the saved state says null and still has the
# buffer with the marker, base64 encoded.
# What follows: what must not be kept (an answer that was withdrawn, a picture) must not travel as a trait's bytes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 ipywidgets==8.1.9 anywidget==0.11.0 nbformat==5.11.1
cat > probe.py <<'PY'
import base64
import nbclient
from nbformat.v4 import new_code_cell, new_notebook

book = new_notebook(cells=[
    new_code_cell(
        "import anywidget, traitlets\n"
        "class Holder(anywidget.AnyWidget):\n"
        "    _esm = 'export default {render(){}}'\n"
        "    held = traitlets.Any(None).tag(sync=True)\n"
        "holder = Holder(held=b'MARKER-BYTES')\nholder"),
    new_code_cell("holder.held = None"),
])
nbclient.NotebookClient(book, kernel_name="python3", store_widget_state=True).execute()
states = book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
saved = next(s for s in states if s["model_name"] == "AnyModel")
buffers = [base64.b64decode(b["data"]) for b in saved.get("buffers", [])]
print("trait in the saved state:", saved["state"].get("held"), "| buffers:", buffers)
assert saved["state"].get("held") is None and b"MARKER-BYTES" in buffers, "the behaviour changed"
PY
env/bin/python probe.py 2>/dev/null
