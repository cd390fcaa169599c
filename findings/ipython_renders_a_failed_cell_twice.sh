#!/usr/bin/env bash
# IPython 9.18.1: the traceback of a failed cell is made twice, wherever history is stored: once to be shown, and once
# more, from the start, for the history of the session.
#
# Why one would guess otherwise: one traceback is shown, and the history keeps what was typed. An exception with deep
# frames (a cancelled task of an agent has about a hundred) takes seconds to render, so Stop seems not to act.
# What is seen: how often the exception's own `_render_traceback_` is asked for one failing cell.
# What follows: an error that may be deep brings its own short rendering.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1
cat > probe.py <<'PY'
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
asked = []

class Failed(Exception):
    def _render_traceback_(self):
        asked.append(1)
        return ["one line"]

shell.user_ns["Failed"] = Failed
result = shell.run_cell("raise Failed('x')", store_history=True)
assert not result.success
print("rendered", len(asked), "times")
assert len(asked) == 2, asked
PY
env/bin/python probe.py | tail -1
