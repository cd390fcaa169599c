"""Durations as they are written, in options of tools, models and exports and in the headers of servers."""

from __future__ import annotations

import re

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
"""The seconds of each."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])?", re.IGNORECASE)


def parse_duration(text: str, *, bare: bool = True) -> float | None:
    """Return the seconds of `90s`, `1.5 h` or `7d`, None for what is no duration; `bare` numbers are seconds."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or (found[2] is None and not bare):
        return None
    return float(found[1]) * UNITS[(found[2] or "s").lower()]
