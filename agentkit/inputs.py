"""What a call reads from outside while it runs: files, databases, folders, variables, as Python's audit events tell."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
import site
import stat
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

Input: TypeAlias = dict[str, Any]
"""One thing that was read, as JSON: `path` or `env`, with `size`, `mtime` and `sum` as they were; no `size`: absent.

Of a folder `sum` is that of the names in it, and `size` 0. Where `ctime` is another one the content is read again: what
copies files often keeps their times.
"""

HASHED_BYTES: Final = 64 << 20
"""Of a larger file only size and time are compared."""
LISTED_NAMES: Final = 50_000
"""Of a folder with more names only the time is compared."""
MOST: Final = 500
"""How many inputs of one call are kept; a call that reads more says so."""
_ENVIRONMENT: Final = 40
_NAME: Final = 4_096
_CHUNK: Final = 1 << 20
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/lib32/", "/lib64/", "/run/", "/var/lib/")
_NOT_SYSTEM = ("/dev/shm/", "/usr/src/", "/run/media/")
_OWN = f"{os.sep}.agentkit{os.sep}"
# They read the sources of code that runs already, or that is about to: what they say is in the digest of the tool.
_READS_CODE = frozenset({"linecache.py", "tokenize.py", "inspect.py", "traceback.py", "warnings.py", "zipimport.py"})
# They list the folders where modules are.
_LISTS_CODE = frozenset({"importlib", "importlib_metadata", "pkgutil", "pkg_resources"})
_WRITES = os.O_WRONLY | os.O_RDWR
_ANEW = os.O_TRUNC | os.O_EXCL


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    # Our own package, wherever it was installed from.
    folders.add(str(Path(__file__).resolve().parent))
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in sorted(folders))


@lru_cache(maxsize=4096)
def is_library(filename: str) -> bool:
    """Whether a file belongs to an installed package or to Python: its version stands for its content."""
    if filename.startswith("<frozen"):
        return True
    return os.path.realpath(filename).startswith(_library_folders())


# ---- the state of a file, a variable, a set of files


def state_of(path: str, *, whole: bool = True) -> Input:
    """The file as it is now; with `whole` its content too, where it is not larger than `HASHED_BYTES`."""
    try:
        found = os.stat(path)
    except OSError:
        return {"path": path}
    folder = stat.S_ISDIR(found.st_mode)
    size = 0 if folder else found.st_size
    state = {"path": path, "size": size, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}
    if whole and folder:
        state["sum"] = _names(path)
    elif whole and stat.S_ISREG(found.st_mode) and size <= HASHED_BYTES:
        state["sum"] = _sum(path, size, found.st_mtime_ns, found.st_ctime_ns)
    return state


def _names(path: str) -> str | None:
    """The digest of what a folder holds, by name; None where that cannot be read or is too much.

    What editors, notebooks and Python put beside the files of a person is left out.
    """
    names: list[str] = []
    try:
        with _unheard(), os.scandir(path) as entries:
            for entry in entries:
                if len(names) >= LISTED_NAMES:
                    return None
                if not entry.name.startswith(".") and entry.name != "__pycache__":
                    names.append(entry.name)
    except OSError:
        return None
    listed = "\0".join(sorted(names)).encode(errors="surrogateescape")
    return hashlib.blake2b(b"folder\0" + listed, digest_size=20).hexdigest()


@lru_cache(maxsize=4096)
def _sum(path: str, size: int, changed: int, moved: int) -> str | None:
    """The digest of a file's content, taken once for each state of it; None where it cannot be read."""
    whole = hashlib.blake2b(digest_size=20)
    try:
        with _unheard(), open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                whole.update(chunk)
    except OSError:
        return None
    return whole.hexdigest()


def variable(name: str) -> Input:
    """The variable as it is now. Of one that looks like a secret only whether it is set counts: keys are renewed."""
    value = os.environ.get(name)
    if value is None:
        return {"env": name}
    if _SECRET.search(name):
        return {"env": name, "sum": "set"}
    return {"env": name, "sum": hashlib.blake2b(value.encode(errors="replace"), digest_size=20).hexdigest()}


def files(pattern: str) -> Input:
    """The names that a pattern of files stands for now."""
    with _unheard():
        names = sorted(glob.glob(pattern, recursive=True))
    listed = "\n".join(names).encode(errors="replace")
    return {"files": pattern, "count": len(names), "sum": hashlib.blake2b(listed, digest_size=20).hexdigest()}


def now(recorded: Input) -> Input:
    """The same thing as it is now; its content only where size or time differ."""
    if "env" in recorded:
        return variable(recorded["env"])
    if "files" in recorded:
        return files(recorded["files"])
    found = state_of(recorded["path"], whole=False)
    same = all(found.get(name) == recorded.get(name) for name in ("size", "mtime"))
    same = same and recorded.get("ctime") in (None, found.get("ctime"))
    if same or found.get("size") != recorded.get("size") or recorded.get("sum") is None:
        return found | ({"sum": recorded["sum"]} if same and "sum" in recorded else {})
    return state_of(recorded["path"])


def is_same(recorded: Input, found: Input) -> bool:
    """Whether a thing is as it was: by content where that was recorded, else by size and time."""
    if recorded.get("sum") is not None and found.get("sum") is not None:
        return bool(recorded["sum"] == found["sum"])
    return all(recorded.get(name) == found.get(name) for name in ("size", "mtime", "sum"))


def is_absent(found: Input) -> bool:
    return "path" in found and "size" not in found


def name_of(one: Input) -> str:
    return str(one.get("path") or (f"env:{one['env']}" if "env" in one else one.get("files")))


_FORM: Final = {
    "path": str,
    "env": str,
    "files": str,
    "sum": str,
    "size": int,
    "mtime": int,
    "ctime": int,
    "count": int,
}


def is_heard(value: object) -> bool:
    """Whether it has the form of what `Recorder.conclude` gives: it may come from a process that is not trusted."""
    if not isinstance(value, dict) or value.keys() != {"inputs", "wrote", "unseen"}:
        return False
    if not all(isinstance(each, list) and len(each) <= 2 * MOST for each in value.values()):
        return False
    named = all(_is_input(one) for name in ("inputs", "wrote") for one in value[name])
    return named and all(isinstance(text, str) and len(text) < _NAME for text in value["unseen"])


def _is_input(one: object) -> bool:
    if not isinstance(one, dict) or len(one.keys() & {"path", "env", "files"}) != 1:
        return False
    return all(
        type(each) is _FORM.get(name) and (not isinstance(each, str) or len(each) < _NAME)
        for name, each in one.items()
        if not (name == "sum" and each is None)
    )


# ---- what is heard while a call runs


class Recorder:
    """Hears what one call reads and writes. `declared` are patterns of files and `env:NAME`, as its tool says them."""

    def __init__(self, declared: Sequence[str] = (), files: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._read: dict[str, Input] = {}
        self._written: set[str] = set()
        self._folders: dict[str, Input] = {}
        self._variables: dict[str, Input] = {}
        self._whole_environment = False
        self._sets: list[Input] = []
        self._unseen: set[str] = set()
        self._left_out = 0
        self._concluded: dict[str, Any] | None = None
        for each in declared:
            self._declare(each)
        for path in files:
            self.database(path)

    def _declare(self, what: str) -> None:
        if what.startswith("env:"):
            name = what.removeprefix("env:")
            self._variables[name] = variable(name)
            return
        found = files(what)
        self._sets.append(found)
        with _unheard():
            for path in glob.glob(what, recursive=True):
                self.read(path)

    def read(self, path: str) -> None:
        path = os.path.abspath(path)
        if path in self._read or path in self._written:
            return
        if len(self._read) >= MOST:
            self._left_out += 1
            return
        found = state_of(path, whole=False)
        if is_absent(found) or stat.S_ISREG(os.stat(path).st_mode):
            self._read[path] = found

    def listed(self, path: str) -> None:
        """A folder whose names are read."""
        if path in self._read or path in self._written:
            return
        if len(self._read) >= MOST:
            self._left_out += 1
        elif not is_absent(found := self._folders.get(path) or state_of(path, whole=False)):
            self._read[path] = found

    def wrote(self, path: str) -> None:
        path = os.path.abspath(path)
        self._written.add(path)
        self.may_fill(os.path.dirname(path))

    def may_fill(self, folder: str) -> None:
        """A folder that a file may be about to come to or go from: whether one did shows when the call has ended."""
        if folder not in self._folders and len(self._folders) < MOST:
            self._folders[folder] = state_of(folder, whole=False)

    def database(self, path: str) -> None:
        """A file that a connection reads, with the log beside it; whether it writes shows when it has ended."""
        self.read(path)
        self.read(f"{path}-wal")

    def variable(self, name: str) -> None:
        if len(self._variables) <= _ENVIRONMENT and not self._whole_environment:
            self._variables.setdefault(name, variable(name))

    def environment(self) -> None:
        """All variables at once, most often to hand them on: which of them count nobody can say."""
        self._whole_environment = True

    def unseen(self, through: str) -> None:
        self._unseen.add(through)

    def take(self, others: Mapping[str, Any]) -> None:
        """What a process that did the work heard."""
        with self._lock:
            self._read |= {one["path"]: one for one in others.get("inputs", ()) if "path" in one}
            self._variables |= {one["env"]: one for one in others.get("inputs", ()) if "env" in one}
            self._written |= {one["path"] for one in others.get("wrote", ())}
            self._unseen |= set(others.get("unseen", ()))

    @property
    def ended(self) -> bool:
        return self._concluded is not None

    def conclude(self) -> dict[str, Any]:
        """What was read and is still as it was read, what was written, and what could not be seen; reads the files."""
        with self._lock:
            if self._concluded is None:
                self._concluded = self._conclude()
            return self._concluded

    def _conclude(self) -> dict[str, Any]:
        inputs: list[Input] = []
        self._written |= {
            path for path, before in self._folders.items()
            if before.get("mtime") != state_of(path, whole=False).get("mtime")
        }  # fmt: skip
        for path, before in sorted(self._read.items()):
            after = state_of(path)
            if path in self._written:
                continue
            if "sum" in before:
                inputs.append(before)
            elif all(before.get(name) == after.get(name) for name in ("size", "mtime")):
                # A log that is not there says as much as an empty one.
                if not (path.endswith("-wal") and not after.get("size")):
                    inputs.append(after)
            else:
                self._written.add(path)
        unseen = sorted(self._unseen)
        if len(self._variables) > _ENVIRONMENT:
            self._whole_environment = True
            self._variables.clear()
        if self._whole_environment:
            unseen.append("os.environ as a whole")
        inputs += [self._variables[name] for name in sorted(self._variables)]
        if self._left_out:
            unseen.append(f"{self._left_out} more files")
        wrote = [state_of(path) for path in sorted(self._written)][:MOST]
        return {"inputs": [*inputs, *self._sets], "wrote": wrote, "unseen": unseen}


_recorder: ContextVar[Recorder | None] = ContextVar("agentkit_inputs", default=None)
_threads: weakref.WeakKeyDictionary[threading.Thread, Recorder] = weakref.WeakKeyDictionary()
_deaf = threading.local()
_installed = threading.Lock()
_hears = False


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Let `recorder` hear what this context reads: its tasks and threads too."""
    _install()
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def recorder() -> Recorder | None:
    """The one that hears what runs here."""
    found = _recorder.get()
    if found is None:
        # A thread that a call has begun knows nothing of its context.
        found = _threads.get(threading.current_thread())
    return None if found is None or found.ended else found


def _install() -> None:
    global _hears
    with _installed:
        if not _hears:
            _hears = True
            sys.addaudithook(_hear)
            if sys.version_info < (3, 12):
                threading.Thread.start = _started(threading.Thread.start)  # type: ignore[assignment,method-assign]
            # The object that everybody holds stays; reading from it is told.
            os.environ.__class__ = _Environment


@contextmanager
def _unheard() -> Iterator[None]:
    before = getattr(_deaf, "on", False)
    _deaf.on = True
    try:
        yield
    finally:
        _deaf.on = before


def _hear(event: str, args: tuple[Any, ...]) -> None:
    heard = _EVENTS.get(event)
    if heard is None or getattr(_deaf, "on", False):
        return
    found = recorder()
    if found is None:
        return
    with _unheard():
        try:
            heard(found, args, sys._getframe(1))
        except (OSError, ValueError, TypeError):
            # An event raised here would fail the call; what could not be looked at is named instead.
            found.unseen(event)


def _opened(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    path, mode, flags = args
    if isinstance(path, int) or _reads_code(frame):
        return
    given = os.fsdecode(path)
    name = os.path.abspath(given)
    if mode is None and not os.path.isabs(given) and not os.path.lexists(name) and not flags & os.O_CREAT:
        # Named from an open folder (`dir_fd`), and nobody says which.
        if not is_library(frame.f_code.co_filename):
            found.unseen("a folder that it opened")
        return
    if not _is_outside(name, os.getcwd()):
        return
    both = "+" in mode if isinstance(mode, str) else bool(flags & os.O_RDWR)
    if set(mode) & set("wx") if isinstance(mode, str) else flags & _ANEW:
        found.wrote(name)
    elif both:
        # Whether it was also written shows when the call has ended.
        found.may_fill(os.path.dirname(name))
        found.read(name)
    elif "a" in mode if isinstance(mode, str) else flags & _WRITES:
        found.wrote(name)
    else:
        found.read(name)


def _listed(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    path = "." if args[0] is None else args[0]
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    if isinstance(path, int) or package in _LISTS_CODE or _reads_code(frame):
        return
    name = os.path.abspath(os.fsdecode(path))
    # With its end: a folder of libraries, or the working folder, is meant by itself too.
    if _is_outside(os.path.join(name, ""), os.getcwd()):
        found.listed(name)


def _filled(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    if isinstance(args[0], str | bytes | os.PathLike) and args[-1] in (-1, None):
        found.may_fill(os.path.dirname(os.path.abspath(os.fsdecode(args[0]))))


def _connected(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    name = os.fsdecode(args[0])
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").partition("?")[0])
        name = f"/{name.lstrip('/')}" if name.startswith("//") else name
    if name and name != ":memory:" and not name.startswith("file:") and _is_outside(os.path.abspath(name), os.getcwd()):
        found.database(os.path.abspath(name))


def _moved(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    for path in args[:2]:
        if isinstance(path, str | bytes | os.PathLike):
            found.wrote(os.fsdecode(path))


def _removed(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    if isinstance(args[0], str | bytes | os.PathLike) and args[1:2] in ((-1,), (None,), ()):
        found.wrote(os.fsdecode(args[0]))


def _began_process(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    while frame is not None and os.path.basename(frame.f_code.co_filename) == "subprocess.py":
        frame = frame.f_back
    if frame is not None and not _reads_code(frame):
        found.unseen(f"the program {os.path.basename(os.fsdecode(args[0]))}" if args and args[0] else "a program")


def _began_thread(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    thread = getattr(args[0], "__self__", None) if args else None
    if isinstance(thread, threading.Thread):
        _threads[thread] = found


def _started(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """`Thread.start` where Python has no audit event of it yet."""

    @functools.wraps(start)
    def starting(self: threading.Thread) -> None:
        if (found := recorder()) is not None:
            _threads[self] = found
        start(self)

    return starting


_EVENTS: Final = {
    "open": _opened,
    "os.listdir": _listed,
    "os.scandir": _listed,
    "os.mkdir": _filled,
    "os.rmdir": _filled,
    "sqlite3.connect": _connected,
    "os.rename": _moved,
    "os.remove": _removed,
    "subprocess.Popen": _began_process,
    "os.system": _began_process,
    "_thread.start_new_thread": _began_thread,
}


def _reads_code(frame: Any) -> bool:
    """Whether an import, a traceback or agentkit itself is at work."""
    name = frame.f_code.co_filename
    if name.startswith("<frozen importlib") or os.path.basename(name) in _READS_CODE:
        return True
    return os.path.dirname(os.path.abspath(__file__)) == os.path.dirname(os.path.dirname(name)) and is_library(name)


@lru_cache(maxsize=4096)
def _is_outside(path: str, here: str) -> bool:
    """Whether a file belongs neither to Python, nor to a library, nor to the system, nor to a person's settings."""
    if _OWN in path or is_library(path):
        return False
    if path.startswith((os.path.join(here, ""), *_NOT_SYSTEM)):
        return True
    return not path.startswith((*_SYSTEM, os.path.join(os.path.expanduser("~"), ".")))


_HAND_ON = frozenset({"os", "_collections_abc", "collections.abc"})


class _Environment(os._Environ):  # type: ignore[type-arg]
    """`os.environ` that tells which variables the code of a call reads."""

    def __getitem__(self, name: Any) -> Any:
        found = recorder()
        if found is not None and isinstance(name, str) and not getattr(_deaf, "on", False) and _asks(sys._getframe(1)):
            with _unheard():
                found.variable(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[Any]:
        found = recorder()
        if found is not None and not getattr(_deaf, "on", False) and _asks(sys._getframe(1)):
            found.environment()
        return super().__iter__()


def _asks(frame: Any) -> bool:
    """Whether it is the person's own code that asks: what libraries look up for themselves is no input."""
    while frame is not None and (frame.f_globals.get("__name__") in _HAND_ON or frame.f_code.co_name == "expandvars"):
        frame = frame.f_back
    return frame is not None and not is_library(frame.f_code.co_filename)
