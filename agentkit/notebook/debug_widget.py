"""The buttons under a paused run: each click is a move, made when the kernel is free, and drawn under the same cell."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from agentkit.debugger import overrides
from agentkit.debugger.command_log import Command
from agentkit.debugger.gate import Pending, arguments_json
from agentkit.debugger.stepper import DebugRun
from agentkit.errors import AgentKitError
from agentkit.notebook import error_output
from agentkit.notebook.output import show
from agentkit.notebook.widget import REFUSAL, VIEW
from agentkit.trace import format

_MOVES = {
    "Next": ("take this step", {"verb": "next"}),
    "Next into": ("pause inside the agent that it calls", {"verb": "next", "into": True}),
    "Next out": ("go on until the agent that this step is inside has answered", {"verb": "next", "out": True}),
    "Continue": ("go on to the end or the next breakpoint", {"verb": "continue"}),
    "Back": ("pause before the step taken last", {"verb": "back"}),
    "Stop": ("let go of the run; what is recorded is kept", {"verb": "stop"}),
}


_PLAIN = "to go back, or to change this step: Stop, then %agent back or %%agent edit in a cell of its own"
_MESSAGES = 200_000
"""Characters of messages up to which they can be changed in the widget."""


class StepWidget(anywidget.AnyWidget):
    """Shows the moves of `card` and sends the one that is clicked."""

    _esm = (Path(__file__).parent / "step.js").read_text(encoding="utf-8")
    card = traitlets.Dict().tag(sync=True)

    def bundle(self) -> dict[str, Any]:
        return {"text/plain": "", VIEW: {"version_major": 2, "version_minor": 1, "model_id": self.model_id}}


READY_SECONDS = 3.0
"""How long the front end may take to show the buttons and say that its clicks arrive."""


async def ask_move(step: Pending, *, run: str) -> Command | None:
    """The move that is clicked while the cell waits; None when this front end does not deliver clicks now, or Stop."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[object] = asyncio.Queue()
    card = _card(step, run=run)
    moves = [move for move in card["moves"] if move[0] not in ("Back", "Stop")]
    stop = ["Stop", "end the run here; a verb takes it up again", {"verb": "stop"}]
    widget = StepWidget(card={**card, "moves": [*moves, stop], "edits": {}, "note": _PLAIN})
    widget.on_msg(lambda _widget, content, _buffers: loop.call_soon_threadsafe(heard.put_nowait, content))
    handle = show(widget.bundle(), raw=True, display_id=True)
    try:
        await asyncio.wait_for(heard.get(), READY_SECONDS)
        while True:
            match await heard.get():
                case {"type": "move", "verb": "stop"}:
                    return None
                case {"type": "move", **content}:
                    try:
                        return _plain_move(content)
                    except AgentKitError as error:
                        # What the page sends may be anybody's: the step still waits for a move.
                        widget.send({"type": "refused", "text": format.clean(str(error), REFUSAL)})
    except TimeoutError:
        return None
    finally:
        handle.update({"text/plain": ""}, raw=True)
        widget.close()


class DebugButtons:
    """The buttons of one paused run under one cell; `redraw` draws there what the run came to."""

    def __init__(self, run: DebugRun, redraw: Callable[[], dict[str, Any] | None]) -> None:
        self._run = run
        self._redraw = redraw
        self._loop = asyncio.get_running_loop()
        # What a click leads to belongs under this cell, whichever one runs then.
        self._context = contextvars.copy_context()
        self._widget = StepWidget(card=self._card())
        # Which thread a click arrives on depends on the kernel's version.
        self._widget.on_msg(
            lambda _widget, content, _buffers: self._loop.call_soon_threadsafe(self._on_message, content)
        )
        self._handle = show(self._widget.bundle(), raw=True, display_id=True)
        self._task: asyncio.Task[None] | None = None

    def close(self, instead: dict[str, Any] | None = None) -> None:
        """Nothing that cannot be clicked any more stays in the notebook."""
        self._context.run(self._handle.update, instead or {"text/plain": ""}, raw=True)
        self._widget.close()

    def _on_message(self, content: object) -> None:
        if isinstance(content, dict) and content.get("type") == "move":
            self._task = self._loop.create_task(self._on_move(content), context=self._context.copy())

    async def _on_move(self, content: dict[str, Any]) -> None:
        self._widget.send({"type": "taken"})
        if content.get("verb") == "stop":
            await self._run.stop()
            self.close({"text/plain": f"{self._run.name}: no longer stepped; what is recorded is kept"})
            return
        try:
            await self._run.act(_move(self._run, content), by="click")
        except AgentKitError as error:
            self._widget.send({"type": "refused", "text": format.clean(str(error), REFUSAL)})
            return
        except Exception as error:  # noqa: BLE001 - a step raised what nobody here knows: one line, the rest is kept
            self._widget.send(
                {"type": "refused", "text": str(error_output.shorten_error(error, doing=f"{self._run.name}"))}
            )
            return
        answer = self._redraw()
        if answer is not None:
            self.close(answer)
        else:
            self._widget.card = self._card()

    def _card(self) -> dict[str, Any]:
        run = self._run
        card: dict[str, Any] = run.session.redactor.scrub_json(_card(run.pending, run=run.run, places=run.places))
        return card


def _move(run: DebugRun, content: dict[str, Any]) -> Command:
    """What was clicked, read with care: a message may say anything."""
    match content:
        case {"verb": "edit", "what": str(what), "text": str(text)} if what in overrides.WHATS:
            value, _ = run.session.redactor.restore(overrides.parse_value(what, text))  # type: ignore[arg-type]
            override = overrides.Override(at=run.editable(None), what=what, value=value)  # type: ignore[arg-type]
            return Command(verb="edit", edit=override.as_json())
        case _:
            return _plain_move(content)


def _plain_move(content: Mapping[Any, Any]) -> Command:
    match content:
        case {"verb": "next", "into": True}:
            return Command(verb="next", into=True)
        case {"verb": "next", "out": True}:
            return Command(verb="next", out=True)
        case {"verb": "goto", "to": str(to)}:
            return Command(verb="goto", to=overrides.format_path(overrides.read_path(to)))
        case {"verb": "next" | "continue" | "back" as verb}:
            return Command(verb=verb)
        case _:
            raise AgentKitError(f"no move is called {content.get('verb')!r}")


def _card(step: Pending | None, *, run: str, places: Sequence[str] = ()) -> dict[str, Any]:
    if step is None:
        moves = [[name, *_MOVES[name]] for name in ("Next", "Back", "Stop")]
        return {"at": "", "run": run, "moves": moves, "places": list(places), "edits": {}}
    senseless = {"Next into": step.kind != "tool", "Next out": len(step.at) == 1}
    names = [name for name in _MOVES if not senseless.get(name)]
    given = "" if step.given is None else json.dumps(step.given.value, ensure_ascii=False)
    written = {"arguments": arguments_json(step.arguments), "result": given}
    at = overrides.format_path(step.at)
    return {
        "at": at,
        "run": run,
        "moves": [[name, *_MOVES[name]] for name in names],
        "places": [place for place in places if place != at],
        "edits": _editable(step, written, given),
    }


def _editable(step: Pending, written: dict[str, str], given: str) -> dict[str, str]:
    match step.kind:
        case "tool":
            return written
        case "model":
            return {"hint": "", "reply": given, **_messages(step)}
        case "line":
            return {}


def _messages(step: Pending) -> dict[str, str]:
    text = json.dumps(step.messages_json(), indent=1, ensure_ascii=False)
    return {"messages": text} if len(text) <= _MESSAGES else {}
