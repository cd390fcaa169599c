"""The one widget that asks a person, with its ready handshake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

VIEW = "application/vnd.jupyter.widget-view+json"
REFUSAL = 1_000
"""Characters of what is sent back to the page about a message that is refused."""


class AskWidget(anywidget.AnyWidget):
    """Shows `cards` and sends what is clicked. `settled` (question to text) is what has been decided since.

    `again`: the page is loaded again, which runs its notebook again.
    """

    _esm = (Path(__file__).parent / "ask.js").read_text(encoding="utf-8")
    cards = traitlets.List(traitlets.Dict()).tag(sync=True)
    settled = traitlets.Dict().tag(sync=True)
    again = traitlets.Bool(False).tag(sync=True)

    def view(self) -> dict[str, Any]:
        """The part of an output that shows this widget."""
        return {VIEW: {"version_major": 2, "version_minor": 1, "model_id": self.model_id}}


def ask_widget(cards: Sequence[dict[str, Any]], heard: Callable[[object], None]) -> AskWidget:
    """A widget whose messages go to `heard`, on whatever thread this kernel delivers them."""
    widget = AskWidget(cards=list(cards))
    widget.on_msg(lambda _widget, content, _buffers: heard(content))
    return widget
