"""Two processes run the workload on one journal at the same time: `python -m tests.kill.together FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

from tests.kill import workload
from tests.kill.harness import Warm, outputs_of, rows, server
from tests.serving import control


def main() -> None:
    folder = Path(sys.argv[1])
    with server() as root:
        warm = Warm(root, seed=0)
        calm = warm.undisturbed()
        expected = _asked(root)
        control(root, "_reset")
        children = [warm.fork(folder, lambda: warm.live(folder, workload.perform)) for _ in range(2)]
        for child in children:
            os.waitpid(child, 0)
        if (folder / "error").exists():
            raise AssertionError((folder / "error").read_text())
        effects = Counter(entry["name"] for entry in control(root, "_ledger") if entry["kind"] == "effect")
        told = {
            "calm": calm.outputs,
            "outputs": outputs_of(folder),
            "effects": effects,
            "asked": _asked(root),
            "expected": expected,
            "listed": sum(row.maybe_paid_twice for row in rows(folder)),
        }
    print(json.dumps(told))


def _asked(root: str) -> int:
    return sum(entry["kind"] != "effect" for entry in control(root, "_ledger"))


if __name__ == "__main__":
    main()
