"""What a step prints and displays while it works, as it is kept: in order, bounded, and told in short."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

Item: TypeAlias = dict[str, Any]
"""A MIME bundle that was displayed, or a `stream` with the `text` that was printed on it."""

PRINTED_CHARACTERS = 20_000
"""What is kept of a step's prints."""
_IN_SHORT_CHARACTERS = 2_000


def join_items(items: Sequence[Item], printed: int) -> list[Item]:
    """The items, prints that follow each other as one, and how much of `printed` characters was left out."""
    together: list[Item] = []
    for item in items:
        if together and "stream" in item and item["stream"] == together[-1].get("stream"):
            together[-1] = {**together[-1], "text": together[-1]["text"] + item["text"]}
        else:
            together.append(item)
    if (left := printed - PRINTED_CHARACTERS) > 0:
        together.append({"stream": "stdout", "text": f"\n… ({left:,} more characters were printed)"})
    return together


def in_short(body: bytes | None) -> str:
    """The items as text: a picture is named, a frame is its table in characters."""
    if body is None:
        return ""
    try:
        items = json.loads(body)
    except ValueError:
        # Not verified where many steps are listed; `agentkit journal verify` names it.
        return "(what it showed cannot be read)"
    # Of somebody else's record nothing is certain but that it is JSON.
    text = "".join(_text(item) for item in items if isinstance(item, dict)).rstrip()
    left = len(text) - _IN_SHORT_CHARACTERS
    return text if left <= 0 else f"{text[:_IN_SHORT_CHARACTERS]}… ({left:,} more characters)"


def _text(item: Item) -> str:
    if "stream" in item:
        return str(item.get("text", ""))
    picture = next((mime for mime in item if mime.startswith("image/")), None)
    if picture is not None:
        return f"[{picture}]\n"
    text = item.get("text/plain") or item.get("text/markdown") or ", ".join(item)
    return ("".join(text) if isinstance(text, list) else str(text)) + "\n"
