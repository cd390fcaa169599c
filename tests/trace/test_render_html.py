"""The panel: it says what the trace says, cannot be broken out of, stays small, and needs no script or style sheet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentkit.events import Event, Run, Step, Usage
from agentkit.trace import render_html
from agentkit.trace.format import GLYPHS, width_of
from agentkit.trace.layout import FoldedLine, GroupLine, StepLine, lines
from agentkit.trace.trace import Trace
from tests.trace.samples import (
    HOSTILE,
    NOW,
    SAMPLES,
    START,
    done,
    errors,
    in_doubt,
    long,
    many,
    mixed,
    model,
    nested,
    offline,
    offline_replayed,
    parallel,
    replay,
    run,
    running,
    tool,
    unpriced,
)

TAGS = {"details", "summary", "div", "span", "b", "i", "bdi", "pre"}
ATTRIBUTES = {"style", "title", "open", "class"}
STYLES = {
    "border", "border-top", "border-radius", "padding", "padding-left", "margin", "margin-left", "font-size",
    "line-height", "white-space", "word-break", "opacity", "color", "display", "gap", "width", "min-width", "height",
    "background", "overflow", "text-overflow", "text-align", "flex", "align-items", "list-style-position",
}  # fmt: skip
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Reader(HTMLParser):
    """What a browser would make of the panel: its text, and whether every tag is one of ours and closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said = ""
        self.open: list[str] = []
        self.styles: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS and {name for name, _ in attrs} <= ATTRIBUTES
        self.open.append(tag)
        style = dict(attrs).get("style") or ""
        self.styles |= {declaration.split(":")[0] for declaration in style.split(";") if declaration}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def html(events: list[Event], *, open: bool = True) -> str:
    return render_html.html(Trace.of(events), now=NOW, open=open)


def said(events: list[Event]) -> str:
    return Reader(html(events)).said


def plain(events: list[Event], width: int = 100) -> str:
    return render_html.text(Trace.of(events), now=NOW, width=width)


HEADLINE = "5 steps: 2 live, 3 replayed · 1.2 s · 876 tokens · spent $0.0012 · saved $0.0012"


def test_the_headline() -> None:
    assert f"analyst · ✓ done · {HEADLINE}" in said(mixed())
    assert plain(mixed()).splitlines()[0] == f"analyst · done · {HEADLINE}"


def test_an_offline_run_cost_nothing_and_says_why() -> None:
    assert plain(offline()).splitlines()[0].endswith("1,752 tokens · $0 (offline)")


def test_what_an_offline_replay_saved_is_told_in_tokens() -> None:
    assert "0 tokens · spent $0 · saved 1,752 tokens" in plain(offline_replayed())


def test_an_unknown_price_is_called_unpriced_and_never_zero() -> None:
    assert "spent $0.0012 + 1 unpriced · saved 4,795 tokens (unpriced)" in said(unpriced())
    only: list[Event] = [run(), model(1, 0, 1, usage=Usage(input_tokens=5))]
    for shown in (said(only), plain(only)):
        assert "spent: 1 unpriced" in shown and "$0" not in shown


def test_a_running_panel_names_what_runs_and_retries() -> None:
    shown = said(running())
    assert "◐ running…" in shown and shown.count("◐ running") == 4 and "attempt 2" in shown


def test_errors_stand_where_they_happened_and_once() -> None:
    shown = said(errors())
    assert shown.count("KeyError: no column 'regon'") == 1 and shown.count("ModelHTTPError") == 1
    assert shown.index("KeyError") < shown.index("schema") < shown.index("ModelHTTPError")


def test_an_error_of_the_run_alone_stands_at_the_end() -> None:
    for shown in (
        said([run(status="failed", error="ValueError: no")]),
        plain([run(status="failed", error="ValueError: no")]),
    ):
        assert shown.count("✕ ValueError: no") == 1


def test_a_step_in_doubt_says_how_to_settle_it() -> None:
    for shown in (said(in_doubt()), plain(in_doubt())):
        assert shown.count("%agent settle 102 --redo | --result JSON | --stop") == 1
        assert "in doubt" in shown and "possibly paid twice" in shown


def test_a_repeatable_step_in_doubt_needs_no_settling() -> None:
    shown = said([run(status="stopped"), tool(1, 0, None, status="started")])
    assert "the next run performs it again" in shown and "settle" not in shown


def test_sub_agents_stand_inside_the_step_that_called_them() -> None:
    shown = said(nested())
    order = [
        shown.index(word)
        for word in ("(topic='sales') →", "3 live · sales", "(topic='weather') →", "1 replayed · weather")
    ]
    assert order == sorted(order)


def test_parallel_tools_overlap_on_the_axis() -> None:
    bars = {line.node.step.name: line.bar for line in lines(Trace.of(done()), now=NOW) if isinstance(line, StepLine)}
    assert bars["query"].offset == bars["plot"].offset and bars["query"].width < bars["plot"].width


def test_runs_of_different_days_have_each_their_own_axis() -> None:
    days = [run(id=str(day), started=86400.0 * day, ended=86400.0 * day + 2) for day in range(3)]
    assert [line.bar for line in lines(Trace.of(days), now=NOW)] == [(0.0, 1.0)] * 3


def test_three_hundred_steps_show_the_first_the_last_the_failed_and_say_what_is_folded() -> None:
    shown = said(long(300))
    folded = [int(count) for count in re.findall(r"… (\d+) steps?: [\d,]+ live, [\d,]+ replayed, folded", shown)]
    rows = shown.count("model gpt-5") + shown.count("query (")
    assert len(folded) == 2 and sum(folded) + rows == 300
    assert "TimeoutError: no answer within 30 s" in shown
    assert len(plain(long(300)).splitlines()) < 50


@given(st.integers(1, 400), st.sets(st.integers(0, 399)), st.integers(0, 30))
@settings(max_examples=40)
def test_every_step_is_shown_or_counted_as_folded(count: int, failing: set[int], roots: int) -> None:
    events: list[Event] = [run(), *(run(id=f"r{i}") for i in range(roots))]
    events += [tool(i + 1, i, 1, status="failed" if i in failing else "done") for i in range(count)]
    shown = lines(Trace.of(events), now=NOW)
    folded = sum(line.steps.steps for line in shown if isinstance(line, FoldedLine))
    steps = sum(isinstance(line, StepLine) for line in shown)
    assert len(shown) <= 90
    if roots == 0:
        assert steps + folded == count


def test_twenty_runs_are_twenty_rows_and_what_went_wrong_is_under_its_run() -> None:
    shown = said(parallel(20))
    assert "20 runs of classifier" in shown and "1 running…, 1 failed, 18 done" in shown
    assert all(f"Classify review {i}:" in shown for i in range(1, 21))
    assert shown.count("UnexpectedModelBehavior") == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_only_what_an_untrusted_notebook_keeps_is_used(name: str) -> None:
    assert Reader(html(SAMPLES[name]())).styles <= STYLES


def test_a_typical_row_is_under_a_kilobyte() -> None:
    small, large = html(long(1)), html(long(33))
    assert (len(large.encode()) - len(small.encode())) / 32 < 1000


def test_prices_are_kept_from_being_read_as_formulas() -> None:
    assert 'class="tex2jax_ignore mathjax_ignore"' in html(done())


def test_it_opens_as_asked() -> None:
    assert html(done()).startswith("<details open ") and html(done(), open=False).startswith("<details class")


anything = st.text(st.characters(), max_size=60) | st.sampled_from([HOSTILE, "\x1b[2J", "\u202egnp.exe", "x" * 3000])


@given(anything, anything, anything, anything)
@example(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_text_breaks_out_reaches_the_terminal_raw_or_grows_the_panel(a: str, b: str, c: str, d: str) -> None:
    events: list[Event] = [
        run(a, id="r", error=b, notes=(c, d), prompt=d, status="failed"),
        tool(1, 0, 1, run="r", name=b, request=a, result=c, error=d),
        model(2, 1, 1, run="r", name=d, request=c, result=b),
        run(a, id="s", parent_run="r", parent_ord=1, prompt=b, model=c),
    ]
    page = html(events)
    page.encode("utf-8")
    shown = Reader(page).said
    assert not UNSEEN.search(shown) and not UNSEEN.search(page)
    assert len(page) < 30_000
    text = plain(events)
    text.encode("utf-8")
    assert not UNSEEN.search(text) and len(text.splitlines()) <= 20
    assert all(len(line) <= 400 for line in text.splitlines())
    json.dumps(render_html.metadata(Trace.of(events)), allow_nan=False).encode("utf-8")


def test_foreign_scripts_do_not_turn_what_stands_beside_them() -> None:
    assert "<bdi>שאילתה</bdi>" in html([run(), tool(1, 0, 1, name="שאילתה")])


def test_text_keeps_to_the_width_also_with_wide_characters() -> None:
    rows = plain([run(), tool(1, 0, 1, name="検索" * 80, request="", result="")], width=72).splitlines()[1:]
    assert all(width_of(row) <= 72 for row in rows)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", sorted(set(render_html.COLOURS.values())))
@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_colours_are_readable_on_light_and_dark(colour: str, background: str) -> None:
    dark, light = sorted((luminance(colour), luminance(background)))
    assert (light + 0.05) / (dark + 0.05) > 3.9


def test_every_state_has_a_colour_and_a_sign_of_its_own() -> None:
    assert set(GLYPHS) == set(render_html.COLOURS) and len(set(GLYPHS.values())) == len(GLYPHS)


def test_metadata_is_the_trace_for_machines_and_bounded() -> None:
    kept = render_html.metadata(Trace.of(mixed()))["agentkit"]
    assert (kept["totals"]["live"], kept["totals"]["replayed"], kept["omitted_steps"]) == (2, 3, 0)
    assert kept["steps"][4]["usage"] == {
        "input_tokens": 812,
        "output_tokens": 64,
        "cost": 0.0012,
        "estimated": False,
        "list_price": False,
    }
    assert Run(**{**kept["runs"][0], "notes": ()}).id == "run-analyst"
    assert Step(**{"replayed": False, **kept["steps"][4], "usage": None}).name == "openai:gpt-5"
    large = render_html.metadata(Trace.of(long(700)))["agentkit"]
    assert len(large["steps"]) > 10 and len(large["steps"]) + large["omitted_steps"] == 700
    assert (len(large["runs"]), large["omitted_runs"]) == (1, 0)


HEAVY: dict[str, Callable[[], list[Event]]] = {
    **SAMPLES,
    "2,000 runs": lambda: many(2_000),
    "30 agents": lambda: [event for n in range(30) for event in renamed(parallel(20), f"agent {n}")],
    "700 hostile steps": lambda: [
        run(),
        *(tool(i, i, 1, name=HOSTILE, request=HOSTILE * 9, result="検" * 900, error="検" * 900) for i in range(700)),
    ],
    "300 sub-agents in one step": lambda: [
        run(), tool(1, 0, 9),
        *(run("inner", id=f"i{n}", parent_run="run-analyst", parent_ord=1, started=START + n / 99) for n in range(300)),
    ],
}  # fmt: skip


def renamed(events: list[Event], agent: str) -> list[Event]:
    return [
        replace(event, agent=agent, id=agent + event.id)
        if isinstance(event, Run)
        else replace(event, run=agent + event.run)
        for event in events
    ]


@pytest.mark.parametrize("name", HEAVY)
def test_what_a_cell_keeps_of_a_panel_stays_under_40_kb(name: str) -> None:
    trace = Trace.of(HEAVY[name]())
    output = {"data": render_html.bundle(trace, now=NOW), "metadata": render_html.metadata(trace)}
    assert len(json.dumps(output, ensure_ascii=False, indent=1).encode()) < 40_000


def test_many_equal_runs_are_one_row_with_their_times_the_failures_and_the_slowest() -> None:
    for shown in (said(many()), plain(many())):
        assert "classifier × 200" in shown and "5 failed, 195 done" in shown
        assert "took 0.3 s to 2.0 s, half of them under 0.6 s" in shown
        assert shown.count("3 × ModelHTTPError: status_code: 500") == 1
        assert shown.count("slowest: Classify review") == 3 and shown.count("failed: Classify review") == 3
    (group,) = (line for line in lines(Trace.of(many()), now=NOW) if isinstance(line, GroupLine))
    assert sum(group.histogram) == 200 and len(lines(Trace.of(many()), now=NOW)) == 7


def test_runs_inside_a_step_fold_too() -> None:
    assert "inner × 300" in said(HEAVY["300 sub-agents in one step"]())


def test_of_many_runs_those_that_wait_for_a_person_stay_in_sight() -> None:
    asked = tool(1, 0, None, run="m5", kind="approval", name="delete", status="started")
    waiting = [
        replace(event, status="running", ended=None) if isinstance(event, Run) and event.id == "m5" else event
        for event in many()
        if not (isinstance(event, Step) and event.run == "m5")
    ]
    shown = said([*waiting, asked])
    assert "waiting: Classify review 6" in shown and "%agent approve" in shown


def test_the_bundle_has_both_forms() -> None:
    trace = Trace.of([run(), replay(model(1, 0, 1))])
    assert render_html.bundle(trace, now=NOW) == {
        "text/html": render_html.html(trace, now=NOW),
        "text/plain": render_html.text(trace, now=NOW),
    }


def test_what_runs_again_is_not_yet_called_paid_twice() -> None:
    again = model(1, 0.0, None, status="started", attempt=2, maybe_paid_twice=True)
    assert "possibly paid twice" not in said([run(status="running"), again])
    assert "possibly paid twice" in said([run(status="stopped"), again])
