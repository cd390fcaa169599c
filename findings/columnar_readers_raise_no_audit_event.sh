#!/usr/bin/env bash
# pandas 3.1.1, pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1: reading one CSV file raises an `open` audit event in
# pandas.read_csv only. The readers of polars and duckdb, and pandas.read_parquet, open their files without one.
#
# Why one would guess otherwise: `sys.addaudithook` is there to hear every file that a process opens, and one library hears
# and the next does not, even between two functions of pandas.
# What is seen: the audit events that name the file, for each of four readers.
# What follows: what a tool read cannot be known from audit events alone; those readers must be named.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1
cat > probe.py <<'PY'
import sys
import duckdb, pandas, polars

frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
frame.to_csv("data.csv", index=False)
frame.to_parquet("data.parquet")
heard = []
sys.addaudithook(lambda event, args: heard.append(event) if args and "data." in str(args[0]) else None)
readers = {
    "pandas.read_csv": lambda: pandas.read_csv("data.csv"),
    "pandas.read_parquet": lambda: pandas.read_parquet("data.parquet"),
    "polars.read_csv": lambda: polars.read_csv("data.csv"),
    "duckdb": lambda: duckdb.sql("SELECT * FROM 'data.csv'").fetchall(),
}
seen = {}
for name, read in readers.items():
    heard.clear()
    assert len(read()) == 2
    seen[name] = "open" in heard
print(seen)
assert seen == {"pandas.read_csv": True, "pandas.read_parquet": False, "polars.read_csv": False, "duckdb": False}, seen
PY
env/bin/python probe.py
