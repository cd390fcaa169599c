#!/usr/bin/env bash
# ipykernel 7.4.0: a comm message (a click on a widget) is handled while a cell awaits, in the middle of that cell;
# with ipykernel 6.31.0 it is handled only after the cell.
#
# Why one would guess otherwise: execute requests are queued one after the other, and shell messages used to be too.
# What is seen: the order of "cell begins", "message", "cell ends" in one kernel of each release.
# What follows: state that a callback shares with an awaiting cell must be guarded, and a cell may wait for a click only
# where the kernel is new enough.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
cat > probe.py <<'PY'
import sys, time
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3")
try:
    client.execute_interactive(
        "import asyncio\nfrom comm import get_comm_manager\nseen = []\n"
        "def opened(comm, message):\n    comm.on_msg(lambda message: seen.append('message'))\n"
        "get_comm_manager().register_target('probe', opened)", timeout=60)
    client.shell_channel.send(client.session.msg("comm_open", {"comm_id": "one", "target_name": "probe", "data": {}}))
    time.sleep(1)
    running = client.execute("seen.append('cell begins')\nawait asyncio.sleep(2)\nseen.append('cell ends')")
    time.sleep(0.7)
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": "one", "data": {}}))
    time.sleep(3)
    told = []
    client.execute_interactive(
        "print(seen)", timeout=60,
        output_hook=lambda m: told.append(m["content"]["text"]) if m["msg_type"] == "stream" else None)
finally:
    manager.shutdown_kernel(now=True)
order = eval("".join(told), {})
print(sys.argv[1], order)
assert order == {"7.4.0": ["cell begins", "message", "cell ends"],
                 "6.31.0": ["cell begins", "cell ends", "message"]}[sys.argv[1]], "the behaviour changed"
PY
for version in 7.4.0 6.31.0; do
  python3 -m venv "env-$version"
  "env-$version/bin/pip" -qq --disable-pip-version-check install ipython==9.18.1 "ipykernel==$version"
  PATH="$work/env-$version/bin:$PATH" "env-$version/bin/python" probe.py "$version"
done
