"""Which JournalError a failure of SQLite or of the disk is."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from pathlib import Path
from pwd import getpwuid

from agentkit.errors import JournalBusy, JournalCorrupt, JournalError, JournalFormat, JournalFull, JournalReadOnly

_ROOM = "free some space and run again; every recorded step is kept"
_ANOTHERS = (
    "set AGENTKIT_HOME to a folder of your own; for the steps recorded here, ask {owner} for `agentkit journal export` "
    "and take its file in with `agentkit journal attach`"
)
_WRITABLE = "make it writable, set AGENTKIT_HOME to a folder that is, or read it with mode='replay'"


def translate(error: Exception, path: Path) -> Exception:
    """`error` as the journal's own error; anything that is not of SQLite or the disk comes back as it is."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return error if code is None else _of_sqlite(code, error, path)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error.errno, error, path)
    return error


def corrupt(path: Path, problem: str) -> JournalCorrupt:
    return JournalCorrupt(path, problem, "run `agentkit journal verify` to see what is whole, or put back a copy")


def newer(path: Path, found: int, known: int) -> JournalFormat:
    return JournalFormat(path, f"has format {found}, this agentkit reads up to {known}", "upgrade jupyter-agentkit")


def read_only(path: Path) -> JournalReadOnly:
    if (owner := shut_out(path)) is not None:
        return JournalReadOnly(
            path, f"belongs to {owner} alone, and you are another user", _ANOTHERS.format(owner=owner)
        )
    return JournalReadOnly(path, "cannot be written, so no live call is made", _WRITABLE)


def shut_out(path: Path) -> str | None:
    """Who owns the journal, when this user may not even look into it."""
    folder = path.parent
    try:
        status = folder.stat()
        if os.access(folder, os.X_OK, effective_ids=True):
            status = path.stat()
            if os.access(path, os.R_OK, effective_ids=True):
                return None
    except OSError:
        return None
    if status.st_uid == os.geteuid():
        return None
    try:
        return getpwuid(status.st_uid).pw_name
    except KeyError:
        return f"user {status.st_uid}"


def no_space(path: Path) -> JournalFull:
    return JournalFull(path, "no space is left on its disk", _ROOM)


def file_limit(path: Path) -> JournalFull:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return JournalFull(
        path,
        f"this process may not write files over {limit} bytes (ulimit -f)",
        "raise the file-size limit and run again; every recorded step is kept",
    )


def missing_file_error(path: Path) -> JournalError:
    return JournalError(
        path,
        "was deleted or replaced while it was open",
        "put the folder back, or restart the kernel to begin a new journal",
    )


def _of_sqlite(code: int, error: sqlite3.Error, path: Path) -> JournalError:
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return no_space(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return JournalBusy(path, "is held by another process", "close the other kernel and run again")
        case sqlite3.SQLITE_READONLY if code == sqlite3.SQLITE_READONLY_DBMOVED:
            return missing_file_error(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return read_only(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_FORMAT:
            return corrupt(path, f"is damaged ({error})")
        case sqlite3.SQLITE_ERROR:
            return corrupt(path, f"does not have the tables of a journal ({error})")
        case sqlite3.SQLITE_CANTOPEN:
            return _open_error(path)
        case sqlite3.SQLITE_IOERR:
            return _input_output(error, path)
        case _:
            return JournalError(path, f"SQLite says {error}", "run `agentkit journal verify`")


def _of_system(number: int, error: OSError, path: Path) -> JournalError:
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return no_space(path)
        case errno.EFBIG:
            return file_limit(path)
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return read_only(path)
        case errno.ENOENT:
            return missing_file_error(path)
        case _:
            return JournalError(path, f"cannot be used ({error.strerror})", "check its folder")


def _open_error(path: Path) -> JournalError:
    if not path.exists():
        return missing_file_error(path)
    if not all(os.access(each, os.W_OK, effective_ids=True) for each in (path, path.parent)):
        return read_only(path)
    return JournalError(path, "cannot be opened", "check its permissions and the open-file limit (ulimit -n)")


def _input_output(error: sqlite3.Error, path: Path) -> JournalError:
    # SQLite reports every failed write but ENOSPC as one I/O error: the limits of the process and disk tell which.
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return file_limit(path)
    try:
        free = os.statvfs(path.parent).f_bavail
    except OSError:
        return missing_file_error(path)
    if free == 0:
        return no_space(path)
    name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
    return JournalError(path, f"the disk reported an error ({name})", "check the disk; every recorded step is kept")
