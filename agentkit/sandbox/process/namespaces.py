"""What a child is cut off from: network, other processes and files, by Linux namespaces; without privileges.

Called in a process of one thread that runs nothing foreign yet. Each function raises OSError where the system refuses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from agentkit.sandbox.process import seccomp
from agentkit.sandbox.process.resources import Walls

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_AT_FDCWD, _AT_RECURSIVE, _MNT_DETACH = -100, 0x8000, 2
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/localtime", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_WRITABLE = ("/tmp", "/dev/shm")
_SCRATCH_BYTES = 256 << 20
_SCRATCH_FILES = 64 << 10
IN_MEMORY = {"none": (), "network": ("/run", "/dev/shm"), "everything": _WRITABLE}
"""The folders of a walled process that are memory."""
_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _syscall(what: str, *args: object) -> None:
    if _libc.syscall(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# -- dying together


def die_with_parent(signal: int) -> None:
    _call("prctl", _PR_SET_PDEATHSIG, signal, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes whose parent ends become children of this one: none gets lost."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide(hidden: bool) -> None:
    """Keep this process's memory and open files from others of the same user, or show them again."""
    _call("prctl", _PR_SET_DUMPABLE, 0 if hidden else 1, 0, 0, 0)


# -- before the fork


def leave_host() -> None:
    """Into a world without network; the next fork is the first of a new world of processes, and all die with it."""
    user, group = os.getuid(), os.getgid()
    # A user namespace of its own, also for root: without it root could walk back out.
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        needs = "; root needs CAP_SETFCAP for a user namespace" if user == 0 else ""
        raise OSError(error.errno, f"user namespace: {error.strerror}{needs}") from error


# -- after it


def close(walls: Walls, *, scratch: str, libraries: Iterable[str], memory: int | None) -> None:
    """Files are read-only but for `scratch`; with `everything`, there are none but Python's and its `libraries`'.

    Folders in memory take no more than `memory`.
    """
    _call("unshare", _CLONE_NEWNS)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    if walls == "everything":
        _narrow(scratch, libraries, _room(memory))
    else:
        _read_only(scratch, _room(memory))
    _leave_keyring()
    _give_up_privileges()
    if seccomp.is_supported():
        seccomp.refuse_calls()


def _room(memory: int | None) -> int:
    return _SCRATCH_BYTES if memory is None else min(memory, _SCRATCH_BYTES)


def _leave_keyring() -> None:
    """Into a session keyring of its own: the one of the kernel may hold the person's keys."""
    try:
        # It answers with a number.
        if _libc.syscall(_KEYCTL[platform.machine()], _KEYCTL_JOIN_SESSION_KEYRING, None) < 0:
            raise OSError(ctypes.get_errno(), "keyctl")
    except (KeyError, OSError) as error:
        # Where the system has no keys or lets nobody at them, it does not let the program at them either.
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace")]


def _attributes(path: str, flags: int, **changed: int) -> None:
    given = _Attributes(**changed)
    _syscall(
        f"mount_setattr {path}",
        _MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(path),
        flags,
        ctypes.byref(given),
        ctypes.sizeof(given),
    )


def _read_only(scratch: str, room: int) -> None:
    _mount(scratch, scratch, None, _MS_BIND)
    _attributes("/", _AT_RECURSIVE, set=_ATTR_RDONLY | _ATTR_NOSUID)
    _attributes(scratch, 0, clear=_ATTR_RDONLY)
    for folder in ("/run", "/dev/shm"):
        # The sockets of the system's services lie in the one, shared memory in the other.
        if os.path.isdir(folder) and not _is_inside(os.getcwd(), folder) and not _is_inside(scratch, folder):
            _empty(folder, room)
    _own_processes("/proc")
    os.chdir(os.getcwd())


def _empty(folder: str, room: int) -> None:
    # A file without content takes a kilobyte as well.
    _mount("none", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={room},nr_inodes={_SCRATCH_FILES}")


def _is_inside(path: str, folder: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real == root or real.startswith(f"{root}/")


def _own_processes(folder: str) -> bool:
    """Only the processes of this world. Where a container masks parts of /proc the system refuses a new one."""
    try:
        _mount("none", folder, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except PermissionError:
        return False
    return True


def _narrow(scratch: str, libraries: Iterable[str], room: int) -> None:
    root = os.path.join(scratch, "root")
    os.mkdir(root)
    _empty(root, _SCRATCH_BYTES)
    # Before the libraries: a virtual environment may lie in the temporary folder.
    for folder in _WRITABLE:
        os.makedirs(root + folder)
        _empty(root + folder, room)
    for path in (*_SYSTEM, *libraries):
        _show(path, root)
    for device in _DEVICES:
        _show(device, root)
    os.makedirs(f"{root}/proc", exist_ok=True)
    _own_processes(f"{root}/proc")
    os.chdir(root)
    _syscall("pivot_root", _PIVOT_ROOT[platform.machine()], b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    _attributes("/", _AT_RECURSIVE, set=_ATTR_RDONLY | _ATTR_NOSUID)
    for folder in _WRITABLE:
        _attributes(folder, 0, clear=_ATTR_RDONLY)
    os.chdir("/tmp")


def _show(path: str, root: str) -> None:
    """The same path below `root`; a link stays a link."""
    place = root + path
    if not os.path.lexists(path) or os.path.lexists(place):
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(path):
        shutil.copyfile(path, place, follow_symlinks=False)
        return
    if os.path.isdir(path):
        os.mkdir(place)
    else:
        Path(place).touch()
    _mount(path, place, None, _MS_BIND | _MS_REC)


def library_folders() -> list[str]:
    """Where Python and what is installed for it lies, the outer folders first."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    found |= {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    real = {os.path.abspath(path) for path in found} | {os.path.realpath(path) for path in found}
    return sorted(path for path in real if not any(_is_below(path, other) for other in (*_SYSTEM, *real)))


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def _give_up_privileges() -> None:
    """What was mounted stays as it is: the right to change it is given up, for programs it starts as well."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(_Header(0x20080522, 0)), ctypes.byref(nothing))


# -- memory


def limit_memory(size: int | None, *, spare: int) -> None:
    """At `size` bytes of private memory, and what is reserved already, an allocation fails. No core is dumped.

    Private memory that is reserved and never used counts too, so `spare` is left for it: for the exact measure the
    keeper looks at what is held. What is reserved by address only (RLIMIT_AS) would count libraries.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    hard = size + reserved_bytes() + spare + _LAST_WORDS
    hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(resource.RLIMIT_DATA, (max(0, hard - _LAST_WORDS), hard))


def free_reserve() -> None:
    """Room to say that memory ran out."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


_LAST_WORDS = 32 << 20


def reserved_bytes() -> int:
    """Bytes of private memory that are reserved and not held: the stacks of threads, the pools of libraries."""
    fields = status("self")
    return max(0, fields.get("VmData", 0) - fields.get("RssAnon", 0))


def status(pid: int | str) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    lines = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) << 10 for name, size, *_ in lines}
