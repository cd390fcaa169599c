#!/usr/bin/env bash
# pandas 3.1.1: `DataFrame.to_csv` writes one datetime in two forms in one file. It writes chunks of 100,000 cells, and
# leaves the time out in a chunk whose dates are all at midnight; `pandas.to_datetime` then refuses the file's column.
#
# Why one would guess otherwise: a column has one dtype, and `print(frame)` decides for the column as a whole. Every test
# with fewer than 100,000 cells is one chunk, so that only large files are written so.
# What is seen: the forms of one value in a file of 120,001 rows, of the same rows in one chunk, and what reads them again.
# What follows: give `date_format=`, or write texts, wherever a frame of unknown length becomes CSV.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pandas==3.1.1
cat > probe.py <<'PY'
import io
import pandas

midnight, noon = pandas.Timestamp("2026-01-02"), pandas.Timestamp("2026-01-02 12:00")
frame = pandas.DataFrame({"when": [midnight] * 120_000 + [noon]})
forms = {}
for name, options in {"as it comes": {}, "one chunk": {"chunksize": len(frame)}}.items():
    text = frame.to_csv(index=False, **options)
    forms[name] = sorted(set(text.splitlines()[1:-1]))
    try:
        read = str(pandas.to_datetime(pandas.read_csv(io.StringIO(text))["when"]).dtype)
    except ValueError as error:
        read = str(error).partition("\n")[0]
    print(f"{name}: midnight is written {forms[name]}; read again: {read}")
assert forms == {
    "as it comes": ["2026-01-02", "2026-01-02 00:00:00"],
    "one chunk": ["2026-01-02 00:00:00"],
}, forms
PY
env/bin/python probe.py
