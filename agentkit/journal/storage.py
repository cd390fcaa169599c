"""The folder under a journal: that it is there, private, and keeps room for a result that was already paid for."""

from __future__ import annotations

import os
import resource
import sqlite3
from pathlib import Path
from typing import Final

from agentkit.journal import database_errors

BALLAST: Final = 512 * 1024
_NETWORK: Final = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "beegfs",
        "gpfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "fuse.goofys",
        "fuse.juicefs",
    }
)  # fmt: skip
_CREATED: Final = ".gitignore"
JOURNAL_FILE: Final = "journal.db"


class StorageLocation:
    """`path` is the journal file; everything else lies beside it."""

    __slots__ = ("_identity", "_name", "_short", "owners", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = str(path)
        self.owners = path.parent / "owners"
        self._identity: tuple[int, int] | None = None
        self._short = False

    def prepare(self) -> None:
        """Make the folder and an empty file, both for this user only."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What comes out of an archive or a clone is open to others.
        if folder.name == ".agentkit":
            for made, rights in ((folder, 0o700), (self.path, 0o600)):
                if made.exists() and (status := made.stat()).st_uid == os.getuid() and status.st_mode & 0o077:
                    made.chmod(rights)
        try:
            # O_EXCL: closing a file that SQLite has open in this process would drop SQLite's locks on it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            if self.path.stat().st_size == 0 and (folder / _CREATED).exists():
                raise database_errors.corrupt(self.path, "was cut to nothing") from None

    def complete(self) -> None:
        """After the tables exist: mark the folder as made, keep it out of git, set room aside."""
        marker = self.path.parent / _CREATED
        if not marker.exists():
            _write(marker, b"*\n")
        self.remember()
        self._short = not self._set_aside()

    def remember(self) -> None:
        status = self.path.stat()
        self._identity = (status.st_dev, status.st_ino)

    def check(self) -> None:
        """Writes to a deleted file succeed and are lost: refuse them."""
        try:
            status = os.stat(self._name)
        except (FileNotFoundError, NotADirectoryError):
            raise database_errors.missing_file_error(self.path) from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise database_errors.missing_file_error(self.path)

    def reserve(self, connection: sqlite3.Connection) -> None:
        """Refuse an intent for which there would be no room to record the result."""
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            self._reserve_below(limit, connection)
        if self._short and not self._set_aside():
            raise database_errors.no_space(self.path)
        self._short = False

    def give_room(self) -> bool:
        """Let go of the space that was set aside; False when there was none."""
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        self._short = True
        return True

    def _reserve_below(self, limit: int, connection: sqlite3.Connection) -> None:
        if self._size("-wal") + BALLAST > limit:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if max(self._size(""), self._size("-wal")) + BALLAST > limit:
            raise database_errors.file_limit(self.path)

    @property
    def _ballast(self) -> Path:
        return self.path.parent / "ballast"

    def _size(self, suffix: str) -> int:
        try:
            return os.stat(f"{self.path}{suffix}").st_size
        except FileNotFoundError:
            return 0

    def _set_aside(self) -> bool:
        try:
            if self._ballast.stat().st_size >= BALLAST:
                return True
        except FileNotFoundError:
            pass
        return _allocate(self._ballast)


def journal_path(folder: Path | str | None, journal: Path | str | None) -> Path:
    """Where records go: `journal`, else $AGENTKIT_HOME, else `.agentkit/` in `folder` (the notebook's)."""
    if journal is not None:
        given = Path(journal).expanduser()
        return given if given.suffix == ".db" else given / JOURNAL_FILE
    home = os.environ.get("AGENTKIT_HOME")
    root = Path(home).expanduser() if home else Path(folder or Path.cwd()) / ".agentkit"
    return root / JOURNAL_FILE


def on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether `path` lies on a network file system, by the longest mount point above it."""
    best, kind = "", ""
    for line in (_mounts() if mounts is None else mounts).splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, fields[2]
    return kind in _NETWORK


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        # Not Linux: nothing is known, and SQLite's own locking errors are still reported.
        return ""


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def _allocate(path: Path) -> bool:
    forming = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        file = os.open(forming, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        # Really allocated: a sparse file would give nothing back.
        os.posix_fallocate(file, 0, BALLAST)
        os.rename(forming, path)
    except OSError:
        forming.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)
    return True
