"""The callers that run on this machine, as the kernel of the operating system shows them."""

from __future__ import annotations

import os
import time
from pathlib import Path

_MODULE = "agentkit.engine.caller"


def callers(*, under: Path | None = None, runtime: Path | None = None) -> dict[int, str]:
    """The folder of each living caller by its process: of journals `under` a folder, or begun with that `runtime`."""
    found: dict[int, str] = {}
    for pid in [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]:
        folder = _folder(pid)
        if folder is None:
            continue
        within = under is not None and Path(folder).is_relative_to(under)
        if within or (runtime is not None and f"XDG_RUNTIME_DIR={runtime}" in _words(pid, "environ")):
            found[pid] = folder
    return found


def gone(*, under: Path | None = None, runtime: Path | None = None, within: float = 8.0) -> dict[int, str]:
    """Those that are left when they were given some time to end by themselves."""
    deadline = time.monotonic() + within
    while (left := callers(under=under, runtime=runtime)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def sockets(runtime: Path) -> list[Path]:
    """Of callers begun with this XDG_RUNTIME_DIR."""
    return sorted(runtime.glob(f"agentkit-{os.getuid()}/*.sock"))


def _folder(pid: int) -> str | None:
    words = _words(pid, "cmdline")
    return words[words.index(_MODULE) + 1] if _MODULE in words[:-1] else None


def _words(pid: int, file: str) -> list[str]:
    """Nothing of a process that has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace").split("\0")
    except OSError:
        return []
