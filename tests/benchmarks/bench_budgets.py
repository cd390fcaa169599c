"""What a budget takes of a step: reserving before it and committing after it, by scopes, limits and kernels.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_budgets.py`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentkit.budget.budget import USER, Amounts, BudgetScope, parse, place
from agentkit.budget.ledger import Hold, Ledger, Scope, Stand
from tests.benchmarks.figures import Figure, keep

pytestmark = pytest.mark.timeout(900)

PROMISE = 0.3e-3
"""Seconds at the median for reserving and committing one step on every scope above it."""
NEED = Amounts(usd=1_000, tokens=100, requests=1)
STEPS = 400
ROUNDS = 3

OTHER_KERNEL = """
import sys
from pathlib import Path
from tests.benchmarks.bench_budgets import *
book = Ledger(Path(sys.argv[1]))
ways = scopes(agent("other", 0))
print("ready", flush=True)
while True:
    pair(book, ways)
    time.sleep(0.005)
"""


def agent(notebook: str, number: int, *inner: str) -> BudgetScope:
    return place(project="/somewhere/sales", label=notebook, agents=(f"agent-{number}", *inner))


def scopes(node: BudgetScope) -> tuple[Scope, ...]:
    return tuple(Scope(node=one, run=Stand(id="run"), cell=Stand(id="cell")) for one in node.lineage())


def pair(book: Ledger, ways: tuple[Scope, ...]) -> float:
    """Seconds of one reservation and its commit, as a step waits for them: on the ledger's thread."""
    began = time.perf_counter()
    held = book.later(partial(book.reserve, ways, NEED)).result()
    assert isinstance(held, Hold)
    book.later(partial(book.commit, held, NEED)).result()
    return time.perf_counter() - began


def typical(book: Ledger, ways: tuple[Scope, ...]) -> float:
    return min(statistics.median(pair(book, ways) for _ in range(STEPS)) for _ in range(ROUNDS))


def filled(path: Path, nodes: int) -> Ledger:
    """A ledger with so many agents that have limits and have spent, below a limited user and notebook."""
    book = Ledger(path)
    book.set(USER, parse("1000usd/day, 100M tokens/month"))
    book.set(place(project="/somewhere/sales", label="report"), parse("500usd/day"))
    for number in range(nodes):
        node = agent("report", number)
        book.set(node, parse("100usd")) if number < 20 else None
        book.commit(Hold(id=0, scopes=scopes(node), amounts=NEED), NEED)
    return book


def test_reserve_and_commit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    few, many = filled(tmp_path / "few.db", 5), filled(tmp_path / "many.db", 2_000)
    ways = scopes(agent("report", 0, "helper"))
    benchmark.pedantic(partial(pair, few, ways), rounds=STEPS)
    alone, crowded = typical(few, ways), typical(many, ways)
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER_KERNEL, str(few.path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        for _ in range(2)
    ]
    try:
        for kernel in kernels:
            assert kernel.stdout is not None
            kernel.stdout.readline()
        together = typical(few, ways)
    finally:
        for kernel in kernels:
            kernel.kill()
            kernel.wait()
    keep(
        benchmark,
        Figure(what="reserve + commit, 5 scopes", ours=alone, beside="promised", other=PROMISE, unit="us", at_most=1),
        Figure(what="with 2,000 agents on record", ours=crowded, beside="with 5", other=alone, unit="us", at_most=1.5),
        Figure(what="with two other kernels at it", ours=together, beside="alone", other=alone, unit="us"),
    )
    assert alone <= PROMISE
    assert crowded <= 1.5 * alone
