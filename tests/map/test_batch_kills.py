"""A map in batches is killed at each place where it matters; the next life pays for nothing again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch_serving import BatchServing, Job, batch_serving

ROWS = 12
EVERY = Counter(f"Tell of city {n}" for n in range(ROWS))
MODELS = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")


@pytest.fixture
def server() -> Iterator[BatchServing]:
    with batch_serving(polls=4) as running:
        yield running


def begin(server: BatchServing, folder: Path, model: str, *, crash_at: str = "", rows: int = ROWS) -> Any:
    places = {
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "sk-test-0123456789abcdef",
        "ANTHROPIC_BASE_URL": server.root,
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789abcdef",
    }
    crash = {"AGENTKIT_CRASH_AT": crash_at} if crash_at else {}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.map.batch_life", str(folder), model, str(rows)],
        env={**os.environ, **places, **crash},
        stdout=subprocess.PIPE,
        text=True,
    )


def live(server: BatchServing, folder: Path, model: str, **options: Any) -> dict[str, Any]:
    life = begin(server, folder, model, **options)
    said, _ = life.communicate(timeout=120)
    assert life.returncode == 0
    told: dict[str, Any] = json.loads(said)
    return told


def check_next_life(server: BatchServing, folder: Path, model: str) -> None:
    server.created = server.looked = lambda job: None
    told = live(server, folder, model)
    assert told == {"done": ROWS, "right": True, "open": 0, "twice": [], "notes": []}
    assert Counter(server.charged) == EVERY
    assert [len(job.requests) for job in server.batches.values()] == [ROWS - 1]


# The first row is one step: the batch begins at intent 2, is sent behind intent 3, its handle comes at call 2.
PLACES = (
    *(
        (MODELS[0], place)
        for place in ("intent:2", "intent:3", "call:2", "record:2", "intent:9", "call:8", "record:13")
    ),
    *((MODELS[1], place) for place in ("intent:3", "call:2", "intent:9")),
)


@pytest.mark.parametrize(("model", "place"), PLACES)
def test_killed_at_a_step(server: BatchServing, tmp_path: Path, model: str, place: str) -> None:
    life = begin(server, tmp_path, model, crash_at=place)
    life.communicate(timeout=120)
    assert life.returncode == -signal.SIGKILL
    check_next_life(server, tmp_path, model)


def kill_once(life: list[Any]) -> Callable[[Job], None]:
    def kill(job: Job) -> None:
        if life and life[0].poll() is None and job.looks in (0, 2):
            life.pop().kill()

    return kill


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("moment", ["created", "looked"])
def test_killed_while_the_provider_answers(server: BatchServing, tmp_path: Path, model: str, moment: str) -> None:
    life: list[Any] = []
    setattr(server, moment, kill_once(life))
    life.append(process := begin(server, tmp_path, model))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    check_next_life(server, tmp_path, model)


def test_killed_at_one_step_after_the_other(server: BatchServing, tmp_path: Path) -> None:
    for place in ("call:2", "record:2", "intent:3", "call:2", "record:1"):
        # Each life comes a little further than the one before.
        begin(server, tmp_path, MODELS[0], crash_at=place).communicate(timeout=120)
    check_next_life(server, tmp_path, MODELS[0])


def test_another_batch_of_the_same_size_is_not_taken_for_a_lost_one(server: BatchServing, tmp_path: Path) -> None:
    model = MODELS[1]
    life = begin(server, tmp_path, model, crash_at="intent:3")
    life.communicate(timeout=120)
    assert life.returncode == -signal.SIGKILL
    body = {"model": "other", "max_tokens": 1, "messages": [{"role": "user", "content": "not ours"}]}
    foreign = server.create("anthropic", {f"theirs-{n}": body for n in range(ROWS - 1)})
    told = live(server, tmp_path, model)
    assert (told["done"], told["right"], told["open"]) == (ROWS, True, 0)
    assert [job.id for job in server.batches.values()] == [foreign.id, "msgbatch_1"]
    assert Counter(server.charged) == EVERY + Counter({"not ours": ROWS - 1})
