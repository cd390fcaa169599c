"""What may be mapped over: every source gives the same rows, and what is none is refused in one line."""

from __future__ import annotations

import datetime
import decimal
import enum
import gzip
import os
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentkit.errors import MissingExtra, UserError
from agentkit.map.rows import check_key, open_table
from agentkit.map.table import Table


def rows_of(table: Table, **options: Any) -> list[Any]:
    return [piece.row(place) for piece in table.pieces(**options) for place in range(len(piece))]


def labels_of(table: Table) -> list[Any]:
    return [label for piece in table.pieces(size=2) for label in piece.index]


RECORDS = [
    {"name": "Lamp", "stock": 3, "price": 9.5, "new": True},
    {"name": "Chair", "stock": 0, "price": "", "new": False},
    {"name": "", "stock": 12, "price": 0.1, "new": True},
]


class Model(BaseModel):
    name: str | None
    stock: int
    price: float | None
    new: bool


@dataclass
class Product:
    name: str
    stock: int
    price: float | None
    new: bool


Named = namedtuple("Named", ["name", "stock", "price", "new"])


def typed_frame() -> pandas.DataFrame:
    frame = pandas.DataFrame(RECORDS).replace({"": None})
    return frame.astype({"price": "float64", "name": "string", "new": "boolean", "stock": "int32"})


def cells(**columns: Any) -> list[Any]:
    return [None if cell == "" else cell for cell in columns.values()]


SOURCES: dict[str, Any] = {
    "frame": typed_frame,
    "frame of nullable dtypes": lambda: typed_frame().convert_dtypes(),
    "frame of objects": lambda: typed_frame().astype(object),
    "frame of Arrow's dtypes": lambda: typed_frame().convert_dtypes(dtype_backend="pyarrow"),
    "categories": lambda: typed_frame().astype("category"),
    "Arrow table": lambda: pyarrow.Table.from_pandas(typed_frame()),
    "Arrow reader": lambda: pyarrow.Table.from_pandas(typed_frame()).to_reader(max_chunksize=2),
    "Arrow batch": lambda: pyarrow.RecordBatch.from_pandas(typed_frame()),
    "polars frame": lambda: polars.from_arrow(pyarrow.Table.from_pandas(typed_frame())),
    "polars lazy frame": lambda: polars.from_arrow(pyarrow.Table.from_pandas(typed_frame())).lazy(),  # type: ignore[union-attr]
    "list of dicts": lambda: RECORDS,
    "generator": lambda: iter(RECORDS),
    "models": lambda: [Model(**dict(zip(row, cells(**row), strict=True))) for row in RECORDS],
    "dataclasses": lambda: [Product(*cells(**row)) for row in RECORDS],
    "named tuples": lambda: [Named(*cells(**row)) for row in RECORDS],
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_rows(source: str) -> None:
    table = open_table(SOURCES[source]())
    assert (table.columns, table.length) == (("name", "stock", "price", "new"), 3)
    for size in (1, 2, 4096):
        found = rows_of(table, size=size)
        assert found == RECORDS
        assert [[type(cell) for cell in row.values()] for row in found] == [
            [type(cell) for cell in row.values()] for row in RECORDS
        ]
    assert labels_of(table) == [0, 1, 2]


def test_files_are_read_in_pieces_and_csv_as_it_is_written(tmp_path: Path) -> None:
    typed_frame().to_parquet(tmp_path / "a.parquet", row_group_size=2)
    typed_frame().to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for name in ("a.parquet", "a.jsonl"):
        assert [rows_of(open_table(tmp_path / name), size=size) for size in (1, 2, 5)] == [RECORDS] * 3, name
    written = '\ufeffcode,country,"a, text"\r\n007,NA,"two\nlines ""quoted"""\r\n\r\n1e3,,\r\n08,NULL\r\n'
    (tmp_path / "a.csv").write_bytes(written.encode())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(written.encode()))
    for name in ("a.csv", "a.csv.gz"):
        assert rows_of(open_table(str(tmp_path / name)), size=2) == [
            {"code": "007", "country": "NA", "a, text": 'two\nlines "quoted"'},
            {"code": "1e3", "country": "", "a, text": ""},
            {"code": "08", "country": "NULL", "a, text": ""},
        ]


def test_a_cell_longer_than_the_readers_limit_is_read_and_the_limit_is_left_alone(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("page\n" + "x" * (before + 1) + "\nshort\n")
    assert [len(row["page"]) for row in rows_of(open_table(tmp_path / "a.csv"))] == [before + 1, 5]
    assert csv.field_size_limit() == before


class Colour(enum.Enum):
    RED = "red"


def test_cells_are_plain() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    given_cells: list[tuple[Any, Any]] = [
        (numpy.int16(4), 4),
        (numpy.float32(0.1), 0.1),
        (numpy.float64("nan"), ""),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.datetime64("NaT"), ""),
        (pandas.NaT, ""),
        (pandas.NA, ""),
        (None, ""),
        (float("nan"), ""),
        (float("inf"), float("inf")),
        (decimal.Decimal("NaN"), ""),
        (decimal.Decimal("1.10"), "1.10"),
        (pandas.Timestamp("2026-01-02 03:04:05.000000006"), "2026-01-02T03:04:05.000000006"),
        (pandas.Timestamp("2026-01-02", tz=zone), "2026-01-02T00:00:00+02:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(1, 2), "01:02:00"),
        (Colour.RED, "red"),
        (b"text", "text"),
        (b"\xff\x00", "[2 bytes; digest ea5dbf9596d1]"),
        ([1, None, numpy.float64(2.5)], [1, None, 2.5]),
        ({"when": datetime.date(2026, 1, 2)}, {"when": "2026-01-02"}),
        (numpy.array([1, 2]), [1, 2]),
        (Model(name="a", stock=1, price=None, new=True), {"name": "a", "stock": 1, "price": None, "new": True}),
    ]
    for cell, expected in given_cells:
        for rows in (pandas.DataFrame({"a": pandas.Series([cell], dtype=object)}), [{"a": cell}]):
            [row] = rows_of(open_table(rows))
            assert row["a"] == expected
            assert type(row["a"]) is type(expected)


def test_small_floats_and_dates_read_the_same_in_every_source(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "small": numpy.array([0.1, 1e-7], dtype="float32"),
            "day": pandas.to_datetime(["2026-01-02", None]),
            "zoned": pandas.to_datetime(["2026-01-02T12:00:00.5Z", None]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    arrow = pyarrow.Table.from_pandas(frame)
    expected = [
        {"small": 0.1, "day": "2026-01-02T00:00:00", "zoned": "2026-01-02T12:00:00.500000+00:00"},
        {"small": 1e-07, "day": "", "zoned": ""},
    ]
    for rows in (frame, arrow, polars.from_arrow(arrow), tmp_path / "a.parquet"):
        assert rows_of(open_table(rows), size=1) == expected, type(rows)


INDEXES: dict[str, tuple[Any, list[Any]]] = {
    "texts": (pandas.Index(["a", "b", "a"]), ["a", "b", "a"]),
    "several levels": (pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]), [("a", 1), ("a", 2), ("b", 1)]),
    "dates": (pandas.date_range("2026-01-01", periods=3), [f"2026-01-0{day}T00:00:00" for day in (1, 2, 3)]),
    "a range of steps": (pandas.RangeIndex(10, 16, 2, name="n"), [10, 12, 14]),
    "named": (pandas.Index([3, 1, 2], name="sku"), [3, 1, 2]),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_the_index_of_the_input_is_kept_in_a_parquet_file_too(kind: str, tmp_path: Path) -> None:
    index, expected = INDEXES[kind]
    frame = pandas.DataFrame({"x": [1, 2, 3]}, index=index)
    frame.to_parquet(tmp_path / "a.parquet")
    for rows in (frame, tmp_path / "a.parquet"):
        table = open_table(rows)
        assert table.columns == ("x",)
        assert labels_of(table) == expected
        assert list(table.index) == list(index)
        assert table.index.names == index.names


def test_plain_values_and_series() -> None:
    table = open_table(value for value in ["a", None, 3])
    assert (table.columns, table.length) == ((), 3)
    assert rows_of(table, size=2) == ["a", "", 3]
    assert rows_of(open_table(range(3))) == [0, 1, 2]
    assert rows_of(open_table(numpy.array([0.1, 2], dtype="float32"))) == [0.1, 2.0]
    series = open_table(pandas.Series(["a", "b"], name="text", index=[7, 8]))
    assert (series.columns, rows_of(series), labels_of(series)) == (("text",), [{"text": "a"}, {"text": "b"}], [7, 8])
    assert open_table(pandas.Series([1])).columns == ("value",)
    assert open_table(polars.Series("p", [1])).columns == ("p",)


def test_names_of_columns_are_texts() -> None:
    assert open_table(pandas.DataFrame([[1, 2]])).columns == ("0", "1")
    grouped = pandas.DataFrame({"a": [1, 1], "b": [2, 3]}).groupby("a").agg(["mean", "max"])
    assert open_table(grouped).columns == ("b_mean", "b_max")
    assert rows_of(open_table([{1: "x"}, {2: "y"}])) == [{"1": "x", "2": ""}, {"1": "", "2": "y"}]


def test_a_table_is_read_as_it_was_opened() -> None:
    frame = pandas.DataFrame({"a": [1, 2]})
    of_polars = polars.DataFrame({"a": [1, 2]})
    records = [{"a": 1}, {"a": 2}]
    tables = [open_table(rows) for rows in (frame, of_polars, records)]
    frame.loc[0, "a"] = 9
    frame["b"] = 1
    of_polars[0, "a"] = 9
    records.append({"a": 9})
    for table in tables:
        assert rows_of(table) == [{"a": 1}, {"a": 2}]


def test_only_the_pieces_with_wanted_rows_are_read(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": range(100), "b": range(100)})
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=10)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for rows in (frame, tmp_path / "a.parquet", tmp_path / "a.csv", tmp_path / "a.jsonl", frame.to_dict("records")):
        pieces = list(open_table(rows).pieces(size=10, only={25, 26, 71}, columns=["b"]))
        assert [piece.start for piece in pieces] == [20, 70]
        assert all(set(piece.columns) == {"b"} and len(piece) == 10 for piece in pieces)
        assert [int(cell) for cell in pieces[1].columns["b"]] == list(range(70, 80))
        assert list(open_table(rows).pieces(only=[])) == []
    # Of a damaged file what is not asked for is not read.
    size = (tmp_path / "a.parquet").stat().st_size
    with (tmp_path / "a.parquet").open("r+b") as file:
        file.seek(4)
        file.write(os.urandom(40))
    assert (tmp_path / "a.parquet").stat().st_size == size
    table = open_table(tmp_path / "a.parquet")
    assert [piece.start for piece in table.pieces(size=10, only=[71])] == [70]
    with pytest.raises(UserError, match="cannot be read as parquet"):
        list(table.pieces())


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_a_file_that_changed_is_not_read_on(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{end}"
    frame = pandas.DataFrame({"a": [1, 2]})

    def save(frame: pandas.DataFrame) -> None:
        if end == "parquet":
            frame.to_parquet(path)
        elif end == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)

    save(frame)
    table = open_table(path)
    assert len(rows_of(table)) == 2
    pieces = table.pieces(size=1)
    assert len(next(pieces)) == 1
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="has changed"):
        next(pieces)
    with pytest.raises(UserError, match=rf"rows: {path} has changed since it was opened: map over it again"):
        next(table.pieces())
    path.unlink()
    with pytest.raises(UserError, match="is no longer there"):
        table.check_unchanged()


def test_pyarrow_is_asked_for_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'jupyter-agentkit\[parquet\]'"):
        open_table(tmp_path / "a.parquet")
    assert len(rows_of(open_table(polars.DataFrame({"a": [1]})))) == 1


class Opaque:
    pass


class Foreign:
    """A frame of a library that is not known: iterating over one gives the names of its columns."""

    columns = ("a", "b")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


async def later() -> Any:
    yield 1


REFUSED: dict[str, tuple[Any, str]] = {
    "a text": ("hello", r"rows 'hello' ends in none of \.parquet, \.csv, \.csv\.gz, \.jsonl"),
    "no file": ("gone.csv", r"rows gone\.csv cannot be read: No such file or directory \(in "),
    "a dict": ({"a": [1]}, r"rows is a dict: give \[rows\] for one row, or pandas\.DataFrame\(rows\)"),
    "bytes": (b"a", "rows is bytes: give a table"),
    "a number": (3, "rows is a int: give a DataFrame"),
    "None": (None, "rows is a NoneType: give a DataFrame"),
    "a set": ({1, 2}, r"rows is a set, which has no order: give sorted\(rows\)"),
    "an asynchronous generator": (later(), "rows is asynchronous: list it first"),
    "a matrix": (numpy.zeros((2, 2)), r"rows is a numpy ndarray: make it a pandas\.DataFrame first"),
    "a frame of others": (Foreign(), r"rows is a .*Foreign: make it a pandas\.DataFrame first"),
    "empty list": ([], "rows has no rows: there is nothing to map"),
    "empty frame": (pandas.DataFrame({"a": []}), "rows has no rows"),
    "two columns of one name": (
        pandas.DataFrame([[1, 2]], columns=["a", "a"]),
        "rows has two columns of the name a: rename one of them",
    ),
    "1 and '1'": (pandas.DataFrame([[1, 2]], columns=[1, "1"]), "rows has two columns of the name 1"),
    "mixed rows": ([{"a": 1}, 2], "row 1 of rows is a int, and row 0 is a dict: make all rows mappings, or none"),
    "opaque rows": ([Opaque()], "a row of rows holds a Opaque, which has no text of its own: make it text"),
    "opaque cells": ([{"a": Opaque()}], "column a of rows holds a Opaque, which has no text of its own"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_refused_in_one_line(kind: str) -> None:
    rows, message = REFUSED[kind]
    with pytest.raises(UserError, match=f"^{message}") as refused:
        rows_of(open_table(rows))
    assert "\n" not in str(refused.value)


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "no UTF-8": ("a.csv", "a,b\n1,2\n3,Käse\n".encode("latin-1"), r"line 3 of .*a\.csv is not UTF-8 \(byte 0xe4\)"),
    "UTF-16": ("a.csv", "a,b\n1,2\n".encode("utf-16"), r"line 1 of .*a\.csv is not UTF-8"),
    "too many cells": ("a.csv", b"a,b\n1,2,3\n", "line 2 of .*a.csv has 3 cells, and the first line names 2 columns"),
    "an open quote": ("a.csv", b'a,b\n1,"2\n3,4\n', "line 3 of .*a.csv: unexpected end of data"),
    "semicolons": ("a.csv", b"a;b\n1;2\n", "the first line of .*a.csv has no comma: read it with pandas.read_csv"),
    "no line": ("a.csv", b"", "a.csv is empty: its first line must name the columns"),
    "a header only": ("a.csv", b"a,b\n", "rows has no rows"),
    "one name twice": ("a.csv", b"a,a\n1,2\n", "rows has two columns of the name a"),
    "half a gzip": ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99)[:20], "a.csv.gz cannot be read"),
    "no gzip": ("a.csv.gz", b"a,b\n1,2\n", "a.csv.gz cannot be read"),
    "no JSON": ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 of .*a.jsonl is not JSON"),
    "no object": ("a.jsonl", b"[1]\n", "line 1 of .*a.jsonl is no JSON object"),
    "no parquet": ("a.parquet", b"a,b\n1,2\n", "a.parquet cannot be read as parquet"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused_when_it_is_opened(kind: str, tmp_path: Path) -> None:
    name, content, message = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        open_table(tmp_path / name)
    assert "\n" not in str(refused.value)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match="is a folder: give one file"):
        open_table(tmp_path / "folder.parquet")


def test_a_key_tells_the_rows_apart() -> None:
    table = open_table([{"sku": sku, "id": place} for place, sku in enumerate("abacb")])
    check_key(table, "id")
    with pytest.raises(UserError, match=r"^key=skv: rows has no column skv \(did you mean sku\?\); it has sku, id$"):
        check_key(table, "skv")
    twice = (
        "key=sku: 2 values stand in more than one row: 'a' in rows 0, 2; 'b' in rows 1, 4; give another column, or none"
    )
    with pytest.raises(UserError, match=f"^{twice}$"):
        check_key(table, "sku")
    empty = open_table([{"k": "a"}, {"k": None}, {}])
    with pytest.raises(UserError, match=r"^key=k: 2 rows have no value \(the first is row 1\)"):
        check_key(empty, "k")
    with pytest.raises(UserError, match="it has no columns: its rows are values"):
        check_key(open_table([1, 2]), "k")


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text() | st.datetimes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": scalars, "b": scalars}), min_size=1, max_size=12), st.integers(1, 13))
def test_pieces_of_any_size_are_the_same_rows(records: list[dict[str, Any]], size: int) -> None:
    table = open_table(
        pandas.DataFrame({name: pandas.Series([r[name] for r in records], dtype=object) for name in "ab"})
    )
    whole = rows_of(table)
    assert len(whole) == len(records)
    assert rows_of(table, size=size) == whole == rows_of(open_table(records), size=size)
    assert not any(cell is None or cell != cell for row in whole for cell in row.values())


MEMORY = """
import re, sys, pyarrow, pyarrow.parquet, pandas
from pathlib import Path
from agentkit.map.rows import open_table

def peak():
    # Not ru_maxrss, which a new program takes over from the process that it was forked from.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

list(open_table(sys.argv[2]).pieces())
before = peak()
count = sum(len(piece) for piece in open_table(sys.argv[1]).pieces())
print(count, peak() - before)
"""


@pytest.mark.alone
@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_the_memory_of_a_large_file_is_that_of_its_pieces(end: str, tmp_path: Path) -> None:
    """The texts are 100 MB in all. The peak of the whole process is measured: Arrow's memory is not Python's."""
    rows, text = 250_000, "".join(map(str, range(200)))[:400]

    def save(path: Path, rows: int) -> None:
        if end == "parquet":
            # One row group, as pandas writes it.
            table = pyarrow.table({"id": range(rows), "text": [f"{n} {text}" for n in range(rows)]})
            parquet.write_table(table, path, row_group_size=rows)
            return
        line = '{{"id": {0}, "text": "{0} {1}"}}\n' if end == "jsonl" else "{0},{0} {1}\n"
        with path.open("w") as file:
            file.write("id,text\n" if end == "csv" else "")
            file.writelines(line.format(n, text) for n in range(rows))

    save(tmp_path / f"large.{end}", rows)
    save(tmp_path / f"small.{end}", 1_000)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path / f"large.{end}", tmp_path / f"small.{end}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    count, grown = map(int, ran.stdout.split())
    assert count == rows
    assert grown * 1024 < 60_000_000
