"""What a record says that a tool showed: drawn again, and never acting."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentkit.notebook import output_recording, png
from tests.notebook.kernels import Kernel, kernel

SCRIPT = "<script>document.title = 'taken'</script>"


@pytest.mark.parametrize(
    "html",
    [
        SCRIPT,
        "<img src=x onerror=alert(1)>",
        "<img src='https://evil.example/q?s=1'>",
        "<img srcset='https://evil.example 1x'>",
        "<a href='javascript:alert(1)'>a</a>",
        "<a href='JaVa\tScript:alert(1)'>a</a>",
        "<a href='data:text/html,<script>1</script>'>a</a>",
        "<svg onload=alert(1)><script>1</script></svg>",
        "<iframe srcdoc='<script>1</script>'></iframe>",
        "<object data='https://evil.example'></object>",
        "<embed src='https://evil.example'>",
        "<form action='https://evil.example'><input name=a></form>",
        "<meta http-equiv=refresh content='0;url=https://evil.example'>",
        "<link rel=stylesheet href='https://evil.example'>",
        "<style>@import 'https://evil.example';</style>",
        "<div style='background: url(https://evil.example)'>a</div>",
        "<div style='background-color: u\\72l(https://evil.example)'>a</div>",
        "<div style='position: fixed; inset: 0; z-index: 9999'>sign in again</div>",
        "<table background='https://evil.example'><tr><td background='https://evil.example'>1</td></tr></table>",
        "<video src='https://evil.example' poster='https://evil.example'></video>",
        "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
        "<div class='jp-Dialog lm-Widget' id='x' data-x='y'>a</div>",
        "<base href='https://evil.example'>",
    ],
)
def test_html_of_ones_own_is_shown_without_what_acts_or_fetches(html: str) -> None:
    made = output_recording.of_this_user({"text/html": html})["text/html"].lower()
    for sign in ("script", "onerror", "onload", "evil.example", "iframe", "position", "class", "url(", "<form", "<svg"):
        assert sign not in made


def test_a_table_keeps_its_looks() -> None:
    table = '<table border="1" class="dataframe"><tr style="text-align: right"><td colspan="2">1</td></tr></table>'
    made = output_recording.of_this_user({"text/html": table})["text/html"]
    assert '<table border="1" class="dataframe">' in made and 'style="text-align:right"' in made
    assert '<td colspan="2">1</td>' in made


def test_a_drawing_of_ones_own_becomes_a_picture() -> None:
    made = output_recording.of_this_user({"image/svg+xml": f"<svg>{SCRIPT}</svg>"})
    assert list(made) == ["text/html"] and made["text/html"].startswith('<img src="data:image/svg+xml;base64,')
    assert "script" not in made["text/html"]


@pytest.mark.parametrize(
    "mime",
    ["application/javascript", "text/javascript", "application/vnd.bokehjs_exec.v0+json", "text/vbscript",
     "application/vnd.jupyter.widget-view+json", "application/vnd.holoviews_exec.v0+json", "application/pdf"],
)  # fmt: skip
def test_a_program_is_never_shown_again(mime: str) -> None:
    assert output_recording.of_this_user({mime: "alert(1)"}) == {"text/plain": f"[agentkit] not shown again: {mime}"}
    assert list(output_recording.of_somebody({mime: "alert(1)"}, "f.agentkit")) == ["text/plain"]


def picture(*more: tuple[bytes, bytes], width: int = 2, height: int = 2, pixels: bytes | None = None) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" + b"\x10\x20\x30" * 2 + b"\0" + b"\x40\x50\x60" * 2 if pixels is None else pixels)
    chunks = [(b"IHDR", head), *more, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def test_a_picture_is_made_anew_from_its_pixels_alone() -> None:
    hidden = (
        picture((b"tEXt", b"Comment\0<script>1</script>"), (b"eXIf", b"x" * 40)) + b"<script>after the end</script>"
    )
    made = png.rewrite(hidden)
    assert b"script" not in made and b"eXIf" not in made
    assert zlib.decompress(made[made.index(b"IDAT") + 4 : made.index(b"IEND") - 8]) == (
        b"\0" + b"\x10\x20\x30" * 2 + b"\0" + b"\x40\x50\x60" * 2
    )
    bundle = {"image/png": base64.b64encode(hidden).decode(), "text/html": SCRIPT, "text/plain": "<Figure>"}
    told = output_recording.of_somebody(bundle, "f.agentkit")
    assert base64.b64decode(told["image/png"]) == made and told["text/plain"] == "[agentkit] shown from f.agentkit"


@pytest.mark.parametrize(
    "hostile",
    [
        b"GIF89a" + b"\0" * 40,
        picture()[:-20],
        picture().replace(b"IDAT", b"IDAU"),
        picture(width=1 << 30, height=1 << 30),
        picture(width=20_000, height=20_000),
        picture(pixels=zlib.compress(b"\0" * (300 << 20))[:1000]),
        picture(pixels=b"\0" * 13),
        picture(pixels=b"\0" * 15),
        picture(pixels=b"\x09" + b"\0" * 13),
        b"\x89PNG\r\n\x1a\n" + picture()[33:],
    ],
)
def test_what_is_no_picture_is_not_shown_as_one(hostile: bytes) -> None:
    with pytest.raises(png.NotAPicture):
        png.rewrite(hostile)
    told = output_recording.of_somebody({"image/png": base64.b64encode(hostile).decode()}, "f.agentkit")
    assert told == {"text/plain": "[agentkit] shown from f.agentkit\nnot shown: image/png"}


CELLS = (
    "%load_ext agentkit",
    """
from IPython.display import HTML, Javascript, display
from agentkit.testing import Call, ScriptedModel

def chart() -> str:
    \"\"\"Draw.\"\"\"
    display(HTML("<b>bars</b><script>document.title = 'taken'</script>"))
    display(Javascript("document.title = 'taken'"))
    return "drawn"

scripted = ScriptedModel([Call("chart", {}), "Drawn."])
""",
    "%%agent build artist --tools chart --model scripted\nYou draw.",
)


def draw(folder: Path, state: Path) -> list[dict[str, Any]]:
    with mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(state)}), kernel(folder) as shell:
        return [content["data"] for content in drawn(shell).shown if "agentkit" not in content["metadata"]]


def drawn(shell: Kernel) -> Any:
    for cell in CELLS:
        done = shell.run(cell)
        assert done.status == "ok", done.traceback
    done = shell.run("%%agent run artist\nDraw.")
    assert done.status == "ok", done.traceback
    return done


def test_a_replay_in_a_real_kernel_runs_nothing_that_was_recorded(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    live = draw(mine, tmp_path / "state of alice")
    assert any("application/javascript" in data for data in live)
    again = draw(mine, tmp_path / "state of alice")
    shutil.copytree(mine, theirs, ignore=lambda folder, names: [name for name in names if name.startswith("k-")])
    got = draw(theirs, tmp_path / "state of bob")
    for replayed in (again, got):
        assert "script" not in json.dumps([list(data) for data in replayed])
        assert "taken" not in json.dumps(replayed)
    assert {"text/html": "<b>bars</b>"}.items() <= again[0].items()
    assert got[0] == {"text/plain": "[agentkit] shown elsewhere\nbars"}
