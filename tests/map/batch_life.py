"""One life of a map in batches, to be killed: `python -m tests.map.batch_life FOLDER MODEL [ROWS]`.

It prints how many rows are done, the batches that are open, and the steps that may have been paid twice.
"""

from __future__ import annotations

import asyncio
import json
import sys

import pandas as pd

import agentkit
from agentkit import Spec
from agentkit.map.batch import BatchOptions


def main() -> None:
    folder, model, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with agentkit.session(folder=folder) as session:
        agent = agentkit.build(Spec.parse("You answer."), name="a", model=model)
        frame = pd.DataFrame({"name": [f"city {n}" for n in range(rows)]})
        options = BatchOptions(poll=0.05, longest_poll=0.1)
        result = asyncio.run(agentkit.map(agent, frame, "Tell of {{ row.name }}", batch=options))
        told = {
            "done": int((result.frame["status"] == "done").sum()),
            "right": [f"You said: Tell of city {n}" for n in range(rows)] == list(result.frame["answer"]),
            "open": len(session.store.open_batches("collect")),
            "twice": [row.id for row in session.store.double_payments()],
            "notes": list(result.notes),
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
