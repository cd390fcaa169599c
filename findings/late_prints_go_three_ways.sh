#!/usr/bin/env bash
# ipykernel 7.4.0, nbclient 0.11.0: what an old cell's thread or task prints while a later cell runs goes three ways. A
# plain thread's line is sent as output of the later cell; a task's line, and that of a thread with a copied context, as
# output of the cell that started it; and those two nbclient leaves out of the notebook it saves.
#
# Why one would guess otherwise: the protocol names the parent of every output, so each line could find its cell.
# What is seen: the parent of each stream message at a bare client, and where nbclient stored the same lines.
# What follows: the output of a tool that runs in a worker thread must be caught where it is made.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 nbformat==5.11.1
cat > probe.py <<'PY'
import nbclient
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook

FIRST = """
import asyncio, contextvars, threading
go = threading.Event()
def speak(who):
    go.wait(20); print('line of', who, flush=True)
threading.Thread(target=speak, args=('thread',)).start()
threading.Thread(target=contextvars.copy_context().run, args=(speak, 'thread with context')).start()
async def later():
    while not go.is_set():
        await asyncio.sleep(0.02)
    print('line of task', flush=True)
task = asyncio.ensure_future(later())
"""
SECOND = "go.set()\nawait asyncio.sleep(1)"
LINES = ("line of task", "line of thread", "line of thread with context")

manager, client = start_new_kernel(kernel_name="python3")
try:
    cells = [client.execute(FIRST), client.execute(SECOND)]
    by_parent = {cell: "" for cell in cells}
    idle = set()
    while idle != set(cells):
        message = client.get_iopub_msg(timeout=30)
        parent = message["parent_header"].get("msg_id")
        if message["msg_type"] == "stream" and parent in by_parent:
            by_parent[parent] += message["content"]["text"]
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            idle.add(parent) if parent in by_parent else None
finally:
    manager.shutdown_kernel(now=True)
sent = {line: next((n for n, cell in enumerate(cells, 1) if line in by_parent[cell].splitlines()), None) for line in LINES}
book = new_notebook(cells=[new_code_cell(FIRST), new_code_cell(SECOND)])
nbclient.NotebookClient(book, kernel_name="python3").execute()
texts = ["".join(o.get("text", "") for o in cell.outputs).splitlines() for cell in book.cells]
stored = {line: next((n for n, text in enumerate(texts, 1) if line in text), None) for line in LINES}
print("sent as output of cell:", sent)
print("stored by nbclient under cell:", stored)
assert sent == {"line of task": 1, "line of thread": 2, "line of thread with context": 1}, "ipykernel changed"
assert stored == {"line of task": None, "line of thread": 2, "line of thread with context": None}, "nbclient changed"
PY
env/bin/python probe.py 2>/dev/null
