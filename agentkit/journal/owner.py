"""Who is writing: an id that names process and boot, whose lock the kernel lets go of when the process dies."""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path
from typing import Final

from agentkit.journal.process_lock import FORMING, boot_id, has_holder, make_lock_file

_FORMING_SECONDS: Final = 60.0

# POSIX record locks belong to the process and any close of the file drops them, so a process never opens the file of
# an owner of its own: those are known by name here.
_own: set[str] = set()
_own_lock = threading.Lock()


class Owner:
    """The lock on `<folder>/<id>`, held until `release` or the end of the process."""

    __slots__ = ("_file", "_folder", "id")

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.id = f"{os.getpid()}-{boot_id()}-{secrets.token_hex(5)}"
        self._file = make_lock_file(folder, self.id)
        with _own_lock:
            _own.add(self.id)

    def release(self) -> None:
        (self._folder / self.id).unlink(missing_ok=True)
        os.close(self._file)
        with _own_lock:
            _own.discard(self.id)


def is_alive(folder: Path, owner: str) -> bool:
    """Whether the process that took `owner` still lives. Many may ask at once: asking takes a shared lock only."""
    if owner in _own:
        return True
    if "/" in owner:
        return False
    return has_holder(folder / owner)


def since_boot(owner: str) -> bool:
    """Whether `owner` began since the machine did: what it wrote unsynced is then still there, whatever killed it."""
    _, _, rest = owner.partition("-")
    began, dash, _ = rest.partition("-")
    return bool(dash) and began != "" and began == boot_id()


def sweep(folder: Path) -> None:
    """Remove the files of owners that are dead."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        forming = file.name.startswith(FORMING) and _age(file) < _FORMING_SECONDS
        if not forming and not is_alive(folder, file.name):
            file.unlink(missing_ok=True)


def forget_parent() -> None:
    """After a fork: locks are not inherited, so this process owns nothing yet."""
    global _own_lock
    _own_lock = threading.Lock()
    _own.clear()


def _age(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
