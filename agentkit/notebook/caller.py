"""`%agent caller`: the process that ends the calls a kernel began, as a person sees and steers it."""

from __future__ import annotations

from agentkit.engine.calling import said, stopped
from agentkit.engine.session import Session
from agentkit.errors import UserError, nearest
from agentkit.notebook.grammar import VERBS

WORDS = VERBS["caller"].one_of


def caller(session: Session, word: str) -> str:
    """Do what the word says; the line that tells of it."""
    calling = session.calling
    match word or "status":
        case "status":
            if calling.off:
                return f"caller off: {calling.off}"
            state = calling.ask("status")
            return said(state) if state else "caller on: no caller is running; the next live call starts it"
        case "stop":
            return stopped(calling.ask("stop"))
        case "on":
            calling.turn_on()
            if calling.off:
                return f"caller off: {calling.off}"
            return "caller on: started by the next live call; what it has begun is answered also when the kernel dies"
        case "off":
            calling.turn_off()
            return "caller off: this kernel makes its calls directly from now on"
        case _:
            raise UserError(f"%agent caller {word}: one of {', '.join(WORDS)}{nearest(word, WORDS)}")
