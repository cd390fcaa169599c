#!/usr/bin/env bash
# flyte 2.12.1, local runs: `cache="auto"` answers from the cache after an edit of a helper that the task calls, or of a
# constant that it reads; only an edit of the task's own body is seen.
#
# Why one would guess otherwise: "auto" is described as a version made from the task's source, and the helper stands in
# the same file.
# What is seen: the value after each edit, in new processes that share one local cache.
# What follows: an exported task must carry the digest of all it reaches (`Cache("auto", version_override=...)`).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
export HOME="$work" TMPDIR="$work" DO_NOT_TRACK=1
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install flyte==2.12.1
write() { cat > tasks.py <<PY
import flyte

env = flyte.TaskEnvironment(name="probe")
RATE = $1

def double(x: int) -> int:
    return x * $2

@env.task(cache="auto")
async def price(x: int) -> int:
    return double(x) * RATE + $3

if __name__ == "__main__":
    flyte.init()
    print(flyte.with_runcontext(mode="local").run(price, x=5).outputs()[0])
PY
}
ask() { env/bin/python tasks.py 2>/dev/null | tail -1; }
write 1 2 0; first=$(ask)
write 10 2 0; constant=$(ask)
write 10 20 0; helper=$(ask)
write 10 20 1; body=$(ask)
echo "first $first | constant edited $constant (true: 100) | helper edited $helper (true: 1000) | body edited $body (true: 1001)"
[ "$first $constant $helper $body" = "10 10 10 1001" ] || { echo "the behaviour changed"; exit 1; }
