"""What the notebook file keeps of a cell in which many runs ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.notebook.kernels import kernel

_MODEL = """
import asyncio
from agentkit.testing import ScriptedModel

def rule(messages):
    asked = str(messages[0].parts[-1].content)
    if asked.endswith("7"):
        raise ValueError(f"{asked} is not answered")
    return "fine"

m = ScriptedModel.by(rule)
"""


@pytest.mark.parametrize("watched", [True, False])
def test_a_gather_of_200_runs_is_one_row_under_40_kb(tmp_path: Path, watched: bool) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run(f"%load_ext agentkit\n{_MODEL}")
        notebook.run("%%agent build classifier --model m\nYou classify.")
        cell = notebook.run(
            "await asyncio.gather(*(classifier.run(f'review {n}') for n in range(200)), return_exceptions=True);",
            watched=watched,
        )
        assert cell.status == "ok", cell.traceback
        (panel,) = cell.panels
        assert "</b> × 200 " in panel["data"]["text/html"] and "180 done" in panel["data"]["text/html"]
        assert "slowest" in panel["data"]["text/html"] and "20 failed" in panel["data"]["text/plain"]
        kept = {name: panel[name] for name in ("data", "metadata")}
        assert len(json.dumps(kept, ensure_ascii=False, indent=1).encode()) + len(cell.text) < 40_000
