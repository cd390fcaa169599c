"""A caller or a socket that the tests leave behind fails their run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.callers import callers, left_after

LEAVES_A_SOCKET = """
import os, pathlib, socket
def test_one():
    place = pathlib.Path(os.environ["XDG_RUNTIME_DIR"], f"agentkit-{os.getuid()}")
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "dead.sock"))
def test_another():
    pass
"""


def nested(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", f"--rootdir={folder}", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)


def test_a_socket_that_is_left_fails_the_run(tmp_path: Path) -> None:
    done = nested(tmp_path, LEAVES_A_SOCKET)
    assert done.returncode == 1, done.stdout
    assert "2 passed" in done.stdout and "left behind by the tests" in done.stdout and "dead.sock" in done.stdout


def test_a_run_that_leaves_nothing_passes(tmp_path: Path) -> None:
    done = nested(tmp_path, "def test_one():\n    pass\n")
    assert done.returncode == 0, done.stdout
    assert "left behind" not in done.stdout


def test_only_callers_of_this_runtime_folder_are_seen(tmp_path: Path) -> None:
    """A process with the command line of a caller, as the check sees it."""
    program = "print(flush=True); input()"
    command = [sys.executable, "-c", program, "agentkit.models.relay.server", str(tmp_path / "mine")]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as acting:
        assert acting.stdout is not None and acting.stdout.readline() == b"\n"
        assert callers(under=tmp_path) == {acting.pid: str(tmp_path / "mine")}
        assert left_after(tmp_path / "run", within=0.2) == [f"caller {acting.pid} of {tmp_path / 'mine'}"]
        assert left_after(tmp_path / "other", within=0.2) == []
        acting.communicate(b"\n")
    assert callers(under=tmp_path) == {}
