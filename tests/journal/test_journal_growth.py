"""What the journal costs as it grows, and per step; the figures are printed with `pytest -s`."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentkit.journal.store import Store
from agentkit.journal.transactions import Writing, begin, finish
from tests.journal.journaling import chain, intent, outcome, record

pytestmark = pytest.mark.alone

BODY = os.urandom(1000).hex().encode()
"""2 KB, as the JSON of a model response."""

_FILLER = """
INSERT INTO step (key, n, gen, slot, kind, name, effects, status, parts, sum, agent, run, ord, attempt, owner, started,
                  request, result)
SELECT randomblob(32), 0, 1, randomblob(32), 'model', 'model', 'none', 'done', '{}', randomblob(32), 'filler',
       'run ' || (value / 10), value, 1, '1-a', 0.0, 'request', 'result'
FROM (WITH RECURSIVE count (value) AS (SELECT ?1 UNION ALL SELECT value + 1 FROM count WHERE value < ?2 - 1)
      SELECT value FROM count)
"""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def grown(store: Store, *, real: int, every: int) -> None:
    """Add `real` steps, each followed by `every - 1` that only fill the file, bodies of 2 KB and all."""
    for first in range(0, real, 100):

        def work(to: Writing, first: int = first) -> None:
            for number in range(first, first + 100):
                claim = begin(to, intent(str(number), run=f"real {number // 10}", ord=number))
                finish(to, outcome(claim, BODY))
                if every > 1:
                    last = claim.row.id
                    to.connection.execute(_FILLER, (last, last + every - 1))
                    added = "SELECT id, randomblob(2000), NULL FROM step WHERE id > ?"
                    to.connection.execute(f"INSERT INTO body (step, body, shown) {added}", (last,))

        store._tell(work).result()


def find_times(store: Store, count: int) -> list[float]:
    keys = [intent(str(number)).key for number in range(count)]
    for key in keys:
        assert store.find(key, 0) is not None
    return [seconds(lambda key=key: store.find(key, 0)) for key in keys]  # type: ignore[misc]


def test_a_step_is_found_as_fast_among_100_000_as_among_1_000(tmp_path: Path) -> None:
    with Store.open(tmp_path / "small" / "journal.db") as small, Store.open(tmp_path / "large" / "journal.db") as large:
        grown(small, real=1000, every=1)
        grown(large, real=1000, every=100)
        assert large._ask(lambda source: source.connection.execute("SELECT count(*) FROM step").fetchone()) == (
            100_000,
        )
        # Side by side, so that whatever else the machine does meets both.
        pairs = [(find_times(small, 1000), find_times(large, 1000)) for _ in range(5)]
        few = min(statistics.median(each) for each, _ in pairs)
        many = min(statistics.median(each) for _, each in pairs)
        print(f"find() among 1,000: {few * 1e6:.1f} us; among 100,000: {many * 1e6:.1f} us")
        assert many < 1.5 * few
        assert seconds(lambda: Store.open(large.path).close()) < 0.25


def store_steps(store: Store, numbers: Sequence[int]) -> None:
    def work(to: Writing) -> None:
        for number in numbers:
            finish(to, outcome(begin(to, intent(str(number), slot=os.urandom(32), ord=number)), BODY, result=""))

    store._tell(work).result()


def test_a_step_of_2_kb_takes_little_more_than_that_on_disk(tmp_path: Path) -> None:
    path = tmp_path / ".agentkit" / "journal.db"
    with Store.open(path) as store:
        store_steps(store, range(500))
    before = path.stat().st_size
    with Store.open(path) as store:
        store_steps(store, range(500, 1500))
    per_step = (path.stat().st_size - before) / 1000
    print(f"bytes on disk per step of {len(BODY)} bytes: {per_step:.0f}")
    assert per_step < len(BODY) + 700


def test_the_disk_grows_with_what_was_said_and_not_with_the_history(tmp_path: Path) -> None:
    path = tmp_path / ".agentkit" / "journal.db"
    nodes = chain(*(f"{number} {BODY.decode()}" for number in range(600)))
    sizes = []
    for part in (nodes[:200], nodes[200:400], nodes[400:]):
        with Store.open(path) as store:
            for node in part:
                record(store, node.digest.hex(), history=node.digest, nodes=(node,), ord=nodes.index(node))
        sizes.append(path.stat().st_size)
    assert sizes[2] - sizes[1] < 1.1 * (sizes[1] - sizes[0])


def test_an_intent_and_a_result_cost_little_more_than_their_two_syncs(tmp_path: Path) -> None:
    bare, steps = [], []

    async def step(number: int) -> None:
        claim = await asyncio.wrap_future(store.begin(intent(str(number), slot=os.urandom(32), ord=number)))
        await asyncio.wrap_future(store.finish(outcome(claim, BODY)))

    async def measure() -> None:
        for number in range(500):
            bare.append(seconds(two_syncs))
            started = time.perf_counter()
            await step(number)
            steps.append(time.perf_counter() - started)

    def two_syncs() -> None:
        for _ in range(2):
            os.write(file, BODY)
            os.fdatasync(file)

    file = os.open(tmp_path / "bare", os.O_CREAT | os.O_WRONLY)
    with Store.open(tmp_path / ".agentkit" / "journal.db") as store:
        asyncio.run(measure())
    os.close(file)
    least, cost = statistics.median(bare), statistics.median(steps)
    print(f"intent and result: {cost * 1e6:.0f} us, two bare syncs: {least * 1e6:.0f} us, ratio {cost / least:.2f}")
    # A millisecond of slack: where syncs cost nothing, on a disk in memory, the threads are what is left.
    assert cost < 4 * least + 1e-3


def test_the_log_beside_the_file_is_begun_anew_before_it_has_grown(tmp_path: Path) -> None:
    """Blocks that are there already are synced sooner than new ones."""
    path = tmp_path / ".agentkit" / "journal.db"
    with Store.open(path) as store:
        sizes = []
        for number in range(150):
            record(store, str(number), BODY, ord=number)
            sizes.append(path.with_name("journal.db-wal").stat().st_size)
    assert sizes[-1] == sizes[75] < 6 * 2**20, sizes[::25]
