"""Which processes still live: each holds a lock on a file of its own until it ends, however it ends."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from agentkit.journal.process_lock import FORMING, has_holder, make_lock_file

# A process drops its record locks when it closes any handle of the file: it never opens one of its own again.
_own: dict[str, int] = {}
_lock = threading.Lock()


def appear(folder: Path) -> str:
    """An id that is present from now on until this process ends or leaves."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{os.getpid()}-{secrets.token_hex(5)}"
    file = make_lock_file(folder, name)
    with _lock:
        _own[name] = file
    return name


def leave(folder: Path, name: str) -> None:
    """Whatever `name` still holds is anybody's from now on."""
    with _lock:
        file = _own.pop(name, None)
    if file is not None:
        (folder / name).unlink(missing_ok=True)
        os.close(file)


def sweep(folder: Path) -> None:
    """Remove what processes that are gone have left behind."""
    for file in folder.iterdir():
        if not file.name.startswith(FORMING):
            present(folder, file.name)


def present(folder: Path, name: str) -> bool:
    """Whether the process that appeared under `name` still lives."""
    if name in _own and name.startswith(f"{os.getpid()}-"):
        return True
    if has_holder(folder / name):
        return True
    (folder / name).unlink(missing_ok=True)
    return False
