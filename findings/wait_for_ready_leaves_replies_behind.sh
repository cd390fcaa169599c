#!/usr/bin/env bash
# jupyter_client 8.10.0: `wait_for_ready()` on a kernel that starts slowly leaves further `kernel_info_reply` messages on
# the shell channel, so the first `get_shell_msg()` after `execute()` is not the reply to it.
#
# Why one would guess otherwise: the method returns when the kernel is ready, and its last step empties the channels.
# What is seen: a kernel whose start takes three seconds; the types and parents of the messages on the shell channel.
# What follows: whoever drives a kernel must match a reply by its parent's id.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipykernel==7.4.0 jupyter_client==8.10.0
cat > probe.py <<'PY'
import os
from jupyter_client.manager import KernelManager

os.environ["PYTHONPATH"] = os.getcwd()
with open("sitecustomize.py", "w") as file:
    file.write("import sys, time\nif 'ipykernel_launcher' in ' '.join(sys.orig_argv): time.sleep(3)\n")
manager = KernelManager(kernel_name="python3")
manager.start_kernel()
client = manager.client()
client.start_channels()
try:
    client.wait_for_ready(timeout=60)
    asked = client.execute("1")
    seen = []
    while not seen or seen[-1] != "execute_reply":
        message = client.get_shell_msg(timeout=20)
        seen.append(message["msg_type"])
    own = message["parent_header"]["msg_id"] == asked
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
print("on the shell channel after execute():", seen, "| the last is the reply to it:", own)
assert seen[0] == "kernel_info_reply" and own, "the behaviour changed"
PY
env/bin/python probe.py 2>/dev/null
