"""What may be mapped over."""

from __future__ import annotations

from pathlib import Path

import pandas

from agentkit.map.rows import open_table


def test_a_frame_and_its_files_are_the_same_rows(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"name": ["Lamp", "Chair", ""], "price": ["1", "2", "3"]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    tables = [open_table(frame), *(open_table(tmp_path / f"a.{end}") for end in ("parquet", "csv", "csv.gz", "jsonl"))]
    for table in tables:
        assert (table.columns, table.length) == (("name", "price"), 3)
        pieces = list(table.pieces(size=2))
        assert [piece.start for piece in pieces] == [0, 2]
        assert [piece.row(place) for piece in pieces for place in range(len(piece))] == frame.to_dict("records")
