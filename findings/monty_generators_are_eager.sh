#!/usr/bin/env bash
# pydantic-monty 1.4.0: a generator expression is worked out whole where it stands, so `any(f(x) for x in xs)` calls `f`
# for every x, and one that is kept in a variable does not see what is appended to its list afterwards.
#
# Why one would guess otherwise: the code is ordinary Python, `any` stops at the first true value, and what the language
# lacks is otherwise refused with an error that names it.
# What is seen: how often a host function is called, and the sum of a kept generator, beside CPython's.
# What follows: a host function with a price or an effect is called more often than the program reads.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install pydantic-monty==1.4.0
cat > probe.py <<'PY'
import pydantic_monty

PROGRAM = """
hit = any(look(n) for n in [1, 2, 3])
held = [1, 2]
lazy = (n for n in held)
held.append(10)
[hit, sum(lazy)]
"""

calls = []
def look(n):
    calls.append(n)
    return True

def in_python():
    names = {"look": look}
    body, last = PROGRAM.strip().rsplit("\n", 1)
    exec(body, names)
    return eval(last, names)

python, python_calls = in_python(), calls.copy()
calls.clear()
with pydantic_monty.Monty() as pool, pool.checkout() as session:
    monty = session.feed_run(PROGRAM, external_lookup={"look": look})
print("Python:", python, "look called with", python_calls, "| Monty:", monty, "look called with", calls)
assert (python, python_calls) == ([True, 13], [1]), "Python changed"
assert (monty, calls) == ([True, 3], [1, 2, 3]), "the behaviour changed"
PY
env/bin/python probe.py
