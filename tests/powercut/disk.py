"""A disk whose power can be cut: a file system on a loop device whose own file lies on a second, smaller-minded one.

Two layers of loop-mounted files in a mount namespace of their own. The journal lies on the inner file system. Its page
cache is lost by a cut because it is never written back; and what it has written to its device without a flush is lost
because it is only in the page cache of the outer file system, which is shut down without writing its log
(EXT4_IOC_SHUTDOWN): the volatile cache of a drive. Before the cut a random part of that cache is written, so that
writes that no flush had ordered also arrive out of order. A page of 4 KB is never torn.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

from tests.powercut.options import Kind

_SIZES: Final[dict[Kind, int]] = {"ext4": 64, "xfs": 320, "btrfs": 128}
"""MB, near the least that each can be made with."""
_BESIDE: Final = 48
_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = 2
_CHUNK: Final = 64 * 1024
_WRITTEN_BACK: Final = 0.3
_LETS_GO_SECONDS: Final = 20.0
"""How often the system happens to have written all of its page cache to the drive shortly before."""
_TOOLS: Final = ("unshare", "mount", "umount", "mkfs.ext4")
ALONE: Final = ("unshare", "--mount", "--propagation", "private")
"""Begins a command that is run in a mount namespace: whatever it mounts is gone when it ends, however it ends."""


class Disk:
    """Made and mounted in `folder`, by a process in a mount namespace of its own; `root` is the file system to use."""

    def __init__(self, folder: Path, *, kind: Kind, seed: int, size: int | None = None) -> None:
        self.root = folder / "inner"
        self._outer = folder / "outer"
        self._platter = folder / "platter"
        self._image = self._outer / "image"
        self._random = random.Random(seed)
        self.root.mkdir()
        self._outer.mkdir()
        megabytes = _SIZES[kind] if size is None else size
        _make_file(self._platter, megabytes + _BESIDE)
        _run("mkfs.ext4", "-q", self._platter)
        _run("mount", "-o", "loop", self._platter, self._outer)
        # Written in full: blocks that were never written are lost by a cut even when their content was not.
        _make_file(self._image, megabytes)
        _run(f"mkfs.{kind}", "-q", self._image)
        _sync(self._image)
        self._mount_inner()

    def cut(self) -> None:
        """Nothing that is written from now on arrives, nor what was written before and waits for a flush."""
        if self._random.random() < _WRITTEN_BACK:
            _run("sync", "-f", self.root)
        self._scatter()
        opened = os.open(self._outer, os.O_RDONLY)
        try:
            fcntl.ioctl(opened, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(opened)

    def restore(self) -> None:
        """Mount it again after a cut; nobody may have a file of it open."""
        self.unmount()
        _run("mount", "-o", "loop", self._platter, self._outer)
        self._mount_inner()

    def unmount(self) -> None:
        for place in (self.root, self._outer):
            # Who was killed lets go of its files a moment later, on a busy machine some seconds.
            end = time.monotonic() + _LETS_GO_SECONDS
            while True:
                try:
                    _run("umount", place)
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)

    def _mount_inner(self) -> None:
        _run("mount", "-o", "loop", self._image, self.root)

    def _scatter(self) -> None:
        """Let a random part of what waits in the drive's cache be written, as a drive does in the order it likes."""
        opened = os.open(self._image, os.O_RDONLY)
        part = self._random.random()
        try:
            for start in range(0, os.fstat(opened).st_size, _CHUNK):
                if self._random.random() < part:
                    os.posix_fadvise(opened, start, _CHUNK, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(opened)


def unable(kind: Kind = "ext4") -> str | None:
    """Why this machine cannot do it, found out by doing it once; None where it can."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root"
    missing = [tool for tool in (*_TOOLS, f"mkfs.{kind}") if shutil.which(tool, path=_path()) is None]
    if missing:
        return f"there is no {missing[0]} here"
    command = [*ALONE, sys.executable, "-m", "tests.powercut.disk", kind]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    return None if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["it failed"])[-1]


def _try(kind: Kind) -> None:
    """What is synced stays, what is not goes; an error where a cut does nothing of the sort."""
    with tempfile.TemporaryDirectory(prefix="agentkit-disk-") as folder:
        disk = Disk(Path(folder), kind=kind, seed=0, size=8 if kind == "ext4" else None)
        _write(disk.root / "synced", sync=True)
        _write(disk.root / "unsynced", sync=False)
        disk.cut()
        disk.restore()
        synced, unsynced = (disk.root / "synced").exists(), (disk.root / "unsynced").exists()
        disk.unmount()
    if not synced or unsynced:
        raise OSError(f"a cut here keeps other things than what was synced ({synced=}, {unsynced=})")


def _write(file: Path, *, sync: bool) -> None:
    file.write_bytes(b"x" * 9000)
    if sync:
        _sync(file)


def _sync(file: Path) -> None:
    opened = os.open(file, os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _make_file(file: Path, megabytes: int) -> None:
    with file.open("wb") as writing:
        for _ in range(megabytes):
            writing.write(bytes(2**20))


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _path()}


def _path() -> str:
    # Where a distribution keeps what only root needs.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def main(arguments: Sequence[str]) -> int:
    kind = next(each for each in get_args(Kind) if each == arguments[0])
    try:
        _try(kind)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
