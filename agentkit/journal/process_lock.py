"""Files whose lock the system lets go of when the process that made them dies, and which boot of the machine it is."""

from __future__ import annotations

import fcntl
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Final

FORMING: Final = "new-"
"""How the name of a file begins that is being made."""

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def make_lock_file(folder: Path, name: str) -> int:
    """The handle of a new file, locked. Closing any handle of it drops the lock: its process never opens it again."""
    # Locked under a forming name and then renamed: nobody ever sees the final name without its lock.
    forming = folder / f"{FORMING}{name}"
    file = os.open(forming, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(forming, folder / name)
    return file


def has_holder(path: Path) -> bool:
    """Whether another process that made the file lives. Many may ask at once: asking takes a shared lock only."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(file)
    return False


@cache
def boot_id() -> str:
    """8 hex digits of this boot of the machine; empty where the system does not tell one boot from another."""
    try:
        told = _BOOT.read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(told).hexdigest()[:8]
