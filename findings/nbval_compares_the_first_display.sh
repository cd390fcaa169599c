#!/usr/bin/env bash
# nbval 0.11.0: a display that was updated is compared by its first value with the last one that is stored, so a
# notebook that nbclient has just executed and saved fails its own check.
#
# Why one would guess otherwise: nbclient and JupyterLab both save the last value, and nbval runs the same cells.
# What is seen: strict nbval fails on the very file nbclient wrote; the same notebook without the update passes.
# What follows: a progress or trace panel must be drawn once, at the end, where nobody watches.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 nbval==0.11.0 nbformat==5.11.1 pytest==9.0.1
cat > probe.py <<'PY'
import nbclient, nbformat
from nbformat.v4 import new_code_cell, new_notebook

for name, more in (("updated", "handle.update('second')"), ("once", "pass")):
    book = new_notebook(cells=[new_code_cell(f"handle = display('first', display_id=True)\n{more}")])
    nbclient.NotebookClient(book, kernel_name="python3").execute()
    nbformat.write(book, f"{name}.ipynb")
PY
env/bin/python probe.py
once=0; env/bin/python -m pytest -q -p no:cacheprovider --nbval once.ipynb >once.txt 2>&1 || once=$?
updated=0; env/bin/python -m pytest -q -p no:cacheprovider --nbval updated.ipynb >updated.txt 2>&1 || updated=$?
echo "displayed once: exit $once; updated: exit $updated"
grep -E "unhandled iopub|mismatch|'first'|'second'" updated.txt | head -6 || true
[ "$once" = 0 ] && [ "$updated" = 1 ] || { echo "the behaviour changed"; tail -5 once.txt updated.txt; exit 1; }
