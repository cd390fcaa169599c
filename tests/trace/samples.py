"""Traces as a person meets them, for the tests of the panel; run as a script it writes them all to one HTML page."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from agentkit.events import Event, Run, Step, Usage
from agentkit.trace import render_html
from agentkit.trace.trace import Trace

START = 1_760_000_000.0
NOW = START + 2.4

SQL = "SELECT region, sum(amount) AS total FROM sales WHERE day >= '2025-01-01' GROUP BY region ORDER BY total DESC"
ANSWER = (
    "**West** grew fastest: from 1.20 M to 1.61 M (+34 %), mostly in the second quarter. "
    "South is second with +12 %; North shrank by 3 %."
)


def run(name: str = "analyst", **changes: object) -> Run:
    known = {
        "id": f"run-{name}", "agent": name, "status": "done", "prompt": "Which region grew fastest since 2025?",
        "model": "openai:gpt-5", "started": START, "ended": START + 1.2,
    }  # fmt: skip
    return Run(**{**known, **changes})  # type: ignore[arg-type]


def model(ord: int, start: float, seconds: float | None, **changes: object) -> Step:
    known = {
        "run": "run-analyst", "ord": ord, "id": 100 + ord, "kind": "model", "name": "openai:gpt-5", "status": "done",
        "replayed": False, "started": START + start, "ended": None if seconds is None else START + start + seconds,
        "recorded_seconds": 0.9, "usage": Usage(input_tokens=812, output_tokens=64, cost=0.0012),
        "request": "Which region grew fastest since 2025?", "result": "calls query(sql='SELECT region, sum(amount)…')",
    }  # fmt: skip
    return Step(**{**known, **changes})  # type: ignore[arg-type]


def tool(ord: int, start: float, seconds: float | None, **changes: object) -> Step:
    known = {
        "run": "run-analyst", "ord": ord, "id": 100 + ord, "kind": "tool", "name": "query", "status": "done",
        "replayed": False, "started": START + start, "ended": None if seconds is None else START + start + seconds,
        "recorded_seconds": 0.2, "request": f"sql={SQL!r}", "result": "4 rows × 2 columns",
    }  # fmt: skip
    return Step(**{**known, **changes})  # type: ignore[arg-type]


def replay(step: Step, ord: int = 0) -> Step:
    return replace(step, replayed=True, ended=step.started + 0.002)


def done() -> list[Event]:
    return [
        run(),
        model(1, 0.0, 0.42),
        tool(2, 0.43, 0.11),
        tool(3, 0.43, 0.23, name="plot", request="kind='bar', x='region', y='total'", result="figure 640 × 480"),
        model(4, 0.68, 0.5, request="4 rows × 2 columns", result=ANSWER),
    ]


def mixed() -> list[Event]:
    first, second, third = model(1, 0.0, 0.4), tool(2, 0.01, 0.1), tool(3, 0.01, 0.2, name="plot")
    return [
        run(notes=("from step 4: 2 recorded steps unused, the next call costs about $0.0012, not $0.0010",)),
        replay(first),
        replay(second),
        replay(third),
        tool(4, 0.02, 0.31, name="growth", request="column='total', by='region'", result="West 0.34, South 0.12"),
        model(5, 0.34, 0.84, result=ANSWER),
    ]


def replayed() -> list[Event]:
    steps = [event for event in done() if isinstance(event, Step)]
    return [
        run(ended=START + 0.031),
        *(replace(replay(s), started=START + 0.006 * s.ord, ended=START + 0.006 * s.ord + 0.002) for s in steps),
    ]


def running() -> list[Event]:
    return [
        run(status="running", ended=None),
        replay(model(1, 0.0, 0.4)),
        tool(2, 0.01, 0.91),
        tool(3, 0.02, None, status="started", name="forecast", request="column='total', days=90", result=""),
        tool(4, 0.02, None, status="started", name="weather", request="city='Seattle'", result="", attempt=2),
        model(5, 0.95, None, status="started", usage=None, result="", request="4 rows × 2 columns"),
    ]


def waiting() -> list[Event]:
    return [
        run(status="running", ended=None),
        model(1, 0.0, 0.4, result="calls delete_rows(where=\"region = 'Test'\")"),
        tool(
            2,
            0.41,
            None,
            kind="approval",
            name="delete_rows",
            status="started",
            request="where=\"region = 'Test'\"",
            result="",
        ),
    ]


FETCH = "url='https://example.org/weather.csv', timeout=30"


def inner(agent: str, id: str, ord: int, **changes: object) -> Run:
    return run(agent, id=id, started=START + 0.42, parent_run="run-lead", parent_ord=ord, **changes)


def nested() -> list[Event]:
    return [
        run("lead", prompt="Write the quarterly note", ended=START + 2.35),
        model(1, 0.0, 0.4, run="run-lead", result="calls research(topic='sales'), research(topic='weather')"),
        tool(2, 0.41, 1.1, run="run-lead", name="research", request="topic='sales'", result="West grew 34 %"),
        tool(3, 0.41, 1.5, run="run-lead", name="research", request="topic='weather'", result="A dry summer"),
        inner("analyst", "run-sub1", 2, prompt="sales", ended=START + 1.5),
        model(1, 0.43, 0.5, run="run-sub1"),
        tool(2, 0.94, 0.2, run="run-sub1"),
        model(3, 1.15, 0.34, run="run-sub1", result="West grew 34 %"),
        inner("forecaster", "run-sub2", 3, prompt="weather", ended=START + 1.9),
        replay(model(1, 0.43, 0.5, run="run-sub2", usage=Usage(input_tokens=2204, output_tokens=310, cost=0.0061))),
        tool(2, 0.45, 1.1, run="run-sub2", name="fetch", request=FETCH, result="1,461 rows × 6 columns"),
        model(3, 1.56, 0.33, run="run-sub2", name="anthropic:claude-sonnet-5", result="A dry summer"),
        model(4, 1.92, 0.42, run="run-lead", result="# Third quarter\nWest grew by 34 %, helped by a dry summer."),
    ]  # fmt: skip


def parallel(count: int) -> list[Event]:
    events: list[Event] = []
    for i in range(count):
        id, start, took = f"run-p{i:02}", (i % 8) * 0.11, 0.5 + (i * 37 % 11) / 9
        state = {3: "failed", 11: "running"}.get(i, "done")
        ended = None if state == "running" else START + start + took
        error = "UnexpectedModelBehavior: the reply was cut off" if state == "failed" else None
        asked = f"Classify review {i + 1}: {['great shoes', 'arrived late', 'never again'][i % 3]}"
        events.append(
            run("classifier", id=id, status=state, started=START + start, ended=ended, prompt=asked, error=error)
        )
        first = model(1, start, took * 0.6, run=id, request=asked, name="openai:gpt-5-mini")
        events.append(replay(first) if i % 4 == 1 else first)
        events.append(
            tool(2, start + took * 0.6, took * 0.1, run=id, name="lookup", request=f"sku={1000 + i}", result="'boots'")
        )
        last = model(3, start + took * 0.7, took * 0.3, run=id, name="openai:gpt-5-mini", result="positive")
        if state == "failed":
            last = replace(last, status="failed", usage=None, result="", error=error)
        if state == "running":
            last = replace(last, status="started", ended=None, usage=None, result="")
        events.append(last)
    return events


def errors() -> list[Event]:
    failed = "ModelHTTPError: status_code: 429, model_name: gpt-5, body: rate limit reached, retry after 20 s"
    return [
        run(status="failed", error=failed),
        model(1, 0.0, 0.4),
        tool(
            2,
            0.41,
            0.02,
            status="failed",
            result="",
            error="KeyError: no column 'regon' in sales; columns: region, day, amount",
        ),
        tool(3, 0.41, 0.1, name="schema", request="", result="region, day, amount"),
        model(4, 0.55, 0.6, status="failed", usage=None, result="", error=failed, attempt=3),
    ]


def in_doubt() -> list[Event]:
    return [
        run(status="stopped", error="InDoubt: step 102 (delete_rows) was started and has no recorded end"),
        model(1, 0.0, 0.4, maybe_paid_twice=True, result="calls delete_rows(where=\"region = 'Test'\")"),
        tool(
            2,
            0.41,
            None,
            status="started",
            name="delete_rows",
            effects="once",
            request="where=\"region = 'Test'\"",
            result="",
        ),
        tool(3, 0.41, 0.05, status="cancelled", name="count", request="table='sales'", result=""),
    ]


def unpriced() -> list[Event]:
    local = "openai-chat:qwen3 @ http://127.0.0.1:1234/v1"
    free = Usage(input_tokens=4410, output_tokens=385)
    return [
        run(model=local),
        model(1, 0.0, 0.5, name=local, usage=free),
        replay(model(2, 0.5, 0.4, name=local, usage=free)),
        model(3, 0.6, 0.6),
    ]


def offline() -> list[Event]:
    events = [
        replace(e, name="offline", usage=replace(e.usage, cost=0.0)) if isinstance(e, Step) and e.usage else e
        for e in done()
    ]
    return [replace(e, model="offline") if isinstance(e, Run) else e for e in events]


def offline_replayed() -> list[Event]:
    return [replay(e) if isinstance(e, Step) else e for e in offline()]


def long(count: int) -> list[Event]:
    events: list[Event] = [run(ended=START + count * 0.1)]
    for i in range(count):
        step = model(i + 1, i * 0.1, 0.09) if i % 3 == 0 else tool(i + 1, i * 0.1, 0.06 + i % 5 / 100)
        if i == 150:
            step = replace(step, status="failed", result="", error="TimeoutError: no answer within 30 s")
        events.append(replay(step) if i < 120 else step)
    return events


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)' "
    "</details></td></table>&lt;b&gt; {{7*7}} $\\LaTeX$ `x`"
)


def hostile() -> list[Event]:
    return [
        run(
            agent="evil</b></summary><h1>big</h1>",
            error="\x1b[31mred\x1b[0m " + HOSTILE,
            status="failed",
            notes=(HOSTILE,),
        ),
        model(1, 0.0, 0.4, name=HOSTILE, request=HOSTILE * 9, result="\u202e" + HOSTILE + "\x00\ud800"),
        tool(2, 0.4, 0.2, name="a" * 400, request="x" * 5000, result="W" * 5000),
        tool(
            3, 0.4, float("nan"), name="\u202egnp.exe", request="a='\u2066b\u2069'", result="line 1\nline 2\r\n\tline 3"
        ),
        model(4, 0.5, 0.1, usage=Usage(input_tokens=10**12, output_tokens=10**12, cost=float("nan"))),
    ]


def foreign() -> list[Event]:
    return [
        run("محلل", id="run-analyst", prompt="أي منطقة نمت أسرع؟"),
        model(
            1,
            0.0,
            0.4,
            request="أي منطقة نمت أسرع منذ 2025؟",
            result="نمت المنطقة الغربية بنسبة 34٪ (من 1.20 إلى 1.61)",
        ),
        tool(2, 0.41, 0.1, name="שאילתה", request="אזור='מערב', שנה=2025", result="42 שורות"),
        tool(3, 0.41, 0.2, name="検索", request="地域='西部', 年=2025", result="🟢 42 行 👩‍🔬"),
    ]


def long_arguments() -> list[Event]:
    code = "import pandas as pd\n" + "\n".join(f"frame_{i} = load('part-{i:03}.parquet')" for i in range(40))
    return [run(), model(1, 0.0, 0.3), tool(2, 0.3, 0.8, name="python", request=f"code={code!r}", result=code)]


def nothing() -> list[Event]:
    return []


def twenty_parallel() -> list[Event]:
    return parallel(20)


def three_hundred() -> list[Event]:
    return long(300)


def many(count: int = 200) -> list[Event]:
    """A gather: every 40th fails, one waits, some are slow."""
    events: list[Event] = []
    for i in range(count):
        took = 0.3 + (i * 37 % 101) / 200 + (1.4 if i % 67 == 0 else 0)
        failed = i % 40 == 7
        error = "ModelHTTPError: status_code: 500" if i % 80 == 7 else f"ValueError: review {i} is empty"
        asked = f"Classify review {i + 1}: {['great shoes', 'arrived late', 'never again'][i % 3]}"
        events.append(
            run(
                "classifier", id=f"m{i}", started=START, ended=START + took, prompt=asked,
                status="failed" if failed else "done", error=error if failed else None,
            )
        )  # fmt: skip
        step = model(1, 0, took, run=f"m{i}", request=asked, result="positive")
        events.append(replace(step, status="failed", usage=None, result="", error=error) if failed else step)
    return events


def two_parallel() -> list[Event]:
    return parallel(2)


SAMPLES: dict[str, Callable[[], list[Event]]] = {
    "done": done, "mixed live and replayed": mixed, "replayed": replayed, "running": running, "waiting": waiting,
    "nested sub-agents": nested, "20 parallel runs": twenty_parallel, "errors": errors, "in doubt": in_doubt,
    "unpriced": unpriced, "offline": offline, "offline replayed": offline_replayed, "300 steps": three_hundred,
    "hostile text": hostile, "right to left": foreign, "long arguments": long_arguments, "nothing": nothing,
    "two parallel runs": two_parallel, "200 runs": many,
}  # fmt: skip


def page(*, dark: bool) -> str:
    colours = "background:#111;color:rgba(255,255,255,0.87)" if dark else "background:#fff;color:rgba(0,0,0,0.87)"
    return f'<!doctype html><meta charset="utf-8"><body style="{colours};font-family:system-ui;width:940px">' + "".join(
        _shown()
    )


def _shown() -> Iterator[str]:
    for name, events in SAMPLES.items():
        trace = Trace.of(events())
        plain = html.escape(render_html.text(trace, now=NOW).encode("utf-8", "replace").decode())
        yield f"<h4>{name}</h4>{render_html.html(trace, now=NOW)}"
        yield f'<details><summary>plain</summary><pre style="font-size:11px;overflow:auto">{plain}</pre></details>'


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        (folder / f"{theme}.html").write_text(page(dark=theme == "dark"), encoding="utf-8")
