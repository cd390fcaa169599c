#!/usr/bin/env bash
# flyte 2.12.1, local runs: a task whose parameter is annotated `float` refuses the int 5, while a plain call of the same
# task takes it, and so does the command line with `--x 5`.
#
# Why one would guess otherwise: an int is a float to every type checker (PEP 484), and the task itself takes it.
# What is seen: the outcome of the three ways.
# What follows: a program written from a notebook must make `float(...)` of whole numbers before it starts a task.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
export HOME="$work" TMPDIR="$work" DO_NOT_TRACK=1
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install flyte==2.12.1
cat > probe.py <<'PY'
import flyte

env = flyte.TaskEnvironment(name="probe")

@env.task
def half(x: float) -> float:
    return x / 2

if __name__ == "__main__":
    flyte.init()
    print("called:", half(5))
    print("run with 5.0:", flyte.with_runcontext(mode="local").run(half, x=5.0).outputs()[0])
    try:
        print("run with 5:", flyte.with_runcontext(mode="local").run(half, x=5).outputs()[0])
    except Exception as error:
        print("run with 5:", type(error).__name__, str(error).splitlines()[0][:120])
PY
env/bin/python probe.py 2>/dev/null | tee seen.txt
env/bin/flyte run --local probe.py half --x 5 >cli.txt 2>&1 && echo "command line with 5: ok" || { echo "command line with 5: failed"; tail -3 cli.txt; }
grep -q "called: 2.5" seen.txt && grep -q "run with 5.0: 2.5" seen.txt && ! grep -q "run with 5: 2.5" seen.txt || { echo "the behaviour changed"; exit 1; }
