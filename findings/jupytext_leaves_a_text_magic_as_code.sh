#!/usr/bin/env bash
# jupytext 1.19.6, py:percent: the body of a cell magic it does not know (`%%agent build`, plain text) is written as
# live Python, while that of a known one (`%%bash`) is commented out; the `.py` file is then no Python.
#
# Why one would guess otherwise: comment_magics is on for this format, and the first line shows that it is a magic.
# What is seen: `ast.parse` of the `.py` fails for the unknown magic and works for `%%bash`; the setting
# `custom_cell_magics` makes the unknown one behave too. The round trip back to a notebook keeps both cells.
# What follows: tools that read the paired `.py` (linters, importers, reviewers) stumble over prose.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install jupytext==1.19.6 nbformat==5.11.1
cat > probe.py <<'PY'
import ast
import jupytext
from nbformat.v4 import new_code_cell, new_notebook

def parses(magic, **metadata):
    book = new_notebook(cells=[new_code_cell(f"%%{magic} build helper\nYou answer questions about tides."), new_code_cell("x = 1")])
    book.metadata.update(metadata)
    text = jupytext.writes(book, fmt="py:percent")
    back = jupytext.reads(text, fmt="py:percent")
    assert [c.source for c in back.cells] == [c.source for c in book.cells], text
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True

unknown, known = parses("agent"), parses("bash")
told = parses("agent", jupytext={"custom_cell_magics": "agent"})
print("is Python: unknown magic", unknown, "| bash", known, "| unknown, named in custom_cell_magics", told)
assert (unknown, known, told) == (False, True, True), "the behaviour changed"
PY
env/bin/python probe.py
