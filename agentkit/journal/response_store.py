"""Raw answers that have arrived and are not recorded yet: one small file each, which a kill cannot take back."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from agentkit.journal.owner import since_boot
from agentkit.journal.records import Row

_SUM = hashlib.sha256().digest_size
_WAITING = "waiting"
_AGAIN = "again"


class PendingResponses:
    """The raw answers that one step received."""

    def __init__(self, folder: Path, name: str, *, journal: Callable[[], str], clean: Callable[[str], bool]) -> None:
        self._folder = folder
        self._name = name
        self._journal = journal
        self._clean = clean
        self._held: list[Path] = []
        self._asked = 0
        self._open = 0
        self._refusals = 0
        self._waits = False
        self._rejoined = False
        self._again = False
        self.lost = False

    @property
    def answered(self) -> bool:
        """Whether all that the step needed had arrived in an earlier life."""
        return bool(self._held or self._rejoined) and self._asked == 0

    @property
    def lost_and_asked_again(self) -> bool:
        """In this life or in an earlier one, whose end may have come before the answer to what was asked again."""
        return self._again or self._mark(_AGAIN).exists()

    def find(self, request: bytes) -> bytes | None:
        """The answer to this very request that arrived before; a half-written one is as good as none."""
        file = self._file(request)
        answer = read_answer(file)
        if answer is not None:
            self._held.append(file)
        return answer

    def wait(self) -> None:
        """It is on disk now that no request has left, until one does."""
        self._waits = True
        # Where it cannot be written the step is only listed as possibly paid twice when it need not be.
        self._set(_WAITING)

    def mark_request(self) -> None:
        self._asked += 1
        self._open += 1
        if self.lost:
            self._again = True
            self._set(_AGAIN)

    def mark_join(self) -> None:
        """What was asked turned out to be under way since an earlier life: nothing is paid for again."""
        self._asked -= 1
        self._rejoined = True

    def mark_refusal(self) -> None:
        """The server did not do what was asked last. When it was asked nothing else, it is as if nothing had left."""
        self._open -= 1
        self._refusals += 1
        if self._open == 0 and self._waits:
            self.wait()

    def leaves(self) -> None:
        """A request leaves: from now on it may be paid for."""
        self._mark(_WAITING).unlink(missing_ok=True)

    def once(self, request: bytes) -> str:
        """What this request is called at its server in every life of this step, and nothing else ever is.

        After a refusal it is called otherwise, because a server may have kept the refusal under the name.
        """
        name = f"{self._journal()}.{self._name}.{request.hex()}.{self._refusals}"
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    def where(self, request: bytes) -> Path:
        return self._file(request)

    def lose(self) -> None:
        """The connection broke: the server may have done its work, and charge for it, all the same."""
        self.lost = True

    def keep(self, request: bytes, answer: bytes) -> None:
        """Not synced: it shall survive the death of the process, and a power cut finds a checksum that is wrong."""
        if not self._clean(answer.decode("utf-8", "replace")):
            # It repeats a secret: nothing is written that holds one.
            return
        file = self._file(request)
        self._held.append(file)
        if read_answer(file) != answer:
            write_answer(file, answer)

    def drop(self) -> None:
        """The step is recorded, or its answer could not be used."""
        marks = [self._mark(_WAITING)] if self._waits else []
        for file in (*self._held, *marks, self._mark(_AGAIN)):
            with suppress(OSError):
                file.unlink(missing_ok=True)
        self._held.clear()

    def _set(self, mark: str) -> None:
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(self._mark(mark), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _mark(self, mark: str) -> Path:
        return self._folder / f"{self._name}.{mark}"

    def _file(self, request: bytes) -> Path:
        return self._folder / f"{self._name}.{request.hex()[:32]}"


class ResponseStore:
    """Beside the journal: a pigeonhole for each step that is being performed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, row: Row, *, clean: Callable[[str], bool]) -> PendingResponses:
        """`clean` says whether a text may be written: whether it is free of secrets."""
        return PendingResponses(self._folder, _name(row), journal=lambda: self._journal, clean=clean)

    @cached_property
    def _journal(self) -> str:
        """A random name of this journal, made when it is first needed: equal steps of other journals are not these."""
        file = self._folder.with_name("name")
        if not file.exists():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            forming = file.with_name(f"name-{secrets.token_hex(8)}")
            forming.write_text(secrets.token_hex(16))
            forming.chmod(0o600)
            # Of two that are at it at the same moment, the first makes it.
            with suppress(FileExistsError):
                os.link(forming, file)
            forming.unlink()
        return file.read_text()

    def is_unsent(self, row: Row) -> bool:
        """Whether no request of this step has left; false where a power cut may have brought its mark back."""
        return since_boot(row.owner) and (self._folder / f"{_name(row)}.{_WAITING}").exists()

    def clear(self) -> None:
        """Remove everything: what lies in a folder that came from elsewhere has not arrived here."""
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)

    def sweep(self, find: Callable[[bytes, int], Row | None]) -> None:
        """Remove what no step waits for: it was recorded, forgotten or erased since."""
        if not self._folder.is_dir():
            return
        for file in self._folder.iterdir():
            key, n, gen, _ = file.name.split(".")
            row = find(bytes.fromhex(key), int(n))
            if row is None or row.gen != int(gen) or row.status not in ("started", "cancelled"):
                file.unlink(missing_ok=True)


def _name(row: Row) -> str:
    return f"{row.key.hex()}.{row.n}.{row.gen}"


def leaves(answer: Path) -> None:
    """The request leaves whose answer would be kept in the file `answer`."""
    answer.with_name(f"{answer.name.rpartition('.')[0]}.{_WAITING}").unlink(missing_ok=True)


def write_answer(file: Path, answer: bytes) -> bool:
    """Keep one raw answer; False when the disk would not. Not even the folder above the inbox is made anew."""
    # A full disk is reported by the journal, whose record of this answer has room set aside.
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "wb") as writing:
            writing.write(hashlib.sha256(answer).digest() + answer)
    except OSError:
        return False
    return True


def read_answer(file: Path) -> bytes | None:
    """What was kept there; a half-written one is as good as none."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    return content[_SUM:] if hashlib.sha256(content[_SUM:]).digest() == content[:_SUM] else None
