"""How long until something is there: `import agentkit`, `%load_ext agentkit`, the first panel of a fresh kernel.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_start.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.figures import Figure, Samples, keep
from tests.notebook.kernels import Kernel, kernel

pytestmark = pytest.mark.timeout(900)

ROUNDS = 7
IMPORT = "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"
LOAD = """
import time
started = time.perf_counter()
get_ipython().run_line_magic("load_ext", "agentkit")
print(time.perf_counter() - started)
"""
BUILD = "%%agent build echo\nYou repeat what was said."
ASK = "%%agent run echo\nhello"


def test_importing_the_package(benchmark: BenchmarkFixture) -> None:
    samples = Samples()

    def one_round() -> None:
        for name in ("agentkit", "json", "pydantic_ai"):
            samples.add(name, seconds_to_import(name))

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    keep(
        benchmark,
        Figure(
            what="import agentkit",
            ours=samples.median("agentkit"),
            beside="import pydantic_ai",
            other=samples.median("pydantic_ai"),
            unit="ms",
        ),
    )
    assert samples.median("agentkit") < 0.2 * samples.median("pydantic_ai")


def seconds_to_import(name: str) -> float:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(name)], capture_output=True, text=True, check=True, cwd=root
    )
    return float(done.stdout)


def test_from_a_kernel_s_start_to_the_first_panel(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    numbers = iter(range(ROUNDS + 1))

    def one_round() -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        started = time.perf_counter()
        with kernel(folder) as running:
            running.run("print(1)")
            samples.add("kernel", time.perf_counter() - started)
            loaded = running.run(LOAD)
            assert loaded.status == "ok"
            samples.add("%load_ext", float(loaded.text))
            samples.add("first panel", first_panel(running, started))
            again = time.perf_counter()
            samples.add("second panel", first_panel(running, again))

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    keep(
        benchmark,
        Figure(
            what="%load_ext agentkit",
            ours=samples.median("%load_ext"),
            beside="the 100 ms promised",
            other=0.1,
            unit="ms",
            at_most=1.0,
        ),
        Figure(
            what="from a kernel's start to its first panel (load, build, run offline)",
            ours=samples.median("first panel"),
            beside="to its first print()",
            other=samples.median("kernel"),
            unit="s",
        ),
        Figure(
            what="the same two cells again in that kernel (replayed), to the panel",
            ours=samples.median("second panel"),
            beside="the first time",
            other=samples.median("first panel"),
            unit="s",
        ),
    )
    assert samples.median("%load_ext") < 0.2 * samples.median("kernel")


def first_panel(running: Kernel, started: float) -> float:
    """Seconds from `started` until the cell that draws a panel is done."""
    built = running.run(BUILD)
    assert built.status == "ok", built.error
    asked = running.run(ASK)
    assert len(asked.panels) == 1, asked.error
    return time.perf_counter() - started
