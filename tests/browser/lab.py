"""A real JupyterLab in a real Chromium: open a notebook, run cells, click, stop, restart, read what is shown."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, sync_playwright

from tests.notebook import forks

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}
TOKEN = "agentkit"
_KERNEL = """
  const panel = [...(window.jupyterapp?.shell.widgets('main') ?? [])].find(one => one.context?.path === name)
  const context = panel?.sessionContext, kernel = context?.session?.kernel
  const connected = kernel?.connectionStatus === 'connected' && panel.content.widgets.length
"""
_CONNECTED = f"name => {{ {_KERNEL} return connected }}"
# Whether a cell that is run now is executed, or JupyterLab itself asks something.
_STATE = f"""name => {{ {_KERNEL}
  if (document.querySelector('.jp-Dialog .jp-mod-accept')) return 'asks'
  return connected && context.isReady && kernel.status === 'idle' && 'ready'
}}"""
_OPEN = "name => window.jupyterapp.commands.execute('docmanager:open', {path: name}).then(() => null)"
_CLEAR = """() => {
  for (const one of [...window.jupyterapp.shell.widgets('main')]) one.dispose()
  return document.querySelectorAll('.jp-Dialog, .jp-Notebook').length
}"""


@dataclass
class Server:
    """A running JupyterLab whose root folder is `folder`."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def end_kernels(self) -> None:
        for kernel in json.loads(self._api("GET", "/api/kernels")):
            self._api("DELETE", f"/api/kernels/{kernel['id']}")

    def _api(self, method: str, path: str) -> bytes:
        asked = urllib.request.Request(f"{self.url}{path}?token={TOKEN}", method=method)
        with urllib.request.urlopen(asked) as reply:
            body: bytes = reply.read()
        return body


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """JupyterLab on a free port, with settings of its own and without news; its kernels are forks."""
    home = folder / ".home"
    for name, values in _SETTINGS.items():
        path = home / "lab" / "user-settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab" / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "lab" / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        **forks.install(home),
    }
    log = (home / "lab.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
            *(f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}", "--expose-app-in-browser"),
        ],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", process)
        yield Server(f"http://127.0.0.1:{port}", folder, process)
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("JupyterLab did not start")


@contextmanager
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


class Notebook:
    """One notebook in one page."""

    def __init__(self, page: Page, server: Server, path: Path) -> None:
        self.page = page
        self.path = path
        self.errors: list[str] = []
        self._server = server
        self._url = f"{server.url}/lab/tree/{path.name}?token={TOKEN}&reset"
        page.on("pageerror", self._error)
        page.on("dialog", self._dialog)
        self.open()

    def _error(self, error: Any) -> None:
        self.errors.append(str(error))

    def _dialog(self, dialog: Any) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
            return
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self) -> None:
        """In the JupyterLab that the page shows, or in a new one."""
        if self.page.url.startswith(f"{self._server.url}/lab"):
            self.page.evaluate(_OPEN, self.path.name)
        else:
            self.page.goto(self._url)
        self._ready()

    def _ready(self) -> None:
        """Wait until the kernel takes cells: what JupyterLab is to run before, it drops."""
        state = partial(self.page.wait_for_function, _STATE, arg=self.path.name, timeout=60_000)
        while state().json_value() == "asks":
            # In a cold start, which kernel to use.
            self.page.locator(".jp-Dialog .jp-mod-accept").first.click()

    def leave(self) -> None:
        """The page is another's from now on."""
        self.page.remove_listener("pageerror", self._error)
        self.page.remove_listener("dialog", self._dialog)

    def reload(self) -> None:
        self.save()
        self.page.reload()
        # A cell may be waiting: the kernel is not idle then. But what is clicked before the page has it is lost.
        self.page.wait_for_function(_CONNECTED, arg=self.path.name, timeout=60_000)

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-NotebookPanel .jp-CodeCell").nth(number)

    def output(self, number: int) -> Locator:
        return self.cell(number).locator(".jp-Cell-outputWrapper")

    def run(self, number: int) -> None:
        """Start a cell; it may still be running when this returns."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        before = prompt.inner_text()
        for _ in range(5):
            editor = self.cell(number).locator(".cm-content")
            editor.click()
            editor.press("Control+Enter")
            # The prompt changes at once, unless a page that was still settling took the focus away again.
            until = time.monotonic() + 5
            while time.monotonic() < until:
                if prompt.inner_text() != before:
                    return
                self.page.wait_for_timeout(30)
        raise AssertionError(f"cell {number} does not start: {before!r}")

    def finished(self, number: int, *, seconds: float = 30) -> str:
        """What the cell's prompt says once it has run."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        text = ""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            text = prompt.inner_text().strip()
            if any(char.isdigit() for char in text):
                return text
            self.page.wait_for_timeout(50)
        raise AssertionError(f"cell {number} has not finished: {text!r}; {self.output(number).inner_text()[:2000]}")

    def do(self, number: int) -> str:
        """Run a cell to its end and give its output's text."""
        self.run(number)
        self.finished(number, seconds=60)
        return self.output(number).inner_text()

    def text(self, number: int, *wanted: str, seconds: float = 30) -> str:
        """The output's text, once it has all that is wanted."""
        shown = ""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            shown = self.output(number).inner_text() if self.output(number).count() else ""
            if all(one in shown for one in wanted):
                return shown
            self.page.wait_for_timeout(50)
        raise AssertionError(f"cell {number} does not show {wanted!r} but:\n{shown[:3000]}")

    def widgets(self, number: int) -> Locator:
        """The questions that can be answered under a cell."""
        return self.output(number).locator("section[data-question]")

    def menu(self, *labels: str) -> None:
        for place, label in enumerate(labels):
            kind = ".lm-MenuBar-itemLabel" if place == 0 else ".lm-Menu-itemLabel"
            self.page.locator(kind, has_text=label).first.click()

    def command(self, label: str) -> None:
        """Through the command palette."""
        self.page.keyboard.press("Control+Shift+C")
        self.page.locator(".lm-CommandPalette-input").fill(label)
        self.page.locator(".lm-CommandPalette-item").first.click()

    def stop(self) -> None:
        self.page.locator('[data-command="notebook:interrupt-kernel"], jp-button[title^="Interrupt"]').first.click()

    def restart(self) -> None:
        self.page.locator('[data-command="kernelmenu:restart"], jp-button[title^="Restart the kernel"]').first.click()
        accept = self.page.locator(".jp-Dialog .jp-mod-accept")
        with self.page.expect_response(lambda reply: _is(reply, "POST", "/restart")):
            accept.click()
        self._ready()

    def reopen(self) -> None:
        """Save it, end its kernel and open the page again, as on another day."""
        self.save()
        self.page.goto("about:blank")
        self._server.end_kernels()
        self.open()

    def save(self) -> None:
        with self.page.expect_response(lambda reply: _is(reply, "PUT", f"/api/contents/{self.path.name}")):
            self.page.keyboard.press("Control+S")

    def saved(self) -> Any:
        self.save()
        return nbformat.read(self.path, as_version=4)


def _is(reply: Any, method: str, end: str) -> bool:
    return bool(reply.request.method == method and reply.url.partition("?")[0].endswith(end))


class Window:
    """One JupyterLab in a page that stays: starting it anew takes as long as half a test."""

    def __init__(self, chromium: Any, server: Server) -> None:
        self._chromium = chromium
        self._server = server
        self._page: Page | None = None
        self._notebook: Notebook | None = None

    def open(self, path: Path) -> Notebook:
        if self._page is None:
            self._page = self._chromium.new_context(viewport={"width": 1200, "height": 1400}).new_page()
        self._notebook = Notebook(self._page, self._server, path)
        return self._notebook

    def clear(self) -> None:
        """Close what is open; a page in which anything is left is not used again."""
        if self._notebook is None or self._page is None:
            return
        self._notebook.leave()
        left = self._page.evaluate(_CLEAR)
        self._notebook = None
        self._server.end_kernels()
        if left:
            self.close()

    def close(self) -> None:
        if self._page is not None:
            self._page.context.close()
        self._page = self._notebook = None


def write(path: Path, sources: Sequence[str]) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


Opener = Callable[[Sequence[str]], Notebook]
