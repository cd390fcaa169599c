"""Real children: what they really allocate, reach, start and leave behind."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentkit.sandbox.process import namespaces as walls
from agentkit.sandbox.process.parent import Child, ChildEnd, walls_stand
from agentkit.sandbox.process.resources import Box, Walls

MB = 1 << 20
ALL: tuple[Walls, ...] = ("none", "network", "everything")


def run(
    source: str, *, walls: Walls = "none", memory: int | None = 256 * MB, seconds: float = 20.0, **options: Any
) -> ChildEnd:
    job = {"kind": "cell", "source": source, "file": "<cell>", "inputs": {}, "outputs": []}
    return Child(job, Box(memory=memory, seconds=seconds, walls=walls), **options).wait()


def value(ended: ChildEnd) -> Any:
    assert ended.attempt.how == "done", ended
    return ended.reply["value"]


# ---- memory


HUNGRY = {
    "one large object": "x = bytearray(2 << 30)",
    "one large array": "import numpy; x = numpy.ones(1 << 28)",
    "many small objects": "x = []\nwhile True: x.append(b'1' * (1 << 20))",
    "many small arrays": "import numpy\nx = []\nwhile True: x.append(numpy.ones(1 << 17))",
    "shared memory": "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
    "errors swallowed": """
x = []
while True:
    try:
        x.append(b"1" * (1 << 20))
    except MemoryError:
        pass
""",
    "its answer": "x = ['1' * 1000] * (150 << 10)\nx",
    "several programs": """
import subprocess, sys
program = "x = b'1' * (150 << 20)\\nimport time\\ntime.sleep(9)"
for started in [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]:
    started.wait()
""",
    "several forks": """
import multiprocessing, time
def hold(size):
    x = b"1" * size
    time.sleep(9)
with multiprocessing.get_context("fork").Pool(3) as pool:
    pool.map(hold, [150 << 20] * 3)
""",
}


@pytest.mark.parametrize("source", HUNGRY.values(), ids=HUNGRY)
def test_more_memory_than_it_has_ends_it_however_it_is_taken(source: str) -> None:
    began = time.monotonic()
    ended = run(source)
    assert ended.attempt.how == "memory", ended
    assert ended.attempt.peak < 512 * MB
    assert time.monotonic() - began < 15


BESIDES = {
    "files in memory": """
with open("/tmp/x", "wb") as one, open("/dev/shm/y", "wb") as other:
    for _ in range(100):
        one.write(b"1" * MB)
        other.write(b"1" * MB)
    time.sleep(1)
""",
    "a file that has no name any more": """
f = open("/dev/shm/x", "wb")
os.unlink("/dev/shm/x")
for _ in range(126): f.write(b"1" * MB)
f.flush()
x = b"1" * (30 * MB)
time.sleep(1)
""",
    "shared memory whose writer has ended": """
import mmap
m = mmap.mmap(-1, 300 * MB)
for part in range(6):
    if os.fork() == 0:
        for place in range(part * 50 * MB, (part + 1) * 50 * MB, 4096): m[place] = 1
        os._exit(0)
    os.wait()
time.sleep(1)
""",
}
ORPHAN = """
if os.fork() == 0:
    if os.fork() == 0:
        x = [bytearray(b"1" * MB) for _ in range(300)]
        time.sleep(5)
    os._exit(0)
os.wait()
time.sleep(5)
"""
HELD = "import os, time\nMB = 1 << 20\n"


@pytest.mark.parametrize("source", BESIDES.values(), ids=BESIDES)
def test_memory_that_no_page_of_a_process_shows_counts_behind_walls(source: str) -> None:
    ended = run(HELD + source, walls="everything", memory=128 * MB)
    assert ended.attempt.how == "memory", ended
    assert 128 * MB < ended.attempt.peak < 450 * MB


@pytest.mark.parametrize("box", ALL)
def test_an_orphan_s_memory_counts(box: Walls) -> None:
    ended = run(HELD + ORPHAN, walls=box, memory=128 * MB)
    assert ended.attempt.how == "memory", ended
    assert ended.attempt.seconds < 5


FILES = """
try:
    for n in range(100_000): open(f"/tmp/{n}", "x").close()
except OSError as error:
    pass
n
"""


def test_a_folder_in_memory_is_no_larger_than_the_limit() -> None:
    source = "import os\n[os.statvfs(f).f_blocks * os.statvfs(f).f_frsize >> 20 for f in ('/tmp', '/dev/shm')]"
    assert value(run(source, walls="everything", memory=48 * MB)) == [48, 48]
    # What has no content takes memory of the system's all the same.
    assert 60_000 < value(run(FILES, walls="everything")) < 70_000


def test_a_file_in_memory_is_measured_once_when_it_is_mapped_too() -> None:
    source = """
import mmap
f = open("/dev/shm/x", "w+b")
f.truncate(80 * MB)
m = mmap.mmap(f.fileno(), 80 * MB)
for place in range(0, 80 * MB, 4096): m[place] = 1
time.sleep(0.4)
1
"""
    ended = run(HELD + source, walls="everything", memory=128 * MB)
    assert value(ended) == 1 and 80 * MB < ended.attempt.peak < 110 * MB


CALLS = {
    "memfd": "l.memfd_create(b'x', 0)",
    "System V shared memory": "l.shmget(0, 4096, 0o1600)",
    "System V messages": "l.msgget(0, 0o1600)",
    "the session's keys": "l.syscall(KEYCTL, 0, -3, 0)",
    "the user's keys": "l.syscall(KEYCTL, 0, -4, 0)",
    "io_uring": "l.syscall(425, 1, ctypes.create_string_buffer(200))",
    "another process's memory": "l.ptrace(16, os.getppid(), 0, 0)",
    "a world of its own": "l.unshare(0x10000000)",
    "a fork in a world of its own": "l.syscall(CLONE, 0x10000011, 0, 0, 0, 0)",
    "a mount": "l.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
}


@pytest.mark.parametrize("box", ["network", "everything"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_that_no_limit_would_count_are_refused_behind_walls(call: str, box: Walls) -> None:
    numbers = "KEYCTL, CLONE = (219, 220) if os.uname().machine == 'aarch64' else (250, 56)\n"
    source = f"import ctypes, os\n{numbers}l = ctypes.CDLL(None, use_errno=True)\n[{call}, ctypes.get_errno()]"
    result, number = value(run(source, walls=box))
    assert result == -1
    assert number in (errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("box", ["network", "everything"])
def test_a_socket_that_no_network_world_holds_is_refused(box: Walls) -> None:
    source = """
import socket
refused = []
for family in range(1, 46):
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == 97: refused.append(family)
[socket.AF_VSOCK in refused, socket.AF_INET in refused, socket.AF_UNIX in refused]
"""
    assert value(run(source, walls=box)) == [True, False, False]


def test_behind_walls_threads_processes_and_loops_work_as_ever() -> None:
    source = """
import asyncio, multiprocessing, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory
import numpy as np
block = shared_memory.SharedMemory(create=True, size=1 << 20)
np.ndarray((1 << 17,), buffer=block.buf)[:] = 2.0
def fill(place): block.buf[place] = 7
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(fill, range(8))
async def echoed():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6)", stdout=subprocess.PIPE)
    return (await process.communicate())[0]
with ThreadPoolExecutor(2) as threads:
    total = sum(threads.map(int, ["1", "2"]))
done = [total, asyncio.run(echoed()), block.buf[3]]
block.close(); block.unlink()
done
"""
    assert value(run(source, walls="everything")) == [3, {"$": "bytes", "of": "Ngo="}, 7]


def test_an_allocation_that_fits_is_measured() -> None:
    ended = run("import numpy; x = numpy.ones(100 << 17); del x; 1")
    assert value(ended) == 1
    assert 100 * MB < ended.attempt.peak < 160 * MB


def test_libraries_do_not_count_as_its_own_memory() -> None:
    # pandas maps 150 MB of code and reserves 40 MB for each thread; it holds about 45.
    assert value(run("import pandas; int(pandas.Series([1, 2]).sum())", memory=96 * MB)) == 3


def test_a_memory_error_says_what_was_wanted() -> None:
    attempt = run("import numpy; numpy.ones(1 << 30)").attempt
    assert "Unable to allocate 8.00 GiB" in attempt.text
    assert attempt.description.startswith("out of memory: used ")


def test_a_memory_error_that_is_caught_is_no_end() -> None:
    assert value(run("try:\n    x = bytearray(4 << 30)\nexcept MemoryError:\n    x = 5\nx")) == 5


# ---- time, and the end


def test_time_is_up() -> None:
    ended = run("while True: pass", seconds=0.5)
    assert ended.attempt.how == "timeout"
    assert ended.attempt.seconds < 3


@pytest.mark.parametrize("box", ALL)
def test_whatever_it_starts_ends_with_it(box: Walls) -> None:
    mark = f"{os.getpid()}.{time.time_ns()}"
    source = f"import subprocess\nsubprocess.Popen(['setsid', 'sleep', '{mark[-9:]}'])\n1"
    assert value(run(source, walls=box)) == 1
    assert not running(f"sleep\0{mark[-9:]}")


def test_stop_ends_a_busy_child_and_its_processes_within_a_second() -> None:
    source = (
        "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '987654'])\nprint('up', flush=True)\nwhile True: pass"
    )
    up, ends = threading.Event(), []
    job = {"kind": "cell", "source": source, "file": "<cell>", "inputs": {}, "outputs": []}
    child = Child(job, Box(seconds=60), heard=lambda text: up.set())
    thread = threading.Thread(target=lambda: ends.append(child.wait()))
    thread.start()
    assert up.wait(10)
    began = time.monotonic()
    child.stop()
    thread.join(5)
    assert time.monotonic() - began < 1
    assert ends[0].attempt.how == "stopped"
    assert not running("sleep\x00987654")


def test_no_orphan_survives_a_killed_parent(tmp_path: Path) -> None:
    program = """
from agentkit.sandbox.process.parent import Child
from agentkit.sandbox.process.resources import Box
source = "import subprocess\\nsubprocess.Popen(['setsid', 'sleep', '876543'])\\nprint('up')\\nwhile True: pass"
job = dict(kind="cell", source=source, file="c", inputs={}, outputs=[])
Child(job, Box(seconds=600), heard=lambda text: print(text, flush=True)).wait()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    with parent:
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
    gone = time.monotonic() + 2
    while (running("sleep\x00876543") or os.listdir(tmp_path)) and time.monotonic() < gone:
        time.sleep(0.02)
    assert not running("sleep\x00876543")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "text"),
    [("import ctypes; ctypes.string_at(0)", "SIGSEGV"), ("import os; os._exit(3)", "exit code 3")],
)
def test_a_crash_is_called_one(source: str, text: str) -> None:
    ended = run(source)
    assert (ended.attempt.how, ended.attempt.text) == ("crashed", text)


def test_what_is_killed_from_outside_ran_out_of_the_system_s_memory() -> None:
    assert run("import os; os.kill(os.getpid(), 9)").attempt.how == "memory"


def test_a_fork_that_is_left_behind_is_not_waited_for() -> None:
    began = time.monotonic()
    left = "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n7"
    assert value(run(left, seconds=20.0)) == 7
    assert time.monotonic() - began < 15


def test_of_two_that_came_back_from_a_fork_one_answers() -> None:
    assert value(run("import os\nos.fork()\n7")) == 7


@pytest.mark.parametrize("box", ALL)
def test_too_many_processes_are_too_many(box: Walls) -> None:
    source = """
import os, time
for _ in range(600):
    if os.fork() == 0:
        time.sleep(30)
time.sleep(30)
"""
    ended = run(source, walls=box, memory=None)
    assert (ended.attempt.how, ended.attempt.text) == ("crashed", "more than 256 processes")
    assert ended.attempt.seconds < 10


FALSE_REPLIES = {
    "cut": """b'{"how": "done"'""",
    "another kind of end": """b'{"how": "timeout", "peak": 1}'""",
    "nested": "b'[' * 500_000",
    "text": "b'done'",
}


@pytest.mark.parametrize("reply", FALSE_REPLIES.values(), ids=FALSE_REPLIES)
@pytest.mark.parametrize("end", ["os._exit(0)", "1"])
def test_a_false_reply_is_called_one(reply: str, end: str) -> None:
    source = f"""
import os
for number in range(3, 32):
    try:
        os.write(number, {reply})
    except OSError:
        pass
{end}
"""
    ended = run(source)
    assert (ended.attempt.how, ended.reply) == ("forged", {})
    assert ended.attempt.description.startswith("its answer is forged: used ")


def test_prints_are_heard_while_it_runs_and_bounded() -> None:
    heard: list[str] = []
    ended = run("print('ü')\nfor i in range(10**5): print('x' * 80)", heard=heard.append, most=1000)
    assert ended.attempt.how == "done"
    assert heard[0].startswith("ü")
    assert len(ended.printed) < 1100
    assert "more was printed" in ended.printed


def test_a_reply_that_is_too_large_is_not_waited_for() -> None:
    assert run("'x' * (80 << 20)", memory=1 << 30).attempt.how == "flooded"


# ---- what it can reach


def test_the_walls_stand_here() -> None:
    assert walls_stand() is None


def test_the_trial_finds_walls_that_do_not_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        job = {"kind": "walls", "port": listening.getsockname()[1], "name": "made"}
        ended = Child(job, Box(seconds=10)).wait()
    assert ended.reply["value"] == ["a port of this machine could be reached", "a file could be written"]


@pytest.mark.parametrize(("box", "reached"), [("none", True), ("network", False), ("everything", False)])
def test_a_listening_port_of_this_machine(box: Walls, reached: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        ended = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).close()\n'reached'", walls=box)
    assert (ended.attempt.how == "done") is reached
    if not reached:
        assert ended.reply["kind"] == "OSError"


def test_an_abstract_socket_of_this_machine() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name := f"\0agentkit{os.getpid()}")
        listening.listen()
        source = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({name!r})\n1"
        assert value(run(source)) == 1
        assert run(source, walls="network").attempt.how == "raised"


def test_without_network_files_can_be_read_and_only_its_own_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("1,2")
    assert value(run("open('data.csv').read()", walls="network")) == "1,2"
    refused = run("open('data.csv', 'w')", walls="network")
    assert "Read-only" in refused.reply["message"]
    source = "import tempfile\nwith tempfile.NamedTemporaryFile('w') as f: f.write('x')\n1"
    assert value(run(source, walls="network")) == 1
    assert sorted(os.listdir(tmp_path)) == ["data.csv"]


def test_behind_all_walls_there_is_nothing_of_the_person_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / "secret").write_text("s")
    assert value(run("import os; os.environ.get('OPENAI_API_KEY')", walls="everything")) is None
    for path in (str(tmp_path / "secret"), "/etc/passwd", str(Path(__file__))):
        assert run(f"open({path!r})", walls="everything").reply["kind"] == "FileNotFoundError"
    assert value(run("open('x', 'w').write('ab')", walls="everything")) == 2
    assert "Read-only" in run("open('/usr/x', 'w')", walls="everything").reply["message"]


@pytest.mark.parametrize("box", ["network", "everything"])
def test_the_walls_cannot_be_taken_down_from_inside(box: Walls) -> None:
    source = (
        "import ctypes\nl = ctypes.CDLL(None)\n"
        "[l.mount(b'none', b'/', None, 32 | 4096, None), l.mount(b'none', b'/usr', b'tmpfs', 0, None), l.setns(0, 0),"
        " l.umount2(b'/', 2)]"
    )
    assert value(run(source, walls=box)) == [-1, -1, -1, -1]


def test_other_processes_cannot_be_seen_or_ended() -> None:
    source = f"import os\ntry:\n    os.kill({os.getpid()}, 0)\nexcept ProcessLookupError:\n    x = 'none'\nx"
    assert value(run(source, walls="network")) == "none"


def test_where_the_system_has_no_namespaces_nothing_is_run() -> None:
    """A world in which no more of them may be made, as in many containers."""
    program = """
import ctypes, os
user = os.getuid()
ctypes.CDLL(None).unshare(0x10000000)
open("/proc/self/uid_map", "w").write(f"{user} {user} 1")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
from agentkit.sandbox.process.parent import walls_stand
print(walls_stand())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert "unshare: " in done.stdout, done


def running(command: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command in entry.read_text():
                return True
        except OSError:
            continue
    return False


def test_library_folders_are_not_named_twice() -> None:
    folders = walls.library_folders()
    assert folders
    assert not any(one != other and one.startswith(f"{other}/") for one in folders for other in folders)
