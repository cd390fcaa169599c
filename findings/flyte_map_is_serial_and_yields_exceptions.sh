#!/usr/bin/env bash
# flyte 2.12.1, local runs: `flyte.map` runs its items one after the other, whatever `concurrency` says, and by default
# yields the exception of a failed item as if it were a result.
#
# Why one would guess otherwise: `flyte.map` is the parallel form of `map`, and Python's `map` raises.
# What is seen: the wall time of four tasks of 0.5 s beside that of one, and the types that come out.
# What follows: code that reads the results of a map must look at each one's type.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
export HOME="$work" TMPDIR="$work" DO_NOT_TRACK=1
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install flyte==2.12.1
cat > probe.py <<'PY'
import time
import flyte

env = flyte.TaskEnvironment(name="probe")
spans = []

@env.task
def work(n: int) -> int:
    began = time.monotonic()
    time.sleep(0.5)
    spans.append((began, time.monotonic()))
    if n == 2:
        raise ValueError("two")
    return n

@env.task
def main() -> str:
    out = list(flyte.map(work, [0, 1, 2, 3], concurrency=4))
    return ",".join("exception" if isinstance(o, BaseException) else str(o) for o in out)

flyte.init()
kinds = flyte.with_runcontext(mode="local").run(main).outputs()[0]
spans.sort()
overlaps = sum(b[0] < a[1] for a, b in zip(spans, spans[1:]))
print("results:", kinds, "| items that overlapped in time:", overlaps)
assert kinds == "0,1,exception,3" and overlaps == 0, "the behaviour changed"
PY
env/bin/python probe.py 2>/dev/null
