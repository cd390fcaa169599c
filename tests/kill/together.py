"""Two processes run the workload on one journal at the same time: `python -m tests.kill.together [--caller]`."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkit.errors import InDoubt
from tests.callers import runtime
from tests.kill import workload
from tests.kill.figures import Figures, Kill, Undisturbed, count, outputs_of, rows
from tests.kill.harness import Warm, left_behind, server
from tests.serving import control


@dataclass(kw_only=True)
class Pair:
    """Two processes on the journal in `folder`, and every caller that was seen to serve it."""

    warm: Warm
    folder: Path
    callers: set[int] = field(default_factory=set)

    def begin(self) -> int:
        def work() -> None:
            try:
                self.warm.live(self.folder, workload.perform)
            except InDoubt as doubt:
                print(doubt)

        return self.warm.fork(self.folder, work)

    def end(self, *children: int) -> None:
        left = set(children)
        while left:
            with suppress(OSError, ValueError):
                self.callers.add(json.loads((self.folder / ".agentkit" / "caller").read_text())["pid"])
            left -= {child for child in left if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(0.01)
        if (self.folder / "error").exists():
            raise AssertionError((self.folder / "error").read_text())

    def settle(self) -> None:
        self.end(self.warm.fork(self.folder, lambda: self.warm.settle_doubts(self.folder)))


def side_by_side(warm: Warm, calm: Undisturbed) -> dict[str, Any]:
    """Both live to their end."""
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        pair = Pair(warm=warm, folder=Path(place))
        pair.end(pair.begin(), pair.begin())
        ledger = control(warm.root, "_ledger")
        return {
            "outputs_equal": outputs_of(pair.folder) == [calm.outputs] * 2,
            "effects": Counter(entry["name"] for entry in ledger if entry["kind"] == "effect"),
            "asked": sum(entry["kind"] != "effect" for entry in ledger),
            "listed": sum(row.maybe_paid_twice for row in rows(pair.folder)),
            "callers": len(pair.callers),
        }


def killed(warm: Warm, calm: Undisturbed, figures: Figures, *, after: float, both: bool) -> int:
    """Of the two, one is killed or both are; how many callers were seen.

    The other goes on where it was, or ends with a doubt that is settled for a third.
    """
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        pair = Pair(warm=warm, folder=Path(place))
        children = [pair.begin(), pair.begin()]
        time.sleep(after)
        victims = children if both else children[:1]
        kills = [Kill(sort="kernel", at=time.time()) for _ in victims]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        pair.end(*children)
        if not outputs_of(pair.folder):
            pair.settle()
            pair.end(pair.begin())
        figures.kills += len(kills)
        count(figures, calm, pair.folder, control(warm.root, "_ledger"), rows(pair.folder), kills)
        return len(pair.callers)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kill.together", description=__doc__)
    parser.add_argument("--caller", action="store_true", help="the two share one caller, which is not killed")
    parser.add_argument("--rounds", type=int, default=3, help="how often one is killed, and how often both are")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    figures = Figures()
    with runtime() as place, server() as root:
        os.environ["AGENTKIT_CALLER"] = "on" if options.caller else "off"
        warm = Warm(root, seed=0)
        calm = warm.undisturbed()
        expected = sum(entry["kind"] != "effect" for entry in control(root, "_ledger"))
        together = {**side_by_side(warm, calm), "expected": expected}
        callers = [
            killed(warm, calm, figures, after=calm.seconds * chance.uniform(0.1, 0.7), both=both)
            for _ in range(options.rounds)
            for both in (False, True)
        ]
        figures.problems += left_behind(place, killed=0)
    told = {
        "both": together,
        "kills": figures.kills,
        "problems": figures.problems,
        "lost": figures.lost + figures.wrong_outputs,
        "doubled": figures.doubled,
        "unlisted": figures.unlisted,
        "asked_again": sum(figures.asked_again.values()),
        "listed": figures.listed,
        "callers": callers,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
