"""A program killed and started again: what was done is not done again, by journal here and by traces on a cluster."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.events import Step
from agentkit.journal.store import Store
from tests.notebook.kernels import ROOT
from tests.pipeline.exports import make
from tests.pipeline.notebooks import SAMPLES, Sample

pytestmark = pytest.mark.timeout(170)

LEDGER = """
import os
import pathlib
import time

import agentkit
from agentkit.testing import Call, ScriptedModel

def mark(what):
    with pathlib.Path(os.environ["LEDGER"]).open("a") as file:
        file.write(what + "\\n")

def think(messages):
    city = str(messages[0].parts[-1].content).split()[-1]
    turn = len(messages) // 2
    time.sleep(float(os.environ.get("SLOW", "0")))
    mark(f"model {city} {turn}")
    return Call("look", {"city": city, "turn": turn}) if turn < 2 else f"{city} seen"

brain = ScriptedModel.by(think, model_name="brain")
"""
TOOL = '''
@agentkit.tool(effects="EFFECTS")
def look(city: str, turn: int) -> str:
    """Look at a city."""
    time.sleep(float(os.environ.get("SLOW", "0")))
    mark(f"tool {city} {turn}")
    return f"{city} is there"
'''
CITIES = ("Oslo", "Rome", "Lima")


def sample(effects: str = "none") -> Sample:
    runs = tuple(f"%%agent run scout --as {city.lower()}\nLook at {city}" for city in CITIES)
    return Sample(
        cells=(
            LEDGER,
            TOOL.replace("EFFECTS", effects),
            "%%agent build scout --tools look --model brain\nScout.",
            *runs,
        ),
        setup=False,
    )


def pipeline(folder: Path, effects: str = "none") -> Path:
    file = folder / "pipeline.py"
    file.write_text(make(sample(effects), folder, "scouting", "flyte").text(), encoding="utf-8")
    return file


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(folder),  # where Flyte keeps its local cache
        "PYTHONPATH": str(ROOT),
        "DO_NOT_TRACK": "1",
        "LEDGER": str(folder / "ledger"),
        **more,
    }


def ledger(folder: Path) -> Counter[str]:
    file = folder / "ledger"
    return Counter(file.read_text().split("\n")[:-1]) if file.exists() else Counter()


def flyte_run(folder: Path, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "flyte"), "run", "--local", "pipeline.py", "main"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **more),
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def done(folder: Path) -> set[str]:
    """The calls that are on record, as the ledger calls them."""
    file = folder / ".agentkit" / "journal.db"
    found: set[str] = set()
    if not file.exists():
        return found
    with Store.open(file, read_only=True) as store:
        for run in store.runs(limit=100):
            city = run.prompt.split()[-1]
            steps = [step for step in store.trace(run.id) if isinstance(step, Step)]
            for kind in ("model", "tool"):
                ended = [step for step in steps if step.kind == kind and step.status == "done"]
                found |= {f"{kind} {city} {turn}" for turn in range(len(ended))}
    return found


EVERYTHING = {
    *(f"tool {city} {turn}" for city in CITIES for turn in (0, 1)),
    *(f"model {city} {turn}" for city in CITIES for turn in (0, 1, 2)),
}


def check_resumed(folder: Path) -> None:
    """Run again after a kill: what is on record is not called again, and everything is called."""
    before, known = ledger(folder), done(folder)
    again = flyte_run(folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(f"{city} seen" in again.stdout for city in CITIES)
    after = ledger(folder)
    assert {call for call in known if after[call] != before[call]} == set()
    assert set(after) == EVERYTHING
    # Without a kill each is called once; the kill may cost what was under way, one for each agent.
    assert max(after.values()) <= 2 and sum(after.values()) <= len(EVERYTHING) + len(CITIES)


@pytest.mark.parametrize("point", ["record:5"])
def test_a_killed_local_pipeline_repeats_no_recorded_call(tmp_path: Path, point: str) -> None:
    pipeline(tmp_path)
    killed = flyte_run(tmp_path, AGENTKIT_CRASH_AT=point)
    assert killed.returncode == -9
    assert 0 < sum(ledger(tmp_path).values()) < len(EVERYTHING)
    check_resumed(tmp_path)


@pytest.mark.parametrize("kill", range(int(os.environ.get("PIPELINE_KILLS", "1"))))
def test_kill_9_at_a_random_moment(tmp_path: Path, kill: int) -> None:
    pipeline(tmp_path)
    draw = random.Random(int(os.environ.get("PIPELINE_SEED", "5")) + kill)
    command = [str(Path(sys.executable).parent / "flyte"), "run", "--local", "pipeline.py", "main"]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path, SLOW="0.15"), stdout=subprocess.DEVNULL)
    while child.poll() is None and not ledger(tmp_path):
        time.sleep(0.02)
    time.sleep(draw.uniform(0.05, 0.6))
    child.kill()
    child.wait()
    check_resumed(tmp_path)


# ---- the cluster's end


def on_cluster(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.pipeline.replay_double", "pipeline.py", "traces.db", "keys"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, AGENTKIT_STEPS="trace", **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def keys(folder: Path) -> list[str]:
    file = folder / "keys"
    lines = file.read_text().splitlines()
    file.unlink()
    return lines


@pytest.mark.parametrize("point", ["record:8"])
def test_on_a_cluster_a_step_is_traced_under_the_same_key_on_every_attempt(tmp_path: Path, point: str) -> None:
    pipeline(tmp_path)
    killed = on_cluster(tmp_path, AGENTKIT_CRASH_AT=point)
    assert killed.returncode == -9, killed.stderr
    first = keys(tmp_path)
    again = on_cluster(tmp_path)
    assert again.returncode == 0, again.stderr
    second = keys(tmp_path)
    assert len(second) == 15
    assert set(first) <= set(second)
    # The journal wrote nothing that outlives the task.
    assert not (tmp_path / ".agentkit").exists()
    counted = ledger(tmp_path)
    assert set(counted) == EVERYTHING
    # At most the steps whose trace was not yet kept when the process died are performed again.
    assert max(counted.values()) <= 2 and sum(counted.values()) <= len(EVERYTHING) + len(CITIES)


def test_on_a_cluster_a_tool_that_must_not_be_repeated_is_in_doubt_after_a_crash(tmp_path: Path) -> None:
    pipeline(tmp_path, effects="once")
    killed = on_cluster(tmp_path, AGENTKIT_CRASH_AT="call:2")
    assert killed.returncode == -9, killed.stderr
    assert ledger(tmp_path)["tool Oslo 0"] == 1
    again = on_cluster(tmp_path, AGENTKIT_HEADLESS="suspend")
    assert again.returncode != 0
    assert ledger(tmp_path)["tool Oslo 0"] == 1
    assert "was started and has no recorded end" in again.stdout + again.stderr


# ---- a person, and machines of their own


def test_an_approval_is_a_condition_of_the_platform(tmp_path: Path) -> None:
    bought = SAMPLES["approved_by_policy"]
    asked = replace(bought, cells=tuple(cell.replace("--headless allow ", "") for cell in bought.cells))
    (tmp_path / "pipeline.py").write_text(make(asked, tmp_path, "buy", "flyte").text(), encoding="utf-8")
    denied = flyte_run(tmp_path, typed="n\n")
    assert "Condition: approve-order-" in denied.stdout
    assert "ordered tea" not in denied.stdout
    # What was decided is on record: nobody types now.
    again = flyte_run(tmp_path)
    assert again.returncode == 0 and "Condition" not in again.stdout


def test_on_a_cluster_a_heavy_tool_is_a_task_and_not_inside_a_trace(tmp_path: Path) -> None:
    text = make(SAMPLES["heavy_tool"], tmp_path, "shop", "flyte").text()
    (tmp_path / "pipeline.py").write_text(text, encoding="utf-8")
    done = on_cluster(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "300" in done.stdout
    assert not [key for key in keys(tmp_path) if key.startswith("tool_weigh")]
