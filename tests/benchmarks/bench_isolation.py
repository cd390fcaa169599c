"""What a process of its own costs: a declared tool and a program of the second tier beside `python -c`.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_isolation.py`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import agentkit
from agentkit.runtime.session import current
from agentkit.sandbox.process.isolate import call_isolated
from tests.benchmarks.figures import Figure, Samples, keep
from tests.cells import notebook

pytestmark = pytest.mark.timeout(300)

ROUNDS = 15
TOOLS = """
import agentkit

@agentkit.tool(effects="none", isolate=True)
def plain(x: int) -> int:
    return x + 1

@agentkit.tool(effects="none", memory="256MB", timeout="20s", network=False)
def limited(x: int) -> int:
    return x + 1
"""
PANDAS = "import pandas as pd\nout = int(pd.Series([1, 2]).sum())"


@pytest.fixture
def cells() -> Iterator[Any]:
    with notebook(TOOLS) as names:
        yield names


def test_a_call_in_a_process_of_its_own(benchmark: BenchmarkFixture, cells: Any) -> None:
    samples = Samples()

    def one_round() -> None:
        for name, function in (("plain", cells.plain), ("limited", cells.limited)):
            with samples.time(name):
                assert asyncio.run(call_isolated(function, {"x": 1})) == 2
        with samples.time("python -c"):
            subprocess.run([sys.executable, "-c", "print(1 + 1)"], check=True, capture_output=True)

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1, warmup_rounds=2)
    python = samples.median("python -c")
    keep(
        benchmark,
        Figure(
            what="tool in a process of its own",
            ours=samples.median("plain"),
            beside="python -c",
            other=python,
            unit="ms",
        ),
        Figure(
            what="the same with memory, time and no network",
            ours=samples.median("limited"),
            beside="python -c",
            other=python,
            unit="ms",
        ),
    )
    assert samples.median("limited") < 1.0


def test_a_program_of_the_second_tier(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    rows = pd.DataFrame({"number": np.arange(10_000), "part": np.random.default_rng(0).random(10_000)})
    rows["text"] = rows.number.map(str)
    numbers = iter(range(10_000))

    async def cell(name: str, source: str, **options: Any) -> None:
        # Each is another program, so that none is replayed.
        source = f"{source}\n# {next(numbers)}"
        for kind in ("live", "replayed"):
            # Equal requests of one cell are several; the same cell again asks for the same.
            opened = current()
            assert opened is not None
            opened.start_cell(None)
            started = time.perf_counter()
            await agentkit.sandbox(source, tier="process", limits="memory=1GB", **options)
            samples.add(f"{name}, {kind}", time.perf_counter() - started)

    def one_round() -> None:
        for name, source, options in (
            ("bare", "out = 1 + 1", {}),
            ("pandas", PANDAS, {}),
            ("handed over", f"{PANDAS}\nback = rows.assign(more=1)", {"inputs": {"rows": rows}, "outputs": ["back"]}),
        ):
            asyncio.run(cell(name, source, **options))
        for name, source in (("python -c", "print(1 + 1)"), ("python -c, pandas", PANDAS)):
            with samples.time(name):
                subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)

    with agentkit.session("bench", folder=tmp_path):
        benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    keep(
        benchmark,
        *(
            Figure(what=what, ours=samples.median(ours), beside=beside, other=samples.median(other), unit="ms")
            for what, ours, beside, other in (
                ("second-tier program, live", "bare, live", "python -c", "python -c"),
                ("second-tier program, replayed", "bare, replayed", "live", "bare, live"),
                ("second-tier program with pandas", "pandas, live", "python -c with pandas", "python -c, pandas"),
                ("the same, 10,000 rows in and out", "handed over, live", "without", "pandas, live"),
                ("the same, replayed", "handed over, replayed", "live", "handed over, live"),
            )
        ),
    )
    assert samples.median("bare, replayed") < samples.median("bare, live")
