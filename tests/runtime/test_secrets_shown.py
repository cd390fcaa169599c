"""No secret is in what is shown of a record: the panel, what is saved with it, `agentkit journal show` and `ls`."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.cli.main import main
from agentkit.events import Event, Step
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from agentkit.trace import render_html
from agentkit.trace.trace import Trace
from tests.journal.tokens import HIDDEN, SECRETS, WITHIN

OURS = "our own pass/phrase+42 & more"
IN_ADDRESS = "environment, in an address"
FORMS = {**SECRETS, **WITHIN, "environment": OURS, IN_ADDRESS: quote(OURS, safe="")}


def needle(name: str) -> str:
    if name in WITHIN:
        return HIDDEN
    lines = FORMS[name].splitlines()
    return lines[min(1, len(lines) - 1)]


def holds(text: str, name: str) -> bool:
    secret = needle(name)
    encoded = base64.b64encode(FORMS[name].encode()).decode().rstrip("=")
    return any(one in kind for one in (secret, encoded) for kind in (text, html.unescape(text), text.replace("\\", "")))


def shown(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """Everything that the command line shows of a journal."""
    arguments = [["ls"]]
    with session("look", folder=folder) as opened:
        arguments += [["show", run.id] for run in opened.store.runs(limit=50)]
        steps = [number for number in range(1, 50) if opened.store.step(number) is not None]
        arguments += [["show", str(number)] for number in steps]
    assert len(arguments) > 3
    capsys.readouterr()
    for one in arguments:
        assert main(["journal", *one, "--journal", str(folder / ".agentkit")]) == 0
    return capsys.readouterr().out


def drawn(events: list[Event]) -> str:
    """Everything that the page shows of a run, saved with it."""
    trace = Trace.of(events)
    now = time.time()
    bundle = render_html.bundle(trace, now=now, open=True)
    return "\n".join(
        [*bundle.values(), json.dumps(render_html.metadata(trace)), render_html.text(trace, now=now, width=5_000)]
    )


def perform(folder: Path, secret: str, heard: Callable[[Event], None]) -> None:
    def tell(what: str) -> str:
        """Tell what there is."""
        print(f"printing {secret}")
        return f"it is {secret}"

    def fail(what: str) -> str:
        """Fail."""
        raise RuntimeError(f"no access with {secret}")

    model = ScriptedModel([Call("tell", {"what": secret}), Call("fail", {"what": secret})])
    with session("test", folder=folder) as opened:
        opened.listen(heard)
        agent = build(Spec(instructions="Look."), name="clerk", tools=[tell, fail], model=model)
        with pytest.raises(RuntimeError):
            asyncio.run(ask(agent, f"use {secret} for it"))
        answering = build(Spec(instructions=f"Say {secret}."), name="speaker", model=ScriptedModel([f"so {secret}."]))
        # What is encoded twice is not found (docs/security.md).
        once = OURS if secret == FORMS[IN_ADDRESS] else secret
        asyncio.run(ask(answering, base64.b64encode(once.encode()).decode()))


@pytest.mark.parametrize("name", FORMS)
def test_no_secret_is_in_what_is_shown_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("OUR_API_KEY", OURS)
    heard: list[Event] = []
    perform(tmp_path, FORMS[name], heard.append)
    texts: dict[str, str] = {"command line": shown(capsys, tmp_path), "live": drawn(heard)}
    with session("later", folder=tmp_path) as opened:
        for run in opened.store.runs(limit=50):
            texts[run.id] = drawn(opened.trace(run.id))
    for where, text in texts.items():
        assert "<secret:" in html.unescape(text), where
        assert not holds(text, name), (where, text)


def test_what_was_recorded_before_its_variable_was_set_is_not_shown_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record holds it, and `agentkit journal erase` removes it; from now on no panel and no listing shows it."""
    perform(tmp_path, OURS, lambda event: None)
    assert OURS in shown(capsys, tmp_path)
    monkeypatch.setenv("OUR_API_KEY", OURS)
    assert not holds(shown(capsys, tmp_path), "environment")
    with session("later", folder=tmp_path) as opened:
        for run in opened.store.runs(limit=50):
            assert not holds(drawn(opened.trace(run.id)), "environment")


def test_what_is_replayed_shows_no_secret_that_became_known_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell() -> str:
        """Tell what there is."""
        return f"it is {OURS}"

    def again() -> list[Event]:
        heard: list[Event] = []
        model = ScriptedModel.by(lambda messages: "told" if len(messages) > 1 else Call("tell", {}))
        with session("test", folder=tmp_path) as opened:
            opened.listen(heard.append)
            asyncio.run(ask(build(Spec(), name="clerk", tools=[tell], model=model), "go"))
        return heard

    assert OURS in drawn(again())
    monkeypatch.setenv("OUR_API_KEY", OURS)
    heard = again()
    assert any(isinstance(event, Step) and event.kind == "tool" and event.replayed for event in heard)
    assert not holds(drawn(heard), "environment") and "it is <secret:OUR_API_KEY>" in html.unescape(drawn(heard))
