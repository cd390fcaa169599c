"""Two processes run the workload on one journal at the same time: `python -m tests.kill.together`."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agentkit.errors import InDoubt
from tests.kill import workload
from tests.kill.harness import Figures, Undisturbed, Warm, count, outputs_of, rows, server
from tests.serving import control


def side_by_side(warm: Warm, calm: Undisturbed) -> dict[str, Any]:
    """Both live to their end."""
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for child in [_begin(warm, folder) for _ in range(2)]:
            _end(child, folder)
        ledger = control(warm.root, "_ledger")
        return {
            "outputs_equal": outputs_of(folder) == [calm.outputs] * 2,
            "effects": Counter(entry["name"] for entry in ledger if entry["kind"] == "effect"),
            "asked": sum(entry["kind"] != "effect" for entry in ledger),
            "listed": sum(row.maybe_paid_twice for row in rows(folder)),
        }


def one_killed(warm: Warm, calm: Undisturbed, *, after: float) -> Figures:
    """One of the two is killed; the other goes on where it was, or ends with a doubt that is settled for a third."""
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        victim, other = _begin(warm, folder), _begin(warm, folder)
        time.sleep(after)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        _end(other, folder)
        if not outputs_of(folder):
            os.waitpid(warm.fork(folder, lambda: warm.settle_doubts(folder)), 0)
            _end(_begin(warm, folder), folder)
        figures = Figures(kills=1)
        count(figures, calm, folder, control(warm.root, "_ledger"), rows(folder))
        return figures


def _begin(warm: Warm, folder: Path) -> int:
    def work() -> None:
        try:
            warm.live(folder, workload.perform)
        except InDoubt as doubt:
            print(doubt)

    return warm.fork(folder, work)


def _end(child: int, folder: Path) -> None:
    os.waitpid(child, 0)
    if (folder / "error").exists():
        raise AssertionError((folder / "error").read_text())


def main() -> None:
    with server() as root:
        warm = Warm(root, seed=0)
        calm = warm.undisturbed()
        expected = sum(entry["kind"] != "effect" for entry in control(root, "_ledger"))
        both = {**side_by_side(warm, calm), "expected": expected}
        killed = [one_killed(warm, calm, after=calm.seconds * part) for part in (0.2, 0.4, 0.6)]
    print(
        json.dumps(
            {
                "both": both,
                "problems": [problem for figures in killed for problem in figures.problems],
                "lost": sum(f.lost + f.wrong_outputs for f in killed),
                "doubled": sum(f.doubled for f in killed),
                "unlisted": sum(f.unlisted for f in killed),
            }
        )
    )


if __name__ == "__main__":
    main()
