"""What a call reads from outside while it runs: files, databases, folders, variables, as Python's audit events tell."""

from __future__ import annotations

import functools
import genericpath
import glob
import hashlib
import os
import pathlib
import re
import site
import stat
import sys
import sysconfig
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

Input: TypeAlias = dict[str, Any]
"""One thing that was read, as JSON: a `path`, an `env`, a `folder`, or a pattern of `files`, with its state as it was.

A file has `size`, `mtime`, `ctime` and `sum`; without `size` it was absent. Where `ctime` is another one its content
is read again: what copies files often keeps their times. Of a folder or a pattern the `sum` is that of
the names; few of them are kept in `names`.
"""

HASHED_BYTES: Final = 64 << 20
"""Of a larger file only size and time are compared."""
MOST: Final = 500
"""How many inputs of one call are kept; a call that reads more says so."""
NAMES: Final = 100
"""Of a folder or pattern with more names only their digest is kept."""
_ENVIRONMENT: Final = 40
_NAME: Final = 4_096
_CHUNK: Final = 1 << 20
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_LISTS = frozenset({"os", "glob", "pathlib", "shutil", "posixpath", "fnmatch", "tempfile"})
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/lib32/", "/lib64/", "/run/", "/var/lib/")
_NOT_SYSTEM = ("/dev/shm/", "/usr/src/", "/run/media/")
_OWN = f"{os.sep}.agentkit{os.sep}"
# They read the sources of code that runs already, or that is about to: what they say is in the digest of the tool.
_READS_CODE = frozenset({"linecache.py", "tokenize.py", "inspect.py", "traceback.py", "warnings.py", "zipimport.py"})
_FINDS_CODE = frozenset({"importlib", "pkgutil", "pkg_resources"})
_WRITES = os.O_WRONLY | os.O_RDWR
_ANEW = os.O_TRUNC | os.O_EXCL
# They come and go beside what is read: hidden names, what Python compiles, what SQLite writes, what agentkit exports.
_PASSING = re.compile(r"\.|__pycache__$|.*(-wal|-shm|-journal|\.agentkit)$")
# A folder that changed so shortly before it was listed may change again without another time.
_TICK: Final = 100_000_000
_WILD = re.compile(r"[*?[]")
_MOST_WILD: Final = 2


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    # Our own package, wherever it was installed from.
    folders.add(str(Path(__file__).resolve().parents[1]))
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
    state = {"path": path, "size": found.st_size, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}
    if whole and stat.S_ISREG(found.st_mode) and found.st_size <= HASHED_BYTES:
        state["sum"] = _sum(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return state


@lru_cache(maxsize=4096)
def _sum(path: str, size: int, changed: int, moved: int) -> str | None:
    """The digest of a file's content, taken once for each state of it; None where it cannot be read."""
    whole = hashlib.blake2b(digest_size=20)
    try:
        with _silence(), open(path, "rb") as file:
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
    """The names that a pattern of files stands for now, but those that come and go by themselves."""
    start = _start(pattern)
    with _silence():
        settled = {} if _WILD.search(os.path.dirname(pattern)) else _folder_input(start)
        names = sorted(glob.glob(pattern, recursive=True))
    if not _PASSING.match(os.path.basename(pattern)):
        names = [name for name in names if not any(map(_PASSING.match, Path(name.removeprefix(start)).parts))]
    return {"files": pattern, **_names_input(names), **settled}


def folder(path: str) -> Input:
    """The names in a folder now, but those that come and go by themselves; only its path where it is none."""
    try:
        with _silence():
            settled = _folder_input(path)
            names = sorted(name for name in os.listdir(path) if not _PASSING.match(name))
    except OSError:
        return {"folder": path}
    return {"folder": path, **_names_input(names), **settled}


def _folder_input(path: str) -> Input:
    """The time of a folder, as long as a name that comes next must change it."""
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        return {}
    return {"mtime": changed} if time.time_ns() - changed > _TICK else {}


def _names_input(names: Sequence[str]) -> Input:
    listed = "\n".join(names).encode(errors="replace")
    found: Input = {"count": len(names), "sum": hashlib.blake2b(listed, digest_size=20).hexdigest()}
    if len(names) <= NAMES and all(len(name) < _NAME and name.isprintable() for name in names):
        found["names"] = list(names)
    return found


def compare_names(before: Input, after: Input) -> tuple[list[str], list[str]] | None:
    """Which names came and which went; None where they were too many to keep."""
    if any("count" in one and "names" not in one for one in (before, after)):
        return None
    old, new = (set(one.get("names", ())) for one in (before, after))
    return sorted(new - old), sorted(old - new)


def difference(before: Input, after: Input) -> str:
    """The first names that came or went, in brackets; empty where they are not known."""
    came, went = compare_names(before, after) or ([], [])
    told = [f"{'with' if new else 'without'} {name}" for new, names in ((True, came), (False, went)) for name in names]
    return f" ({', '.join(told[:3])}{', …' if len(told) > 3 else ''})" if told else ""


def is_cheap_pattern(pattern: str) -> bool:
    """Whether to look for a pattern takes little, whoever wrote it: below this folder, and not at every depth."""
    parts = Path(pattern).parts
    wild = [part for part in parts if _WILD.search(part)]
    return not os.path.isabs(pattern) and not {"..", "**"} & set(parts) and len(wild) <= _MOST_WILD


def read_now(recorded: Input) -> Input:
    """The same thing as it is now; its content only where size or time differ."""
    if "env" in recorded:
        return variable(recorded["env"])
    if "files" in recorded:
        return recorded if _has_same_time(_start(recorded["files"]), recorded) else files(recorded["files"])
    if "folder" in recorded:
        return recorded if _has_same_time(recorded["folder"], recorded) else folder(recorded["folder"])
    found = state_of(recorded["path"], whole=False)
    same = all(found.get(name) == recorded.get(name) for name in ("size", "mtime"))
    same = same and recorded.get("ctime") in (None, found.get("ctime"))
    if same or found.get("size") != recorded.get("size") or recorded.get("sum") is None:
        return found | ({"sum": recorded["sum"]} if same and "sum" in recorded else {})
    return state_of(recorded["path"])


def _has_same_time(path: str, recorded: Input) -> bool:
    """Whether nothing came into a folder or went since: its own time says so, without a look at its names."""
    try:
        return "mtime" in recorded and os.stat(path).st_mtime_ns == recorded["mtime"]
    except OSError:
        return False


def is_same(recorded: Input, found: Input) -> bool:
    """Whether a thing is as it was: by content where that was recorded, else by size and time."""
    if "folder" in recorded or (recorded.get("sum") is not None and found.get("sum") is not None):
        return bool(recorded.get("sum") == found.get("sum"))
    return all(recorded.get(name) == found.get(name) for name in ("size", "mtime", "sum"))


def is_absent(found: Input) -> bool:
    """Whether there is no such thing: no file, no variable, no folder, no file of that name."""
    if "path" in found:
        return "size" not in found
    return not found.get("count") if "files" in found else "sum" not in found


def name_of(one: Input) -> str:
    if "folder" in one:
        return os.path.join(one["folder"], "")
    return str(one.get("path") or (f"env:{one['env']}" if "env" in one else one.get("files")))


_FORM: Final = {
    "path": str, "env": str, "files": str, "folder": str, "sum": str, "size": int, "mtime": int, "ctime": int,
    "count": int,
    "names": list,
}  # fmt: skip


def is_report(value: object) -> bool:
    """Whether it has the form of what `Recorder.conclude` gives: it may come from a process that is not trusted."""
    if not isinstance(value, dict) or value.keys() != {"inputs", "wrote", "unseen"}:
        return False
    if not all(isinstance(each, list) and len(each) <= 2 * MOST for each in value.values()):
        return False
    named = all(_is_input(one) for name in ("inputs", "wrote") for one in value[name])
    return named and all(isinstance(text, str) and len(text) < _NAME for text in value["unseen"])


def _is_input(one: object) -> bool:
    if not isinstance(one, dict) or len(one.keys() & {"path", "env", "files", "folder"}) != 1:
        return False
    if "files" in one and "count" not in one:
        return False
    names = one.get("names", [])
    if not isinstance(names, list) or len(names) > NAMES or not all(type(name) is str for name in names):
        return False
    return all(
        type(each) is _FORM.get(name) and all(len(text) < _NAME for text in (each, *names) if isinstance(text, str))
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
        self._variables: dict[str, Input] = {}
        self._whole_environment = False
        self._sets: list[Input] = []
        self._listed: dict[tuple[str, str], Input] = {}
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
        with _silence():
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

    def add_listing(self, path: str) -> None:
        self._look("folder", path, folder)

    def add_search(self, pattern: str) -> None:
        self._look("files", pattern, files)

    def _look(self, kind: str, what: str, state: Callable[[str], Input]) -> None:
        if (kind, what) in self._listed:
            return
        if len(self._listed) >= MOST:
            self._left_out += 1
            return
        self._listed[kind, what] = state(what)

    def add_write(self, path: str) -> None:
        self._written.add(os.path.abspath(path))

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

    def add_blind_spot(self, through: str) -> None:
        self._unseen.add(through)

    def take(self, others: Mapping[str, Any]) -> None:
        """What a process that did the work heard."""
        with self._lock:
            self._read |= {one["path"]: one for one in others.get("inputs", ()) if "path" in one}
            self._variables |= {one["env"]: one for one in others.get("inputs", ()) if "env" in one}
            # As that process left them: nothing came in or went since, as far as it goes.
            self._sets += [one for one in others.get("inputs", ()) if "folder" in one]
            for pattern in (one["files"] for one in others.get("inputs", ()) if "files" in one):
                if is_cheap_pattern(pattern):
                    self._sets.append(files(pattern))
                else:
                    self._unseen.add(f"the files {pattern}")
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
        listed = [one for what in sorted(self._listed) if (one := self._input_left(*what, unseen)) is not None]
        if self._left_out:
            unseen.append(f"{self._left_out} more files or folders")
        wrote = [state_of(path) for path in sorted(self._written)][:MOST]
        return {"inputs": [*inputs, *self._sets, *listed], "wrote": wrote, "unseen": unseen}

    def _input_left(self, kind: str, what: str, unseen: list[str]) -> Input | None:
        """A folder or pattern as the call left it, its own files with it; None where the call took it away."""
        before = self._listed[kind, what]
        after = folder(what) if kind == "folder" else files(what)
        if before.get("count") and not os.path.isdir(_start(what) if kind == "files" else what):
            return None
        others = [name for names in compare_names(before, after) or () for name in names]
        within = what if kind == "folder" else ""
        foreign = [name for name in others if os.path.abspath(os.path.join(within, name)) not in self._written]
        if foreign and "count" in before:
            unseen.append(f"what came into {name_of(after)} or went while it ran ({', '.join(foreign[:3])})")
        return after


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
                threading.Thread.start = _watch_start(threading.Thread.start)  # type: ignore[assignment,method-assign]
            # The object that everybody holds stays; reading from it is told.
            os.environ.__class__ = _Environment
            # No audit event tells of these; the functions that everybody has imported stay, and ask through this.
            genericpath.os = _AskingOs("os")  # type: ignore[attr-defined]
            pathlib.Path.stat = _stat_told(pathlib.Path.stat)  # type: ignore[method-assign]


@contextmanager
def _silence() -> Iterator[None]:
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
    with _silence():
        try:
            heard(found, args, sys._getframe(1))
        except (OSError, ValueError, TypeError):
            # An event raised here would fail the call; what could not be looked at is named instead.
            found.add_blind_spot(event)


def _on_open(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    path, mode, flags = args
    if isinstance(path, int) or _reads_code(frame):
        return
    given = os.fsdecode(path)
    name = os.path.abspath(given)
    if mode is None and not os.path.isabs(given) and not os.path.lexists(name) and not flags & os.O_CREAT:
        # Named from an open folder (`dir_fd`), and nobody says which.
        if not is_library(frame.f_code.co_filename):
            found.add_blind_spot("a folder that it opened")
        return
    if not _is_outside(name):
        return
    both = "+" in mode if isinstance(mode, str) else bool(flags & os.O_RDWR)
    if set(mode) & set("wx") if isinstance(mode, str) else flags & _ANEW:
        found.add_write(name)
    elif both:
        # Whether it was also written shows when the call has ended.
        found.read(name)
    elif "a" in mode if isinstance(mode, str) else flags & _WRITES:
        found.add_write(name)
    else:
        found.read(name)


def _on_list(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    inner = list(_listing_frames(frame))
    asking = inner[-1].f_back if inner else frame
    searches = any(os.path.basename(each.f_code.co_filename) == "glob.py" for each in inner) or any(
        each.f_code.co_name in ("glob", "rglob") for each in inner
    )
    searches |= any("rmtree" in each.f_code.co_name for each in inner)
    # What a pattern stands for is heard as a whole; what is taken away is listed for nothing else.
    if searches or asking is None or _reads_code(asking):
        return
    path = args[0] if args and args[0] is not None else "."
    # Where a folder is only known by its number, Linux tells its name.
    path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
    path = os.path.abspath(path)
    if _counts(path, asking):
        found.add_listing(path)


def _on_glob(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    pattern, recursive, root, descriptor = args
    if descriptor is not None:
        found.add_blind_spot("a pattern in an open folder")
        return
    pattern = os.fsdecode(pattern)
    _look_for(found, pattern if recursive else re.sub(r"\*\*+", "*", pattern), root, frame)


def _on_rglob(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    _look_for(found, str(args[1]), args[0], frame)


def _on_recursive_glob(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    _look_for(found, os.path.join("**", str(args[1])), args[0], frame)


def _look_for(found: Recorder, pattern: str, root: Any, frame: Any) -> None:
    inner = list(_listing_frames(frame))
    asking = inner[-1].f_back if inner else frame
    pattern = os.path.join(glob.escape(os.path.abspath(os.fsdecode(root or "."))), pattern)
    if asking is not None and not _reads_code(asking) and _counts(_start(pattern), asking):
        found.add_search(_below_here(pattern))


def _listing_frames(frame: Any) -> Iterator[Any]:
    """The frames of Python's own that list folders for somebody, from the inside out."""
    while frame is not None and (frame.f_globals.get("__name__") or "").partition(".")[0] in _LISTS:
        yield frame
        frame = frame.f_back


def _counts(path: str, asking: Any) -> bool:
    """Whether a listing says something: not where libraries look for code or for a place of their own."""
    if path == os.path.realpath(tempfile.gettempdir()) or not _is_outside(os.path.join(path, "")):
        return False
    sought = {os.path.abspath(each) for each in sys.path}
    return path not in sought or not is_library(asking.f_code.co_filename)


def _start(pattern: str) -> str:
    """The folder that a pattern begins in."""
    before = os.path.dirname(_WILD.split(pattern, maxsplit=1)[0]) if _WILD.search(pattern) else os.path.dirname(pattern)
    return before or "."


def _below_here(pattern: str) -> str:
    """A pattern below this folder as it is from here, so that a record of it can be read elsewhere."""
    return pattern.removeprefix(os.path.join(glob.escape(os.getcwd()), ""))


def _on_connect(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    name = os.fsdecode(args[0])
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").partition("?")[0])
        name = f"/{name.lstrip('/')}" if name.startswith("//") else name
    if name and name != ":memory:" and not name.startswith("file:") and _is_outside(os.path.abspath(name)):
        found.database(os.path.abspath(name))


def _on_rename(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    for path in args[:2]:
        if isinstance(path, str | bytes | os.PathLike):
            found.add_write(os.fsdecode(path))


def _on_remove(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    if isinstance(args[0], str | bytes | os.PathLike) and args[1:2] in ((-1,), (None,), ()):
        found.add_write(os.fsdecode(args[0]))


def _on_mkdir(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    if isinstance(args[0], str | bytes | os.PathLike) and args[-1] == -1:
        path = os.path.abspath(os.fsdecode(args[0]))
        if _is_outside(path) and not _reads_code(frame):
            found.add_write(path)


def _began_process(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    while frame is not None and os.path.basename(frame.f_code.co_filename) == "subprocess.py":
        frame = frame.f_back
    if frame is not None and not _reads_code(frame):
        found.add_blind_spot(
            f"the program {os.path.basename(os.fsdecode(args[0]))}" if args and args[0] else "a program"
        )


def _began_thread(found: Recorder, args: tuple[Any, ...], frame: Any) -> None:
    thread = getattr(args[0], "__self__", None) if args else None
    if isinstance(thread, threading.Thread):
        _threads[thread] = found


def _watch_start(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """`Thread.start` where Python has no audit event of it yet."""

    @functools.wraps(start)
    def start_watched(self: threading.Thread) -> None:
        if (found := recorder()) is not None:
            _threads[self] = found
        start(self)

    return start_watched


_EVENTS: Final = {
    "open": _on_open,
    "os.listdir": _on_list,
    "os.scandir": _on_list,
    "glob.glob/2": _on_glob,
    "pathlib.Path.glob": _on_rglob,
    "pathlib.Path.rglob": _on_recursive_glob,
    "os.mkdir": _on_mkdir,
    "os.rmdir": _on_mkdir,
    "sqlite3.connect": _on_connect,
    "os.rename": _on_rename,
    "os.remove": _on_remove,
    "subprocess.Popen": _began_process,
    "os.system": _began_process,
    "_thread.start_new_thread": _began_thread,
}


def _reads_code(frame: Any) -> bool:
    """Whether an import, a traceback or agentkit itself is at work."""
    name = frame.f_code.co_filename
    module = (frame.f_globals.get("__name__") or "").partition(".")[0]
    if name.startswith("<frozen importlib") or module in _FINDS_CODE or os.path.basename(name) in _READS_CODE:
        return True
    own = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
    return name.startswith(own) and is_library(name)


def _is_outside(path: str) -> bool:
    """Whether a file belongs neither to Python, nor to a library, nor to the system, nor to a person's settings."""
    return _is_outside_from(path, os.getcwd())


@lru_cache(maxsize=4096)
def _is_outside_from(path: str, here: str) -> bool:
    if _OWN in path or is_library(path):
        return False
    if path.startswith((os.path.join(here, ""), *_NOT_SYSTEM)):
        return True
    return not path.startswith((*_SYSTEM, os.path.join(os.path.expanduser("~"), ".")))


# ---- whether a file is there, and what it is


class _AskingOs(ModuleType):
    """`os` for `os.path.exists`, `isfile`, `isdir`, `getsize` and `getmtime`, which tells what they ask about."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        _ask_about(path)
        return os.stat(path, *args, **kwargs)


def _stat_told(stat: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    @functools.wraps(stat)
    def asking(self: Path, *args: Any, **kwargs: Any) -> os.stat_result:
        _ask_about(self)
        return stat(self, *args, **kwargs)

    return asking


def _ask_about(path: Any) -> None:
    """Tell that the code of a call asks about a file: whether it is there, or also of what size and time it is."""
    if getattr(_deaf, "on", False) or not isinstance(path, str | bytes | os.PathLike):
        return
    found = recorder()
    if found is None:
        return
    frame: FrameType | None = sys._getframe(2)
    asked = ""
    while frame is not None:
        if (frame.f_globals.get("__name__") or "").partition(".")[0] in _ASKS_FOR_OTHERS:
            asked = frame.f_code.co_name
        elif frame.f_globals is not globals():
            break
        frame = frame.f_back
    if asked in _LISTS_PATHS:
        # What it finds is heard as a listing.
        return
    with _silence():
        name = os.path.abspath(os.fsdecode(path))
        if frame is None or is_library(frame.f_code.co_filename) or not _is_outside(name):
            return
        if asked in _IS_THERE or os.path.isdir(name):
            found.add_search(_below_here(glob.escape(name)))
        else:
            found.read(name)


_ASKS_FOR_OTHERS = frozenset({"genericpath", "posixpath", "pathlib"})
_LISTS_PATHS = frozenset({"glob", "rglob", "iterdir", "walk", "_walk"})
_IS_THERE = frozenset({"exists", "isfile", "isdir", "is_file", "is_dir"})
_HAND_ON = frozenset({"os", "_collections_abc", "collections.abc"})


class _Environment(os._Environ):  # type: ignore[type-arg]
    """`os.environ` that tells which variables the code of a call reads."""

    def __getitem__(self, name: Any) -> Any:
        found = recorder()
        if found is not None and isinstance(name, str) and not getattr(_deaf, "on", False) and _asks(sys._getframe(1)):
            with _silence():
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
