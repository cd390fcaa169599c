"""Who records: a secret of this user, kept outside every folder of records, and the signatures made with it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

VARIABLE: Final = "AGENTKIT_IDENTITY"
"""Names the file of the secret, where the user's folder for state does not outlive the process (containers)."""

SIGNATURE: Final = 16
"""Bytes of a signature."""

_BYTES: Final = 32
_DOMAIN: Final = b"agentkit record"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Identity:
    """Signs what is recorded here. `problem` says why what it signs is not known again by the next process."""

    secret: bytes
    problem: str = ""

    def sign(self, *pieces: bytes) -> bytes:
        """The signature of `pieces`, their number and their order."""
        told = b"".join([len(piece).to_bytes(4, "big") + piece for piece in pieces])
        # A tenth of the time that HMAC takes, and as much of a proof.
        return hashlib.blake2b(told, digest_size=SIGNATURE, key=self.secret, person=_DOMAIN).digest()

    def verify(self, signature: bytes, *pieces: bytes) -> bool:
        """Whether `signature` is this identity's, of these pieces."""
        return len(signature) == SIGNATURE and hmac.compare_digest(signature, self.sign(*pieces))

    @property
    def name(self) -> bytes:
        """What it is called in a journal; the secret cannot be told from it."""
        return self.sign(b"name")


def identity() -> Identity:
    """That of this user: $AGENTKIT_IDENTITY, else `agentkit/identity` in the user's folder for state."""
    given = os.environ.get(VARIABLE)
    state = os.environ.get("XDG_STATE_HOME")
    if given:
        path = Path(given).expanduser()
    elif state:
        path = Path(state).expanduser() / "agentkit" / "identity"
    else:
        try:
            path = Path.home() / ".local" / "state" / "agentkit" / "identity"
        except RuntimeError:
            return _temporary_identity("this user has no home folder")
    return _of(os.path.abspath(path))


# Read once: what was signed with it is still this process's when the file goes.
@lru_cache(maxsize=16)
def _of(path: str) -> Identity:
    try:
        return Identity(secret=_read(path) or _make_secret(path))
    except OSError as error:
        return _temporary_identity(f"{path}: {error.strerror or error}")


@lru_cache(maxsize=16)
def _temporary_identity(problem: str) -> Identity:
    return Identity(secret=secrets.token_bytes(_BYTES), problem=problem)


def _read(path: str) -> bytes | None:
    """The secret, if it is there and nobody else can have made or read it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as reading:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.getuid(), 0):
            raise OSError(0, "is not a file of this user")
        # What root put there for all processes of a container (a mounted secret) is for them to read.
        if found.st_mode & (0o022 if found.st_uid == 0 else 0o077):
            raise OSError(0, "is open to others: chmod 600, or remove it and adopt your journals anew")
        content = reading.read(2 * _BYTES + 1).strip()
    try:
        secret = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != _BYTES:
        raise OSError(0, "does not hold what agentkit wrote: remove it and adopt your journals anew")
    return secret


def _make_secret(path: str) -> bytes:
    """A new secret. It appears whole or not at all, and of two processes that are at it, both get the first one's."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    forming = f"{path}-{secrets.token_hex(8)}"
    file = os.open(forming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as writing:
            writing.write(secrets.token_bytes(_BYTES).hex().encode() + b"\n")
            writing.flush()
            # Lost by a power cut, everything signed with it would be a stranger's.
            os.fsync(file)
        with suppress(FileExistsError):
            os.link(forming, path)
    finally:
        os.unlink(forming)
    with suppress(OSError):
        _sync(folder)
    made = _read(path)
    if made is None:
        raise OSError(0, "was removed while it was made")
    return made


def _sync(folder: str) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
