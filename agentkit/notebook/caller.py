"""`%agent caller`: the process that ends the calls a kernel began, as a person sees and steers it."""

from __future__ import annotations

from agentkit.engine.calling import said, stopped
from agentkit.engine.session import Session
from agentkit.errors import UserError, nearest

WORDS = ("status", "stop", "on", "off")


def caller(session: Session, word: str) -> str:
    """Do what the word says; the line that tells of it."""
    calling = session.calling
    match word or "status":
        case "status":
            return f"caller off: {calling.off}" if calling.off else said(calling.ask("status"))
        case "stop":
            return stopped(calling.ask("stop"))
        case "on":
            calling.turn_on()
            return "caller on: started by the next live call; what it has begun is answered also when the kernel dies"
        case "off":
            calling.turn_off()
            return "caller off: this kernel makes its calls directly from now on"
        case _:
            raise UserError(f"%agent caller {word}: one of {', '.join(WORDS)}{nearest(word, WORDS)}")
