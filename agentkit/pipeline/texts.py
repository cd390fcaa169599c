"""How a text is written as Python source that can be read."""

from __future__ import annotations

WIDTH = 120


def literal(text: str) -> str:
    """A text as Python source that can be read: several lines in triple quotes where that says the same."""
    if "\n" in text and "\\" not in text and '"""' not in text and not text.endswith('"') and _plain(text):
        return f'"""{text}"""' if len(text.split("\n", 1)[0]) < WIDTH - 20 else f'"""\\\n{text}"""'
    return quoted(text)


def _plain(text: str) -> bool:
    return all(sign == "\n" or sign.isprintable() for sign in text) and not any(
        line != line.rstrip() for line in text.split("\n")
    )


def quoted(text: str) -> str:
    """In double quotes, as the formatter writes it."""
    shown = repr(text)
    if shown.startswith("'") and '"' not in text:
        return '"' + shown[1:-1].replace("\\'", "'") + '"'
    return shown
