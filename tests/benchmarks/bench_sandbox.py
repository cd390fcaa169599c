"""The sandbox: a program cold and warm, what one host call costs, a table handed in and out, beside a bare Python.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_sandbox.py`.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import agentkit
from agentkit.runtime.session import current
from tests.benchmarks.figures import Figure, Samples, bare_syncs, keep

pytestmark = pytest.mark.timeout(900)

ROUNDS = 9
CALLS = 200
COLD = """
import asyncio, datetime, time
from agentkit.sandbox.monty.driver import Program, Clock, run
world = Clock(now=datetime.datetime.now(datetime.UTC))
async def nobody(call): ...
started = time.perf_counter()
asyncio.run(run(Program(source="1 + 1"), world=world, call=nobody))
print(time.perf_counter() - started)
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Path]:
    with agentkit.session("bench", folder=tmp_path):
        yield tmp_path


@agentkit.tool(effects="none")
def look(n: int) -> int:
    """Look at something."""
    return n


def test_a_program_cold_and_warm(benchmark: BenchmarkFixture, opened: Path) -> None:
    samples, sources = Samples(), iter(f"1 + {n}" for n in range(1000))

    def one_round() -> None:
        samples.add("cold", _printed(sys.executable, "-c", COLD))
        with samples.time("python -c"):
            subprocess.run([sys.executable, "-I", "-c", "1 + 1"], check=True)
        source = next(sources)
        with samples.time("exec"):
            exec(compile(source, "cell", "exec"), {})
        samples.add("warm", _seconds(source))
        samples.add("replayed", _seconds(source))

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    python = samples.median("python -c")
    keep(
        benchmark,
        Figure(what="sandbox: first program", ours=samples.median("cold"), beside="python -c", other=python, unit="ms"),
        Figure(what="sandbox: a program", ours=samples.median("warm"), beside="python -c", other=python, unit="ms"),
        Figure(
            what="sandbox: a program, replayed", ours=samples.median("replayed"),
            beside="bare exec", other=samples.median("exec"), unit="ms",
        ),
    )  # fmt: skip


def test_one_host_call(benchmark: BenchmarkFixture, opened: Path) -> None:
    samples, numbers = Samples(), iter(range(1000))
    program = f"for n in range({CALLS}): look(n + {{}} * 1_000_000)\n{{}}"

    def one_round() -> None:
        number = next(numbers)
        samples.add("two fdatasyncs", two_syncs())
        samples.add("live", (_seconds(program.format(number, "'live'"), calls=[look]) - _empty()) / CALLS)
        # Another program that makes the same calls: they replay, the program itself does not.
        samples.add("replayed", (_seconds(program.format(number, "'again'"), calls=[look]) - _empty()) / CALLS)

    with bare_syncs(opened) as two_syncs:
        benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    keep(
        benchmark,
        Figure(
            what="sandbox: a host call, live", ours=samples.median("live"),
            beside="two fdatasyncs", other=samples.median("two fdatasyncs"), unit="us",
        ),
        Figure(
            what="sandbox: a host call, replayed", ours=samples.median("replayed"),
            beside="the same, live", other=samples.median("live"), unit="us",
        ),
    )  # fmt: skip


def test_ten_thousand_rows_in_and_out(benchmark: BenchmarkFixture, opened: Path) -> None:
    samples, numbers = Samples(), iter(range(1000))
    rows = pandas.DataFrame({"n": range(10_000), "x": 0.5, "name": "abc", "day": pandas.Timestamp("2026-01-02")})

    def one_round() -> None:
        number = next(numbers)
        samples.add("in", _seconds(f"len(rows) + {number}", inputs={"rows": rows}))
        samples.add("in and out", _seconds(f"out = rows; {number}", inputs={"rows": rows}, outputs=("out",)))
        with samples.time("to_json"):
            pandas.read_json(_file(rows), orient="records")

    benchmark.pedantic(one_round, rounds=5, iterations=1, warmup_rounds=1)
    other = samples.median("to_json")
    beside = "to_json and read_json"
    keep(
        benchmark,
        Figure(what="sandbox: 10k rows in", ours=samples.median("in"), beside=beside, other=other, unit="ms"),
        Figure(
            what="sandbox: 10k rows in and out",
            ours=samples.median("in and out"),
            beside=beside,
            other=other,
            unit="ms",
        ),
    )


def _file(rows: pandas.DataFrame) -> Any:
    return io.StringIO(rows.to_json(orient="records", date_format="iso"))


def _empty() -> float:
    return _seconds(f"'{time.perf_counter_ns()}'")


def _seconds(source: str, **options: Any) -> float:
    """As a cell of its own: equal calls are counted from 0 again."""
    session = current()
    assert session is not None
    session.start_cell()

    async def measured() -> float:
        started = time.perf_counter()
        await agentkit.sandbox(source, limits=f"calls={CALLS},time=60s,memory=1GB", **options)
        return time.perf_counter() - started

    return asyncio.run(measured())


def _printed(*command: str) -> float:
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
