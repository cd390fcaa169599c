"""What a tool shows while it works: kept with its step, so that a replay shows it again."""

from __future__ import annotations

import base64
from typing import Any

from agentkit.durable.frames import record_shown
from agentkit.engine.session import Session
from agentkit.notebook.display import show


def keep(shell: Any, session: Session) -> None:
    """Let the shell's display go through the journal, and replayed outputs back to the shell."""
    session.show = lambda bundle, source: show(bundle, raw=True)
    publisher = shell.display_pub
    if getattr(publisher.publish, "__module__", "") == __name__:
        return
    publish = publisher.publish

    def publish_and_keep(data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("update"):
            record_shown({mime: plain(value) for mime, value in data.items()})
        return publish(data, *args, **kwargs)

    publisher.publish = publish_and_keep


def plain(value: Any) -> Any:
    """A MIME value as JSON: pictures as base64, as the notebook file holds them."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
