"""Who tries what at the sandbox's tiers: objects handed in, other users of the machine, a system without privileges."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.errors import UserError
from agentkit.sandbox.process.parent import Child
from agentkit.sandbox.process.resources import Box

ROOT = Path(__file__).parents[2]

# ---- objects handed in with --in


class Hostile:
    """What pickling, printing or looking at it would run leaves a file."""

    def __init__(self, ran: Path) -> None:
        self.__dict__["_ran"] = ran

    def _touch(self, *args: Any) -> Any:
        self.__dict__["_ran"].touch()
        raise AssertionError("something of it was called")

    __repr__ = __str__ = __reduce__ = __reduce_ex__ = __getstate__ = __iter__ = __len__ = __bool__ = _touch
    __call__ = __eq__ = __array__ = __fspath__ = __index__ = __float__ = _touch

    def __hash__(self) -> int:
        return 1

    @property
    def model_dump(self) -> Any:
        return self._touch()

    @property
    def tz(self) -> Any:
        return self._touch()


@pytest.mark.parametrize("tier", ["monty", "process"])
def test_an_input_that_cannot_enter_is_refused_by_its_type_and_nothing_of_it_runs(tier: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for given in (Hostile(ran), [Hostile(ran)], {"a": Hostile(ran)}, {Hostile(ran): 1}, (1, {2: Hostile(ran)})):
        with pytest.raises(UserError, match=r"given.* is a .*Hostile, which cannot"):
            asyncio.run(agentkit.sandbox("1", inputs={"given": given}, tier=tier))
    assert not ran.exists()


# ---- other users of the machine


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def entered(folder: Path) -> list[Path]:
    """What another user can come to: the folders that are open to all, and what lies in them."""
    found = []
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            found.append(path)
        if stat.S_ISDIR(mode) and mode & 0o011:
            found += entered(path)
    return found


def seen_by_nobody(path: Path) -> bool:
    """Whether a process of another user can read or list it."""
    return (
        subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", "-R", str(path)],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def test_what_a_session_and_its_sandboxes_leave_is_their_user_s_alone(
    tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o777)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    tmp_path.chmod(0o777)
    with agentkit.session("test", folder=tmp_path):
        for tier in ("monty", "process"):
            result: Any = asyncio.run(agentkit.sandbox("print('a secret')\nx = 1", outputs=["x"], tier=tier))
            assert result.outputs == {"x": 1}
        busy, ends = threading.Event(), []
        job = {
            "kind": "cell",
            "source": "print('up')\nimport time\ntime.sleep(5)",
            "file": "c",
            "inputs": {},
            "outputs": [],
        }
        child = Child(job, Box(seconds=20, walls="network"), heard=lambda text: busy.set())
        thread = threading.Thread(target=lambda: ends.append(child.wait()))
        thread.start()
        assert busy.wait(20)
        left = [path for path in (tmp_path / ".agentkit", *temporary.iterdir()) if path.exists()]
        assert [path.name for path in left if path.name.startswith("agentkit-")], "the child's own folder is there"
        closed = {path: stat.S_IMODE(path.stat().st_mode) for path in left}
        assert set(closed.values()) == {0o700}, closed
        if os.getuid() == 0:
            assert not [path for path in left if seen_by_nobody(path)]
        child.stop()
        thread.join(10)
    assert entered(tmp_path) == [temporary]


# ---- without root, and without user namespaces

ATTEMPTS = """
import json, os, socket, sys
from agentkit.sandbox.process.parent import Child, walls_stand
from agentkit.sandbox.process.resources import Box
def run(source, **box):
    job = dict(kind="cell", source=source, file="c", inputs={}, outputs=[])
    ended = Child(job, Box(**{"seconds": 20, "walls": "everything", **box})).wait()
    return ended.reply.get("value", ended.reply.get("kind", ended.attempt.how))
with socket.create_server(("127.0.0.1", 0)) as listening:
    port = listening.getsockname()[1]
    told = {
        "stand": walls_stand(),
        "uid": os.getuid(),
        "network": run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"),
        "file": run(f"open({__file__!r})"),
        "write": run("open('/usr/x', 'w')"),
        "kill": run(f"import os; os.kill({os.getpid()}, 0)"),
        "memory": run("f = open('/dev/shm/x', 'wb')\\nfor _ in range(200): f.write(b'1' * (1 << 20))", memory=64 << 20),
        "mount": run("import ctypes; ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
        "tmp": run("open('/tmp/x', 'w').write('ab')"),
    }
print(json.dumps(told))
"""
HOLDS = {
    "stand": None,
    "network": "OSError",
    "file": "FileNotFoundError",
    "write": "OSError",
    "kill": "ProcessLookupError",
    "memory": "memory",
    "mount": -1,
    "tmp": 2,
}


def attempt(tmp_path: Path, *command: str) -> Any:
    import json

    script = tmp_path / "attempts.py"
    script.write_text(ATTEMPTS)
    done = subprocess.run([*command, sys.executable, script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_the_process_tier_holds_without_root(tmp_path: Path) -> None:
    """A user with no privilege of any kind, as in a container that runs as one."""
    told = attempt(tmp_path, "unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert told.pop("uid") == 1000
    assert told == HOLDS


def test_root_without_its_privileges_is_refused_in_one_line(tmp_path: Path) -> None:
    """Linux gives root a world of its own only with CAP_SETFCAP: a container that dropped it cannot cut off."""
    told = attempt(tmp_path, "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    if told.pop("uid") != 0:
        assert told == HOLDS
        return
    stands = told.pop("stand")
    assert stands == "user namespace: Operation not permitted; root needs CAP_SETFCAP for a user namespace"
    assert set(told.values()) == {"refused"}


def test_without_user_namespaces_the_process_tier_says_so_and_the_first_tier_runs(tmp_path: Path) -> None:
    program = """
import asyncio, agentkit
print(asyncio.run(agentkit.sandbox("1 + 1")).value)
try:
    asyncio.run(agentkit.sandbox("open('ran', 'w')", tier="process"))
except agentkit.AgentKitError as error:
    print(error)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    closed = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", closed, "sh", sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    two, refused = done.stdout.splitlines()
    assert two == "2"
    assert refused.startswith(
        "tier='process' cannot run here, for a process cannot be cut off on this system: unshare: "
    )
    assert not (tmp_path / "ran").exists()
