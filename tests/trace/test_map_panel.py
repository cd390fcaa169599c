"""The panel of a map: whatever its length it says the same things, stays small, and cannot be broken out of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.map.progress import BIN_EDGES, KINDS, SLOWEST, BatchStanding, SlowRow, Snapshot
from agentkit.trace.budget_bars import BarLine
from agentkit.trace.format import width_of
from agentkit.trace.map_panel import render_html, render_line, render_text, state_of
from tests.browser import lab

MOST_BYTES = 40_000
HOSTILE = "</div><script>alert(1)</script>\"'>&amp;\u202eabc\x00\x1b[31m"
BINS = len(BIN_EDGES) + 1
RUNNING = Snapshot(
    total=250_000, live=41_230, replayed=62_000, failures=(("ModelHTTPError 500", 31), ("Timeout", 10)), in_flight=140,
    workers=150, seconds=3_721.0, rate=38.4, eta=3_817.0, spent=12.44, saved=18.7, expected=56.73, tokens=48_200_112,
    server_wait=312.5, slowest=(SlowRow(ordinal=7, label="Bosch drill", seconds=48.2),),
    histogram=(0, 0, 40, 820, 4_100, 6_200, 1_900, 300, 45, 4, 0, 0, 0),
)  # fmt: skip
ENDED = replace(RUNNING, in_flight=0, eta=None, expected=None, finished=True)
BUDGET = BarLine(scope="catalogue", said="$60.00 of $60.00 per run", share=1.0)
STATES = {
    "begins": Snapshot(total=250_000, workers=20),
    "empty": Snapshot(total=0),
    "running": RUNNING,
    "unknown length": replace(RUNNING, total=None, eta=None, expected=None),
    "waiting": replace(RUNNING, in_flight=0, waiting=3, live=187_956, eta=None),
    "done": replace(ENDED, live=188_000, failures=()),
    "some failed": replace(ENDED, live=187_959),
    "many failed": replace(ENDED, live=0, failures=tuple((f"Kind{n}", 188_000 // 20) for n in range(20))),
    "stopped": replace(ENDED, reason="stopped by you"),
    "budget": replace(ENDED, reason="the budget of the map is reached"),
    "unpriced": replace(RUNNING, spent=0.0, expected=None, unpriced=41_230, estimated=True),
}
LARGEST = Snapshot(
    total=10**9, live=10**8, replayed=10**8, waiting=10**6, in_flight=500, workers=500, seconds=1e7, rate=999.0,
    eta=1e7, spent=1e6, saved=1e6, expected=1e7, unpriced=5, tokens=10**13, server_wait=1e7, estimated=True,
    failures=tuple((HOSTILE * 200, 10**6) for _ in range(KINDS + 1)), histogram=(10**7,) * BINS, reason=HOSTILE * 500,
    slowest=tuple(SlowRow(ordinal=10**9, label=HOSTILE * 200, seconds=1e6) for _ in range(SLOWEST)),
)  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of the panel: its text, and whether every tag is one of ours and closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said = ""
        self.open: list[str] = []
        self.bars: list[dict[str, str | None]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "span", "b", "bdi"}
        assert all(re.fullmatch("style|class|title|role|aria-[a-z]+", name) for name, _ in attrs)
        self.open.append(tag)
        if dict(attrs).get("role") == "progressbar":
            self.bars.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def said(snapshot: Snapshot, *, budget: BarLine | None = None) -> str:
    return " ".join(Reader(render_html(snapshot, title="catalogue", budget=budget)).said.split())


@pytest.mark.parametrize("name", STATES)
def test_each_state_is_whole_in_every_form(name: str) -> None:
    snapshot = STATES[name]
    html, text = said(snapshot, budget=BUDGET), render_text(snapshot, title="catalogue", budget=BUDGET)
    line = render_line(snapshot, title="catalogue")
    assert html.startswith("catalogue · ") and text.startswith("catalogue · ") and line.startswith("catalogue")
    assert all(width_of(row) <= 100 for row in [*text.splitlines(), line]) and "\n" not in line
    for reason in filter(None, [snapshot.reason]):
        assert reason in html and reason in text


def test_what_a_person_plans_by_is_said() -> None:
    html, text = said(RUNNING, budget=BUDGET), render_text(RUNNING, title="catalogue", budget=BUDGET)
    for words in (
        "running…", "103,230 of 250,000 rows", "41 %", "62,000 replayed", "41,230 live", "41 failed", "140 under way",
        "38.4 rows/s", "1 h 04 min", "1 h 02 min so far", "$12.44", "≈ $56.73 expected", "$18.70 saved", "48.2 M",
        "140 of 150", "5 min 12 s", "$60.00 of $60.00 per run", "ModelHTTPError 500", "Timeout", "48.2 s", "row 7",
        "Bosch drill",
    ):  # fmt: skip
        assert words in html, words
        assert words in text, words
    assert "146,589 to come" in html


def test_what_is_not_known_is_not_said() -> None:
    html = said(STATES["begins"])
    assert "begins…" in html and "not known yet" in html and "about" not in html and "expected" not in html
    assert "unpriced" in said(STATES["unpriced"]) and "$0" not in said(STATES["unpriced"]).replace("$0.0", "")
    assert "%" not in said(STATES["unknown length"])


def test_what_to_do_next_is_said() -> None:
    assert "decide about them" in said(STATES["waiting"])
    assert "run it again to ask them" in said(STATES["some failed"])
    stopped = said(STATES["stopped"])
    assert "146,729 rows were not asked: run it again and it goes on with them" in stopped
    assert "not asked" not in said(STATES["done"])


def test_what_providers_say_of_batches_is_said_and_bounded() -> None:
    told = BatchStanding(
        id="batch_7", provider="openai", status="in_progress", rows=500, answered=120, failed=2, created=1.8e9
    )
    untold = replace(told, id="msgbatch_1", provider="anthropic", answered=None, failed=0)
    hostile = replace(told, id=HOSTILE * 50, provider=HOSTILE * 50, status=HOSTILE * 50)
    snapshot = replace(RUNNING, batches=(told, untold, hostile, told, told))
    html, text = said(snapshot), render_text(snapshot, title="catalogue")
    for words in (
        "batch batch_7 at openai: 120 of 500 rows answered (2 with an error), in progress since",
        "batch msgbatch_1 at anthropic: 500 rows, in progress since",
        "and 2 more batches",
        "Stop does not stop a batch at its provider",
    ):
        assert words in html, words
        assert words in text, words
    assert len(render_html(snapshot, title="catalogue").encode()) < MOST_BYTES
    assert "<script>" not in render_html(snapshot, title="catalogue")
    assert "480 of 2,500 answered in 5 batches" in render_line(snapshot, title="catalogue", width=160)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("empty", "empty"), ("begins", "running"), ("running", "running"), ("waiting", "waiting"), ("done", "done"),
        ("some failed", "failed"), ("stopped", "stopped"), ("budget", "stopped"),
    ],
)  # fmt: skip
def test_the_state_is_the_one_that_matters(name: str, state: str) -> None:
    assert state_of(STATES[name]) == state


def test_a_reader_of_the_screen_hears_how_far_it_is() -> None:
    (bar,) = Reader(render_html(RUNNING, title="catalogue")).bars
    assert (bar["aria-valuenow"], bar["aria-valuemax"], bar["aria-valuemin"]) == ("103271", "250000", "0")
    assert bar["aria-valuetext"] == "running…: 103,230 of 250,000 rows"


def test_whatever_ran_it_is_small() -> None:
    html, text = render_html(LARGEST, title=HOSTILE * 99, budget=BUDGET), render_text(LARGEST, title=HOSTILE * 99)
    assert len(html.encode()) + len(text.encode()) <= MOST_BYTES
    assert max(len(render_html(state, title="x").encode()) for state in STATES.values()) < 16_000
    assert "<script>" in Reader(html).said  # as text


def numbers() -> st.SearchStrategy[int]:
    return st.integers(0, 10**12)


@given(
    st.builds(
        Snapshot,
        total=st.none() | numbers(),
        live=numbers(),
        replayed=numbers(),
        waiting=numbers(),
        in_flight=st.integers(0, 500),
        workers=st.integers(1, 500),
        rate=st.none() | st.floats(1e-6, 1e6),
        eta=st.none() | st.floats(0, 1e12),
        spent=st.floats(0, 1e9),
        saved=st.floats(0, 1e9),
        expected=st.none() | st.floats(0, 1e12),
        unpriced=numbers(),
        seconds=st.floats(0, 1e9),
        failures=st.lists(st.tuples(st.text(), numbers().filter(bool)), max_size=KINDS + 1).map(tuple),
        histogram=st.lists(numbers(), min_size=BINS, max_size=BINS).map(tuple),
        slowest=st.lists(
            st.builds(SlowRow, ordinal=numbers(), label=st.text(), seconds=st.floats(0, 1e9)), max_size=SLOWEST
        ).map(tuple),
        finished=st.booleans(),
        reason=st.text(),
    ),
    st.text(),
    st.integers(20, 200),
)
def test_any_map_can_be_drawn(snapshot: Snapshot, title: str, width: int) -> None:
    html = render_html(snapshot, title=title)
    Reader(html)
    assert len(html.encode()) <= MOST_BYTES
    assert width_of(render_line(snapshot, title=title, width=width)) <= width
    assert all(width_of(row) <= width for row in render_text(snapshot, title=title, width=width).split("\n"))


def test_the_line_keeps_its_figures_when_there_is_no_room_for_the_bar() -> None:
    wide, narrow = render_line(RUNNING, title="catalogue", width=120), render_line(RUNNING, title="catalogue", width=86)
    assert "█" in wide and "█" not in narrow
    for line in (wide, narrow):
        assert "103,230/250,000" in line and "38.4 rows/s" in line and "1 h 04 min" in line and "41 failed" in line


@pytest.fixture(scope="module")
def show() -> Iterator[Callable[[str, int, str], Any]]:
    """A page of Chromium as wide as a notebook, in the colours of a theme."""
    with lab.browser() as browser:

        def draw(html: str, width: int, theme: str) -> Any:
            page = browser.new_page(viewport={"width": width, "height": 900})
            back, fore = ("#fff", "#000") if theme == "light" else ("#111", "#eee")
            page.set_content(f'<body style="margin:0;background:{back};color:{fore};font-family:sans-serif">{html}')
            return page

        yield draw


@pytest.mark.parametrize("width", [1400, 800, 420])
@pytest.mark.parametrize("name", [*STATES, "largest"])
def test_nothing_stands_out_of_the_panel(show: Callable[[str, int, str], Any], name: str, width: int) -> None:
    snapshot = LARGEST if name == "largest" else STATES[name]
    page = show(render_html(snapshot, title="catalogue over products", budget=BUDGET), width, "light")
    wide, out = page.evaluate(
        """() => [document.documentElement.scrollWidth, [...document.querySelectorAll("body :not(bdi)")].filter(
             e => e.getBoundingClientRect().right > document.body.firstChild.getBoundingClientRect().right + 1
           ).map(e => e.textContent.slice(0, 40))]"""
    )
    page.close()
    assert wide <= width and out == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_bar_has_each_part_in_its_share(show: Callable[[str, int, str], Any], theme: str, tmp_path: Path) -> None:
    page = show(render_html(RUNNING, title="catalogue"), 1400, theme)
    widths = page.evaluate(
        """() => [...document.querySelector('[role=progressbar]').children].map(e => e.getBoundingClientRect().width
             / document.querySelector('[role=progressbar]').getBoundingClientRect().width)"""
    )
    page.close()
    assert widths == [
        pytest.approx(62_000 / 250_000, abs=0.002),
        pytest.approx(41_230 / 250_000, abs=0.002),
        pytest.approx(0.004, abs=0.001),
        pytest.approx(0.004, abs=0.001),
    ]
