"""`io.StringIO`: text in memory that is read and written like a file."""

from typing import Any


class StringIO:
    def __init__(self, initial_value: Any = "") -> None:
        self._text = initial_value or ""
        self._at = 0
        self.closed = False

    def _open(self) -> Any:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def read(self, size: Any = -1) -> Any:
        self._open()
        end = len(self._text) if size is None or size < 0 else self._at + size
        text = self._text[self._at : end]
        self._at += len(text)
        return text

    def readline(self, size: Any = -1) -> Any:
        self._open()
        found = self._text.find("\n", self._at)
        end = len(self._text) if found < 0 else found + 1
        if size is not None and size >= 0:
            end = min(end, self._at + size)
        text = self._text[self._at : end]
        self._at += len(text)
        return text

    def readlines(self) -> Any:
        lines = []
        line = self.readline()
        while line:
            lines.append(line)
            line = self.readline()
        return lines

    def write(self, s: Any) -> Any:
        self._open()
        if not isinstance(s, str):
            raise TypeError(f"string argument expected, got '{type(s).__name__}'")
        if not s:
            return 0
        before = self._text[: self._at]
        before += "\0" * (self._at - len(before))
        self._text = before + s + self._text[self._at + len(s) :]
        self._at += len(s)
        return len(s)

    def writelines(self, lines: Any) -> Any:
        for line in lines:
            self.write(line)

    def getvalue(self) -> Any:
        self._open()
        return self._text

    def tell(self) -> Any:
        self._open()
        return self._at

    def seek(self, cookie: Any, whence: Any = 0) -> Any:
        self._open()
        if whence == 0 and cookie < 0:
            raise ValueError(f"Negative seek position {cookie}")
        if whence != 0 and cookie != 0:
            raise OSError("Can't do nonzero cur-relative seeks")
        self._at = cookie if whence == 0 else self._at if whence == 1 else len(self._text)
        return self._at

    def truncate(self, pos: Any = None) -> Any:
        self._open()
        size = self._at if pos is None else pos
        if size < 0:
            raise ValueError(f"Negative size value {size}")
        self._text = self._text[:size]
        return size

    def close(self) -> Any:
        self.closed = True

    def flush(self) -> Any:
        self._open()

    def readable(self) -> Any:
        self._open()
        return True

    def writable(self) -> Any:
        self._open()
        return True

    def seekable(self) -> Any:
        self._open()
        return True

    def __iter__(self) -> Any:
        self._open()
        return self

    def __next__(self) -> Any:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def __enter__(self) -> Any:
        self._open()
        return self

    def __exit__(self, *exc: Any) -> Any:
        self.close()
