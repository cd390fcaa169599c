"""How far a map is: a fold over the rows that begin and end, and the frozen snapshot that is drawn."""

from __future__ import annotations

import heapq
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

RowStatus: TypeAlias = Literal["done", "failed", "waiting"]

BIN_EDGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
"""Seconds. A row that took as long as an edge stands in the bin above it."""

WINDOW = 60.0
"""Seconds of wall time that the rate looks back: servers count by the minute, so no shorter one is typical."""
SLOWEST = 10
KINDS = 20
"""Kinds of errors that are told apart; what comes after them is counted together."""
OTHER_KINDS = "other errors"

_BUCKET = 0.5
_LABEL = 80
_ENOUGH_ROWS = 10
_ENOUGH_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowRow:
    """A row that took longer than most. `ordinal` is its place in the table, from 0."""

    ordinal: int
    label: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStanding:
    """A batch at a provider, as that one told last. `answered` is None where it does not say it before the end.

    `created` is in unix seconds; `failed` are those of the answered ones that were answered with an error.
    """

    id: str
    provider: str
    status: str
    rows: int
    answered: int | None
    failed: int
    created: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A map at one moment.

    `done` rows have an answer: `live` ones were asked now, `replayed` ones came from the record. A row that failed or
    waits for a person is not done. `rate` is live rows per second of wall time, lately; `eta` the seconds that the rows
    left take at that rate. Both are None while too little is known. `spent` and `tokens` are what live rows took,
    `saved` and `saved_tokens` what the replayed ones once did; `expected` is what the whole map will have cost, with
    what was spent so far; `unpriced` live rows have no known price. `server_wait` is the sum of the seconds that
    requests waited for their turn at the server. `estimated`: tokens are estimates because the server reports none.
    `reason`: why the map ended early. `batches` are waited for at their providers.
    """

    total: int | None
    live: int = 0
    replayed: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    waiting: int = 0
    in_flight: int = 0
    workers: int = 0
    seconds: float = 0.0
    rate: float | None = None
    eta: float | None = None
    spent: float = 0.0
    saved: float = 0.0
    saved_tokens: int = 0
    expected: float | None = None
    unpriced: int = 0
    tokens: int = 0
    server_wait: float = 0.0
    slowest: tuple[SlowRow, ...] = ()
    histogram: tuple[int, ...] = (0,) * (len(BIN_EDGES) + 1)
    estimated: bool = False
    finished: bool = False
    reason: str = ""
    batches: tuple[BatchStanding, ...] = ()

    @property
    def done(self) -> int:
        return self.live + self.replayed

    @property
    def failed(self) -> int:
        return sum(count for _, count in self.failures)

    @property
    def ended(self) -> int:
        """Rows that need nothing more in this map: done or failed."""
        return self.done + self.failed

    @property
    def left(self) -> int | None:
        """Rows that are under way or not begun; None where nobody knows how many rows there are."""
        return None if self.total is None else max(0, self.total - self.ended - self.waiting)


class Progress:
    """Folds what happens to rows, in constant time and space for each."""

    def __init__(self, total: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._workers = 0
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._reason = ""
        self._in_flight: set[int] = set()
        self._waiting: set[int] = set()
        self._live = 0
        self._replayed = 0
        self._failures: Counter[str] = Counter()
        self._asked = 0
        self._first: float | None = None
        self._window: deque[tuple[float, int]] = deque()
        self._recent = 0
        self._spent = 0.0
        self._priced = 0
        self._unpriced = 0
        self._saved = 0.0
        self._saved_tokens = 0
        self._tokens = 0
        self._server_wait = 0.0
        self._estimated = False
        self._slowest: list[tuple[float, int, str]] = []
        self._histogram = [0] * (len(BIN_EDGES) + 1)
        self._batches: dict[str, BatchStanding] = {}

    def begin(self, ordinal: int) -> None:
        self._waiting.discard(ordinal)
        self._in_flight.add(ordinal)
        if self._first is None:
            self._first = self._clock()

    def abandon(self, ordinal: int) -> None:
        """Take back that a row began: it was stopped, and is as if it had not been reached."""
        self._in_flight.discard(ordinal)

    def end(
        self,
        ordinal: int,
        *,
        status: RowStatus,
        replayed: bool = False,
        error_kind: str = "",
        cost: float | None = None,
        tokens: int = 0,
        seconds: float = 0.0,
        label: str = "",
        estimated: bool = False,
    ) -> None:
        """Count a row that ended, or waits for a person.

        `cost`, `tokens` and `seconds` are what it took since it began, when it was live; `cost` None: no known price.
        """
        self._in_flight.discard(ordinal)
        self._waiting.discard(ordinal)
        self._estimated = self._estimated or estimated
        match status:
            case "waiting":
                self._waiting.add(ordinal)
            case "failed":
                known = error_kind in self._failures or len(self._failures) < KINDS
                self._failures[(error_kind or "error") if known else OTHER_KINDS] += 1
            case "done" if replayed:
                self._replayed += 1
            case "done":
                self._live += 1
        if replayed:
            self._saved += cost or 0.0
            self._saved_tokens += tokens
            return
        self._pay(cost, tokens)
        if status != "waiting":
            self._measure(ordinal, seconds, label)

    def _pay(self, cost: float | None, tokens: int) -> None:
        self._tokens += tokens
        if cost is None:
            self._unpriced += 1
        else:
            self._priced += 1
            self._spent += cost

    def _measure(self, ordinal: int, seconds: float, label: str) -> None:
        """A live row: it counts for the rate, the histogram and the slowest."""
        now = self._clock()
        self._asked += 1
        self._recent += 1
        if self._window and now - self._window[-1][0] < _BUCKET:
            self._window[-1] = (self._window[-1][0], self._window[-1][1] + 1)
        else:
            self._window.append((now, 1))
        self._forget(now)
        self._histogram[bisect_right(BIN_EDGES, seconds)] += 1
        slow = (seconds, -ordinal, label[:_LABEL])
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, slow)
        else:
            heapq.heappushpop(self._slowest, slow)

    def _forget(self, now: float) -> None:
        while self._window and self._window[0][0] <= now - WINDOW:
            self._recent -= self._window.popleft()[1]

    def replay_many(self, count: int, cost: float = 0.0, tokens: int = 0) -> None:
        """Count rows that were answered from the record together, and what they once took."""
        self._replayed += count
        self._saved += cost
        self._saved_tokens += tokens

    def set_workers(self, workers: int) -> None:
        self._workers = workers

    def set_batch(self, standing: BatchStanding) -> None:
        """Note what a provider says of a batch."""
        self._batches[standing.id] = standing

    def drop_batch(self, id: str) -> None:
        """A batch is not waited for any more."""
        self._batches.pop(id, None)

    def add_server_wait(self, seconds: float) -> None:
        """Count seconds that a request waited for its turn at the server."""
        self._server_wait += seconds

    def finish(self, reason: str = "") -> None:
        """Stop the clock. `reason` says why before the last row; empty when nothing is left."""
        if self._ended is None:
            self._ended = self._clock()
        self._reason = reason

    def snapshot(self) -> Snapshot:
        now = self._clock() if self._ended is None else self._ended
        self._forget(now)
        failed = self._failures.total()
        left = None if self.total is None else self.total - self._live - self._replayed - failed - len(self._waiting)
        rate = self._rate(now)
        running = self._ended is None
        return Snapshot(
            total=self.total,
            live=self._live,
            replayed=self._replayed,
            failures=tuple(self._failures.most_common()),
            waiting=len(self._waiting),
            in_flight=len(self._in_flight),
            workers=self._workers,
            seconds=now - self._began,
            rate=rate,
            eta=left / rate if rate and left is not None and running else None,
            spent=self._spent,
            saved=self._saved,
            saved_tokens=self._saved_tokens,
            expected=self._expected(left) if running else None,
            unpriced=self._unpriced,
            tokens=self._tokens,
            batches=tuple(self._batches.values()),
            server_wait=self._server_wait,
            slowest=tuple(
                SlowRow(ordinal=-place, label=label, seconds=seconds)
                for seconds, place, label in sorted(self._slowest, reverse=True)
            ),
            histogram=tuple(self._histogram),
            estimated=self._estimated,
            finished=not running,
            reason=self._reason,
        )

    def _rate(self, now: float) -> float | None:
        """Live rows per second of the last minute; over the whole time once the map has ended."""
        if self._first is None or self._asked < min(_ENOUGH_ROWS, self.total or _ENOUGH_ROWS):
            return None
        if self._ended is not None:
            return self._asked / max(now - self._first, 0.001)
        span = min(WINDOW, now - self._first)
        return self._recent / span if self._recent and span >= _ENOUGH_SECONDS else None

    def _expected(self, left: int | None) -> float | None:
        """What was spent, and for each row left as much as a priced row took on average."""
        if left is None or self._priced < min(_ENOUGH_ROWS, self.total or _ENOUGH_ROWS):
            return None
        return self._spent + max(0, left) * self._spent / self._priced


class Pulse:
    """When it is time to draw again: at most so many times a second."""

    def __init__(self, per_second: float = 4.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 1.0 / per_second
        self._clock = clock
        self._last = float("-inf")

    def is_due(self) -> bool:
        """Return whether to draw now; if so the next time is a whole pause later."""
        now = self._clock()
        if now - self._last < self._gap:
            return False
        self._last = now
        return True
