"""A portable file that somebody made to hurt: refused in one line, within a bound on memory."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import JournalCorrupt
from agentkit.journal.archive import KIND, format_line, read
from agentkit.journal.portable import attach
from agentkit.journal.store import Store

ROOT = Path(__file__).parents[2]
HEAD = format_line({"agentkit": KIND, "format": 1})
_READ = """
import resource, sys
from pathlib import Path
from agentkit.journal.archive import read
from agentkit.errors import AgentKitError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path(sys.argv[1])).__exit__()
    print("whole")
except AgentKitError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def read_apart(path: Path) -> tuple[str, int]:
    """What a process of its own says of the file, and how many megabytes more it took."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], env=env, capture_output=True, text=True, check=True)
    said, megabytes = done.stdout.splitlines()
    return said, int(megabytes)


def pack(path: Path, lines: Iterator[bytes]) -> Path:
    """A file of these lines with its right checksum, made as they come."""
    packer, digest = zlib.compressobj(1, wbits=31), hashlib.sha256()
    with path.open("wb") as file:
        for line in (HEAD, *lines):
            digest.update(line)
            file.write(packer.compress(line))
        file.write(packer.compress(format_line({"sha256": digest.hexdigest()})) + packer.flush())
    return path


def one_line(size: int) -> Iterator[bytes]:
    yield b'{"part":{"body":"'
    for _ in range(size >> 20):
        yield b"0" * (1 << 20)
    yield b'"}}\n'


def parts(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield format_line({"part": {"digest": number.to_bytes(32, "big").hex(), "body": "x"}})


def objects() -> Iterator[bytes]:
    yield b'{"part":[' + b",".join([b"{}"] * (10 << 20)) + b"]}\n"


def escapes() -> Iterator[bytes]:
    yield b'{"part":' + b'\\"' * (15 << 20) + b"}\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (lambda: one_line(1 << 30), "has a record of more than 32 MB"),
        (objects, "has a line that is not JSON (more than a record holds)"),
        (escapes, "has a line that is not JSON"),
        (lambda: iter([b'{"part":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}\n"]), "nested deeper than a record is"),
        (lambda: parts(400_000), "whole"),
    ],
)
def test_what_it_takes_to_read_is_bounded(tmp_path: Path, lines: Callable[[], Iterator[bytes]], said: str) -> None:
    told, megabytes = read_apart(pack(tmp_path / "hostile.agentkit", lines()))
    assert said in told
    assert megabytes < 250


RUN: dict[str, Any] = {"id": "r1", "agent": "a", "status": "done", "notes": []}
STEP: dict[str, Any] = {
    "id": 1, "key": "00", "n": 0, "gen": 1, "slot": None, "kind": "tool", "name": "t", "effects": "none", "agent": "a",
    "status": "done", "started": 1.0, "ended": 2.0, "parts": {}, "request": "", "result": "", "history": None,
    "body": "1", "usage": None, "nested": {}, "shown": None, "error": None, "model": None, "reply": None,
}  # fmt: skip
USE: dict[str, Any] = {"run": "r1", "ord": 0, "step": 1, "replayed": False, "started": 1.0, "ended": 2.0}


def of(*, run: Any = RUN, step: Any = STEP, use: Any = USE) -> Iterator[bytes]:
    yield format_line({"run": run, "history": None, "output": None})
    yield format_line({"step": step})
    yield format_line({"use": use})


def test_a_record_as_it_should_be_is_read(tmp_path: Path) -> None:
    with read(pack(tmp_path / "good", of())) as archive:
        assert [row.name for some in archive.waves() for row in some] == ["t"]


@pytest.mark.parametrize(
    "changed",
    [
        {"step": {**STEP, "started": "1"}},
        {"step": {**STEP, "started": 1e308 * 10}},
        {"step": {**STEP, "kind": "system"}},
        {"step": {**STEP, "status": "trusted"}},
        {"step": {**STEP, "n": 1 << 70}},
        {"step": {**STEP, "n": True}},
        {"step": {**STEP, "nested": {"00": "many"}}},
        {"step": {**STEP, "nested": {"00": 1 << 60}}},
        {"step": {**STEP, "nested": {"00": -1}}},
        {"step": {**STEP, "nested": {"no key": 1}}},
        {"step": {**STEP, "parts": ["question"]}},
        {"step": {**STEP, "usage": {"input_tokens": 1, "output_tokens": "2"}}},
        {"step": {**STEP, "usage": {"__class__": "x"}}},
        {"step": {**STEP, "key": "zz"}},
        {"step": {name: value for name, value in STEP.items() if name != "body"}},
        {"run": {**RUN, "gauges": [{"scope": "user"}]}},
        {"run": {**RUN, "mode": "trusted"}},
        {"run": {**RUN, "__init__": 1}},
        {"run": {**RUN, "notes": [1]}},
        {"use": {**USE, "step": 2}},
        {"use": {**USE, "step": None}},
        {"use": {**USE, "more": 1}},
    ],
)
def test_a_value_that_is_none_of_its_field_is_refused_before_anything_is_taken_in(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    lines = [line.replace(b"Infinity", b"1e999") for line in of(**changed)]
    with Store.open(tmp_path / "reader" / "journal.db") as reader:
        with pytest.raises(JournalCorrupt):
            attach(pack(tmp_path / "odd", iter(lines)), reader)
        assert reader.runs() == [] and reader.step(1) is None and reader.replay_only_reason == ""


def test_bytes_after_the_end_are_part_of_what_is_checked(tmp_path: Path) -> None:
    path = pack(tmp_path / "more", of())
    path.write_bytes(path.read_bytes() + gzip.compress(json.dumps({"run": RUN}).encode()))
    with pytest.raises(JournalCorrupt):
        read(path)
