#!/usr/bin/env bash
# pandas 3.1.1: `series.array.tolist()` of a plain numpy column gives numpy scalars, `series.tolist()` Python's; its
# docstring promises "a Python scalar (for str, int, float, …)". `series.array` of a nullable column gives Python's, too.
#
# Why one would guess otherwise: the docstring, and `numpy.ndarray.tolist`, which is what the array wraps.
# What is seen: the types of one number by three ways, and json.dumps, which takes the one list and refuses the other.
# What follows: take `to_numpy().tolist()` or `series.tolist()`. Such a list is also slow: each cell is boxed on its own.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pandas==3.1.1
cat > probe.py <<'PY'
import json
import pandas

column = pandas.Series([1, 2])
kinds = {
    "series.tolist()": type(column.tolist()[0]).__name__,
    "series.array.tolist()": type(column.array.tolist()[0]).__name__,
    "nullable series.array.tolist()": type(column.astype("Int64").array.tolist()[0]).__name__,
}
print(kinds)
print("promised:", "Python scalar" in (pandas.api.extensions.ExtensionArray.tolist.__doc__ or ""))
try:
    json.dumps(column.array.tolist())
    refused = False
except TypeError as error:
    refused = True
    print("json.dumps:", error)
assert kinds == {
    "series.tolist()": "int",
    "series.array.tolist()": "int64",
    "nullable series.array.tolist()": "int",
}, kinds
assert refused
PY
env/bin/python probe.py
