"""Cases as tables: a file of `tests/cases`, one case a line, its columns named by the first line."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "cases"


def cases(name: str) -> list[dict[str, str]]:
    """Return the cases of `tests/cases/NAME.txt`, each value by its column; lines that begin with `#` say something."""
    lines = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    head, *rows = ([cell.strip() for cell in line.split("|")] for line in lines if line.strip() and line[0] != "#")
    return [dict(zip(head, row, strict=True)) for row in rows]


def named(case: dict[str, str]) -> str:
    """What a case is called in a report."""
    return " ".join(value for value in case.values() if value).replace(" ", "-")
