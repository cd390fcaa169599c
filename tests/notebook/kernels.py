"""A real kernel to type cells into, and what came back."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """What one executed cell put out."""

    status: str = ""
    text: str = ""
    shown: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    result: str | None = None
    error: str | None = None
    ename: str | None = None
    traceback: str = ""
    seconds: float = 0.0

    def of(self, mime: str) -> list[str]:
        return [content["data"][mime] for content in self.shown if mime in content["data"]]

    @property
    def panels(self) -> list[dict[str, Any]]:
        """The panels under the cell as they stood at the end."""
        last: dict[str, dict[str, Any]] = {}
        for number, content in enumerate([*self.shown, *self.updates]):
            if "agentkit" in content["metadata"]:
                last[content["transient"].get("display_id", str(number))] = content
        return list(last.values())

    @property
    def headline(self) -> str:
        (panel,) = self.panels
        return str(panel["data"]["text/plain"]).splitlines()[0]


class Kernel:
    """Executes cells; `watched` cells look to the kernel like those of a person's front end."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(
        self, code: str, *, watched: bool = False, stop_after: float | None = None, cell: str | None = None
    ) -> Cell:
        begun = time.monotonic()
        message = self.client.session.msg(
            "execute_request",
            {"code": code, "silent": False, "store_history": True, "allow_stdin": watched, "stop_on_error": False},
            metadata={"cellId": cell} if cell else {},
        )
        self.client.shell_channel.send(message)
        ident = message["header"]["msg_id"]
        done = Cell()
        while True:
            if stop_after is not None and time.monotonic() - begun > stop_after:
                stop_after = None
                self.manager.interrupt_kernel()
            try:
                reply = self.client.get_iopub_msg(timeout=0.05 if stop_after else 30)
            except Empty:
                if stop_after is None:
                    raise
                continue
            if reply["parent_header"].get("msg_id") == ident and not _add(done, reply):
                break
        # A slow start is asked more than once whether it is ready: its late answers are no cell's.
        while (answer := self.client.get_shell_msg(timeout=10))["parent_header"].get("msg_id") != ident:
            pass
        done.status = answer["content"]["status"]
        if done.status == "error" and done.ename is None:
            # A cell that goes on after a click fails by its reply only: an output of its own would stay under it.
            _add_error(done, answer["content"])
        done.seconds = time.monotonic() - begun
        return done

    def value(self, expression: str) -> str:
        """The repr of a value in the notebook."""
        cell = self.run(expression)
        assert cell.result is not None, cell.traceback
        return cell.result

    def complete(self, line: str) -> list[str]:
        reply = self.client.complete(line, len(line), reply=True, timeout=20)
        matches: list[str] = reply["content"]["matches"]
        return matches

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)


def _add(cell: Cell, message: Any) -> bool:
    content = message["content"]
    match message["msg_type"]:
        case "status":
            return bool(content["execution_state"] != "idle")
        case "stream":
            cell.text += content["text"]
        case "display_data":
            cell.shown.append(content)
        case "update_display_data":
            cell.updates.append(content)
        case "execute_result":
            cell.shown.append(content)
            cell.result = content["data"]["text/plain"]
        case "error":
            _add_error(cell, content)
    return True


def _add_error(cell: Cell, content: dict[str, Any]) -> None:
    cell.ename, cell.error = content["ename"], content["evalue"]
    cell.traceback = _COLOUR.sub("", "\n".join(content["traceback"]))


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel whose working folder is `folder`, with agentkit importable and loaded by nobody yet."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "k"))
    manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": path})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
