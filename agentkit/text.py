"""Text from outside as a person may see it: what steers a screen, hides, or passes for something else is visible."""

from __future__ import annotations

import re
import unicodedata

# Terminal escapes, direction overrides, line and paragraph separators and half surrogates: none may reach a screen.
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff\ufeff]")
# What a screen does not show, or shows in another order than it is.
_HIDDEN = re.compile(
    "[\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef]|(?<=[\ufe0e\ufe0f])[\ufe0e\ufe0f]"
)
# Letters drawn as Latin ones: of the confusables of Unicode TR 39, those of the alphabets that Latin is mixed with.
_CYRILLIC = "аеорсухѕіјһԁԛԝґѵһАВЕЅІЈКМНОРСТУХҮԌԚԜ"
_GREEK = "οινυχρκαγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"
_LOOKALIKE = frozenset(_CYRILLIC + _GREEK)
_WORD = re.compile(r"[^\W_]+")


def visible(text: str) -> str:
    """Return all of `text` with its lines and tabs, other control characters made visible."""
    return _STEERS.sub(lambda match: match[0] if match[0] in "\n\t" else _sign(match), text)


def visible_line(text: str) -> str:
    """Return `text` with every control character made visible."""
    return _STEERS.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def reveal(text: str) -> str:
    """Return `text` with escapes for what hides in it or passes for something else, as JSON writes them.

    A letter of another alphabet that is drawn as a Latin one is written as an escape where it stands among Latin
    letters, or where nothing else around it is of its own alphabet. Text in one alphabet stays as it is.
    """
    if text.isascii() and "\x7f" not in text:
        return text
    own = {alphabet for char in text if char not in _LOOKALIKE and (alphabet := _alphabet(char)) is not None}
    return _WORD.sub(lambda word: _as_escapes(word[0], own), _HIDDEN.sub(lambda found: _escape(found[0]), text))


def _as_escapes(word: str, own: set[str]) -> str:
    if word.isascii():
        return word
    latin = any(_alphabet(char) == "LATIN" for char in word)
    shown = ""
    for char in word:
        copies_ascii = not char.isascii() and unicodedata.normalize("NFKC", char).isascii() and char.isalpha()
        passes = char in _LOOKALIKE and (latin or _alphabet(char) not in own)
        shown += _escape(char) if copies_ascii or passes else char
    return shown


def _alphabet(char: str) -> str | None:
    """Return LATIN, CYRILLIC or GREEK; None for anything else."""
    name = unicodedata.name(char, "").partition(" ")[0]
    return name if name in ("LATIN", "CYRILLIC", "GREEK") else None


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
