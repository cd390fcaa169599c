"""The circuit breaker's states: what trips it, with which evidence, and what does not."""

from __future__ import annotations

import time

import pytest

from agentkit.errors import UserError
from agentkit.guards.loop_detector import OFF, Finding, LoopDetector, Thresholds, parse_thresholds, same_call


def call(breaker: LoopDetector, tool: str, result: str, *, poll: bool = False, **arguments: object) -> Finding | None:
    breaker.count_call(
        identity=same_call(tool, arguments), shown=f"{tool}({arguments})", result=result.encode(), poll=poll
    )
    return breaker.due()


def levels(findings: list[Finding | None]) -> list[str | None]:
    return [None if one is None else one.level for one in findings]


def test_repeats_warn_ask_and_open_once_each() -> None:
    breaker = LoopDetector()
    found = levels([call(breaker, "search", "nothing", q="x") for _ in range(9)])
    assert found == [None, None, "warn", None, "ask", None, None, "open", None]
    assert [change.after for change in breaker.transitions()] == ["warned", "asked", "open"]


def test_the_order_of_arguments_is_no_difference() -> None:
    assert same_call("t", {"a": 1, "b": 2}) == same_call("t", {"b": 2, "a": 1})


def test_evidence_names_the_call_and_how_often() -> None:
    breaker = LoopDetector()
    *_, found = [call(breaker, "search", "nothing", q="x") for _ in range(3)]
    assert found is not None
    assert found.evidence == "search({'q': 'x'}) gave the same result 3 times in a row"


def test_ping_pong_of_two_is_a_repeat() -> None:
    breaker = LoopDetector()
    found = [call(breaker, name, "same") for _ in range(8) for name in ("up", "down")]
    assert [level for level in levels(found) if level] == ["warn", "ask", "open"]
    warned = next(one for one in found if one is not None)
    assert "in turns" in warned.evidence and "up" in warned.evidence and "down" in warned.evidence


def test_calls_refused_for_their_arguments_are_repeats() -> None:
    breaker = LoopDetector()
    found = []
    for _ in range(3):
        breaker.count_refusal(tool="plot", shown="plot(…)")
        found.append(breaker.due())
    assert levels(found) == [None, None, "warn"]


@pytest.mark.parametrize(
    "calls",
    [
        [("read", f"page {page}", {"page": page}) for page in range(40)],
        [("next_page", f"page {page}", {}) for page in range(40)],
        [("score", f"row {row}", {"row": row}) for row in range(40)],
        [("fetch", "503", {}), ("fetch", "503", {}), ("fetch", "the file", {})],
        # What is looked up again and again, while the work between goes on.
        [step for row in range(20) for step in (("schema", "a, b", {}), ("query", f"{row}", {"row": row}))],
    ],
    ids=["paginator", "next page", "map over rows", "retry that succeeds", "schema between queries"],
)
def test_no_false_alarm(calls: list[tuple[str, str, dict[str, object]]]) -> None:
    breaker = LoopDetector()
    for name, result, arguments in calls:
        breaker.count_call(identity=same_call(name, arguments), shown=name, result=result.encode())
        assert breaker.due() is None


def test_a_poller_is_exempt_up_to_a_bound() -> None:
    breaker = LoopDetector()
    found = levels([call(breaker, "status", "running", poll=True) for _ in range(36)])
    assert found.index("warn") == 29
    assert [level for level in found if level] == ["warn", "ask", "open"]


def test_something_new_closes_it_again() -> None:
    breaker = LoopDetector()
    for _ in range(4):
        call(breaker, "search", "nothing", q="x")
    assert breaker.state("repeats") == "warned"
    call(breaker, "search", "found", q="y")
    assert breaker.state("repeats") == "closed"
    assert levels([call(breaker, "search", "found", q="y") for _ in range(2)]) == [None, "warn"]


def opened() -> tuple[LoopDetector, Finding]:
    breaker = LoopDetector()
    found = [call(breaker, "search", "nothing", q="x") for _ in range(8)]
    assert found[-1] is not None
    return breaker, found[-1]


def test_once_lets_exactly_one_more_pass() -> None:
    breaker, finding = opened()
    breaker.once(finding)
    assert breaker.state("repeats") == "half-open"
    assert breaker.due() is None
    assert levels([call(breaker, "search", "nothing", q="x")]) == ["open"]


def test_once_closes_when_something_new_came_of_it() -> None:
    breaker, finding = opened()
    breaker.once(finding)
    assert call(breaker, "search", "found", q="z") is None
    assert breaker.state("repeats") == "closed"


def test_once_holds_in_a_run_that_replayed_until_there() -> None:
    _, finding = opened()
    later = LoopDetector()
    later.resume(finding.trip, finding.count, finding.mark)
    assert later.due() is None
    assert levels([call(later, "search", "nothing", q="x")]) == ["open"]


def test_raised_allows_twice_as_much() -> None:
    breaker, finding = opened()
    breaker.double_limit(finding)
    found = levels([call(breaker, "search", "nothing", q="x") for _ in range(16)])
    assert [place + 1 for place, level in enumerate(found) if level] == [6, 10, 16]


def reply(breaker: LoopDetector, cost: float, *, tokens: int = 100, window: int | None = None) -> Finding | None:
    breaker.count_reply(cost=cost, input_tokens=tokens, window=window, at=time.time())
    return breaker.due()


def test_money_per_minute_opens() -> None:
    breaker = LoopDetector(thresholds=parse_thresholds("usd/min=1"))
    found = [reply(breaker, 0.4) for _ in range(3)]
    assert levels(found) == [None, None, "open"]
    assert found[-1] is not None and "$1.20 spent in the last minute, above $1" in found[-1].evidence


def test_money_spent_long_ago_does_not_count() -> None:
    breaker = LoopDetector(thresholds=parse_thresholds("usd/min=1"))
    for minute in range(5):
        breaker.count_reply(cost=0.9, input_tokens=1, window=None, at=1000.0 + 61 * minute)
    assert breaker.due() is None


def test_a_surge_over_the_median_warns_then_opens() -> None:
    breaker = LoopDetector()
    assert not any(reply(breaker, 0.02) for _ in range(10))
    first, second = reply(breaker, 0.2), reply(breaker, 0.2)
    assert levels([first, second]) == ["warn", "open"]
    assert first is not None and "10 times the $0.020 usual" in first.evidence


def test_cheap_calls_never_surge() -> None:
    breaker = LoopDetector()
    assert not any(reply(breaker, cost) for cost in (0.0001,) * 10 + (0.04,) * 3)


def test_a_growing_context_warns_then_opens() -> None:
    breaker = LoopDetector()
    found = [reply(breaker, 0.0, tokens=tokens) for tokens in (4_000, 6_000, 9_000, 13_500, 21_000)]
    assert levels(found) == [None, None, None, "warn", "open"]
    assert found[3] is not None and "4,000 → 6,000 → 9,000 → 13,500 tokens" in found[3].evidence


def test_a_small_context_may_grow() -> None:
    breaker = LoopDetector()
    assert not any(reply(breaker, 0.0, tokens=tokens) for tokens in (100, 300, 900, 2_700, 2_800))


def test_a_nearly_full_window_warns() -> None:
    found = reply(LoopDetector(), 0.0, tokens=82_000, window=100_000)
    assert found is not None and found.level == "warn"
    assert "82% of the model's window" in found.evidence


def test_off_is_off() -> None:
    breaker = LoopDetector(thresholds=OFF)
    assert not any(call(breaker, "search", "nothing") for _ in range(100))


def test_thresholds_as_typed() -> None:
    found = parse_thresholds("repeats=2/4/6 usd/min=0.5, window=70%")
    assert (found.repeats, found.usd_per_minute, found.window, found.surge) == ((2, 4, 6), 0.5, 0.7, 5.0)
    assert parse_thresholds(str(found)) == found
    assert parse_thresholds("off") is OFF
    assert parse_thresholds("surge=off").surge == 0
    assert parse_thresholds("poll=9", base=Thresholds(surge=7)).surge == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("repeats=5/3/8", "must rise"),
        ("repeats=3/5", "write it as in"),
        ("repeat=3/5/8", "did you mean repeats?"),
        ("usd/min=-1", "positive numbers"),
        ("window=300%", "write it as in"),
        ("", "what?"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_thresholds(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)
