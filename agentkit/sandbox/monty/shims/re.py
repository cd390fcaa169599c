"""`re` for Monty, whose patterns are Rust's: what means something else there is translated, or refused by name."""

import re as _re
from typing import Any

NOFLAG = 0
IGNORECASE = I = 2
MULTILINE = M = 8
DOTALL = S = 16
error = PatternError = _re.error
Match = _re.Match
_KNOWN_FLAGS = 2 | 8 | 16 | 32
_WORD = "\\p{L}\\p{N}_"
_SPACE = "\\s\\x1c-\\x1f"
_CLASSES = {"w": _WORD, "W": "[^" + _WORD + "]", "s": _SPACE, "S": "[^" + _SPACE + "]", "d": "\\d", "D": "\\D"}
_EDGE = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_END = "(?:$|\\Z)"
_PLAIN = "<>_'\" \n`@%,;:=!/"
_read: dict[Any, Any] = {}


class Pattern:
    def __init__(self, pattern: Any, flags: Any) -> None:
        if pattern not in _read:
            reader = _Reader(pattern)
            exact = reader.whole()
            _read[pattern] = (exact, exact.replace(_EDGE, "\\b").replace(_END, "$"), reader.empty_and_not)
        self.pattern = pattern
        self._exact, self._plain, self._varied = _read[pattern]
        self._flags = _flags(flags)
        self.flags = self._flags | 32

    def _text(self, string: Any) -> Any:
        # Without looking around it is matched in linear time, and means the same in plain text.
        return self._plain if string.isascii() and string[-1:] != "\n" else self._exact

    def search(self, string: Any) -> Any:
        return _re.search(self._text(string), string, self._flags)

    def match(self, string: Any) -> Any:
        return _re.match(self._text(string), string, self._flags)

    def fullmatch(self, string: Any) -> Any:
        return _re.fullmatch(self._text(string), string, self._flags)

    def finditer(self, string: Any) -> Any:
        return iter(self._matches(string))

    def findall(self, string: Any) -> Any:
        self._matches_each("findall")
        return _re.findall(self._text(string), string, self._flags)

    def split(self, string: Any, maxsplit: Any = 0) -> Any:
        self._matches_each("split")
        return _re.split(self._text(string), string, maxsplit, self._flags)

    def sub(self, repl: Any, string: Any, count: Any = 0) -> Any:
        self._matches_each("sub")
        if isinstance(repl, str):
            return _re.sub(self._text(string), _template(repl), string, count, self._flags)
        return self._replaced(repl, string, count)[0]

    def subn(self, repl: Any, string: Any, count: Any = 0) -> Any:
        if isinstance(repl, str):
            found = len(self._matches(string))
            return self.sub(repl, string, count), min(found, count) if count else found
        return self._replaced(repl, string, count)

    def _replaced(self, repl: Any, string: Any, count: Any) -> Any:
        pieces: list[Any] = []
        at = done = 0
        for match in self._matches(string):
            if count and done == count:
                break
            pieces.append(string[at : match.start()])
            pieces.append(repl(match))
            at = match.end()
            done += 1
        pieces.append(string[at:])
        return "".join(pieces), done

    def _matches(self, string: Any) -> Any:
        self._matches_each("finditer")
        return list(_re.finditer(self._text(string), string, self._flags))

    def _matches_each(self, name: Any) -> Any:
        if self._varied:
            raise ValueError(
                f"re.{name}: {self.pattern!r} can match nothing at all, where the sandbox would skip other places "
                "than Python does: write a pattern that matches at least one character, such as + for *"
            )


def compile(pattern: Any, flags: Any = 0) -> Any:
    if isinstance(pattern, Pattern):
        return pattern
    return Pattern(pattern, flags)


def search(pattern: Any, string: Any, flags: Any = 0) -> Any:
    return compile(pattern, flags).search(string)


def match(pattern: Any, string: Any, flags: Any = 0) -> Any:
    return compile(pattern, flags).match(string)


def fullmatch(pattern: Any, string: Any, flags: Any = 0) -> Any:
    return compile(pattern, flags).fullmatch(string)


def findall(pattern: Any, string: Any, flags: Any = 0) -> Any:
    return compile(pattern, flags).findall(string)


def finditer(pattern: Any, string: Any, flags: Any = 0) -> Any:
    return compile(pattern, flags).finditer(string)


def split(pattern: Any, string: Any, maxsplit: Any = 0, flags: Any = 0) -> Any:
    return compile(pattern, flags).split(string, maxsplit)


def sub(pattern: Any, repl: Any, string: Any, count: Any = 0, flags: Any = 0) -> Any:
    return compile(pattern, flags).sub(repl, string, count)


def subn(pattern: Any, repl: Any, string: Any, count: Any = 0, flags: Any = 0) -> Any:
    return compile(pattern, flags).subn(repl, string, count)


def escape(pattern: Any) -> Any:
    return _re.escape(pattern)


def _flags(flags: Any) -> Any:
    if flags & ~_KNOWN_FLAGS:
        raise ValueError("re: the sandbox has the flags IGNORECASE, MULTILINE and DOTALL only")
    return flags & ~32


def _template(repl: Any) -> Any:
    """A replacement as Rust takes it: only group references are left in it."""
    out: list[Any] = []
    at = 0
    while at < len(repl):
        char = repl[at]
        at += 1
        if char != "\\":
            out.append(char)
            continue
        if at == len(repl):
            raise error("bad escape (end of pattern)")
        char = repl[at]
        at += 1
        if char in "\\g" or (char in "123456789" and repl[at : at + 1] not in list("0123456789")):
            out.append("\\" + char)
        elif char in "ntrfvab":
            out.append("\n\t\r\f\v\a\b"["ntrfvab".index(char)])
        elif char.isalnum():
            raise ValueError(f"re: the sandbox does not have \\{char} in a replacement: use a function or \\g<1>")
        else:
            out.append("\\\\" + char)
    return "".join(out)


class _Reader:
    """Reads one pattern: its translation, and whether it `matches` nothing, or something, or either."""

    def __init__(self, pattern: Any) -> None:
        if not isinstance(pattern, str):
            raise ValueError(f"re: a pattern is text in the sandbox, not {type(pattern).__name__}")
        self._p = pattern
        self._at = 0
        self._looking = 0
        self._consumes = False
        self.empty_and_not = False

    def whole(self) -> Any:
        text, empty = self._either()
        if self._at < len(self._p):
            raise error("unbalanced parenthesis")
        self.empty_and_not = empty and self._consumes
        return text

    def _next(self, size: Any = 1) -> Any:
        return self._p[self._at : self._at + size]

    def _take(self, size: Any = 1) -> Any:
        text = self._p[self._at : self._at + size]
        self._at += size
        return text

    def _no(self, what: Any) -> Any:
        raise ValueError(f"re: the sandbox does not have {what}, in {self._p!r}: write it differently")

    def _either(self) -> Any:
        text, empty = self._sequence()
        while self._next() == "|":
            self._take()
            more, also = self._sequence()
            text, empty = text + "|" + more, empty or also
        return text, empty

    def _sequence(self) -> Any:
        texts: list[Any] = []
        empty = True
        while self._next() not in ("", "|", ")"):
            text, nothing = self._atom()
            times, least = self._times()
            texts.append(text + times)
            empty = empty and (nothing or least == 0)
        return "".join(texts), empty

    def _times(self) -> Any:
        char = self._next()
        if char not in ("*", "+", "?", "{"):
            return "", 1
        if char == "{":
            text, least = self._braces()
        else:
            text, least = self._take(), 1 if char == "+" else 0
        if text and self._next() in ("?", "+"):
            text += self._take()
        if text and self._next() in ("*", "?", "+"):
            raise error("multiple repeat")
        return text, least

    def _braces(self) -> Any:
        end = self._p.find("}", self._at)
        inside = self._p[self._at + 1 : end] if end >= 0 else ""
        low, comma, high = inside.partition(",")
        if not inside or not (low + high).isdecimal() or (not low and not comma):
            return "", 1  # A brace that stands for itself; the next atom.
        self._take(end + 1 - self._at)
        return "{" + (low or "0") + comma + high + "}", int(low or "0")

    def _atom(self) -> Any:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == "$":
            return _END, True
        if char == "^":
            return "^", True
        if char in ("*", "+", "?"):
            raise error("nothing to repeat")
        self._consumed()
        if char == "{" or char == "}":
            return "\\" + char, False
        return char, False

    def _consumed(self) -> Any:
        if not self._looking:
            self._consumes = True

    def _group(self) -> Any:
        start, looking = "(", False
        if self._next() == "?":
            start, looking = self._group_start()
            if start[-1] == ")":
                return start, True
        self._looking += 1 if looking else 0
        text, empty = self._either()
        self._looking -= 1 if looking else 0
        if self._take() != ")":
            raise error("missing ), unterminated subpattern")
        return start + text + ")", empty or looking

    def _group_start(self) -> Any:
        for start in ("?:", "?=", "?!", "?<=", "?<!", "?>"):
            if self._next(len(start)) == start:
                return "(" + self._take(len(start)), start not in ("?:", "?>")
        end = self._at
        while end < len(self._p) and self._p[end] not in (">", ":", ")"):
            end += 1
        text = self._take(end + 1 - self._at)
        if text[:3] == "?P<" and text[-1] == ">" and text[3:-1].isidentifier():
            return "(" + text, False
        if text[:3] == "?P=" and text[-1] == ")":
            return "(" + text, True
        if text[-1:] in (":", ")") and len(text) > 2 and all([flag in "ims" for flag in text[1:-1]]):
            if text[-1] == ")" and self._at != len(text) + 1:
                raise error("global flags not at the start of the expression")
            return "(" + text, False
        return self._no("(" + text)

    def _escape(self) -> Any:
        char = self._take()
        if char == "Z":
            return "\\z", True
        if char == "b":
            return _EDGE, True
        if char == "A":
            return "\\A", True
        if char != "" and char in "123456789":
            if self._next() != "" and self._next() in "0123456789":
                return self._no("\\" + char + self._next())
            return "\\" + char, True
        self._consumed()
        if char in ("w", "s"):
            return "[" + _CLASSES[char] + "]", False
        if char in _CLASSES:
            return _CLASSES[char], False
        return self._character(char), False

    def _character(self, char: Any) -> Any:
        """A character that is written with a backslash."""
        if char == "":
            raise error("bad escape (end of pattern)")
        if char in ("n", "t", "r", "f", "v", "a"):
            return "\\" + char
        if char in ("x", "u"):
            size = 2 if char == "x" else 4
            code = self._take(size)
            if len(code) != size or not all([one in "0123456789abcdefABCDEF" for one in code]):
                raise error("incomplete escape \\" + char + code)
            return "\\x{" + code + "}"
        if char.isalnum():
            return self._no("\\" + char)
        return char if char in _PLAIN else "\\" + char

    def _class(self) -> Any:
        self._consumed()
        out = ["["]
        if self._next() == "^":
            out.append(self._take())
        first = True
        while first or self._next() != "]":
            char = self._take()
            if char == "":
                raise error("unterminated character set")
            if char == "-" and self._next() == "-":
                return self._no("-- in a set")
            if char == "\\":
                char = self._take()
                if char == "b":
                    out.append("\\x08")
                else:
                    out.append(_CLASSES[char] if char in _CLASSES else self._character(char))
            else:
                out.append("\\" + char if char in "[]&~|^" else char)
            first = False
        self._take()
        return "".join(out) + "]", False
