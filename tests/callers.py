"""The callers that run on this machine, as the kernel of the operating system shows them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODULE = "agentkit.models.relay.server"


def callers(*, under: Path | None = None, runtime: Path | None = None) -> dict[int, str]:
    """The folder of each living caller by its process: of journals `under` a folder, or begun with that `runtime`."""
    found: dict[int, str] = {}
    # Where there is no such folder, as on macOS, only sockets are seen.
    for pid in [int(place.name) for place in Path("/proc").glob("[0-9]*")]:
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


@contextmanager
def runtime() -> Iterator[Path]:
    """A place for the sockets of the callers that are begun meanwhile, and of no others."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="run-") as place:
        os.environ["XDG_RUNTIME_DIR"] = place
        try:
            yield Path(place)
        finally:
            del os.environ["XDG_RUNTIME_DIR"]
            if before is not None:
                os.environ["XDG_RUNTIME_DIR"] = before


@contextmanager
def none_left() -> Iterator[None]:
    """What begins callers and lets them all end, with their sockets; what is left is an error, and ended here."""
    with runtime() as place:
        yield
        left = gone(runtime=place)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == {}, "a caller did not end by itself"
        assert sockets(place) == []


def left_after(place: Path, *, within: float) -> list[str]:
    """What is left of the callers begun with this runtime folder, a line each; nobody is ended."""
    left = [f"caller {pid} of {folder}" for pid, folder in gone(runtime=place, within=within).items()]
    return left + [f"socket {file}" for file in sockets(place)]


def _folder(pid: int) -> str | None:
    words = _words(pid, "cmdline")
    return words[words.index(_MODULE) + 1] if _MODULE in words[:-1] else None


def _words(pid: int, file: str) -> list[str]:
    """Nothing of a process that has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace").split("\0")
    except OSError:
        return []
