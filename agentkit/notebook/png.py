"""A PNG written anew: its pixels are unpacked and packed again, and nothing else of the file is kept.

The standard library can do that for this format alone, and it is what plots are shown as. Pictures of other formats
would need a decoder, which is the very code that a hostile picture is made for.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_KEPT: Final = (b"PLTE", b"tRNS", b"sRGB", b"gAMA", b"pHYs")
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SIDE: Final = 20_000
_BYTES: Final = 256 << 20


class NotAPicture(ValueError):
    """These bytes are not a PNG that can be written anew."""


def rewrite(picture: bytes) -> bytes:
    """The same picture in a file of our own making. Raises NotAPicture."""
    head: bytes | None = None
    kept: list[tuple[bytes, bytes]] = []
    packed: list[bytes] = []
    for name, content in _chunks(picture):
        if name == b"IHDR":
            head = content
        elif name == b"IDAT":
            packed.append(content)
        elif name in _KEPT and not packed and len(content) <= 768:
            kept.append((name, content))
    if head is None:
        raise NotAPicture("it has no header")
    pixels = _unpack(b"".join(packed), _size(head), lines=_lines(head))
    chunks = [(b"IHDR", head), *kept, (b"IDAT", zlib.compress(pixels, 6)), (b"IEND", b"")]
    return _MAGIC + b"".join(_chunk(name, content) for name, content in chunks)


def _chunks(picture: bytes) -> list[tuple[bytes, bytes]]:
    if not picture.startswith(_MAGIC):
        raise NotAPicture("it does not begin as a PNG")
    found: list[tuple[bytes, bytes]] = []
    at = len(_MAGIC)
    while at + 12 <= len(picture):
        length, name = struct.unpack_from(">I4s", picture, at)
        content = picture[at + 8 : at + 8 + length]
        check = picture[at + 8 + length : at + 12 + length]
        if len(check) != 4 or struct.unpack(">I", check)[0] != zlib.crc32(name + content):
            raise NotAPicture("a part of it does not match its checksum")
        if bool(found) == (name == b"IHDR"):
            raise NotAPicture("its header is not its first part")
        found.append((name, content))
        if name == b"IEND":
            return found
        at += 12 + length
    raise NotAPicture("it has no end")


def _lines(head: bytes) -> tuple[int, int]:
    """How many lines of pixels there are, and the bytes of each without its filter."""
    if len(head) != 13:
        raise NotAPicture("its header has another length")
    width, height, depth, colour, compression, filters, interlaced = struct.unpack(">IIBBBBB", head)
    if not (0 < width <= _SIDE and 0 < height <= _SIDE):
        raise NotAPicture(f"it is {width} by {height} pixels")
    if depth not in _DEPTHS.get(colour, ()) or compression or filters or interlaced:
        raise NotAPicture("its pixels are laid out in a way that plots are not")
    return height, (width * depth * _CHANNELS[colour] + 7) // 8


def _size(head: bytes) -> int:
    height, line = _lines(head)
    if height * (line + 1) > _BYTES:
        raise NotAPicture("it is too large")
    return height * (line + 1)


def _unpack(packed: bytes, size: int, *, lines: tuple[int, int]) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        pixels = unpacking.decompress(packed, size + 1)
    except zlib.error as error:
        raise NotAPicture(f"its pixels cannot be unpacked ({error})") from error
    if len(pixels) != size:
        raise NotAPicture("it has more or fewer pixels than it says")
    _, line = lines
    if any(each > 4 for each in pixels[:: line + 1]):
        raise NotAPicture("its pixels are filtered in a way that there is none")
    return pixels


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
