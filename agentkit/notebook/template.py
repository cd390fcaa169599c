"""`{{ expression }}` in a body: found, evaluated in the notebook, and put in as bounded text or as an image."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentkit.errors import SpecError, nearest
from agentkit.values.expressions import CHARACTERS, Hole, digest, shorten, split
from agentkit.values.registry import text as writable

ROWS = 20
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image a model can see."""

    data: bytes
    media_type: str


Part: TypeAlias = str | ImagePart


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The body with its expressions filled in: text and images in order, and remarks for the person."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


def render(template: str, names: Mapping[str, Any], *, first_line: int = 1) -> Rendered:
    """Fill `template` in from `names`; `{{{{` stands for two braces. SpecError names expression and line."""
    parts: list[Part] = []
    notes: list[str] = []
    for piece in split(template, first_line):
        if isinstance(piece, str):
            parts.append(piece)
            continue
        value = _evaluate(piece, names)
        image = as_image(value)
        if image is not None:
            parts.append(image)
            continue
        text, note = as_text(value)
        parts.append(text)
        notes += [f"{{{{ {piece.source} }}}}: {note}"] if note else []
    return Rendered(parts=tuple(_join_parts(parts)), notes=tuple(notes))


def holes(template: str) -> tuple[str, ...]:
    """The expressions in `template`, as they are written."""
    return tuple(piece.source for piece in split(template, 1) if isinstance(piece, Hole))


def fill(template: str, values: Mapping[str, Any], *, strip: bool = True) -> str | list[Any]:
    """`template` with the value of each expression by its source: the prompt that the notebook would send.

    `strip` takes the blanks from both ends of a text, as a prompt has none there.
    """
    parts: list[Part] = []
    for piece in split(template, 1):
        value = piece if isinstance(piece, str) else values[piece.source]
        image = None if isinstance(piece, str) else as_image(value)
        parts.append(image or (piece if isinstance(piece, str) else as_text(value)[0]))
    joined = list(_join_parts(parts))
    if all(isinstance(part, str) for part in joined):
        text = "".join(map(str, joined))
        return text.strip() if strip else text
    # Imported here: text alone needs no model's library.
    from pydantic_ai import BinaryContent

    return [part if isinstance(part, str) else BinaryContent(part.data, media_type=part.media_type) for part in joined]


def _join_parts(parts: list[Part]) -> Iterator[Part]:
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text


def _evaluate(hole: Hole, names: Mapping[str, Any]) -> Any:
    where = f"line {hole.line}: {{{{ {hole.source} }}}}"
    try:
        # The person's own cell in the person's own kernel: the expression may do whatever the next cell may do.
        return eval(compile(hole.source, "<{{ }}>", "eval"), {**names})
    except NameError as error:
        name = error.name or hole.source
        raise SpecError(f"{where}: {name} is not defined in the notebook{nearest(name, _visible(names))}") from error
    except Exception as error:
        raise SpecError(f"{where}: {type(error).__name__}: {error}") from error


def _visible(names: Mapping[str, Any]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def as_text(value: Any) -> tuple[str, str]:
    """A value as a model reads it, and a remark where less than all of it is sent."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        return _table(value)
    text = writable(value if isinstance(value, str) else _plain(value))
    if len(text) > CHARACTERS:
        return shorten(text), f"only the first {CHARACTERS:,} of {len(text):,} characters are sent"
    if _ADDRESS.search(text):
        return text, "its text holds a memory address, which differs in every kernel: this prompt will not replay"
    return text, ""


def _plain(value: Any) -> str:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        return str(value)
    shown: str = numpy.array2string(value, threshold=1000, separator=", ")
    if value.size <= 1000:
        return shown
    return f"{shown}\n[shape {value.shape}, shortened; digest {digest(value.tobytes())}]"


def _table(frame: Any) -> tuple[str, str]:
    """CSV, bounded; the digest makes a prompt with other data another prompt, whichever rows are sent."""
    rows = len(frame)
    text = writable(frame.head(ROWS).to_csv(lineterminator="\n").rstrip("\n"))
    if rows > ROWS:
        whole = writable(frame.to_csv(lineterminator="\n"))
        text += f"\n[the first {ROWS} of {rows:,} rows; digest {digest(whole.encode())}]"
    if len(text) > CHARACTERS:
        text = f"{text[:CHARACTERS]}\n[cut at {CHARACTERS:,} characters; digest {digest(text.encode())}]"
        return text, f"only the first {CHARACTERS:,} characters of {rows:,} rows are sent"
    return text, f"only the first {ROWS} of {rows:,} rows are sent" if rows > ROWS else ""


def as_image(value: Any) -> ImagePart | None:
    """A figure or picture as PNG (or what it is), else None."""
    module = type(value).__module__.partition(".")[0]
    data = getattr(value, "data", None)
    if module == "IPython" and type(value).__name__ == "Image" and isinstance(data, bytes):
        return ImagePart(data, f"image/{getattr(value, 'format', 'png')}")
    media_type = str(getattr(value, "media_type", ""))
    if module == "pydantic_ai" and isinstance(data, bytes) and media_type.startswith("image/"):
        return ImagePart(data, media_type)
    if module == "PIL" and hasattr(value, "save"):
        return ImagePart(_save_image(value.save, format="PNG"), "image/png")
    if hasattr(value, "savefig"):
        return ImagePart(_save_image(value.savefig, format="png", metadata={"Software": None}), "image/png")
    return None


def _save_image(save: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    save(file, **options)
    return file.getvalue()
