"""A portable journal that came with a notebook: taken into the journal, and held to."""

from __future__ import annotations

from pathlib import Path

from agentkit.journal import portable
from agentkit.journal.portable import Attached
from agentkit.journal.provenance import origin
from agentkit.runtime.session import Session


def attach_beside(session: Session, notebook: Path) -> str | None:
    """Take in the file that lies beside `notebook` under its name, if it holds anything new; what to say of it."""
    file = notebook.with_suffix(portable.SUFFIX)
    if not file.is_file():
        return None
    added = portable.attach(file, session.store)
    if not added.steps:
        return None
    return f"{file.name}: {describe_attachment(added)}; {describe_mode(session)}"


def take(session: Session, file: Path) -> Attached:
    """Take in `file` and answer from the record alone from now on."""
    added = portable.attach(file, session.store)
    session.mode = "replay"
    return added


def describe_attachment(added: Attached) -> str:
    steps = f"{added.steps} step{'' if added.steps == 1 else 's'}"
    runs = f"{added.runs} run{'' if added.runs == 1 else 's'}"
    return f"{steps} of {runs} added, {added.known} known already"


def describe_mode(session: Session) -> str:
    return f"mode {session.mode}: nothing is performed (%agent mode auto goes live)"


def explain_mode(session: Session) -> str:
    """Why the session only replays, where that is because of where its records come from."""
    if session.mode != "replay" or not session.store.replay_only_reason:
        return ""
    return f", records {origin(session.store.replay_only_reason)} (%agent mode auto goes live)"
