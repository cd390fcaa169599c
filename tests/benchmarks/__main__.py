"""`python -m tests.benchmarks`: every benchmark, and their figures as a table in Markdown.

Needs the extras `test` and `bench`. Further arguments go to pytest: `-k door` for some of them.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.figures import Figure, bare_syncs

FOLDER = Path(__file__).parent
HEAD = ("measured", "agentkit", "beside", "ratio", "promised")
LIBRARIES = ("pydantic-ai-slim", "dbos", "langgraph", "ipykernel")


def table(figures: list[Figure]) -> str:
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(figure) for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    beside = f"{figure.shown(figure.other)} {figure.beside}"
    return figure.what, figure.shown(figure.ours), beside, f"{figure.ratio:.2f}", figure.promise


def surroundings() -> str:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, bare_syncs(Path(folder)) as two_syncs:
        sync = statistics.median(two_syncs() for _ in range(50)) / 2
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {libraries}; "
        f"{platform.system()} {platform.machine()}; one fdatasync of 8 KB: {sync * 1e6:.0f} us."
    )


def figures_of(report: dict[str, Any]) -> list[Figure]:
    return [Figure(**figure) for each in report["benchmarks"] for figure in each["extra_info"].get("figures", ())]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = ["-q", "-o", "python_files=bench_*.py", f"--benchmark-json={file}", f"--basetemp={_scratch()}"]
        failed = pytest.main([str(FOLDER), *options, *sys.argv[1:]])
        if not file.exists() or not file.stat().st_size:
            return int(failed)
        print(f"\n{surroundings()}\n\n{table(figures_of(json.loads(file.read_text())))}")
    return int(failed)


def _scratch() -> Path:
    """On the disk this is started from: a sync in memory would cost nothing."""
    return Path.cwd() / ".benchmarks" / "scratch"


if __name__ == "__main__":
    raise SystemExit(main())
