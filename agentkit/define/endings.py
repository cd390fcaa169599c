"""Where the answer of a model server ends: whether a stream of events that is over held the whole of one."""

from __future__ import annotations

import re

_END = (
    # Inside a text these stand with a backslash before each quote.
    rb'"(?:finish_reason|finishReason|stop_reason)"\s*:\s*"[^"]',
    rb"(?m:^data:\s*\[DONE\])",
    rb"(?m:^event:\s*(?:message_stop|error)\b)",
    rb'"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed|cancelled))"',
    # What went wrong is said in the stream: whoever reads it raises.
    rb'(?m:^data:\s*\{\s*"(?:error|type"\s*:\s*"error)")',
    # The counts of a whole chat come last, in an event without a choice.
    rb'"choices"\s*:\s*\[\s*\][^\n]*"usage"\s*:\s*\{|"usage"\s*:\s*\{[^\n]*"choices"\s*:\s*\[\s*\]',
)
_ENDED = re.compile(b"|".join(_END))
_KNOWN = re.compile(rb'"(?:choices|candidates)"\s*:|"type"\s*:\s*"(?:message_start|response\.[a-z_.]+)"')


def is_cut(events: bytes) -> bool:
    """Return whether this stream broke off: it says nothing, or begins an answer and does not say how it ended.

    What is in no protocol that is known here is taken for whole.
    """
    if not events.strip():
        return True
    return _KNOWN.search(events) is not None and _ENDED.search(events) is None
