"""An agent over a table: what a row costs beside bare pydantic-ai, and what a finished and a half-finished map cost.

Run it with `python -m tests.benchmarks -k map`; MAP_ROWS says how large the finished table is (250,000 unless said).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage
from pytest_benchmark.fixture import BenchmarkFixture

import agentkit
from tests.benchmarks.figures import Figure, keep

pytestmark = pytest.mark.timeout(3_600)

LIVE = 1_000
ROWS = int(os.environ.get("MAP_ROWS", "250000"))
WORKERS = 20
PROMPT = "Tell of {{ row.name }}"
_USAGE = RequestUsage(input_tokens=40, output_tokens=10)


def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart(f"fine: {str(messages[-1].parts[-1])[:40]}")], usage=_USAGE)


def call(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("double", {"n": 3})], usage=_USAGE)
    return ModelResponse(parts=[TextPart("done")], usage=_USAGE)


def double(n: int) -> int:
    return 2 * n


def table(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"name": [f"product {n}, one of many that a shop would like to know more of" for n in range(rows)]}
    )


def agent(model: Callable[..., Any], tools: Sequence[Any] = ()) -> Agent[None, str]:
    return Agent(FunctionModel(model), name="shop", tools=tools, instructions="You answer.")


def processor_seconds(work: Callable[[], Awaitable[object]]) -> float:
    before = time.process_time()
    asyncio.run(work())  # type: ignore[arg-type]
    return time.process_time() - before


async def bare(asked: Agent[None, str], rows: int) -> None:
    bound = asyncio.Semaphore(WORKERS)

    async def one(name: str) -> str:
        async with bound:
            return (await asked.run(f"Tell of {name}")).output

    await asyncio.gather(*(one(name) for name in table(rows)["name"]))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_CALLER", "off")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("what", "model", "tools", "promised"),
    [("of one request", say, (), 0.6), ("with a tool call", call, (double,), 1.2)],
)
def test_a_live_row(
    benchmark: BenchmarkFixture, tmp_path: Path, what: str, model: Any, tools: Sequence[Any], promised: float
) -> None:
    taken: dict[str, list[float]] = {"bare": [], "map": []}
    numbers = iter(range(100))

    def one_round() -> None:
        taken["bare"].append(processor_seconds(lambda: bare(agent(model, tools), LIVE)))
        with agentkit.session(folder=tmp_path / str(next(numbers))):
            durable = agentkit.durable(agent(model, tools))
            taken["map"].append(processor_seconds(lambda: agentkit.map(durable, table(LIVE), PROMPT, workers=WORKERS)))

    benchmark.pedantic(one_round, rounds=3, iterations=1)
    journal = next((tmp_path / "0" / ".agentkit").glob("journal.db"))
    said = LIVE * (len(table(1)["name"][0]) + 60)
    keep(
        benchmark,
        Figure(
            what=f"live row {what}, processor time of {LIVE:,}",
            ours=min(taken["map"]), beside="bare pydantic-ai, gather", other=min(taken["bare"]), unit="s",
            at_most=promised,
        ),
        Figure(
            what=f"on disk for a row {what}",
            ours=journal.stat().st_size / LIVE, beside="what was said", other=said / LIVE, unit="bytes",
        ),
    )  # fmt: skip


_OF_A_KERNEL = """
import asyncio, resource, sys, time
import agentkit
from tests.benchmarks import bench_map as made
folder, rows = sys.argv[1], int(sys.argv[2])
frame = made.table(rows)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
first = []
def say(messages, info):
    first.append(time.perf_counter() - began)
    return made.say(messages, info)
with agentkit.session(folder=folder) as session:
    agent = agentkit.durable(made.agent(made.say if sys.argv[3] == "whole" else say))
    result = asyncio.run(agentkit.map(agent, frame, made.PROMPT, workers=made.WORKERS, limit=int(sys.argv[4])))
    assert set(result.frame["status"][: int(sys.argv[4])]) == {"done"}
took = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(took, first[0] if first else 0.0, (peak - before) * 1024, result.snapshot.live)
"""


def kernel(folder: Path, rows: int, *, kind: str, limit: int) -> tuple[float, float, float, int]:
    """In a new process: seconds to the frame, seconds to the first live request, bytes of memory, live rows."""
    done = subprocess.run(
        [sys.executable, "-c", _OF_A_KERNEL, str(folder), str(rows), kind, str(limit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    took, first, peak, live = map(float, done.stdout.split())
    return took, first, peak, int(live)


def test_a_finished_map(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Its rows are put on record as a live map would, which takes minutes; then new kernels ask for all of them."""
    half = ROWS // 2
    kernel(tmp_path, ROWS, kind="whole", limit=half)
    _, first, _, _ = kernel(tmp_path, ROWS, kind="first", limit=half + 1)
    kernel(tmp_path, ROWS, kind="whole", limit=ROWS)
    found: list[tuple[float, float, float, int]] = []
    benchmark.pedantic(lambda: found.append(kernel(tmp_path, ROWS, kind="whole", limit=ROWS)), rounds=2, iterations=1)
    assert [live for *_, live in found] == [0, 0]
    walked = walk(tmp_path)
    took = min(seconds for seconds, *_ in found)
    keep(
        benchmark,
        Figure(
            what=f"finished map of {ROWS:,} rows, new kernel, to its frame",
            ours=took, beside="walking its rows", other=walked * ROWS, unit="s", at_most=1 / 500,
        ),
        Figure(
            what=f"half of {ROWS:,} rows done, new kernel, to the first live request",
            ours=first, beside="3 s", other=3.0, unit="s", at_most=1.0,
        ),
        Figure(
            what=f"memory of {ROWS:,} rows on record", ours=min(peak for _, _, peak, _ in found),
            beside="150 MB", other=150e6, unit="bytes", at_most=1.0,
        ),
    )  # fmt: skip


def walk(folder: Path) -> float:
    """Seconds for one row that is replayed step by step."""
    names = table(200)["name"]
    with agentkit.session(folder=folder):
        durable = agentkit.durable(agent(say))
        began = time.perf_counter()
        for name in names:
            asyncio.run(durable.run(f"Tell of {name}"))
        return (time.perf_counter() - began) / len(names)
