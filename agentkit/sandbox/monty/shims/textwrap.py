"""`textwrap` for text whose words hold no hyphen: `dedent`, `indent`, `wrap`, `fill` and `shorten`."""

from typing import Any


def dedent(text: Any) -> Any:
    lines = [line if line.strip(" \t") else "" for line in text.split("\n")]
    margin = None
    for line in lines:
        if line:
            lead = line[: len(line) - len(line.lstrip(" \t"))]
            margin = lead if margin is None else _common(margin, lead)
    if not margin:
        return "\n".join(lines)
    return "\n".join([line[len(margin) :] for line in lines])


def _common(one: Any, other: Any) -> Any:
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return one[:size]


def indent(text: Any, prefix: Any, predicate: Any = None) -> Any:
    lines = []
    for line in text.splitlines(True):
        wanted = line.strip() if predicate is None else predicate(line)
        lines.append(prefix + line if wanted else line)
    return "".join(lines)


def wrap(
    text: Any,
    width: Any = 70,
    *,
    initial_indent: Any = "",
    subsequent_indent: Any = "",
    max_lines: Any = None,
    placeholder: Any = " [...]",
) -> Any:
    if width <= 0:
        raise ValueError(f"invalid width {width!r} (must be > 0)")
    if max_lines is not None:
        lead = subsequent_indent if max_lines > 1 else initial_indent
        if len(lead) + len(placeholder.lstrip()) > width:
            raise ValueError("placeholder too large for max width")
    chunks = _chunks(_flat(text))
    chunks.reverse()
    lines: list[Any] = []
    while chunks:
        lead = subsequent_indent if lines else initial_indent
        room = width - len(lead)
        if room < 1:
            raise ValueError("textwrap: the sandbox leaves no endless loop to an indent as wide as the line")
        if lines and not chunks[-1].strip():
            chunks.pop()
        line, size = _line(chunks, room)
        if line and not line[-1].strip():
            size -= len(line[-1])
            line.pop()
        if not line:
            continue
        more = chunks and not (len(chunks) == 1 and not chunks[0].strip())
        if max_lines is None or len(lines) + 1 < max_lines or (not more and size <= room):
            lines.append(lead + "".join(line))
            continue
        _cut(lines, line, (size, room, width, lead, placeholder))
        break
    return lines


def fill(text: Any, width: Any = 70, *, initial_indent: Any = "", subsequent_indent: Any = "") -> Any:
    return "\n".join(wrap(text, width, initial_indent=initial_indent, subsequent_indent=subsequent_indent))


def shorten(text: Any, width: Any, *, placeholder: Any = " [...]") -> Any:
    return "\n".join(wrap(" ".join(text.strip().split()), width, max_lines=1, placeholder=placeholder))


def _flat(text: Any) -> Any:
    if "-" in text:
        raise ValueError("textwrap breaks words at hyphens, which the sandbox cannot do exactly: replace '-' first")
    for space in "\n\v\f\r":
        text = text.expandtabs().replace(space, " ")
    return text


def _chunks(text: Any) -> Any:
    """Words and the spaces between them, in turn."""
    chunks: list[Any] = []
    for char in text:
        if chunks and (chunks[-1][-1] == " ") == (char == " "):
            chunks[-1] += char
        else:
            chunks.append(char)
    return chunks


def _line(chunks: Any, room: Any) -> Any:
    line: list[Any] = []
    size = 0
    while chunks and size + len(chunks[-1]) <= room:
        size += len(chunks[-1])
        line.append(chunks.pop())
    if chunks and len(chunks[-1]) > room:
        left = 1 if room < 1 else room - size
        line.append(chunks[-1][:left])
        chunks[-1] = chunks[-1][left:]
        size = sum([len(chunk) for chunk in line])
    return line, size


def _cut(lines: Any, line: Any, measures: Any) -> Any:
    size, room, width, lead, placeholder = measures
    while line:
        if line[-1].strip() and size + len(placeholder) <= room:
            line.append(placeholder)
            lines.append(lead + "".join(line))
            return
        size -= len(line[-1])
        line.pop()
    if lines:
        before = lines[-1].rstrip()
        if len(before) + len(placeholder) <= width:
            lines[-1] = before + placeholder
            return
    lines.append(lead + placeholder.lstrip())
