"""What happens to a step, for every record that may be found and every way to ask for it: the table, and its proof."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from agentkit.events import Effects, Mode, StepStatus
from agentkit.journal.records import CONTROL_ERROR, PAUSED, Row
from agentkit.journal.replay import Compare, Doubt, Perform, Record, Refuse, Replay, Request, Verify, Wait, decide
from agentkit.journal.transactions import Settlement

HERE, OTHER = "this process", "another process"

# ---- what may be found, and how it may be asked for


class Found(NamedTuple):
    """A record. `world`: whether what it read is as it was, `edited` where it is of another version of the code."""

    status: Any
    settled: str | None
    body: bool
    source: str
    owner: str
    error: str | None
    world: str
    underway: bool


class Asked(NamedTuple):
    """A way to ask. `resumes`: the run that it was recorded in did not finish. `hindered`: what forbids a live step."""

    effects: Any
    mode: Any
    fresh: bool
    resumes: bool
    hindered: str
    verifiable: bool


BOTH = (False, True)
WORLDS = ("not looked at", "as it was", "changed", "outgrown", "edited")
ERRORS = (None, "ValueError: no", f"{CONTROL_ERROR}approval_required", PAUSED)
HINDERED = ("no", "read-only", "secret missing")


def records() -> Iterator[Found]:
    settled = (None, *get_args(Settlement))
    for values in itertools.product(
        get_args(StepStatus), settled, BOTH, ("", "FILE"), (HERE, OTHER), ERRORS, WORLDS, BOTH
    ):
        found = Found(*values)
        looked_at = found.world in ("as it was", "changed", "outgrown")
        if (
            (found.body and found.status in ("started", "failed", "cancelled"))
            or (found.settled == "result" and found.status != "done")
            or (looked_at and (found.status != "done" or found.settled is not None))
            or (found.error is not None and found.status in ("started", "done"))
            or (found.error is None and found.status in ("failed", "cancelled"))
            or (found.underway and found.status != "started")
        ):
            continue
        yield found


def requests() -> Iterator[Asked]:
    for values in itertools.product(get_args(Effects), get_args(Mode), BOTH, BOTH, HINDERED, BOTH):
        yield Asked(*values)


def combinations() -> Iterator[tuple[Found | None, Asked]]:
    asked = tuple(requests())
    for request in asked:
        yield None, request
    for found in records():
        for request in asked:
            # Only what must happen once is looked up under another version of its code, or compared while it is so.
            if found.world != "edited" or request.effects == "once":
                yield found, request


# ---- the table: the first line that fits says what happens


EVERY: dict[str, tuple[Any, ...]] = {
    "status": ("no record", "started", "done", "failed", "cancelled"),
    "settled": (None, "redo", "result", "stop"),
    "effects": ("none", "idempotent", "once", "kernel", "undeclared"),
    "mode": ("auto", "live", "replay", "off"),
}
"""What a line means that does not say it: a value that is new to the code stands in none of these, so in no line."""

TRUSTED = {"trusted": True, "status": "done", "body": True}
BEGUN = ("started", "done", "failed", "cancelled")
FREE = ("none", "idempotent", "kernel")
ASK = ("once", "undeclared")
LIVE = ("auto", "live", "off")

TABLE: tuple[tuple[str, dict[str, Any]], ...] = (
    # The record answers. It is given again unless it is asked for anew; one from elsewhere only in mode replay.
    ("compare", {"status": "done", "settled": None, "effects": "once", "world": "not looked at"}),
    ("replay", TRUSTED | {"settled": "result", "world": "edited"}),
    ("replay", TRUSTED | {"settled": (None, "result"), "anew": False, "other kernel": True, "mode": "replay",
                          "world": ("not looked at", "as it was", "changed", "outgrown")}),
    ("replay", TRUSTED | {"settled": "result", "anew": False, "other kernel": False, "world": "not looked at"}),
    ("replay", TRUSTED | {"settled": None, "anew": False, "other kernel": False, "world": "as it was"}),
    ("compare", TRUSTED | {"settled": None, "anew": False, "other kernel": False, "world": "not looked at"}),
    # Somebody is at it.
    ("wait", {"status": "started", "underway": True}),
    # Nothing may be performed here.
    ("refuse: not on record", {"mode": "replay"}),
    ("refuse: read-only", {"mode": LIVE, "hindered": "read-only"}),
    ("refuse: secret missing", {"mode": LIVE, "hindered": "secret missing"}),
    # It was never begun.
    ("perform", {"status": "no record"}),
    # A person has settled it.
    ("doubt: was settled as stop", {"status": BEGUN, "settled": "stop"}),
    ("redo", {"status": BEGUN, "settled": "redo", "source": ""}),
    # It was done, and its answer does not hold.
    ("doubt: ran before and what it read has changed", {"status": "done", "effects": "once", "world": "changed"}),
    ("doubt: ran before and its code or data has changed since", {"status": BEGUN, "world": "edited"}),
    ("redo", {"status": "done", "effects": (*FREE, "undeclared")}),
    ("redo", {"status": "done", "effects": "once", "source": ""}),
    # It was begun, and its end is not known or no answer: what changes nothing is performed again.
    ("perform", {"status": BEGUN, "effects": FREE}),
    ("perform", {"status": ("failed", "cancelled"), "effects": ASK, "error": f"{CONTROL_ERROR}approval_required"}),
    ("perform", {"status": "failed", "effects": "undeclared"}),
    ("perform", {"status": "cancelled", "effects": "undeclared", "error": PAUSED}),
    ("verify", {"status": BEGUN, "effects": ASK, "verifiable": True}),
    ("doubt: was started and has no recorded end", {"status": "started", "effects": ASK}),
    ("doubt: failed before (", {"status": "failed", "effects": "once"}),
    ("doubt: was stopped while it ran and may have taken effect", {"status": "cancelled", "effects": ASK}),
    ("doubt: was performed before, from FILE", {"status": "done", "effects": "once", "source": "FILE"}),
)  # fmt: skip


def facts_of(found: Found | None, asked: Asked) -> dict[str, Any]:
    facts: dict[str, Any] = asked._asdict() | (
        {"status": "no record", "settled": None} if found is None else found._asdict()
    )
    fresh = asked.fresh and asked.effects != "once"
    facts["anew"] = (asked.mode == "live" or fresh) and not asked.resumes
    facts["trusted"] = found is not None and (not found.source or asked.mode == "replay")
    facts["other kernel"] = found is not None and asked.effects == "kernel" and found.owner == OTHER
    return facts


def line_of(facts: dict[str, Any]) -> int | None:
    for number, (_, conditions) in enumerate(LINES):
        for name, values in conditions:
            if facts.get(name) not in values:
                break
        else:
            return number
    return None


LINES = tuple(
    (
        verdict,
        tuple(
            (name, values if isinstance(values, tuple) else (values,)) for name, values in (EVERY | conditions).items()
        ),
    )
    for verdict, conditions in TABLE
)


# ---- the proof


def row_of(found: Found) -> Row:
    return Row(
        id=1, key=b"key", n=0, gen=1, kind="tool", name="tool", effects="none", agent="agent", run="run", attempt=1,
        status=found.status, settled=found.settled, body=b"1" if found.body else None, source=found.source,
        owner=found.owner, error=found.error, started=1.0,
    )  # fmt: skip


def record_of(found: Found) -> Record:
    holds = {"as it was": True, "changed": False, "outgrown": False}.get(found.world)
    changed = "what it read has changed" if found.world == "changed" else None
    return Record(row_of(found), edited=found.world == "edited", holds=holds, changed=changed)


def request_of(asked: Asked, *, underway: bool) -> Request:
    return Request(
        effects=asked.effects, mode=asked.mode, owner=HERE, fresh=asked.fresh, resumes=asked.resumes,
        underway=underway, read_only=asked.hindered == "read-only", lacks_secret=asked.hindered == "secret missing",
        verifiable=asked.verifiable,
    )  # fmt: skip


def describe(verdict: object) -> str:
    match verdict:
        case Replay() | Compare() | Wait() | Verify():
            return type(verdict).__name__.lower()
        case Perform(redo=redo):
            return "redo" if redo else "perform"
        case Doubt(reason=reason):
            return f"doubt: {reason}"
        case Refuse(why=why):
            return f"refuse: {why}"
    raise AssertionError(f"{verdict} is in no line of the table: give it a word here and lines there")


def test_every_combination_has_a_line_and_is_decided_as_it_says() -> None:
    used: set[int] = set()
    told: dict[Found | None, Record | None] = {None: None}
    for found, asked in combinations():
        number = line_of(facts_of(found, asked))
        assert number is not None, f"no line of the table says what happens to {found} when it is {asked}"
        used.add(number)
        if found not in told:
            told[found] = None if found is None else record_of(found)
        decided = decide(told[found], request_of(asked, underway=found is not None and found.underway))
        assert describe(decided).startswith(TABLE[number][0]), f"line {number}, {TABLE[number]}: {found}, {asked}"
    assert [TABLE[number] for number in range(len(TABLE)) if number not in used] == [], "lines that nothing comes to"


def test_a_state_that_is_new_has_no_line() -> None:
    found = Found("done", None, True, "", HERE, None, "as it was", False)
    asked = Asked("none", "auto", False, False, "no", False)
    assert line_of(facts_of(found, asked)) is not None
    assert line_of(facts_of(found._replace(status="suspended"), asked)) is None
    assert line_of(facts_of(found._replace(settled="postponed"), asked)) is None
    assert line_of(facts_of(found, asked._replace(effects="reversible"))) is None
    assert line_of(facts_of(found, asked._replace(mode="rehearse"))) is None


def test_nothing_is_compared_twice() -> None:
    """What a comparison finds decides: the engine looks at the world once for each step."""
    for found, asked in combinations():
        if found is not None and found.world in ("as it was", "changed", "outgrown"):
            decided = decide(record_of(found), request_of(asked, underway=False))
            assert not isinstance(decided, Compare), f"{found}, {asked}"
