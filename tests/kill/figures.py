"""What a number of kills did: the record, the client's log and the server's ledger held against each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agentkit.journal.records import Row
from agentkit.journal.store import Store
from tests.kill import workload
from tests.kill.wiretap import DIRECTLY
from tests.kill.workload import KEYED, REPEATABLE, STEP

Sort = Literal["kernel", "caller", "both"]
SORTS: tuple[Sort, ...] = ("kernel", "caller", "both")

_ON_ITS_WAY = 1.0
"""Seconds in which what a dead client had sent may still arrive."""


class Kill(NamedTuple):
    sort: Sort
    at: float


@dataclass(kw_only=True)
class Figures:
    """What a number of kills did.

    `answered_again` counts the model answers that the server had sent whole before, `read_and_paid_again` those of them
    whose last byte had been read by the client. `asked_again` and `paid_again` tell requests and whole answers apart by
    the sort of kill that lay between. `unlisted` are the steps that were asked more than once, answered or not, and are
    not listed as possibly paid twice. `cut` are the lives that ended in an error because their caller died in the
    middle of an answer that they were reading.
    """

    kills: int = 0
    killed: dict[Sort, int] = field(default_factory=lambda: dict.fromkeys(SORTS, 0))
    asked_again: dict[Sort, int] = field(default_factory=lambda: dict.fromkeys(SORTS, 0))
    paid_again: dict[Sort, int] = field(default_factory=lambda: dict.fromkeys(SORTS, 0))
    cut: int = 0
    runs: int = 0
    lives: int = 0
    steps: int = 0
    lost: int = 0
    wrong_outputs: int = 0
    doubled: int = 0
    in_doubt: int = 0
    redone: int = 0
    model_requests: int = 0
    answered_again: int = 0
    read_and_paid_again: int = 0
    listed: int = 0
    unlisted: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def per_100(self, count: int, kills: int | None = None) -> float:
        return 100 * count / max(1, self.kills if kills is None else kills)


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What the same workload does when nobody disturbs it."""

    outputs: list[str]
    steps: frozenset[str]
    seconds: float


def outputs_of(folder: Path) -> list[list[str]]:
    """What each life that reached its end put out."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("outputs-*.json"))]


def effect_of(row: Row) -> str:
    """The effect's name, from the recorded request: name='a1'."""
    return row.request.partition("'")[2].rstrip("'")


def rows(folder: Path) -> list[Row]:
    with Store.open(folder / ".agentkit" / "journal.db", read_only=True) as store:
        return rows_of(store)


def rows_of(store: Store) -> list[Row]:
    found = {event.id: store.step(event.id) for run in store.runs(limit=10_000) for event in store.steps(run.id)}
    return [row for row in found.values() if row is not None]


def name_of(row: Row) -> str:
    return f"{row.key.hex()[:32]}-{row.n}-{row.gen}"


def count(
    figures: Figures,
    calm: Undisturbed,
    folder: Path,
    ledger: list[dict[str, Any]],
    recorded: list[Row],
    kills: Sequence[Kill] = (),
) -> None:
    """Add one run, and the kills that it survived, to `figures`."""
    log = [line.split() for line in (folder / "log").read_text().splitlines()]
    _count_steps(figures, calm, folder, recorded, log)
    _count_effects(figures, recorded, ledger)
    _count_payments(figures, recorded, ledger, log, kills)


def _count_steps(figures: Figures, calm: Undisturbed, folder: Path, recorded: list[Row], log: list[list[str]]) -> None:
    ended = Counter(words[1] for words in log if words[0] == "ended")
    figures.lost += sum(times - 1 for times in ended.values())
    names = {name_of(row) for row in recorded}
    if names != calm.steps:
        figures.lost += len(names ^ calm.steps)
        figures.problems.append(f"other steps than undisturbed: {sorted(names ^ calm.steps)}")
    found = outputs_of(folder)
    if not found or any(outputs != calm.outputs for outputs in found):
        figures.wrong_outputs += 1
    figures.redone += sum(words[0] == "redo" for words in log)
    figures.in_doubt += sum(words[0] in ("redo", "result") for words in log)


def _count_effects(figures: Figures, recorded: list[Row], ledger: list[dict[str, Any]]) -> None:
    seen = [entry for entry in ledger if entry["kind"] == "effect"]
    times = Counter(entry["name"] for entry in seen)
    for row in recorded:
        if row.kind != "tool" or row.name in REPEATABLE or row.name not in {tool_name(f) for f in workload.TOOLS}:
            continue
        name = effect_of(row)
        keys = {entry["headers"]["idempotency-key"] for entry in seen if entry["name"] == name}
        # A far side that honours the key does the same thing once, however often it is told.
        happened = len(keys) if row.name in KEYED else times[name]
        figures.doubled += max(0, happened - 1)
        if happened != 1:
            figures.problems.append(f"{row.name} {name} happened {happened} times")


def tool_name(function: Any) -> str:
    return str(function.__name__)


def _count_payments(
    figures: Figures, recorded: list[Row], ledger: list[dict[str, Any]], log: list[list[str]], kills: Sequence[Kill]
) -> None:
    asked: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted((entry for entry in ledger if entry["kind"] != "effect"), key=lambda entry: entry["received"]):
        asked.setdefault(entry["headers"][STEP], []).append(entry)
    read = Counter(words[1] for words in log if words[0] == "read")
    listed = {name_of(row) for row in recorded if row.maybe_paid_twice}
    figures.model_requests += sum(map(len, asked.values()))
    figures.read_and_paid_again += sum(times - 1 for times in read.values())
    figures.listed += len(listed)
    for step, entries in asked.items():
        figures.answered_again += max(0, sum(entry["sent"] is not None for entry in entries) - 1)
        for first, second in pairwise(entries):
            blamed = _blamed(first, second, kills)
            if blamed is None:
                figures.problems.append(f"asked again though nothing was killed: {step}")
                continue
            figures.asked_again[blamed] += 1
            figures.paid_again[blamed] += first["sent"] is not None
        if len(entries) > 1 and step not in listed:
            figures.unlisted += 1
            figures.problems.append(f"asked {len(entries)} times and not listed: {step}")


def _blamed(first: dict[str, Any], second: dict[str, Any], kills: Sequence[Kill]) -> Sort | None:
    """The kill that lay between two requests of one step."""
    begun = first["received"] - _ON_ITS_WAY
    between = {kill.sort for kill in kills if begun <= kill.at <= second["received"]}
    for sort in ("caller", "both"):
        if sort in between:
            return sort
    if not between:
        return None
    # A kernel whose caller was killed again and again makes its calls itself.
    earlier = DIRECTLY in first["headers"] and any(kill.sort != "kernel" and kill.at < begun for kill in kills)
    return "caller" if earlier else "kernel"


def aligned(rows: Iterable[tuple[str, object]]) -> str:
    """A table of two columns."""
    told = list(rows)
    width = max(len(name) for name, _ in told)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in told)


def as_json(figures: Figures) -> str:
    return json.dumps(asdict(figures))
