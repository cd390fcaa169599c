#!/usr/bin/env bash
# papermill 2.7.0: in a notebook with two cells tagged `parameters` the values are injected after the first one, so the
# second cell's default wins over the value that was given on the command line; nothing is said.
#
# Why one would guess otherwise: a given parameter overrides a default, and an ambiguous tag would be refused.
# What is seen: `x=99` is given, the notebook prints the default of the second cell.
# What follows: whoever runs such a notebook on a schedule gets the default with a green exit.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install papermill==2.7.0 ipykernel==7.4.0 nbformat==5.11.1
cat > probe.py <<'PY'
import nbformat, papermill
from nbformat.v4 import new_code_cell, new_notebook

tagged = {"tags": ["parameters"]}
book = new_notebook(
    cells=[new_code_cell("x = 1", metadata=tagged), new_code_cell("x = 2", metadata=tagged), new_code_cell("print(x)")],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
nbformat.write(book, "in.ipynb")
out = papermill.execute_notebook("in.ipynb", "out.ipynb", parameters={"x": 99}, progress_bar=False)
kinds = [c.metadata.get("tags", []) for c in out.cells]
print("cells:", kinds, "| printed:", out.cells[-1].outputs[0].text.strip())
assert kinds[:3] == [["parameters"], ["injected-parameters"], ["parameters"]], "the place changed"
assert out.cells[-1].outputs[0].text.strip() == "2", "the value changed"
PY
env/bin/python probe.py 2>/dev/null
