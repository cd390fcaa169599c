"""The system calls that a walled process may not make: a filter of Linux, for it and for all that it starts.

Written here because nothing kept does it: pyseccomp's last release is of 2021, and it takes a C library that a plain
Python does not come with. It is a list of what is refused, so that a new call of a new libc is not an error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_NEW_WORLDS = 0x7E020000 | 0x80
"""CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET and -TIME."""
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 and netlink, all of which end at a network world; a virtual machine's vsock does not."""

_MISSING = {
    # Memory that no process has mapped, and no limit counts.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    # Its flags lie in memory, where a filter does not look; without it libc takes `clone`.
    "clone3": (435, 435),
}
_FORBIDDEN = {
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """How a kind of processor is named to the kernel, and its numbers of the two calls whose arguments count."""

    audit: int
    place: int
    clone: int
    socket: int


_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, place=0, clone=56, socket=41),
    "aarch64": _Machine(audit=0xC00000B7, place=1, clone=220, socket=198),
}


class _Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step))]


def is_supported() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return platform.machine() in _MACHINES


def refuse_calls() -> None:
    """From here on, for good. Raises OSError where the system takes no filter."""
    steps = _steps(_MACHINES[platform.machine()])
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _steps(machine: _Machine) -> list[_Step]:
    steps = [
        _Step(_LOAD, 0, 0, _ARCH),
        _Step(_EQUAL, 1, 0, machine.audit),
        # Calls of another processor's kind have other numbers.
        _Step(_RETURN, 0, 0, _KILL),
        _Step(_LOAD, 0, 0, _NUMBER),
    ]
    if machine.place == 0:
        steps += [_Step(_ABOVE, 0, 1, _X32), _fail(errno.ENOSYS)]
    for calls, number in ((_MISSING, errno.ENOSYS), (_FORBIDDEN, errno.EPERM)):
        for numbers in calls.values():
            steps += [_Step(_EQUAL, 0, 1, numbers[machine.place]), _fail(number)]
    steps += [
        _Step(_EQUAL, 0, 4, machine.clone),
        _Step(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _Step(_ANY_BIT, 0, 1, _NEW_WORLDS),
        _fail(errno.EPERM),
        _Step(_RETURN, 0, 0, _ALLOW),
        _Step(_EQUAL, 0, 2 + 2 * len(_FAMILIES), machine.socket),
        _Step(_LOAD, 0, 0, _FIRST_ARGUMENT),
    ]
    for family in _FAMILIES:
        steps += [_Step(_EQUAL, 0, 1, family), _Step(_RETURN, 0, 0, _ALLOW)]
    return [*steps, _fail(errno.EAFNOSUPPORT), _Step(_RETURN, 0, 0, _ALLOW)]


def _fail(number: int) -> _Step:
    return _Step(_RETURN, 0, 0, _ERRNO | number)
