"""`agentkit lab` really starts JupyterLab, as root in an empty environment too."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from agentkit.cli.main import main


def command_of(monkeypatch: pytest.MonkeyPatch, *arguments: str, root: bool) -> list[str]:
    """What `agentkit lab` becomes."""
    started: list[list[str]] = []

    def become(_: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", become)
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    with pytest.raises(SystemExit):
        main(["lab", *arguments])
    return started[0][3:]


def test_what_follows_goes_to_jupyterlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    further = ["--port", "9999", "--ServerApp.root_dir=/x", "--no-browser"]
    assert command_of(monkeypatch, str(tmp_path), *further, root=False) == [str(tmp_path), *further]
    assert command_of(monkeypatch, str(tmp_path), "--", *further, root=False) == [str(tmp_path), *further]
    folder, *rest = command_of(monkeypatch, *further, root=False)
    assert (Path(folder) / "01_first_agent.ipynb").is_file() and rest == further


@pytest.mark.parametrize(
    ("further", "allowed"),
    [
        ([], True),
        (["--port", "9999"], True),
        (["--ip=0.0.0.0"], False),
        (["--ServerApp.ip", "0.0.0.0"], False),
        (["--IdentityProvider.token="], False),
        (["--ServerApp.password=''"], False),
        (["--config=mine.py"], False),
        (["--allow-root"], False),
    ],
)
def test_root_may_only_where_nobody_else_can_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, further: list[str], allowed: bool
) -> None:
    added = ["--allow-root", "--ip=127.0.0.1"] if allowed else []
    assert command_of(monkeypatch, str(tmp_path), *further, root=True) == [str(tmp_path), *further, *added]
    assert command_of(monkeypatch, str(tmp_path), *further, root=False) == [str(tmp_path), *further]


def test_it_starts_in_an_empty_environment_and_keeps_its_token(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [str(Path(sys.executable).with_name("agentkit")), "lab", str(tmp_path)]
    command += ["--no-browser", "--port", str(port), "--ServerApp.port_retries=0"]
    environment = {"PATH": os.environ["PATH"], "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        address = waited_for(log, server)
        assert f"127.0.0.1:{port}/lab?token=" in address
        assert "JupyterLab" in read(address, server)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents", timeout=30)
        assert refused.value.code == 403
    finally:
        server.terminate()
        server.wait(30)


def read(address: str, server: subprocess.Popen[bytes]) -> str:
    """The page; the address is said a moment before it is listened at."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                return str(page.read(), "utf-8")
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            assert server.poll() is None
            time.sleep(0.1)
    raise TimeoutError(address)


def waited_for(log: Path, server: subprocess.Popen[bytes]) -> str:
    """The address with its token, as JupyterLab says it."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\S+token=\w+", log.read_text(errors="replace"))
        if found is not None:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace"))
